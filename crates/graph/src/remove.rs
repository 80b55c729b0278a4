//! Removes trees that may be hostile: deeper than any path, without permissions, immutable, full
//! of links.
//!
//! Everything goes through directory descriptors; [`DESCRIPTORS`] free ones are enough. Symbolic
//! links are removed, never followed; a mount point stops the removal. btrfs subvolumes are
//! destroyed whole.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, IFlags, Mode, OFlags, ResolveFlags, chmodat, fchmod, fstat,
        ioctl_getflags, ioctl_setflags, openat, openat2, renameat, statat, unlinkat,
    },
    io::Errno,
    process::geteuid,
};

use crate::sys;

/// Open directories at a time. What lies deeper is moved up first.
const MAX_OPEN: usize = 64;

/// Descriptors that must be free: for the listing of the top, for a directory in it, to open up one
/// that has no permissions, and for what is immutable.
pub const DESCRIPTORS: usize = 4;

/// What becomes of what is immutable or append-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    /// It goes too: a store's own.
    Unlock,
    /// It stays, and is an error: somebody protects it.
    Keep,
}

/// Removes all that is in `top`, which itself stays. Returns the bytes that this freed, not
/// counting subvolumes.
///
/// # Errors
/// If something cannot be removed, such as a mount point.
pub fn clear(top: BorrowedFd<'_>) -> io::Result<u64> {
    clear_tree(top, Locked::Unlock)
}

/// As [`clear`].
///
/// # Errors
/// As [`clear`].
pub fn clear_tree(top: BorrowedFd<'_>, locked: Locked) -> io::Result<u64> {
    let mut walk = Walk {
        top,
        moved: 0,
        freed: 0,
        locked,
        root: geteuid().is_root(),
        btrfs: sys::is_btrfs(top),
    };
    loop {
        let moved = walk.moved;
        let done = walk.pass()?;
        if done.complete {
            return Ok(walk.freed);
        }
        if done.removed == 0 && moved == walk.moved {
            return Err(Errno::NOTEMPTY.into());
        }
    }
}

/// Removes the directory `name` in `parent`, which `dir` is, and all in it.
///
/// # Errors
/// If something cannot be removed, such as a mount point.
pub fn remove(parent: BorrowedFd<'_>, name: &CStr, dir: BorrowedFd<'_>) -> io::Result<u64> {
    remove_tree(parent, name, dir, Locked::Unlock)
}

/// As [`remove`].
///
/// # Errors
/// As [`remove`].
pub fn remove_tree(
    parent: BorrowedFd<'_>,
    name: &CStr,
    dir: BorrowedFd<'_>,
    locked: Locked,
) -> io::Result<u64> {
    let freed = clear_tree(dir, locked)?;
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(freed),
        Err(e) => Err(e.into()),
    }
}

struct Walk<'a> {
    top: BorrowedFd<'a>,
    /// Directories moved to the top so far; also numbers their names.
    moved: u64,
    freed: u64,
    locked: Locked,
    root: bool,
    btrfs: bool,
}

struct Pass {
    complete: bool,
    removed: u64,
}

struct Level {
    dir: Dir,
    /// Its name in the level above.
    name: CString,
}

