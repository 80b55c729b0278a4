//! What every graph driver offers: the [`Driver`] trait, the names of layers and snapshots, and
//! the transaction that a layer is made in.
//!
//! A layer is built in a staging place, verified, and published by rename; from then on it never
//! changes. Which key a layer is published under is the driver's choice: by diffID where its tree
//! depends on nothing below, else by chainID (OCI image-spec, config.md, "Layer ChainID").

use std::{
    fmt,
    fs::File,
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use rustix::fs::FileType;
use unlade_unpack::{Cancel, Digest, Error, Kind, LayerReport, Result, Sink, Unpacker};

use crate::walk::{self, Found};

/// The drivers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DriverKind {
    /// A directory a layer, merged by overlayfs.
    Overlay,
    /// A tar a layer and one EROFS index over all tars of an image.
    Erofs,
    /// A subvolume a layer, snapshots for containers.
    Btrfs,
    /// A tree a layer whose files share extents with those below (xfs, btrfs).
    Reflink,
    /// A full tree a layer. Works anywhere.
    Copy,
}

impl DriverKind {
    /// All of them, best first where all work.
    pub const ALL: [Self; 5] = [
        Self::Overlay,
        Self::Erofs,
        Self::Btrfs,
        Self::Reflink,
        Self::Copy,
    ];

    /// The name in flags, configuration and directories.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Erofs => "erofs",
            Self::Btrfs => "btrfs",
            Self::Reflink => "reflink",
            Self::Copy => "copy",
        }
    }

    /// The driver of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a driver can do; nothing else may depend on which driver it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Features {
    /// Layers of one image may be applied at once. Without it each waits for its parents.
    pub parallel_layers: bool,
    /// The uncompressed tar of a layer stays: see [`Driver::tar`].
    pub keeps_tar: bool,
}

/// Name of a published layer: `ALGORITHM-HEX` of its diffID or chainID, or `ALGORITHM-HEX.chain`
/// of its chainID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(String);

/// Ends the names that [`LayerId::chained`] gives.
const CHAINED: &str = ".chain";

impl LayerId {
    /// The name for a diffID, or for a chainID where the driver has no others.
    pub fn of(digest: &Digest) -> Self {
        Self(digest.to_string().replacen(':', "-", 1))
    }

    /// The name for a chainID where the driver has layers by diffID too. An image's lowest layer
    /// has the same digest for both; a tree that is right over nothing but nothing must not be
    /// found by who looks for one that is right over anything.
    pub fn chained(chain_id: &Digest) -> Self {
        let mut id = Self::of(chain_id);
        id.0.push_str(CHAINED);
        id
    }

    /// Reads a name that [`LayerId::as_str`] gave; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.strip_suffix(CHAINED).unwrap_or(text);
        let digest: Digest = plain.replacen('-', ":", 1).parse().ok()?;
        (Self::of(&digest).0 == plain).then(|| Self(text.to_owned()))
    }

    /// The name: safe as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a snapshot: 1 to 128 of `a-z A-Z 0-9 _ . -`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// Checks a name.
    pub fn parse(text: &str) -> Option<Self> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let first = text.as_bytes().first()?.is_ascii_alphanumeric();
        (first && text.len() <= 128 && text.bytes().all(good)).then(|| Self(text.to_owned()))
    }

    /// The name: safe as a file name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The layers below one that is being made, lowest first: a promise, kept once they are all
/// published. Clones are the same promise.
#[derive(Debug, Clone, Default)]
pub struct Parents(Arc<(Mutex<Promise>, Condvar)>);

#[derive(Debug, Default)]
enum Promise {
    #[default]
    Open,
    Kept(Vec<LayerId>),
    Broken,
}

impl Parents {
    /// A promise that is kept already.
    pub fn known(parents: Vec<LayerId>) -> Self {
        let this = Self::default();
        this.set(parents);
        this
    }

    /// Keeps the promise.
    pub fn set(&self, parents: Vec<LayerId>) {
        self.put(Promise::Kept(parents));
    }

    /// Breaks it: a layer below has failed. Whoever waits gets an error.
    pub fn fail(&self) {
        self.put(Promise::Broken);
    }

