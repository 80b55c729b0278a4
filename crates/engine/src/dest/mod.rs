//! DEST: a directory that appears whole or not at all.
//!
//! The tree is built in a staging directory beside DEST and renamed at the end. All names are
//! resolved below a descriptor of DEST's parent; with [`Dest::confine`] that descriptor is the
//! only thing that this process can still write to.

mod inside;
mod staging;

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, StatxAttributes, StatxFlags,
        chmodat, fchmod, fstat, openat, renameat, renameat_with, statat, statx,
    },
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};
use unlade_unpack::{Error, Kind, Result, fault};

pub use self::inside::Filling;
use self::staging::{Dir700, TREE};
use crate::sys;

/// Where a tree is to appear.
#[derive(Debug)]
pub struct Dest {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
    force: bool,
    confined: bool,
}

fn refuse(path: &Path, what: &str, hint: impl Into<String>) -> Error {
    Error::new(Kind::Host, format!("`{}` {what}", path.display())).with_hint(hint)
}

impl Dest {
    /// Checks that a tree may appear at `path`: its parent exists, and it is absent, an empty
    /// directory, or with `force` any directory.
    ///
    /// # Errors
    /// [`Kind::Host`] if not so, with what to do about it.
    pub fn open(path: &Path, force: bool) -> Result<Self> {
        let Some(name) = path.file_name() else {
            let hint = "name a directory that may be created, such as ./rootfs";
            return Err(refuse(path, "cannot be replaced by a tree", hint));
        };
        let above = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(CWD, above, flags, Mode::empty()).map_err(|e| {
            let shown = above.display();
            match e {
                Errno::NOENT => refuse(above, "does not exist", format!("mkdir -p '{shown}'")),
                Errno::NOTDIR => refuse(
                    above,
                    "is not a directory",
                    "choose a destination in a directory",
                ),
                e => Error::host(format!("open `{shown}`"), e),
            }
        })?;
        let dest = Self {
            parent,
            name: name.to_owned(),
            path: path.to_owned(),
            force,
            confined: false,
        };
        dest.check()?;
        Ok(dest)
    }

    fn check(&self) -> Result<()> {
        let path = &*self.path;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        let stat = match statx(&self.parent, &self.name, nofollow, StatxFlags::BASIC_STATS) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Error::host(format!("look at `{}`", path.display()), e)),
        };
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => {}
            FileType::Symlink => {
                let hint = "name the directory that it leads to, or remove the link";
                return Err(refuse(path, "is a symbolic link", hint));
            }
            _ => {
                let hint = "choose another destination, or remove it first";
                return Err(refuse(path, "exists and is not a directory", hint));
            }
        }
        if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            let hint = format!(
                "unpack into a directory in it, such as {}/rootfs",
                path.display()
            );
            return Err(refuse(
                path,
                "is a mount point and cannot be replaced",
                hint,
            ));
        }
        let empty = || match is_empty(self.parent.as_fd(), &self.name) {
            Err(Errno::ACCESS) => Ok(false),
            listed => listed.map_err(|e| Error::host(format!("list `{}`", path.display()), e)),
        };
        if !self.force && !empty()? {
            return Err(not_empty(path));
        }
        Ok(())
    }

    /// Whether `path`, which need not exist itself, is what is at DEST now or lies in it.
    pub fn holds(&self, path: &Path) -> bool {
        let Ok(there) = statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) else {
            return false;
        };
        let real = path.canonicalize().or_else(|e| match path.parent() {
            Some(p) if p.as_os_str().is_empty() => Path::new(".").canonicalize(),
            Some(p) => p.canonicalize(),
            None => Err(e),
        });
        // By inode rather than by name: a directory may be mounted in several places.
        real.is_ok_and(|real| {
            real.ancestors().any(|a| {
                statat(CWD, a, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|s| (s.st_dev, s.st_ino) == (there.st_dev, there.st_ino))
            })
        })
    }

    /// Takes from this process every way to write to a mounted file system but through DEST's
    /// parent, whatever a defect may make it do: a mount namespace of its own in which all is
    /// read-only, and a clone of the parent's mount that is not in it. Files that are open stay
    /// open.
    ///
    /// Call it while the process has one thread: threads that exist already are not confined.
    ///
    /// # Errors
    /// What the host does not permit; the process then goes on as it was. Ordinary users may not
    /// do this.
    pub fn confine(&mut self) -> io::Result<()> {
        // Without AT_RECURSIVE: what is mounted below the parent is out of reach.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let parent = open_tree(&self.parent, c"", flags)?;
        sys::unshare_mounts()?;
        sys::make_read_only(c"/")?;
        self.parent = parent;
        self.confined = true;
        Ok(())
    }

    /// Whether [`Dest::confine`] succeeded.
    pub fn is_confined(&self) -> bool {
        self.confined
    }

    /// The directory that DEST is to appear in.
    pub fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what dead processes left for the same DEST and makes an empty tree, mode 0755,
    /// out of sight.
    ///
    /// # Errors
    /// If the parent cannot be written to.
    pub fn stage(self) -> Result<Staging> {
        staging::sweep(self.parent.as_fd(), &self.name);
        let host = |e: io::Error| {
            Error::host(
                format!("make a staging directory beside `{}`", self.path.display()),
                e,
            )
        };
        let dir = Dir700::new(self.parent.as_fd(), &self.name).map_err(host)?;
        let tree = dir.tree().map_err(host)?;
        Ok(Staging {
            dir,
            tree,
            dest: self,
        })
    }
}

