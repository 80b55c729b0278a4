//! Owners, modes, times and extended attributes: at once, or for directories at the layer's end.

use std::os::fd::{AsFd, AsRawFd};

use rustix::{
    fs::{self, AtFlags, Mode},
    io::Errno,
};

use super::{
    builder::Builder,
    options::{IdMap, Owners},
};
use crate::{
    attrs,
    entry::{Entry, Meta, Time, Xattrs, split},
    error::{Error, Result, show},
    fault,
    io::{FileMeta, Notes as _, owner, timestamps},
    plan::Fixup,
    root::{Attrs, Dir, Root},
};

impl Builder {
    /// The attributes of a directory that exists only because something is in it.
    fn fresh(&self) -> Attrs {
        let (uid, gid) = match &self.options.owners {
            Owners::Archive if self.privileged => (0, 0),
            Owners::Mapped(map) => (
                IdMap::map(&map.uids, 0).unwrap_or(self.me.0),
                IdMap::map(&map.gids, 0).unwrap_or(self.me.1),
            ),
            _ => self.me,
        };
        Attrs {
            mode: 0o755,
            uid,
            gid,
            mtime: Time::default(),
        }
    }

    /// Gives a directory without an entry the attributes that it has below, or fresh ones.
    pub(in crate::sink) fn implied_attrs(
        &mut self,
        dir: &Dir,
        below: Option<(Attrs, Xattrs)>,
    ) -> Result<()> {
        let (attrs, xattrs) = below.unwrap_or_else(|| (self.fresh(), Xattrs::new()));
        let (uid, gid) = (attrs.uid, attrs.gid);
        if (uid, gid) != (dir.before.uid, dir.before.gid) {
            let (uid, gid) = owner(uid, gid);
            match fs::fchown(dir, uid, gid) {
                Err(Errno::PERM) if !self.privileged => {}
                done => done.map_err(|e| Error::host("set the owner of a directory", e))?,
            }
        }
        self.dir_attrs(dir, attrs, &xattrs)
    }

    /// Gives a directory what its entry says.
    pub(super) fn listed_dir(&mut self, dir: &Dir, meta: &Meta) -> Result<()> {
        let host = |e| Error::host("set the owner of the directory", e);
        let before = (dir.before.uid, dir.before.gid);
        let wanted = self.owner(meta.uid, meta.gid, &dir.path)?;
        let (uid, gid) = wanted.unwrap_or(before);
        // Listed twice, the last entry's attributes count, and no others.
        let again = self.fixups.get(&dir.path).is_some();
        if (uid, gid) != before || !dir.created || again {
            if wanted.is_some() {
                let (uid, gid) = owner(uid, gid);
                fs::fchown(dir, uid, gid).map_err(host)?;
            }
            attrs::remove_others(dir.as_fd(), &meta.xattrs)?;
        }
        let attrs = Attrs {
            mode: meta.mode,
            uid,
            gid,
            mtime: meta.mtime,
        };
        self.dir_attrs(dir, attrs, &meta.xattrs)
    }

    /// Sets attributes now, and leaves mode, time and access lists for the end.
    fn dir_attrs(&mut self, dir: &Dir, attrs: Attrs, xattrs: &Xattrs) -> Result<()> {
        let is_acl = |name: &[u8]| {
            name == attrs::ACL_ACCESS.as_bytes() || name == attrs::ACL_DEFAULT.as_bytes()
        };
        let (acls, now): (Xattrs, Xattrs) =
            xattrs.iter().cloned().partition(|(name, _)| is_acl(name));
        if !now.is_empty() {
            let notes = self.notes.clone();
            let mut note = |name: &[u8], why| notes.xattr(&dir.path, name, why);
            attrs::apply_xattrs(dir.as_fd(), &now, &mut note)?;
        }
        self.fixups.set(&dir.path, Fixup { attrs, acls });
        Ok(())
    }