impl Walk<'_> {
    /// Walks the tree once and removes what can be removed on the way.
    fn pass(&mut self) -> io::Result<Pass> {
        let mut pass = Pass {
            complete: true,
            removed: 0,
        };
        let dir = Dir::read_from(self.top)?;
        let mut stack = vec![Level {
            dir,
            name: CString::default(),
        }];
        loop {
            let depth = stack.len();
            let Some(level) = stack.last_mut() else {
                return Ok(pass);
            };
            let Some(entry) = level.dir.read() else {
                let name = std::mem::take(&mut level.name);
                stack.pop();
                if let Some(above) = stack.last() {
                    match self.unlink(above.dir.fd()?, &name, AtFlags::REMOVEDIR) {
                        Ok(()) => pass.removed += 1,
                        Err(Errno::NOENT) => {}
                        // Something was skipped by the listing: once more.
                        Err(Errno::NOTEMPTY | Errno::EXIST) => pass.complete = false,
                        Err(e) => return Err(e.into()),
                    }
                }
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let here = level.dir.fd()?;
            if entry.file_type() != FileType::Directory {
                self.note_size(here, name);
                match self.unlink(here, name, AtFlags::empty()) {
                    Ok(()) => {
                        pass.removed += 1;
                        continue;
                    }
                    Err(Errno::NOENT) => continue,
                    Err(Errno::ISDIR) if entry.file_type() == FileType::Unknown => {}
                    Err(e) => return Err(e.into()),
                }
            } else if self.btrfs
                && is_subvolume(here, name)
                && sys::subvolume_destroy(here, name.to_bytes()).is_ok()
            {
                pass.removed += 1;
                continue;
            }
            match self.open(here, name) {
                Ok(None) => {}
                Ok(Some(dir)) if depth < MAX_OPEN => {
                    let name = name.to_owned();
                    stack.push(Level {
                        dir: Dir::new(dir)?,
                        name,
                    });
                }
                // Too deep, or no descriptor for it: it goes up and waits for the next pass.
                Err(e) if !(depth > 1 && out_of_descriptors(&e)) => return Err(e),
                Ok(Some(_)) | Err(_) => {
                    self.move_up(here, name)?;
                    pass.complete = false;
                }
            }
        }
    }

    /// Adds up what goes when the last name of a file does.
    fn note_size(&mut self, dir: BorrowedFd<'_>, name: &CStr) {
        if let Ok(st) = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            && st.st_nlink <= 1
        {
            self.freed += u64::try_from(st.st_blocks).unwrap_or(0) * 512;
        }
    }

    fn unlink(&self, dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
        match unlinkat(dir, name, flags) {
            Err(Errno::PERM) if self.locked == Locked::Unlock => {
                // What is immutable or append-only, or is in a directory that is.
                make_mutable(dir);
                let how = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let st = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if matches!(
                    FileType::from_raw_mode(st.st_mode),
                    FileType::RegularFile | FileType::Directory
                ) && let Ok(file) = openat(dir, name, how, Mode::empty())
                {
                    make_mutable(file.as_fd());
                }
                unlinkat(dir, name, flags)
            }
            done => done,
        }
    }

    fn move_up(&mut self, from: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        loop {
            self.moved += 1;
            let new = format!(".unlade-moved-{}", self.moved);
            match renameat(from, name, self.top, &new) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Opens the directory `name` such that what is in it can be listed and removed; `None` if
    /// it is gone.
    fn open(&self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
        let opened = match open_dir(parent, name, OFlags::RDONLY) {
            Err(Errno::ACCESS) if !self.root => {
                let path = open_dir(parent, name, OFlags::PATH)?;
                let link = format!("/proc/self/fd/{}", path.as_raw_fd());
                chmodat(CWD, link, Mode::RWXU, AtFlags::empty())?;
                open_dir(parent, name, OFlags::RDONLY)
            }
            other => other,
        };
        let dir = match opened {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::XDEV) => {
                let m = format!("`{}` in it is a mount point", name.to_string_lossy());
                return Err(io::Error::new(io::ErrorKind::CrossesDevices, m));
            }
            Err(e) => return Err(e.into()),
        };
        if !self.root && !Mode::from_raw_mode(fstat(&dir)?.st_mode).contains(Mode::RWXU) {
            fchmod(&dir, Mode::RWXU)?;
        }
        Ok(Some(dir))
    }
}

fn is_subvolume(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    // A listing has another number.
    statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|st| st.st_ino == sys::SUBVOLUME_INODE)
}

fn make_mutable(fd: BorrowedFd<'_>) {
    let locks = IFlags::IMMUTABLE | IFlags::APPEND;
    if let Ok(flags) = ioctl_getflags(fd)
        && flags.intersects(locks)
    {
        // Failing is reported by the removal that comes next.
        let _ = ioctl_setflags(fd, flags - locks);
    }
}

fn out_of_descriptors(e: &io::Error) -> bool {
    matches!(Errno::from_io_error(e), Some(Errno::MFILE | Errno::NFILE))
}

/// Opens a directory on the same mount as `parent`.
fn open_dir(parent: BorrowedFd<'_>, name: &CStr, how: OFlags) -> Result<OwnedFd, Errno> {
    let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match openat2(parent, name, flags, Mode::empty(), resolve) {
        // Sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {
            let dir = openat(parent, name, flags, Mode::empty())?;
            let same = fstat(&dir)?.st_dev == fstat(parent.as_fd())?.st_dev;
            if same { Ok(dir) } else { Err(Errno::XDEV) }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use rustix::fs::mkdirat;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn deeper_than_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let top = open(dir.path());
        let mut at = open(dir.path());
        let name = "d".repeat(200);
        for _ in 0..1000 {
            mkdirat(&at, &name, Mode::RWXU).unwrap();
            mkdirat(&at, ".unlade-moved-1", Mode::RWXU).unwrap();
            at = openat(&at, &name, OFlags::RDONLY, Mode::empty()).unwrap();
        }
        clear(top.as_fd()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_it_must_not_follow_and_what_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        fs::create_dir_all(at("x/a/b")).unwrap();
        fs::write(at("x/a/b/locked"), [1; 5000]).unwrap();
        for n in 0..3000 {
            fs::write(at("x/a").join(format!("file-with-a-longer-name-{n}")), "").unwrap();
        }
        fs::write(at("kept"), "kept").unwrap();
        symlink(at("kept"), at("x/a/link")).unwrap();
        symlink(dir.path(), at("x/a/up")).unwrap();
        let mut locked = true;
        for p in ["x/a/b/locked", "x/a/b"] {
            // Not every file system or user can.
            let fd = fs::File::open(at(p)).unwrap();
            let set = ioctl_getflags(&fd).and_then(|f| ioctl_setflags(&fd, f | IFlags::IMMUTABLE));
            locked &= set.is_ok();
        }
        fs::set_permissions(at("x/a"), fs::Permissions::from_mode(0o0)).unwrap();
        let (top, x) = (open(dir.path()), open(&at("x")));
        let kept = remove_tree(top.as_fd(), c"x", x.as_fd(), Locked::Keep);
        let freed = match locked {
            true => {
                kept.unwrap_err();
                remove(top.as_fd(), c"x", x.as_fd()).unwrap()
            }
            false => kept.unwrap(),
        };
        assert!(freed >= 5000, "{freed}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(at("kept")).unwrap(), "kept");
    }
}
