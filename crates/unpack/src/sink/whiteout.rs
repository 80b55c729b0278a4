//! Whiteouts and opaque markers, by the rule of the specification: they hide what lower layers
//! have and never what their own layer has, wherever in it they stand.
//!
//! OCI image-spec, layer.md, "Whiteouts"; Linux, filesystems/overlayfs.rst.

use std::{os::fd::AsFd, sync::Arc};

use rustix::fs::{self, AtFlags, FileType, Mode};

use super::dir::{Builder, DirSink};
use crate::{
    attrs,
    entry::Xattrs,
    error::{Error, Result, show},
    root::{Child, Dir, Lower, Missing, Root, Walk, join},
};

/// Whiteouts remembered to be looked at later; with more, the lower layers are waited for.
const MOST_BLIND: usize = 1 << 16;

impl DirSink {
    /// `.wh.name` in `dir`.
    pub(super) fn whiteout(&mut self, dir: &[u8], name: &[u8]) -> Result<()> {
        let Self { root, work, .. } = self;
        if !work.over {
            return Ok(());
        }
        let Some(dir) = root.resolve(dir, Missing::Stop, work)? else {
            return Ok(());
        };
        work.settle(root, &dir, name)?;
        let real = join(&dir.path, name);
        work.passed.check_whiteout(&real)?;
        if work.overlay() {
            let own = root.open_child(&dir, name)?;
            if work.seen.get(&real).is_some() {
                return match own {
                    Child::Dir(own) => hide_below(root, work, &own, true),
                    _ => Ok(()),
                };
            }
            work.touch(&dir);
            // What is here without an entry was copied up for a whiteout or a link.
            if !matches!(own, Child::Absent) {
                work.clear(root, &dir, name)?;
            }
            if root.lowers_are_open() && work.blind_whiteouts.len() < MOST_BLIND {
                work.blind_whiteouts.push((dir.path.clone(), name.into()));
                return make_whiteout(&dir, name);
            }
            return match root.lower_child(&dir, name)? {
                Lower::Absent => Ok(()),
                _ => make_whiteout(&dir, name),
            };
        }
        match work.seen.get(&real) {
            None => {
                work.touch(&dir);
                work.clear(root, &dir, name)
            }
            Some(_) => match root.open_child(&dir, name)? {
                Child::Dir(own) => purge_below(root, work, &own, true),
                _ => Ok(()),
            },
        }
    }

    /// `.wh..wh..opq` in `dir`.
    pub(super) fn opaque(&mut self, dir: &[u8]) -> Result<()> {
        let Self { root, work, .. } = self;
        if !work.over {
            return Ok(());
        }
        let Some(dir) = root.resolve(dir, Missing::Stop, work)? else {
            return Ok(());
        };
        work.passed.check_opaque(&dir.path)?;
        if !work.overlay() {
            return purge_below(root, work, &dir, false);
        }
        if dir.path.is_empty() {
            // overlayfs does not look for the mark on a layer's root: see `hide_root`.
            work.barrier(root)?;
            work.root_opaque = true;
            root.hide_lowers()?;
            let top = root.top().clone();
            return purge_below(root, work, &top, false);
        }
        hide_below(root, work, &dir, false)
    }
}

/// Overlay: hides what lower layers have in `dir`, and of `dir` itself if `and_itself`.
fn hide_below(root: &mut Root, work: &mut Builder, dir: &Arc<Dir>, and_itself: bool) -> Result<()> {
    if root.may_be_merged(dir)? {
        attrs::mark_opaque(dir.as_fd(), work.opaque_xattr())?;
    }
    root.forget(&dir.path);
    purge_below(root, work, dir, and_itself)
}

/// Gives an implied directory the attributes of one that has nothing below.
fn refresh(work: &mut Builder, dir: &Dir) -> Result<()> {
    attrs::remove_others(dir.as_fd(), &Xattrs::new())?;
    work.implied_attrs(dir, None)
}

