//! Random access to the members of a tar file: images that `docker save`, `podman save` and
//! `skopeo copy` wrote.
//!
//! The file is walked once, seeking over payload. A compressed archive is first decoded to a
//! nameless temporary file.

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use unlade_unpack::{
    Error, Kind, Limits, Result,
    decode::{Compression, Decoder},
    entry::{EntryKind, split},
    source::{BlobSource, FileSource},
    tar::{Reader, Step},
};

use super::{
    Opening,
    blob::Part,
    patient::{self, Pump, check},
};
use crate::image::json::show;

/// Most members of an archive. Even a thousand images of a hundred layers have fewer.
const MAX_MEMBERS: u64 = 1_000_000;
/// Most bytes that the index of an archive's members takes. Images hold some hundred bytes of
/// names for each layer.
const MAX_INDEX_BYTES: usize = 64 << 20;
/// What a member takes beside its names.
const MEMBER_BYTES: usize = 64;
/// Bytes read at a time around headers.
const WINDOW: usize = 16 << 10;
/// How many links lead to a file at most.
const MAX_LINKS: usize = 8;

/// An indexed tar file.
#[derive(Debug)]
pub(super) struct Archive {
    file: Arc<File>,
    members: HashMap<Box<[u8]>, Member>,
}

#[derive(Debug, Clone)]
enum Member {
    File {
        start: u64,
        len: u64,
    },
    Link(Box<[u8]>),
    /// Something that has no bytes, or whose name occurs twice.
    Other(&'static str),
}

impl Archive {
    /// Opens the file at `path` and indexes it.
    pub(super) fn open(path: &Path, opening: &Opening<'_>) -> Result<Self> {
        let shown = path.display().to_string();
        let file = patient::open(path, opening)?;
        Self::from_file(file, opening).map_err(|e| e.in_part(format!("archive `{shown}`")))
    }

    fn from_file(file: File, opening: &Opening<'_>) -> Result<Self> {
        let kind = file
            .metadata()
            .map_err(|e| Error::host("look at the archive", e))?;
        if kind.is_dir() {
            return Err(Error::new(Kind::BadInput, "a directory, not an archive")
                .with_hint("an image layout in a directory is oci:DIR"));
        }
        let mut magic = [0; Compression::MAGIC_BYTES];
        let plain = kind.is_file() && {
            let n = file
                .read_at(&mut magic, 0)
                .map_err(|e| Error::host("read", e))?;
            Compression::sniff(&magic[..n]) == Compression::None
        };
        let file = if plain { file } else { spill(file, opening)? };
        let limits = Limits {
            entries: MAX_MEMBERS.min(opening.limits.entries),
            layer_bytes: i64::MAX as u64,
            ..opening.limits.clone()
        };
        let file = Arc::new(file);
        let members = index(&file, limits, opening)?;
        Ok(Self { file, members })
    }

