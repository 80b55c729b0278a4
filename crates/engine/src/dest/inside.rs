//! A directory that is there already and is filled: what cannot be replaced by a tree, such as the
//! working directory or a mount point.
//!
//! All is made in a staging directory in it, and then gets its names, the one last without which
//! the others mean nothing.

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat, renameat_with},
    io::Errno,
};
use unlade_unpack::{Error, Kind, Result};

use super::{
    is_empty,
    staging::{self, Dir700, TREE},
};

/// What is staged for DEST `x` is `.x.unlade-XXXXXX`: here it is for the directory itself.
const NAME: &str = "new";

/// A directory that is being filled. Dropped, it is as it was.
#[derive(Debug)]
pub struct Filling {
    staging: Dir700,
    tree: OwnedFd,
    dir: OwnedFd,
    path: PathBuf,
}

impl Filling {
    /// Begins to fill the directory `path`, if it is empty but for what killed processes have left
    /// of the same; `None` if nothing is there.
    ///
    /// # Errors
    /// [`Kind::Host`] if it is no directory, not empty, or cannot be written to.
    pub fn begin(path: &Path) -> Result<Option<Self>> {
        let shown = path.display();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match openat(CWD, path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(|e| Error::host(format!("open `{shown}`"), e))?,
        };
        let name = OsStr::new(NAME);
        staging::sweep(dir.as_fd(), name);
        let empty = is_empty(dir.as_fd(), OsStr::new("."));
        if !empty.map_err(|e| Error::host(format!("list `{shown}`"), e))? {
            let m = format!("`{shown}` is not empty");
            return Err(Error::new(Kind::Host, m).with_hint("choose a new or an empty directory"));
        }
        let make = || -> io::Result<_> {
            let staging = Dir700::new(dir.as_fd(), name)?;
            let tree = staging.tree()?;
            Ok((staging, tree))
        };
        let (staging, tree) =
            make().map_err(|e| Error::host(format!("make a staging directory in `{shown}`"), e))?;
        Ok(Some(Self {
            staging,
            tree,
            dir,
            path: path.to_owned(),
        }))
    }

    /// Where to make what is to be in the directory.
    pub fn tree(&self) -> BorrowedFd<'_> {
        self.tree.as_fd()
    }

    /// Gives what was made its place, in the order of `names`.
    ///
    /// # Errors
    /// If something of that name has appeared meanwhile, or the host refuses; then none is there.
    pub fn commit(self, names: &[&str]) -> Result<()> {
        for (n, name) in names.iter().enumerate() {
            let moved =
                match renameat_with(&self.tree, *name, &self.dir, *name, RenameFlags::NOREPLACE) {
                    // A file system that cannot tell: it was empty when we began.
                    Err(Errno::INVAL | Errno::NOSYS) => {
                        renameat(&self.tree, *name, &self.dir, *name)
                    }
                    moved => moved,
                };
            if let Err(e) = moved {
                for name in &names[..n] {
                    let _ = renameat(&self.dir, *name, &self.tree, *name);
                }
                let what = format!("rename `{TREE}/{name}` into `{}`", self.path.display());
                return Err(Error::host(what, e));
            }
        }
        drop(self.staging);
        Ok(())
    }
}
