//! Directories that their own mode locks an ordinary user out of: opened up while a layer is
//! applied, and given their mode again at its end.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{self, Mode, OFlags};

use super::{Attrs, DIR_FLAGS, Dir, Root, chmod_handle, join};
use crate::error::{Error, Result, show};

impl Root {
    /// Opens up an ordinary user's own directory if its mode keeps the user from reading, searching
    /// or changing it. Returns its attributes before that, and whether they must be restored.
    /// `forced` is the mode it had if it is open to us already.
    pub(super) fn unlock(
        &mut self,
        fd: BorrowedFd<'_>,
        real: &[u8],
        mut before: Attrs,
        forced: Option<u32>,
    ) -> (Attrs, bool) {
        if !self.bound_by_modes {
            return (before, false);
        }
        if let Some(known) = self.unlocked.get(real) {
            return (*known, true);
        }
        if let Some(mode) = forced {
            before.mode = mode;
        } else if before.mode & 0o700 == 0o700
            || fs::fchmod(fd, Mode::from_raw_mode(before.mode | 0o700)).is_err()
        {
            // What another owns stays as it is, and says so when it is used.
            return (before, false);
        }
        self.unlocked.insert(real.into(), before);
        (before, true)
    }

    /// Directories opened up since this was last asked, and what to restore on them.
    pub(crate) fn take_unlocked(&mut self) -> BTreeMap<Box<[u8]>, Attrs> {
        std::mem::take(&mut self.unlocked)
    }

    /// `real` has its mode again.
    pub(crate) fn restored(&mut self, real: &[u8]) {
        self.unlocked.remove(real);
    }

    /// Memory that [`Root::take_unlocked`] would give out, in bytes.
    pub(crate) fn unlocked_bytes(&self) -> usize {
        self.unlocked.len() * 256
    }

    /// An ordinary user's directory that its own mode locks: opened up until its attributes are
    /// restored at the end.
    pub(super) fn force_open(&self, dir: &Dir, name: &[u8]) -> Result<(OwnedFd, u32)> {
        let host = |e| Error::host(format!("open `{}`", show(&join(&dir.path, name))), e);
        let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = self.open_at(dir.as_fd(), name, path_only).map_err(host)?;
        let mode = fs::fstat(&handle).map_err(host)?.st_mode & 0o7777;
        chmod_handle(handle.as_fd(), 0o700).map_err(host)?;
        Ok((
            self.open_at(dir.as_fd(), name, DIR_FLAGS).map_err(host)?,
            mode,
        ))
    }
}
