//! Connections to the database: one that writes, and as many that read as are used at once.
//!
//! Every write is one `BEGIN IMMEDIATE` transaction, so two processes never both hold half of
//! one. Nothing here knows a table.

use std::{
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{
    Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, config::DbConfig,
};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use unlade_unpack::{Digest, fault};

use super::reserve;
use crate::error::{Error, Kind, Result};

/// How long a write waits for those of other processes.
const BUSY: Duration = Duration::from_secs(60);
/// The write-ahead log is copied back into the database by flushes; this many pages of it (4 KiB
/// each) make a commit do it. Whoever opens the database first reads the whole log.
const AUTO_CHECKPOINT: u32 = 512;

/// What must hold when a write returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    /// A power cut may undo it, and all after it.
    Lazy,
    /// It is on disk, and so is all before it.
    Durable,
    /// As `Durable`, and it leads to space being freed: it may use the reserve.
    Freeing,
}

/// A failure inside a transaction.
#[derive(Debug)]
pub(super) enum Fail {
    Sql(rusqlite::Error),
    Ours(Error),
}

/// Results inside a transaction.
pub(super) type Tx<T> = std::result::Result<T, Fail>;

impl From<rusqlite::Error> for Fail {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sql(e)
    }
}

impl From<Error> for Fail {
    fn from(e: Error) -> Self {
        Self::Ours(e)
    }
}

/// The same, for modules above, which make it by `?` alone.
#[derive(Debug)]
pub struct TxFail(pub(super) Fail);

impl From<rusqlite::Error> for TxFail {
    fn from(e: rusqlite::Error) -> Self {
        Self(Fail::Sql(e))
    }
}

impl From<Error> for TxFail {
    fn from(e: Error) -> Self {
        Self(Fail::Ours(e))
    }
}

/// The database of a store.
#[derive(Debug)]
pub(super) struct Db {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the file that connections share in memory, before SQLite does.
///
/// On btrfs a write to a mapped page that was written back takes new space; on a full disk the
/// kernel can say so by SIGBUS alone. Without copy-on-write the page stays where it is. The file
/// is never deleted (`NO_CKPT_ON_CLOSE`), and elsewhere the flag is unknown and not needed.
fn share_without_copies(path: &Path) {
    let mut shared = path.as_os_str().to_owned();
    shared.push("-shm");
    let mut options = std::fs::OpenOptions::new();
    let made = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(shared);
    if let Ok(file) = made
        && let Ok(flags) = ioctl_getflags(&file)
    {
        let _ = ioctl_setflags(&file, flags | IFlags::NOCOW);
    }
}

/// Opens a connection to a database that exists.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    share_without_copies(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let c = Connection::open_with_flags(path, flags)?;
    c.busy_timeout(BUSY)?;
    // Closing must not wait for the disk, and the log's blocks are there when the disk is full.
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    c.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    c.pragma_update(None, "foreign_keys", true)?;
    c.pragma_update(None, "synchronous", "NORMAL")?;
    c.pragma_update(None, "temp_store", "MEMORY")?;
    c.pragma_update(None, "wal_autocheckpoint", AUTO_CHECKPOINT)?;
    Ok(c)
}

impl Db {
    /// Opens the database at `path`, which was checked and migrated.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let writer = connect(path).map_err(|e| explain(path, "open", e))?;
        Ok(Self::over(path, writer))
    }

    /// The same over a connection to it.
    pub(super) fn over(path: &Path, writer: Connection) -> Self {
        Self {
            path: path.to_owned(),
            writer: Mutex::new(writer),
            readers: Mutex::default(),
        }
    }

    /// Reads from one state of the database, whatever is written meanwhile.
    pub(super) fn read<T>(&self, f: impl FnOnce(&Connection) -> Tx<T>) -> Result<T> {
        let pooled = lock(&self.readers).pop();
        let connection = match pooled {
            Some(c) => c,
            None => connect(&self.path).map_err(|e| explain(&self.path, "open", e))?,
        };
        let done = (|| {
            let tx = connection.unchecked_transaction()?;
            f(&tx)
        })();
        let done = done.map_err(|e| self.explain("read", e));
        lock(&self.readers).push(connection);
        done
    }

    /// Writes in one transaction: all of it or nothing. `f` runs again if the disk was full and
    /// the reserve was given up for it.
    pub(super) fn write<T>(
        &self,
        commit: Commit,
        f: impl Fn(&Transaction<'_>) -> Tx<T>,
    ) -> Result<T> {
        let mut writer = lock(&self.writer);
        let level = match commit {
            Commit::Lazy => "NORMAL",
            Commit::Durable | Commit::Freeing => "FULL",
        };
        let mut once = || -> Tx<T> {
            writer.pragma_update(None, "synchronous", level)?;
            let tx = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = f(&tx)?;
            passed("store-commit")?;
            tx.commit()?;
            passed("store-committed")?;
            Ok(done)
        };
        let done = match once() {
            Err(Fail::Sql(e)) if commit == Commit::Freeing && is_full(&self.path, &e) => {
                let given_up = self.path.parent().is_some_and(reserve::release);
                if given_up { once() } else { Err(e.into()) }
            }
            done => done,
        };
        done.map_err(|e| self.explain("write to", e))
    }

    /// Copies the write-ahead log into the database, as far as no reader needs it.
    pub(super) fn checkpoint(&self) -> Result<()> {
        let writer = lock(&self.writer);
        let done = writer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        done.map_err(|e| explain(&self.path, "checkpoint", e))
    }

    /// Copies all of the log into the database and closes it: one file, on disk.
    pub(super) fn settle(self) -> Result<()> {
        let writer = self
            .writer
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        drop(self.readers);
        let done = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        done.map_err(|e| explain(&self.path, "checkpoint", e))
    }

    fn explain(&self, doing: &str, fail: Fail) -> Error {
        match fail {
            Fail::Ours(e) => e,
            Fail::Sql(e) => explain(&self.path, doing, e),
        }
    }
}

