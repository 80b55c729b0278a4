//! Layers as directories, merged by overlayfs.
//!
//! `layers/<id>/` holds `tree`, the layer's directory with overlayfs's own whiteouts and opaque
//! marks, `info`, and `record`, what was put where. A layer that is right over any others is
//! published by its diffID, and all layers of an image are made at once; one whose tree was made
//! to fit those below, by its chainID.

use std::{
    collections::HashSet,
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use unlade_unpack::{
    Cancel, DirOptions, DirSink, Error, LayerReport, LowerLayers, Result, Sink, Whiteouts,
};

use crate::{
    driver::{
        Change, Driver, DriverKind, Features, Finding, LayerId, LayerInfo, LayerKey, LayerRequest,
        LayerTxn, MountOf, NodeId, Parents, RwOptions, SnapshotId, Usage, check_report, own_usage,
    },
    info,
    layout::{Layout, Place, Shelf},
    mount::{self, MOST_LOWERS, Overlay as Mount},
    roots::Attrs,
    snapshot::{self, Marks, Snapshot},
    verify, walk,
};

const TREE: &str = "tree";
const RECORD: &str = "record";

/// See the module.
#[derive(Debug)]
pub struct Overlay {
    layout: Layout,
    marks: Marks,
}

/// What comes on top of layers in a mount.
#[derive(Default)]
struct Top<'a> {
    snapshot: Option<&'a Snapshot>,
    source: Option<String>,
}

impl Overlay {
    /// The driver on the directory `root`, which is made if it is not there.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn open(root: &Path) -> Result<Self> {
        let layout = Layout::open(root)?;
        let marks = Marks::of(&layout)?;
        Ok(Self { layout, marks })
    }

    fn layer(&self, id: &LayerId) -> Result<(OwnedFd, info::Layer)> {
        let dir = self.layout.get(Shelf::Layers, id.as_str())?;
        let info = info::Layer::read(dir.as_fd(), id)?;
        Ok((dir, info))
    }

    /// Attributes of the merged root: see [`crate::roots`].
    fn root_attrs(&self, layers: &[LayerId]) -> Result<Attrs> {
        for id in layers.iter().rev() {
            let (dir, info) = self.layer(id)?;
            if info.lists_root {
                return Attrs::of(open_tree(&dir, id)?.as_fd());
            }
        }
        Ok(Attrs::fresh())
    }

    fn mount_layers(&self, layers: &[LayerId]) -> Result<OwnedFd> {
        let attrs = self.root_attrs(layers)?;
        let Some(top) = layers.last() else {
            return mount::bind(attrs.directory(&self.layout)?.as_fd(), true);
        };
        let top = tree(&self.layout, top)?;
        // overlayfs wants two layers; one more may give the root its attributes.
        let extra =
            layers.iter().all(|id| Some(id) == layers.last()) || Attrs::of(top.as_fd())? != attrs;
        let root = match extra {
            true => Some(attrs.directory(&self.layout)?),
            false => None,
        };
        self.merge(layers, root.as_ref(), &Top::default())
    }

    /// Mounts layers, lowest first, under `root` if it is given.
    ///
    /// An image may have the same layer twice, which overlayfs refuses. The upper one alone gives
    /// the same tree: whatever the lower one shows or hides, the upper does too.
    fn merge(&self, layers: &[LayerId], root: Option<&OwnedFd>, top: &Top<'_>) -> Result<OwnedFd> {
        let mut seen = HashSet::new();
        let mut layers: Vec<_> = layers.iter().rev().filter(|id| seen.insert(*id)).collect();
        layers.reverse();
        self.stack(&layers, root, top)
    }

    fn stack(&self, layers: &[&LayerId], root: Option<&OwnedFd>, top: &Top<'_>) -> Result<OwnedFd> {
        let extra = usize::from(root.is_some());
        // What overlayfs cannot stack is merged first, to be one layer of the rest.
        let room = MOST_LOWERS - extra;
        let (below, layers) = match layers.len().checked_sub(room) {
            Some(n) if n > 0 => layers.split_at(n + 1),
            _ => layers.split_at(0),
        };
        let below = match below {
            [] => None,
            _ => Some(self.stack(below, None, &Top::default())?),
        };
        let lower = |n: usize| {
            let clone = |fd: &OwnedFd| {
                fd.try_clone()
                    .map_err(|e| Error::host("duplicate a descriptor", e))
            };
            match (root, n.checked_sub(extra), &below) {
                (Some(root), None, _) => clone(root),
                (_, Some(n), Some(below)) if n == layers.len() => clone(below),
                (_, n, _) => tree(&self.layout, layers[layers.len() - 1 - n.unwrap_or(0)]),
            }
        };
        let what = Mount {
            count: layers.len() + extra + usize::from(below.is_some()),
            lower: &lower,
            upper: top.snapshot.map(|s| (s.upper.as_fd(), s.work.as_fd())),
            userxattr: self.marks == Marks::User,
            label: top.snapshot.and_then(|s| s.info.label.as_deref()),
            volatile: top.snapshot.is_some_and(|s| s.info.ephemeral),
            source: top.source.as_deref().unwrap_or("unlade"),
        };
        mount::overlay(&self.layout, &what)
    }
}

