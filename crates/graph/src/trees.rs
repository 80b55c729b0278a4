//! A full tree a layer, cloned from the one below: by btrfs snapshots, by sharing extents, or by
//! copying.
//!
//! `layers/<id>/` holds `tree`, `info`, and `records/NNNN`: what each layer of the chain put
//! where, lowest first; those from below are hard links. `snapshots/<id>/` holds `tree` and
//! `info`. Layers are published by chainID.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, openat, statat};
use unlade_unpack::{DirOptions, DirSink, Error, Kind, LayerReport, Result, Sink};

use crate::{
    btrfs,
    copy::{self, Content},
    diff::{self, New},
    driver::{
        Change, Driver, DriverKind, Features, Finding, LayerId, LayerInfo, LayerKey, LayerRequest,
        LayerTxn, MountOf, NodeId, RwOptions, SnapshotId, Usage, check_report, on_disk, own_usage,
    },
    info,
    layout::{Layout, Place, Published, Shelf},
    mount,
    roots::Attrs,
    snapshot, sys, verify, walk,
};

const TREE: &str = "tree";
const RECORDS: &str = "records";

/// How a tree is made from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forks {
    Subvolumes,
    Files(Content),
}

/// See the module.
#[derive(Debug)]
pub struct Trees {
    layout: Layout,
    forks: Forks,
}

impl Trees {
    /// The driver `kind` on the directory `root`, which is made if it is not there.
    ///
    /// # Errors
    /// If it is no kind of this driver, or the host refuses.
    pub fn open(kind: DriverKind, root: &Path) -> Result<Self> {
        let forks = match kind {
            DriverKind::Btrfs => Forks::Subvolumes,
            DriverKind::Reflink => Forks::Files(Content::Shared),
            DriverKind::Copy => Forks::Files(Content::Copied),
            other => {
                let message = format!("the driver {other} keeps no trees");
                return Err(Error::new(Kind::Bug, message));
            }
        };
        let layout = Layout::open(root)?;
        Ok(Self { layout, forks })
    }

    fn layer(&self, id: &LayerId) -> Result<(OwnedFd, info::Layer)> {
        let dir = self.layout.get(Shelf::Layers, id.as_str())?;
        let info = info::Layer::read(dir.as_fd(), id)?;
        Ok((dir, info))
    }

    fn layer_tree(&self, id: &LayerId) -> Result<OwnedFd> {
        let (dir, _) = self.layer(id)?;
        open_tree(dir.as_fd()).map_err(|e| e.in_part(id.as_str()))
    }

    fn snapshot(&self, id: &SnapshotId) -> Result<(OwnedFd, OwnedFd, info::Snapshot)> {
        let dir = self.layout.get(Shelf::Snapshots, id.as_str())?;
        let info = info::Snapshot::read(dir.as_fd(), id.as_str())?;
        let tree = open_tree(dir.as_fd()).map_err(|e| e.in_part(id.as_str()))?;
        Ok((dir, tree, info))
    }

    fn fork(&self, from: Option<BorrowedFd<'_>>, place: &Place) -> Result<(OwnedFd, Usage)> {
        match self.forks {
            Forks::Subvolumes => Ok((btrfs::fork(from, place, TREE)?, Usage::default())),
            Forks::Files(content) => copy::fork(from, place, TREE, content),
        }
    }

    /// What a tree takes that no other shares.
    fn tree_usage(&self, tree: BorrowedFd<'_>) -> Result<Usage> {
        let shared = self.forks != Forks::Files(Content::Copied);
        Usage::counted(tree, |found| {
            let on_disk = on_disk(found);
            if !shared || found.kind() != FileType::RegularFile || on_disk == 0 {
                return on_disk;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            openat(found.dir, found.name, flags, Mode::empty())
                .and_then(|file| sys::unshared_bytes(file.as_fd()))
                .unwrap_or(on_disk)
        })
    }
}

fn open_tree(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    walk::open(dir, TREE.as_bytes()).map_err(|e| Error::host("open a tree", e))
}

fn record_name(n: usize) -> String {
    format!("{n:04}")
}

#[derive(Debug)]
struct Txn {
    /// Before the place: writers must be still when that is removed.
    sink: DirSink,
    tree: OwnedFd,
    place: Place,
    forks: Forks,
    below: usize,
    /// What the clone of the layer below takes.
    base: Usage,
}

impl LayerTxn for Txn {
    fn sink(&mut self) -> &mut dyn Sink {
        &mut self.sink
    }

