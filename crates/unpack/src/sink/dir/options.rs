//! How a tree is built: owners and whiteouts.

use std::{os::fd::OwnedFd, sync::Arc};

use crate::{attrs, root::LowerLayers};

/// Whose the files are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Owners {
    /// As the archive says. An ordinary user keeps all; the report counts them.
    #[default]
    Archive,
    /// The caller's.
    Caller,
    /// As the archive says, shifted by a map. Owners outside the map are an error.
    Mapped(IdMap),
}

/// Whether this process is in a user namespace that has one id alone, as an ordinary user can make:
/// even its root can give files to nobody else then.
pub fn only_own_id() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<&str> = map.split_whitespace().collect();
    matches!(words[..], [_, _, "1"])
}

/// Maps owners and groups of the image to those of the host, as a user namespace does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMap {
    pub(super) uids: Vec<IdRange>,
    pub(super) gids: Vec<IdRange>,
}

/// `count` ids from `inside` become those from `outside`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the image.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdMap {
    /// A map of owners and one of groups.
    pub fn new(uids: Vec<IdRange>, gids: Vec<IdRange>) -> Self {
        Self { uids, gids }
    }

    pub(super) fn map(ranges: &[IdRange], id: u32) -> Option<u32> {
        let range = ranges
            .iter()
            .find(|r| id >= r.inside && id - r.inside < r.count)?;
        range.outside.checked_add(id - range.inside)
    }
}

/// What becomes of whiteouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Whiteouts {
    /// They remove what lower layers put into the same tree.
    #[default]
    Apply,
    /// They become overlayfs's own: character devices 0:0 and `trusted.overlay.opaque`. The tree
    /// is one layer's directory, to be mounted over those in [`DirOptions::lowers`].
    Overlay,
    /// The same with `user.overlay.opaque`, for mounts with the option `userxattr`.
    OverlayUserXattr,
    /// They are kept as the files they are in the archive.
    Keep,
}

/// How a [`DirSink`](super::DirSink) builds its tree.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DirOptions {
    /// Whose the files are.
    pub owners: Owners,
    /// What becomes of whiteouts.
    pub whiteouts: Whiteouts,
    /// With `Overlay`: the root directories of the layers below, topmost first.
    pub lowers: Vec<Arc<OwnedFd>>,
    /// With `Overlay`, instead of `lowers`: the layers below are still being made, and are waited
    /// for only where this layer's tree depends on them. See [`DirSink::depends_on_lowers`] and
    /// [`DirSink::lists_root`].
    ///
    /// [`DirSink::depends_on_lowers`]: super::DirSink::depends_on_lowers
    /// [`DirSink::lists_root`]: super::DirSink::lists_root
    pub later: Option<Arc<dyn LowerLayers>>,
    /// With `Apply`: the tree already is that of the layers below, even if nothing is in it. One
    /// that is not empty is taken so anyway.
    pub over_layers: bool,
}

pub(super) fn opaque_xattr(whiteouts: Whiteouts) -> Option<&'static str> {
    match whiteouts {
        Whiteouts::Overlay => Some(attrs::TRUSTED_OPAQUE),
        Whiteouts::OverlayUserXattr => Some(attrs::USER_OPAQUE),
        Whiteouts::Apply | Whiteouts::Keep => None,
    }
}
