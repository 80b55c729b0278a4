//! What a layer put where: a compact log, written while the layer is applied, by which its tree
//! can be checked later without the layer's blob.
//!
//! ```text
//! file    = "unlade-record-1\n" item* end
//! item    = 1 path node | 2 path path (a hard link and its target) | 3 path (and all under it go)
//! node    = kind mode uid gid seconds nanoseconds size blake3[32]
//! end     = 0 blake3[32] of all bytes before it
//! path    = length bytes
//! ```
//!
//! Numbers are LEB128. Items are in the order in which things happened, so a later one for the
//! same path wins. The digest is of a file's content or of a symlink's target, else zeros.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, BufReader, BufWriter, Read, Write},
};

use crate::{
    entry::{EntryKind, Meta, Time},
    error::{Error, Kind, Result},
};

const MAGIC: &[u8] = b"unlade-record-1\n";
const END: u8 = 0;
const NODE: u8 = 1;
const LINK: u8 = 2;
const GONE: u8 = 3;
/// Longest path in a record, in bytes.
const PATH_MAX: u64 = 1 << 20;

/// The type of a recorded path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordedKind {
    /// A regular file.
    File,
    /// A directory that the layer lists.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A hard link to a file that the layers below have.
    LowerLink,
}

const KINDS: [RecordedKind; 7] = [
    RecordedKind::File,
    RecordedKind::Dir,
    RecordedKind::Symlink,
    RecordedKind::Char,
    RecordedKind::Block,
    RecordedKind::Fifo,
    RecordedKind::LowerLink,
];

/// What a layer says of one path of its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recorded {
    /// Type.
    pub kind: RecordedKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner, as the layer says.
    pub uid: u32,
    /// Group, as the layer says.
    pub gid: u32,
    /// Time of last modification, as the layer says.
    pub mtime: Time,
    /// Bytes of a file, or of a symlink's target.
    pub size: u64,
    /// blake3 of the file's content, holes read as zeros, or of the symlink's target.
    pub blake3: [u8; 32],
}

/// A record on its way to `to`; every byte also goes through the digest at its end.
pub(crate) struct Recorder {
    to: BufWriter<Box<dyn Write + Send>>,
    sum: blake3::Hasher,
    item: Vec<u8>,
    file: Option<(Box<[u8]>, Recorded, blake3::Hasher, u64)>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

fn failed(e: io::Error) -> Error {
    Error::host("write the record of a layer", e)
}

/// Zeros for the digest of holes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Recorder {
    pub(crate) fn new(to: Box<dyn Write + Send>) -> Result<Self> {
        let mut this = Self {
            to: BufWriter::with_capacity(64 << 10, to),
            sum: blake3::Hasher::new(),
            item: MAGIC.to_vec(),
            file: None,
        };
        this.put()?;
        Ok(this)
    }

    fn put(&mut self) -> Result<()> {
        self.sum.update(&self.item);
        let done = self.to.write_all(&self.item).map_err(failed);
        self.item.clear();
        done
    }

    fn path(&mut self, path: &[u8]) {
        number(&mut self.item, path.len() as u64);
        self.item.extend_from_slice(path);
    }

    fn node(&mut self, path: &[u8], node: &Recorded) -> Result<()> {
        self.item.push(NODE);
        self.path(path);
        let kind = KINDS.iter().position(|k| *k == node.kind).unwrap_or(0);
        let secs = node.mtime.secs;
        // Zigzag: small numbers of either sign stay short.
        let secs = (secs.wrapping_shl(1) ^ (secs >> 63)).cast_unsigned();
        let numbers = [
            kind as u64,
            node.mode.into(),
            node.uid.into(),
            node.gid.into(),
            secs,
            node.mtime.nanos.into(),
            node.size,
        ];
        for n in numbers {
            number(&mut self.item, n);
        }
        self.item.extend_from_slice(&node.blake3);
        self.put()
    }

    /// An entry that was placed at `real`. A file's content follows.
    pub(crate) fn entry(&mut self, real: &[u8], kind: &EntryKind, meta: &Meta) -> Result<()> {
        let (kind, size, target): (_, _, &[u8]) = match kind {
            EntryKind::File { size, .. } => (RecordedKind::File, *size, &[]),
            EntryKind::Dir => (RecordedKind::Dir, 0, &[]),
            EntryKind::Symlink { target } => (RecordedKind::Symlink, target.len() as u64, target),
            EntryKind::Char { .. } => (RecordedKind::Char, 0, &[]),
            EntryKind::Block { .. } => (RecordedKind::Block, 0, &[]),
            EntryKind::Fifo => (RecordedKind::Fifo, 0, &[]),
            EntryKind::HardLink { .. } => return Ok(()),
        };
        let node = Recorded {
            kind,
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime: meta.mtime,
            size,
            blake3: if target.is_empty() {
                [0; 32]
            } else {
                *blake3::hash(target).as_bytes()
            },
        };
        if kind == RecordedKind::File {
            self.file = Some((real.into(), node, blake3::Hasher::new(), 0));
            return Ok(());
        }
        self.node(real, &node)
    }

