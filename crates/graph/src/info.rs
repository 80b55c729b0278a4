//! Small text files that say what a directory of ours is: a first line with its kind and
//! version, then one `key value` a line.

use std::os::fd::BorrowedFd;

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};
use unlade_unpack::{Error, Kind, Result};

use crate::{
    driver::{LayerId, Usage},
    layout::Place,
};

/// Name of the file.
pub(crate) const FILE: &str = "info";
const LAYER: &str = "unlade-layer 1";
const SNAPSHOT: &str = "unlade-snapshot 1";
/// No file of ours is larger.
const MOST_BYTES: u64 = 1 << 20;

/// What is kept of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Layer {
    pub(crate) usage: Usage,
    /// It has an entry for the root directory.
    pub(crate) lists_root: bool,
    /// Its tree was made to fit the layers below.
    pub(crate) depends: bool,
    /// How many layers are below it in its tree.
    pub(crate) below: usize,
}

/// What is kept of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Snapshot {
    /// Lowest first.
    pub(crate) layers: Vec<LayerId>,
    /// SELinux label for the mount.
    pub(crate) label: Option<String>,
    /// See [`crate::driver::RwOptions::ephemeral`].
    pub(crate) ephemeral: bool,
}

impl Layer {
    pub(crate) fn write(&self, place: &Place) -> Result<()> {
        let Self {
            usage,
            lists_root,
            depends,
            below,
        } = self;
        let text = format!(
            "{LAYER}\nbytes {}\ninodes {}\nlists-root {lists_root}\ndepends {depends}\nbelow {below}\n",
            usage.bytes, usage.inodes
        );
        place.write(FILE, text.as_bytes())
    }

    /// Reads that of the layer in `dir`.
    pub(crate) fn read(dir: BorrowedFd<'_>, id: &LayerId) -> Result<Self> {
        let what = || format!("the layer `{id}`");
        let text = read(dir, &what)?;
        let parse = || {
            let mut this = Self::default();
            for (key, value) in lines(&text, LAYER)? {
                match key {
                    "bytes" => this.usage.bytes = value.parse().ok()?,
                    "inodes" => this.usage.inodes = value.parse().ok()?,
                    "lists-root" => this.lists_root = value.parse().ok()?,
                    "depends" => this.depends = value.parse().ok()?,
                    "below" => this.below = value.parse().ok()?,
                    _ => {}
                }
            }
            Some(this)
        };
        parse().ok_or_else(|| damaged(&what()))
    }
}

impl Snapshot {
    pub(crate) fn write(&self, place: &Place) -> Result<()> {
        let mut text = format!("{SNAPSHOT}\n");
        for layer in &self.layers {
            text.push_str(&format!("layer {layer}\n"));
        }
        if let Some(label) = &self.label {
            if label.contains(['\n', '"', '\0']) {
                let message = format!("`{}` is no SELinux label", label.escape_debug());
                return Err(Error::new(Kind::BadInput, message));
            }
            text.push_str(&format!("label {label}\n"));
        }
        if self.ephemeral {
            text.push_str("ephemeral true\n");
        }
        place.write(FILE, text.as_bytes())
    }

    /// Reads that of the snapshot in `dir`.
    pub(crate) fn read(dir: BorrowedFd<'_>, id: &str) -> Result<Self> {
        let what = || format!("the snapshot `{id}`");
        let text = read(dir, &what)?;
        let parse = || {
            let mut this = Self::default();
            for (key, value) in lines(&text, SNAPSHOT)? {
                match key {
                    "layer" => this.layers.push(LayerId::parse(value)?),
                    "label" => this.label = Some(value.to_owned()),
                    "ephemeral" => this.ephemeral = value.parse().ok()?,
                    _ => {}
                }
            }
            Some(this)
        };
        parse().ok_or_else(|| damaged(&what()))
    }
}

fn lines<'a>(text: &'a str, head: &str) -> Option<Vec<(&'a str, &'a str)>> {
    // A cut file does not end so.
    let body = text.strip_suffix('\n')?;
    let mut lines = body.split('\n');
    if lines.next()? != head {
        return None;
    }
    lines.map(|line| line.split_once(' ')).collect()
}

fn read(dir: BorrowedFd<'_>, what: &dyn Fn() -> String) -> Result<String> {
    use std::io::Read;
    let host = |e: std::io::Error| Error::host(format!("read about {}", what()), e);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match openat(dir, FILE, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Err(damaged(&what())),
        done => done.map_err(|e| host(e.into()))?,
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::from(fd);
    file.take(MOST_BYTES)
        .read_to_end(&mut bytes)
        .map_err(host)?;
    String::from_utf8(bytes).map_err(|_| damaged(&what()))
}

/// For what is there but not as it was made.
pub(crate) fn damaged(what: &str) -> Error {
    Error::new(Kind::Integrity, format!("{what} is damaged"))
        .with_hint("`unlade system check --repair` fetches again what is broken")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let id = LayerId::parse(&format!("sha256-{}", "a".repeat(64))).unwrap();
        let layer = Layer {
            usage: Usage {
                bytes: 5,
                inodes: 7,
            },
            lists_root: true,
            depends: false,
            below: 3,
        };
        let place = layout.stage().unwrap();
        layer.write(&place).unwrap();
        assert_eq!(Layer::read(place.fd(), &id).unwrap(), layer);
        let e = Snapshot::read(place.fd(), "x").unwrap_err();
        assert_eq!(e.kind(), Kind::Integrity);

        let mut snapshot = Snapshot {
            layers: vec![id.clone(), id],
            label: Some("system_u:object_r:container_file_t:s0:c1,c2".into()),
            ephemeral: true,
        };
        let place = layout.stage().unwrap();
        snapshot.write(&place).unwrap();
        assert_eq!(Snapshot::read(place.fd(), "x").unwrap(), snapshot);
        snapshot.label = Some("a\nlayer b".into());
        assert!(snapshot.write(&layout.stage().unwrap()).is_err());
        let place = layout.stage().unwrap();
        place
            .write(FILE, b"unlade-snapshot 1\nlayer sha256-aaaa")
            .unwrap();
        assert!(Snapshot::read(place.fd(), "x").is_err());
    }
}
