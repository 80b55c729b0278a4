//! Images over chains of layers: made when one is asked for, kept, checked after a new boot.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Seek},
    os::fd::OwnedFd,
    sync::Arc,
};

use rustix::fs::renameat;
use unlade_unpack::{Algorithm, Digest, Error, Limits, Result, entry::Entry};

use super::{
    layer::{self, Recent},
    open_file,
    way::{self, Way},
};
use crate::{
    driver::{Finding, LayerId},
    erofs::{build, tree::Source},
    info,
    layout::{Layout, Place, Shelf},
    verify,
};

const ABOUT: &str = "about";
const LAYERS: &str = "layers";
/// Changes whenever the same layers give other bytes than before.
const FORMAT: &str = "unlade-erofs 1";

/// The images of a driver.
#[derive(Debug)]
pub(super) struct Images<'a> {
    pub(super) layout: &'a Layout,
    pub(super) recent: &'a Recent,
    pub(super) way: Way,
}

/// A layer's files, opened.
struct Opened {
    tar: File,
    spill: Option<File>,
    entries: Option<Arc<[Entry]>>,
    tag: [u8; 64],
}

impl Opened {
    fn layer(&self) -> build::Layer<'_> {
        build::Layer {
            tar: &self.tar,
            spill: self.spill.as_ref(),
            entries: self.entries.as_deref(),
            tag: self.tag,
        }
    }
}

