//! Removing images by Docker's rules. Only records go; [`Store::gc`] frees what nobody needs then.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use unlade_unpack::{Algorithm, Digest};

use super::{
    Store, containers,
    db::{Commit, Tx, digest},
    images::{self, Image},
    names::{self, By},
};
use crate::error::{Error, Kind, Result};

/// How an image is to be removed.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct RemoveOptions<'a> {
    /// Also by id while it has several names, and while it is in use.
    pub force: bool,
    /// Its layers stay for other images to come: they are not named as deleted, and the caller
    /// leaves [`Store::gc`] for later.
    pub no_prune: bool,
    /// A container of the image that runs. While there is one, the image is not removed, with
    /// force neither: with its last name it stays without one.
    pub running: Option<&'a str>,
}

/// What a removal has done, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Removed {
    /// A name in full (`docker.io/library/alpine:3.20`, `docker.io/library/alpine@sha256:…`).
    Untagged(String),
    /// An image by its id, or a layer by its chainID.
    Deleted(#[serde(serialize_with = "as_text")] Digest),
}

fn as_text<S: serde::Serializer>(digest: &Digest, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_str(digest)
}

/// Which images [`Store::prune_images`] removes.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Prune {
    /// All that are not in use, not only those without a name.
    pub all: bool,
}

fn short(hex: &str) -> String {
    hex.get(..12).unwrap_or(hex).to_owned()
}

/// Docker's words, for a container that runs.
fn runs(image: &Image, container: &str) -> Error {
    let m = format!(
        "conflict: unable to delete {} (cannot be forced) - image is being used by running \
         container {}",
        short(&image.id.hex()),
        short(container)
    );
    Error::new(Kind::Conflict, m).with_hint("stop that first")
}

/// Docker's words, for the containers that keep an image.
fn in_use(text: &str, image: &Image, owner: &str) -> Error {
    let (full, id) = (image.id.to_string(), short(&image.id.hex()));
    match containers::pinned_by(owner) {
        Some(container) if image.id.hex().starts_with(text) || full.starts_with(text) => {
            let m = format!(
                "conflict: unable to delete {id} (must be forced) - image is being used by \
                 container {}",
                short(container)
            );
            Error::new(Kind::Conflict, m)
        }
        Some(container) => {
            let m = format!(
                "conflict: unable to remove repository reference \"{text}\" (must force) - \
                 container {} is using its referenced image {id}",
                short(container)
            );
            Error::new(Kind::Conflict, m)
        }
        None => Error::new(Kind::Conflict, format!("image {text} is in use by {owner}")),
    }
    .with_hint(
        "remove that first; with --force the image is no longer listed, and what uses it keeps its \
         layers",
    )
}

/// The repository of a name in full.
fn repository(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(repo, _)| repo)
}

impl Store {
    /// Takes away the name or, with its last name or by id, the image.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Conflict`] if it is in use, or named in several repositories
    /// and given by id, and not forced; if a container of it runs and it is given by id.
    pub fn remove_image(&self, text: &str, options: RemoveOptions<'_>) -> Result<Vec<Removed>> {
        self.0.db.write(Commit::Freeing, |tx| {
            let (image, by) = names::find(tx, self.driver(), text)?;
            let mut removed = Vec::new();
            let refs = image.names.len() + image.repo_digests.len();
            let left = match &by {
                By::Name(name) => {
                    let more = self.also_untagged(&image, name);
                    if refs == 1 + more.len() {
                        self.not_in_use(tx, &image, text, options.force)?;
                    }
                    self.untag(tx, name, &mut removed)?;
                    for (repo, digest) in &more {
                        self.untag_digest(tx, repo, digest, &mut removed)?;
                    }
                    refs - 1 - more.len()
                }
                By::Digest(repo, digest) => {
                    if refs == 1 {
                        self.not_in_use(tx, &image, text, options.force)?;
                    }
                    self.untag_digest(tx, repo, digest, &mut removed)?;
                    refs - 1
                }
                By::Id => {
                    if let Some(container) = options.running {
                        return Err(runs(&image, container).into());
                    }
                    self.not_in_use(tx, &image, text, options.force)?;
                    if !options.force && !one_reference(&image) {
                        let m = format!("image {text} is named in several repositories");
                        let hint = "remove its names one by one, or all of them with --force";
                        return Err(Error::new(Kind::Conflict, m).with_hint(hint).into());
                    }
                    self.untag_all(tx, &image, &mut removed)?;
                    0
                }
            };
            if left == 0 && options.running.is_none() {
                self.delete(tx, &image, options.no_prune, &mut removed)?;
            }
            Ok(removed)
        })
    }

    /// Removes images that are not in use and that `wanted` agrees to. One that a running
    /// operation has looked up counts as in use.
    ///
    /// # Errors
    /// If the database cannot be written.
    pub fn prune_images(
        &self,
        prune: Prune,
        wanted: &dyn Fn(&Image) -> bool,
    ) -> Result<Vec<Removed>> {
        self.0.db.write(Commit::Freeing, |tx| {
            self.drop_dead_leases(tx)?;
            let used = self.in_use(tx)?;
            let mut removed = Vec::new();
            for image in images::load(tx, self.driver(), None)? {
                let named = !image.names.is_empty();
                if used.contains(&image.id) || (named && !prune.all) || !wanted(&image) {
                    continue;
                }
                self.untag_all(tx, &image, &mut removed)?;
                self.delete(tx, &image, false, &mut removed)?;
            }
            Ok(removed)
        })
    }

