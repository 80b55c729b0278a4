//! Images: what each consists of, and what it is called.
//!
//! An image's id is the digest of its config. One image may have come by several manifests (the
//! same layers compressed in different ways); each name says by which.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, params};
use unlade_unpack::{Algorithm, Digest};

use super::{
    Durability, Store, content,
    db::{Commit, Tx, digest},
    layers,
    leases::{self, Lease},
    origins,
};
use crate::{
    error::{Error, Kind, Result},
    image::{Platform, Reference},
};

/// A layer of an image: the tree, and the blob that it comes as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// The driver's name for it.
    pub layer: String,
    /// Digest of its tar stream.
    pub diff_id: Digest,
    /// Its blob, as the manifest has it.
    pub blob: Digest,
    /// The blob's size in bytes.
    pub blob_size: u64,
    /// The blob's media type.
    pub media_type: String,
}

/// An image to be recorded; all that it consists of is in the store by then.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Digest of its config.
    pub id: Digest,
    /// The config's size in bytes.
    pub config_size: u64,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// The manifest's media type.
    pub manifest_type: String,
    /// The manifest's size in bytes.
    pub manifest_size: u64,
    /// What it runs on.
    pub platform: Option<Platform>,
    /// When it was made, in seconds since 1970.
    pub created: Option<i64>,
    /// Its layers together, uncompressed, in bytes.
    pub size: u64,
    /// Its layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// What it is to be called, as Docker writes references. Images that were called so before
    /// lose the name.
    pub names: Vec<String>,
    /// Repositories that it is in, and under which digest: that of the manifest, or of the index
    /// that led to it.
    pub repo_digests: Vec<(String, Digest)>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub(super) key: i64,
    /// Digest of its config.
    pub id: Digest,
    /// The config's size in bytes.
    pub config_size: u64,
    /// Digest of its manifest: of the one that the name stands for by which it was looked up,
    /// else of the last one it came by.
    pub manifest: Digest,
    /// What it runs on.
    pub platform: Option<Platform>,
    /// When it was made, in seconds since 1970.
    pub created: Option<i64>,
    /// When it came into the store, in seconds since 1970.
    pub stored: i64,
    /// Its layers together, uncompressed, in bytes.
    pub size: u64,
    /// Its names in full (`docker.io/library/alpine:3.20`), sorted. None: it is dangling.
    pub names: Vec<String>,
    /// Repositories and digests, sorted.
    pub repo_digests: Vec<(String, Digest)>,
    /// Something of it is lost: it is to be pulled again.
    pub broken: bool,
}

/// A name in full, with its tag.
pub(super) fn full_name(text: &str) -> Result<String> {
    let name = Reference::parse(text)?.with_default_tag();
    if name.digest().is_some() || name.tag().is_none() {
        let m = format!("`{text}` has a digest and cannot be a name");
        return Err(Error::new(Kind::BadInput, m).with_hint("leave out what follows the `@`"));
    }
    Ok(name.canonical())
}

fn gone(what: String) -> Error {
    Error::new(Kind::Conflict, format!("{what} is no longer in the store"))
        .with_hint("it was swept or lost meanwhile: pull again")
}

