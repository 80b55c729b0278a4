//! The driver whose layers are their own tars: one file a layer, written as it arrives, and one
//! small EROFS index over all the tars of an image.
//!
//! ```text
//! layers/<id>/tar            the layer's tar stream, bit for bit as its diffID has it
//!             spill          what an index cannot point into (only if there is any)
//!             spill.blake3   its digest
//!             info
//! images/<id>/index.erofs    metadata over the tars of a chain of layers, or
//!             full.erofs     with all data in it, where the kernel cannot do that
//!             about          its digest, and the boot that it was last found right in
//! snapshots/<id>/            upper and work directory of an overlay over the image
//! ```
//!
//! Images are made from layers alone, at any time, and always the same: losing one costs nothing.

mod image;
mod layer;
mod way;

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};
use unlade_unpack::{Error, Result};

pub use self::way::Way;
use self::{
    image::Images,
    layer::{Recent, Txn},
    way::Found,
};
use crate::{
    driver::{
        Change, Driver, DriverKind, Features, Finding, LayerId, LayerKey, LayerRequest, LayerTxn,
        MountOf, NodeId, RwOptions, SnapshotId, Usage,
    },
    info,
    layout::{Layout, Shelf},
    roots::Attrs,
    snapshot, verify,
};

/// See the module.
#[derive(Debug)]
pub struct ErofsDriver {
    layout: Layout,
    forced: Option<Way>,
    found: OnceLock<Found>,
    recent: Recent,
}

impl ErofsDriver {
    /// Opens the driver on its directory, and makes that if it is not there. How images are
    /// mounted is found out when the first is, unless `way` says.
    ///
    /// # Errors
    /// If it cannot be made or opened.
    pub fn open(root: &Path, way: Option<Way>) -> Result<Self> {
        Ok(Self {
            layout: Layout::open(root)?,
            forced: way,
            found: OnceLock::new(),
            recent: Recent::default(),
        })
    }

    /// The way in which images are mounted here.
    ///
    /// # Errors
    /// If there is none.
    pub fn way(&self) -> Result<Way> {
        Ok(self.found()?.way)
    }

    fn found(&self) -> Result<&Found> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let found = match self.forced {
            Some(way) => Found::forced(way),
            None => way::find(&self.layout)?,
        };
        Ok(self.found.get_or_init(|| found))
    }

    fn images(&self) -> Result<Images<'_>> {
        Ok(Images {
            layout: &self.layout,
            recent: &self.recent,
            way: self.way()?,
        })
    }
}

/// Whether the driver works in this directory, snapshots included.
///
/// # Errors
/// If it does not: why.
pub(crate) fn works(layout: &Layout) -> Result<()> {
    way::find(layout)?;
    way::snapshots_work(layout)
}

impl Driver for ErofsDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Erofs
    }

    fn features(&self) -> Features {
        Features {
            parallel_layers: true,
            keeps_tar: true,
        }
    }

    fn root(&self) -> PathBuf {
        self.layout.path().to_owned()
    }

    fn notes(&self) -> Vec<String> {
        match self.found() {
            Ok(found) => vec![format!("erofs: {}", found.why)],
            Err(e) => vec![format!("erofs: {e}")],
        }
    }

    fn begin_layer(&self, _request: LayerRequest) -> Result<Box<dyn LayerTxn>> {
        let place = self.layout.stage()?;
        Ok(Box::new(Txn::new(place, self.recent.clone())?))
    }

    fn candidates(&self, key: &LayerKey) -> Vec<LayerId> {
        vec![LayerId::of(&key.diff_id)]
    }

    fn prepare(&self, layers: &[LayerId]) -> Result<()> {
        self.images()?.get(layers).map(drop)
    }

    fn create_rw(&self, id: &SnapshotId, layers: &[LayerId], options: &RwOptions) -> Result<()> {
        let root = self.images()?.mount(layers)?;
        let info = info::Snapshot {
            layers: layers.to_vec(),
            label: options.mount_label.clone(),
            ephemeral: options.ephemeral,
        };
        let root = Attrs::of(root.as_fd())?;
        snapshot::create(&self.layout, id, &info, &root, options.size)
    }

    fn mount(&self, what: MountOf<'_>) -> Result<OwnedFd> {
        let id = match what {
            MountOf::Layers(layers) => return self.images()?.mount(layers),
            MountOf::Snapshot(id) => id,
        };
        let snapshot = snapshot::open(&self.layout, id)?;
        let lower = self.images()?.mount(&snapshot.info.layers)?;
        snapshot.forget_last_mount()?;
        let upper = way::Upper {
            dirs: (snapshot.upper.as_fd(), snapshot.work.as_fd()),
            source: &snapshot::source(&self.layout, id),
            label: snapshot.info.label.as_deref(),
            volatile: snapshot.info.ephemeral,
        };
        way::overlay(&self.layout, &lower, upper)
    }

    fn changes(&self, id: &SnapshotId) -> Result<Vec<Change>> {
        let snapshot = snapshot::open(&self.layout, id)?;
        snapshot.changes(&self.images()?.mount(&snapshot.info.layers)?)
    }

    fn usage(&self, what: &NodeId) -> Result<Usage> {
        match what {
            NodeId::Layer(id) => {
                let dir = self.layout.get(Shelf::Layers, id.as_str())?;
                Ok(info::Layer::read(dir.as_fd(), id)?.usage)
            }
            NodeId::Snapshot(id) => snapshot::open(&self.layout, id)?.usage(),
        }
    }

    fn remove(&self, what: &NodeId) -> Result<()> {
        match what {
            // Images over it go with the next sweep: without the layer nobody can mount them.
            NodeId::Layer(id) => self.layout.discard(Shelf::Layers, id.as_str()),
            NodeId::Snapshot(id) => snapshot::discard(&self.layout, id),
        }
    }

    fn sweep(&self) -> Result<u64> {
        image::discard_orphans(&self.layout)?;
        self.layout.sweep()
    }

    fn list(&self) -> Result<Vec<NodeId>> {
        snapshot::list(&self.layout)
    }

    fn verify(&self, id: &LayerId) -> Result<Vec<Finding>> {
        let Some(dir) = self.layout.find(Shelf::Layers, id.as_str())? else {
            return Ok(vec![verify::of_layer("it is not there")]);
        };
        if let Err(e) = info::Layer::read(dir.as_fd(), id) {
            return Ok(vec![verify::of_layer(&e.to_string())]);
        }
        layer::verify(&dir, id)
    }

    fn verify_merged(&self, layers: &[LayerId]) -> Result<Vec<Finding>> {
        self.images()?.verify(layers)
    }

    fn discard_merged(&self, layers: &[LayerId]) -> Result<()> {
        self.images()?.discard(layers)
    }

    fn tar(&self, id: &LayerId) -> Result<Option<File>> {
        let dir = self.layout.get(Shelf::Layers, id.as_str())?;
        layer::open(&dir, layer::TAR, id).map(Some)
    }

    fn flush(&self) -> Result<()> {
        self.layout.flush()
    }
}

/// Opens a file of ours in a directory of ours; `None` if it is not there.
fn open_file(dir: &OwnedFd, name: &str) -> Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd.into())),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(Error::host(format!("open `{name}`"), e)),
    }
}