impl Images<'_> {
    fn file(&self) -> &'static str {
        match self.way {
            Way::Index => "index.erofs",
            Way::Full | Way::Loop => "full.erofs",
        }
    }

    /// The name of the image over these layers.
    fn name(&self, layers: &[LayerId]) -> String {
        let mut text = format!("{FORMAT}\n{}\n", self.file());
        for layer in layers {
            text.push_str(layer.as_str());
            text.push('\n');
        }
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        LayerId::of(&digest).as_str().to_owned()
    }

    fn open(&self, layers: &[LayerId]) -> Result<Vec<Opened>> {
        let one = |id: &LayerId| {
            let dir = self.layout.get(Shelf::Layers, id.as_str())?;
            let mut tag = [0; 64];
            let hex = id
                .as_str()
                .rsplit('-')
                .next()
                .unwrap_or_default()
                .as_bytes();
            let n = hex.len().min(tag.len());
            tag[..n].copy_from_slice(&hex[..n]);
            Ok(Opened {
                tar: layer::open(&dir, layer::TAR, id)?,
                spill: open_file(&dir, layer::SPILL)?,
                entries: None,
                tag,
            })
        };
        layers.iter().map(one).collect()
    }

    /// The image over these layers; it is made if it is not there or damaged.
    pub(super) fn get(&self, layers: &[LayerId]) -> Result<Image> {
        for layer in layers {
            self.layout.get(Shelf::Layers, layer.as_str())?;
        }
        let name = self.name(layers);
        loop {
            if let Some(dir) = self.layout.find(Shelf::Images, &name)? {
                if let Some(image) = self.check(&dir)? {
                    return Ok(image);
                }
                tracing::warn!(image = name, "an image was damaged and is made anew");
                self.layout.discard(Shelf::Images, &name)?;
            }
            let place = self.make(layers)?;
            place.publish(Shelf::Images, &name)?;
        }
    }

    /// Makes an image in a place of its own.
    fn make(&self, layers: &[LayerId]) -> Result<Place> {
        let mut opened = self.open(layers)?;
        for (layer, id) in opened.iter_mut().zip(layers) {
            layer.entries = self.recent.take(id);
        }
        let place = self.layout.stage()?;
        let file = place.file(self.file())?;
        let devices = self.write(&opened, &file)?;
        place.write(ABOUT, About::of(&file, devices)?.text().as_bytes())?;
        let list: Vec<&str> = layers.iter().map(LayerId::as_str).collect();
        place.write(LAYERS, list.join("\n").as_bytes())?;
        Ok(place)
    }

    /// Writes the image; returns its devices.
    fn write(&self, opened: &[Opened], out: &File) -> Result<Vec<Source>> {
        let layers: Vec<build::Layer<'_>> = opened.iter().map(Opened::layer).collect();
        // The layers were accepted under limits that may have been wider than today's.
        let tree = build::tree(&layers, &limits())?;
        match self.way {
            Way::Index => {
                let devices = build::devices(&tree, &layers)?;
                let extras: Vec<_> = devices.into_iter().map(|d| d.0).collect();
                build::index(&tree, &extras, out)?;
                Ok(extras.into_iter().map(|e| e.source).collect())
            }
            Way::Full | Way::Loop => build::full(&tree, &layers, out).map(|_| Vec::new()),
        }
    }

    /// The image, if it is as it was made. What was made in this boot is.
    fn check(&self, dir: &OwnedFd) -> Result<Option<Image>> {
        let (Some(file), Some(about)) = (open_file(dir, self.file())?, About::read(dir)?) else {
            return Ok(None);
        };
        let host = |e| Error::host("look at an image", e);
        if file.metadata().map_err(host)?.len() != about.bytes {
            return Ok(None);
        }
        if about.boot != boot() {
            let now = About::of(&file, about.devices.clone())?;
            if now.blake3 != about.blake3 {
                return Ok(None);
            }
            // So that it need not be read again before the next boot; if this fails it only is.
            let place = self.layout.stage()?;
            place.write(ABOUT, now.text().as_bytes())?;
            let _ = renameat(place.fd(), ABOUT, dir, ABOUT);
        }
        let devices = about.devices;
        Ok(Some(Image { file, devices }))
    }

    /// Mounts the image over these layers.
    pub(super) fn mount(&self, layers: &[LayerId]) -> Result<OwnedFd> {
        let Image { file, devices } = self.get(layers)?;
        let name = self.name(layers);
        let path = format!(
            "{}/images/{name}/{}",
            self.layout.path().display(),
            self.file()
        );
        let gone = || info::damaged("a layer of an image");
        let mut opened = Vec::new();
        for source in devices {
            let (number, spilled) = match source {
                Source::Tar(n) => (n, false),
                Source::Spill(n) => (n, true),
            };
            let id = layers.get(usize::from(number)).ok_or_else(gone)?;
            let dir = self.layout.get(Shelf::Layers, id.as_str())?;
            let name = if spilled { layer::SPILL } else { layer::TAR };
            opened.push(layer::open(&dir, name, id)?);
        }
        way::mount(self.way, &file, &path, &opened)
    }

    /// Takes the image over these layers out of sight; it is made anew when one is asked for.
    pub(super) fn discard(&self, layers: &[LayerId]) -> Result<()> {
        self.layout.discard(Shelf::Images, &self.name(layers))
    }

    /// Makes the image of these layers again and compares it with the one that is there.
    pub(super) fn verify(&self, layers: &[LayerId]) -> Result<Vec<Finding>> {
        let Some(dir) = self.layout.find(Shelf::Images, &self.name(layers))? else {
            return Ok(Vec::new());
        };
        let same = match (open_file(&dir, self.file())?, About::read(&dir)?) {
            (Some(file), Some(about)) => {
                let there = About::of(&file, about.devices.clone())?;
                let place = self.make(layers)?;
                let dir = place.fd().try_clone_to_owned();
                let dir = dir.map_err(|e| Error::host("duplicate a descriptor", e))?;
                let again = About::read(&dir)?;
                let same = |a: &About| {
                    (a.bytes, &a.blake3, &a.devices) == (about.bytes, &about.blake3, &about.devices)
                };
                same(&there) && again.is_some_and(|a| same(&a))
            }
            _ => false,
        };
        let what = "the image over it is not what its layers give";
        Ok(if same {
            Vec::new()
        } else {
            vec![verify::of_layer(what)]
        })
    }
}

/// Layers were accepted under limits that may have been wider than today's.
fn limits() -> Limits {
    let most = usize::MAX;
    Limits {
        entries: u64::MAX,
        path_bytes: most,
        path_depth: most,
        symlink_bytes: most,
        meta_bytes: 1 << 30,
        xattr_value_bytes: most,
        xattrs: most,
        sparse_map_bytes: 1 << 30,
        layer_bytes: u64::MAX,
        ..Limits::default()
    }
}

