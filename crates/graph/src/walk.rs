//! Reading trees through directory descriptors, however deep: every directory is opened by its
//! path from the root, without following symlinks, so that no depth needs more descriptors.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags, openat,
        openat2, statat,
    },
    io::Errno,
};
use unlade_unpack::{Error, Result};

/// How directories are opened that are to be read.
pub const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Bytes of a path given to the kernel at once; it takes 4096.
const PIECE: usize = 3500;

/// Bytes of a path for a message: text as it is, the rest escaped.
pub fn show(path: &[u8]) -> String {
    const MOST: usize = 200;
    if path.len() > MOST {
        return format!("{}... ({} bytes)", path[..MOST].escape_ascii(), path.len());
    }
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => path.escape_ascii().to_string(),
    }
}

/// `dir/name`, or `name` at the root.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        name.to_vec()
    } else {
        [dir, b"/", name].concat()
    }
}

/// Splits the last component off a path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Opens the directory at a path below `root`, empty for the root itself. No symlink of the path is
/// followed.
///
/// # Errors
/// If it cannot be opened, or is no directory.
pub fn open(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    if path.is_empty() {
        return openat(root, c".", DIRECTORY, Mode::empty());
    }
    let mut at: Option<OwnedFd> = None;
    let mut rest = path;
    while !rest.is_empty() {
        let end = if rest.len() <= PIECE {
            rest.len()
        } else {
            let slash = rest[..PIECE].iter().rposition(|&b| b == b'/');
            slash.ok_or(Errno::NAMETOOLONG)?
        };
        let from = at.as_ref().map_or(root, std::os::fd::AsFd::as_fd);
        let next = open_piece(from, &rest[..end])?;
        at = Some(next);
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    at.ok_or(Errno::NOENT)
}

fn open_piece(from: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(from, path, DIRECTORY, Mode::empty(), resolve) {
        // Sandboxes that do not know the call; EAGAIN when something moved meanwhile.
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {}
        done => return done,
    }
    let mut at: Option<OwnedFd> = None;
    for name in path.split(|&b| b == b'/') {
        let from = at.as_ref().map_or(from, std::os::fd::AsFd::as_fd);
        at = Some(openat(from, name, DIRECTORY, Mode::empty())?);
    }
    at.ok_or(Errno::NOENT)
}

/// Names in a directory, sorted.
///
/// # Errors
/// If it cannot be read.
pub fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether it is overlayfs's whiteout.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// A name found on a walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    /// The directory it is in.
    pub(crate) dir: BorrowedFd<'a>,
    /// Its name in that.
    pub(crate) name: &'a CStr,
    /// Its path from the root, without a leading slash.
    pub(crate) path: &'a [u8],
    /// What it is.
    pub(crate) stat: &'a Stat,
}

impl Found<'_> {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// Calls `visit` with everything below `root`, directories before what is in them.
///
/// # Errors
/// From `visit`, or if the tree cannot be read.
pub(crate) fn walk(
    root: BorrowedFd<'_>,
    mut visit: impl FnMut(&Found<'_>) -> Result<()>,
) -> Result<()> {
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let host = |e| Error::host(format!("read the directory `{}`", show(&path)), e);
        // Gone meanwhile, but for the root, or something else by now.
        let gone = |e: Errno| !path.is_empty() && matches!(e, Errno::NOENT | Errno::NOTDIR);
        let dir = match open(root, &path) {
            Err(e) if gone(e) => continue,
            dir => dir.map_err(host)?,
        };
        let dir = std::os::fd::AsFd::as_fd(&dir);
        let from = todo.len();
        let names = match names(dir) {
            Err(e) if gone(e) => continue,
            names => names.map_err(host)?,
        };
        for name in names {
            let real = join(&path, name.to_bytes());
            let stat = match statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                // Gone meanwhile, or a whiteout that overlayfs lists and does not show.
                Err(Errno::NOENT) => continue,
                done => done.map_err(|e| Error::host(format!("look at `{}`", show(&real)), e))?,
            };
            let found = Found {
                dir,
                name: &name,
                path: &real,
                stat: &stat,
            };
            visit(&found)?;
            if found.kind() == FileType::Directory {
                todo.push(real);
            }
        }
        todo[from..].reverse();
    }
    Ok(())
}

