//! Putting right what [`Store::check`] has found. What is lost is dropped, and the caller is told
//! what to fetch again; nothing here knows a registry.

use rusqlite::params;
use unlade_graph::driver::{Driver, LayerId, NodeId};
use unlade_unpack::{Cancel, Digest};

use super::{
    Store,
    check::{CheckReport, Object, Problem},
    content,
    db::Commit,
    durability::{forget_blob, forget_layer},
    images::{self, Image, ImageLayer},
    layers,
    leases::{self, Lease},
    origins,
};
use crate::error::Result;

/// An image of which something is lost, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenImage {
    /// The image.
    pub image: Image,
    /// Media type of its manifest.
    pub manifest_type: String,
    /// Size of its manifest in bytes.
    pub manifest_size: u64,
    /// Layers that are not there.
    pub layers: Vec<ImageLayer>,
    /// Of its config and manifest, what is not there, with its size.
    pub documents: Vec<(Digest, u64)>,
    /// Repositories and digests that it can be fetched by.
    pub origins: Vec<(String, Digest)>,
    /// Blobs of layers that were there and are lost: only [`Store::repair`] knows.
    pub blobs: Vec<(Digest, u64)>,
}

/// What [`Store::repair`] has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Objects that were dropped.
    pub dropped: u64,
    /// Objects without a record that were swept.
    pub swept: u64,
    /// Images whose layers were merged anew.
    pub remade: u64,
    /// What is to be fetched; [`Store::mend`] comes after it.
    pub images: Vec<BrokenImage>,
}

impl Store {
    /// Drops what is damaged, sweeps what is stray, verifies what is unverified.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn repair(
        &self,
        driver: &dyn Driver,
        report: &CheckReport,
        cancel: &Cancel,
    ) -> Result<Repaired> {
        self.same_driver(driver)?;
        self.recover(driver, cancel)?;
        let mut lost_blobs = Vec::new();
        let mut lost_layers = Vec::new();
        let mut merged = Vec::new();
        let bad = |p: Problem| matches!(p, Problem::Missing | Problem::Damaged);
        for finding in report.findings.iter().filter(|f| bad(f.problem)) {
            match &finding.object {
                Object::Blob(text) => lost_blobs.extend(text.parse::<Digest>().ok()),
                Object::Layer(text) => lost_layers.extend(LayerId::parse(text)),
                Object::Merged(text) => merged.extend(text.parse::<Digest>().ok()),
                _ => {}
            }
        }
        let lock = self.0.home.lock(true)?;
        self.0.db.write(Commit::Freeing, |tx| {
            for layer in &lost_layers {
                forget_layer(tx, self.driver(), layer.as_str())?;
            }
            for blob in &lost_blobs {
                forget_blob(tx, blob)?;
            }
            // Whatever else an image was found to lack.
            for finding in &report.findings {
                if let Object::Image(id) = &finding.object {
                    let update = "UPDATE images SET broken = 1 WHERE driver = ?1 AND digest = ?2";
                    tx.execute(update, params![self.driver(), id])?;
                }
            }
            for finding in &report.findings {
                if let Object::Name(name) = &finding.object {
                    let delete = "DELETE FROM names WHERE driver = ?1 AND name = ?2";
                    tx.execute(delete, params![self.driver(), name])?;
                }
            }
            self.drop_dead_leases(tx)?;
            Ok(())
        })?;
        for layer in &lost_layers {
            driver.remove(&NodeId::Layer(layer.clone()))?;
        }
        let swept = self.sweep_strays(driver)?.gone;
        drop(lock);
        self.empty_trash()?;
        driver.sweep()?;
        let mut remade = 0;
        for id in &merged {
            // Without it nothing is lost, so nothing is said of one that is gone.
            if let Some(image) = self.image(id)? {
                let layers = self.chain(&image)?;
                driver.discard_merged(&layers)?;
                driver.prepare(&layers)?;
                remade += 1;
            }
        }
        let mut images = Vec::new();
        for image in self.0.db.read(|c| images::load(c, self.driver(), None))? {
            let mut broken = self.describe(image)?;
            let blobs = self.image_layers(&broken.image)?.into_iter();
            let blobs = blobs.map(|l| (l.blob, l.blob_size));
            broken.blobs = blobs.filter(|(d, _)| lost_blobs.contains(d)).collect();
            if broken.image.broken || !broken.blobs.is_empty() {
                images.push(broken);
            }
        }
        let dropped = (lost_layers.len() + lost_blobs.len()) as u64;
        Ok(Repaired {
            dropped,
            remade,
            swept: swept.saturating_sub(lost_blobs.len() as u64),
            images,
        })
    }

    /// Images of which something is lost. They are not listed until they are whole again.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn broken_images(&self) -> Result<Vec<BrokenImage>> {
        let images = self.0.db.read(|c| images::load(c, self.driver(), None))?;
        images
            .into_iter()
            .filter(|i| i.broken)
            .map(|i| self.describe(i))
            .collect()
    }

    fn describe(&self, image: Image) -> Result<BrokenImage> {
        let (manifest_type, manifest_size) = self.manifest_of(&image)?;
        let recorded = self.image_layers(&image)?;
        self.0.db.read(|c| {
            let mut missing = Vec::new();
            for layer in recorded {
                if layers::trusted(c, self.driver(), &layer.layer, self.boot())?.is_none() {
                    missing.push(layer);
                }
            }
            let mut documents = Vec::new();
            for (digest, size) in [
                (image.id, image.config_size),
                (image.manifest, manifest_size),
            ] {
                if content::trusted(c, &digest, self.boot())?.is_none() {
                    documents.push((digest, size));
                }
            }
            let (origins, blobs) = (origins::of(c, &image)?, Vec::new());
            Ok(BrokenImage {
                image,
                manifest_type,
                manifest_size,
                layers: missing,
                documents,
                origins,
                blobs,
            })
        })
    }

    /// Lists an image again of which something was lost, after that was fetched.
    ///
    /// # Errors
    /// [`Kind::Conflict`](crate::error::Kind::Conflict) if something is still not there.
    pub fn mend(&self, lease: &Lease, image: &Image) -> Result<()> {
        let layers = self.image_layers(image)?;
        self.0.db.write(Commit::Durable, |tx| {
            leases::check(tx, lease.id)?;
            let names = layers.iter().map(|l| l.layer.as_str());
            self.complete(tx, names, [&image.id, &image.manifest])?;
            tx.execute("UPDATE images SET broken = 0 WHERE key = ?1", [image.key])?;
            Ok(())
        })
    }
}
