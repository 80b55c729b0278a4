//! Clones trees: file by file, by copying or by sharing extents (`FICLONE`, on xfs and btrfs).
//!
//! Kept are owners, modes, times to the nanosecond, extended attributes that a layer may have,
//! hard links, devices and holes.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use rayon::prelude::*;
use rustix::{
    fs::{
        self, AtFlags, FileType, Gid, Mode, OFlags, SeekFrom as Seeking, Stat, Timespec,
        Timestamps, Uid, ioctl_ficlone, openat, statat,
    },
    io::Errno,
};
use unlade_unpack::{Error, Kind, Result, fault};

use crate::{
    driver::Usage,
    layout::Place,
    walk::{self, join, show, split},
};

/// How file content gets from one tree into the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// By copying.
    Copied,
    /// By sharing extents.
    Shared,
}

/// Makes the directory `name` in `place` a clone of `from`, or an empty one. Returns what that
/// takes, shared extents not counted.
pub(crate) fn fork(
    from: Option<BorrowedFd<'_>>,
    place: &Place,
    name: &str,
    content: Content,
) -> Result<(OwnedFd, Usage)> {
    fault::point("fork").map_err(|e| Error::host("clone a tree", e))?;
    let to = place.directory(name)?;
    let usage = match from {
        Some(from) => clone(from, to.as_fd(), content)?,
        None => Usage::default(),
    };
    Ok((to, usage))
}

/// Copies all that is below the directory `from`, and its own attributes, into the empty directory
/// `to`. Neither may change meanwhile.
///
/// # Errors
/// If something cannot be read or written; what was copied by then stays.
pub fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    clone(from, to, Content::Copied).map(|_| ())
}

/// A name of the tree that is cloned, not a directory.
struct Leaf {
    name: CString,
    stat: Stat,
}

/// A directory of it.
struct Branch {
    path: Vec<u8>,
    stat: Stat,
    leaves: Vec<Leaf>,
}

/// Clones what is below `from`, and its attributes, into the empty directory `to`.
fn clone(from: BorrowedFd<'_>, to: BorrowedFd<'_>, content: Content) -> Result<Usage> {
    let mut inodes = 1;
    let mut links: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut later: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let top = fs::fstat(from).map_err(|e| failed("look at", b"", e))?;
    let mut branches = vec![Branch {
        path: Vec::new(),
        stat: top,
        leaves: Vec::new(),
    }];
    let mut next = 0;
    while let Some(branch) = branches.get(next) {
        let path = branch.path.clone();
        let here = walk::open(from, &path).map_err(|e| failed("read", &path, e))?;
        let there = walk::open(to, &path).map_err(|e| failed("open the clone of", &path, e))?;
        for name in walk::names(here.as_fd()).map_err(|e| failed("read", &path, e))? {
            let real = join(&path, name.to_bytes());
            let stat = statat(&here, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| failed("look at", &real, e))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                fs::mkdirat(&there, &name, Mode::RWXU)
                    .map_err(|e| failed("make the clone of", &real, e))?;
                inodes += 1;
                branches.push(Branch {
                    path: real,
                    stat,
                    leaves: Vec::new(),
                });
                continue;
            }
            if stat.st_nlink > 1 {
                if let Some(first) = links.get(&stat.st_ino) {
                    later.push((first.clone(), real));
                    continue;
                }
                links.insert(stat.st_ino, real);
            }
            inodes += 1;
            branches[next].leaves.push(Leaf { name, stat });
        }
        next += 1;
    }

    let bytes = AtomicU64::new(0);
    let each = |branch: &Branch| -> Result<()> {
        if branch.leaves.is_empty() {
            return Ok(());
        }
        let here = walk::open(from, &branch.path).map_err(|e| failed("read", &branch.path, e))?;
        let there = walk::open(to, &branch.path)
            .map_err(|e| failed("open the clone of", &branch.path, e))?;
        for leaf in &branch.leaves {
            let took = clone_leaf(here.as_fd(), there.as_fd(), leaf, content)
                .map_err(|e| failed("clone", &join(&branch.path, leaf.name.to_bytes()), e))?;
            bytes.fetch_add(took, Ordering::Relaxed);
        }
        Ok(())
    };
    branches.par_iter().try_for_each(each)?;

    for (first, real) in later {
        let host = |e| failed("clone the link", &real, e);
        let (above, name) = split(&first);
        let old = walk::open(to, above).map_err(host)?;
        let (above, new_name) = split(&real);
        let new = walk::open(to, above).map_err(host)?;
        fs::linkat(&old, name, &new, new_name, AtFlags::empty()).map_err(host)?;
    }
    // Deepest first: what comes later changes the times of directories above.
    for branch in branches.iter().rev() {
        let host = |e| failed("set attributes of", &branch.path, e);
        let here = walk::open(from, &branch.path).map_err(host)?;
        let there = walk::open(to, &branch.path).map_err(host)?;
        attributes(here.as_fd(), there.as_fd(), c".", &branch.stat).map_err(host)?;
    }
    Ok(Usage {
        bytes: bytes.into_inner(),
        inodes,
    })
}