/// Extended attributes that a layer may have, by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What is a tree's own; all else belongs to the host or to a file system.
fn is_ours(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

/// The path by which calls without descriptors reach `name` in `dir`.
fn in_proc(dir: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    path
}

/// Extended attributes of `name` in `dir`, which is not followed.
pub(crate) fn xattrs(dir: BorrowedFd<'_>, name: &CStr) -> Result<Xattrs, Errno> {
    let path = in_proc(dir, name);
    read_xattrs(
        |names| fs::llistxattr(&*path, names),
        |name, value| fs::lgetxattr(&*path, name, value),
    )
}

/// Extended attributes of what `handle` stands for, which may be an `O_PATH` descriptor of
/// anything.
///
/// # Errors
/// If they cannot be read.
pub fn xattrs_of(handle: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    // The link of a descriptor leads to what it stands for, and no further.
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    read_xattrs(
        |names| fs::listxattr(&*path, names),
        |name, value| fs::getxattr(&*path, name, value),
    )
}

fn read_xattrs(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, Errno> {
    let mut names = vec![0_u8; 1024];
    let len = loop {
        match list(&mut names) {
            Ok(len) => break len,
            Err(Errno::RANGE) if names.len() < 65536 => names = vec![0; 65536],
            Err(Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
            Err(e) => return Err(e),
        }
    };
    let mut out = Xattrs::new();
    for name in names[..len].split(|&b| b == 0).filter(|n| is_ours(n)) {
        let mut value = vec![0_u8; 256];
        let len = loop {
            match get(name, &mut value) {
                Ok(len) => break len,
                Err(Errno::RANGE) if value.len() < 65536 => value = vec![0; 65536],
                Err(e) => return Err(e),
            }
        };
        value.truncate(len);
        out.push((name.to_vec(), value));
    }
    out.sort();
    Ok(out)
}

/// Sets extended attributes on `name` in `dir`, which is not followed.
pub(crate) fn set_xattrs(dir: BorrowedFd<'_>, name: &CStr, xattrs: &Xattrs) -> Result<(), Errno> {
    if xattrs.is_empty() {
        return Ok(());
    }
    let path = in_proc(dir, name);
    for (key, value) in xattrs {
        fs::lsetxattr(&*path, &**key, value, XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{CWD, mkdirat};

    use super::*;

    #[test]
    fn deeper_than_a_path_and_all_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let top = openat(CWD, dir.path(), DIRECTORY, Mode::empty()).unwrap();
        let mut at = top.try_clone().unwrap();
        for _ in 0..100 {
            let name = "d".repeat(100);
            mkdirat(&at, &name, Mode::RWXU).unwrap();
            mkdirat(&at, "e", Mode::RWXU).unwrap();
            at = openat(&at, &name, DIRECTORY, Mode::empty()).unwrap();
        }
        let mut seen = Vec::new();
        walk(top.as_fd(), |found| {
            seen.push(found.path.to_vec());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen.len(), 200);
        assert!(seen.iter().any(|p| p.len() == 100 * 101 - 1));
        assert_eq!(seen[1].last(), Some(&b'e'));
        crate::remove::clear(top.as_fd()).unwrap();
    }

    #[test]
    fn paths_for_messages() {
        assert_eq!(show("a/ü".as_bytes()), "a/ü");
        assert_eq!(show(b"a\n\xff"), "a\\n\\xff");
        assert_eq!(split(b"a/b/c"), (b"a/b".as_slice(), b"c".as_slice()));
        assert_eq!((join(b"", b"c"), split(b"c").0), (b"c".to_vec(), &b""[..]));
    }
}
