//! The directory beside DEST in which a tree grows until it may be seen.
//!
//! `.NAME.unlade-XXXXXX` is for the caller alone (mode 0700), so half a tree with setuid files
//! is out of reach of others. It is locked while its process lives: whoever finds one that is
//! not locked removes it. The tree itself is `tree` in it.

use std::{
    ffi::{CString, OsStr},
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{
        AtFlags, Dir, FlockOperation, Mode, OFlags, Stat, fchmod, fchown, flock, fremovexattr,
        fstat, mkdirat, openat, statat, unlinkat,
    },
    io::Errno,
    process::{getegid, geteuid},
};
use unlade_graph::remove::{self, Locked};

/// Name of the tree in the staging directory.
pub(super) const TREE: &str = "tree";
const SUFFIX_LEN: usize = 6;
const LETTERS: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345679";
const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A staging directory; dropped, it and all in it are gone.
#[derive(Debug)]
pub(super) struct Dir700 {
    parent: OwnedFd,
    pub(super) name: CString,
    /// Holds the lock.
    pub(super) fd: OwnedFd,
    /// Given up for the removal, which must work when the process has no descriptors left.
    spare: Vec<OwnedFd>,
}

/// `.NAME.unlade-`, shortened so that the whole still is a valid name.
fn prefix(name: &OsStr) -> Vec<u8> {
    let name = name.as_bytes();
    [b".", &name[..name.len().min(230)], b".unlade-"].concat()
}

fn same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

impl Dir700 {
    /// Makes and locks a staging directory for DEST's `name` in `parent`.
    pub(super) fn new(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Self> {
        for _ in 0..100 {
            let mut random = RandomState::new().build_hasher().finish();
            let mut bytes = prefix(name);
            for _ in 0..SUFFIX_LEN {
                bytes.push(LETTERS[usize::try_from(random & 31).unwrap_or_default()]);
                random >>= 5;
            }
            let name = CString::new(bytes)?;
            match mkdirat(parent, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                done => done?,
            }
            match Self::claim(parent, &name) {
                Ok(Some(dir)) => return Ok(dir),
                Ok(None) => {}
                Err(e) => {
                    // Nobody else would: there is no lock on it yet that could be found free.
                    let _ = unlinkat(parent, &name, AtFlags::REMOVEDIR);
                    return Err(e);
                }
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Opens and locks what was just made; `None` if another process took it for a leftover.
    fn claim(parent: BorrowedFd<'_>, name: &CString) -> io::Result<Option<Self>> {
        let fd = match openat(parent, name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            done => done?,
        };
        if !lock(&fd)? || !still_there(parent, name, &fd)? {
            return Ok(None);
        }
        let dup = |_| parent.try_clone_to_owned();
        let spare = (0..remove::DESCRIPTORS)
            .map(dup)
            .collect::<io::Result<_>>()?;
        no_inheritance(&fd)?;
        Ok(Some(Self {
            parent: parent.try_clone_to_owned()?,
            name: name.clone(),
            fd,
            spare,
        }))
    }

    /// Removes all that is in the directory.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.spare.clear();
        remove::clear_tree(self.fd.as_fd(), Locked::Keep).map(drop)
    }

    /// Makes the root of the tree.
    pub(super) fn tree(&self) -> io::Result<OwnedFd> {
        mkdirat(&self.fd, TREE, Mode::RWXU)?;
        let tree = openat(&self.fd, TREE, DIRECTORY, Mode::empty())?;
        // The group may be the parent's where the file system is mounted so.
        fchown(&tree, None, Some(getegid()))?;
        fchmod(&tree, Mode::from_raw_mode(0o755))?;
        Ok(tree)
    }
}

impl Drop for Dir700 {
    fn drop(&mut self) {
        self.spare.clear();
        if let Err(e) = remove::remove_tree(
            self.parent.as_fd(),
            &self.name,
            self.fd.as_fd(),
            Locked::Keep,
        ) {
            tracing::warn!(name = ?self.name, error = %e, "staging directory is left behind");
        }
    }
}

/// Undoes what the parent hands down: default ACLs, the setgid bit.
fn no_inheritance(fd: &OwnedFd) -> io::Result<()> {
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        match fremovexattr(fd, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(fchmod(fd, Mode::RWXU)?)
}

/// Whether the lock could be had.
fn lock(fd: &OwnedFd) -> io::Result<bool> {
    match flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn still_there(parent: BorrowedFd<'_>, name: &CString, fd: &OwnedFd) -> io::Result<bool> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(same(&stat, &fstat(fd)?)),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Removes what dead processes left beside DEST's `name`. What cannot be removed stays.
pub(super) fn sweep(parent: BorrowedFd<'_>, name: &OsStr) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(list) = openat(parent, c".", flags, Mode::empty()).and_then(Dir::new) else {
        return;
    };
    let prefix = prefix(name);
    for entry in list.filter_map(Result::ok) {
        let name = entry.file_name();
        let suffix = name.to_bytes().strip_prefix(&prefix[..]);
        if suffix.is_some_and(|s| s.len() == SUFFIX_LEN && s.iter().all(|b| LETTERS.contains(b)))
            && let Err(e) = sweep_one(parent, &name.to_owned())
        {
            tracing::debug!(?name, error = %e, "leftover stays");
        }
    }
}

fn sweep_one(parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    let fd = openat(parent, name, DIRECTORY, Mode::empty())?;
    let stat = fstat(&fd)?;
    let ours = stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o7777 == 0o700;
    if ours && lock(&fd)? && still_there(parent, name, &fd)? {
        tracing::debug!(?name, "removing a leftover");
        remove::remove_tree(parent, name, fd.as_fd(), Locked::Keep)?;
    }
    Ok(())
}
