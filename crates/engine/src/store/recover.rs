//! What an earlier boot or a killed process has left: suspects are verified or dropped, objects
//! without a record taken or swept.

use std::{
    collections::HashSet,
    fs, io,
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use unlade_graph::driver::{Driver, NodeId};
use unlade_unpack::{Cancel, Digest, fault};

use super::{
    Store,
    content::{Verdict, parallel},
    db::{Commit, Tx},
    durability::{
        LOST, Suspects, drop_rows, marked_blobs, marked_layers, meta, next_seq, set_meta,
    },
    gc::{self, SWEEP},
    home::host,
};
use crate::error::Result;

/// What [`Store::recover`] has found and done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Suspects that turned out whole.
    pub verified: u64,
    /// Suspects that were dropped.
    pub dropped: u64,
    /// Blobs without a record that were whole and have one now.
    pub adopted: u64,
    /// Objects without a record that were swept.
    pub strays: u64,
    /// Leases of processes that are gone.
    pub leases: u64,
}

impl Store {
    /// What bears the mark of an earlier boot or of a failed flush.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn suspects(&self) -> Result<Suspects> {
        self.0.db.read(|c| {
            let layers = marked_layers(
                c,
                self.driver(),
                "boot IS NOT NULL AND boot <> ?2",
                self.boot(),
            )?;
            Ok(Suspects {
                layers: layers.into_iter().map(|l| l.id.to_string()).collect(),
                blobs: marked_blobs(c, "boot IS NOT NULL AND boot <> ?1", self.boot())?,
            })
        })
    }

    /// Puts right what an earlier boot or a killed process has left: suspects are verified or
    /// dropped, objects without a record swept, leases of the dead dropped. Belongs after every
    /// [`Store::open`]; it costs a read when there is nothing to do.
    ///
    /// # Errors
    /// If the host refuses; nothing is then taken for good that is not.
    pub fn recover(&self, driver: &dyn Driver, cancel: &Cancel) -> Result<Recovered> {
        self.same_driver(driver)?;
        let key = self.boot_key();
        let work = || {
            self.0.db.read(|c| {
                let same_boot = meta(c, &key)?.as_deref() == Some(self.boot());
                Ok((same_boot, !self.dead_leases(c)?.is_empty()))
            })
        };
        let mut found = Recovered::default();
        if work()? == (true, false) {
            return Ok(found);
        }
        let lock = self.0.home.lock(true)?;
        let (same_boot, killed) = work()?;
        if same_boot && !killed {
            return Ok(found);
        }
        if !same_boot {
            self.judge(driver, cancel, &mut found)?;
        }
        // After a boot a stray may not be whole on the disk, or may never have been flushed.
        if same_boot {
            found.adopted = self.adopt_blobs(driver, cancel)?;
        }
        // Lengths of partial blobs may lie after a boot: they were never flushed.
        let which = if same_boot {
            Abandoned::Useless
        } else {
            Abandoned::Unlocked
        };
        self.drop_ingests(which)?;
        found.strays = self.sweep_strays(driver)?.gone;
        self.empty_trash()?;
        driver.sweep()?;
        found.leases = self.0.db.write(Commit::Freeing, |tx| {
            set_meta(tx, &key, self.boot())?;
            Ok(self.drop_dead_leases(tx)? as u64)
        })?;
        drop(lock);
        Ok(found)
    }

    /// Records blobs that have their names and not their records, as their processes were killed
    /// between the two: whoever wants one need not fetch it again. Where records were being taken
    /// away, what is there without one is to go.
    fn adopt_blobs(&self, driver: &dyn Driver, cancel: &Cancel) -> Result<u64> {
        if self.0.db.read(|c| self.was_sweeping(c))? {
            return Ok(0);
        }
        let strays = self.strays(driver)?.blobs;
        let named = |path: &std::path::PathBuf| {
            let (name, algorithm) = (path.file_name()?, path.parent()?.file_name()?);
            let text = format!("{}:{}", algorithm.to_str()?, name.to_str()?);
            text.parse::<Digest>().ok()
        };
        let strays: Vec<Digest> = strays.iter().filter_map(named).collect();
        let verdicts = parallel(&strays, cancel, |blob| self.verify_blob(blob, cancel))?;
        let mut adopted = 0;
        for (blob, verdict) in strays.iter().zip(verdicts) {
            if verdict == Verdict::Good {
                let path = self.0.home.blob(blob);
                let size = fs::metadata(&path).map_err(host("look at", &path))?.len();
                self.0.db.write(Commit::Lazy, |tx| {
                    let seq = next_seq(tx)?;
                    let insert =
                        "INSERT INTO blobs (digest, size, boot, seq) VALUES (?1, ?2, ?3, ?4)";
                    tx.execute(insert, params![blob.to_string(), size, self.boot(), seq])?;
                    Ok(())
                })?;
                adopted += 1;
            }
        }
        Ok(adopted)
    }

    /// Whether a process that is gone was about to remove things.
    fn was_sweeping(&self, c: &Connection) -> Tx<bool> {
        for id in self.dead_leases(c)? {
            let select = "SELECT 1 FROM leases WHERE id = ?1 AND what IN (?2, ?3)";
            let found = c.query_row(select, params![id, SWEEP, LOST], |_| Ok(()));
            if found.optional()?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Verifies the suspects; drops those that do not hold.
    fn judge(&self, driver: &dyn Driver, cancel: &Cancel, found: &mut Recovered) -> Result<()> {
        let (layers, blobs) = self.0.db.read(|c| {
            // What a failed flush has lost in this boot would be read from memory.
            let (earlier, lost) = (
                "boot IS NOT NULL AND boot <> ?2 AND boot <> 'lost:' || ?2",
                self.boot(),
            );
            let layers = marked_layers(c, self.driver(), earlier, lost)?;
            Ok((
                layers,
                marked_blobs(c, "boot IS NOT NULL AND boot <> ?1", self.boot())?,
            ))
        })?;
        if layers.is_empty() && blobs.is_empty() {
            return Ok(());
        }
        tracing::info!(
            layers = layers.len(),
            blobs = blobs.len(),
            "verifying what was not flushed"
        );
        let there: HashSet<NodeId> = driver.list()?.into_iter().collect();
        let layer_holds = parallel(&layers, cancel, |layer| {
            let node = NodeId::Layer(layer.id.clone());
            Ok(there.contains(&node) && driver.verify(&layer.id)?.is_empty())
        })?;
        let blob_holds = parallel(&blobs, cancel, |blob| {
            Ok(self.verify_blob(blob, cancel)? == Verdict::Good)
        })?;
        let (good_layers, bad_layers) = split(layers, &layer_holds);
        let (good_blobs, bad_blobs) = split(blobs, &blob_holds);
        found.verified = (good_layers.len() + good_blobs.len()) as u64;
        found.dropped = (bad_layers.len() + bad_blobs.len()) as u64;
        // Read from the disk after a boot, so on it: no mark is needed any more.
        self.0.db.write(Commit::Freeing, |tx| {
            for layer in &good_layers {
                let clear = "UPDATE layers SET boot = NULL WHERE driver = ?1 AND id = ?2";
                tx.execute(clear, params![self.driver(), layer.id.as_str()])?;
            }
            for blob in &good_blobs {
                tx.execute(
                    "UPDATE blobs SET boot = NULL WHERE digest = ?1",
                    [blob.to_string()],
                )?;
            }
            drop_rows(tx, self.driver(), &bad_layers, &bad_blobs)
        })
    }

    /// Takes away what has no record. The caller holds the lock exclusively.
    pub(super) fn sweep_strays(&self, driver: &dyn Driver) -> Result<Swept> {
        let strays = self.strays(driver)?;
        let mut swept = Swept::default();
        for path in &strays.blobs {
            self.discard(path)?;
            swept.gone += 1;
        }
        for layer in strays.layers {
            fault::point("store-sweep-layer").map_err(host("sweep", self.root()))?;
            match driver.remove(&NodeId::Layer(layer.clone())) {
                Ok(()) => swept.gone += 1,
                Err(e) => {
                    // Mounted, maybe. Others need not wait for it.
                    tracing::warn!(%layer, error = %e, "a layer without a record stays");
                    swept.left += 1;
                }
            }
        }
        Ok(swept)
    }

    /// Removes partial blobs; bytes freed.
    pub(super) fn drop_ingests(&self, which: Abandoned) -> Result<u64> {
        let dir = self.0.home.ingest();
        let now = SystemTime::now();
        let mut freed = 0;
        for entry in fs::read_dir(&dir).map_err(host("list", &dir))? {
            let path = entry.map_err(host("list", &dir))?.path();
            let look = || -> io::Result<Option<fs::Metadata>> {
                // Locked from here until it is removed.
                let file = match which {
                    Abandoned::All => Some(fs::File::open(&path)?),
                    _ => gc::abandoned(&path)?,
                };
                let Some(file) = file else { return Ok(None) };
                let meta = file.metadata()?;
                let age = || now.duration_since(meta.modified().ok()?).ok();
                let chosen = match which {
                    Abandoned::All | Abandoned::Unlocked => true,
                    // Empty, or by a name that nobody looks for.
                    Abandoned::Useless => meta.len() == 0 || path.extension().is_some(),
                    Abandoned::Older(limit) => age().is_some_and(|age| age >= limit),
                };
                if chosen {
                    fault::point("store-unlink")?;
                    fs::remove_file(&path)?;
                }
                Ok(chosen.then_some(meta))
            };
            match look() {
                Ok(meta) => freed += meta.map_or(0, |m| m.len()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(host("remove", &path)(e)),
            }
        }
        Ok(freed)
    }
}

/// What has become of objects without a record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Swept {
    pub(super) gone: u64,
    /// Layers that could not be removed.
    pub(super) left: u64,
}

/// Which partial blobs are removed. All but the first leave alone what somebody is writing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Abandoned {
    /// All; their writers cannot publish them any more.
    All,
    /// All that nobody writes.
    Unlocked,
    /// Those that no try would resume.
    Useless,
    /// Those that nobody has written to for so long.
    Older(Duration),
}

fn split<T>(all: Vec<T>, good: &[bool]) -> (Vec<T>, Vec<T>) {
    let mut halves = (Vec::new(), Vec::new());
    for (item, good) in all.into_iter().zip(good) {
        if *good {
            halves.0.push(item)
        } else {
            halves.1.push(item)
        }
    }
    halves
}