fn failed(doing: &str, path: &[u8], e: Errno) -> Error {
    let error = Error::host(format!("{doing} `{}`", show(path)), e);
    match e {
        Errno::OPNOTSUPP | Errno::NOTTY => {
            error.with_hint("this file system shares no extents: choose the graph driver copy")
        }
        _ => error,
    }
}

fn clone_leaf(
    here: BorrowedFd<'_>,
    there: BorrowedFd<'_>,
    leaf: &Leaf,
    content: Content,
) -> Result<u64, Errno> {
    let (name, stat) = (&*leaf.name, &leaf.stat);
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut took = 0;
    match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let from = openat(here, name, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let to = openat(there, name, flags, Mode::RUSR | Mode::WUSR)?;
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            match content {
                Content::Shared if size > 0 => ioctl_ficlone(&to, &from)?,
                Content::Shared => {}
                Content::Copied => took = copy_content(from, to, size)?,
            }
        }
        FileType::Symlink => {
            let target = fs::readlinkat(here, name, Vec::new())?;
            fs::symlinkat(&*target, there, name)?;
        }
        _ => {
            let mode = Mode::from_raw_mode(stat.st_mode);
            fs::mknodat(there, name, kind, mode, stat.st_rdev)?;
        }
    }
    attributes(here, there, name, stat)?;
    Ok(took)
}

/// Gives `name` in `there` the attributes of that in `here`: owner first, as a change of it takes
/// capabilities and mode bits away, and times last.
fn attributes(
    here: BorrowedFd<'_>,
    there: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
) -> Result<(), Errno> {
    let link = AtFlags::SYMLINK_NOFOLLOW;
    let now = statat(there, name, link)?;
    if (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid) {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        fs::chownat(there, name, Some(uid), Some(gid), link)?;
    }
    walk::set_xattrs(there, name, &walk::xattrs(here, name)?)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // What it names was made here and is no link, so none is followed.
        fs::chmodat(
            there,
            name,
            Mode::from_raw_mode(stat.st_mode & 0o7777),
            AtFlags::empty(),
        )?;
    }
    let time = |tv_sec, nanos| Timespec {
        tv_sec,
        tv_nsec: i64::try_from(nanos).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    fs::utimensat(there, name, &times, link)
}

/// Copies data and leaves holes; returns the bytes of data.
fn copy_content(from: OwnedFd, to: OwnedFd, size: u64) -> Result<u64, Errno> {
    fs::ftruncate(&to, size)?;
    let (mut at, mut took) = (0, 0);
    while at < size {
        let start = match fs::seek(&from, Seeking::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e),
        };
        let end = fs::seek(&from, Seeking::Hole(start))
            .unwrap_or(size)
            .min(size);
        copy_range(&from, &to, start, end)?;
        took += end.saturating_sub(start);
        at = end.max(start + 1);
    }
    Ok(took)
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let (mut at, mut out) = (start, start);
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(1 << 30).min(1 << 30);
        match fs::copy_file_range(from, Some(&mut at), to, Some(&mut out), len) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return copy_through(from, to, at, end);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// For kernels and file systems that do not copy themselves.
fn copy_through(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let copy = || -> std::io::Result<()> {
        let (mut from, mut to) = (File::from(from.try_clone()?), File::from(to.try_clone()?));
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        let mut rest = from.take(end - start);
        let mut buffer = vec![0; 128 << 10];
        loop {
            match rest.read(&mut buffer)? {
                0 => return Ok(()),
                n => to.write_all(&buffer[..n])?,
            }
        }
    };
    copy().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

/// Whether files under a place can share extents.
pub(crate) fn shares_extents(place: &Place) -> Result<()> {
    let mut from = place.file("from")?;
    let to = place.file("to")?;
    let host = |e| Error::host("share the extents of a file", e);
    from.write_all(&[1; 8192])
        .map_err(|e| Error::host("write a file", e))?;
    ioctl_ficlone(&to, &from).map_err(|e| match e {
        Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL => Error::new(
            Kind::Unsupported,
            "the file system shares no extents (xfs and btrfs do)",
        ),
        e => host(e),
    })
}
