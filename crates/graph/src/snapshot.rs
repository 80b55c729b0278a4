//! Snapshots of the drivers that put an overlay's upper directory over read-only layers.
//!
//! `snapshots/<id>/` holds `info`, which names the layers, `upper` and `work`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, fremovexattr, openat, unlinkat},
    io::Errno,
};
use unlade_unpack::{Error, Kind, Result};

use crate::{
    diff::{self, New},
    driver::{Change, LayerId, NodeId, SnapshotId, Usage},
    info,
    layout::{Layout, Published, Shelf},
    mount, quota, remove,
    roots::Attrs,
    walk,
};

/// How overlayfs marks opaque directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// By `trusted.overlay.*`.
    Trusted,
    /// By `user.overlay.*`: in a user namespace, which may set no others.
    User,
}

impl Marks {
    /// Those that this process may set under a layout. Taking away what is not there tells, and
    /// writes nothing: it works on a full disk, and costs no more than a call.
    pub(crate) fn of(layout: &Layout) -> Result<Self> {
        let host = |e| Error::host("mark a directory as overlayfs does", e);
        for marks in [Self::Trusted, Self::User] {
            match fremovexattr(layout.root(), marks.opaque()) {
                Ok(()) | Err(Errno::NODATA) => return Ok(marks),
                Err(Errno::PERM) => {}
                Err(e) => return Err(host(e)),
            }
        }
        Err(host(Errno::PERM))
    }

    /// The attribute.
    pub(crate) fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

/// An opened snapshot.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) info: info::Snapshot,
    pub(crate) upper: OwnedFd,
    pub(crate) work: OwnedFd,
    /// How its mounts mark opaque directories.
    pub(crate) marks: Marks,
}

/// Makes a snapshot; the merged root is to have the attributes `root`, and its own files may take
/// `size` bytes.
pub(crate) fn create(
    layout: &Layout,
    id: &SnapshotId,
    info: &info::Snapshot,
    root: &Attrs,
    size: Option<u64>,
) -> Result<()> {
    if layout.find(Shelf::Snapshots, id.as_str())?.is_some() {
        return Err(exists(id));
    }
    let place = layout.stage()?;
    info.write(&place)?;
    let work = place.directory(quota::CARRIER)?;
    let upper = place.directory("upper")?;
    if let Some(bytes) = size {
        quota::limit([work.as_fd(), upper.as_fd()], bytes)?;
    }
    root.apply(upper.as_fd())?;
    match place.publish(Shelf::Snapshots, id.as_str())? {
        Published::New => Ok(()),
        Published::Present => Err(exists(id)),
    }
}

/// For a name that is taken.
pub(crate) fn exists(id: &SnapshotId) -> Error {
    Error::new(Kind::Host, format!("snapshot `{id}` exists already"))
        .with_hint("remove it first, or choose another name")
}

/// Opens a snapshot whose mounts use trusted marks.
pub(crate) fn open(layout: &Layout, id: &SnapshotId) -> Result<Snapshot> {
    let dir = layout.get(Shelf::Snapshots, id.as_str())?;
    let part = |name: &str| {
        walk::open(dir.as_fd(), name.as_bytes())
            .map_err(|e| Error::host(format!("open the snapshot `{id}`"), e))
    };
    Ok(Snapshot {
        info: info::Snapshot::read(dir.as_fd(), id.as_str())?,
        upper: part("upper")?,
        work: part(quota::CARRIER)?,
        marks: Marks::Trusted,
    })
}

impl Snapshot {
    /// After a volatile mount overlayfs mounts no more until its mark is taken away, since there
    /// may have been a crash. What is ephemeral is not used after one: its owner removes it.
    pub(crate) fn forget_last_mount(&self) -> Result<()> {
        if !self.info.ephemeral {
            return Ok(());
        }
        let forget = || -> std::io::Result<()> {
            let work = match openat(&self.work, "work", walk::DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(()),
                dir => dir?,
            };
            match openat(&work, "incompat", walk::DIRECTORY, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(()),
                dir => remove::clear(dir?.as_fd())?,
            };
            Ok(unlinkat(&work, "incompat", AtFlags::REMOVEDIR)?)
        };
        forget().map_err(|e| Error::host("make a snapshot ready to be mounted again", e))
    }

    /// How it differs from `below`, the merged tree of its layers.
    pub(crate) fn changes(&self, below: &OwnedFd) -> Result<Vec<Change>> {
        let kind = New::Upper {
            opaque: self.marks.opaque(),
        };
        diff::changes(Some(below.as_fd()), self.upper.as_fd(), kind)
    }

    /// What its own files take.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of_tree(self.upper.as_fd())
    }
}

/// What its mounts show as their source.
pub(crate) fn source(layout: &Layout, id: &SnapshotId) -> String {
    format!("{}/snapshots/{id}", layout.path().display())
}

/// Takes a snapshot out of sight, unless it is mounted: see [`mount::refuse_if_mounted`]. Not there
/// is not an error.
pub(crate) fn discard(layout: &Layout, id: &SnapshotId) -> Result<()> {
    let tree = format!("/snapshots/{id}/tree");
    mount::refuse_if_mounted(layout, id.as_str(), &tree, &source(layout, id))?;
    layout.discard(Shelf::Snapshots, id.as_str())
}

/// All layers and snapshots of a layout.
pub(crate) fn list(layout: &Layout) -> Result<Vec<NodeId>> {
    let layers = layout.names(Shelf::Layers)?;
    let snapshots = layout.names(Shelf::Snapshots)?;
    let layers = layers.iter().filter_map(|n| LayerId::parse(n));
    let snapshots = snapshots.iter().filter_map(|n| SnapshotId::parse(n));
    Ok(layers
        .map(NodeId::Layer)
        .chain(snapshots.map(NodeId::Snapshot))
        .collect())
}
