//! What is on disk as entries of a tar: every file is opened once, looked at, and read through
//! that handle, so that nobody can put another in its place meanwhile.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    fs::{
        CWD, FileType, Mode, OFlags, SeekFrom, Stat, fstat, major, minor, openat, readlinkat, seek,
    },
    io::Errno,
};
use unlade_graph::walk::{self, join, show};
use unlade_unpack::Cancel;

use super::header::{self, Header, Type};
use crate::error::{Error, Kind, Result};

/// Bytes that are copied at a time.
const CHUNK: usize = 256 << 10;
/// How what is to be looked at is opened: without any effect, whatever it is.
pub(crate) const HANDLE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// More parts than these, and a file is written with its holes filled.
const MOST_SEGMENTS: usize = 20_000;

/// Writes a tar of what is on disk.
pub(crate) struct Packer<'a> {
    out: Counted<'a>,
    cancel: &'a Cancel,
    /// Files with holes are written as GNU tar's sparse ones.
    holes: bool,
    /// Where the inodes with several names were written, and how many of these are to come.
    links: HashMap<(u64, u64), (Vec<u8>, u64)>,
    chunk: Vec<u8>,
}

impl std::fmt::Debug for Packer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer")
            .field("holes", &self.holes)
            .finish_non_exhaustive()
    }
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether a directory, given its path below the one that is packed, is gone into.
pub(crate) type Enter<'a> = &'a dyn Fn(&[u8], BorrowedFd<'_>) -> bool;

fn failed(e: io::Error) -> Error {
    Error::host("write the tar", e)
}

impl<'a> Packer<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, holes: bool, cancel: &'a Cancel) -> Self {
        Self {
            out: Counted { out, bytes: 0 },
            cancel,
            holes,
            links: HashMap::new(),
            chunk: Vec::new(),
        }
    }

    /// Adds what `handle` (opened as [`HANDLE`] says) stands for, under the name `path`, and all
    /// that is in it. With an empty path a directory has no entry itself, but what is in it has.
    pub(crate) fn tree(
        &mut self,
        handle: BorrowedFd<'_>,
        path: &[u8],
        enter: Enter<'_>,
    ) -> Result<()> {
        let stat = look(handle, path)?;
        if !is_dir(&stat) {
            return self.add(handle, path);
        }
        if !path.is_empty() {
            self.add(handle, path)?;
        }
        let host = |at: &[u8]| {
            let what = format!("read the directory `{}`", show(&join(path, at)));
            move |e: Errno| Error::host(what, e)
        };
        let root = openat(handle, c".", walk::DIRECTORY, Mode::empty()).map_err(host(b""))?;
        let mut todo = vec![Vec::new()];
        while let Some(at) = todo.pop() {
            let dir = match walk::open(root.as_fd(), &at) {
                // Somebody works in it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !at.is_empty() => continue,
                opened => opened.map_err(host(&at))?,
            };
            let from = todo.len();
            for name in walk::names(dir.as_fd()).map_err(host(&at))? {
                let below = join(&at, name.to_bytes());
                let handle = match openat(&dir, &name, HANDLE, Mode::empty()) {
                    Err(Errno::NOENT) => continue,
                    opened => opened.map_err(host(&below))?,
                };
                let full = join(path, &below);
                self.add(handle.as_fd(), &full)?;
                if is_dir(&look(handle.as_fd(), &full)?) && enter(&below, handle.as_fd()) {
                    todo.push(below);
                }
            }
            todo[from..].reverse();
        }
        Ok(())
    }

    /// Adds what `handle` stands for, without what is in it.
    pub(crate) fn add(&mut self, handle: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(Kind::Cancelled, "cancelled"));
        }
        let host = |e| Error::host(format!("look at `{}`", show(path)), e);
        let stat = look(handle, path)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let target;
        let dir_path;
        let mut header = Header {
            path,
            kind: Type::Fifo,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            xattrs: &[],
        };
        let xattrs = walk::xattrs_of(handle).map_err(host)?;
        header.xattrs = &xattrs;
        if kind != FileType::Directory
            && let Some(first) = self.linked(&stat, path)
        {
            header.kind = Type::HardLink(&first);
            header.xattrs = &[];
            return header::write(&mut self.out, &header).map_err(failed);
        }
        header.kind = match kind {
            FileType::RegularFile => return self.file(handle, &stat, header),
            FileType::Directory => {
                dir_path = [path, b"/"].concat();
                header.path = &dir_path;
                Type::Dir
            }
            FileType::Symlink => {
                target = readlinkat(handle, c"", Vec::new()).map_err(host)?;
                Type::Symlink(target.as_bytes())
            }
            FileType::CharacterDevice => Type::Char(major(stat.st_rdev), minor(stat.st_rdev)),
            FileType::BlockDevice => Type::Block(major(stat.st_rdev), minor(stat.st_rdev)),
            FileType::Fifo => Type::Fifo,
            // There is no entry for a socket; without its process it means nothing.
            _ => return Ok(()),
        };
        header::write(&mut self.out, &header).map_err(failed)
    }

    /// Adds a whiteout: what lower layers have at `path` is gone.
    pub(crate) fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let at = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let marker = [&path[..at], b".wh.", &path[at..]].concat();
        let header = Header {
            path: &marker,
            kind: Type::File(0),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: &[],
        };
        header::write(&mut self.out, &header).map_err(failed)
    }

    /// Ends the archive; how many bytes it has.
    pub(crate) fn finish(mut self) -> Result<u64> {
        header::end(&mut self.out)
            .and_then(|()| self.out.flush())
            .map_err(failed)?;
        Ok(self.out.bytes)
    }

    /// The name under which the inode was written already.
    #[allow(
        clippy::useless_conversion,
        reason = "the type of the number differs between architectures"
    )]
    fn linked(&mut self, stat: &Stat, path: &[u8]) -> Option<Vec<u8>> {
        let socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        if stat.st_nlink <= 1 || socket {
            return None;
        }
        let key = (stat.st_dev, stat.st_ino);
        let Some((first, left)) = self.links.get_mut(&key) else {
            let left = u64::from(stat.st_nlink) - 1;
            self.links.insert(key, (path.to_vec(), left));
            return None;
        };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return Some(first.clone());
        }
        self.links.remove(&key).map(|(first, _)| first)
    }

    fn file(&mut self, handle: BorrowedFd<'_>, stat: &Stat, mut header: Header<'_>) -> Result<()> {
        let path = header.path;
        let host = |e: Errno| Error::host(format!("open `{}`", show(path)), e);
        // Of a regular file, which it stays: the handle leads nowhere else.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let file = File::from(openat(CWD, link, flags, Mode::empty()).map_err(host)?);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let parts = if self.holes {
            segments(&file, stat, size)
        } else {
            None
        };
        let Some(parts) = parts else {
            header.kind = Type::File(size);
            header::write(&mut self.out, &header).map_err(failed)?;
            self.copy(&file, path, 0, size)?;
            return header::pad(&mut self.out, size).map_err(failed);
        };
        let mut map = format!("{}\n", parts.len());
        for (at, len) in &parts {
            map.push_str(&format!("{at}\n{len}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(512), 0);
        let stored = map.len() as u64 + parts.iter().map(|(_, len)| len).sum::<u64>();
        header.kind = Type::Sparse { size, stored };
        header::write(&mut self.out, &header).map_err(failed)?;
        self.out.write_all(&map).map_err(failed)?;
        for (at, len) in parts {
            self.copy(&file, path, at, len)?;
        }
        header::pad(&mut self.out, stored).map_err(failed)
    }

    /// Copies a part of a file. What was cut off meanwhile is zeros, as with any tar.
    fn copy(&mut self, file: &File, path: &[u8], mut at: u64, len: u64) -> Result<()> {
        self.chunk.resize(CHUNK, 0);
        let end = at + len;
        let mut gone = false;
        while at < end {
            if self.cancel.is_cancelled() {
                return Err(Error::new(Kind::Cancelled, "cancelled"));
            }
            let most = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let n = match file.read_at(&mut self.chunk[..most], at) {
                _ if gone => most,
                Ok(0) => {
                    gone = true;
                    self.chunk.fill(0);
                    most
                }
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::host(format!("read `{}`", show(path)), e)),
            };
            self.out.write_all(&self.chunk[..n]).map_err(failed)?;
            at += n as u64;
        }
        Ok(())
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn look(handle: BorrowedFd<'_>, path: &[u8]) -> Result<Stat> {
    fstat(handle).map_err(|e| Error::host(format!("look at `{}`", show(path)), e))
}

/// The parts of a file that hold data, where it has holes and their number is bounded.
fn segments(file: &File, stat: &Stat, size: u64) -> Option<Vec<(u64, u64)>> {
    let held = u64::try_from(stat.st_blocks).ok()?.checked_mul(512)?;
    if held >= size {
        return None;
    }
    let mut parts = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = seek(file, SeekFrom::Hole(start)).ok()?.min(size);
        if end <= start || parts.len() == MOST_SEGMENTS {
            return None;
        }
        parts.push((start, end - start));
        at = end;
    }
    let all = parts == [(0, size)];
    // The last byte of the file is named, so that every reader makes it as long.
    if parts.last().is_none_or(|(at, len)| at + len < size) {
        parts.push((size, 0));
    }
    (!all).then_some(parts)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{FileExt, MetadataExt, symlink},
    };

    use unlade_unpack::{DirOptions, Expect, Unpacker, Whiteouts, source::BytesSource};

    use super::*;

    fn packed(dir: &std::path::Path, holes: bool, path: &[u8], enter: Enter<'_>) -> Vec<u8> {
        let cancel = Cancel::new();
        let mut out = Vec::new();
        let handle = openat(CWD, dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut packer = Packer::new(&mut out, holes, &cancel);
        packer.tree(handle.as_fd(), path, enter).unwrap();
        let bytes = packer.finish().unwrap();
        assert_eq!(bytes, out.len() as u64);
        out
    }

    fn unpacked(tar: Vec<u8>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let fd = openat(CWD, dir.path(), walk::DIRECTORY, Mode::empty()).unwrap();
        let mut options = DirOptions::default();
        options.whiteouts = Whiteouts::Keep;
        let unpacker = Unpacker::new();
        let mut sink = unpacker.dir_sink(fd, options).unwrap();
        unpacker
            .run(BytesSource::new(tar), Expect::default(), &mut sink)
            .unwrap();
        drop(sink);
        dir
    }

    #[test]
    fn what_comes_out_is_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::write(at("d/file"), b"hello").unwrap();
        fs::hard_link(at("d/file"), at("d/e/link")).unwrap();
        symlink("/etc/passwd", at("d/out")).unwrap();
        let sparse = File::create(at("d/sparse")).unwrap();
        sparse.set_len(8 << 20).unwrap();
        sparse.write_all_at(b"x", 4 << 20).unwrap();
        drop(sparse);
        for holes in [false, true] {
            let tar = packed(dir.path(), holes, b"top", &|_, _| true);
            assert_eq!(tar.len() < 1 << 20, holes);
            let out = unpacked(tar);
            let got = |name: &str| out.path().join("top").join(name);
            assert_eq!(fs::read(got("d/file")).unwrap(), b"hello");
            let ino = |name: &str| fs::symlink_metadata(got(name)).unwrap().ino();
            assert_eq!(ino("d/file"), ino("d/e/link"));
            assert_eq!(
                fs::read_link(got("d/out")).unwrap().to_str(),
                Some("/etc/passwd")
            );
            assert_eq!(
                fs::read(got("d/sparse")).unwrap(),
                fs::read(at("d/sparse")).unwrap()
            );
            let then = fs::metadata(at("d/e")).unwrap();
            let now = fs::metadata(got("d/e")).unwrap();
            assert_eq!(
                (then.mtime_nsec(), then.mode()),
                (now.mtime_nsec(), now.mode())
            );
        }
    }

    #[test]
    fn without_a_name_and_not_everywhere() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::create_dir_all(dir.path().join("c/d")).unwrap();
        let tar = packed(dir.path(), false, b"", &|path, _| path != b"c");
        let out = unpacked(tar);
        assert!(out.path().join("a/b").exists() && out.path().join("c").exists());
        assert!(!out.path().join("c/d").exists());
    }

    #[test]
    fn whiteouts_stand_beside_what_they_hide() {
        let cancel = Cancel::new();
        let mut out = Vec::new();
        let mut packer = Packer::new(&mut out, false, &cancel);
        packer.whiteout(b"a/b").unwrap();
        packer.whiteout(b"c").unwrap();
        packer.finish().unwrap();
        let mut archive = tar::Archive::new(&out[..]);
        let names = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path_bytes().into_owned());
        assert_eq!(
            names.collect::<Vec<_>>(),
            [b"a/.wh.b".to_vec(), b".wh.c".to_vec()]
        );
    }
}
