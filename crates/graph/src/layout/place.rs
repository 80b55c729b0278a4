//! Staging places: directories in which something grows until it may be seen.

use std::{
    ffi::CString,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags, RenameFlags, fchmod, fchown, mkdirat, openat, renameat_with},
    io::Errno,
    process::getegid,
};
use unlade_unpack::{Error, Result, fault};

use super::{Layout, Shelf, lock, no_inheritance, still_there};
use crate::{quota, remove, walk::DIRECTORY};

/// How [`Place::publish`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is there now.
    New,
    /// Something of that name was there before, and stays; the place is gone.
    Present,
}

/// A directory `staging/<random>`, mode 0700, that belongs to this process: it is locked while it
/// lives, so that [`Layout::sweep`] removes only those of the dead. Dropped, it is removed.
#[derive(Debug)]
pub struct Place {
    layout: Layout,
    name: CString,
    /// Holds the lock.
    fd: OwnedFd,
    /// Given up for the removal, which must work when the process has no descriptors left.
    spare: Vec<OwnedFd>,
    published: bool,
}

/// A name that nobody else takes.
pub(super) fn random_name() -> CString {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345679";
    let mut random = RandomState::new().build_hasher().finish();
    let mut name = Vec::with_capacity(13);
    for _ in 0..12 {
        name.push(LETTERS[usize::try_from(random & 31).unwrap_or_default()]);
        random >>= 5;
    }
    CString::new(name).unwrap_or_default()
}

impl Place {
    pub(super) fn new(layout: &Layout) -> Result<Self> {
        let host = |e: io::Error| Error::host("make a staging directory", e);
        let parent = layout.0.staging.as_fd();
        loop {
            fault::point("stage").map_err(host)?;
            let name = random_name();
            match mkdirat(parent, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                done => done.map_err(|e| host(e.into()))?,
            }
            let claimed = Self::claim(parent, &name).inspect_err(|_| {
                // An empty directory: whoever sweeps next would remove it too.
                let _ = rustix::fs::unlinkat(parent, &name, rustix::fs::AtFlags::REMOVEDIR);
            });
            if let Some((fd, spare)) = claimed.map_err(host)? {
                return Ok(Self {
                    layout: layout.clone(),
                    name,
                    fd,
                    spare,
                    published: false,
                });
            }
        }
    }

    /// Opens and locks what was just made, and takes what its removal needs; `None` if another
    /// process took it for a leftover.
    fn claim(
        parent: BorrowedFd<'_>,
        name: &CString,
    ) -> io::Result<Option<(OwnedFd, Vec<OwnedFd>)>> {
        let fd = match openat(parent, name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            done => done?,
        };
        if !lock(&fd)? || !still_there(parent, name, fd.as_fd())? {
            return Ok(None);
        }
        no_inheritance(fd.as_fd())?;
        let dup = |_| parent.try_clone_to_owned();
        let spare = (0..remove::DESCRIPTORS)
            .map(dup)
            .collect::<io::Result<_>>()?;
        Ok(Some((fd, spare)))
    }

    /// The layout that it belongs to.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The place itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes an empty directory in it, mode 0755, and opens it.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn directory(&self, name: &str) -> Result<OwnedFd> {
        let host = |e| Error::host(format!("make the staging directory's `{name}`"), e);
        mkdirat(&self.fd, name, Mode::RWXU).map_err(host)?;
        let fd = openat(&self.fd, name, DIRECTORY, Mode::empty()).map_err(host)?;
        // The group may be the parent's where the file system is mounted so.
        fchown(&fd, None, Some(getegid())).map_err(host)?;
        fchmod(&fd, Mode::from_raw_mode(0o755)).map_err(host)?;
        Ok(fd)
    }

    /// Makes a file in it, mode 0600, open for reading and writing.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn file(&self, name: &str) -> Result<std::fs::File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Error::host(format!("make the staging directory's `{name}`"), e))?;
        Ok(fd.into())
    }

    /// Makes a small file in it.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.file(name)?;
        fault::point("write")
            .and_then(|()| io::Write::write_all(&mut file, bytes))
            .map_err(|e| Error::host(format!("write the staging directory's `{name}`"), e))
    }

    /// Makes the place appear as `name` on a shelf, with all that is in it.
    ///
    /// # Errors
    /// If the host refuses; nothing has appeared then.
    pub fn publish(mut self, shelf: Shelf, name: &str) -> Result<Published> {
        let host = |e: io::Error| Error::host(format!("publish the {} `{name}`", shelf.what()), e);
        fault::point("publish").map_err(host)?;
        let (from, to) = (self.layout.0.staging.as_fd(), self.layout.shelf(shelf));
        match renameat_with(from, &self.name, to, name, RenameFlags::NOREPLACE) {
            Ok(()) => self.published = true,
            Err(Errno::EXIST) => return Ok(Published::Present),
            Err(e) => return Err(host(e.into())),
        }
        // Only to die at: it is published, whatever fails from here on.
        let _ = fault::point("published");
        Ok(Published::New)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        self.spare.clear();
        quota::release(self.fd.as_fd());
        let parent = self.layout.0.staging.as_fd();
        if let Err(e) = remove::remove(parent, &self.name, self.fd.as_fd()) {
            tracing::warn!(name = ?self.name, error = %e, "a staging directory is left behind");
        }
    }
}
