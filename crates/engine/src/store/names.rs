//! What a user calls an image, and which one is meant: Docker's rules.

use rusqlite::{Connection, OptionalExtension, params};
use unlade_unpack::Digest;

use super::{
    Store,
    db::{Commit, Tx, digest},
    images::{self, Image},
};
use crate::{
    error::{Error, Kind, Result},
    image::{Reference, json::show},
};

/// By what an image was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum By {
    /// Its id, or the beginning of it.
    Id,
    /// A name in full.
    Name(String),
    /// A repository and a digest in it.
    Digest(String, Digest),
}

fn not_found(text: &str) -> Error {
    let m = format!("no such image: {}", show(text));
    Error::new(Kind::NotFound, m).with_hint("`unlade images` lists those that there are")
}

/// The hex digits that `text` may be the beginning of an id by.
fn id_prefix(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let good = !hex.is_empty()
        && hex.len() <= 64
        && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    good.then_some(hex)
}

/// The image that `text` stands for, broken or not. A whole id wins over names, and names win
/// over the beginnings of ids.
pub(super) fn find(c: &Connection, driver: &str, text: &str) -> Tx<(Image, By)> {
    let prefix = id_prefix(text);
    let by_prefix = |hex: &str| -> Tx<Option<i64>> {
        let (from, to) = (format!("sha256:{hex}"), format!("sha256:{hex}g"));
        let mut select = c.prepare_cached(
            "SELECT key FROM images WHERE driver = ?1 AND digest >= ?2 AND digest < ?3 LIMIT 2",
        )?;
        let keys = select.query_map(params![driver, from, to], |r| r.get(0))?;
        let keys = keys.collect::<rusqlite::Result<Vec<i64>>>()?;
        if keys.len() > 1 {
            let m = format!("several images have ids that begin with `{hex}`");
            return Err(Error::new(Kind::Conflict, m)
                .with_hint("give more digits")
                .into());
        }
        Ok(keys.first().copied())
    };
    let image = |key| -> Tx<Image> {
        images::load(c, driver, Some(key))?
            .pop()
            .ok_or_else(|| not_found(text).into())
    };
    if let Some(hex) = prefix.filter(|h| h.len() == 64) {
        let key = by_prefix(hex)?.ok_or_else(|| not_found(text))?;
        return Ok((image(key)?, By::Id));
    }
    let parsed = Reference::parse(text);
    if let Ok(name) = &parsed {
        if let Some(wanted) = name.digest() {
            let key = c.query_row(
                "SELECT image FROM repo_digests WHERE driver = ?1 AND repo = ?2 AND digest = ?3",
                params![driver, name.repository(), wanted.to_string()],
                |r| r.get(0),
            );
            let key = key.optional()?.ok_or_else(|| not_found(text))?;
            let mut image = image(key)?;
            let known = c.query_row(
                "SELECT 1 FROM manifests WHERE image = ?1 AND digest = ?2",
                params![key, wanted.to_string()],
                |_| Ok(()),
            );
            if known.optional()?.is_some() {
                image.manifest = *wanted;
            }
            return Ok((image, By::Digest(name.repository(), *wanted)));
        }
        let full = name.clone().with_default_tag().canonical();
        let found = c.query_row(
            "SELECT image, manifest FROM names WHERE driver = ?1 AND name = ?2",
            params![driver, full],
            |r| Ok((r.get(0)?, digest(r, 1)?)),
        );
        if let Some((key, manifest)) = found.optional()? {
            let mut image = image(key)?;
            image.manifest = manifest;
            return Ok((image, By::Name(full)));
        }
    }
    if let Some(hex) = prefix
        && let Some(key) = by_prefix(hex)?
    {
        return Ok((image(key)?, By::Id));
    }
    match parsed {
        Ok(_) => Err(not_found(text).into()),
        Err(_) if prefix.is_some() => Err(not_found(text).into()),
        Err(e) => Err(e.into()),
    }
}

impl Store {
    /// The image that `text` stands for: `name`, `name:tag`, `name@digest`, `name:tag@digest`
    /// (the digest decides), an id with or without `sha256:`, or the beginning of one.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Conflict`] for the beginning of several ids, [`Kind::BadInput`]
    /// for what is no reference, [`Kind::Integrity`] for an image that has lost something.
    pub fn resolve(&self, text: &str) -> Result<Image> {
        self.0.db.read(|c| {
            let (image, _) = find(c, self.driver(), text)?;
            if image.broken || self.is_suspect(c, &image)? {
                let m = format!("image {} has lost a part of it", show(text));
                let e = Error::new(Kind::Integrity, m);
                let hint = "pull it again, or repair all images: `unlade system check --repair`";
                return Err(e.with_hint(hint).into());
            }
            Ok(image)
        })
    }

    /// Gives the image that `source` stands for a further name. An image that was called so
    /// before loses the name.
    ///
    /// # Errors
    /// As [`Store::resolve`]; [`Kind::BadInput`] for a target with a digest.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        let name = images::full_name(&target.canonical())?;
        let image = self.resolve(source)?;
        self.0.db.write(Commit::Durable, |tx| {
            let select = "SELECT key FROM images WHERE driver = ?1 AND digest = ?2 AND NOT broken";
            let by = params![self.driver(), image.id.to_string()];
            let key = tx.query_row(select, by, |r| r.get(0)).optional()?;
            let key = key.ok_or_else(|| not_found(source))?;
            images::put_name(tx, self.driver(), &name, key, &image.manifest)
        })
    }
}