/// Whether nothing is in a directory.
fn is_empty(parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for entry in openat(parent, name, flags, Mode::empty()).and_then(Dir::new)? {
        if ![c".", c".."].contains(&entry?.file_name()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn not_empty(path: &Path) -> Error {
    refuse(
        path,
        "exists and is not empty",
        "choose another destination, or --force to replace it",
    )
}

/// A tree that is not to be seen yet. Dropped, it is removed.
#[derive(Debug)]
pub struct Staging {
    dir: Dir700,
    tree: OwnedFd,
    dest: Dest,
}

impl Staging {
    /// The root of the tree.
    pub fn tree(&self) -> BorrowedFd<'_> {
        self.tree.as_fd()
    }

    /// Makes the tree appear at DEST. What was there is removed then; if that fails, the error
    /// is the inner result: the tree is in place, something else is left to clean up.
    ///
    /// # Errors
    /// If something has appeared at DEST that may not be replaced, or the rename fails.
    pub fn commit(mut self) -> Result<Result<()>> {
        let (from, to, name) = (&self.dir.fd, &self.dest.parent, &self.dest.name);
        let path = &*self.dest.path;
        let plain = || renameat(from, TREE, to, name);
        fault::point("rename")
            .map_err(|e| Error::host(format!("rename the new tree to `{}`", path.display()), e))?;
        let closed = Closed::open_up(self.tree.as_fd())
            .map_err(|e| Error::host("look at the new tree", e))?;
        let renamed = match renameat_with(from, TREE, to, name, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) if self.dest.force => {
                let there = statat(to, name, AtFlags::SYMLINK_NOFOLLOW);
                match there.map(|s| FileType::from_raw_mode(s.st_mode)) {
                    Ok(FileType::Directory) => {
                        let exchange =
                            || renameat_with(from, TREE, to, name, RenameFlags::EXCHANGE);
                        match exchange() {
                            Err(Errno::ACCESS) => with_old_open(to, name, exchange),
                            done => done,
                        }
                    }
                    _ => Err(Errno::NOTDIR),
                }
            }
            // A directory replaces an empty directory only: as good as NOREPLACE.
            Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => plain(),
            other => other,
        };
        match renamed {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Err(not_empty(path)),
            Err(Errno::NOTDIR) => {
                let hint = "something else made it meanwhile: remove it or choose another";
                return Err(refuse(path, "is no longer a directory", hint));
            }
            Err(Errno::BUSY) => {
                let hint = "unmount it or choose another destination";
                return Err(refuse(path, "is in use as a mount point", hint));
            }
            Err(e @ (Errno::INVAL | Errno::XDEV)) if self.dest.force => {
                return Err(Error::host(
                    format!("exchange `{}` with the new tree", path.display()),
                    e,
                )
                .with_hint("this file system cannot do it: remove the old tree first"));
            }
            Err(e) => {
                return Err(Error::host(
                    format!("rename the new tree to `{}`", path.display()),
                    e,
                ));
            }
        }
        if let Some(closed) = closed {
            closed
                .close(self.tree.as_fd())
                .map_err(|e| Error::host(format!("set the mode of `{}`", path.display()), e))?;
        }
        let cleared = fault::point("renamed").and_then(|()| self.dir.clear());
        Ok(cleared.map_err(|e| {
            let name = self.dir.name.to_string_lossy();
            Error::host(
                format!("remove the old tree, now `{name}/{TREE}` beside the new one"),
                e,
            )
        }))
    }
}

/// A directory that its owner may not write to. It cannot change its parent so, as its `..`
/// would change, but for the privileged.
struct Closed(Mode);

impl Closed {
    /// Lets the owner write to the directory, if need be.
    fn open_up(dir: BorrowedFd<'_>) -> Result<Option<Self>, Errno> {
        let mode = Mode::from_raw_mode(fstat(dir)?.st_mode);
        if mode.contains(Mode::WUSR) {
            return Ok(None);
        }
        match fchmod(dir, mode | Mode::WUSR) {
            // Somebody else's, by a map of owners: the rename tells whether that matters.
            Err(Errno::PERM) => Ok(None),
            done => done.map(|()| Some(Self(mode))),
        }
    }

    /// Gives the directory its mode again.
    fn close(&self, dir: BorrowedFd<'_>) -> Result<(), Errno> {
        fchmod(dir, self.0)
    }
}

/// Tries `exchange` again while the directory `name` in `parent` lets its owner write.
fn with_old_open(
    parent: &OwnedFd,
    name: &OsStr,
    exchange: impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let old = openat(parent, name, flags, Mode::empty())?;
    let mode = Mode::from_raw_mode(fstat(&old)?.st_mode);
    // By its handle, as fchmod takes no O_PATH; the kernel goes there and no further.
    let link = format!("/proc/self/fd/{}", old.as_raw_fd());
    let set = |mode| chmodat(CWD, &link, mode, AtFlags::empty());
    set(mode | Mode::WUSR)?;
    exchange().inspect_err(|_| {
        let _ = set(mode);
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use rustix::fs::{XattrFlags, mkdirat, setxattr};

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn fill(staging: &Staging) {
        mkdirat(staging.tree(), "new", Mode::RWXU).unwrap();
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("a");
        let stage = || Dest::open(&at, false).unwrap().stage().unwrap();
        fill(&stage());
        assert!(names(dir.path()).is_empty());
        let staging = stage();
        fill(&staging);
        let names_now = names(dir.path());
        assert!(
            names_now.len() == 1 && names_now[0].starts_with(".a.unlade-"),
            "{names_now:?}"
        );
        let secret = fs::metadata(dir.path().join(&names_now[0])).unwrap().mode();
        assert_eq!(secret & 0o7777, 0o700);
        staging.commit().unwrap().unwrap();
        assert_eq!(
            (names(dir.path()), names(&at)),
            (vec!["a".into()], vec!["new".into()])
        );
        assert_eq!(fs::metadata(&at).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn an_empty_directory_is_replaced_and_others_by_force() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("a");
        fs::create_dir(&at).unwrap();
        let staging = Dest::open(&at, false).unwrap().stage().unwrap();
        fill(&staging);
        staging.commit().unwrap().unwrap();
        assert!(
            Dest::open(&at, false)
                .unwrap_err()
                .hint()
                .unwrap()
                .contains("--force")
        );
        fs::create_dir_all(at.join("old/x")).unwrap();
        let staging = Dest::open(&at, true).unwrap().stage().unwrap();
        fill(&staging);
        staging.commit().unwrap().unwrap();
        assert_eq!(
            (names(dir.path()), names(&at)),
            (vec!["a".into()], vec!["new".into()])
        );
    }

    #[test]
    fn what_appears_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("a");
        for make in [
            (|at| fs::create_dir_all(at.join("theirs"))) as fn(&Path) -> io::Result<()>,
            |at| fs::write(at, "theirs"),
            |at| symlink("theirs", at),
        ] {
            for force in [false, true] {
                let staging = Dest::open(&at, force).unwrap().stage().unwrap();
                make(&at).unwrap();
                let is_dir = fs::symlink_metadata(&at).unwrap().is_dir();
                assert_eq!(staging.commit().is_ok(), force && is_dir);
                assert_eq!(names(dir.path()), ["a"]);
                if is_dir {
                    fs::remove_dir_all(&at)
                } else {
                    fs::remove_file(&at)
                }
                .unwrap();
            }
        }
    }

    #[test]
    fn what_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/f"), "").unwrap();
        symlink("a/b", at("link")).unwrap();
        let dest = Dest::open(&at("a"), true).unwrap();
        for (path, held) in [
            ("a", true),
            ("a/b/f", true),
            ("a/new", true),
            ("link/f", true),
            ("other", false),
            ("a/../other", false),
            ("no/such/file", false),
        ] {
            assert_eq!(dest.holds(&at(path)), held, "{path}");
        }
        assert!(!Dest::open(&at("new"), false).unwrap().holds(&at("new/x")));
    }

    #[test]
    fn refusals_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        fs::write(at("file"), "").unwrap();
        symlink(dir.path(), at("link")).unwrap();
        for (path, what) in [
            (at("file"), "not a directory"),
            (at("link"), "symbolic link"),
            (at("no/such"), "does not exist"),
            (at("file/x"), "not a directory"),
            ("/".into(), "cannot be replaced"),
            ("..".into(), "cannot be replaced"),
            (".".into(), "cannot be replaced"),
            ("".into(), "cannot be replaced"),
            ("/proc".into(), "mount point"),
        ] {
            let e = Dest::open(&path, true).unwrap_err();
            assert!(
                e.message().contains(what) && e.hint().is_some(),
                "{path:?}: {e}"
            );
        }
    }

    #[test]
    fn leftovers_of_the_dead_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        let dead = [".a.unlade-abcdef"];
        let kept = [
            ".a.unlade-abcdefg",
            ".a.unlade-ABCDEF",
            ".b.unlade-abcdef",
            ".a.unlade-",
        ];
        for name in dead.iter().chain(&kept) {
            fs::create_dir_all(at(name).join("tree/x")).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
        let alive = Dest::open(&at("a"), false).unwrap().stage().unwrap();
        let other = Dest::open(&at("a"), false).unwrap().stage().unwrap();
        let mut left = names(dir.path());
        left.retain(|n| !kept.contains(&n.as_str()));
        assert_eq!(left.len(), 2, "{left:?}");
        drop((alive, other));
        assert_eq!(names(dir.path()).len(), kept.len());
    }

    #[test]
    fn nothing_is_inherited_from_the_parent() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2777)).unwrap();
        // Version 2; user::rwx, group::rwx, other::rwx.
        let mut acl = vec![2, 0, 0, 0];
        for tag in [1_u8, 4, 0x20] {
            acl.extend([tag, 0, 7, 0, 255, 255, 255, 255]);
        }
        let name = "system.posix_acl_default";
        if setxattr(dir.path(), name, &acl, XattrFlags::empty()).is_err() {
            eprintln!("skipped: no ACLs on the file system of the temporary directory");
            return;
        }
        let at = dir.path().join("a");
        Dest::open(&at, false)
            .unwrap()
            .stage()
            .unwrap()
            .commit()
            .unwrap()
            .unwrap();
        assert_eq!(fs::metadata(&at).unwrap().mode() & 0o7777, 0o755);
        let mut none = [0_u8; 64];
        assert_eq!(
            rustix::fs::getxattr(&at, name, &mut none[..]),
            Err(Errno::NODATA)
        );
    }
}