    /// Images that are pinned, or held by a running operation.
    pub(super) fn in_use(&self, c: &Connection) -> Tx<HashSet<Digest>> {
        let mut select = c.prepare(
            "SELECT image FROM pins WHERE driver = ?1
             UNION SELECT i.digest FROM held h JOIN images i
               ON i.driver = h.driver AND i.digest = h.object WHERE h.driver = ?1",
        )?;
        let used = select.query_map([self.driver()], |r| digest(r, 0))?;
        Ok(used.collect::<rusqlite::Result<_>>()?)
    }

    fn not_in_use(&self, c: &Connection, image: &Image, text: &str, force: bool) -> Tx<()> {
        if force {
            return Ok(());
        }
        let select = "SELECT owner FROM pins WHERE driver = ?1 AND image = ?2 LIMIT 1";
        let owner: Option<String> = c
            .query_row(select, params![self.driver(), image.id.to_string()], |r| {
                r.get(0)
            })
            .optional()?;
        match owner {
            None => Ok(()),
            Some(owner) => Err(in_use(text, image, &owner).into()),
        }
    }

    /// Digests that go with the last tag of their repository.
    fn also_untagged(&self, image: &Image, name: &str) -> Vec<(String, Digest)> {
        let repo = repository(name);
        if image
            .names
            .iter()
            .any(|n| n != name && repository(n) == repo)
        {
            return Vec::new();
        }
        image
            .repo_digests
            .iter()
            .filter(|(r, _)| r == repo)
            .cloned()
            .collect()
    }

    fn untag(&self, tx: &Connection, name: &str, removed: &mut Vec<Removed>) -> Tx<()> {
        let delete = "DELETE FROM names WHERE driver = ?1 AND name = ?2";
        tx.execute(delete, params![self.driver(), name])?;
        removed.push(Removed::Untagged(name.to_owned()));
        Ok(())
    }

    fn untag_digest(
        &self,
        tx: &Connection,
        repo: &str,
        digest: &Digest,
        removed: &mut Vec<Removed>,
    ) -> Tx<()> {
        let delete = "DELETE FROM repo_digests WHERE driver = ?1 AND repo = ?2 AND digest = ?3";
        tx.execute(delete, params![self.driver(), repo, digest.to_string()])?;
        removed.push(Removed::Untagged(format!("{repo}@{digest}")));
        Ok(())
    }

    fn untag_all(&self, tx: &Connection, image: &Image, removed: &mut Vec<Removed>) -> Tx<()> {
        for name in &image.names {
            self.untag(tx, name, removed)?;
        }
        for (repo, digest) in &image.repo_digests {
            self.untag_digest(tx, repo, digest, removed)?;
        }
        Ok(())
    }

    fn delete(
        &self,
        tx: &Connection,
        image: &Image,
        no_prune: bool,
        removed: &mut Vec<Removed>,
    ) -> Tx<()> {
        let layers = if no_prune {
            Vec::new()
        } else {
            self.own_layers(tx, image)?
        };
        tx.execute("DELETE FROM images WHERE key = ?1", [image.key])?;
        removed.push(Removed::Deleted(image.id));
        removed.extend(layers.into_iter().map(Removed::Deleted));
        Ok(())
    }

    /// The chainIDs of layers that nothing but this image needs, topmost first.
    fn own_layers(&self, c: &Connection, image: &Image) -> Tx<Vec<Digest>> {
        let mut select = c.prepare_cached(
            "SELECT l.diff_id,
               EXISTS (SELECT 1 FROM image_layers o JOIN images i ON i.key = o.image
                 WHERE o.layer = l.layer AND o.image <> l.image AND i.driver = ?2)
               OR EXISTS (SELECT 1 FROM pins p WHERE p.driver = ?2 AND p.layer = l.layer)
               OR EXISTS (SELECT 1 FROM held h WHERE h.driver = ?2 AND h.object = l.layer)
             FROM image_layers l WHERE l.image = ?1 ORDER BY l.position",
        )?;
        let rows = select.query_map(params![image.key, self.driver()], |r| {
            Ok((digest(r, 0)?, r.get::<_, bool>(1)?))
        })?;
        let mut chain: Option<Digest> = None;
        let mut own = Vec::new();
        for row in rows {
            let (diff_id, needed) = row?;
            let id = chain_id(chain.as_ref(), &diff_id);
            chain = Some(id);
            if !needed {
                own.push(id);
            }
        }
        own.reverse();
        Ok(own)
    }
}

/// The chainID of a layer upon one with the chainID `below`: OCI image-spec, config.md.
pub(super) fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    match below {
        None => *diff_id,
        Some(below) => Digest::of(Algorithm::Sha256, format!("{below} {diff_id}").as_bytes()),
    }
}

/// Whether an id says clearly enough what is meant: at most one tag, and one repository.
fn one_reference(image: &Image) -> bool {
    let tags = image.names.iter().map(|n| repository(n));
    let digests = image.repo_digests.iter().map(|(repo, _)| repo.as_str());
    let repos: HashSet<&str> = tags.chain(digests).collect();
    image.names.len() <= 1 && repos.len() <= 1
}
