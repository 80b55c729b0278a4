//! Writing images: archives that Docker and others load, and OCI layouts.

use std::{
    collections::{BTreeMap, btree_map::Entry as Slot},
    fmt,
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, mkdirat, openat},
    io::Errno,
};
use serde_json::{Value, json};
use unlade_unpack::{Algorithm, Cancel, Digest, Hasher};

use super::header::{self, Type};
use crate::{
    dest::{Dest, Filling},
    error::{Error, Kind, Result},
    image::{
        Document, FullConfig,
        manifest::{CONTAINERD_NAME, REF_NAME},
    },
};

/// Bytes that are copied at a time.
const CHUNK: usize = 256 << 10;

/// A name that an image is saved under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SavedName {
    /// In full, with its tag: `docker.io/library/alpine:3`.
    pub full: String,
    /// As docker shortens it, with its tag: `alpine:3`.
    pub familiar: String,
    /// The tag alone.
    pub tag: String,
}

/// Opens a layer's blob.
pub type OpenLayer = Box<dyn Fn() -> Result<Box<dyn Read>>>;

/// A layer's blob.
pub struct LayerToSave {
    /// Its digest.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
    /// Gives its bytes; they are checked as they are written.
    pub open: OpenLayer,
}

impl fmt::Debug for LayerToSave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerToSave({}, {} bytes)", self.digest, self.size)
    }
}

/// An image to save.
#[derive(Debug)]
pub struct ImageToSave {
    /// Its names; none if it was named by its id.
    pub names: Vec<SavedName>,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest, byte by byte.
    pub manifest: Vec<u8>,
    /// The config, byte by byte.
    pub config: Vec<u8>,
    /// The layers that the manifest lists, in its order.
    pub layers: Vec<LayerToSave>,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For `docker load` of any version; also an OCI layout.
    Docker,
    /// An OCI layout alone.
    Oci,
}

/// Writes an archive of `images`. The same images give the same bytes.
///
/// # Errors
/// [`Kind::Integrity`] if a blob is not what its digest says (what was written is of no use
/// then), [`Kind::Host`] if `out` fails, [`Kind::Cancelled`], and the errors of opening blobs.
pub fn write(
    images: &[ImageToSave],
    format: Format,
    out: &mut dyn Write,
    cancel: &Cancel,
) -> Result<()> {
    let plan = Plan::new(images, format)?;
    let host = |e| Error::host("write the archive", e);
    let mut out = BufWriter::with_capacity(CHUNK, out);
    header::write(&mut out, "blobs/", Type::Dir, 0).map_err(host)?;
    let mut algorithm = None;
    for (digest, blob) in &plan.blobs {
        if algorithm.replace(digest.algorithm()) != Some(digest.algorithm()) {
            let name = format!("blobs/{}/", digest.algorithm().name());
            header::write(&mut out, &name, Type::Dir, 0).map_err(host)?;
        }
        let name = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
        header::write(&mut out, &name, Type::File, blob.size()).map_err(host)?;
        blob.copy(digest, &mut out, cancel)?;
        header::pad(&mut out, blob.size()).map_err(host)?;
    }
    for (name, bytes) in &plan.files {
        header::write(&mut out, name, Type::File, bytes.len() as u64).map_err(host)?;
        out.write_all(bytes).map_err(host)?;
        header::pad(&mut out, bytes.len() as u64).map_err(host)?;
    }
    header::end(&mut out)
        .and_then(|()| out.flush())
        .map_err(host)
}

/// The names in a layout, in the order in which they may appear: by the last one it is a layout.
const LAYOUT: [&str; 3] = ["blobs", "oci-layout", "index.json"];

