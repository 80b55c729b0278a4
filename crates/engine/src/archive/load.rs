//! Reading an archive once, from front to back: blobs are handed on as they pass.
//!
//! Members whose names are digests are handed on under these and verified; of others the digest
//! is found out first, in memory if they are small and in a temporary file if not.

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
};

use unlade_unpack::{
    Algorithm, Cancel, Digest, Hasher, Limits,
    decode::{Compression, Decoder},
    entry::{Entry, EntryKind, split},
    tar::{Reader, Step},
};

use super::{
    receive::Receive,
    resolve::{self, LoadedImage},
};
use crate::{
    error::{Error, Kind, Result},
    image::{Platform, manifest},
    source::{
        Scratch,
        archive::{resolve as follow, show_bytes},
        layout::Layout,
    },
};

/// Most members of an archive.
const MAX_MEMBERS: u64 = 1_000_000;
/// Most bytes of their names together.
const MAX_NAMES: usize = 256 << 20;
/// Members without a digest in their name that are held in memory, in bytes.
const MAX_SMALL: u64 = 1 << 20;
/// How many links lead to a member at most.
const MAX_LINKS: usize = 8;
/// Bytes that are read and decoded at a time.
const CHUNK: usize = 256 << 10;
/// Documents of an archive beside its blobs.
const DOCUMENTS: [&str; 3] = ["index.json", "manifest.json", "oci-layout"];

/// How to load.
#[derive(Debug)]
pub struct Loading<'a> {
    /// Which image of an index; this machine's if none is asked for.
    pub platform: Option<&'a Platform>,
    /// Limits on the archive.
    pub limits: &'a Limits,
    /// Most layers of an image.
    pub max_layers: usize,
    /// Where members may be put whose digest is not known.
    pub scratch: &'a Scratch,
    /// Stops it.
    pub cancel: &'a Cancel,
}

/// A member that has passed.
#[derive(Debug, Clone)]
enum Member {
    Blob(Digest),
    Link(Box<[u8]>),
    /// Something that has no bytes, or whose name occurs twice.
    Other(&'static str),
}

/// What an archive had in it.
#[derive(Debug, Default)]
pub(super) struct Contents {
    members: HashMap<Box<[u8]>, Member>,
    documents: HashMap<&'static str, Vec<u8>>,
    /// How blobs are compressed, by their first bytes.
    pub(super) compression: HashMap<Digest, Compression>,
}

impl Contents {
    /// The text of `index.json` and its like.
    pub(super) fn document(&self, name: &str) -> Option<&[u8]> {
        self.documents.get(name).map(|d| &**d)
    }

    /// The digest of the member called `path`, through links; `None` if there is none.
    pub(super) fn member(&self, path: &[u8]) -> Result<Option<Digest>> {
        let mut path = path;
        for _ in 0..=MAX_LINKS {
            match self.members.get(path) {
                None => return Ok(None),
                Some(Member::Blob(digest)) => return Ok(Some(*digest)),
                Some(Member::Link(target)) => path = target,
                Some(Member::Other(what)) => {
                    let m = format!("`{}` in the archive is {what}", show_bytes(path));
                    return Err(Error::new(Kind::BadInput, m)
                        .with_hint("save the image again; the archive is damaged or ambiguous"));
                }
            }
        }
        let m = format!("too many links on the way to `{}`", show_bytes(path));
        Err(Error::new(Kind::BadInput, m).with_hint("save the image again"))
    }
}

/// Reads an archive, plain or compressed with gzip or zstd, and says which images are in it. All
/// their blobs have been given to `receive` then.
///
/// # Errors
/// Whatever is wrong with the archive or the images in it, [`Kind::Cancelled`], and what
/// `receive` fails with.
pub fn load(
    input: impl Read,
    receive: &mut dyn Receive,
    loading: &Loading<'_>,
) -> Result<Vec<LoadedImage>> {
    let mut loader = Loader {
        receive,
        loading,
        contents: Contents::default(),
        names: 0,
        open: None,
    };
    loader.run(input)?;
    let Loader {
        contents, receive, ..
    } = loader;
    resolve::images(&contents, receive, loading)
}

/// Reads an OCI layout in a directory; of its blobs, those are given to `receive` that an image
/// needs.
///
/// # Errors
/// As [`load`]'s.
pub fn load_dir(
    dir: &Path,
    receive: &mut dyn Receive,
    loading: &Loading<'_>,
) -> Result<Vec<LoadedImage>> {
    let layout = Layout::open(dir)?;
    let mut contents = Contents::default();
    for name in DOCUMENTS {
        if let Some(part) = layout.file(name)? {
            contents
                .documents
                .insert(name, part.read(manifest::MAX_BYTES)?);
        }
    }
    let mut receive = FromLayout {
        layout,
        inner: receive,
        cancel: loading.cancel,
    };
    resolve::images(&contents, &mut receive, loading)
}

/// Takes a blob from a layout when it is asked for.
struct FromLayout<'a> {
    layout: Layout,
    inner: &'a mut dyn Receive,
    cancel: &'a Cancel,
}

