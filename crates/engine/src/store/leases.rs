//! Leases: what a running operation has looked up or made is not swept from under it.
//!
//! A lease belongs to a process: its id, when it was started, and the boot. One whose process is
//! gone protects nothing and is dropped by whoever comes next. No clock is asked.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OptionalExtension, params};
use unlade_unpack::Digest;

use super::{
    Store,
    db::{Commit, Tx},
};
use crate::error::{Error, Kind, Result};

/// Protects objects from being swept; dropped, it protects them no more.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    pub(super) id: LeaseId,
}

/// The number of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LeaseId(i64);

/// Leases of this process under which something may have got its name and not its record. They
/// stay recorded when they are dropped, so that whoever finds them dead looks for it.
#[derive(Debug, Default)]
pub(super) struct HalfDone(Mutex<HashMap<LeaseId, Pending>>);

#[derive(Debug, Default)]
struct Pending {
    count: usize,
    dropped: bool,
}

impl HalfDone {
    fn map(&self) -> MutexGuard<'_, HashMap<LeaseId, Pending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is about to get its name.
    pub(super) fn begin(&self, lease: LeaseId) {
        self.map().entry(lease).or_default().count += 1;
    }

    /// It has its record.
    pub(super) fn end(&self, lease: LeaseId) {
        let mut map = self.map();
        if let Some(pending) = map.get_mut(&lease) {
            pending.count -= 1;
            if pending.count == 0 {
                map.remove(&lease);
            }
        }
    }

    /// Whether the lease may go; if not, its number is kept.
    fn may_drop(&self, lease: LeaseId) -> bool {
        let mut map = self.map();
        let pending = map.get_mut(&lease);
        pending.map(|p| p.dropped = true).is_none()
    }

    /// Leases that only stayed for what a sweep has found by now.
    pub(super) fn swept(&self) -> Vec<i64> {
        let mut map = self.map();
        let done = map.extract_if(|_, p| p.dropped);
        done.map(|(lease, _)| lease.0).collect()
    }
}

/// A process, beyond the reuse of its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pid: i64,
    start: i64,
    namespace: i64,
    boot: String,
}

/// Field 22 of `/proc/PID/stat`: when it was started, in ticks since boot.
fn start_time(pid: &str) -> Option<i64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, with anything in it.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

impl Process {
    pub(super) fn this(boot: &str) -> Self {
        let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino());
        Self {
            pid: i64::from(std::process::id()),
            start: start_time("self").unwrap_or(0),
            namespace: i64::try_from(namespace).unwrap_or(0),
            boot: boot.to_owned(),
        }
    }

    /// One that is recorded elsewhere than in `leases`.
    pub(super) fn of(pid: i64, start: i64, namespace: i64, boot: String) -> Self {
        Self {
            pid,
            start,
            namespace,
            boot,
        }
    }

    /// Id, start, namespace and boot, for a record.
    pub(super) fn parts(&self) -> (i64, i64, i64, &str) {
        (self.pid, self.start, self.namespace, &self.boot)
    }

    /// Whether `other` still runs. Those of other pid namespaces cannot be seen and count as
    /// running until the machine is booted again.
    pub(super) fn sees_alive(&self, other: &Self) -> bool {
        other.boot == self.boot
            && (other.namespace != self.namespace
                || start_time(&other.pid.to_string()) == Some(other.start))
    }
}

