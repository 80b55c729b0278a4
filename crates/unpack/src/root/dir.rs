//! Open directories.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
};

use rustix::fs::Stat;

use crate::entry::Time;

/// An open directory of the tree.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(super) fd: OwnedFd,
    /// Unique among the directories opened by one [`Root`].
    pub id: u64,
    /// Real path from the root: no symlink on the way. Empty for the root.
    pub path: Box<[u8]>,
    /// Attributes when it was opened, before this layer put anything into it.
    pub before: Attrs,
    /// New names in it inherit its group.
    pub setgid: bool,
    /// New names in it inherit an access list.
    pub default_acl: bool,
    /// It was created by this `Root` just now.
    pub created: bool,
    /// Its mode was opened up for us; [`Dir::before`] has the real one.
    pub unlocked: bool,
    /// Indices of the lower layers whose directories show through, topmost first. Unset until
    /// somebody asks ([`Root::shown`]); then no directory on the way to it is opaque.
    pub(super) lowers: OnceLock<Box<[u16]>>,
    /// Counts what is open: see [`Root::too_many_open`].
    pub(super) _open: Arc<()>,
}

impl Dir {
    /// Whether it is known that nothing shows through.
    pub(super) fn hides(&self) -> bool {
        self.lowers.get().is_some_and(|lowers| lowers.is_empty())
    }
}

/// What [`Dir::lowers`] is of a directory through which nothing shows.
pub(super) fn nothing() -> OnceLock<Box<[u16]>> {
    OnceLock::from(Box::default())
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What must be restored on a directory whose content changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attrs {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
}

impl Attrs {
    pub(crate) fn of(st: &Stat) -> Self {
        Self {
            mode: st.st_mode & 0o7777,
            uid: st.st_uid,
            gid: st.st_gid,
            mtime: Time {
                secs: st.st_mtime,
                nanos: u32::try_from(st.st_mtime_nsec).unwrap_or_default(),
            },
        }
    }
}