    /// The file called `path`, through symbolic and hard links; `None` if there is none.
    pub(super) fn file(&self, path: &[u8]) -> Result<Option<Part>> {
        let mut path = path;
        for _ in 0..=MAX_LINKS {
            match self.members.get(path) {
                None => return Ok(None),
                Some(&Member::File { start, len }) => {
                    return Ok(Some(Part {
                        file: self.file.clone(),
                        start,
                        len,
                    }));
                }
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

pub(crate) fn show_bytes(bytes: &[u8]) -> String {
    show(&String::from_utf8_lossy(bytes))
}

/// Where the bytes of an archive come from that cannot be used as it stands.
enum Source {
    File(FileSource),
    Stream(Pump),
}

impl Source {
    fn next(&mut self, opening: &Opening<'_>) -> Result<Option<Bytes>> {
        match self {
            Self::File(file) => file
                .next_chunk()
                .map_err(|e: io::Error| Error::host("read the archive", e)),
            Self::Stream(pump) => pump.next(opening),
        }
    }
}

/// Decodes a compressed archive, or copies one that cannot be read at will.
fn spill(file: File, opening: &Opening<'_>) -> Result<File> {
    let host = |doing: &'static str| move |e| Error::host(doing, e);
    let out = opening
        .scratch
        .file()
        .map_err(host("make a temporary file for the archive"))?;
    let mut writer = BufWriter::with_capacity(256 << 10, out);
    let mut source = match file.metadata() {
        Ok(m) if m.is_file() => Source::File(FileSource::range(Arc::new(file), 0, m.len())),
        _ => Source::Stream(Pump::new(file)?),
    };
    let mut decoder = None;
    let mut block = vec![0; 128 << 10];
    let (mut read, mut written) = (0_u64, 0_u64);
    let limits = opening.limits;
    while let Some(chunk) = source.next(opening)? {
        check(opening.cancel)?;
        let decoder = match &mut decoder {
            Some(d) => d,
            none => none.insert(Decoder::new(Compression::sniff(&chunk), limits)?),
        };
        let mut rest = &chunk[..];
        read += rest.len() as u64;
        loop {
            let done = decoder.decode(rest, &mut block)?;
            rest = &rest[done.read..];
            written += done.written as u64;
            let most = read
                .saturating_mul(limits.ratio)
                .max(Limits::RATIO_FREE_BYTES);
            if written > limits.layer_bytes.min(most) {
                let m = format!("the archive expands to more than {written} bytes");
                return Err(Error::new(Kind::Limit, m)
                    .with_hint("raise --limit-layer-bytes or --limit-ratio to allow it"));
            }
            let all = &block[..done.written];
            writer
                .write_all(all)
                .map_err(host("write the decoded archive"))?;
            if rest.is_empty() && done.written < block.len() {
                break;
            }
        }
    }
    if let Some(decoder) = decoder {
        decoder.finish()?;
    }
    writer
        .into_inner()
        .map_err(|e| Error::host("write the decoded archive", e.into_error()))
}

fn index(file: &File, limits: Limits, opening: &Opening<'_>) -> Result<HashMap<Box<[u8]>, Member>> {
    let host = |e| Error::host("read the archive", e);
    let len = file.metadata().map_err(host)?.len();
    let mut members = HashMap::new();
    let mut reader = Reader::new(limits);
    let mut window = vec![0; WINDOW];
    let mut bytes = 0;
    while !reader.ended() {
        check(opening.cancel)?;
        let at = reader.position();
        if at > len {
            return Err(
                Error::new(Kind::BadInput, format!("the archive ends at byte {len}"))
                    .with_hint("the archive is truncated: save or copy it again"),
            );
        }
        let n = file.read_at(&mut window, at).map_err(host)?;
        if n == 0 {
            break;
        }
        let mut input = &window[..n];
        loop {
            let (used, step) = reader.step(input)?;
            input = &input[used..];
            match step {
                Step::NeedMore | Step::End => break,
                Step::Entry(entry) => {
                    let member = member(&entry.path, entry.kind, reader.position());
                    bytes += MEMBER_BYTES + entry.path.len() + member.bytes();
                    if bytes > MAX_INDEX_BYTES {
                        let m = "the names of the archive's members are too many or too long";
                        return Err(Error::new(Kind::Limit, m).with_hint(
                            "no image has so many files: is it an archive of something else? the \
                             tar of a root file system is layer:FILE",
                        ));
                    }
                    match members.entry(entry.path) {
                        Slot::Vacant(slot) => {
                            slot.insert(member);
                        }
                        Slot::Occupied(slot) => slot.into_mut().repeat(member),
                    }
                    if reader.skippable() > 0 {
                        reader.skip();
                        break;
                    }
                }
                Step::Data { .. } | Step::EntryEnd => {}
            }
        }
    }
    reader.finish()?;
    Ok(members)
}

impl Member {
    fn bytes(&self) -> usize {
        match self {
            Self::Link(target) => target.len(),
            Self::File { .. } | Self::Other(_) => 0,
        }
    }

    /// A second member of the same name: harmless for directories, else an error for whoever
    /// looks for it.
    fn repeat(&mut self, other: Self) {
        if !matches!(
            (&self, other),
            (Self::Other(DIRECTORY), Self::Other(DIRECTORY))
        ) {
            *self = Self::Other("there twice");
        }
    }
}

const DIRECTORY: &str = "a directory";

fn member(path: &[u8], kind: EntryKind, payload: u64) -> Member {
    match kind {
        EntryKind::File { size, sparse: None } => Member::File {
            start: payload,
            len: size,
        },
        EntryKind::File { .. } => Member::Other("a sparse file"),
        EntryKind::HardLink { target } => Member::Link(target),
        EntryKind::Symlink { target } => match resolve(split(path).0, &target) {
            Some(target) => Member::Link(target),
            None => Member::Other("a symbolic link out of the archive"),
        },
        EntryKind::Dir => Member::Other(DIRECTORY),
        _ => Member::Other("a device or fifo"),
    }
}

/// Where a symbolic link in `dir` leads, by the names alone.
pub(crate) fn resolve(dir: &[u8], target: &[u8]) -> Option<Box<[u8]>> {
    let absolute = target.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = if absolute {
        Vec::new()
    } else {
        dir.split(|&b| b == b'/').collect()
    };
    for part in target.split(|&b| b == b'/') {
        match part {
            b".." => {
                parts.pop()?;
            }
            b"" | b"." => {}
            part => parts.push(part),
        }
    }
    parts.retain(|p| !p.is_empty());
    Some(parts.join(&b'/').into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use unlade_unpack::Cancel;

    use super::*;
    use crate::source::Scratch;

    fn tar(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut b = tar::Builder::new(Vec::new());
        fill(&mut b);
        b.into_inner().unwrap()
    }

    fn add(b: &mut tar::Builder<Vec<u8>>, name: &str, data: &[u8]) {
        let mut h = tar::Header::new_gnu();
        h.set_size(data.len() as u64);
        h.set_mode(0o644);
        b.append_data(&mut h, name, data).unwrap();
    }

    fn link(b: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, target: &str) {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_size(0);
        b.append_link(&mut h, name, target).unwrap();
    }

    fn open(bytes: &[u8]) -> Result<Archive> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let (limits, scratch, cancel) = (Limits::default(), Scratch::system(), Cancel::new());
        let opening = Opening {
            platform: None,
            limits: &limits,
            max_layers: 1000,
            scratch: &scratch,
            cancel: &cancel,
        };
        Archive::from_file(file, &opening)
    }

    fn sample() -> Vec<u8> {
        tar(|b| {
            add(b, "./a/layer.tar", &[7; 100_000]);
            link(b, tar::EntryType::Symlink, "b/layer.tar", "../a/layer.tar");
            link(b, tar::EntryType::Link, "c/layer.tar", "b/layer.tar");
            link(b, tar::EntryType::Symlink, "d", "../../x");
            link(b, tar::EntryType::Symlink, "loop", "loop");
            add(b, "empty", b"");
            add(b, "twice", b"1");
            add(b, "twice", b"2");
            add(b, "last", b"end");
        })
    }

    #[test]
    fn finds_members() {
        let gz = |bytes: &[u8]| {
            let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            e.write_all(bytes).unwrap();
            e.finish().unwrap()
        };
        let plain = sample();
        let zst = zstd::encode_all(&plain[..], 1).unwrap();
        for bytes in [gz(&plain), zst, plain] {
            let a = open(&bytes).unwrap();
            let read = |name: &str| {
                a.file(name.as_bytes())
                    .unwrap()
                    .unwrap()
                    .read(1 << 20)
                    .unwrap()
            };
            for name in ["a/layer.tar", "b/layer.tar", "c/layer.tar"] {
                assert!(read(name) == [7; 100_000]);
            }
            assert_eq!(
                (read("empty"), read("last")),
                (b"".to_vec(), b"end".to_vec())
            );
            assert!(a.file(b"nothing").unwrap().is_none());
            for (name, part) in [
                ("twice", "twice"),
                ("d", "out of"),
                ("loop", "too many"),
                ("a/../loop", ""),
            ] {
                match a.file(name.as_bytes()) {
                    Err(e) => assert!(e.message().contains(part), "{e}"),
                    Ok(found) => assert!(part.is_empty() && found.is_none()),
                }
            }
        }
    }

    #[test]
    fn names_do_not_fill_the_memory() {
        let long = "n/".repeat(30_000);
        let bytes = tar(|b| {
            for n in 0..1200 {
                let name = format!("{long}{n}");
                let path = format!("{} path={name}\n", name.len() + 12);
                let mut h = tar::Header::new_ustar();
                h.set_entry_type(tar::EntryType::XHeader);
                h.set_size(path.len() as u64);
                b.append_data(&mut h, "x", path.as_bytes()).unwrap();
                add(b, "f", b"");
            }
        });
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let limits = Limits {
            path_depth: usize::MAX,
            ..Limits::default()
        };
        let (scratch, cancel) = (Scratch::system(), Cancel::new());
        let opening = Opening {
            platform: None,
            limits: &limits,
            max_layers: 1000,
            scratch: &scratch,
            cancel: &cancel,
        };
        let e = Archive::from_file(file.try_clone().unwrap(), &opening).unwrap_err();
        assert!(
            e.kind() == Kind::Limit && e.message().contains("names"),
            "{e}"
        );
        cancel.cancel();
        let e = Archive::from_file(file, &opening).unwrap_err();
        assert_eq!(e.kind(), Kind::Cancelled);
    }

    #[test]
    fn damage_is_noticed() {
        let all = sample();
        for cut in [100, 512 + 50_000, 512 + 100_352 + 100] {
            assert!(open(&all[..cut]).is_err(), "{cut}");
        }
        let e = open(b"this is no archive at all").unwrap_err();
        assert_eq!(e.kind(), Kind::BadInput);
        assert!(open(b"").unwrap().members.is_empty());
    }
}