    pub(in crate::sink) fn apply_fixups(&mut self, root: &mut Root) -> Result<()> {
        self.last_touched = u64::MAX;
        let mut last: Option<std::sync::Arc<Dir>> = None;
        loop {
            // The way to a directory may unlock those above it, which come later.
            for (path, attrs) in root.take_unlocked() {
                if self.fixups.get(&path).is_none() {
                    let acls = Xattrs::new();
                    self.fixups.set(&path, Fixup { attrs, acls });
                }
            }
            let Some((path, fixup)) = self.fixups.pop() else {
                break;
            };
            // The deepest come first: often this is the one that the last one is in.
            let near = match &last {
                Some(last) if split(&last.path).0 == &*path => root.above(last)?,
                _ => None,
            };
            let dir = match near {
                Some(dir) => Some(dir),
                None if path.is_empty() => Some(root.top().clone()),
                None => root.open_real(&path)?,
            };
            let Some(dir) = dir else { continue };
            last = Some(dir.clone());
            let host = |e| {
                Error::host(
                    format!("set attributes of the directory `{}`", show(&path)),
                    e,
                )
            };
            fault::point("dirattr").map_err(|e| Error::host("set attributes", e))?;
            let Fixup { attrs, acls } = fixup;
            if !acls.is_empty() {
                let notes = self.notes.clone();
                let mut note = |name: &[u8], why| notes.xattr(&path, name, why);
                attrs::apply_xattrs(dir.as_fd(), &acls, &mut note)?;
            }
            let moved = (attrs.uid, attrs.gid) != (dir.before.uid, dir.before.gid);
            if attrs.mode != dir.before.mode || !acls.is_empty() || dir.unlocked || moved {
                fs::fchmod(&*dir, Mode::from_raw_mode(attrs.mode)).map_err(host)?;
            }
            fs::futimens(&*dir, &timestamps(attrs.mtime)).map_err(host)?;
            root.restored(&path);
        }
        root.forget_all();
        Ok(())
    }

    /// The owner to set, in the host's ids. `None` leaves it with the caller.
    fn owner(&self, uid: u32, gid: u32, path: &[u8]) -> Result<Option<(u32, u32)>> {
        match &self.options.owners {
            Owners::Caller => Ok(None),
            Owners::Archive if self.privileged => Ok(Some((uid, gid))),
            Owners::Archive => {
                if (uid, gid) != self.me {
                    self.notes
                        .add("owner", "this user may not give files away", path);
                }
                Ok(None)
            }
            Owners::Mapped(map) => {
                let pair = IdMap::map(&map.uids, uid).zip(IdMap::map(&map.gids, gid));
                pair.map(Some).ok_or_else(|| {
                    Error::bad(format!("owner {uid}:{gid} is not in the map"))
                        .with_hint("widen the map (--owners map:…)")
                })
            }
        }
    }

    /// The owner to set on a new name in `dir`; `None` if it has it already.
    fn new_owner(&self, dir: &Dir, meta: &Meta, path: &[u8]) -> Result<Option<(u32, u32)>> {
        let owner = self.owner(meta.uid, meta.gid, path)?;
        Ok(owner.filter(|owner| *owner != self.me || dir.setgid))
    }

    pub(super) fn file_meta(&self, dir: &Dir, entry: Entry) -> Result<FileMeta> {
        let owner = self.new_owner(dir, &entry.meta, &entry.path)?;
        let Meta {
            mode,
            mtime,
            xattrs,
            ..
        } = entry.meta;
        let xattrs = (!xattrs.is_empty()).then(|| Box::new(xattrs));
        let notes = self.notes.clone();
        Ok(FileMeta {
            mode,
            owner,
            mtime,
            xattrs,
            notes,
            entry: entry.index,
            path: entry.path,
        })
    }

    /// Attributes of a symlink or special file, by name and without following it.
    pub(super) fn by_name(
        &self,
        dir: &Dir,
        name: &[u8],
        entry: &Entry,
        has_mode: bool,
    ) -> Result<()> {
        let host = |e| Error::host("set attributes", e);
        let Meta { mode, mtime, .. } = entry.meta;
        if let Some((uid, gid)) = self.new_owner(dir, &entry.meta, &entry.path)? {
            let (uid, gid) = owner(uid, gid);
            fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(host)?;
        }
        if has_mode {
            let flags = fs::OFlags::PATH | fs::OFlags::NOFOLLOW | fs::OFlags::CLOEXEC;
            let handle = fs::openat(dir, name, flags, Mode::empty()).map_err(host)?;
            crate::root::chmod_handle(handle.as_fd(), mode).map_err(host)?;
        }
        self.xattrs_by_name(dir, name, entry)?;
        fs::utimensat(dir, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(host)
    }

    fn xattrs_by_name(&self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<()> {
        for (key, value) in &entry.meta.xattrs {
            if let Some(why) = attrs::refusal(key, value) {
                self.notes.xattr(&entry.path, key, why);
                continue;
            }
            // The directory is named by descriptor and the last component is not followed.
            let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            let flags = fs::XattrFlags::empty();
            if let Err(e) = fs::lsetxattr(&*path, &**key, value, flags) {
                let mut note = |n: &[u8], why| self.notes.xattr(&entry.path, n, why);
                attrs::failed(key, e, &mut note)?;
            }
        }
        Ok(())
    }
}
