//! What is on disk for good, and what is believed after a power cut or a failed flush.
//!
//! Every new blob and layer bears the boot in which it was made, as a mark, until a flush that
//! began after it was recorded has succeeded. A mark of an earlier boot makes a suspect: it is
//! verified or dropped before anything uses it. See `docs/decisions/0020-durability.md`.

use std::{
    collections::HashSet, fs, os::unix::fs::MetadataExt, path::Path, sync::atomic::Ordering,
};

use rusqlite::{Connection, OptionalExtension, params};
use rustix::fs::syncfs;
use unlade_graph::driver::{Driver, LayerId, NodeId};
use unlade_unpack::{Digest, fault};

use super::{
    Store,
    db::{self, Commit, Tx},
    home::{Lock, host},
    recover::Abandoned,
};
use crate::error::{Error, Kind, Result};

/// The boot id that this kernel runs under.
pub(super) fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(host("read", path))?;
    Ok(text.trim().to_owned())
}

/// What a flush that begins now will cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unflushed {
    upto: i64,
    /// Layers of this store's driver.
    pub layers: u64,
    /// Blobs.
    pub blobs: u64,
}

/// Objects that a power cut or a failed flush may have damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspects {
    /// Layers of this store's driver.
    pub layers: Vec<String>,
    /// Blobs.
    pub blobs: Vec<Digest>,
}

/// What a lease is for under which goes what a failed flush has lost.
pub(super) const LOST: &str = "what a failed flush has lost";

/// The next number of a marked object.
pub(super) fn next_seq(tx: &Connection) -> Tx<i64> {
    let next = "INSERT INTO meta VALUES ('seq', '1')
                ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1
                RETURNING CAST(value AS INTEGER)";
    Ok(tx.prepare_cached(next)?.query_row([], |r| r.get(0))?)
}

pub(super) fn meta(c: &Connection, key: &str) -> Tx<Option<String>> {
    let select = "SELECT value FROM meta WHERE key = ?1";
    Ok(c.query_row(select, [key], |r| r.get(0)).optional()?)
}

pub(super) fn set_meta(tx: &Connection, key: &str, value: &str) -> Tx<()> {
    let insert = "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2";
    tx.execute(insert, params![key, value])?;
    Ok(())
}

impl Store {
    pub(super) fn boot(&self) -> &str {
        &self.0.boot
    }

    pub(super) fn boot_key(&self) -> String {
        format!("boot:{}", self.driver())
    }

    pub(super) fn check_recovered(&self) -> Result<()> {
        let key = self.boot_key();
        let boot = self.0.db.read(|c| meta(c, &key))?;
        if boot.as_deref() == Some(self.boot()) {
            return Ok(());
        }
        let m = "the store was used before it was looked at after a boot (Store::recover)";
        Err(Error::new(Kind::Bug, m).with_hint("please report this"))
    }

    /// Says that there is nothing of an earlier boot to be looked at.
    pub(super) fn mark_recovered(&self) -> Result<()> {
        let key = self.boot_key();
        self.0
            .db
            .write(Commit::Durable, |tx| set_meta(tx, &key, self.boot()))
    }

