//! The attributes of a merged tree's root directory.
//!
//! A layer that has no entry for `/` has nothing to say about them: those of the next layer below
//! that has one hold, wherever the layer is used. So they are no part of such a layer's own
//! directory; a merged tree gets them from an upper directory, or from an empty one that is
//! shared by all trees with the same attributes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Gid, Mode, Timespec, Timestamps, Uid};
use unlade_unpack::{Error, Result};

use crate::{
    layout::{Layout, Shelf},
    walk::{self, Xattrs},
};

/// Name of the directory in its place under `roots/`.
const DIR: &str = "dir";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attrs {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    xattrs: Xattrs,
}

impl Attrs {
    /// What the root has if no layer lists it.
    pub(crate) fn fresh() -> Self {
        Self {
            mode: 0o755,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mtime: (0, 0),
            xattrs: Xattrs::new(),
        }
    }

    /// Those of a directory.
    pub(crate) fn of(dir: BorrowedFd<'_>) -> Result<Self> {
        let host = |e| Error::host("look at a tree's root directory", e);
        let stat = fs::fstat(dir).map_err(host)?;
        let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, nanos),
            xattrs: walk::xattrs(dir, c".").map_err(host)?,
        })
    }

    /// Gives them to a directory. To be done after all else that is done in it.
    pub(crate) fn apply(&self, dir: BorrowedFd<'_>) -> Result<()> {
        let host = |e| Error::host("set attributes of a tree's root directory", e);
        let now = fs::fstat(dir).map_err(host)?;
        if (now.st_uid, now.st_gid) != (self.uid, self.gid) {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            fs::fchown(dir, Some(uid), Some(gid)).map_err(host)?;
        }
        walk::set_xattrs(dir, c".", &self.xattrs).map_err(host)?;
        fs::fchmod(dir, Mode::from_raw_mode(self.mode)).map_err(host)?;
        let time = Timespec {
            tv_sec: self.mtime.0,
            tv_nsec: self.mtime.1,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        fs::futimens(dir, &times).map_err(host)
    }

    /// A shared empty directory that has them.
    pub(crate) fn directory(&self, layout: &Layout) -> Result<OwnedFd> {
        let key = self.key();
        loop {
            if let Some(place) = layout.find(Shelf::Roots, &key)? {
                return walk::open(place.as_fd(), DIR.as_bytes())
                    .map_err(|e| Error::host("open a shared root directory", e));
            }
            let place = layout.stage()?;
            let dir = place.directory(DIR)?;
            self.apply(dir.as_fd())?;
            place.publish(Shelf::Roots, &key)?;
        }
    }

    fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let Self {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        } = self;
        hasher.update(format!("{mode} {uid} {gid} {mtime:?} {xattrs:?}").as_bytes());
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_for_the_same_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let mut attrs = Attrs::fresh();
        attrs.mode = 0o1770;
        attrs.mtime = (1_000_000_001, 123_456_789);
        attrs.xattrs = vec![(b"user.k".to_vec(), b"v".to_vec())];
        let made = attrs.directory(&layout).unwrap();
        if Attrs::of(made.as_fd()).unwrap() != attrs {
            // A temporary file system without attributes of users.
            attrs.xattrs.clear();
            let made = attrs.directory(&layout).unwrap();
            assert_eq!(Attrs::of(made.as_fd()).unwrap(), attrs);
        }
        let count = layout.names(Shelf::Roots).unwrap().len();
        attrs.directory(&layout).unwrap();
        assert_eq!(layout.names(Shelf::Roots).unwrap().len(), count);
        attrs.mode = 0o700;
        attrs.directory(&layout).unwrap();
        assert_eq!(layout.names(Shelf::Roots).unwrap().len(), count + 1);
    }
}
