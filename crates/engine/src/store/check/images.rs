//! Images: against what they consist of, their documents, their names, and what the driver keeps
//! of their layers merged.

use rusqlite::Connection;
use unlade_graph::driver::{Driver, LayerId};
use unlade_unpack::{Cancel, Digest};

use super::{CheckReport, Object, Problem, Remedy};
use crate::{
    error::{Error, Kind, Result},
    image::{Config, Document, config, manifest},
    store::{
        Store,
        content::parallel,
        db::{self, Tx},
        images::{self, Image},
    },
};

impl Store {
    /// What the driver keeps of images' layers merged, against these layers. What goes away while
    /// it is looked at is nobody's damage.
    pub(super) fn merged(
        &self,
        driver: &dyn Driver,
        cancel: &Cancel,
        report: &mut CheckReport,
    ) -> Result<()> {
        let mut images = self.0.db.read(|c| images::load(c, self.driver(), None))?;
        images.retain(|i| !i.broken);
        let bad = |layer: &LayerId| {
            let object = Object::Layer(layer.to_string());
            report.findings.iter().any(|f| f.object == object)
        };
        let found = parallel(&images, cancel, |image| {
            let layers = self.chain(image)?;
            if layers.iter().any(bad) {
                return Ok(None);
            }
            match driver.verify_merged(&layers) {
                Ok(findings) => Ok(findings.into_iter().next().map(|f| f.what)),
                Err(e) if e.kind() == unlade_unpack::Kind::Cancelled => Err(Error::from(e)),
                Err(e) => Ok(Some(format!("they cannot be merged: {e}"))),
            }
        })?;
        for (image, wrong) in images.iter().zip(found) {
            if let Some(detail) = wrong
                && self.still(image)?
            {
                let object = Object::Merged(image.id.to_string());
                report.add(object, Problem::Damaged, Remedy::Remake, detail);
            }
        }
        Ok(())
    }

    /// The driver's names for an image's layers, lowest first.
    pub(in crate::store) fn chain(&self, image: &Image) -> Result<Vec<LayerId>> {
        let names = self.0.db.read(|c| layer_names(c, image.key))?;
        let id = |(name, _): (String, Digest)| {
            LayerId::parse(&name).ok_or_else(|| {
                let m = format!("`{name}` is not the name of a layer");
                Error::new(Kind::Integrity, m)
            })
        };
        names.into_iter().map(id).collect()
    }

    /// Whether an image is still recorded.
    fn still(&self, image: &Image) -> Result<bool> {
        let load = |c: &Connection| images::load(c, self.driver(), Some(image.key));
        Ok(!self.0.db.read(load)?.is_empty())
    }

    /// Images against what they consist of, and against their own documents.
    pub(super) fn whole_images(&self, report: &mut CheckReport) -> Result<()> {
        let images = self.0.db.read(|c| images::load(c, self.driver(), None))?;
        for image in images {
            report.images += 1;
            let complete = self.0.db.read(|c| {
                let layers = layer_names(c, image.key)?;
                let layers_there = layers.iter().map(|(name, _)| name.as_str());
                self.complete(c, layers_there, [&image.id, &image.manifest])?;
                Ok(layers)
            });
            let wrong = match complete {
                Ok(layers) => self.documents(&image, &layers, report)?,
                Err(e) if e.kind() == Kind::Conflict => Some(e.message().to_owned()),
                Err(e) => return Err(e),
            };
            let wrong = wrong.or_else(|| image.broken.then(|| "a part of it was lost".to_owned()));
            if let Some(detail) = wrong
                && self.still(&image)?
            {
                let object = Object::Image(image.id.to_string());
                report.add(object, Problem::Incomplete, Remedy::Fetch, detail);
            }
        }
        Ok(())
    }

    /// Names against their checksums: nothing but the database knows them.
    pub(super) fn names(&self, report: &mut CheckReport) -> Result<()> {
        let wrong = self.0.db.read(|c| {
            let mut select = c.prepare(
                "SELECT n.name, n.manifest, i.digest, n.sum FROM names n
                 JOIN images i ON i.key = n.image WHERE n.driver = ?1",
            )?;
            let mut rows = select.query([self.driver()])?;
            let mut wrong = Vec::new();
            while let Some(row) = rows.next()? {
                let name: String = row.get(0)?;
                let sum =
                    images::name_sum(&name, &row.get::<_, String>(1)?, &row.get::<_, String>(2)?);
                if sum != row.get::<_, i64>(3)? {
                    wrong.push(name);
                }
            }
            Ok(wrong)
        })?;
        for name in wrong {
            let detail = "its record is damaged: tag the image again";
            report.add(Object::Name(name), Problem::Damaged, Remedy::Sweep, detail);
        }
        Ok(())
    }

    /// What the config and the manifest say otherwise than the records.
    fn documents(
        &self,
        image: &Image,
        layers: &[(String, Digest)],
        report: &CheckReport,
    ) -> Result<Option<String>> {
        for document in [&image.id, &image.manifest] {
            let object = Object::Blob(document.to_string());
            if report.findings.iter().any(|f| f.object == object) {
                return Ok(Some(format!("blob {document} of it is damaged")));
            }
        }
        for (layer, _) in layers {
            let object = Object::Layer(layer.clone());
            if report.findings.iter().any(|f| f.object == object) {
                return Ok(Some(format!("layer {layer} of it is damaged")));
            }
        }
        let (media_type, _) = match self.manifest_of(image) {
            Ok(found) => found,
            Err(e) if e.kind() == Kind::NotFound => {
                return Ok(Some("its manifest is not recorded".to_owned()));
            }
            Err(e) => return Err(e),
        };
        let read = || -> Result<Option<String>> {
            let bytes = self.document(&image.id, config::MAX_BYTES)?;
            let config = Config::parse(&bytes)?;
            if !config
                .diff_ids
                .iter()
                .eq(layers.iter().map(|(_, diff_id)| diff_id))
            {
                return Ok(Some(
                    "its config has other layers than its record".to_owned(),
                ));
            }
            let bytes = self.document(&image.manifest, manifest::MAX_BYTES)?;
            let Document::Manifest(manifest) = Document::parse(&media_type, &bytes)? else {
                return Ok(Some("its manifest is an index".to_owned()));
            };
            let recorded = self.image_layers(image)?;
            let blobs = recorded.iter().map(|l| (l.blob, l.blob_size));
            let same = manifest.layers.iter().map(|d| (d.digest, d.size)).eq(blobs);
            if !same || manifest.config.digest != image.id {
                return Ok(Some(
                    "its manifest says otherwise than its record".to_owned(),
                ));
            }
            Ok(None)
        };
        match read() {
            Ok(wrong) => Ok(wrong),
            Err(e) if matches!(e.kind(), Kind::Host | Kind::Cancelled) => Err(e),
            Err(e) => Ok(Some(e.message().to_owned())),
        }
    }
}

fn layer_names(c: &Connection, key: i64) -> Tx<Vec<(String, Digest)>> {
    let select = "SELECT layer, diff_id FROM image_layers WHERE image = ?1 ORDER BY position";
    let mut select = c.prepare_cached(select)?;
    let rows = select.query_map([key], |r| Ok((r.get(0)?, db::digest(r, 1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