/// Removes from `dir` what this layer did not put there: in an applied tree what lower layers
/// did, in an overlay layer what was copied up, and whiteouts that nothing needs any more.
fn purge_below(
    root: &mut Root,
    work: &mut Builder,
    dir: &Arc<Dir>,
    and_itself: bool,
) -> Result<()> {
    if work.seen.is_own(&dir.path) {
        if and_itself && work.seen.get(&dir.path) == Some(false) {
            refresh(work, dir)?;
        }
        return Ok(());
    }
    work.barrier(root)?;
    let mut todo = vec![dir.path.clone()];
    while let Some(path) = todo.pop() {
        let at = if path.is_empty() {
            Some(root.top().clone())
        } else {
            root.open_real(&path)?
        };
        let Some(at) = at else { continue };
        work.touch(&at);
        if (*path != *dir.path || and_itself) && work.seen.get(&path) == Some(false) {
            refresh(work, &at)?;
        }
        // Looked through before; but the marker that did it may have left the directory itself.
        if work.seen.is_own(&path) {
            continue;
        }
        let mut gone = Vec::new();
        each_name(&at, |name, kind| {
            let real = join(&path, name);
            match (work.seen.get(&real), kind) {
                (None, _) => gone.push(name.to_vec()),
                (Some(_), FileType::Directory) => todo.push(real),
                (Some(_), _) => {}
            }
            Ok(())
        })?;
        for name in gone {
            work.clear(root, &at, &name)?;
        }
    }
    work.seen.note_own(&dir.path);
    Ok(())
}

/// Overlay, at the end of a layer: removes whiteouts that were made before the lower layers were
/// known and hide nothing. overlayfs shows a whiteout in a directory that only one layer has.
pub(super) fn settle_blind(root: &mut Root, work: &mut Builder) -> Result<()> {
    for (dir, name) in std::mem::take(&mut work.blind_whiteouts) {
        let at = if dir.is_empty() {
            Some(root.top().clone())
        } else {
            root.open_real(&dir)?
        };
        let Some(at) = at else { continue };
        let there = matches!(root.open_child(&at, &name)?, Child::Other)
            && work.seen.get(&join(&dir, &name)).is_none();
        if there && matches!(root.lower_child(&at, &name)?, Lower::Absent) {
            work.touch(&at);
            work.clear(root, &at, &name)?;
        }
    }
    Ok(())
}

/// Overlay, at the end of a layer whose root is opaque: hides every name of the lower roots.
pub(super) fn hide_root(root: &mut Root, work: &mut Builder) -> Result<()> {
    let top = root.top().clone();
    for lower in root.lower_fds()?.to_vec() {
        let host = |e| Error::host("read a lower layer", e);
        for entry in fs::Dir::read_from(&*lower).map_err(host)? {
            let entry = entry.map_err(host)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            match root.open_child(&top, name)? {
                Child::Dir(own) => attrs::mark_opaque(own.as_fd(), work.opaque_xattr())?,
                Child::Absent => make_whiteout(&top, name)?,
                Child::Symlink(_) | Child::Other => {}
            }
        }
    }
    Ok(())
}

fn make_whiteout(dir: &Dir, name: &[u8]) -> Result<()> {
    fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(|e| Error::host(format!("make the whiteout of `{}`", show(name)), e))
}

/// Calls `each` with every name in `dir` and its type.
fn each_name(dir: &Dir, mut each: impl FnMut(&[u8], FileType) -> Result<()>) -> Result<()> {
    let host = |e| Error::host(format!("read the directory `{}`", show(&dir.path)), e);
    for entry in fs::Dir::read_from(dir).map_err(host)? {
        let entry = entry.map_err(host)?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let st = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(host)?;
                FileType::from_raw_mode(st.st_mode)
            }
            kind => kind,
        };
        each(name, kind)?;
    }
    Ok(())
}