    fn put(&self, promise: Promise) {
        let (lock, changed) = &*self.0;
        let mut state = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, Promise::Open) {
            *state = promise;
        }
        changed.notify_all();
    }

    /// The parents; waits for them.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] if the promise was broken or `cancel` was set.
    pub fn wait(&self, cancel: &Cancel) -> Result<Vec<LayerId>> {
        let (lock, changed) = &*self.0;
        let mut state = lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                Promise::Kept(parents) => return Ok(parents.clone()),
                Promise::Broken => {
                    return Err(Error::new(Kind::Cancelled, "a layer below has failed"));
                }
                Promise::Open if cancel.is_cancelled() => {
                    return Err(Error::new(Kind::Cancelled, "cancelled"));
                }
                Promise::Open => {
                    let tick = Duration::from_millis(20);
                    let waited = changed.wait_timeout(state, tick);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

/// A layer to be made.
#[derive(Debug, Clone)]
pub struct LayerRequest {
    /// What lies below. Drivers with [`Features::parallel_layers`] wait for it only where the
    /// layer's tree depends on it.
    pub parents: Parents,
    /// Whose writers and memory budget are used.
    pub unpacker: Unpacker,
    /// Stops all waiting.
    pub cancel: Cancel,
}

/// What a layer turned out to be, known when it is published.
#[derive(Debug, Clone, Copy)]
pub struct LayerKey {
    /// Digest of its tar stream.
    pub diff_id: Digest,
    /// Digest over its and its parents' diffIDs.
    pub chain_id: Digest,
}

/// A layer being made. Dropped without [`LayerTxn::commit`] it leaves nothing behind.
pub trait LayerTxn: Send + fmt::Debug {
    /// Where its entries go, by [`unlade_unpack::Layer::apply`].
    fn sink(&mut self) -> &mut dyn Sink;

    /// Publishes it, after the layer was applied and verified. Waits for the parents if the
    /// layer depends on them. A layer of the same name that is there already stays, and this one
    /// is dropped.
    ///
    /// # Errors
    /// If the host refuses; nothing is published then.
    fn commit(self: Box<Self>, key: &LayerKey, report: &LayerReport) -> Result<LayerInfo>;
}

/// A published layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its name.
    pub id: LayerId,
    /// What it takes of the disk.
    pub usage: Usage,
}

/// Space taken, shared extents not counted where the driver knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Usage {
    /// What a tree takes; a file with several names counts once.
    ///
    /// # Errors
    /// If it cannot be walked.
    pub fn of_tree(tree: BorrowedFd<'_>) -> Result<Self> {
        Self::counted(tree, on_disk)
    }

    /// As [`Usage::of_tree`], with `bytes` to say what each file takes.
    pub(crate) fn counted(tree: BorrowedFd<'_>, bytes: impl Fn(&Found<'_>) -> u64) -> Result<Self> {
        let mut usage = Self::default();
        let mut links = std::collections::HashSet::new();
        walk::walk(tree, |found| {
            let alone = found.stat.st_nlink <= 1 || found.kind() == FileType::Directory;
            if alone || links.insert(found.stat.st_ino) {
                usage.inodes += 1;
                usage.bytes += bytes(found);
            }
            Ok(())
        })?;
        Ok(usage)
    }
}

/// The blocks of a file, in bytes.
pub(crate) fn on_disk(found: &Found<'_>) -> u64 {
    u64::try_from(found.stat.st_blocks).unwrap_or(0) * 512
}

/// A layer or a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeId {
    /// A layer.
    Layer(LayerId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

/// How a container's file system is to be made.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RwOptions {
    /// SELinux label for the mount.
    pub mount_label: Option<String>,
    /// Nobody asks for it after a crash: nothing of it needs to reach the disk, neither by `fsync`
    /// inside nor when it is unmounted (overlayfs's `volatile`). Drivers without an overlay may
    /// do as for any other.
    pub ephemeral: bool,
    /// How many bytes its own files may take: what is written beyond fails in the container, with
    /// `ENOSPC` or `EDQUOT`. Drivers refuse what the file system or they cannot hold it to.
    pub size: Option<u64>,
}

/// What is to be mounted.
#[derive(Debug, Clone, Copy)]
pub enum MountOf<'a> {
    /// The merged tree of these layers, lowest first, read-only.
    Layers(&'a [LayerId]),
    /// A snapshot, read-write.
    Snapshot(&'a SnapshotId),
}

/// How a path differs from the layers below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is there in both and differs.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// A difference between a snapshot and the layers below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Path relative to the root, without a leading slash.
    pub path: Vec<u8>,
    /// How it differs.
    pub kind: ChangeKind,
}

/// A layer is published under the digests that it was found to have.
pub(crate) fn check_report(key: &LayerKey, report: &LayerReport) -> Result<()> {
    if key.diff_id == report.diff_id {
        return Ok(());
    }
    let message = format!(
        "a layer with the diffID {} was to be published as {}",
        report.diff_id, key.diff_id
    );
    Err(Error::new(Kind::Integrity, message))
}

