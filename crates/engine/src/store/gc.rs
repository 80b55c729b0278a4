//! Sweeping what nobody needs: layers of no image, blobs of no image, leftovers of the dead.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, params};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::Serialize;
use unlade_graph::driver::{Driver, LayerId, NodeId, SnapshotId};
use unlade_unpack::{Algorithm, Digest, fault};

use super::{
    Store,
    db::{Commit, Tx, digest},
    durability::layer_id,
    home::{Lock, host},
    recover::Abandoned,
    reserve,
};
use crate::error::Result;

/// What is to be swept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GcOptions {
    /// Only say what would be.
    pub dry_run: bool,
    /// Keep the compressed blobs of images' layers, to push and save them as they came.
    pub keep_layer_blobs: bool,
    /// How long a partial blob that nobody writes is kept for a resume.
    pub ingest_age: Duration,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            keep_layer_blobs: true,
            ingest_age: Duration::from_secs(24 * 3600),
        }
    }
}

/// What was swept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Names of layers.
    pub layers: Vec<String>,
    /// Digests of blobs.
    pub blobs: Vec<String>,
    /// What these took of the disk by their records, in bytes.
    pub bytes: u64,
    /// Objects without a record.
    pub strays: u64,
    /// Partial blobs, in bytes.
    pub partial_bytes: u64,
}

/// What a lease is for under which records were taken away and objects go.
pub(super) const SWEEP: &str = "sweep";

/// What is there without a record.
#[derive(Debug, Default)]
pub(super) struct Strays {
    pub(super) layers: Vec<LayerId>,
    pub(super) blobs: Vec<PathBuf>,
}

/// Whether the lock could be had.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The file, locked, if nobody else has it locked.
pub(super) fn abandoned(path: &Path) -> io::Result<Option<File>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    Ok(try_lock(&file)?.then_some(file))
}

const UNUSED_LAYERS: &str = "driver = ?1
  AND NOT EXISTS (SELECT 1 FROM image_layers l JOIN images i ON i.key = l.image
    WHERE l.layer = layers.id AND i.driver = ?1)
  AND NOT EXISTS (SELECT 1 FROM pins p WHERE p.layer = layers.id AND p.driver = ?1)
  AND NOT EXISTS (SELECT 1 FROM held h WHERE h.object = layers.id AND h.driver = ?1)";

/// ?1: whether layers' blobs are kept.
const UNUSED_BLOBS: &str = "
  NOT EXISTS (SELECT 1 FROM images i WHERE i.digest = blobs.digest)
  AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = blobs.digest)
  AND NOT EXISTS (SELECT 1 FROM repo_digests r WHERE r.digest = blobs.digest)
  AND NOT (?1 AND EXISTS (SELECT 1 FROM manifest_layers l WHERE l.blob = blobs.digest))
  AND NOT EXISTS (SELECT 1 FROM held h WHERE h.object = blobs.digest AND h.driver = '')";

/// Manifests of an image that no name, repository or the image itself speaks of.
const UNUSED_MANIFESTS: &str = "DELETE FROM manifests
  WHERE image IN (SELECT key FROM images WHERE driver = ?1)
  AND NOT EXISTS (SELECT 1 FROM images i WHERE i.key = manifests.image AND i.manifest = manifests.digest)
  AND NOT EXISTS (SELECT 1 FROM names n WHERE n.image = manifests.image AND n.manifest = manifests.digest)
  AND NOT EXISTS (SELECT 1 FROM repo_digests r WHERE r.image = manifests.image AND r.digest = manifests.digest)";

impl Store {
    /// Sweeps what no image, pin or lease needs. Records go first, in one transaction that is on
    /// disk before any object goes; whatever kills this, the next [`Store::recover`] ends it.
    ///
    /// # Errors
    /// If the host refuses. What was swept until then stays swept.
    pub fn gc(&self, driver: &dyn Driver, options: &GcOptions) -> Result<GcReport> {
        self.same_driver(driver)?;
        let lock = self.0.home.lock(true)?;
        self.check_recovered()?;
        if options.dry_run {
            let mut report = self.0.db.write(Commit::Lazy, |tx| {
                tx.execute_batch("SAVEPOINT dry")?;
                let report = self.mark(tx, options)?;
                tx.execute_batch("ROLLBACK TO dry")?;
                Ok(report)
            })?;
            let strays = self.strays(driver)?;
            report.strays = (strays.layers.len() + strays.blobs.len()) as u64;
            return Ok(report);
        }
        let (report, id) = self.0.db.write(Commit::Freeing, |tx| {
            let report = self.mark(tx, options)?;
            Ok((report, self.begin(tx, SWEEP)?))
        })?;
        let _lease = self.leased(id);
        self.0.half_done.begin(id);
        let (report, left) = self.sweep(driver, options, report, lock)?;
        // With something left, whoever finds this process dead tries again.
        if left == 0 {
            self.0.half_done.end(id);
        }
        Ok(report)
    }