    /// What a flush that begins now will cover; `None` if everything is on disk.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn unflushed(&self) -> Result<Option<Unflushed>> {
        self.0.db.read(|c| {
            let layers = "SELECT count(*), coalesce(max(seq), 0) FROM layers
                          WHERE boot = ?1 AND driver = ?2";
            let blobs = "SELECT count(*), coalesce(max(seq), 0) FROM blobs WHERE boot = ?1";
            let read = |r: &rusqlite::Row<'_>| Ok((r.get::<_, u64>(0)?, r.get::<_, i64>(1)?));
            let (layers, a) = c.query_row(layers, [self.boot(), self.driver()], read)?;
            let (blobs, b) = c.query_row(blobs, [self.boot()], read)?;
            let some = layers + blobs > 0;
            Ok(some.then_some(Unflushed {
                upto: a.max(b),
                layers,
                blobs,
            }))
        })
    }

    /// Records that a flush which began after `what` was asked for has succeeded. The record is
    /// on disk when this returns, and so is all that was recorded before.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn flushed(&self, what: &Unflushed) -> Result<()> {
        self.0.db.write(Commit::Durable, |tx| {
            let layers =
                "UPDATE layers SET boot = NULL WHERE boot = ?1 AND seq <= ?2 AND driver = ?3";
            tx.execute(layers, params![self.boot(), what.upto, self.driver()])?;
            let blobs = "UPDATE blobs SET boot = NULL WHERE boot = ?1 AND seq <= ?2";
            tx.execute(blobs, params![self.boot(), what.upto])?;
            Ok(())
        })?;
        self.0.db.checkpoint()
    }

    /// Waits until everything recorded is on disk, and clears the marks. Blocks for as long as the
    /// disk needs; several callers flush one after the other.
    ///
    /// # Errors
    /// If the flush fails. What was not flushed is dropped then: it is to be fetched again.
    pub fn flush(&self, driver: &dyn Driver) -> Result<()> {
        self.same_driver(driver)?;
        let lock = self.0.home.flush_lock()?;
        self.flush_under(driver, lock)
    }

    /// As [`Store::flush`], unless a process waits for its turn to: that one covers what is
    /// recorded by now.
    ///
    /// # Errors
    /// As [`Store::flush`].
    pub fn flush_unless_begun(&self, driver: &dyn Driver) -> Result<()> {
        self.same_driver(driver)?;
        let Some(turn) = self.0.home.flush_turn()? else {
            return Ok(());
        };
        let lock = self.0.home.flush_lock()?;
        drop(turn);
        self.flush_under(driver, lock)
    }

    fn flush_under(&self, driver: &dyn Driver, _lock: Lock) -> Result<()> {
        if self.0.poisoned.load(Ordering::Acquire) {
            return Err(poisoned());
        }
        let Some(what) = self.unflushed()? else {
            // Images and names may be recorded and not on disk.
            return self.0.db.checkpoint();
        };
        if let Err(e) = self.sync(driver) {
            tracing::warn!(error = %e, "the flush of the store failed: what it was for is dropped");
            // Set first: if that cannot be recorded either, this process at least knows.
            self.0.poisoned.store(true, Ordering::Release);
            self.poison(driver)?;
            self.0.poisoned.store(false, Ordering::Release);
            let hint = "look for disk errors in the kernel's log; what was not on disk yet was \
                        dropped and is to be pulled again";
            return Err(e.with_hint(hint));
        }
        self.flushed(&what)
    }

    fn sync(&self, driver: &dyn Driver) -> Result<()> {
        let at = self.root();
        fault::point("store-flush").map_err(host("flush", at))?;
        driver.flush()?;
        // Also for a failure that somebody else's syncfs on the same file system was told of.
        fault::point("store-syncfs").map_err(host("flush", at))?;
        syncfs(&self.0.root).map_err(|e| host("flush", at)(e.into()))?;
        let blobs = at.join("blobs");
        let device = |p: &Path| fs::metadata(p).map(|m| m.dev());
        if device(&blobs).ok() != device(at).ok() {
            let dir = fs::File::open(&blobs).map_err(host("open", &blobs))?;
            syncfs(&dir).map_err(|e| host("flush", &blobs)(e.into()))?;
        }
        fault::point("store-flushed").map_err(host("flush", at))
    }

    /// Drops everything that was not flushed yet, after a flush has failed: the kernel may have
    /// thrown the data away, and a second flush would succeed all the same. Images that lose
    /// something are no longer listed; operations that run now fail.
    ///
    /// # Errors
    /// If that cannot be recorded.
    pub fn poison(&self, driver: &dyn Driver) -> Result<()> {
        self.same_driver(driver)?;
        let _lock = self.0.home.lock(true)?;
        let (dropped, id) = self.0.db.write(Commit::Freeing, |tx| {
            tx.execute("DELETE FROM leases", [])?;
            let id = self.begin(tx, LOST)?;
            let layers = marked_layers(tx, self.driver(), "boot = ?2", self.boot())?;
            let blobs = marked_blobs(tx, "boot = ?1", self.boot())?;
            drop_rows(tx, self.driver(), &layers, &blobs)?;
            // Those of other drivers are judged by whoever opens the store for them.
            let others = "UPDATE layers SET boot = 'lost:' || ?1 WHERE boot = ?1";
            tx.execute(others, [self.boot()])?;
            let others = "DELETE FROM meta WHERE key LIKE 'boot:%' AND key <> ?1";
            tx.execute(others, [self.boot_key()])?;
            Ok((layers, id))
        })?;
        let _lease = self.leased(id);
        self.0.half_done.begin(id);
        let swept = (|| {
            self.drop_ingests(Abandoned::All)?;
            self.sweep_strays(driver)?;
            self.empty_trash()?;
            let still: HashSet<NodeId> = driver.list()?.into_iter().collect();
            self.0.db.write(Commit::Durable, |tx| {
                // In use, so still there: nothing may take it for a layer that was made since.
                for layer in &dropped {
                    if still.contains(&NodeId::Layer(layer.id.clone())) {
                        layer.insert(tx, self.driver(), &format!("lost:{}", self.boot()))?;
                    }
                }
                Ok(())
            })
        })();
        if swept.is_ok() {
            self.0.half_done.end(id);
        }
        swept
    }
}