/// Opens a layer's tree.
fn open_tree(dir: &OwnedFd, id: &LayerId) -> Result<OwnedFd> {
    walk::open(dir.as_fd(), TREE.as_bytes())
        .map_err(|e| Error::host(format!("open the tree of the layer `{id}`"), e))
}

fn tree(layout: &Layout, id: &LayerId) -> Result<OwnedFd> {
    open_tree(&layout.get(Shelf::Layers, id.as_str())?, id)
}

/// The layers below one that is being made, opened when they are asked for.
#[derive(Debug)]
struct Below {
    layout: Layout,
    parents: Parents,
    cancel: Cancel,
}

impl LowerLayers for Below {
    fn wait(&self) -> Result<Vec<Arc<OwnedFd>>> {
        let parents = self.parents.wait(&self.cancel)?;
        let topmost_first = parents.iter().rev();
        topmost_first
            .map(|id| tree(&self.layout, id).map(Arc::new))
            .collect()
    }
}

#[derive(Debug)]
struct Txn {
    /// Before the place: writers must be still when that is removed.
    sink: DirSink,
    place: Place,
}

impl LayerTxn for Txn {
    fn sink(&mut self) -> &mut dyn Sink {
        &mut self.sink
    }

    fn commit(self: Box<Self>, key: &LayerKey, report: &LayerReport) -> Result<LayerInfo> {
        check_report(key, report)?;
        let Self { sink, place } = *self;
        let depends = sink.depends_on_lowers();
        let id = if depends {
            LayerId::chained(&key.chain_id)
        } else {
            LayerId::of(&key.diff_id)
        };
        let usage = own_usage(report);
        let info = info::Layer {
            usage,
            lists_root: sink.lists_root(),
            depends,
            below: 0,
        };
        drop(sink);
        info.write(&place)?;
        place.publish(Shelf::Layers, id.as_str())?;
        Ok(LayerInfo { id, usage })
    }
}

impl Driver for Overlay {
    fn kind(&self) -> DriverKind {
        DriverKind::Overlay
    }

    fn features(&self) -> Features {
        Features {
            parallel_layers: true,
            keeps_tar: false,
        }
    }

    fn root(&self) -> PathBuf {
        self.layout.path().to_owned()
    }

    fn notes(&self) -> Vec<String> {
        let how = match mount::api() {
            mount::Api::Descriptors => "new mount API, layers by descriptor",
            mount::Api::Paths => "new mount API, layers by path",
            mount::Api::Old => "mount(2)",
        };
        let marks = self.marks.opaque();
        vec![format!("overlayfs: {how}, opaque by {marks}")]
    }

