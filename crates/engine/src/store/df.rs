//! What the store takes of the disk, by its records: no tree is walked.

use std::{collections::BTreeMap, fs};

use rusqlite::{Connection, Row};
use serde::Serialize;
use unlade_unpack::Digest;

use super::{
    Store,
    db::{Tx, digest},
    home::host,
};
use crate::error::Result;

/// What one kind of object takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// How many there are.
    pub count: u64,
    /// How many of them are in use: pinned, or for layers and blobs, part of an image.
    pub active: u64,
    /// What they take, in bytes.
    pub bytes: u64,
    /// How much of that goes when those that are not in use are removed.
    pub reclaimable: u64,
}

/// What the store takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Df {
    /// Images: their layers, each counted once.
    pub images: Share,
    /// Layers, those of no image too.
    pub layers: Share,
    /// Compressed blobs, manifests and configs.
    pub blobs: Share,
    /// Partial blobs.
    pub partial: Share,
}

impl Store {
    /// What the store takes of the disk.
    ///
    /// # Errors
    /// If the database or the directory of partial blobs cannot be read.
    pub fn df(&self) -> Result<Df> {
        let mut df = self.0.db.read(|c| self.count(c))?;
        let dir = self.0.home.ingest();
        for entry in fs::read_dir(&dir).map_err(host("list", &dir))? {
            let meta = entry.and_then(|e| e.metadata());
            if let Ok(meta) = meta {
                df.partial.count += 1;
                df.partial.bytes += meta.len();
                df.partial.reclaimable += meta.len();
            }
        }
        Ok(df)
    }

    /// What images have in common with others, in bytes of their tar streams, as
    /// [`Image::size`](super::Image::size) counts.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn shared_sizes(&self) -> Result<BTreeMap<Digest, u64>> {
        let select = "SELECT i.digest, sum(y.tar_bytes)
            FROM images i CROSS JOIN image_layers l ON l.image = i.key
              CROSS JOIN layers y ON y.driver = i.driver AND y.id = l.layer
            WHERE i.driver = ?1 AND EXISTS (
              SELECT 1 FROM image_layers o CROSS JOIN images j ON j.key = o.image
              WHERE o.layer = l.layer AND o.image <> l.image AND j.driver = ?1)
            GROUP BY i.digest";
        self.0.db.read(|c| {
            let mut select = c.prepare(select)?;
            let rows = select.query_map([self.driver()], |r| Ok((digest(r, 0)?, sum(r, 1)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    fn count(&self, c: &Connection) -> Tx<Df> {
        // Looked up one by one: SQLite joins these tables in whatever order, some in seconds.
        let layers =
            "SELECT count(*), sum(used), sum(bytes), sum(bytes * used), sum(bytes * pinned)
            FROM (SELECT bytes,
              EXISTS (SELECT 1 FROM image_layers l CROSS JOIN images i ON i.key = l.image
                WHERE l.layer = layers.id AND i.driver = ?1) AS used,
              EXISTS (SELECT 1 FROM pins p WHERE p.layer = layers.id AND p.driver = ?1) AS pinned
              FROM layers WHERE driver = ?1)";
        let (layers, used, pinned) = c.query_row(layers, [self.driver()], |r| {
            let share = share(r)?;
            Ok((share, sum(r, 3)?, sum(r, 4)?))
        })?;
        let blobs = "SELECT count(*), sum(used), sum(size), sum(size * used)
            FROM (SELECT size,
              EXISTS (SELECT 1 FROM manifest_layers m WHERE m.blob = blobs.digest)
              OR EXISTS (SELECT 1 FROM manifests m WHERE m.digest = blobs.digest)
              OR EXISTS (SELECT 1 FROM images i WHERE i.digest = blobs.digest)
              OR EXISTS (SELECT 1 FROM repo_digests d WHERE d.digest = blobs.digest) AS used
              FROM blobs)";
        let blobs = c.query_row(blobs, [], share)?;
        let images = "SELECT (SELECT count(*) FROM images WHERE driver = ?1),
              (SELECT count(DISTINCT image) FROM pins WHERE driver = ?1)";
        let (count, active) =
            c.query_row(images, [self.driver()], |r| Ok((r.get(0)?, r.get(1)?)))?;
        let images = Share {
            count,
            active,
            bytes: used,
            reclaimable: used.saturating_sub(pinned),
        };
        Ok(Df {
            images,
            layers,
            blobs,
            partial: Share::default(),
        })
    }
}

/// A sum over no rows is null.
fn sum(r: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    Ok(r.get::<_, Option<u64>>(at)?.unwrap_or(0))
}

fn share(r: &Row<'_>) -> rusqlite::Result<Share> {
    let bytes = sum(r, 2)?;
    Ok(Share {
        count: sum(r, 0)?,
        active: sum(r, 1)?,
        bytes,
        reclaimable: bytes.saturating_sub(sum(r, 3)?),
    })
}