    /// Content of the file, at `at` in it.
    pub(crate) fn payload(&mut self, at: u64, bytes: &[u8]) {
        if let Some((_, _, hasher, end)) = &mut self.file {
            hole(hasher, end, at);
            hasher.update(bytes);
            *end += bytes.len() as u64;
        }
    }

    /// The file is complete.
    pub(crate) fn end_file(&mut self) -> Result<()> {
        let Some((real, mut node, mut hasher, mut end)) = self.file.take() else {
            return Ok(());
        };
        hole(&mut hasher, &mut end, node.size);
        node.blake3 = *hasher.finalize().as_bytes();
        self.node(&real, &node)
    }

    /// `real` has become another name of `target`.
    pub(crate) fn link(&mut self, real: &[u8], target: &[u8]) -> Result<()> {
        self.item.push(LINK);
        self.path(real);
        self.path(target);
        self.put()
    }

    /// `real` and all under it were removed.
    pub(crate) fn gone(&mut self, real: &[u8]) -> Result<()> {
        self.item.push(GONE);
        self.path(real);
        self.put()
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.item.push(END);
        self.put()?;
        let sum = self.sum.finalize();
        self.to.write_all(sum.as_bytes()).map_err(failed)?;
        self.to.flush().map_err(failed)
    }
}

fn hole(hasher: &mut blake3::Hasher, end: &mut u64, to: u64) {
    while *end < to {
        let n = usize::try_from(to - *end).map_or(ZEROS.len(), |n| n.min(ZEROS.len()));
        hasher.update(&ZEROS[..n]);
        *end += n as u64;
    }
}

fn number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

/// Reads a record: the paths of the layer's own tree, with what the layer says of each.
///
/// # Errors
/// [`Kind::Integrity`] for a record that is damaged or cut, [`Kind::Host`] if reading fails.
pub fn read(from: impl Read) -> Result<BTreeMap<Box<[u8]>, Recorded>> {
    let mut paths = BTreeMap::new();
    read_over(&mut paths, from)?;
    Ok(paths)
}

/// Reads the record of a layer that was applied to a tree which `paths` were recorded of, and
/// makes them those of the tree after it. After an error `paths` mean nothing.
///
/// # Errors
/// As for [`read`].
pub fn read_over(paths: &mut BTreeMap<Box<[u8]>, Recorded>, from: impl Read) -> Result<()> {
    let mut reader = Reader {
        from: BufReader::with_capacity(64 << 10, from),
        sum: blake3::Hasher::new(),
    };
    if reader.bytes(MAGIC.len())? != MAGIC {
        return Err(damaged("it does not begin as one"));
    }
    loop {
        match reader.byte()? {
            NODE => {
                let path = reader.path()?;
                let node = reader.node()?;
                if node.kind != RecordedKind::Dir {
                    remove(paths, &path);
                }
                paths.insert(path, node);
            }
            LINK => {
                let (path, target) = (reader.path()?, reader.path()?);
                let node = paths.get(&target).copied().unwrap_or(LOWER);
                remove(paths, &path);
                paths.insert(path, node);
            }
            GONE => remove(paths, &reader.path()?),
            END => break,
            _ => return Err(damaged("an item is of no known type")),
        }
    }
    let sum = reader.sum.finalize();
    if reader.bytes(32)? != sum.as_bytes() {
        return Err(damaged("its digest does not hold"));
    }
    Ok(())
}

const LOWER: Recorded = Recorded {
    kind: RecordedKind::LowerLink,
    mode: 0,
    uid: 0,
    gid: 0,
    mtime: Time { secs: 0, nanos: 0 },
    size: 0,
    blake3: [0; 32],
};

fn remove(paths: &mut BTreeMap<Box<[u8]>, Recorded>, path: &[u8]) {
    paths.remove(path);
    // `0` is the byte after `/`: the range holds just the names under it.
    let (from, to) = ([path, b"/"].concat(), [path, b"0"].concat());
    let range = Box::<[u8]>::from(from)..Box::<[u8]>::from(to);
    let under: Vec<_> = paths.range(range).map(|(k, _)| k.clone()).collect();
    for path in under {
        paths.remove(&path);
    }
}

fn damaged(why: &str) -> Error {
    Error::new(
        Kind::Integrity,
        format!("the record of a layer is damaged: {why}"),
    )
    .with_hint("fetch the layer again")
}

struct Reader<R> {
    from: BufReader<R>,
    sum: blake3::Hasher,
}

