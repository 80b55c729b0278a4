//! A driver's directory on disk.
//!
//! ```text
//! ROOT/                 0700, for the store's owner alone
//!   layers/<LayerId>/   published layers: whole, and never changed
//!   snapshots/<id>/     published snapshots
//!   staging/<random>/   what is being made, under a lock of its process: see [`Place`]
//!   trash/<random>/     what was removed and waits for [`Layout::sweep`]
//!   roots/<key>/        empty directories with the attributes that a merged root is to have
//! ```
//!
//! What these directories hold is the drivers' business. Everything appears, and goes, by one
//! rename within ROOT; all names are resolved below descriptors that are held open.

mod place;

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{
        self, AtFlags, CWD, Dir, FlockOperation, Mode, RenameFlags, Stat, flock, fstat, mkdirat,
        openat, renameat_with, statat, syncfs,
    },
    io::Errno,
};
use unlade_unpack::{Error, Kind, Result, fault};

pub use self::place::{Place, Published};
pub(crate) use crate::walk::DIRECTORY;
use crate::{quota, remove};

/// Where published things stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf {
    /// `layers/`.
    Layers,
    /// `snapshots/`.
    Snapshots,
    /// `roots/`.
    Roots,
    /// `images/`.
    Images,
}

impl Shelf {
    fn what(self) -> &'static str {
        match self {
            Self::Layers => "layer",
            Self::Snapshots => "snapshot",
            Self::Roots => "root directory",
            Self::Images => "image",
        }
    }
}

/// See the module. Clones are the same directory.
#[derive(Debug, Clone)]
pub struct Layout(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Open since before anything is written, so that a flush learns of every failed write.
    root: OwnedFd,
    layers: OwnedFd,
    snapshots: OwnedFd,
    staging: OwnedFd,
    trash: OwnedFd,
    roots: OwnedFd,
    images: OwnedFd,
    flushing: Mutex<()>,
    failed_flushes: AtomicU64,
}

impl Layout {
    /// Opens a driver's directory, and makes it if it is not there.
    ///
    /// # Errors
    /// If it cannot be made or opened.
    pub fn open(path: &Path) -> Result<Self> {
        let host = |e| Error::host(format!("open `{}`", path.display()), e);
        std::fs::create_dir_all(path).map_err(|e| Error::host(create(path), e))?;
        let root = openat(CWD, path, DIRECTORY, Mode::empty()).map_err(host)?;
        no_inheritance(root.as_fd()).map_err(|e| Error::host(create(path), e))?;
        let sub = |name: &str| {
            let host = |e| Error::host(format!("open `{}/{name}`", path.display()), e);
            match mkdirat(&root, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(host(e)),
            }
            openat(&root, name, DIRECTORY, Mode::empty()).map_err(host)
        };
        Ok(Self(Arc::new(Shared {
            path: path.to_owned(),
            layers: sub("layers")?,
            snapshots: sub("snapshots")?,
            staging: sub("staging")?,
            trash: sub("trash")?,
            roots: sub("roots")?,
            images: sub("images")?,
            root,
            flushing: Mutex::new(()),
            failed_flushes: AtomicU64::new(0),
        })))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.0.root.as_fd()
    }

