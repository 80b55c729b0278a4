//! The facade: one method a use case, and the only place where the parts are put together.
//!
//! No daemon is needed: every process opens the store for itself. Opening recovers what a crash
//! or a power cut has left, so that nothing damaged is ever listed.

mod commit;
mod containers;
mod events;
mod exchange;
mod files;
mod images;
mod mounts;
mod networks;
mod prune;
mod registries;
mod system;
mod usage;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use tokio::runtime::{self, Runtime};
use unlade_graph::{
    driver::{Driver, DriverKind},
    probe::{self, Reason},
};
use unlade_unpack::{Cancel, Limits, Unpacker};

pub use self::{
    commit::CommitRequest,
    exchange::CopyWays,
    files::{ImportRequest, Loaded, SaveRequest},
    images::Described,
    mounts::MountRequest,
    prune::{PruneRequest, Pruned},
    registries::{login, logout},
    system::{Checked, Counts, Info},
    usage::{ContainerUsage, ImageUsage, Usage, VolumeUsage},
};
use crate::{
    config::{self, Config},
    error::{Error, Kind, Result},
    pull::{Parts, Remote},
    registry::{Client, RegistryConfig},
    store::{Durability, Rebuilt, Recovered, Store, StoreOptions},
};

/// How long a registry may be silent before a layer is given up: the client, which looks closer
/// and tries again, decides sooner.
const IDLE: std::time::Duration = std::time::Duration::from_secs(900);

/// A container engine on one store.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    store: Store,
    driver: Arc<dyn Driver>,
    reasons: Vec<Reason>,
    recovered: Recovered,
    unpacker: Unpacker,
    runtime: OnceLock<Runtime>,
    client: OnceLock<Client>,
}

/// What is there before the store is opened.
struct Begun {
    driver: Arc<dyn Driver>,
    reasons: Vec<Reason>,
    options: StoreOptions,
}

impl Engine {
    /// Opens the store that `config` names, with the driver it names or else the best that works
    /// there.
    ///
    /// # Errors
    /// If no driver works, or the store is damaged or written by a newer program.
    pub fn open(config: Config, cancel: &Cancel) -> Result<Self> {
        let begun = Self::begin(&config)?;
        let store = Store::open(&begun.options)?;
        Self::finish(config, begun, store, cancel)
    }

    /// As [`Engine::open`]; a database that is damaged or gone is built anew from the objects, and
    /// the old one put aside. No other process may use the store then.
    ///
    /// # Errors
    /// As [`Engine::open`], or if it cannot be built.
    pub fn open_or_rebuild(config: Config, cancel: &Cancel) -> Result<(Self, Option<Rebuilt>)> {
        let begun = Self::begin(&config)?;
        let (store, rebuilt) = match Store::open(&begun.options) {
            Err(e) if e.kind() == Kind::Integrity => {
                let (store, rebuilt) = Store::rebuild(&begun.options, &*begun.driver, cancel)?;
                (store, Some(rebuilt))
            }
            opened => (opened?, None),
        };
        let engine = Self::finish(config, begun, store, cancel)?;
        if rebuilt.is_some() {
            engine.networks().record_anew()?;
        }
        Ok((engine, rebuilt))
    }

    fn begin(config: &Config) -> Result<Begun> {
        let root = &config.root;
        let kind = match &config.graph_driver {
            None => None,
            Some(name) => Some(DriverKind::from_name(name).ok_or_else(|| {
                let m = format!("`{name}` is no graph driver");
                Error::new(Kind::BadInput, m)
                    .with_hint("there are overlay, erofs, btrfs, reflink and copy")
            })?),
        };
        writable(root)?;
        let (driver, reasons) = probe::open(kind, &root.join("graph"))?;
        let mut options = StoreOptions::new(root, driver.kind().name());
        options.durability = match config.durability {
            config::Durability::Fenced => Durability::Fenced,
            config::Durability::Sync => Durability::Sync,
        };
        #[cfg(feature = "failpoints")]
        {
            options.boot_id = std::env::var("UNLADE_TEST_BOOT_ID").ok();
        }
        Ok(Begun {
            driver,
            reasons,
            options,
        })
    }

