//! Layers: which ones the graph driver has, and what each is.

use rusqlite::{Connection, OptionalExtension, Row, params};
use unlade_unpack::Digest;

use super::{
    Store,
    containers::pin_image,
    db::{Commit, Tx, digest, maybe_digest},
    durability::next_seq,
    leases::{self, Lease},
};
use crate::error::{Error, Kind, Result};

/// A layer to be recorded.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// The driver's name for it.
    pub id: String,
    /// Digest of its tar stream.
    pub diff_id: Digest,
    /// Digest over its and its parents' diffIDs, where it depends on them.
    pub chain_id: Option<Digest>,
    /// What it takes of the disk, in bytes.
    pub bytes: u64,
    /// What it takes of the disk, in inodes.
    pub inodes: u64,
    /// Length of its tar stream, in bytes.
    pub tar_bytes: u64,
    /// The blob that it was made from, and that one's size.
    pub blob: Option<(Digest, u64)>,
}

/// A layer that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRow {
    /// The driver's name for it.
    pub id: String,
    /// Digest of its tar stream.
    pub diff_id: Digest,
    /// Digest over its and its parents' diffIDs, where it depends on them.
    pub chain_id: Option<Digest>,
    /// What it takes of the disk, in bytes.
    pub bytes: u64,
    /// What it takes of the disk, in inodes.
    pub inodes: u64,
    /// Length of its tar stream, in bytes.
    pub tar_bytes: u64,
    /// The blob that it was made from, and that one's size.
    pub blob: Option<(Digest, u64)>,
}

/// The columns that [`LayerRow::read`] reads.
const COLUMNS: &str = "id, diff_id, chain_id, bytes, inodes, tar_bytes, blob, blob_size";

impl LayerRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let size: Option<u64> = row.get(7)?;
        Ok(Self {
            id: row.get(0)?,
            diff_id: digest(row, 1)?,
            chain_id: maybe_digest(row, 2)?,
            bytes: row.get(3)?,
            inodes: row.get(4)?,
            tar_bytes: row.get(5)?,
            blob: maybe_digest(row, 6)?.zip(size),
        })
    }
}

/// The layer of that name, if it is recorded and nothing speaks against it.
pub(super) fn trusted(c: &Connection, driver: &str, id: &str, boot: &str) -> Tx<Option<LayerRow>> {
    let select = format!(
        "SELECT {COLUMNS} FROM layers
         WHERE driver = ?1 AND id = ?2 AND (boot IS NULL OR boot = ?3)"
    );
    let mut select = c.prepare_cached(&select)?;
    Ok(select
        .query_row(params![driver, id, boot], LayerRow::read)
        .optional()?)
}

impl Store {
    /// The first of `candidates` that is there, protected from now on.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn find_layer(&self, lease: &Lease, candidates: &[String]) -> Result<Option<LayerRow>> {
        // Without a lock first: most layers of a new image are not there.
        let look = |c: &Connection| {
            for id in candidates {
                if let Some(row) = trusted(c, self.driver(), id, self.boot())? {
                    return Ok(Some(row));
                }
            }
            Ok(None)
        };
        if self.0.db.read(look)?.is_none() {
            return Ok(None);
        }
        self.0.db.write(Commit::Lazy, |tx| {
            leases::check(tx, lease.id)?;
            let found = look(tx)?;
            if let Some(row) = &found {
                leases::hold(tx, lease.id, self.driver(), &row.id)?;
            }
            Ok(found)
        })
    }

    /// Records a layer that the driver has published. The caller holds a
    /// [`CommitGuard`](super::CommitGuard) since before that.
    ///
    /// # Errors
    /// If the database cannot be written; [`Kind::Conflict`] if a failed flush has cast doubt on
    /// a layer of that name which is still in use.
    pub fn add_layer(&self, lease: &Lease, layer: &NewLayer) -> Result<()> {
        self.0.db.write(Commit::Lazy, |tx| {
            leases::check(tx, lease.id)?;
            let mark: Option<Option<String>> = tx
                .query_row(
                    "SELECT boot FROM layers WHERE driver = ?1 AND id = ?2",
                    params![self.driver(), layer.id],
                    |r| r.get(0),
                )
                .optional()?;
            if let Some(Some(mark)) = mark
                && mark != self.boot()
            {
                let m = format!("layer {} may be damaged and is in use", layer.id);
                let e = Error::new(Kind::Conflict, m);
                return Err(e
                    .with_hint("a flush has failed: unmount it, or reboot")
                    .into());
            }
            let (blob, size) = layer.blob.unzip();
            tx.execute(
                "INSERT OR REPLACE INTO layers (driver, id, diff_id, chain_id, bytes, inodes,
                   tar_bytes, blob, blob_size, boot, seq)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                params![
                    self.driver(),
                    layer.id,
                    layer.diff_id.to_string(),
                    layer.chain_id.map(|d| d.to_string()),
                    layer.bytes,
                    layer.inodes,
                    layer.tar_bytes,
                    blob.map(|d| d.to_string()),
                    size,
                    self.boot(),
                    next_seq(tx)?,
                ],
            )?;
            leases::hold(tx, lease.id, self.driver(), &layer.id)
        })?;
        self.0.half_done.end(lease.id);
        Ok(())
    }

    /// The diffIDs of blobs, as far as layers were made of them here.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn known_diff_ids<'a>(
        &self,
        blobs: impl Iterator<Item = &'a Digest>,
    ) -> Result<Vec<Option<Digest>>> {
        let blobs: Vec<String> = blobs.map(ToString::to_string).collect();
        self.0.db.read(|c| {
            let mut select = c.prepare_cached(
                "SELECT diff_id FROM layers WHERE blob = ?1 AND driver = ?2 LIMIT 1",
            )?;
            let mut known = Vec::with_capacity(blobs.len());
            for blob in &blobs {
                let row = select.query_row(params![blob, self.driver()], |r| digest(r, 0));
                known.push(row.optional()?);
            }
            Ok(known)
        })
    }

    /// A layer by the driver's name for it.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn layer(&self, id: &str) -> Result<Option<LayerRow>> {
        self.0
            .db
            .read(|c| trusted(c, self.driver(), id, self.boot()))
    }

    /// Keeps an image's layers for as long as `owner` (a container, a mount) needs them, over
    /// processes and boots. Removing the image needs force from then on.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if there is no such image.
    pub fn pin(&self, owner: &str, image: &Digest) -> Result<()> {
        let pinned = self.0.db.write(Commit::Durable, |tx| {
            pin_image(tx, self.driver(), owner, image)
        })?;
        if pinned == 0 {
            return Err(
                Error::new(Kind::NotFound, format!("there is no image {image}"))
                    .with_hint("pull it first"),
            );
        }
        Ok(())
    }

    /// Ends what [`Store::pin`] began.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn unpin(&self, owner: &str) -> Result<()> {
        self.0.db.write(Commit::Freeing, |tx| {
            let delete = "DELETE FROM pins WHERE driver = ?1 AND owner = ?2";
            tx.execute(delete, params![self.driver(), owner])?;
            Ok(())
        })
    }

    /// Who has pinned something, and which image.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn pins(&self) -> Result<Vec<(String, Digest)>> {
        self.0.db.read(|c| {
            let mut select = c.prepare(
                "SELECT DISTINCT owner, image FROM pins WHERE driver = ?1 ORDER BY 1, 2",
            )?;
            let rows = select.query_map([self.driver()], |r| Ok((r.get(0)?, digest(r, 1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }
}
