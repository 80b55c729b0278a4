//! The store: which images, layers and blobs there are, in SQLite and in files named by digest.
//!
//! ```text
//! ROOT/                       0700
//!   unlade.db                 every record
//!   lock                      flock: shared while an object is published, exclusive to sweep
//!   lock.flush                flock: one flush at a time
//!   lock.flush-next           flock: one waits in the background for the next
//!   lock.mounts               flock: shared while what is pinned for a mount is not mounted yet
//!   reserve                   space for getting out of a full disk
//!   oci-layout                blobs/ is that of an OCI image layout
//!   blobs/<algorithm>/<hex>   verified blobs, never written to again
//!   blobs/ingest/             blobs being fetched; their writers hold a flock
//!   blobs/trash/              blobs about to be unlinked
//!   graph/<driver>/           of the graph driver
//! ```
//!
//! An object gets its name by rename, and then its record, both under the shared lock. A record
//! goes first, for good, and then its object, under the exclusive one. So an object without a
//! record is a stray that whoever comes next may sweep, and a record without an object is damage.
//! What a power cut may do is in `docs/decisions/0020-durability.md`.
//!
//! Several processes use one store at once. All calls block; none needs a runtime.

mod check;
mod containers;
mod content;
mod copies;
mod db;
mod df;
mod durability;
mod gc;
mod home;
mod ids;
mod images;
mod ingest;
mod layers;
mod leases;
mod names;
mod networks;
mod origins;
mod rebuild;
mod recover;
mod remove;
mod repair;
mod reserve;
mod schema;
mod volumes;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use unlade_graph::driver::Driver;

pub(crate) use self::ids::random_id;
pub use self::{
    check::{CheckOptions, CheckReport, Finding, Object, Problem, Remedy},
    containers::{ContainerRow, NewContainer, Stage},
    df::{Df, Share},
    durability::{Suspects, Unflushed},
    gc::{GcOptions, GcReport},
    images::{Image, ImageLayer, NewImage},
    ingest::{BlobWriter, Ingest},
    layers::{LayerRow, NewLayer},
    leases::Lease,
    networks::{EndpointRow, NetFail, NetTx, NetworkRow, PortRow},
    rebuild::Rebuilt,
    recover::Recovered,
    remove::{Prune, RemoveOptions, Removed},
    repair::{BrokenImage, Repaired},
    volumes::{VolumeFail, VolumeTx, VolumeUser},
};
use crate::error::{Error, Kind, Result};

/// When an image counts as pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// At once. Until a flush has come round, a power cut may cost it, but never damage it.
    #[default]
    Fenced,
    /// When it is on disk.
    Sync,
}

/// Which store, and how it is used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StoreOptions {
    /// Its directory, made if it is not there.
    pub root: PathBuf,
    /// Name of the graph driver whose layers and images are meant.
    pub driver: String,
    /// When an image counts as pulled.
    pub durability: Durability,
    /// How long a blob that another process fetches may not grow before it is fetched here too.
    pub ingest_stall: Duration,
    /// Boot id, for tests; else the kernel's.
    pub boot_id: Option<String>,
}

impl StoreOptions {
    /// The store in `root`, for the graph driver of that name.
    pub fn new(root: impl Into<PathBuf>, driver: impl Into<String>) -> Self {
        Self {
            root: root.into(),
            driver: driver.into(),
            durability: Durability::default(),
            ingest_stall: Duration::from_secs(30),
            boot_id: None,
        }
    }
}

/// A store that is open. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: StoreOptions,
    home: home::Home,
    db: db::Db,
    process: leases::Process,
    boot: String,
    /// Open since before the first write, so `syncfs` on it reports every failure since then.
    root: File,
    half_done: leases::HalfDone,
    /// A flush has failed and that could not be recorded.
    poisoned: AtomicBool,
}

/// Held from before an object gets its name until it is recorded; keeps sweeping away.
#[derive(Debug)]
pub struct CommitGuard(#[allow(dead_code, reason = "unlocks when dropped")] home::Lock);

/// Held from before an image is pinned for a mount until it is mounted; or while nobody does that.
#[derive(Debug)]
pub struct MountGuard(#[allow(dead_code, reason = "unlocks when dropped")] home::Lock);

impl Store {
    /// To be held from before [`Store::pin`] until what it is for is mounted: until then the pin
    /// looks like one whose mount is gone.
    ///
    /// # Errors
    /// If the lock cannot be had.
    pub fn mounting(&self) -> Result<MountGuard> {
        self.0.home.mounting().map(MountGuard)
    }

    /// To be held while pins of mounts that are gone are looked for; none while somebody mounts.
    ///
    /// # Errors
    /// If the lock cannot be looked at.
    pub fn not_mounting(&self) -> Result<Option<MountGuard>> {
        Ok(self.0.home.not_mounting()?.map(MountGuard))
    }

    /// Opens the store, makes it if its directory is empty, and brings an older one up to date.
    /// [`Store::recover`] belongs right after it.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for a store that a newer program has written, [`Kind::Integrity`]
    /// for a database that is damaged, or is gone while objects are there; [`Kind::Conflict`]
    /// for a directory that is used for something else.
    pub fn open(options: &StoreOptions) -> Result<Self> {
        let home = home::Home::new(&options.root);
        home.prepare()?;
        let root = File::open(home.root()).map_err(home::host("open", home.root()))?;
        let db = home.ready()?;
        Self::assemble(options, home, db, root)
    }

    fn assemble(options: &StoreOptions, home: home::Home, db: db::Db, root: File) -> Result<Self> {
        let boot = match &options.boot_id {
            Some(id) => id.clone(),
            None => durability::boot_id()?,
        };
        Ok(Self(Arc::new(Inner {
            options: options.clone(),
            home,
            db,
            process: leases::Process::this(&boot),
            boot,
            root,
            half_done: leases::HalfDone::default(),
            poisoned: AtomicBool::new(false),
        })))
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        self.0.home.root()
    }

    /// Name of the graph driver that it was opened for.
    pub fn driver(&self) -> &str {
        &self.0.options.driver
    }

    /// How durable what it records is.
    pub fn durability(&self) -> Durability {
        self.0.options.durability
    }

    /// To be held over publishing a layer and [`Store::add_layer`]. Short: sweeping waits for it.
    ///
    /// # Errors
    /// If the lock cannot be had; [`Kind::Bug`] before [`Store::recover`] was called;
    /// [`Kind::Host`] if a flush has failed since the lease began: nothing may be published then.
    pub fn commit_guard(&self, lease: &Lease) -> Result<CommitGuard> {
        self.guard(lease.id)
    }

    fn guard(&self, lease: leases::LeaseId) -> Result<CommitGuard> {
        let guard = CommitGuard(self.0.home.lock(false)?);
        self.check_recovered()?;
        self.0.db.read(|c| leases::check(c, lease))?;
        self.0.half_done.begin(lease);
        Ok(guard)
    }

    /// The driver given must be the one that the store was opened for.
    fn same_driver(&self, driver: &dyn Driver) -> Result<()> {
        let (ours, theirs) = (self.driver(), driver.kind().name());
        if ours == theirs {
            return Ok(());
        }
        let m = format!("the store was opened for `{ours}` and used with `{theirs}`");
        Err(Error::new(Kind::Bug, m))
    }
}