/// What a layer brings along, by its own count: no tree is walked for it.
pub(crate) fn own_usage(report: &LayerReport) -> Usage {
    let counts = &report.counts;
    Usage {
        bytes: counts.file_bytes,
        inodes: counts.files
            + counts.directories
            + counts.symlinks
            + counts.devices
            + counts.fifos
            + counts.whiteouts,
    }
}

/// Something wrong with a published layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The path in the layer, empty for the layer itself.
    pub path: Vec<u8>,
    /// What is wrong, as a sentence.
    pub what: String,
}

/// A graph driver on one root directory. All calls may run at once, from several processes.
pub trait Driver: Send + Sync + fmt::Debug {
    /// Which one it is.
    fn kind(&self) -> DriverKind;

    /// What it can do.
    fn features(&self) -> Features;

    /// The directory that it keeps everything in.
    fn root(&self) -> PathBuf;

    /// How it works on this machine, a line each for `unlade info`: which mount API, which way of
    /// mounting EROFS.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Begins a layer: takes a staging place under a lock.
    ///
    /// # Errors
    /// If the host refuses.
    fn begin_layer(&self, request: LayerRequest) -> Result<Box<dyn LayerTxn>>;

    /// Names under which a layer may have been published, to be looked for in this order.
    fn candidates(&self, key: &LayerKey) -> Vec<LayerId>;

    /// Makes what mounting the layers needs, so that the mount is quick. Done by mounting too.
    ///
    /// # Errors
    /// If the host refuses, or a layer is damaged.
    fn prepare(&self, layers: &[LayerId]) -> Result<()>;

    /// Makes a snapshot over `layers`, lowest first.
    ///
    /// # Errors
    /// If it exists, a layer does not, or the host refuses.
    fn create_rw(&self, id: &SnapshotId, layers: &[LayerId], options: &RwOptions) -> Result<()>;

    /// Mounts without attaching to any path: the descriptor of a mount, for `move_mount`. A tree
    /// that needs no mount of its own is bind-mounted.
    ///
    /// # Errors
    /// If something is missing or the kernel refuses.
    fn mount(&self, what: MountOf<'_>) -> Result<OwnedFd>;

    /// How a snapshot differs from its layers, in path order.
    ///
    /// # Errors
    /// If it cannot be read.
    fn changes(&self, id: &SnapshotId) -> Result<Vec<Change>>;

    /// What a layer or snapshot takes.
    ///
    /// # Errors
    /// If it cannot be read.
    fn usage(&self, what: &NodeId) -> Result<Usage>;

    /// Takes a layer or snapshot out of sight at once, by rename; [`Driver::sweep`] frees it. Not
    /// there is not an error.
    ///
    /// # Errors
    /// If the host refuses, or it is mounted.
    fn remove(&self, what: &NodeId) -> Result<()>;

    /// Deletes what was removed, and the staging places of processes that are gone. Returns how
    /// many bytes were freed, as far as known.
    ///
    /// # Errors
    /// If the host refuses.
    fn sweep(&self) -> Result<u64>;

    /// All published layers and snapshots that are on disk.
    ///
    /// # Errors
    /// If the host refuses.
    fn list(&self) -> Result<Vec<NodeId>>;

    /// Compares a layer with what was recorded when it was made. Empty if all holds.
    ///
    /// # Errors
    /// If the host refuses; damage is a finding, not an error.
    fn verify(&self, id: &LayerId) -> Result<Vec<Finding>>;

    /// Compares what the driver keeps of these layers merged, lowest first, with what the layers
    /// give now. Empty if all holds, or if it keeps nothing.
    ///
    /// # Errors
    /// If the host refuses; damage is a finding, not an error.
    fn verify_merged(&self, layers: &[LayerId]) -> Result<Vec<Finding>> {
        let _ = layers;
        Ok(Vec::new())
    }

    /// Takes what the driver keeps of these layers merged, lowest first, out of sight: it is made
    /// anew when it is needed ([`Driver::prepare`]). Mounts of it stay.
    ///
    /// # Errors
    /// If the host refuses.
    fn discard_merged(&self, layers: &[LayerId]) -> Result<()> {
        let _ = layers;
        Ok(())
    }

    /// The layer's tar stream, exactly as its diffID has it, where [`Features::keeps_tar`].
    ///
    /// # Errors
    /// If it cannot be opened.
    fn tar(&self, id: &LayerId) -> Result<Option<File>>;

    /// Waits until all published layers are on disk for good.
    ///
    /// # Errors
    /// If the flush failed: what was not flushed before must not be trusted.
    fn flush(&self) -> Result<()>;
}