fn poisoned() -> Error {
    let m = "an earlier flush of the store has failed and that could not be recorded";
    Error::new(Kind::Host, m).with_hint("look for disk errors in the kernel's log, then reboot")
}

/// A row of `layers`, to be put back as it was.
pub(super) struct Saved {
    pub(super) id: LayerId,
    row: Vec<rusqlite::types::Value>,
}

impl Saved {
    fn insert(&self, tx: &Connection, driver: &str, boot: &str) -> Tx<()> {
        let mut row = self.row.clone();
        row.push(boot.to_owned().into());
        row.push(driver.to_owned().into());
        row.push(self.id.to_string().into());
        let insert = "INSERT OR REPLACE INTO layers
            (diff_id, chain_id, bytes, inodes, tar_bytes, blob, blob_size, seq, boot, driver, id)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        tx.execute(insert, rusqlite::params_from_iter(row))?;
        Ok(())
    }
}

/// Layers of `driver` (?1) whose mark fulfils `condition` on `boot` (?2).
pub(super) fn marked_layers(
    c: &Connection,
    driver: &str,
    condition: &str,
    boot: &str,
) -> Tx<Vec<Saved>> {
    let select = format!(
        "SELECT id, diff_id, chain_id, bytes, inodes, tar_bytes, blob, blob_size, seq
         FROM layers WHERE boot IS NOT NULL AND driver = ?1 AND {condition}"
    );
    let mut select = c.prepare(&select)?;
    let rows = select.query_map(params![driver, boot], |r| {
        let id = layer_id(r, 0)?;
        let row = (1..9)
            .map(|at| r.get(at))
            .collect::<rusqlite::Result<_>>()?;
        Ok(Saved { id, row })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn marked_blobs(c: &Connection, condition: &str, boot: &str) -> Tx<Vec<Digest>> {
    let select = format!("SELECT digest FROM blobs WHERE boot IS NOT NULL AND {condition}");
    let mut select = c.prepare(&select)?;
    let rows = select.query_map([boot], |r| db::digest(r, 0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A layer's name in a column.
pub(super) fn layer_id(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<LayerId> {
    let text: String = row.get(at)?;
    LayerId::parse(&text).ok_or_else(|| {
        let e = format!("`{text}` is not the name of a layer").into();
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, e)
    })
}

/// Takes records away and marks the images that miss them now.
pub(super) fn drop_rows(
    tx: &Connection,
    driver: &str,
    layers: &[Saved],
    blobs: &[Digest],
) -> Tx<()> {
    for layer in layers {
        forget_layer(tx, driver, layer.id.as_str())?;
    }
    for blob in blobs {
        forget_blob(tx, blob)?;
    }
    Ok(())
}

/// Takes a layer's record away; its images are broken now.
pub(super) fn forget_layer(tx: &Connection, driver: &str, id: &str) -> Tx<()> {
    tx.execute(
        "DELETE FROM layers WHERE driver = ?1 AND id = ?2",
        params![driver, id],
    )?;
    tx.execute(
        "UPDATE images SET broken = 1 WHERE driver = ?1
         AND key IN (SELECT image FROM image_layers WHERE layer = ?2)",
        params![driver, id],
    )?;
    Ok(())
}

/// Takes a blob's record away. Images whose config or manifest it was are broken now; a layer's
/// compressed blob is only needed to push or save it as it was.
pub(super) fn forget_blob(tx: &Connection, blob: &Digest) -> Tx<()> {
    let text = blob.to_string();
    tx.execute("DELETE FROM blobs WHERE digest = ?1", [&text])?;
    tx.execute(
        "UPDATE images SET broken = 1 WHERE digest = ?1
         OR key IN (SELECT image FROM manifests WHERE digest = ?1)",
        [&text],
    )?;
    Ok(())
}