    /// One of its directories.
    pub fn shelf(&self, shelf: Shelf) -> BorrowedFd<'_> {
        match shelf {
            Shelf::Layers => self.0.layers.as_fd(),
            Shelf::Snapshots => self.0.snapshots.as_fd(),
            Shelf::Roots => self.0.roots.as_fd(),
            Shelf::Images => self.0.images.as_fd(),
        }
    }

    /// Makes an empty place to build something in.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn stage(&self) -> Result<Place> {
        Place::new(self)
    }

    /// Opens what is published under `name`; `None` if nothing is.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn find(&self, shelf: Shelf, name: &str) -> Result<Option<OwnedFd>> {
        match openat(self.shelf(shelf), name, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(Error::host(
                format!("open the {} `{name}`", shelf.what()),
                e,
            )),
        }
    }

    /// Opens what is published under `name`.
    ///
    /// # Errors
    /// If it is not there, or the host refuses.
    pub fn get(&self, shelf: Shelf, name: &str) -> Result<OwnedFd> {
        self.find(shelf, name)?
            .ok_or_else(|| missing(shelf.what(), name))
    }

    /// Names on a shelf, sorted.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn names(&self, shelf: Shelf) -> Result<Vec<String>> {
        let host = |e| Error::host(format!("list the {}s", shelf.what()), e);
        let mut names = Vec::new();
        for entry in Dir::read_from(self.shelf(shelf)).map_err(host)? {
            let entry = entry.map_err(host)?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Takes what is published under `name` out of sight, by rename. Not there is not an error.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn discard(&self, shelf: Shelf, name: &str) -> Result<()> {
        let host = |e: io::Error| Error::host(format!("remove the {} `{name}`", shelf.what()), e);
        loop {
            fault::point("discard").map_err(host)?;
            let random = place::random_name();
            match renameat_with(
                self.shelf(shelf),
                name,
                &self.0.trash,
                &random,
                RenameFlags::NOREPLACE,
            ) {
                Ok(()) | Err(Errno::NOENT) => break,
                Err(Errno::EXIST) => {}
                Err(e) => return Err(host(e.into())),
            }
        }
        // Only to die at.
        let _ = fault::point("discarded");
        Ok(())
    }

    /// Deletes what was discarded, and the places of processes that are gone. Returns how many
    /// bytes were freed, as far as known. What cannot be deleted stays, and does not keep the
    /// rest from going.
    ///
    /// # Errors
    /// The first failure.
    pub fn sweep(&self) -> Result<u64> {
        let mut freed = 0;
        let mut first = None;
        for parent in [&self.0.trash, &self.0.staging] {
            let host = |e| Error::host("look for what was removed", e);
            let mut names = Vec::new();
            for entry in Dir::read_from(parent).map_err(host)? {
                let name = entry.map_err(host)?.file_name().to_owned();
                if name.as_c_str() != c"." && name.as_c_str() != c".." {
                    names.push(name);
                }
            }
            for name in names {
                match sweep_one(parent.as_fd(), &name) {
                    Ok(bytes) => freed += bytes,
                    Err(e) => {
                        let doing = format!("delete the leftover `{}`", name.to_string_lossy());
                        first.get_or_insert_with(|| Error::host(doing, e));
                    }
                }
            }
        }
        first.map_or(Ok(freed), Err)
    }

    /// Removes the directory if nothing was ever put into it.
    pub(crate) fn remove_if_empty(self) {
        let Some((parent, name)) = self.0.path.parent().zip(self.0.path.file_name()) else {
            return;
        };
        // What is not empty stays.
        for name in ["layers", "snapshots", "staging", "trash", "roots", "images"] {
            if fs::unlinkat(&self.0.root, name, AtFlags::REMOVEDIR).is_err() {
                return;
            }
        }
        if let Ok(parent) = openat(CWD, parent, DIRECTORY, Mode::empty()) {
            let _ = fs::unlinkat(parent, name, AtFlags::REMOVEDIR);
        }
    }

    /// Waits until everything written below the root before this call is on disk for good.
    ///
    /// # Errors
    /// If a write failed since the last flush, also when another thread's flush found that out
    /// while this one waited: what was not flushed before must not be trusted.
    pub fn flush(&self) -> Result<()> {
        let failed = |e: io::Error| {
            Error::host(format!("flush `{}` to disk", self.path().display()), e)
                .with_hint("the disk lost writes: pull again what was pulled since the last flush")
        };
        let before = self.0.failed_flushes.load(Ordering::SeqCst);
        let guard = &self.0.flushing;
        let _one = guard.lock().unwrap_or_else(PoisonError::into_inner);
        let synced = fault::point("syncfs").and_then(|()| Ok(syncfs(&self.0.root)?));
        if synced.is_err() {
            self.0.failed_flushes.fetch_add(1, Ordering::SeqCst);
        } else if self.0.failed_flushes.load(Ordering::SeqCst) != before {
            return Err(failed(Errno::IO.into()));
        }
        synced.map_err(failed)
    }
}