impl<R: Read> Reader<R> {
    fn bytes(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let limit = (&mut self.from).take(n as u64);
        { limit }
            .read_to_end(&mut out)
            .map_err(|e| Error::host("read the record of a layer", e))?;
        if out.len() < n {
            return Err(damaged("it is cut"));
        }
        self.sum.update(&out);
        Ok(out)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.bytes(1)?[0])
    }

    fn number(&mut self) -> Result<u64> {
        let (mut n, mut shift) = (0_u64, 0);
        loop {
            let byte = self.byte()?;
            let low = u64::from(byte & 0x7f);
            if shift > 63 || (shift == 63 && low > 1) {
                return Err(damaged("a number is too large"));
            }
            n |= low << shift;
            shift += 7;
            if byte < 0x80 {
                return Ok(n);
            }
        }
    }

    fn small(&mut self) -> Result<u32> {
        u32::try_from(self.number()?).map_err(|_| damaged("a number is too large"))
    }

    fn path(&mut self) -> Result<Box<[u8]>> {
        let len = self.number()?;
        if len > PATH_MAX {
            return Err(damaged("a path is too long"));
        }
        let len = usize::try_from(len).map_err(|_| damaged("a path is too long"))?;
        Ok(self.bytes(len)?.into())
    }

    fn node(&mut self) -> Result<Recorded> {
        let kind = usize::try_from(self.number()?).ok();
        let kind = kind.and_then(|k| KINDS.get(k).copied());
        let kind = kind.ok_or_else(|| damaged("a path is of no known type"))?;
        let (mode, uid, gid) = (self.small()?, self.small()?, self.small()?);
        let secs = self.number()?;
        let secs = (secs >> 1).cast_signed() ^ -(secs & 1).cast_signed();
        let nanos = self.small()?;
        let size = self.number()?;
        let mut blake3 = [0; 32];
        blake3.copy_from_slice(&self.bytes(32)?);
        Ok(Recorded {
            kind,
            mode,
            uid,
            gid,
            mtime: Time { secs, nanos },
            size,
            blake3,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, b: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(b);
            Ok(b.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sample() -> Vec<u8> {
        let out = Out::default();
        let mut r = Recorder::new(Box::new(out.clone())).unwrap();
        let meta = Meta {
            mode: 0o4755,
            uid: 4_294_967_294,
            gid: 7,
            mtime: Time {
                secs: -5,
                nanos: 999,
            },
            ..Meta::default()
        };
        let file = EntryKind::File {
            size: 10,
            sparse: None,
        };
        r.entry(b"d", &EntryKind::Dir, &meta).unwrap();
        r.entry(b"d/f", &file, &meta).unwrap();
        r.payload(2, b"ab");
        r.end_file().unwrap();
        r.link(b"l", b"d/f").unwrap();
        r.link(b"m", b"not/here").unwrap();
        r.entry(
            b"s",
            &EntryKind::Symlink {
                target: b"t".as_slice().into(),
            },
            &meta,
        )
        .unwrap();
        r.gone(b"d").unwrap();
        r.finish().unwrap();
        let bytes = out.0.lock().unwrap();
        bytes.clone()
    }

    #[test]
    fn what_is_written_is_read() {
        let paths = read(&sample()[..]).unwrap();
        let names: Vec<&[u8]> = paths.keys().map(|k| &**k).collect();
        assert_eq!(names, [b"l".as_slice(), b"m", b"s"]);
        let l = paths[b"l".as_slice()];
        assert_eq!((l.kind, l.mode, l.size), (RecordedKind::File, 0o4755, 10));
        assert_eq!(
            (l.uid, l.mtime.secs, l.mtime.nanos),
            (4_294_967_294, -5, 999)
        );
        assert_eq!(l.blake3, *blake3::hash(b"\0\0ab\0\0\0\0\0\0").as_bytes());
        assert_eq!(paths[b"m".as_slice()].kind, RecordedKind::LowerLink);
        assert_eq!(
            paths[b"s".as_slice()].blake3,
            *blake3::hash(b"t").as_bytes()
        );
    }

    #[test]
    fn a_record_over_another() {
        let mut paths = read(&sample()[..]).unwrap();
        let out = Out::default();
        let mut r = Recorder::new(Box::new(out.clone())).unwrap();
        r.link(b"n", b"l").unwrap();
        r.gone(b"l").unwrap();
        r.entry(b"s", &EntryKind::Fifo, &Meta::default()).unwrap();
        r.finish().unwrap();
        let bytes = out.0.lock().unwrap().clone();
        read_over(&mut paths, &bytes[..]).unwrap();
        let names: Vec<&[u8]> = paths.keys().map(|k| &**k).collect();
        assert_eq!(names, [b"m".as_slice(), b"n", b"s"]);
        assert_eq!(paths[b"n".as_slice()].kind, RecordedKind::File);
        assert_eq!(paths[b"s".as_slice()].kind, RecordedKind::Fifo);
    }

    #[test]
    fn damage_is_seen() {
        let good = sample();
        for n in 0..good.len() {
            assert!(read(&good[..n]).is_err(), "cut at {n}");
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[n] ^= 1 << bit;
                assert!(read(&bad[..]).is_err(), "bit {bit} of byte {n}");
            }
        }
    }
}
