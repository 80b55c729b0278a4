//! Blobs being fetched: one writer for each, over all processes, and what it has got so far is
//! kept for whoever comes next.
//!
//! The writer holds a `flock` on `blobs/ingest/<algorithm>-<hex>`; the kernel drops it with the
//! process, however that ends. Others wait for the blob to appear or for the lock to be free.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use unlade_unpack::{Cancel, Digest, fault};

use super::{
    Store,
    content::{self, Verdict},
    gc::try_lock,
    home::host,
    leases::{Lease, LeaseId},
};
use crate::error::{Error, Kind, Result};

const TICK: Duration = Duration::from_millis(25);

/// What is to be done about a blob.
#[derive(Debug)]
pub enum Ingest {
    /// Nothing: it is there, and protected by the lease.
    Present,
    /// It is to be written.
    Write(BlobWriter),
}

/// Writes a blob. Dropped before [`BlobWriter::commit`], it keeps what was written for the next
/// try; [`BlobWriter::discard`] does not.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    lease: LeaseId,
    digest: Digest,
    size: u64,
    path: PathBuf,
    file: File,
    at: u64,
    resumed: u64,
    private: bool,
    done: bool,
}

impl Store {
    /// Begins or resumes a blob of `size` bytes, unless it is there. While another process
    /// fetches it, waits until it is there or that process gives up; one that gets no further
    /// for [`StoreOptions::ingest_stall`](super::StoreOptions::ingest_stall) is not waited for.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] by `cancel` while waiting, or if the host refuses.
    pub fn ingest(
        &self,
        lease: &Lease,
        digest: &Digest,
        size: u64,
        cancel: &Cancel,
    ) -> Result<Ingest> {
        let lease = lease.id;
        let path = self.0.home.ingest().join(name(digest));
        let mut holder = Holder::new(self.0.options.ingest_stall);
        loop {
            if self.hold_blob(lease, digest, size)? || self.adopt(lease, digest, size, cancel)? {
                return Ok(Ingest::Present);
            }
            match claim(&path).map_err(host("open", &path))? {
                Claim::Ours(file) => {
                    // The blob may have come between the look and the lock.
                    if self.hold_blob(lease, digest, size)? {
                        let _ = fs::remove_file(&path);
                        return Ok(Ingest::Present);
                    }
                    let writer = self.writer(lease, digest, size, path, file, false)?;
                    return Ok(Ingest::Write(writer));
                }
                Claim::Gone => {}
                Claim::Theirs(file) => {
                    let meta = file.metadata().map_err(host("look at", &path))?;
                    if holder.is_stuck(meta.ino(), meta.len()) {
                        tracing::debug!(%digest, "its writer is stuck: fetching it here too");
                        let (path, file) = self.private_file(digest)?;
                        let writer = self.writer(lease, digest, size, path, file, true)?;
                        return Ok(Ingest::Write(writer));
                    }
                    if cancel.is_cancelled() {
                        return Err(Error::new(Kind::Cancelled, "cancelled"));
                    }
                    std::thread::sleep(TICK);
                }
            }
        }
    }

    /// Whether an earlier try has left as many bytes of a blob as it has.
    pub fn is_fetched(&self, digest: &Digest, size: u64) -> bool {
        let path = self.0.home.ingest().join(name(digest));
        fs::metadata(path).is_ok_and(|m| m.len() == size)
    }

    fn writer(
        &self,
        lease: LeaseId,
        digest: &Digest,
        size: u64,
        path: PathBuf,
        file: File,
        private: bool,
    ) -> Result<BlobWriter> {
        let length = file.metadata().map_err(host("look at", &path))?.len();
        let mut writer = BlobWriter {
            store: self.clone(),
            lease,
            digest: *digest,
            size,
            path,
            file,
            at: length,
            resumed: length,
            private,
            done: false,
        };
        if length > size {
            writer.restart()?;
        }
        Ok(writer)
    }

    /// Takes a blob that has its name but no record: its process was killed between the two.
    fn adopt(&self, lease: LeaseId, digest: &Digest, size: u64, cancel: &Cancel) -> Result<bool> {
        let path = self.0.home.blob(digest);
        if !fs::metadata(&path).is_ok_and(|m| m.len() == size) {
            return Ok(false);
        }
        let verdict = self.verify_blob(digest, cancel)?;
        let _guard = self.guard(lease)?;
        // Recorded or swept meanwhile.
        let recorded = self.hold_blob(lease, digest, size)?;
        if !recorded && verdict == Verdict::Good && path.exists() {
            self.record_blob(lease, digest, size)?;
            return Ok(true);
        }
        // A damaged one stays until the good one replaces it.
        self.0.half_done.end(lease);
        Ok(recorded)
    }
}

