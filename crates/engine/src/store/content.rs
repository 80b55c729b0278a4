//! Blobs: files that hold what their name says.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use rusqlite::{Connection, OptionalExtension, params};
use unlade_unpack::{Algorithm, Cancel, Digest, Hasher, fault};

use super::{
    Store,
    db::{Commit, Tx},
    durability::next_seq,
    home::host,
    ingest::{self, Claim},
    leases::{self, Lease, LeaseId},
};
use crate::error::{Error, Kind, Result};

/// What a look at a blob's bytes has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Missing,
    Damaged,
}

/// Runs `f` over all items on every processor, in any order; the results are in that of the items.
pub(super) fn parallel<T: Sync, R: Send>(
    items: &[T],
    cancel: &Cancel,
    f: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { break };
            let result = match cancel.is_cancelled() {
                true => Err(Error::new(Kind::Cancelled, "cancelled")),
                false => f(item),
            };
            let failed = result.is_err();
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((at, result));
            if failed {
                next.store(items.len(), Ordering::Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 1..threads.min(items.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Whether the blob is recorded, and nothing speaks against it.
pub(super) fn trusted(c: &Connection, digest: &Digest, boot: &str) -> Tx<Option<u64>> {
    let select = "SELECT size FROM blobs WHERE digest = ?1 AND (boot IS NULL OR boot = ?2)";
    let mut select = c.prepare_cached(select)?;
    let size = select.query_row(params![digest.to_string(), boot], |r| r.get(0));
    Ok(size.optional()?)
}

fn recorded(c: &Connection, digest: &Digest) -> Tx<bool> {
    let select = "SELECT 1 FROM blobs WHERE digest = ?1";
    Ok(c.query_row(select, [digest.to_string()], |_| Ok(()))
        .optional()?
        .is_some())
}

impl Store {
    /// Opens a blob; `None` if it is not there.
    ///
    /// # Errors
    /// If it is there and cannot be opened.
    pub fn blob(&self, digest: &Digest) -> Result<Option<File>> {
        if self
            .0
            .db
            .read(|c| trusted(c, digest, self.boot()))?
            .is_none()
        {
            return Ok(None);
        }
        let path = self.0.home.blob(digest);
        fault::point("store-open").map_err(host("open", &path))?;
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(host("open", &path)(e)),
        }
    }

    /// Reads a document of at most `cap` bytes and verifies it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is not there, [`Kind::Integrity`] if it is damaged.
    pub fn document(&self, digest: &Digest, cap: u64) -> Result<Vec<u8>> {
        let repair = "`unlade system check --repair` fetches it again";
        let Some(file) = self.blob(digest)? else {
            let e = Error::new(Kind::NotFound, format!("blob {digest} is not in the store"));
            return Err(e.with_hint(repair));
        };
        let mut bytes = Vec::new();
        let path = self.0.home.blob(digest);
        let read = file.take(cap + 1).read_to_end(&mut bytes);
        read.map_err(host("read", &path))?;
        if bytes.len() as u64 > cap {
            let m = format!("blob {digest} is larger than {cap} bytes");
            return Err(Error::new(Kind::Limit, m));
        }
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            let e = Error::new(Kind::Integrity, format!("blob {digest} is damaged"));
            return Err(e.with_hint(repair));
        }
        Ok(bytes)
    }

    /// Stores a small document.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if `bytes` are not what `digest` says, or if the host refuses.
    pub fn put_blob(&self, lease: &Lease, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if Digest::of(digest.algorithm(), bytes) != *digest {
            let m = format!("{} bytes that should be {digest} are not", bytes.len());
            return Err(Error::new(Kind::Integrity, m));
        }
        let size = bytes.len() as u64;
        if self.hold_blob(lease.id, digest, size)? {
            return Ok(());
        }
        let (path, mut file) = self.private_file(digest)?;
        let done = (|| {
            fault::point("store-write").map_err(host("write", &path))?;
            file.write_all(bytes).map_err(host("write", &path))?;
            self.publish_blob(lease.id, digest, size, &path, &file)
        })();
        if done.is_err() {
            let _ = fs::remove_file(&path);
        }
        done
    }

    /// Protects a blob of `size` bytes that is there; whether it is.
    ///
    /// # Errors
    /// If the database cannot be written, or a flush has failed since the lease began.
    pub fn hold(&self, lease: &Lease, digest: &Digest, size: u64) -> Result<bool> {
        self.hold_blob(lease.id, digest, size)
    }

    /// As [`Store::hold`].
    pub(super) fn hold_blob(&self, lease: LeaseId, digest: &Digest, size: u64) -> Result<bool> {
        let path = self.0.home.blob(digest);
        // Without a lock first: most are not there, and whoever waits asks often.
        if self.0.db.read(|c| trusted(c, digest, self.boot()))? != Some(size) {
            return Ok(false);
        }
        self.0.db.write(Commit::Lazy, |tx| {
            leases::check(tx, lease)?;
            if trusted(tx, digest, self.boot())? != Some(size) {
                return Ok(false);
            }
            // One that somebody has removed is fetched again.
            if !fs::metadata(&path).is_ok_and(|m| m.len() == size) {
                return Ok(false);
            }
            leases::hold(tx, lease, "", &digest.to_string())?;
            Ok(true)
        })
    }

    /// A file in `blobs/ingest` that nobody else looks for.
    pub(super) fn private_file(&self, digest: &Digest) -> Result<(PathBuf, File)> {
        loop {
            let mut random = [0; 8];
            let filled = getrandom::fill(&mut random);
            filled.map_err(|e| Error::host("get random bytes", io::Error::other(e)))?;
            let (name, random) = (ingest::name(digest), u64::from_ne_bytes(random));
            let path = self.0.home.ingest().join(format!("{name}.{random:016x}"));
            // Taken for a leftover by somebody before it was locked: another.
            if let Claim::Ours(file) = ingest::claim(&path).map_err(host("make", &path))? {
                return Ok((path, file));
            }
        }
    }

    /// Gives verified bytes their name and their record.
    pub(super) fn publish_blob(
        &self,
        lease: LeaseId,
        digest: &Digest,
        size: u64,
        from: &Path,
        file: &File,
    ) -> Result<()> {
        let _guard = self.guard(lease)?;
        let to = self.0.home.blob(digest);
        if self.hold_blob(lease, digest, size)? {
            self.0.half_done.end(lease);
            return fs::remove_file(from).map_err(host("remove", from));
        }
        if self.0.db.read(|c| recorded(c, digest))? {
            // Its file is gone. The record may lack the mark that the new file needs.
            let stale = "DELETE FROM blobs WHERE digest = ?1";
            self.0.db.write(Commit::Durable, |tx| {
                Ok(tx.execute(stale, [digest.to_string()])?)
            })?;
        }
        let renamed = (|| {
            fault::point("store-rename")?;
            fs::rename(from, &to)?;
            rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(0o444))?;
            fault::point("store-renamed")
        })();
        renamed.map_err(host("publish", &to))?;
        self.record_blob(lease, digest, size)
    }

    /// Records a blob that has its name. The caller holds a guard.
    pub(super) fn record_blob(&self, lease: LeaseId, digest: &Digest, size: u64) -> Result<()> {
        self.0.db.write(Commit::Lazy, |tx| {
            leases::check(tx, lease)?;
            let seq = next_seq(tx)?;
            tx.execute(
                "INSERT OR REPLACE INTO blobs (digest, size, boot, seq) VALUES (?1, ?2, ?3, ?4)",
                params![digest.to_string(), size, self.boot(), seq],
            )?;
            leases::hold(tx, lease, "", &digest.to_string())
        })?;
        self.0.half_done.end(lease);
        Ok(())
    }

    /// Compares a blob's bytes with its name.
    pub(super) fn verify_blob(&self, digest: &Digest, cancel: &Cancel) -> Result<Verdict> {
        let path = self.0.home.blob(digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Verdict::Missing),
            Err(e) => return Err(host("open", &path)(e)),
        };
        match hash(&mut file, digest.algorithm(), cancel) {
            Ok(Some(found)) if found == *digest => Ok(Verdict::Good),
            Ok(Some(_)) => Ok(Verdict::Damaged),
            Ok(None) => Err(Error::new(Kind::Cancelled, "cancelled")),
            // What cannot be read is lost.
            Err(e) if e.raw_os_error() == Some(libc::EIO) => Ok(Verdict::Damaged),
            Err(e) => Err(host("read", &path)(e)),
        }
    }

    /// Takes a file out of sight; [`Store::empty_trash`] frees it.
    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default();
        let moved = fault::point("store-discard")
            .and_then(|()| fs::rename(path, self.0.home.trash().join(name)));
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        let gone = match moved {
            // The name in the trash needs room that only removing things will make.
            Err(e) if full.contains(&e.kind()) => fs::remove_file(path),
            moved => moved,
        };
        match gone {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(host("remove", path)(e)),
            _ => Ok(()),
        }
    }

    /// Unlinks what was discarded; how many bytes that freed.
    pub(super) fn empty_trash(&self) -> Result<u64> {
        let dir = self.0.home.trash();
        let mut freed = 0;
        for entry in fs::read_dir(&dir).map_err(host("list", &dir))? {
            let path = entry.map_err(host("list", &dir))?.path();
            let size = fs::symlink_metadata(&path).map_or(0, |m| m.len());
            match fault::point("store-unlink").and_then(|()| fs::remove_file(&path)) {
                Ok(()) => freed += size,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(host("remove", &path)(e)),
            }
        }
        Ok(freed)
    }
}

/// The digest of what is left to read; `None` if cancelled.
pub(super) fn hash(
    file: &mut File,
    algorithm: Algorithm,
    cancel: &Cancel,
) -> io::Result<Option<Digest>> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 1 << 18];
    while !cancel.is_cancelled() {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Some(hasher.finish())),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}