    fn begin_layer(&self, request: LayerRequest) -> Result<Box<dyn LayerTxn>> {
        let place = self.layout.stage()?;
        let tree = place.directory(TREE)?;
        let record = place.file(RECORD)?;
        let mut options = DirOptions::default();
        options.whiteouts = match self.marks {
            Marks::Trusted => Whiteouts::Overlay,
            Marks::User => Whiteouts::OverlayUserXattr,
        };
        options.later = Some(Arc::new(Below {
            layout: self.layout.clone(),
            parents: request.parents,
            cancel: request.cancel,
        }));
        let mut sink = request.unpacker.dir_sink(tree, options)?;
        sink.record_to(Box::new(record))?;
        Ok(Box::new(Txn { sink, place }))
    }

    fn candidates(&self, key: &LayerKey) -> Vec<LayerId> {
        vec![LayerId::of(&key.diff_id), LayerId::chained(&key.chain_id)]
    }

    fn prepare(&self, layers: &[LayerId]) -> Result<()> {
        layers.iter().try_for_each(|id| self.layer(id).map(drop))
    }

    fn create_rw(&self, id: &SnapshotId, layers: &[LayerId], options: &RwOptions) -> Result<()> {
        self.prepare(layers)?;
        let info = info::Snapshot {
            layers: layers.to_vec(),
            label: options.mount_label.clone(),
            ephemeral: options.ephemeral,
        };
        let root = self.root_attrs(layers)?;
        snapshot::create(&self.layout, id, &info, &root, options.size)
    }

    fn mount(&self, what: MountOf<'_>) -> Result<OwnedFd> {
        let id = match what {
            MountOf::Layers(layers) => return self.mount_layers(layers),
            MountOf::Snapshot(id) => id,
        };
        let snapshot = snapshot::open(&self.layout, id)?;
        snapshot.forget_last_mount()?;
        let info = &snapshot.info;
        let nothing = match info.layers.is_empty() {
            true => Some(Attrs::fresh().directory(&self.layout)?),
            false => None,
        };
        let top = Top {
            snapshot: Some(&snapshot),
            source: Some(snapshot::source(&self.layout, id)),
        };
        self.merge(&info.layers, nothing.as_ref(), &top)
    }

    fn changes(&self, id: &SnapshotId) -> Result<Vec<Change>> {
        let mut snapshot = snapshot::open(&self.layout, id)?;
        snapshot.marks = self.marks;
        snapshot.changes(&self.mount_layers(&snapshot.info.layers)?)
    }

    fn usage(&self, what: &NodeId) -> Result<Usage> {
        match what {
            NodeId::Layer(id) => Ok(self.layer(id)?.1.usage),
            NodeId::Snapshot(id) => snapshot::open(&self.layout, id)?.usage(),
        }
    }

    fn remove(&self, what: &NodeId) -> Result<()> {
        match what {
            NodeId::Layer(id) => self.layout.discard(Shelf::Layers, id.as_str()),
            NodeId::Snapshot(id) => snapshot::discard(&self.layout, id),
        }
    }

    fn sweep(&self) -> Result<u64> {
        self.layout.sweep()
    }

    fn list(&self) -> Result<Vec<NodeId>> {
        snapshot::list(&self.layout)
    }

    fn verify(&self, id: &LayerId) -> Result<Vec<Finding>> {
        let Some(dir) = self.layout.find(Shelf::Layers, id.as_str())? else {
            return Ok(vec![verify::of_layer("it is not there")]);
        };
        let (info, tree) = match (info::Layer::read(dir.as_fd(), id), open_tree(&dir, id)) {
            (Ok(info), Ok(tree)) => (info, tree),
            (Err(e), _) | (_, Err(e)) => return Ok(vec![verify::of_layer(&e.to_string())]),
        };
        let mut paths = verify::Paths::new();
        match verify::read(dir.as_fd(), RECORD, &mut paths)? {
            Some(finding) => Ok(vec![finding]),
            None => verify::compare(tree.as_fd(), paths, info.depends),
        }
    }

    fn tar(&self, _id: &LayerId) -> Result<Option<File>> {
        Ok(None)
    }

    fn flush(&self) -> Result<()> {
        self.layout.flush()
    }
}
