//! Where images came from. A name in a registry is the user's to take away; what a repair needs to
//! fetch an image again is kept until the image is gone.

use rusqlite::{Connection, params};
use unlade_unpack::Digest;

use super::{
    Store,
    db::{Commit, Tx, digest},
    images::Image,
};
use crate::error::Result;

/// Notes that `repo` has the image under this digest. Nothing happens if the image is gone.
pub(super) fn put(tx: &Connection, key: i64, repo: &str, digest: &Digest) -> Tx<()> {
    let insert = "INSERT OR IGNORE INTO origins (image, repo, digest)
                  SELECT key, ?2, ?3 FROM images WHERE key = ?1";
    tx.prepare_cached(insert)?
        .execute(params![key, repo, digest.to_string()])?;
    Ok(())
}

/// Lists the image under this digest of `repo`, and notes that it came from there. Nothing happens
/// if it is gone.
pub(super) fn list(tx: &Connection, key: i64, repo: &str, digest: &Digest) -> Tx<()> {
    tx.execute(
        "INSERT INTO repo_digests (driver, repo, digest, image)
         SELECT driver, ?2, ?3, key FROM images WHERE key = ?1
         ON CONFLICT DO UPDATE SET image = excluded.image",
        params![key, repo, digest.to_string()],
    )?;
    put(tx, key, repo, digest)
}

/// Repositories and digests that an image can be fetched by; first those that it still is listed
/// in.
pub(super) fn of(c: &Connection, image: &Image) -> Tx<Vec<(String, Digest)>> {
    let mut select = c.prepare_cached(
        "SELECT repo, digest FROM origins WHERE image = ?1 ORDER BY repo, digest",
    )?;
    let rows = select.query_map([image.key], |r| Ok((r.get(0)?, digest(r, 1)?)))?;
    let mut origins = image.repo_digests.clone();
    for origin in rows {
        let origin = origin?;
        if !origins.contains(&origin) {
            origins.push(origin);
        }
    }
    Ok(origins)
}

impl Store {
    /// Notes that a repository has the image under this digest.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn add_repo_digest(&self, image: &Image, repo: &str, digest: &Digest) -> Result<()> {
        let list = |tx: &Connection| list(tx, image.key, repo, digest);
        self.0.db.write(Commit::Lazy, |tx| list(tx))
    }
}