/// A failpoint inside a transaction.
pub(super) fn passed(point: &'static str) -> Tx<()> {
    fault::point(point).map_err(|e| Fail::Ours(Error::host("write to the store's database", e)))
}

/// Whether the disk was full; SQLite does not always say so in as many words.
pub(super) fn is_full(path: &Path, e: &rusqlite::Error) -> bool {
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => true,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
            let dir = path.parent().unwrap_or(path);
            let full = rustix::fs::statvfs(dir).is_ok_and(|s| {
                // btrfs counts no inodes at all.
                let no_inodes = s.f_files > 0 && s.f_ffree == 0;
                s.f_bavail.saturating_mul(s.f_frsize) < 64 << 10 || no_inodes
            });
            full || has_no_room(dir)
        }
        _ => false,
    }
}

/// Whether nothing can be written to a directory: what btrfs says is free may be of no use.
fn has_no_room(dir: &Path) -> bool {
    let write = || {
        let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::WRONLY;
        let file = rustix::fs::open(dir, flags, rustix::fs::Mode::RUSR)?;
        rustix::io::write(&file, &[0; 64 << 10])?;
        rustix::fs::fsync(&file)
    };
    write().is_err_and(|e: rustix::io::Errno| {
        e == rustix::io::Errno::NOSPC || e == rustix::io::Errno::DQUOT
    })
}

/// What to do about a database that cannot be used.
pub(super) const REPAIR: &str = "end other unlade processes, then `unlade system check --repair` \
                                 builds it anew from the objects, or put a backup of it in place";

/// Says what a failure of SQLite means.
pub(super) fn explain(path: &Path, doing: &str, e: rusqlite::Error) -> Error {
    let shown = path.display();
    if is_full(path, &e) {
        let full = std::io::Error::from_raw_os_error(libc::ENOSPC);
        return Error::host(format!("{doing} `{shown}`"), full)
            .with_hint("free some space; `unlade image prune` and `rmi` work on a full disk");
    }
    // SQLite keeps the cause to itself: too few descriptors, say.
    if e.sqlite_error_code() == Some(ErrorCode::CannotOpen)
        && let Err(cause) = std::fs::File::open(path)
        && cause.kind() != std::io::ErrorKind::NotFound
    {
        return Error::host(format!("{doing} `{shown}`"), cause);
    }
    match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            let m = format!("the store's database `{shown}` is damaged: {e}");
            Error::new(Kind::Integrity, m).with_hint(REPAIR)
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let m = format!("{doing} `{shown}`: another process holds it");
            Error::new(Kind::Conflict, m).with_hint("wait for other unlade processes, or end them")
        }
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::OutOfMemory,
        ) => Error::new(Kind::Host, format!("{doing} `{shown}`: {e}"))
            .with_hint("check the disk and the permissions of the directory it lies in"),
        _ => {
            let conversion = matches!(
                e,
                rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
                    | rusqlite::Error::InvalidColumnType(..)
            );
            let kind = if conversion {
                Kind::Integrity
            } else {
                Kind::Bug
            };
            let hint = if conversion {
                REPAIR
            } else {
                "please report this with what was done"
            };
            Error::new(kind, format!("{doing} `{shown}`: {e}")).with_hint(hint)
        }
    }
}

/// A digest in a column.
pub(super) fn digest(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Digest> {
    let text = row.get_ref(at)?.as_str()?;
    text.parse().map_err(|e: unlade_unpack::Error| {
        let e = Box::new(e);
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, e)
    })
}

/// A digest in a column that may be empty.
pub(super) fn maybe_digest(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Option<Digest>> {
    match row.get_ref(at)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => digest(row, at).map(Some),
    }
}