impl Store {
    /// Records an image. It is listed from then on; names move to it. With
    /// [`Durability::Sync`] a [`Store::flush`] belongs before it.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if something that it consists of is not there, [`Kind::BadInput`] for
    /// names that are none, [`Kind::Bug`] if it was to be flushed before.
    pub fn add_image(&self, lease: &Lease, image: &NewImage) -> Result<()> {
        let names = image
            .names
            .iter()
            .map(|n| full_name(n))
            .collect::<Result<Vec<_>>>()?;
        let now = jiff::Timestamp::now().as_second();
        let sync = self.durability() == Durability::Sync;
        let commit = if sync { Commit::Durable } else { Commit::Lazy };
        self.0.db.write(commit, |tx| {
            leases::check(tx, lease.id)?;
            let layers = image.layers.iter().map(|l| l.layer.as_str());
            self.complete(tx, layers, [&image.id, &image.manifest])?;
            if sync && self.marked(tx, image)? {
                let m = "an image was to be recorded before its layers were flushed";
                return Err(Error::new(Kind::Bug, m).into());
            }
            let key: i64 = tx
                .prepare_cached(
                    "INSERT INTO images (driver, digest, config_size, manifest, platform, created,
                       size, stored) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                     ON CONFLICT (driver, digest) DO UPDATE
                       SET manifest = ?4, size = ?7, stored = ?8, broken = 0
                     RETURNING key",
                )?
                .query_row(
                    params![
                        self.driver(),
                        image.id.to_string(),
                        image.config_size,
                        image.manifest.to_string(),
                        image.platform.as_ref().map(Platform::to_string),
                        image.created,
                        image.size,
                        now,
                    ],
                    |r| r.get(0),
                )?;
            put_parts(tx, key, image)?;
            put_names(tx, self.driver(), key, &names, image)
        })
    }

    /// Refuses an image of which something is missing.
    pub(super) fn complete<'a>(
        &self,
        c: &Connection,
        layers: impl Iterator<Item = &'a str>,
        documents: [&Digest; 2],
    ) -> Tx<()> {
        for layer in layers {
            if layers::trusted(c, self.driver(), layer, self.boot())?.is_none() {
                return Err(gone(format!("layer {layer}")).into());
            }
        }
        for document in documents {
            if content::trusted(c, document, self.boot())?.is_none() {
                return Err(gone(format!("blob {document}")).into());
            }
        }
        Ok(())
    }

    fn marked(&self, c: &Connection, image: &NewImage) -> Tx<bool> {
        let layer = "SELECT 1 FROM layers WHERE driver = ?1 AND id = ?2 AND boot IS NOT NULL";
        for l in &image.layers {
            let found = c.query_row(layer, params![self.driver(), l.layer], |_| Ok(()));
            if found.optional()?.is_some() {
                return Ok(true);
            }
        }
        let blob = "SELECT count(*) FROM blobs WHERE digest IN (?1, ?2) AND boot IS NOT NULL";
        let documents = params![image.id.to_string(), image.manifest.to_string()];
        Ok(c.query_row(blob, documents, |r| r.get::<_, u64>(0))? > 0)
    }

    /// All images that are whole, the newest first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn images(&self) -> Result<Vec<Image>> {
        self.0.db.read(|c| {
            let suspect = self.suspect_images(c)?;
            let mut images = load(c, self.driver(), None)?;
            images.retain(|i| !i.broken && !suspect.contains(&i.key));
            images.sort_by_key(|i| std::cmp::Reverse((i.created, i.stored, i.id)));
            Ok(images)
        })
    }

    /// Images with something that bears the mark of an earlier boot or of a failed flush.
    fn suspect_images(&self, c: &Connection) -> Tx<HashSet<i64>> {
        let any = "SELECT EXISTS (SELECT 1 FROM layers WHERE boot IS NOT NULL AND boot <> ?1)
                       OR EXISTS (SELECT 1 FROM blobs WHERE boot IS NOT NULL AND boot <> ?1)";
        if !c.query_row(any, [self.boot()], |r| r.get(0))? {
            return Ok(HashSet::new());
        }
        let mut select = c.prepare(
            "SELECT il.image FROM layers l JOIN image_layers il ON il.layer = l.id
               WHERE l.driver = ?2 AND l.boot IS NOT NULL AND l.boot <> ?1
             UNION SELECT i.key FROM blobs b JOIN images i ON i.digest = b.digest
               WHERE b.boot IS NOT NULL AND b.boot <> ?1
             UNION SELECT m.image FROM blobs b JOIN manifests m ON m.digest = b.digest
               WHERE b.boot IS NOT NULL AND b.boot <> ?1",
        )?;
        let keys = select.query_map(params![self.boot(), self.driver()], |r| r.get(0))?;
        Ok(keys.collect::<rusqlite::Result<_>>()?)
    }

    /// The image of that id, if it is whole.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn image(&self, id: &Digest) -> Result<Option<Image>> {
        self.one(
            "SELECT key FROM images WHERE driver = ?1 AND digest = ?2",
            id,
        )
    }

    /// An image that came by that manifest, if it is whole: what a pull looks for first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn image_by_manifest(&self, manifest: &Digest) -> Result<Option<Image>> {
        let select = "SELECT i.key FROM manifests m JOIN images i ON i.key = m.image
                      WHERE i.driver = ?1 AND m.digest = ?2";
        let mut image = self.one(select, manifest)?;
        if let Some(image) = &mut image {
            image.manifest = *manifest;
        }
        Ok(image)
    }

    fn one(&self, select: &str, by: &Digest) -> Result<Option<Image>> {
        self.0.db.read(|c| {
            let key = c.query_row(select, params![self.driver(), by.to_string()], |r| r.get(0));
            let Some(key) = key.optional()? else {
                return Ok(None);
            };
            let suspect = self.suspect_images(c)?;
            let image = load(c, self.driver(), Some(key))?.pop();
            Ok(image.filter(|i| !i.broken && !suspect.contains(&i.key)))
        })
    }

    pub(super) fn is_suspect(&self, c: &Connection, image: &Image) -> Tx<bool> {
        Ok(self.suspect_images(c)?.contains(&image.key))
    }

    /// An image's layers, lowest first, with the blobs of `image.manifest`.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn image_layers(&self, image: &Image) -> Result<Vec<ImageLayer>> {
        self.0.db.read(|c| layers_of(c, image.key, &image.manifest))
    }

    /// Media type and size of `image.manifest`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the image is gone.
    pub fn manifest_of(&self, image: &Image) -> Result<(String, u64)> {
        self.0.db.read(|c| {
            let select = "SELECT media_type, size FROM manifests WHERE image = ?1 AND digest = ?2";
            let key = params![image.key, image.manifest.to_string()];
            let found = c.query_row(select, key, |r| Ok((r.get(0)?, r.get(1)?)));
            found.optional()?.ok_or_else(|| {
                let m = format!("image {} was removed meanwhile", image.id);
                Error::new(Kind::NotFound, m)
                    .with_hint("pull it again")
                    .into()
            })
        })
    }
}