impl FromLayout<'_> {
    fn fetch(&mut self, digest: &Digest) -> Result<()> {
        if self.inner.size(digest)?.is_some() {
            return Ok(());
        }
        let Some(part) = self.layout.blob(digest)? else {
            return Ok(());
        };
        if !self.inner.begin(digest, part.len)? {
            return Ok(());
        }
        let mut file = &*part.file;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; CHUNK];
        loop {
            stop(self.cancel)?;
            let n = read(&mut file, &mut buffer)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            self.inner.data(&buffer[..n])?;
        }
        verify(digest, hasher)?;
        self.inner.end(digest)
    }
}

impl Receive for FromLayout<'_> {
    fn begin(&mut self, digest: &Digest, size: u64) -> Result<bool> {
        self.inner.begin(digest, size)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.data(bytes)
    }

    fn end(&mut self, digest: &Digest) -> Result<()> {
        self.inner.end(digest)
    }

    fn read(&mut self, digest: &Digest, most: u64) -> Result<Option<Vec<u8>>> {
        self.fetch(digest)?;
        self.inner.read(digest, most)
    }

    fn size(&mut self, digest: &Digest) -> Result<Option<u64>> {
        self.fetch(digest)?;
        self.inner.size(digest)
    }
}

fn stop(cancel: &Cancel) -> Result<()> {
    if cancel.is_cancelled() {
        return Err(Error::new(Kind::Cancelled, "cancelled"));
    }
    Ok(())
}

fn read(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match input.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map_err(|e| Error::host("read the archive", e)),
        }
    }
}

fn verify(want: &Digest, hasher: Hasher) -> Result<()> {
    let is = hasher.finish();
    if is == *want {
        return Ok(());
    }
    let m = format!("a blob in the archive has the digest {is}, not {want}");
    Err(Error::new(Kind::Integrity, m).with_hint("the archive is damaged: copy or save it again"))
}

/// The digest that a member's name claims.
fn named_digest(path: &[u8]) -> Option<Digest> {
    let path = std::str::from_utf8(path).ok()?;
    if let Some(rest) = path.strip_prefix("blobs/") {
        return rest.replacen('/', ":", 1).parse().ok();
    }
    // As skopeo, podman and crane name them in Docker's archives.
    let name = path.strip_prefix("sha256:").unwrap_or(path);
    let known = [".tar.gz", ".tar.zst", ".tar", ".json"];
    let hex = known
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    format!("sha256:{hex}").parse().ok()
}

/// A member whose bytes are passing.
struct Open {
    path: Box<[u8]>,
    start: Vec<u8>,
    way: Way,
}

enum Way {
    /// On to the receiver.
    Pass(Digest, Hasher),
    /// The receiver does not want it.
    Drop(Digest),
    /// To be kept as one of [`DOCUMENTS`].
    Document(&'static str, Vec<u8>),
    /// Its digest is to be found out.
    Small(Vec<u8>),
    Large(File, Hasher, u64),
}

struct Loader<'a> {
    receive: &'a mut dyn Receive,
    loading: &'a Loading<'a>,
    contents: Contents,
    /// Bytes of names so far.
    names: usize,
    open: Option<Open>,
}