    fn sweep(
        &self,
        driver: &dyn Driver,
        options: &GcOptions,
        mut report: GcReport,
        lock: Lock,
    ) -> Result<(GcReport, u64)> {
        fault::point("store-gc-marked").map_err(host("sweep", self.root()))?;
        let swept = self.sweep_strays(driver)?;
        report.strays = swept
            .gone
            .saturating_sub((report.layers.len() + report.blobs.len()) as u64);
        let settled = self.0.half_done.swept();
        drop(lock);
        fault::point("store-gc-swept").map_err(host("sweep", self.root()))?;
        self.empty_trash()?;
        report.partial_bytes = self.drop_ingests(Abandoned::Older(options.ingest_age))?;
        driver.sweep()?;
        self.0.db.write(Commit::Lazy, |tx| {
            for id in &settled {
                tx.execute("DELETE FROM leases WHERE id = ?1", [id])?;
            }
            Ok(())
        })?;
        self.0.db.checkpoint()?;
        reserve::keep(self.root());
        Ok((report, swept.left))
    }

    /// Takes the records of what nobody needs away.
    fn mark(&self, tx: &Connection, options: &GcOptions) -> Tx<GcReport> {
        self.drop_dead_leases(tx)?;
        tx.execute(UNUSED_MANIFESTS, [self.driver()])?;
        let mut report = GcReport::default();
        let mut delete = tx.prepare(&format!(
            "DELETE FROM layers WHERE {UNUSED_LAYERS} RETURNING id, bytes"
        ))?;
        let mut rows = delete.query([self.driver()])?;
        while let Some(row) = rows.next()? {
            report.layers.push(row.get(0)?);
            report.bytes += row.get::<_, u64>(1)?;
        }
        drop(rows);
        let mut delete = tx.prepare(&format!(
            "DELETE FROM blobs WHERE {UNUSED_BLOBS} RETURNING digest, size"
        ))?;
        let mut rows = delete.query(params![options.keep_layer_blobs])?;
        while let Some(row) = rows.next()? {
            report.blobs.push(row.get(0)?);
            report.bytes += row.get::<_, u64>(1)?;
        }
        Ok(report)
    }

    /// Snapshots of containers and mounts that are not recorded. They are never swept: what was
    /// written there is nowhere else.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn stray_snapshots(&self, driver: &dyn Driver) -> Result<Vec<SnapshotId>> {
        // A record comes before its snapshot and goes after it: so it is looked for afterwards.
        let nodes = driver.list()?;
        let known = self.0.db.read(|c| {
            let mut select = c.prepare(
                "SELECT id FROM containers WHERE driver = ?1
                 UNION ALL SELECT owner FROM pins WHERE driver = ?1",
            )?;
            let known = select.query_map([self.driver()], |r| r.get::<_, String>(0))?;
            Ok(known.collect::<rusqlite::Result<Vec<_>>>()?)
        })?;
        let known: HashSet<&str> = known.iter().flat_map(|owner| owner.split(':')).collect();
        let snapshots = nodes.into_iter().filter_map(|node| match node {
            NodeId::Snapshot(id) if !known.contains(id.as_str()) => Some(id),
            _ => None,
        });
        Ok(snapshots.collect())
    }

    /// What is there without a record. Says nothing that holds unless the lock is held.
    pub(super) fn strays(&self, driver: &dyn Driver) -> Result<Strays> {
        let (layers, blobs) = self.0.db.read(|c| {
            let mut select = c.prepare("SELECT id FROM layers WHERE driver = ?1")?;
            let layers = select.query_map([self.driver()], |r| layer_id(r, 0))?;
            let layers = layers.collect::<rusqlite::Result<HashSet<LayerId>>>()?;
            let mut select = c.prepare("SELECT digest FROM blobs")?;
            let blobs = select.query_map([], |r| digest(r, 0))?;
            Ok((
                layers,
                blobs.collect::<rusqlite::Result<HashSet<Digest>>>()?,
            ))
        })?;
        let mut strays = Strays::default();
        for node in driver.list()? {
            if let NodeId::Layer(id) = node
                && !layers.contains(&id)
            {
                strays.layers.push(id);
            }
        }
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.0.home.blobs(algorithm);
            for entry in fs::read_dir(&dir).map_err(host("list", &dir))? {
                let entry = entry.map_err(host("list", &dir))?;
                let name = entry.file_name();
                let digest = name
                    .to_str()
                    .and_then(|n| format!("{}:{n}", algorithm.name()).parse().ok());
                if !digest.is_some_and(|d: Digest| blobs.contains(&d)) {
                    strays.blobs.push(entry.path());
                }
            }
        }
        Ok(strays)
    }
}