/// Writes an OCI layout of `images` to `dir`, which appears whole or not at all. If it is an empty
/// directory already, that is filled, and nothing takes it for a layout until it is whole; cut off
/// just then, it can leave a part of it there.
///
/// # Errors
/// As [`write()`]'s, and [`Kind::Host`] if there is something in `dir`, or it cannot be made.
pub fn write_dir(images: &[ImageToSave], dir: &Path, cancel: &Cancel) -> Result<()> {
    let plan = Plan::new(images, Format::Oci)?;
    if let Some(filling) = Filling::begin(dir)? {
        plan.write_to(filling.tree(), dir, cancel)?;
        return Ok(filling.commit(&LAYOUT)?);
    }
    let staging = Dest::open(dir, false)
        .and_then(Dest::stage)
        .map_err(|e| e.with_hint("choose a directory that can be made"))?;
    plan.write_to(staging.tree(), dir, cancel)?;
    Ok(staging.commit()??)
}

enum Blob<'a> {
    Bytes(&'a [u8]),
    Layer(&'a LayerToSave),
}

impl Blob<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Layer(layer) => layer.size,
        }
    }

    /// Copies the blob, and checks it.
    fn copy(&self, digest: &Digest, out: &mut dyn Write, cancel: &Cancel) -> Result<()> {
        let host = |e| Error::host("write the archive", e);
        let layer = match self {
            Self::Bytes(bytes) => return out.write_all(bytes).map_err(host),
            Self::Layer(layer) => layer,
        };
        let damaged = |what: String| {
            Error::new(Kind::Integrity, format!("the blob {digest} {what}"))
                .with_hint("the store is damaged: `unlade system check --repair` mends it")
        };
        let mut input = (layer.open)()?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; CHUNK];
        let mut left = layer.size;
        loop {
            if cancel.is_cancelled() {
                return Err(Error::new(Kind::Cancelled, "cancelled"));
            }
            let n = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::host(format!("read the blob {digest}"), e)),
            };
            let Some(rest) = left.checked_sub(n as u64) else {
                return Err(damaged(format!("is longer than {} bytes", layer.size)));
            };
            left = rest;
            hasher.update(&buffer[..n]);
            out.write_all(&buffer[..n]).map_err(host)?;
        }
        if left > 0 {
            return Err(damaged(format!("ends {left} bytes too early")));
        }
        let is = hasher.finish();
        if is != *digest {
            return Err(damaged(format!("has the digest {is}")));
        }
        Ok(())
    }
}