/// Who has a file in `blobs/ingest`.
pub(super) enum Claim {
    /// It is locked by the handle here.
    Ours(File),
    /// Somebody else has it locked.
    Theirs(File),
    /// It was published or removed between the opening and the locking.
    Gone,
}

/// The name that a blob has while it is fetched.
pub(super) fn name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// Opens or makes the file, and locks it if nobody else has.
pub(super) fn claim(path: &Path) -> io::Result<Claim> {
    fault::point("store-open")?;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(0o600).open(path)?;
    if !try_lock(&file)? {
        return Ok(Claim::Theirs(file));
    }
    let (ours, there) = (file.metadata()?, fs::symlink_metadata(path));
    match there {
        Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
            Ok(Claim::Ours(file))
        }
        Ok(_) => Ok(Claim::Gone),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Claim::Gone),
        Err(e) => Err(e),
    }
}

/// How far another process is with the blob.
struct Holder {
    patience: Duration,
    seen: (u64, u64),
    since: Instant,
}

impl Holder {
    fn new(patience: Duration) -> Self {
        Self {
            patience,
            seen: (0, 0),
            since: Instant::now(),
        }
    }

    fn is_stuck(&mut self, inode: u64, length: u64) -> bool {
        if self.seen != (inode, length) {
            self.seen = (inode, length);
            self.since = Instant::now();
        }
        self.since.elapsed() >= self.patience
    }
}

impl BlobWriter {
    /// How many bytes an earlier try has left: go on after them. They are not verified: hash them
    /// ([`BlobWriter::partial`]) before what follows.
    pub fn resume_at(&self) -> u64 {
        self.resumed
    }

    /// How many bytes are there now.
    pub fn len(&self) -> u64 {
        self.at
    }

    /// Whether nothing is there yet.
    pub fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// What is there now, to be read from its beginning.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn partial(&self) -> Result<File> {
        File::open(&self.path).map_err(host("open", &self.path))
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`Kind::Integrity`] for more than the size that was announced; nothing of them is written
    /// then. [`Kind::Host`] if the disk refuses; if it is full, what was there is given up.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.at + bytes.len() as u64;
        if end > self.size {
            let m = format!(
                "blob {} is longer than its {} bytes",
                self.digest, self.size
            );
            return Err(Error::new(Kind::Integrity, m)
                .with_hint("the registry sends something else than the manifest says"));
        }
        fault::point("store-write").map_err(host("write", &self.path))?;
        match self.file.write_all_at(bytes, self.at) {
            Ok(()) => self.at = end,
            Err(e) => {
                // A part that fills the disk helps nobody.
                if matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
                    self.restart()?;
                }
                return Err(host("write", &self.path)(e));
            }
        }
        Ok(())
    }

    /// Begins anew: what was there is wrong.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(host("empty", &self.path))?;
        self.at = 0;
        self.resumed = 0;
        Ok(())
    }

    /// Publishes the blob, whose bytes the caller has found to have the digest `verified`.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if that is not the digest asked for or the size is not right: nothing
    /// is kept then. [`Kind::Host`] if the host refuses.
    pub fn commit(mut self, verified: &Digest) -> Result<()> {
        let length = self
            .file
            .metadata()
            .map_err(host("look at", &self.path))?
            .len();
        if *verified != self.digest || self.at != self.size || length != self.size {
            let (want, size) = (self.digest, self.size);
            let m = format!("blob {want} of {size} bytes came as {verified} with {length} bytes");
            self.remove();
            return Err(Error::new(Kind::Integrity, m).with_hint(
                "pull again; if that does not help, the registry holds a damaged blob",
            ));
        }
        self.file.flush().map_err(host("write", &self.path))?;
        let (store, path) = (&self.store, &self.path);
        store.publish_blob(self.lease, &self.digest, self.size, path, &self.file)?;
        self.done = true;
        Ok(())
    }

    /// Verifies what is there by reading it again, and publishes it.
    ///
    /// # Errors
    /// As [`BlobWriter::commit`].
    pub fn verify_and_commit(self, cancel: &Cancel) -> Result<()> {
        let hashed = content::hash(&mut self.partial()?, self.digest.algorithm(), cancel);
        match hashed.map_err(host("read", &self.path))? {
            Some(found) => self.commit(&found),
            None => Err(Error::new(Kind::Cancelled, "cancelled")),
        }
    }

    /// Gives up and keeps nothing.
    pub fn discard(mut self) {
        self.remove();
    }

    fn remove(&mut self) {
        self.done = true;
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::debug!(error = %e, "a partial blob stays until it is swept");
        }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // One that nobody else looks for is of no use to the next try.
        if !self.done && (self.private || self.at == 0) {
            self.remove();
        }
    }
}
