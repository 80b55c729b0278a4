//! Containers: made, started, looked at, stopped, removed.
//!
//! ```text
//! create: record -> snapshot -> volumes           start: mount, network, files -> spec -> shim
//! end:    the shim writes what happened -> cleanup (by the client that waits, or `unlade cleanup`)
//! ```
//!
//! A record comes first and goes last. Whoever finds one whose process is gone takes up what was
//! left off: [`Containers::recover`]. A container's directory is locked while it is started,
//! cleaned up or removed, so every such step may be done twice and is done once.

mod boot;
mod control;
mod create;
mod events;
mod exec;
mod explain;
mod finish;
mod inspect;
mod launch;
mod links;
mod list;
mod logging;
pub mod names;
mod place;
mod prune;
mod record;
mod refusal;
mod rename;
mod root;
mod start;
mod state;
pub(crate) mod stats;

use std::{path::PathBuf, sync::OnceLock};

use unlade_graph::driver::{Driver, SnapshotId};

pub(crate) use self::logging::{
    DEFAULT as DEFAULT_LOG, DRIVERS as LOG_DRIVERS, OPTIONS as LOG_OPTIONS,
};
pub use self::{
    control::{Ended, Stopping},
    create::{Made, New},
    exec::{ExecEnd, ExecRequest, ExecWays},
    finish::{Removal, Removed},
    inspect::{Inspect, inspect},
    list::Listed,
    prune::PrunedContainers,
    record::{Facts, Record, Run},
    refusal::Refusal,
    root::{Root, With},
    start::{Begin, Begun},
    state::{NEVER, Status, View},
    stats::Stats,
};
use self::{
    place::{Locked, Place},
    record::text,
};
use crate::{
    config::Config,
    error::{Error, Kind, Result},
    network::Networks,
    runtime::Runtime,
    shim::{self, Seen, State},
    spec::{HostFacts, request::Request},
    store::Store,
    volume::Volumes,
};

/// The containers of a store.
#[derive(Debug)]
pub struct Containers<'a> {
    store: &'a Store,
    driver: &'a dyn Driver,
    config: &'a Config,
    networks: Networks,
    volumes: Volumes,
    host: OnceLock<HostFacts>,
    boot: OnceLock<String>,
}

impl<'a> Containers<'a> {
    /// Those of `store`, on the graph driver that it was opened for.
    pub(crate) fn new(store: &'a Store, driver: &'a dyn Driver, config: &'a Config) -> Self {
        Self {
            store,
            driver,
            config,
            networks: Networks::new(store, &config.run_root, &config.network),
            volumes: Volumes::new(store, &config.run_root),
            host: OnceLock::new(),
            boot: OnceLock::new(),
        }
    }

    /// What this host is like.
    fn host(&self) -> &HostFacts {
        self.host.get_or_init(HostFacts::gather)
    }

    fn boot(&self) -> &str {
        self.boot.get_or_init(shim::boot_id)
    }

    fn place(&self, id: &str) -> Result<Place> {
        Place::new(self.store.root(), &self.config.run_root, id)
    }

    fn runtime(&self, name: &str) -> Result<Runtime> {
        Runtime::find((!name.is_empty()).then_some(name), self.config)
    }

    fn snapshot(id: &str) -> Result<SnapshotId> {
        SnapshotId::parse(id)
            .ok_or_else(|| Error::new(Kind::Bug, format!("`{id}` is no name of a snapshot")))
    }

    /// The container that `text` stands for: a name, an id, or the beginning of one.
    ///
    /// # Errors
    /// [`Kind::NotFound`] with docker's words.
    pub fn find(&self, text: &str) -> Result<Record> {
        Record::parse(self.store.container(text)?)
    }

    /// Waits until nobody else works on a container; its record as it is then. Of one that was
    /// removed meanwhile nothing is made anew.
    fn hold(&self, id: &str) -> Result<(Locked, Record)> {
        let place = self.place(id)?;
        let locked = place.lock()?;
        match self.find(id) {
            Err(e) if e.kind() == Kind::NotFound => {
                place.remove_run()?;
                Err(e)
            }
            found => Ok((locked, found?)),
        }
    }

    /// Changes what was asked of a container, while nobody else works on it.
    ///
    /// # Errors
    /// Those of `f`, and if the store cannot be written; then nothing is changed.
    pub(crate) fn edit<T>(
        &self,
        id: &str,
        f: impl FnOnce(&Record, &mut Request) -> Result<T>,
    ) -> Result<T> {
        let (_locked, record) = self.hold(id)?;
        let mut request = record.request.clone();
        let done = f(&record, &mut request).and_then(|done| {
            self.store.set_container_request(id, &text(&request)?)?;
            self.store.copy_container(id);
            Ok(done)
        });
        rename::forget_empty(&self.place(id)?)?;
        done
    }

    /// All containers, the newest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn all(&self) -> Result<Vec<Record>> {
        self.store
            .containers()?
            .into_iter()
            .map(Record::parse)
            .collect()
    }

    /// What its shim wrote last, if it runs or ended just now.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn seen(&self, id: &str) -> Result<Option<Seen>> {
        State::look(&self.place(id)?.run)
    }

    /// The state of a container.
    ///
    /// # Errors
    /// As [`Containers::seen`].
    pub fn view(&self, record: &Record) -> Result<View> {
        let seen = self.seen(&record.id)?;
        if seen.is_none() && record.run.as_ref().is_some_and(|r| r.exit_code.is_none()) {
            // It may just have been cleaned up: the record was written before its run went.
            if let Ok(again) = self.store.container(&record.id) {
                let again = Record::parse(again)?;
                let seen = self.seen(&record.id)?;
                return Ok(View::of(&again, seen.as_ref(), self.boot()));
            }
        }
        Ok(View::of(record, seen.as_ref(), self.boot()))
    }

    /// The directory of its run.
    ///
    /// # Errors
    /// [`Kind::Bug`] for what is no id.
    pub fn run_dir(&self, id: &str) -> Result<PathBuf> {
        Ok(self.place(id)?.run)
    }

    /// The error for what can only be done with a container that runs.
    fn not_running(record: &Record) -> Error {
        let m = format!("container {} is not running", record.id);
        Error::new(Kind::Conflict, m).with_hint(format!("`unlade start {}`", record.name))
    }
}

/// Now, RFC 3339 with nanoseconds.
fn now() -> String {
    jiff::Timestamp::now().to_string()
}
