//! The tables, and how they came to be: numbered steps, each a transaction of its own.
//!
//! A step is never changed once it was released; what comes later is a further step. `PRAGMA
//! user_version` counts the steps done.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::db::{self, Fail, Tx, explain};
use crate::error::{Error, Kind, Result};

/// Marks the file as ours (`unld`), for `file(1)` and against other programs' databases.
const APPLICATION_ID: i32 = 0x756e_6c64;

/// `driver` everywhere: what one graph driver has is not there for the others.
///
/// `boot` is the mark of an object that may not be on disk yet: the boot in which it was made,
/// null once it was flushed. `seq` grows with every marked object, so a flush clears just the
/// marks that were there when it began.
const STEPS: &[&str] = &[
    "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE leases (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  what TEXT NOT NULL,
  pid INTEGER NOT NULL,
  start INTEGER NOT NULL,
  pid_namespace INTEGER NOT NULL,
  boot TEXT NOT NULL
) STRICT;
CREATE TABLE held (
  lease INTEGER NOT NULL REFERENCES leases ON DELETE CASCADE,
  driver TEXT NOT NULL,
  object TEXT NOT NULL,
  PRIMARY KEY (lease, driver, object)
) STRICT, WITHOUT ROWID;
CREATE INDEX held_object ON held (object, driver);
CREATE TABLE blobs (
  digest TEXT PRIMARY KEY,
  size INTEGER NOT NULL,
  boot TEXT,
  seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX blobs_marked ON blobs (boot, seq) WHERE boot IS NOT NULL;
CREATE TABLE layers (
  driver TEXT NOT NULL,
  id TEXT NOT NULL,
  diff_id TEXT NOT NULL,
  chain_id TEXT,
  bytes INTEGER NOT NULL,
  inodes INTEGER NOT NULL,
  tar_bytes INTEGER NOT NULL,
  blob TEXT,
  blob_size INTEGER,
  boot TEXT,
  seq INTEGER NOT NULL,
  PRIMARY KEY (driver, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX layers_blob ON layers (blob);
CREATE INDEX layers_marked ON layers (boot, seq) WHERE boot IS NOT NULL;
CREATE TABLE images (
  key INTEGER PRIMARY KEY,
  driver TEXT NOT NULL,
  digest TEXT NOT NULL,
  config_size INTEGER NOT NULL,
  manifest TEXT NOT NULL,
  platform TEXT,
  created INTEGER,
  size INTEGER NOT NULL,
  stored INTEGER NOT NULL,
  broken INTEGER NOT NULL DEFAULT 0,
  UNIQUE (driver, digest)
) STRICT;
CREATE INDEX images_digest ON images (digest);
CREATE INDEX images_broken ON images (driver) WHERE broken;
CREATE TABLE image_layers (
  image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
  position INTEGER NOT NULL,
  layer TEXT NOT NULL,
  diff_id TEXT NOT NULL,
  PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layers_layer ON image_layers (layer);
CREATE TABLE manifests (
  image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
  digest TEXT NOT NULL,
  media_type TEXT NOT NULL,
  size INTEGER NOT NULL,
  PRIMARY KEY (image, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifests_digest ON manifests (digest);
CREATE TABLE manifest_layers (
  image INTEGER NOT NULL,
  manifest TEXT NOT NULL,
  position INTEGER NOT NULL,
  blob TEXT NOT NULL,
  size INTEGER NOT NULL,
  media_type TEXT NOT NULL,
  PRIMARY KEY (image, manifest, position),
  FOREIGN KEY (image, manifest) REFERENCES manifests ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_layers_blob ON manifest_layers (blob);
CREATE TABLE names (
  driver TEXT NOT NULL,
  name TEXT NOT NULL,
  image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
  manifest TEXT NOT NULL,
  sum INTEGER NOT NULL,
  PRIMARY KEY (driver, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX names_image ON names (image);
CREATE TABLE repo_digests (
  driver TEXT NOT NULL,
  repo TEXT NOT NULL,
  digest TEXT NOT NULL,
  image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
  PRIMARY KEY (driver, repo, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX repo_digests_image ON repo_digests (image);
CREATE INDEX repo_digests_digest ON repo_digests (digest);
CREATE TABLE pins (
  driver TEXT NOT NULL,
  owner TEXT NOT NULL,
  image TEXT NOT NULL,
  layer TEXT NOT NULL,
  PRIMARY KEY (driver, owner, layer)
) STRICT, WITHOUT ROWID;
CREATE INDEX pins_layer ON pins (layer);
CREATE INDEX pins_image ON pins (image);
",
    "
CREATE TABLE containers (
  id TEXT PRIMARY KEY,
  driver TEXT NOT NULL,
  name TEXT NOT NULL UNIQUE,
  created INTEGER NOT NULL,
  image TEXT NOT NULL,
  request TEXT NOT NULL,
  facts TEXT NOT NULL,
  stage TEXT NOT NULL,
  run TEXT,
  pid INTEGER,
  start INTEGER,
  pid_namespace INTEGER,
  boot TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX containers_unfinished ON containers (driver) WHERE pid IS NOT NULL;
",
    "
CREATE TABLE origins (
  image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
  repo TEXT NOT NULL,
  digest TEXT NOT NULL,
  PRIMARY KEY (image, repo, digest)
) STRICT, WITHOUT ROWID;
INSERT INTO origins SELECT image, repo, digest FROM repo_digests;
",
    "
CREATE TABLE networks (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE endpoints (
  container TEXT NOT NULL,
  network TEXT NOT NULL REFERENCES networks,
  record TEXT NOT NULL,
  PRIMARY KEY (container, network)
) STRICT, WITHOUT ROWID;
CREATE INDEX endpoints_network ON endpoints (network);
CREATE TABLE addresses (
  network TEXT NOT NULL,
  address TEXT NOT NULL,
  container TEXT NOT NULL,
  PRIMARY KEY (network, address),
  FOREIGN KEY (container, network) REFERENCES endpoints ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX addresses_endpoint ON addresses (container, network);
CREATE TABLE ports (
  protocol TEXT NOT NULL,
  port INTEGER NOT NULL,
  address TEXT NOT NULL,
  container TEXT NOT NULL,
  PRIMARY KEY (protocol, port, address)
) STRICT, WITHOUT ROWID;
CREATE INDEX ports_container ON ports (container);
CREATE TABLE volume_users (
  volume TEXT NOT NULL,
  container TEXT NOT NULL,
  filled INTEGER NOT NULL,
  PRIMARY KEY (volume, container)
) STRICT, WITHOUT ROWID;
CREATE INDEX volume_users_container ON volume_users (container);
",
];

/// The version that this program writes.
pub(super) fn current() -> usize {
    STEPS.len()
}

/// The version of the database behind `c`.
pub(super) fn version(c: &Connection) -> rusqlite::Result<usize> {
    c.pragma_query_value(None, "user_version", |r| r.get(0))
}

/// Refuses what a newer program has written.
pub(super) fn accept(path: &Path, version: usize) -> Result<()> {
    if version <= current() {
        return Ok(());
    }
    let (shown, ours) = (path.display(), current());
    let m = format!("the store `{shown}` has format {version}, this program knows up to {ours}");
    Err(Error::new(Kind::Unsupported, m)
        .with_hint("a newer unlade has written it: use that, or another directory with --root"))
}

/// Refuses another program's database.
pub(super) fn is_ours(c: &Connection) -> rusqlite::Result<bool> {
    let id: i32 = c.pragma_query_value(None, "application_id", |r| r.get(0))?;
    Ok(id == APPLICATION_ID)
}

/// Makes the database at `path` and brings it up to date. The caller holds the store's lock
/// exclusively.
pub(super) fn create(path: &Path) -> Result<()> {
    let made = (|| -> rusqlite::Result<Connection> {
        let c = Connection::open(path)?;
        c.pragma_update(None, "application_id", APPLICATION_ID)?;
        c.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        Ok(c)
    })();
    made.map_err(|e| explain(path, "make", e))?;
    migrate(path)
}

/// Brings the database at `path` up to date. The caller holds the store's lock exclusively.
pub(super) fn migrate(path: &Path) -> Result<()> {
    let mut c = db::connect(path).map_err(|e| explain(path, "open", e))?;
    run(&mut c, STEPS).map_err(|e| match e {
        Fail::Ours(e) => e,
        Fail::Sql(e) => explain(path, "bring up to date", e),
    })
}

/// Each step commits with its number, so a kill leaves the old version or the new one.
fn run(c: &mut Connection, steps: &[&str]) -> Tx<()> {
    c.pragma_update(None, "synchronous", "FULL")?;
    loop {
        let tx = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = version(&tx)?;
        let Some(step) = steps.get(done) else {
            return Ok(());
        };
        tx.execute_batch(step)?;
        tx.pragma_update(None, "user_version", done + 1)?;
        db::passed("store-migrate")?;
        tx.commit()?;
        db::passed("store-migrated")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_done_once_and_in_order() {
        let steps = [
            "CREATE TABLE a (x)",
            "INSERT INTO a VALUES (1)",
            "INSERT INTO a VALUES (2)",
        ];
        let mut c = Connection::open_in_memory().unwrap();
        for n in [1, 2, 2, 3, 3] {
            run(&mut c, &steps[..n]).unwrap();
            assert_eq!(version(&c).unwrap(), n);
            let rows: usize = c
                .query_row("SELECT count(*) FROM a", [], |r| r.get(0))
                .unwrap();
            assert_eq!(rows, n - 1);
        }
        // A step that fails is not half done.
        let bad = [
            steps[0],
            steps[1],
            steps[2],
            "INSERT INTO a VALUES (3); nonsense",
        ];
        assert!(matches!(run(&mut c, &bad), Err(Fail::Sql(_))));
        let rows: usize = c
            .query_row("SELECT count(*) FROM a", [], |r| r.get(0))
            .unwrap();
        assert_eq!((version(&c).unwrap(), rows), (3, 2));
    }

    #[test]
    fn a_new_database_is_whole_and_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        create(&path).unwrap();
        let c = db::connect(&path).unwrap();
        assert!(is_ours(&c).unwrap());
        assert_eq!(version(&c).unwrap(), current());
        let ok: String = c
            .query_row("PRAGMA integrity_check", [], |r| r.get(0))
            .unwrap();
        assert_eq!(ok, "ok");
        let e = accept(&path, current() + 1).unwrap_err();
        assert!(e.kind() == Kind::Unsupported && e.hint().is_some(), "{e}");
    }
}