/// All that will be written, in order.
struct Plan<'a> {
    blobs: BTreeMap<Digest, Blob<'a>>,
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl<'a> Plan<'a> {
    fn new(images: &'a [ImageToSave], format: Format) -> Result<Self> {
        let mut blobs = BTreeMap::new();
        let mut index: Vec<Value> = Vec::new();
        let mut items: Vec<Value> = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<&str, String>> = BTreeMap::new();
        for image in images {
            let (entry, layers) = plan_image(image, &mut blobs)?;
            let mut names: Vec<&SavedName> = image.names.iter().collect();
            names.sort();
            names.dedup();
            for name in &names {
                let mut entry = entry.clone();
                entry["annotations"] = json!({ CONTAINERD_NAME: name.full, REF_NAME: name.tag });
                index.push(entry);
                let repository = name.familiar.strip_suffix(&*format!(":{}", name.tag));
                if let (Some(repository), Some(top)) = (repository, image.layers.last()) {
                    let tags = repositories.entry(repository.to_owned()).or_default();
                    tags.insert(&name.tag, top.digest.hex());
                }
            }
            if names.is_empty() {
                index.push(entry);
            }
            let tags: Vec<&str> = names.iter().map(|n| &*n.familiar).collect();
            let config = Digest::of(Algorithm::Sha256, &image.config);
            items.push(json!({ "Config": path(&config), "RepoTags": tags, "Layers": layers }));
        }
        let mut files = BTreeMap::new();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": index });
        files.insert("index.json", index.to_string().into_bytes());
        files.insert("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        if format == Format::Docker {
            files.insert(
                "manifest.json",
                format!("{}\n", Value::from(items)).into_bytes(),
            );
            if !repositories.is_empty() {
                files.insert(
                    "repositories",
                    format!("{}\n", json!(repositories)).into_bytes(),
                );
            }
        }
        Ok(Self { blobs, files })
    }

    /// Writes a layout into the directory `tree`, which will be `dir`.
    fn write_to(&self, tree: BorrowedFd<'_>, dir: &Path, cancel: &Cancel) -> Result<()> {
        let shown = dir.display();
        let host = |e: Errno| Error::host(format!("write the layout `{shown}`"), e);
        let make_dir = |at: BorrowedFd<'_>, name: &str| -> Result<OwnedFd> {
            match mkdirat(at, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(host(e)),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(at, name, flags, Mode::empty()).map_err(host)
        };
        let make_file = |at: BorrowedFd<'_>, name: &str| -> Result<File> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(at, name, flags, Mode::from_raw_mode(0o644));
            file.map(File::from).map_err(host)
        };
        let failed = |e| Error::host(format!("write the layout `{shown}`"), e);
        let blobs = make_dir(tree, "blobs")?;
        for (digest, blob) in &self.blobs {
            let parent = make_dir(blobs.as_fd(), digest.algorithm().name())?;
            let file = make_file(parent.as_fd(), &digest.hex())?;
            let mut file = BufWriter::with_capacity(CHUNK, file);
            blob.copy(digest, &mut file, cancel)?;
            file.flush().map_err(failed)?;
        }
        for (name, bytes) in &self.files {
            let mut file = make_file(tree, name)?;
            file.write_all(bytes).map_err(failed)?;
        }
        Ok(())
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Adds an image's blobs; gives its entry in the index, and its layers' paths.
fn plan_image<'a>(
    image: &'a ImageToSave,
    blobs: &mut BTreeMap<Digest, Blob<'a>>,
) -> Result<(Value, Vec<String>)> {
    let damaged = |what: &str| {
        Error::new(Kind::Integrity, format!("an image to save {what}"))
            .with_hint("the store is damaged: `unlade system check --repair` mends it")
    };
    let Document::Manifest(manifest) = Document::parse(&image.media_type, &image.manifest)? else {
        return Err(Error::new(
            Kind::Bug,
            "an index was to be saved as an image",
        ));
    };
    let config = FullConfig::parse(image.config.clone())?;
    let listed = manifest.layers.iter().map(|l| (l.digest, l.size));
    if !listed.eq(image.layers.iter().map(|l| (l.digest, l.size))) {
        return Err(damaged("has other layers than its manifest"));
    }
    let id = Digest::of(manifest.config.digest.algorithm(), &image.config);
    if id != manifest.config.digest {
        return Err(damaged("has another config than its manifest"));
    }
    let digest = Digest::of(Algorithm::Sha256, &image.manifest);
    let mut entry = json!({
        "mediaType": image.media_type, "digest": digest.to_string(), "size": image.manifest.len(),
    });
    if !config.os.is_empty() && !config.architecture.is_empty() {
        let mut platform = json!({ "architecture": config.architecture, "os": config.os });
        if !config.variant.is_empty() {
            platform["variant"] = config.variant.clone().into();
        }
        if !config.os_version.is_empty() {
            platform["os.version"] = config.os_version.clone().into();
        }
        entry["platform"] = platform;
    }
    blobs.insert(digest, Blob::Bytes(&image.manifest));
    // Older readers look for the config by its sha256 alone.
    blobs.insert(
        Digest::of(Algorithm::Sha256, &image.config),
        Blob::Bytes(&image.config),
    );
    blobs.insert(id, Blob::Bytes(&image.config));
    for layer in &image.layers {
        match blobs.entry(layer.digest) {
            Slot::Vacant(slot) => {
                slot.insert(Blob::Layer(layer));
            }
            Slot::Occupied(slot) if slot.get().size() == layer.size => {}
            Slot::Occupied(_) => return Err(damaged("has a layer of two sizes")),
        }
    }
    Ok((
        entry,
        image.layers.iter().map(|l| path(&l.digest)).collect(),
    ))
}
