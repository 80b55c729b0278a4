//! Overlay: what a hard link names and only a lower layer has is copied into this one, so that
//! both names are one file in the merged tree.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, SeekFrom, Stat},
    io::Errno,
};

use super::dir::Builder;
use crate::{
    attrs,
    error::{Error, Result, show},
    io::{owner, timestamps},
    root::{Attrs, Dir, Lower, Root, chmod_handle},
};

/// Copies `name` of the lower layers into `dir`, unless `dir` has one. Whether `dir` has it then,
/// which a whiteout is not.
pub(super) fn copy_up(
    root: &mut Root,
    work: &mut Builder,
    dir: &Arc<Dir>,
    name: &[u8],
) -> Result<bool> {
    if let Some(has) = own(dir, name)? {
        return Ok(has);
    }
    let Some((from, st)) = root.lower_node(dir, name)? else {
        return Ok(false);
    };
    work.touch(dir);
    if FileType::from_raw_mode(st.st_mode) == FileType::RegularFile {
        file(work, &from, &st, dir, name)?;
    } else {
        node(work, &from, &st, dir, name)?;
    }
    Ok(true)
}

/// Whether the merged tree has `name` in `dir`.
pub(super) fn merged_has(root: &Root, dir: &Dir, name: &[u8]) -> Result<bool> {
    match own(dir, name)? {
        Some(has) => Ok(has),
        None => Ok(!matches!(root.lower_child(dir, name)?, Lower::Absent)),
    }
}

/// Whether this layer has `name` in `dir`; `None` if it says nothing of it.
fn own(dir: &Dir, name: &[u8]) -> Result<Option<bool>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(st) => {
            let device = FileType::from_raw_mode(st.st_mode) == FileType::CharacterDevice;
            Ok(Some(!(device && st.st_rdev == 0)))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(Error::host(format!("look at `{}`", show(name)), e)),
    }
}

fn host(name: &[u8]) -> impl Fn(Errno) -> Error + Copy + '_ {
    |e| Error::host(format!("copy `{}` from a lower layer", show(name)), e)
}

fn file(work: &Builder, from: &OwnedFd, st: &Stat, dir: &Dir, name: &[u8]) -> Result<()> {
    let host = host(name);
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = fs::openat(from, name, flags | OFlags::RDONLY, Mode::empty()).map_err(host)?;
    let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let to = fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(host)?;
    copy_data(
        work,
        &from,
        &to,
        u64::try_from(st.st_size).unwrap_or_default(),
        host,
    )?;
    let attrs = Attrs::of(st);
    if work.may_chown() {
        let (uid, gid) = owner(attrs.uid, attrs.gid);
        fs::fchown(&to, uid, gid).map_err(host)?;
    }
    let xattrs = attrs::read_xattrs(from.as_fd())?;
    attrs::apply_xattrs(to.as_fd(), &xattrs, &mut |_, _| {})?;
    fs::fchmod(&to, Mode::from_raw_mode(attrs.mode)).map_err(host)?;
    fs::futimens(&to, &timestamps(attrs.mtime)).map_err(host)
}

/// Copies what is stored of a file of `size` bytes; holes stay holes.
fn copy_data(
    work: &Builder,
    from: &OwnedFd,
    to: &OwnedFd,
    size: u64,
    host: impl Fn(Errno) -> Error + Copy,
) -> Result<()> {
    let mut at = 0;
    while at < size {
        at = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(host(e)),
        };
        let end = fs::seek(from, SeekFrom::Hole(at)).map_err(host)?.min(size);
        let mut there = at;
        while at < end {
            work.check_cancelled()?;
            let most = usize::try_from((end - at).min(64 << 20)).unwrap_or(64 << 20);
            let copied = fs::copy_file_range(from, Some(&mut at), to, Some(&mut there), most);
            if copied.map_err(host)? == 0 {
                return Err(host(Errno::IO));
            }
        }
    }
    fs::ftruncate(to, size).map_err(host)
}

/// A symlink, fifo or device: by handles, as none of them can be opened.
fn node(work: &Builder, from: &OwnedFd, st: &Stat, dir: &Dir, name: &[u8]) -> Result<()> {
    let host = host(name);
    let attrs = Attrs::of(st);
    let kind = FileType::from_raw_mode(st.st_mode);
    if kind == FileType::Symlink {
        let target = fs::readlinkat(from, name, Vec::new()).map_err(host)?;
        fs::symlinkat(target, dir, name).map_err(host)?;
    } else {
        fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, st.st_rdev).map_err(host)?;
    }
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    if work.may_chown() {
        let (uid, gid) = owner(attrs.uid, attrs.gid);
        fs::chownat(dir, name, uid, gid, nofollow).map_err(host)?;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = fs::openat(from, name, flags, Mode::empty()).map_err(host)?;
    let to = fs::openat(dir, name, flags, Mode::empty()).map_err(host)?;
    attrs::copy_by_handle(from.as_fd(), to.as_fd())?;
    if kind != FileType::Symlink {
        chmod_handle(to.as_fd(), attrs.mode).map_err(host)?;
    }
    fs::utimensat(dir, name, &timestamps(attrs.mtime), nofollow).map_err(host)
}