/// An image, opened.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    /// What its extra devices are, of the layers that it is over.
    devices: Vec<Source>,
}

/// What is kept of an image beside it.
#[derive(Debug, PartialEq, Eq)]
struct About {
    /// The boot that it was last found right in. What was not flushed before a power cut is
    /// found by its digest in the next.
    boot: String,
    bytes: u64,
    blake3: String,
    devices: Vec<Source>,
}

const HEAD: &str = "unlade-image 1";

impl About {
    fn of(mut file: &File, devices: Vec<Source>) -> Result<Self> {
        let host = |e| Error::host("read an image", e);
        let mut hasher = blake3::Hasher::new();
        file.rewind().map_err(host)?;
        hasher.update_reader(file).map_err(host)?;
        Ok(Self {
            boot: boot(),
            bytes: hasher.count(),
            blake3: hasher.finalize().to_hex().to_string(),
            devices,
        })
    }

    fn text(&self) -> String {
        let Self {
            boot,
            bytes,
            blake3,
            devices,
        } = self;
        let mut text = format!("{HEAD}\nboot {boot}\nbytes {bytes}\nblake3 {blake3}\n");
        for device in devices {
            match device {
                Source::Tar(n) => text.push_str(&format!("tar {n}\n")),
                Source::Spill(n) => text.push_str(&format!("spill {n}\n")),
            }
        }
        let sum = blake3::hash(text.as_bytes()).to_hex();
        text.push_str(&format!("end {sum}\n"));
        text
    }

    /// `None` if it is not there or damaged.
    fn read(dir: &OwnedFd) -> Result<Option<Self>> {
        let mut text = String::new();
        let read = match open_file(dir, ABOUT)? {
            Some(mut file) => file.read_to_string(&mut text).is_ok(),
            None => false,
        };
        Ok(Self::parse(&text).filter(|_| read))
    }

    fn parse(text: &str) -> Option<Self> {
        let end = text.rfind("end ")?;
        let sum = text[end..].strip_prefix("end ")?.strip_suffix('\n')?;
        if *blake3::hash(&text.as_bytes()[..end]).to_hex().as_str() != *sum {
            return None;
        }
        let mut lines = text[..end].lines();
        let mut next = |key: &str| lines.next()?.strip_prefix(key);
        next(HEAD)?;
        let (boot, bytes, blake3) = (next("boot ")?, next("bytes ")?, next("blake3 ")?);
        let device = |line: &str| match line.split_once(' ')? {
            ("tar", n) => Some(Source::Tar(n.parse().ok()?)),
            ("spill", n) => Some(Source::Spill(n.parse().ok()?)),
            _ => None,
        };
        Some(Self {
            boot: boot.to_owned(),
            bytes: bytes.parse().ok()?,
            blake3: blake3.to_owned(),
            devices: lines.map(device).collect::<Option<_>>()?,
        })
    }
}

/// The identity of this boot.
fn boot() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.unwrap_or_default().trim().to_owned()
}

/// Discards images over layers that are gone.
pub(super) fn discard_orphans(layout: &Layout) -> Result<()> {
    let layers: BTreeSet<String> = layout.names(Shelf::Layers)?.into_iter().collect();
    for name in layout.names(Shelf::Images)? {
        let Some(dir) = layout.find(Shelf::Images, &name)? else {
            continue;
        };
        let mut text = String::new();
        let known = match open_file(&dir, LAYERS)? {
            Some(mut file) => file.read_to_string(&mut text).is_ok(),
            None => false,
        };
        if !known || text.lines().any(|layer| !layers.contains(layer)) {
            layout.discard(Shelf::Images, &name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_an_image_is_read_or_refused() {
        let about = About {
            boot: "b".into(),
            bytes: 5,
            blake3: "00".into(),
            devices: vec![Source::Tar(0), Source::Spill(499)],
        };
        let text = about.text();
        assert_eq!(About::parse(&text), Some(about));
        for end in 0..text.len() {
            assert_eq!(About::parse(&text[..end]), None, "{end}");
        }
        assert_eq!(About::parse(&text.replace("bytes 5", "bytes 6")), None);
    }
}