    fn finish(config: Config, begun: Begun, store: Store, cancel: &Cancel) -> Result<Self> {
        let Begun {
            driver, reasons, ..
        } = begun;
        let recovered = store.recover(&*driver, cancel)?;
        let limits = Limits {
            idle: IDLE,
            ..Limits::default()
        };
        Ok(Self {
            config,
            store,
            driver,
            reasons,
            recovered,
            unpacker: Unpacker::new().limits(limits).cancel(cancel.clone()),
            runtime: OnceLock::new(),
            client: OnceLock::new(),
        })
    }

    /// The configuration that it works by.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Its graph driver.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// What opening the store has recovered.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// The threads that wait for the network, started when first needed.
    fn runtime(&self) -> Result<&Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let built = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("unlade-net")
            .enable_all()
            .build();
        let runtime = built.map_err(|e| Error::host("start the network threads", e))?;
        Ok(self.runtime.get_or_init(|| runtime))
    }

    fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::new(registry_config(&self.config.registry))?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// Says in one sentence what every driver would say in its own: nothing can be written there.
fn writable(root: &Path) -> Result<()> {
    use rustix::{
        fs::{Access, access},
        io::Errno,
    };
    let there = root.ancestors().find(|dir| dir.exists()).unwrap_or(root);
    let Err(e) = access(there, Access::WRITE_OK | Access::EXEC_OK) else {
        return Ok(());
    };
    let hint = match e {
        Errno::ROFS => "mount it read-write, or give another directory with --root",
        Errno::ACCESS | Errno::PERM => {
            "run it as root, or give a directory of your own with --root"
        }
        _ => "look at the directory, or give another with --root",
    };
    Err(Error::host(format!("use the store `{}`", root.display()), e).with_hint(hint))
}

/// How registries are reached: by the machine's files, and over them our own configuration.
pub fn registry_config(own: &config::Registry) -> RegistryConfig {
    let mut config = RegistryConfig::from_environment();
    // Ours are asked before those of Docker's daemon.
    config.mirrors.splice(..0, own.mirrors.iter().cloned());
    config
        .insecure
        .extend(own.insecure_registries.iter().cloned());
    if let Some(dirs) = &own.certs_dirs {
        config.hosts_dirs.clone_from(dirs);
        config.cert_dirs.clone_from(dirs);
    }
    if let Some(file) = &own.registries_conf {
        config.registries_conf = vec![file.clone()];
    }
    config
}

impl Engine {
    fn parts(&self) -> Parts<'_> {
        Parts {
            store: &self.store,
            driver: &*self.driver,
            unpacker: &self.unpacker,
        }
    }

    fn remote(&self) -> Result<Remote<'_>> {
        Ok(Remote {
            client: self.client()?,
            runtime: self.runtime()?.handle(),
        })
    }

    /// Does `work`, and beside it waits for the disk to have what earlier commands made, so that
    /// a power cut cannot cost that any more.
    fn beside_flush<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.store.unflushed()?.is_none() {
            return work();
        }
        std::thread::scope(|scope| {
            let flush = scope.spawn(|| self.store.flush(&*self.driver));
            let done = work();
            match flush.join() {
                Ok(Ok(())) => {}
                // What was not flushed is dropped and fetched again: no failure of this command,
                // unless it built upon that and has failed for it.
                Ok(Err(e)) => tracing::warn!(error = %e, "a flush has failed"),
                Err(_) => return Err(Error::new(Kind::Bug, "the thread that flushes panicked")),
            }
            done
        })
    }

    /// Waits until everything in the store is on the disk.
    ///
    /// # Errors
    /// If the disk fails: what it has lost is dropped.
    pub fn flush(&self) -> Result<()> {
        self.store.flush(&*self.driver)
    }

    /// As [`Engine::flush`], unless another process is waiting to do just that: it will do for all
    /// that is recorded by now.
    ///
    /// # Errors
    /// As [`Engine::flush`].
    pub fn flush_unless_begun(&self) -> Result<()> {
        self.store.flush_unless_begun(&*self.driver)
    }

    /// Waits for the disk before an image is listed, if the store promises that.
    fn flush_if_sync(&self) -> Result<()> {
        match self.store.durability() {
            Durability::Sync => self.store.flush(&*self.driver),
            Durability::Fenced => Ok(()),
        }
    }

    fn keep_blobs(&self) -> bool {
        self.config.keep_blobs == config::KeepBlobs::Always
    }
}
