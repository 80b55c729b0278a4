//! What the store takes of the disk, by its records: no tree is walked.

use std::fs;

use rusqlite::{Connection, params};
use serde::Serialize;

use super::{Store, db::Tx, home::host};
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

    fn count(&self, c: &Connection) -> Tx<Df> {
        let driver = params![self.driver()];
        let share = |r: &rusqlite::Row<'_>| {
            let (count, active, bytes, used): (u64, u64, u64, u64) =
                (r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?);
            Ok(Share {
                count,
                active,
                bytes,
                reclaimable: bytes.saturating_sub(used),
            })
        };
        let layers = c.query_row(
            "WITH used AS (SELECT DISTINCT l.layer FROM image_layers l
               JOIN images i ON i.key = l.image WHERE i.driver = ?1)
             SELECT count(*), count(u.layer), coalesce(sum(bytes), 0),
               coalesce(sum(bytes) FILTER (WHERE u.layer IS NOT NULL), 0)
             FROM layers LEFT JOIN used u ON u.layer = layers.id WHERE driver = ?1",
            driver,
            share,
        )?;
        let blobs = c.query_row(
            "WITH used AS (SELECT digest FROM images UNION SELECT digest FROM manifests
               UNION SELECT digest FROM repo_digests UNION SELECT blob FROM manifest_layers)
             SELECT count(*), count(u.digest), coalesce(sum(size), 0),
               coalesce(sum(size) FILTER (WHERE u.digest IS NOT NULL), 0)
             FROM blobs LEFT JOIN used u ON u.digest = blobs.digest",
            [],
            share,
        )?;
        let images = c.query_row(
            "WITH used AS (SELECT DISTINCT l.layer FROM image_layers l
               JOIN images i ON i.key = l.image WHERE i.driver = ?1)
             SELECT (SELECT count(*) FROM images WHERE driver = ?1),
               (SELECT count(DISTINCT image) FROM pins WHERE driver = ?1),
               coalesce(sum(bytes), 0),
               coalesce(sum(bytes) FILTER
                 (WHERE id IN (SELECT layer FROM pins WHERE driver = ?1)), 0)
             FROM layers JOIN used u ON u.layer = layers.id WHERE driver = ?1",
            driver,
            share,
        )?;
        Ok(Df {
            images,
            layers,
            blobs,
            partial: Share::default(),
        })
    }
}
