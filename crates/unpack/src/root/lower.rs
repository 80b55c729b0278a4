//! The layers below an overlay layer, merged as overlayfs merges them.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, ResolveFlags, Stat},
    io::Errno,
};

use super::{Attrs, DIR_FLAGS, Dir, Root, components, join};
use crate::{
    entry::{Xattrs, split},
    error::{Error, Result, show},
};

/// What `name` is in the merged view of the lower layers alone.
#[derive(Debug)]
pub(crate) enum Lower {
    /// A directory, and the layers whose directories are merged in it, topmost first.
    Dir(Box<[u16]>),
    Symlink(Vec<u8>),
    Other,
    Absent,
}

impl Root {
    /// Looks `name` up in the lower layers that show through `dir`, by overlayfs's rules.
    pub(crate) fn lower_child(&self, dir: &Dir, name: &[u8]) -> Result<Lower> {
        let real = join(&dir.path, name);
        let mut dirs = Vec::new();
        for &layer in &dir.lowers {
            match self.in_layer(layer, &real)? {
                LayerHas::Nothing => {}
                LayerHas::Dir { opaque } => {
                    dirs.push(layer);
                    if opaque {
                        break;
                    }
                }
                _ if !dirs.is_empty() => break,
                LayerHas::Whiteout => return Ok(Lower::Absent),
                LayerHas::Symlink(target) => return Ok(Lower::Symlink(target)),
                LayerHas::Other => return Ok(Lower::Other),
            }
        }
        Ok(if dirs.is_empty() {
            Lower::Absent
        } else {
            Lower::Dir(dirs.into())
        })
    }

    fn in_layer(&self, layer: u16, real: &[u8]) -> Result<LayerHas> {
        let host = |e| Error::host(format!("look at `{}` in a lower layer", show(real)), e);
        let root = self.lowers[usize::from(layer)].as_fd();
        let (above, name) = split(real);
        let dir;
        let dir = if above.is_empty() {
            root
        } else {
            match open_path(root, above) {
                Ok(fd) => dir = fd,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(LayerHas::Nothing),
                Err(e) => return Err(host(e)),
            }
            dir.as_fd()
        };
        let st = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(st) => st,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(LayerHas::Nothing),
            Err(e) => return Err(host(e)),
        };
        match FileType::from_raw_mode(st.st_mode) {
            FileType::Directory => {
                let fd = fs::openat(dir, name, DIR_FLAGS, Mode::empty()).map_err(host)?;
                let opaque = self.overlay_xattr.is_some_and(|x| is_opaque(fd.as_fd(), x));
                Ok(LayerHas::Dir { opaque })
            }
            FileType::Symlink => {
                let target = fs::readlinkat(dir, name, Vec::new()).map_err(host)?;
                Ok(LayerHas::Symlink(target.into_bytes()))
            }
            FileType::CharacterDevice if st.st_rdev == 0 => Ok(LayerHas::Whiteout),
            _ => Ok(LayerHas::Other),
        }
    }

    pub(super) fn lower_attrs(&self, layer: u16, real: &[u8]) -> Result<(Attrs, Xattrs)> {
        let host = |e| Error::host(format!("read `{}` of a lower layer", show(real)), e);
        let root = self.lowers[usize::from(layer)].as_fd();
        let fd = open_path(root, real).map_err(host)?;
        let attrs = Attrs::of(&fs::fstat(&fd).map_err(host)?);
        Ok((attrs, crate::attrs::read_xattrs(fd.as_fd())?))
    }

    /// Attributes of the topmost lower layer's root directory.
    pub(crate) fn lower_root(&self) -> Result<Option<(Attrs, Xattrs)>> {
        let Some(root) = self.lowers.first() else {
            return Ok(None);
        };
        let st = fs::fstat(root).map_err(|e| Error::host("look at a lower layer", e))?;
        Ok(Some((
            Attrs::of(&st),
            crate::attrs::read_xattrs(root.as_fd())?,
        )))
    }

    /// What is at `name` in the merged lower layers under `dir`, unless it is a directory: the
    /// directory that has it, and its attributes.
    pub(crate) fn lower_node(&self, dir: &Dir, name: &[u8]) -> Result<Option<(OwnedFd, Stat)>> {
        let real = join(&dir.path, name);
        for &layer in &dir.lowers {
            match self.in_layer(layer, &real)? {
                LayerHas::Nothing => {}
                LayerHas::Other | LayerHas::Symlink(_) => {
                    let host = |e| Error::host(format!("look at `{}`", show(&real)), e);
                    let root = self.lowers[usize::from(layer)].as_fd();
                    let above = open_path(root, split(&real).0).map_err(host)?;
                    let st = fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW).map_err(host)?;
                    return Ok(Some((above, st)));
                }
                LayerHas::Whiteout | LayerHas::Dir { .. } => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Descriptors of the lower layers' roots, topmost first.
    pub(crate) fn lower_fds(&self) -> &[Arc<OwnedFd>] {
        &self.lowers
    }
}

#[derive(Debug)]
enum LayerHas {
    Nothing,
    Whiteout,
    Dir { opaque: bool },
    Symlink(Vec<u8>),
    Other,
}

/// Opens a directory by a path without symlinks, of any length.
fn open_path(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() {
        b".".as_slice()
    } else {
        path
    };
    match fs::openat2(root, path, DIR_FLAGS, Mode::empty(), resolve) {
        Err(Errno::NAMETOOLONG | Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {}
        done => return done,
    }
    let mut dir = fs::openat(root, ".", DIR_FLAGS, Mode::empty())?;
    for name in components(path) {
        dir = fs::openat(&dir, &*name, DIR_FLAGS, Mode::empty())?;
    }
    Ok(dir)
}

pub(super) fn is_opaque(fd: BorrowedFd<'_>, name: &str) -> bool {
    let mut value = [0_u8; 2];
    fs::fgetxattr(fd, name, &mut value[..]).is_ok_and(|n| n == 1 && value[0] == b'y')
}
