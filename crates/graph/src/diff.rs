//! How a tree differs from the one that it was made of, with the kinds that `docker diff` has.
//!
//! A directory counts as modified if its attributes differ or a name in it is new or gone; what
//! is in a new or replaced directory is listed too, what was in one that is gone is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString},
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, fgetxattr, openat, readlinkat, statat},
    io::Errno,
};
use unlade_unpack::{Error, Result};

use crate::{
    driver::{Change, ChangeKind},
    walk::{self, join, show},
};

/// What the newer tree is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum New {
    /// All of it. What was last changed before this time (seconds, nanoseconds) need not be read.
    Whole { made: (i64, i64) },
    /// An overlay's upper directory: what is not in it is as before. The attribute marks
    /// directories that hide what was there.
    Upper { opaque: &'static str },
}

/// A directory that is to be compared.
struct Todo {
    path: Vec<u8>,
    /// The older tree has it.
    old: bool,
    /// What is not in the newer one is as before.
    partial: bool,
}

/// Compares `new` with `old`, both root directories; without `old` all is new. In path order.
///
/// # Errors
/// If a tree cannot be read.
pub(crate) fn changes(
    old: Option<BorrowedFd<'_>>,
    new: BorrowedFd<'_>,
    kind: New,
) -> Result<Vec<Change>> {
    let mut compare = Compare {
        kind,
        found: BTreeMap::new(),
        todo: vec![Todo {
            path: Vec::new(),
            old: old.is_some(),
            partial: matches!(kind, New::Upper { .. }),
        }],
    };
    while let Some(next) = compare.todo.pop() {
        compare.directory(old, new, &next)?;
    }
    let found = compare.found.into_iter();
    Ok(found.map(|(path, kind)| Change { path, kind }).collect())
}

struct Compare {
    kind: New,
    found: BTreeMap<Vec<u8>, ChangeKind>,
    todo: Vec<Todo>,
}

/// A name in one of the trees.
struct Node<'a> {
    dir: BorrowedFd<'a>,
    name: &'a CStr,
    stat: Stat,
}

impl Node<'_> {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

fn look<'a>(dir: BorrowedFd<'a>, name: &'a CStr) -> Result<Option<Node<'a>>, Errno> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(Node { dir, name, stat })),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Compare {
    fn directory(
        &mut self,
        old: Option<BorrowedFd<'_>>,
        new: BorrowedFd<'_>,
        at: &Todo,
    ) -> Result<()> {
        let host = |e| Error::host(format!("compare the directory `{}`", show(&at.path)), e);
        let new = match walk::open(new, &at.path) {
            // A running container changes it meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !at.path.is_empty() => return Ok(()),
            done => done.map_err(host)?,
        };
        let new = new.as_fd();
        let old: Option<OwnedFd> = match old.filter(|_| at.old) {
            Some(root) => Some(walk::open(root, &at.path).map_err(host)?),
            None => None,
        };
        let old = old.as_ref().map(AsFd::as_fd);
        let mut gone: BTreeSet<CString> = match old {
            Some(dir) if !at.partial => walk::names(dir).map_err(host)?.into_iter().collect(),
            _ => BTreeSet::new(),
        };
        let mut names_differ = false;
        for name in walk::names(new).map_err(host)? {
            let path = join(&at.path, name.to_bytes());
            let Some(now) = look(new, &name).map_err(host)? else {
                continue;
            };
            let then = match old {
                Some(dir) => look(dir, &name).map_err(host)?,
                None => None,
            };
            if matches!(self.kind, New::Upper { .. }) && walk::is_whiteout(&now.stat) {
                if at.partial && then.is_some() {
                    names_differ = true;
                    self.found.insert(path, ChangeKind::Deleted);
                }
                continue;
            }
            gone.remove(&name);
            names_differ |= then.is_none();
            self.name(path, then.as_ref(), &now, at.partial)?;
        }
        for name in gone {
            names_differ = true;
            let path = join(&at.path, name.to_bytes());
            self.found.insert(path, ChangeKind::Deleted);
        }
        if names_differ && at.old && !at.path.is_empty() {
            let path = at.path.clone();
            self.found.entry(path).or_insert(ChangeKind::Modified);
        }
        Ok(())
    }

    fn name(
        &mut self,
        path: Vec<u8>,
        then: Option<&Node<'_>>,
        now: &Node<'_>,
        partial: bool,
    ) -> Result<()> {
        let is_dir = |node: &Node<'_>| node.kind() == FileType::Directory;
        let both_dirs = is_dir(now) && then.is_some_and(is_dir);
        let change = match then {
            None => Some(ChangeKind::Added),
            Some(then) => self
                .differ(then, now)
                .map_err(|e| Error::host(format!("compare `{}`", show(&path)), e))?
                .then_some(ChangeKind::Modified),
        };
        if let Some(change) = change {
            self.found.insert(path.clone(), change);
        }
        if is_dir(now) {
            let partial = partial && both_dirs && !self.is_opaque(now);
            self.todo.push(Todo {
                path,
                old: both_dirs,
                partial,
            });
        }
        Ok(())
    }

    fn is_opaque(&self, dir: &Node<'_>) -> bool {
        let New::Upper { opaque } = self.kind else {
            return false;
        };
        let Ok(fd) = walk::open(dir.dir, dir.name.to_bytes()) else {
            return false;
        };
        let mut value = [0_u8; 2];
        fgetxattr(&fd, opaque, &mut value[..]).is_ok_and(|n| n == 1 && value[0] == b'y')
    }

    fn differ(&self, then: &Node<'_>, now: &Node<'_>) -> Result<bool, Errno> {
        let (a, b) = (&then.stat, &now.stat);
        let kind = now.kind();
        let time = |s: &Stat| (s.st_mtime, s.st_mtime_nsec);
        if (a.st_mode, a.st_uid, a.st_gid) != (b.st_mode, b.st_uid, b.st_gid) || time(a) != time(b)
        {
            return Ok(true);
        }
        let sized = matches!(kind, FileType::RegularFile | FileType::Symlink);
        if sized && a.st_size != b.st_size {
            return Ok(true);
        }
        if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
            && a.st_rdev != b.st_rdev
        {
            return Ok(true);
        }
        if let New::Whole { made } = self.kind {
            let nanos = i64::try_from(b.st_ctime_nsec).unwrap_or(0);
            if (b.st_ctime, nanos) < made {
                return Ok(false);
            }
        }
        if walk::xattrs(then.dir, then.name)? != walk::xattrs(now.dir, now.name)? {
            return Ok(true);
        }
        match kind {
            FileType::Symlink => {
                let target = |n: &Node<'_>| readlinkat(n.dir, n.name, Vec::new());
                Ok(target(then)? != target(now)?)
            }
            FileType::RegularFile => contents_differ(then, now),
            _ => Ok(false),
        }
    }
}

fn contents_differ(then: &Node<'_>, now: &Node<'_>) -> Result<bool, Errno> {
    let open = |node: &Node<'_>| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(node.dir, node.name, flags, Mode::empty()).map(std::fs::File::from)
    };
    let (mut then, mut now) = (open(then)?, open(now)?);
    let errno = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        for (file, buffer) in [(&mut then, &mut a), (&mut now, &mut b)] {
            buffer.clear();
            file.take(256 << 10).read_to_end(buffer).map_err(errno)?;
        }
        if a != b {
            return Ok(true);
        }
        if a.is_empty() {
            return Ok(false);
        }
    }
}