fn create(path: &Path) -> String {
    format!("make the store's directory `{}`", path.display())
}

fn missing(what: &str, name: &str) -> Error {
    Error::new(Kind::Host, format!("{what} `{name}` does not exist"))
        .with_hint("`unlade system check` finds what is missing")
}

/// Removes `name` unless a living process works in it.
fn sweep_one(parent: BorrowedFd<'_>, name: &CString) -> io::Result<u64> {
    let dir = match openat(parent, name, DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(0),
        // Not one of ours: only directories are put here.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            fs::unlinkat(parent, name, AtFlags::empty())?;
            return Ok(0);
        }
        done => done?,
    };
    if !lock(&dir)? || !still_there(parent, name, dir.as_fd())? {
        return Ok(0);
    }
    tracing::debug!(?name, "deleting a leftover");
    quota::release(dir.as_fd());
    remove::remove(parent, name, dir.as_fd())
}

/// Whether the lock could be had.
fn lock(fd: &OwnedFd) -> io::Result<bool> {
    match flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn still_there(parent: BorrowedFd<'_>, name: &CStr, fd: BorrowedFd<'_>) -> io::Result<bool> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(same(&stat, &fstat(fd)?)),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// For its owner alone, and without what the parent hands down: default ACLs, the setgid bit. One
/// that is so already is left alone: a change needs room on the disk.
fn no_inheritance(fd: BorrowedFd<'_>) -> io::Result<()> {
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        match fs::fgetxattr(fd, name, &mut [0_u8; 0][..]) {
            Ok(_) => fs::fremovexattr(fd, name)?,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    if fs::fstat(fd)?.st_mode & 0o7777 != 0o700 {
        fs::fchmod(fd, Mode::RWXU)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn count(layout: &Layout, dir: &str) -> usize {
        std::fs::read_dir(layout.path().join(dir)).unwrap().count()
    }

    #[test]
    fn what_is_published_is_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(&dir.path().join("a/b")).unwrap();
        let mode = std::fs::metadata(layout.path()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o7777, 0o700);
        let place = |text: &[u8]| {
            let place = layout.stage().unwrap();
            place.write("file", text).unwrap();
            place
        };
        let (one, two) = (place(b"one"), place(b"two"));
        assert_eq!(count(&layout, "staging"), 2);
        assert_eq!(one.publish(Shelf::Layers, "x").unwrap(), Published::New);
        assert_eq!(two.publish(Shelf::Layers, "x").unwrap(), Published::Present);
        assert_eq!(count(&layout, "staging"), 0);
        let text = std::fs::read(layout.path().join("layers/x/file")).unwrap();
        assert_eq!(text, b"one");
        assert_eq!(layout.names(Shelf::Layers).unwrap(), ["x"]);

        layout.discard(Shelf::Layers, "x").unwrap();
        layout.discard(Shelf::Layers, "x").unwrap();
        assert!(layout.find(Shelf::Layers, "x").unwrap().is_none());
        assert!(layout.get(Shelf::Layers, "x").is_err());
        assert_eq!(count(&layout, "trash"), 1);
        layout.sweep().unwrap();
        assert_eq!(count(&layout, "trash"), 0);
    }

    #[test]
    fn only_places_of_the_dead_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let alive = layout.stage().unwrap();
        std::fs::create_dir_all(dir.path().join("staging/dead/tree/x")).unwrap();
        std::fs::write(dir.path().join("staging/file"), "").unwrap();
        Layout::open(dir.path()).unwrap().sweep().unwrap();
        assert_eq!(count(&layout, "staging"), 1);
        drop(alive);
        assert_eq!(count(&layout, "staging"), 0);
        layout.flush().unwrap();
    }
}
