//! The layers below an overlay layer, merged as overlayfs merges them.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
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

/// The layers below an overlay layer that is being made, given when it depends on them.
pub trait LowerLayers: Send + Sync + std::fmt::Debug {
    /// Their root directories, topmost first. May wait until they are there.
    ///
    /// # Errors
    /// Ends the layer: one of them failed, or waiting was cancelled.
    fn wait(&self) -> Result<Vec<Arc<OwnedFd>>>;
}

/// The lower layers' root directories, topmost first: at hand, or to be waited for.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    dirs: OnceLock<Vec<Arc<OwnedFd>>>,
    later: Option<Arc<dyn LowerLayers>>,
}

impl Layers {
    pub(crate) fn now(dirs: Vec<Arc<OwnedFd>>) -> Self {
        Self {
            dirs: OnceLock::from(dirs),
            later: None,
        }
    }

    pub(crate) fn later(later: Arc<dyn LowerLayers>) -> Self {
        Self {
            dirs: OnceLock::new(),
            later: Some(later),
        }
    }

    /// Whether they can be had without waiting.
    pub(super) fn at_hand(&self) -> bool {
        self.later.is_none() || self.dirs.get().is_some()
    }

    /// Whether they had to be waited for: the layer's tree is right over these alone.
    pub(super) fn were_needed(&self) -> bool {
        self.later.is_some() && self.dirs.get().is_some()
    }

    pub(super) fn get(&self) -> Result<&[Arc<OwnedFd>]> {
        if let Some(dirs) = self.dirs.get() {
            return Ok(dirs);
        }
        let dirs = match &self.later {
            Some(later) => later.wait()?,
            None => Vec::new(),
        };
        Ok(self.dirs.get_or_init(|| dirs))
    }
}

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
    /// Whether the layers below were needed though they were to come later.
    pub(crate) fn lowers_were_needed(&self) -> bool {
        self.lowers.were_needed()
    }

    /// Whether nothing is known of the layers below yet.
    pub(crate) fn lowers_are_open(&self) -> bool {
        !self.lowers.at_hand()
    }

    /// Indices of the lower layers whose directories show through `dir`, topmost first.
    pub(super) fn shown<'a>(&self, dir: &'a Dir) -> Result<&'a [u16]> {
        if let Some(known) = dir.lowers.get() {
            return Ok(known);
        }
        let count = u16::try_from(self.lowers.get()?.len()).unwrap_or(u16::MAX);
        let mut layers: Box<[u16]> = (0..count).collect();
        let mut end = 0;
        // Nothing on the way is opaque in this layer, so the lower layers alone decide.
        while end < dir.path.len() && !layers.is_empty() {
            let rest = &dir.path[end..];
            let name = rest.iter().skip(1).position(|&b| b == b'/');
            end = name.map_or(dir.path.len(), |n| end + n + 1);
            layers = match self.merged(&layers, &dir.path[..end])? {
                Lower::Dir(layers) => layers,
                _ => Box::default(),
            };
        }
        Ok(dir.lowers.get_or_init(|| layers))
    }

    /// Looks `name` up in the lower layers that show through `dir`, by overlayfs's rules.
    pub(crate) fn lower_child(&self, dir: &Dir, name: &[u8]) -> Result<Lower> {
        let layers = self.shown(dir)?;
        if layers.is_empty() {
            return Ok(Lower::Absent);
        }
        self.merged(layers, &join(&dir.path, name))
    }

    /// What `real` is in `layers`, all of which have the directory that it is in.
    fn merged(&self, layers: &[u16], real: &[u8]) -> Result<Lower> {
        let mut dirs = Vec::new();
        for &layer in layers {
            match self.in_layer(layer, real)? {
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
        let root = self.lowers.get()?[usize::from(layer)].as_fd();
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
        let root = self.lowers.get()?[usize::from(layer)].as_fd();
        let fd = open_path(root, real).map_err(host)?;
        let attrs = Attrs::of(&fs::fstat(&fd).map_err(host)?);
        Ok((attrs, crate::attrs::read_xattrs(fd.as_fd())?))
    }

    /// Attributes of the topmost lower layer's root directory.
    pub(crate) fn lower_root(&self) -> Result<Option<(Attrs, Xattrs)>> {
        let Some(root) = self.lowers.get()?.first() else {
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
        for &layer in self.shown(dir)? {
            match self.in_layer(layer, &real)? {
                LayerHas::Nothing => {}
                LayerHas::Other | LayerHas::Symlink(_) => {
                    let host = |e| Error::host(format!("look at `{}`", show(&real)), e);
                    let root = self.lowers.get()?[usize::from(layer)].as_fd();
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
    ///
    /// # Errors
    /// If they had to be waited for and do not come.
    pub(crate) fn lower_fds(&self) -> Result<&[Arc<OwnedFd>]> {
        self.lowers.get()
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