impl Store {
    /// Begins to protect objects for an operation; `what` says which, for people.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn lease(&self, what: &str) -> Result<Lease> {
        let id = self.0.db.write(Commit::Lazy, |tx| self.begin(tx, what))?;
        Ok(self.leased(id))
    }

    /// Records a lease. If the process dies before it is dropped, the next [`Store::recover`]
    /// looks for what was left half done.
    pub(super) fn begin(&self, tx: &Connection, what: &str) -> Tx<LeaseId> {
        let me = &self.0.process;
        tx.execute(
            "INSERT INTO leases (what, pid, start, pid_namespace, boot)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![what, me.pid, me.start, me.namespace, me.boot],
        )?;
        Ok(LeaseId(tx.last_insert_rowid()))
    }

    pub(super) fn leased(&self, id: LeaseId) -> Lease {
        Lease {
            store: self.clone(),
            id,
        }
    }

    /// Protects all that an image consists of.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such image.
    pub fn hold_image(&self, lease: &Lease, image: &Digest) -> Result<()> {
        let (driver, image) = (self.driver(), image.to_string());
        self.0.db.write(Commit::Lazy, |tx| {
            check(tx, lease.id)?;
            let key: Option<i64> = tx
                .query_row(
                    "SELECT key FROM images WHERE driver = ?1 AND digest = ?2",
                    params![driver, image],
                    |r| r.get(0),
                )
                .optional()?;
            let Some(key) = key else {
                let e = Error::new(Kind::NotFound, format!("there is no image {image}"));
                return Err(e
                    .with_hint("it was removed meanwhile: pull it again")
                    .into());
            };
            hold(tx, lease.id, driver, &image)?;
            hold(tx, lease.id, "", &image)?;
            for (owner, select) in [
                (driver, "SELECT layer FROM image_layers WHERE image = ?3"),
                ("", "SELECT digest FROM manifests WHERE image = ?3"),
                ("", "SELECT blob FROM manifest_layers WHERE image = ?3"),
            ] {
                let insert = format!("INSERT OR IGNORE INTO held SELECT ?1, ?2, * FROM ({select})");
                tx.execute(&insert, params![lease.id.0, owner, key])?;
            }
            Ok(())
        })
    }

    /// Drops the leases of processes that are gone; how many.
    pub(super) fn drop_dead_leases(&self, tx: &Connection) -> Tx<usize> {
        let dead = self.dead_leases(tx)?;
        for id in &dead {
            tx.execute("DELETE FROM leases WHERE id = ?1", [id])?;
        }
        Ok(dead.len())
    }

    pub(super) fn dead_leases(&self, c: &Connection) -> Tx<Vec<i64>> {
        let mut select = c.prepare("SELECT id, pid, start, pid_namespace, boot FROM leases")?;
        let rows = select.query_map([], |r| {
            let process = Process {
                pid: r.get(1)?,
                start: r.get(2)?,
                namespace: r.get(3)?,
                boot: r.get(4)?,
            };
            Ok((r.get(0)?, process))
        })?;
        let mut dead = Vec::new();
        for row in rows {
            let (id, process): (i64, Process) = row?;
            if !self.0.process.sees_alive(&process) {
                dead.push(id);
            }
        }
        Ok(dead)
    }
}

/// A lease that is no longer recorded protects nothing: what was done under it must not count.
pub(super) fn check(tx: &Connection, lease: LeaseId) -> Tx<()> {
    let there = tx
        .query_row("SELECT 1 FROM leases WHERE id = ?1", [lease.0], |_| Ok(()))
        .optional()?;
    match there {
        Some(()) => Ok(()),
        None => {
            let m = "a flush of the store has failed meanwhile: what was written since the one \
                     before cannot be trusted";
            let e = Error::new(Kind::Host, m);
            Err(e
                .with_hint("look for disk errors in the kernel's log, then run this again")
                .into())
        }
    }
}

/// Protects `object` of `driver`; blobs have no driver.
pub(super) fn hold(tx: &Connection, lease: LeaseId, driver: &str, object: &str) -> Tx<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO held (lease, driver, object) VALUES (?1, ?2, ?3)")?
        .execute(params![lease.0, driver, object])?;
    Ok(())
}

impl Lease {
    /// Lets it stay recorded when it is dropped: whoever finds it dead sweeps what this process
    /// could not remove.
    pub(crate) fn outlive(&self) {
        self.store.0.half_done.begin(self.id);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.store.0.half_done.may_drop(self.id) {
            return;
        }
        let id = self.id.0;
        let done = self.store.0.db.write(Commit::Lazy, |tx| {
            tx.execute("DELETE FROM leases WHERE id = ?1", [id])?;
            Ok(())
        });
        if let Err(e) = done {
            tracing::debug!(error = %e, "a lease stays until this process ends");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_more_than_its_id() {
        let me = Process::this("boot");
        assert!(me.start > 0 && me.sees_alive(&me));
        let (reused, gone) = (
            Process {
                start: me.start + 1,
                ..me.clone()
            },
            Process {
                pid: 1 << 30,
                ..me.clone()
            },
        );
        let rebooted = Process {
            boot: "other".into(),
            ..me.clone()
        };
        for dead in [&reused, &gone, &rebooted] {
            assert!(!me.sees_alive(dead), "{dead:?}");
        }
        assert!(me.sees_alive(&Process {
            namespace: 1,
            ..gone
        }));
    }
}