/// The layers of an image, lowest first, with the blobs that a manifest has for them.
pub(super) fn layers_of(c: &Connection, key: i64, manifest: &Digest) -> Tx<Vec<ImageLayer>> {
    let mut select = c.prepare_cached(
        "SELECT l.layer, l.diff_id, m.blob, m.size, m.media_type
         FROM image_layers l JOIN manifest_layers m
           ON m.image = l.image AND m.manifest = ?2 AND m.position = l.position
         WHERE l.image = ?1 ORDER BY l.position",
    )?;
    let rows = select.query_map(params![key, manifest.to_string()], |r| {
        Ok(ImageLayer {
            layer: r.get(0)?,
            diff_id: digest(r, 1)?,
            blob: digest(r, 2)?,
            blob_size: r.get(3)?,
            media_type: r.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn put_parts(tx: &Connection, key: i64, image: &NewImage) -> Tx<()> {
    tx.execute("DELETE FROM image_layers WHERE image = ?1", [key])?;
    let manifest = image.manifest.to_string();
    tx.execute(
        "INSERT OR REPLACE INTO manifests (image, digest, media_type, size) VALUES (?1, ?2, ?3, ?4)",
        params![key, manifest, image.manifest_type, image.manifest_size],
    )?;
    let mut layer = tx.prepare_cached(
        "INSERT INTO image_layers (image, position, layer, diff_id) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let mut blob = tx.prepare_cached(
        "INSERT OR REPLACE INTO manifest_layers (image, manifest, position, blob, size, media_type)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for (at, l) in (0_i64..).zip(&image.layers) {
        layer.execute(params![key, at, l.layer, l.diff_id.to_string()])?;
        let size = l.blob_size;
        blob.execute(params![
            key,
            manifest,
            at,
            l.blob.to_string(),
            size,
            l.media_type
        ])?;
    }
    Ok(())
}

fn put_names(
    tx: &Connection,
    driver: &str,
    key: i64,
    names: &[String],
    image: &NewImage,
) -> Tx<()> {
    for name in names {
        put_name(tx, driver, name, key, &image.manifest)?;
    }
    for (repo, digest) in &image.repo_digests {
        origins::list(tx, key, repo, digest)?;
    }
    Ok(())
}

/// Calls an image so; it was another's name before, maybe.
pub(super) fn put_name(
    tx: &Connection,
    driver: &str,
    name: &str,
    key: i64,
    manifest: &Digest,
) -> Tx<()> {
    let select = "SELECT digest FROM images WHERE key = ?1";
    let image: String = tx.query_row(select, [key], |r| r.get(0))?;
    let manifest = manifest.to_string();
    tx.execute(
        "INSERT INTO names (driver, name, image, manifest, sum) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET image = ?3, manifest = ?4, sum = ?5",
        params![
            driver,
            name,
            key,
            manifest,
            name_sum(name, &manifest, &image)
        ],
    )?;
    Ok(())
}

/// Checksum of a name's record.
pub(super) fn name_sum(name: &str, manifest: &str, image: &str) -> i64 {
    let text = format!("{name} {manifest} {image}");
    let sum = Digest::of(Algorithm::Sha256, text.as_bytes());
    sum.value()
        .iter()
        .take(8)
        .fold(0, |sum, byte| sum << 8 | i64::from(*byte))
}

/// All images of a driver or one, broken ones too, in the order of their keys.
pub(super) fn load(c: &Connection, driver: &str, only: Option<i64>) -> Tx<Vec<Image>> {
    let which = |key: &str| match only {
        Some(n) => format!("driver = ?1 AND {key} = {n}"),
        None => "driver = ?1".to_owned(),
    };
    let mut select = c.prepare(&format!(
        "SELECT key, digest, config_size, manifest, platform, created, stored, size, broken
         FROM images WHERE {} ORDER BY key",
        which("key")
    ))?;
    let rows = select.query_map([driver], |r| {
        let platform = r.get_ref(4)?.as_str_or_null()?;
        Ok(Image {
            key: r.get(0)?,
            id: digest(r, 1)?,
            config_size: r.get(2)?,
            manifest: digest(r, 3)?,
            platform: platform.and_then(|p| p.parse().ok()),
            created: r.get(5)?,
            stored: r.get(6)?,
            size: r.get(7)?,
            names: Vec::new(),
            repo_digests: Vec::new(),
            broken: r.get(8)?,
        })
    })?;
    let mut images = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let at: HashMap<i64, usize> = images
        .iter()
        .enumerate()
        .map(|(at, i)| (i.key, at))
        .collect();
    let mut select = c.prepare(&format!(
        "SELECT image, name FROM names WHERE {} ORDER BY name",
        which("image")
    ))?;
    let mut rows = select.query([driver])?;
    while let Some(row) = rows.next()? {
        if let Some(&at) = at.get(&row.get(0)?) {
            images[at].names.push(row.get(1)?);
        }
    }
    let mut select = c.prepare(&format!(
        "SELECT image, repo, digest FROM repo_digests WHERE {} ORDER BY repo, digest",
        which("image")
    ))?;
    let mut rows = select.query([driver])?;
    while let Some(row) = rows.next()? {
        if let Some(&at) = at.get(&row.get(0)?) {
            images[at].repo_digests.push((row.get(1)?, digest(row, 2)?));
        }
    }
    Ok(images)
}