impl Loader<'_> {
    fn run(&mut self, mut input: impl Read) -> Result<()> {
        let limits = self.loading.limits;
        let mut reader = Reader::new(Limits {
            entries: MAX_MEMBERS.min(limits.entries),
            layer_bytes: i64::MAX as u64,
            ..limits.clone()
        });
        let mut chunk = vec![0; CHUNK];
        let mut block = vec![0; CHUNK];
        let mut decoder: Option<(Decoder, bool)> = None;
        let (mut taken, mut given) = (0_u64, 0_u64);
        loop {
            stop(self.loading.cancel)?;
            let mut n = read(&mut input, &mut chunk)?;
            // Enough to tell how it is compressed.
            while n > 0 && decoder.is_none() && n < Compression::MAGIC_BYTES {
                match read(&mut input, &mut chunk[n..])? {
                    0 => break,
                    more => n += more,
                }
            }
            if n == 0 {
                break;
            }
            let (decoder, plain) = match &mut decoder {
                Some(decoder) => decoder,
                none => {
                    let compression = Compression::sniff(&chunk[..n]);
                    let plain = compression == Compression::None;
                    none.insert((Decoder::new(compression, limits)?, plain))
                }
            };
            if *plain {
                self.feed(&mut reader, &chunk[..n])?;
                continue;
            }
            taken += n as u64;
            let mut rest = &chunk[..n];
            loop {
                stop(self.loading.cancel)?;
                let done = decoder.decode(rest, &mut block)?;
                rest = &rest[done.read..];
                given += done.written as u64;
                let most = taken
                    .saturating_mul(limits.ratio)
                    .max(Limits::RATIO_FREE_BYTES);
                if given > most {
                    let m = format!("{taken} bytes of the archive expand to {given}");
                    return Err(Error::new(Kind::Limit, m)
                        .with_hint("no image is compressed like that: do not trust this archive"));
                }
                self.feed(&mut reader, &block[..done.written])?;
                if rest.is_empty() && done.written < block.len() {
                    break;
                }
            }
        }
        if let Some((decoder, _)) = decoder {
            decoder.finish()?;
        }
        Ok(reader.finish()?)
    }

    fn feed(&mut self, reader: &mut Reader, mut bytes: &[u8]) -> Result<()> {
        loop {
            let (used, step) = reader.step(bytes)?;
            match step {
                Step::NeedMore | Step::End => return Ok(()),
                Step::Entry(entry) => self.entry(entry)?,
                Step::Data { range, .. } => self.data(&bytes[range])?,
                Step::EntryEnd => self.close()?,
            }
            bytes = &bytes[used..];
        }
    }

    fn entry(&mut self, entry: Entry) -> Result<()> {
        self.names += entry.path.len();
        if self.names > MAX_NAMES {
            let m = format!("the names in the archive have more than {MAX_NAMES} bytes");
            return Err(Error::new(Kind::Limit, m).with_hint("do not trust this archive"));
        }
        let member = match entry.kind {
            EntryKind::File { size, sparse: None } => return self.file(entry.path, size),
            EntryKind::File { .. } => Member::Other("a sparse file"),
            EntryKind::HardLink { target } => Member::Link(target),
            EntryKind::Symlink { target } => match follow(split(&entry.path).0, &target) {
                Some(target) => Member::Link(target),
                None => Member::Other("a symbolic link out of the archive"),
            },
            // Directories may be there twice, and nobody asks for them.
            EntryKind::Dir => return Ok(()),
            _ => Member::Other("a device or fifo"),
        };
        self.add(entry.path, member);
        Ok(())
    }

    fn add(&mut self, path: Box<[u8]>, member: Member) {
        match self.contents.members.entry(path) {
            Slot::Vacant(slot) => {
                slot.insert(member);
            }
            Slot::Occupied(mut slot) => {
                slot.insert(Member::Other("there twice"));
            }
        }
    }

    fn file(&mut self, path: Box<[u8]>, size: u64) -> Result<()> {
        let way = if let Some(name) = DOCUMENTS.iter().find(|d| d.as_bytes() == &*path) {
            if size > manifest::MAX_BYTES {
                let m = format!("`{name}` has {size} bytes");
                return Err(Error::new(Kind::Limit, m).with_hint(
                    "no tool writes documents of this size: do not trust this archive",
                ));
            }
            if self.contents.documents.contains_key(name) {
                let m = format!("`{name}` is there twice");
                return Err(Error::new(Kind::BadInput, m)
                    .with_hint("save the image again; the archive is damaged or ambiguous"));
            }
            Way::Document(name, Vec::new())
        } else if let Some(digest) = named_digest(&path) {
            if self.receive.begin(&digest, size)? {
                Way::Pass(digest, Hasher::new(digest.algorithm()))
            } else {
                Way::Drop(digest)
            }
        } else if ignored(&path) {
            return Ok(());
        } else if size <= MAX_SMALL {
            Way::Small(Vec::new())
        } else {
            let file = self.loading.scratch.file();
            let file = file.map_err(|e| Error::host("make a temporary file for a layer", e))?;
            Way::Large(file, Hasher::new(Algorithm::Sha256), size)
        };
        self.open = Some(Open {
            path,
            start: Vec::new(),
            way,
        });
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let missing = Compression::MAGIC_BYTES.saturating_sub(open.start.len());
        open.start
            .extend_from_slice(&bytes[..missing.min(bytes.len())]);
        match &mut open.way {
            Way::Pass(_, hasher) => {
                hasher.update(bytes);
                self.receive.data(bytes)?;
            }
            Way::Drop(_) => {}
            Way::Document(_, text) | Way::Small(text) => text.extend_from_slice(bytes),
            Way::Large(file, hasher, _) => {
                hasher.update(bytes);
                file.write_all(bytes)
                    .map_err(|e| Error::host("write a layer to a temporary file", e))?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let digest = match open.way {
            Way::Document(name, text) => {
                self.contents.documents.insert(name, text);
                return Ok(());
            }
            Way::Drop(digest) => digest,
            Way::Pass(digest, hasher) => {
                verify(&digest, hasher)?;
                self.receive.end(&digest)?;
                digest
            }
            Way::Small(bytes) => {
                let digest = Digest::of(Algorithm::Sha256, &bytes);
                if self.receive.begin(&digest, bytes.len() as u64)? {
                    self.receive.data(&bytes)?;
                    self.receive.end(&digest)?;
                }
                digest
            }
            Way::Large(mut file, hasher, size) => {
                let digest = hasher.finish();
                if self.receive.begin(&digest, size)? {
                    file.rewind()
                        .map_err(|e| Error::host("read a temporary file", e))?;
                    let mut buffer = vec![0; CHUNK];
                    loop {
                        stop(self.loading.cancel)?;
                        let n = read(&mut file, &mut buffer)?;
                        if n == 0 {
                            break;
                        }
                        self.receive.data(&buffer[..n])?;
                    }
                    self.receive.end(&digest)?;
                }
                digest
            }
        };
        self.contents
            .compression
            .insert(digest, Compression::sniff(&open.start));
        self.add(open.path, Member::Blob(digest));
        Ok(())
    }
}

/// Members that say nothing that is not said elsewhere: `repositories`, `ID/VERSION`, `ID/json`.
fn ignored(path: &[u8]) -> bool {
    path == b"repositories" || matches!(split(path), (dir, b"VERSION" | b"json") if !dir.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_digests() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for name in [
            "blobs/sha256/H",
            "H.json",
            "H.tar",
            "H.tar.gz",
            "sha256:H",
            "H",
        ] {
            let name = name.replace('H', hex);
            assert_eq!(named_digest(name.as_bytes()).unwrap().hex(), hex, "{name}");
        }
        for name in [
            "x",
            "layer.tar",
            "blobs/sha256/x",
            "H/layer.tar",
            "blobs/md5/00",
            "H.txt",
        ] {
            assert_eq!(
                named_digest(name.replace('H', hex).as_bytes()),
                None,
                "{name}"
            );
        }
        assert!(ignored(b"repositories") && ignored(b"a/json") && ignored(b"a/VERSION"));
        assert!(!ignored(b"json") && !ignored(b"a/layer.tar"));
    }
}
