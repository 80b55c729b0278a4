//! Snapshots of the drivers that put an overlay's upper directory over read-only layers.
//!
//! `snapshots/<id>/` holds `info`, which names the layers, `upper` and `work`.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    fs::FileType,
    io::Errno,
    mount::{FsOpenFlags, fsconfig_create, fsconfig_set_string, fsopen},
};
use unlade_unpack::{Error, Kind, Result};

use crate::{
    diff::{self, New},
    driver::{Change, LayerId, NodeId, SnapshotId, Usage},
    info,
    layout::{Layout, Published, Shelf},
    mount,
    roots::Attrs,
    walk,
};

/// The attribute that overlayfs marks opaque directories with.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// An opened snapshot.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) info: info::Snapshot,
    pub(crate) upper: OwnedFd,
    pub(crate) work: OwnedFd,
}

/// Makes a snapshot; the merged root is to have the attributes `root`.
pub(crate) fn create(
    layout: &Layout,
    id: &SnapshotId,
    info: &info::Snapshot,
    root: &Attrs,
) -> Result<()> {
    if layout.find(Shelf::Snapshots, id.as_str())?.is_some() {
        return Err(exists(id));
    }
    let place = layout.stage()?;
    info.write(&place)?;
    place.directory("work")?;
    root.apply(place.directory("upper")?.as_fd())?;
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

/// Opens a snapshot.
pub(crate) fn open(layout: &Layout, id: &SnapshotId) -> Result<Snapshot> {
    let dir = layout.get(Shelf::Snapshots, id.as_str())?;
    let part = |name: &str| {
        walk::open(dir.as_fd(), name.as_bytes())
            .map_err(|e| Error::host(format!("open the snapshot `{id}`"), e))
    };
    Ok(Snapshot {
        info: info::Snapshot::read(dir.as_fd(), id.as_str())?,
        upper: part("upper")?,
        work: part("work")?,
    })
}

impl Snapshot {
    /// How it differs from `below`, the merged tree of its layers.
    pub(crate) fn changes(&self, below: &OwnedFd) -> Result<Vec<Change>> {
        let kind = New::Upper { opaque: OPAQUE };
        diff::changes(Some(below.as_fd()), self.upper.as_fd(), kind)
    }

    /// What its own files take.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let mut links = std::collections::HashSet::new();
        walk::walk(self.upper.as_fd(), |found| {
            let stat = found.stat;
            if stat.st_nlink <= 1
                || found.kind() == FileType::Directory
                || links.insert(stat.st_ino)
            {
                usage.inodes += 1;
                usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            }
            Ok(())
        })?;
        Ok(usage)
    }
}

/// Takes a snapshot out of sight, unless it is mounted anywhere. Not there is not an error.
pub(crate) fn discard(layout: &Layout, id: &SnapshotId) -> Result<()> {
    let Some(dir) = layout.find(Shelf::Snapshots, id.as_str())? else {
        return Ok(());
    };
    if let Ok(upper) = walk::open(dir.as_fd(), b"upper")
        && is_mounted(layout, &upper)?
    {
        return Err(
            Error::new(Kind::Host, format!("snapshot `{id}` is mounted"))
                .with_hint("stop the container that uses it, or unmount it, then retry"),
        );
    }
    layout.discard(Shelf::Snapshots, id.as_str())
}

/// Whether an overlay uses `upper`, in whatever mount namespace. With `index=on` overlayfs refuses
/// an upper directory that is in use, so mounting it that way is tried; what this may leave in it
/// is an attribute that no other mount minds.
fn is_mounted(layout: &Layout, upper: &OwnedFd) -> Result<bool> {
    let place = layout.stage()?;
    let (work, lower) = (place.directory("work")?, place.directory("lower")?);
    let attempt = || -> Result<(), Errno> {
        let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, dir) in [
            ("lowerdir", &lower),
            ("upperdir", upper),
            ("workdir", &work),
        ] {
            fsconfig_set_string(&fs, key, mount::in_proc(dir.as_fd()))?;
        }
        fsconfig_set_string(&fs, "index", "on")?;
        fsconfig_create(&fs)
    };
    // The kernel lets go of a mount a moment after the last process that held it.
    for _ in 0..20 {
        if attempt() != Err(Errno::BUSY) {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
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