    fn commit(self: Box<Self>, key: &LayerKey, report: &LayerReport) -> Result<LayerInfo> {
        check_report(key, report)?;
        let Self {
            sink,
            tree,
            place,
            forks,
            below,
            base,
        } = *self;
        let own = own_usage(report);
        let usage = Usage {
            bytes: base.bytes + own.bytes,
            inodes: base.inodes + own.inodes,
        };
        let lists_root = sink.lists_root();
        drop(sink);
        if forks == Forks::Subvolumes {
            btrfs::freeze(tree.as_fd())?;
        }
        let info = info::Layer {
            usage,
            lists_root,
            depends: true,
            below,
        };
        info.write(&place)?;
        let id = LayerId::of(&key.chain_id);
        place.publish(Shelf::Layers, id.as_str())?;
        Ok(LayerInfo { id, usage })
    }
}

impl Driver for Trees {
    fn kind(&self) -> DriverKind {
        match self.forks {
            Forks::Subvolumes => DriverKind::Btrfs,
            Forks::Files(Content::Shared) => DriverKind::Reflink,
            Forks::Files(Content::Copied) => DriverKind::Copy,
        }
    }

    fn features(&self) -> Features {
        Features::default()
    }

    fn root(&self) -> PathBuf {
        self.layout.path().to_owned()
    }

    fn begin_layer(&self, request: LayerRequest) -> Result<Box<dyn LayerTxn>> {
        let parents = request.parents.wait(&request.cancel)?;
        let place = self.layout.stage()?;
        let records = place.directory(RECORDS)?;
        let mut below = 0;
        let from = match parents.last() {
            None => None,
            Some(id) => {
                let (dir, info) = self.layer(id)?;
                below = info.below + 1;
                link_records(dir.as_fd(), records.as_fd(), below)?;
                Some(open_tree(dir.as_fd())?)
            }
        };
        let (tree, base) = self.fork(from.as_ref().map(AsFd::as_fd), &place)?;
        let mut options = DirOptions::default();
        options.over_layers = from.is_some();
        let writable = tree
            .try_clone()
            .map_err(|e| Error::host("duplicate a descriptor", e))?;
        let mut sink = request.unpacker.dir_sink(writable, options)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let record = openat(&records, record_name(below), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Error::host("make a layer's record", e))?;
        sink.record_to(Box::new(File::from(record)))?;
        Ok(Box::new(Txn {
            sink,
            tree,
            place,
            forks: self.forks,
            below,
            base,
        }))
    }

    fn candidates(&self, key: &LayerKey) -> Vec<LayerId> {
        vec![LayerId::of(&key.chain_id)]
    }

    fn prepare(&self, layers: &[LayerId]) -> Result<()> {
        layers.iter().try_for_each(|id| self.layer(id).map(drop))
    }

