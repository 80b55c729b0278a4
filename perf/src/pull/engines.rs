//! Who pulls, on what, and how each is set up.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::fs::FsKind;
use crate::oci::Compression;
use crate::pull::session::Session;

/// A program and the way it is called.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    /// Name in reports.
    pub(crate) name: String,
    kind: Kind,
}

/// How it is called.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// A build of ours.
    Unlade {
        /// The program.
        binary: PathBuf,
        /// `--graph-driver`.
        driver: &'static str,
        /// Whether compressed blobs are kept.
        blobs: bool,
    },
    /// With defaults, or as fast as its version can be made.
    Containerd {
        /// Whether tuned.
        tuned: bool,
    },
    /// podman.
    Podman,
    /// skopeo, then umoci.
    SkopeoUmoci,
    /// dockerd.
    Dockerd,
}

/// Everyone by name, in the order of reports.
pub(crate) const ALL: [&str; 11] = [
    "unlade-overlay",
    "unlade-erofs",
    "unlade-btrfs",
    "unlade-reflink",
    "unlade-copy",
    "unlade-noblobs",
    "containerd",
    "containerd-tuned",
    "podman",
    "skopeo-umoci",
    "dockerd",
];

impl Engine {
    /// Looks one up by name.
    pub(crate) fn named(name: &str, unlade: &Path) -> Result<Self> {
        let ours = |driver, blobs| Kind::Unlade {
            binary: unlade.to_owned(),
            driver,
            blobs,
        };
        let kind = match name {
            "unlade-overlay" => ours("overlay", true),
            "unlade-erofs" => ours("erofs", true),
            "unlade-btrfs" => ours("btrfs", true),
            "unlade-reflink" => ours("reflink", true),
            "unlade-copy" => ours("copy", true),
            "unlade-noblobs" => ours("overlay", false),
            "containerd" => Kind::Containerd { tuned: false },
            "containerd-tuned" => Kind::Containerd { tuned: true },
            "podman" => Kind::Podman,
            "skopeo-umoci" => Kind::SkopeoUmoci,
            "dockerd" => Kind::Dockerd,
            other => bail!(
                "no contestant called {other:?}; there are: {}",
                ALL.join(" ")
            ),
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
        })
    }

    /// Whether it is one of ours.
    pub(crate) fn is_unlade(&self) -> bool {
        matches!(self.kind, Kind::Unlade { .. })
    }

    /// Whether a second image finds the layers of the first.
    pub(crate) fn has_store(&self) -> bool {
        !matches!(self.kind, Kind::SkopeoUmoci)
    }

    /// How it is set up, and what it cannot do.
    pub(crate) fn note(&self) -> String {
        match &self.kind {
            Kind::Unlade { driver, blobs, .. } => format!(
                "graph driver {driver}, {}, durability as by default",
                if *blobs {
                    "blobs kept"
                } else {
                    "keep-blobs = never"
                }
            ),
            Kind::Containerd { tuned: false } => "ctr images pull, overlayfs snapshotter, \
                default settings, gzip by its own decoder (CONTAINERD_DISABLE_PIGZ=1)"
                .to_owned(),
            Kind::Containerd { tuned: true } => "as containerd, with 6 downloads at a time, and \
                igzip (else pigz) in PATH under the one name it looks for, unpigz; 1.6, as \
                Debian 12 has it, knows neither parallel unpack nor ranged fetch nor the erofs \
                snapshotter"
                .to_owned(),
            Kind::Podman => "overlay driver, no daemon, TMPDIR on the same file system".to_owned(),
            Kind::SkopeoUmoci => {
                "skopeo copies to an OCI layout, umoci unpacks that; no store".to_owned()
            }
            Kind::Dockerd => "overlay2, its own containerd, no bridge".to_owned(),
        }
    }

    /// Why it cannot take part, if it cannot.
    pub(crate) fn obstacle(&self, compression: Compression, fs: FsKind) -> Option<String> {
        let zstd = compression == Compression::Zstd;
        let (programs, unfit): (&[&str], _) = match &self.kind {
            Kind::Unlade { binary, driver, .. } => {
                let fits = match *driver {
                    "btrfs" => fs == FsKind::Btrfs,
                    "reflink" => matches!(fs, FsKind::Xfs | FsKind::Btrfs),
                    _ => true,
                };
                if fits && !binary.is_file() {
                    return Some(format!("{} is not there", binary.display()));
                }
                (&[], (!fits).then(|| format!("not on {}", fs.name())))
            }
            Kind::Containerd { tuned: false } => (&["containerd", "ctr"], None),
            Kind::Containerd { tuned: true } => (
                &["containerd", "ctr", "unpigz"],
                zstd.then(|| "nothing to tune: zstd is decoded in the daemon".to_owned()),
            ),
            Kind::Podman => (&["podman"], None),
            Kind::SkopeoUmoci => (
                &["skopeo", "umoci"],
                zstd.then(|| "umoci 0.4 knows no zstd".to_owned()),
            ),
            Kind::Dockerd => (
                &["dockerd", "docker", "containerd"],
                zstd.then(|| "dockerd before 23 knows no zstd".to_owned()),
            ),
        };
        let missing = |program: &&&str| Command::new(program).arg("--version").output().is_err();
        unfit.or_else(|| Some(format!("{} is not there", programs.iter().find(missing)?)))
    }

    /// Starts what it needs: its store in `store`, everything else in `scratch`, both empty.
    pub(crate) fn start(&self, store: &Path, scratch: &Path) -> Result<Session> {
        Session::start(self.kind.clone(), store, scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Engine {
        Engine::named(name, Path::new("/u")).unwrap()
    }

    #[test]
    fn every_name_is_known() {
        for name in ALL {
            assert_eq!(named(name).name, name);
            assert!(!named(name).note().is_empty());
        }
        assert!(Engine::named("rkt", Path::new("/u")).is_err());
    }

    #[test]
    fn drivers_take_part_only_where_they_can() {
        let unfit = |name: &str, fs| {
            let obstacle = named(name).obstacle(Compression::Gzip, fs);
            obstacle.is_some_and(|reason| reason.starts_with("not on"))
        };
        assert!(unfit("unlade-btrfs", FsKind::Xfs) && !unfit("unlade-btrfs", FsKind::Btrfs));
        assert!(unfit("unlade-reflink", FsKind::Ext4) && !unfit("unlade-reflink", FsKind::Xfs));
        assert!(!unfit("unlade-erofs", FsKind::Ext4));
    }
}