    fn create_rw(&self, id: &SnapshotId, layers: &[LayerId], options: &RwOptions) -> Result<()> {
        if options.mount_label.is_some() {
            let message = format!("the driver {} cannot label a mount", self.kind());
            return Err(Error::new(Kind::Unsupported, message)
                .with_hint("choose overlay or erofs, or turn SELinux labels off"));
        }
        if options.size.is_some() && self.forks != Forks::Subvolumes {
            // The files of the image would count, and what is written over shared extents not.
            let message = format!("the driver {} cannot limit a snapshot", self.kind());
            return Err(Error::new(Kind::Unsupported, message).with_hint(
                "choose overlay or erofs over xfs with the mount option `pquota`, or btrfs with \
                 `btrfs quota enable`",
            ));
        }
        if self.layout.find(Shelf::Snapshots, id.as_str())?.is_some() {
            return Err(snapshot::exists(id));
        }
        self.prepare(layers)?;
        let place = self.layout.stage()?;
        let from = layers.last().map(|id| self.layer_tree(id)).transpose()?;
        let (tree, _) = self.fork(from.as_ref().map(AsFd::as_fd), &place)?;
        if let Some(bytes) = options.size {
            btrfs::limit(tree.as_fd(), bytes, self.layout.path())?;
        }
        if from.is_none() {
            Attrs::fresh().apply(tree.as_fd())?;
        }
        let info = info::Snapshot {
            layers: layers.to_vec(),
            label: None,
            ephemeral: options.ephemeral,
        };
        // Last: by its time is known what in the tree has changed since.
        info.write(&place)?;
        match place.publish(Shelf::Snapshots, id.as_str())? {
            Published::New => Ok(()),
            Published::Present => Err(snapshot::exists(id)),
        }
    }

    fn mount(&self, what: MountOf<'_>) -> Result<OwnedFd> {
        match what {
            MountOf::Layers([]) => {
                let root = Attrs::fresh().directory(&self.layout)?;
                mount::bind(root.as_fd(), true)
            }
            MountOf::Layers(layers) => {
                self.prepare(layers)?;
                let top = &layers[layers.len() - 1];
                mount::bind(self.layer_tree(top)?.as_fd(), true)
            }
            MountOf::Snapshot(id) => mount::bind(self.snapshot(id)?.1.as_fd(), false),
        }
    }

    fn changes(&self, id: &SnapshotId) -> Result<Vec<Change>> {
        let (dir, tree, info) = self.snapshot(id)?;
        let host = |e| Error::host("look at a snapshot", e);
        let made = statat(&dir, info::FILE, AtFlags::SYMLINK_NOFOLLOW).map_err(host)?;
        let nanos = i64::try_from(made.st_ctime_nsec).unwrap_or(0);
        let kind = New::Whole {
            made: (made.st_ctime, nanos),
        };
        let below = info.layers.last().map(|id| self.layer_tree(id));
        let below = below.transpose()?;
        diff::changes(below.as_ref().map(AsFd::as_fd), tree.as_fd(), kind)
    }

    fn usage(&self, what: &NodeId) -> Result<Usage> {
        match what {
            NodeId::Layer(id) => Ok(self.layer(id)?.1.usage),
            NodeId::Snapshot(id) => self.tree_usage(self.snapshot(id)?.1.as_fd()),
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
        let parts = (
            info::Layer::read(dir.as_fd(), id),
            open_tree(dir.as_fd()),
            walk::open(dir.as_fd(), RECORDS.as_bytes()),
        );
        let (Ok(info), Ok(tree), Ok(records)) = parts else {
            return Ok(vec![verify::of_layer("a part of it is missing or damaged")]);
        };
        let mut paths = verify::Paths::new();
        for n in 0..=info.below {
            let finding = verify::read(records.as_fd(), &record_name(n), &mut paths)?;
            if let Some(finding) = finding {
                return Ok(vec![finding]);
            }
        }
        verify::compare(tree.as_fd(), paths, false)
    }

    fn tar(&self, _id: &LayerId) -> Result<Option<File>> {
        Ok(None)
    }

    fn flush(&self) -> Result<()> {
        self.layout.flush()
    }
}

/// Links the records of the layer in `dir`, `count` of them, into `records`.
fn link_records(dir: BorrowedFd<'_>, records: BorrowedFd<'_>, count: usize) -> Result<()> {
    let host = |e| Error::host("link the records of the layers below", e);
    let from = walk::open(dir, RECORDS.as_bytes()).map_err(host)?;
    for n in 0..count {
        let name = record_name(n);
        linkat(&from, &*name, records, &*name, AtFlags::empty()).map_err(host)?;
    }
    Ok(())
}
