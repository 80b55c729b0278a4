//! A new database from the objects that are there, for when the old one is lost.
//!
//! Blobs are verified by their digests; those that are manifests give images, where their config
//! and all their layers are there and hold. Names are in the database alone: what can still be
//! read of the old one is taken over, an image whose name is lost is dangling and can be tagged.
//! Containers and networks come from the files that follow their records.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;
use unlade_graph::driver::{Driver, LayerKey, NodeId};
use unlade_unpack::{Algorithm, Cancel, Digest};

use super::{
    Lease, NewLayer, Store, StoreOptions,
    content::{Verdict, parallel},
    db::{Commit, Db},
    home::{self, host},
    images::{ImageLayer, NewImage},
    origins,
    remove::chain_id,
};
use crate::{
    error::{Error, Kind, Result},
    image::{Config, Document, Manifest, config, manifest},
};

/// What a database was built from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Images that are whole.
    pub images: u64,
    /// Names that could still be read.
    pub names: u64,
    /// Containers whose files were there.
    pub containers: u64,
    /// Networks whose files were there.
    pub networks: u64,
    /// Where the old database is now, if there was one.
    pub old: Option<PathBuf>,
}

/// What can still be read of an old database.
#[derive(Debug, Default)]
struct Old {
    /// Name and manifest.
    names: Vec<(String, Digest)>,
    /// Repository, digest and the image's id.
    repo_digests: Vec<(String, Digest, Digest)>,
    /// The same, of origins.
    origins: Vec<(String, Digest, Digest)>,
    /// Uncompressed sizes of layers by their diffIDs.
    tar_bytes: HashMap<Digest, u64>,
}

/// The files of a database.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];
const MEDIA_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

impl Store {
    /// Puts the old database aside and builds a new one. No other process may use the store.
    ///
    /// # Errors
    /// If the host refuses, or `cancel` was set; the old database is still there under the name
    /// that it was given.
    pub fn rebuild(
        options: &StoreOptions,
        driver: &dyn Driver,
        cancel: &Cancel,
    ) -> Result<(Self, Rebuilt)> {
        let home = home::Home::new(&options.root);
        home.prepare()?;
        if home.is_newer() {
            return Self::open(options).map(|store| (store, Rebuilt::default()));
        }
        let _lock = home.flush_lock()?;
        let mut rebuilt = Rebuilt::default();
        let new = home.with_db("unlade.db.new");
        {
            let _lock = home.lock(true)?;
            rebuilt.old = put_aside(home.db())?;
            for suffix in SUFFIXES {
                let left = with_suffix(new.db(), suffix);
                if left.exists() {
                    fs::remove_file(&left).map_err(host("remove", &left))?;
                }
            }
            super::schema::create(new.db())?;
        }
        let old = rebuilt
            .old
            .as_deref()
            .map(|path| salvage(path, &options.driver));
        let old = old.unwrap_or_default();
        let root = fs::File::open(home.root()).map_err(host("open", home.root()))?;
        let store = Self::assemble(options, new.clone(), Db::open(new.db())?, root)?;
        // Without the strays being swept: they are what it is to be built from.
        store.mark_recovered()?;
        let lease = store.lease("rebuild")?;
        let blobs = store.take_blobs(&lease, cancel)?;
        for (digest, size) in blobs
            .iter()
            .filter(|(_, size)| *size <= manifest::MAX_BYTES)
        {
            let bytes = store.document(digest, manifest::MAX_BYTES)?;
            let parsed = MEDIA_TYPES.iter().find_map(|media_type| {
                match Document::parse(media_type, &bytes) {
                    Ok(Document::Manifest(manifest)) => Some((*media_type, manifest)),
                    _ => None,
                }
            });
            let Some((media_type, manifest)) = parsed else {
                continue;
            };
            let document = (*digest, media_type, *size);
            if let Some(image) = store.take_image(&lease, driver, document, &manifest, &old)? {
                rebuilt.names += image.names.len() as u64;
                rebuilt.images += 1;
                store.add_image(&lease, &image)?;
                store.put_origins(&image.id, &old)?;
            }
        }
        drop(lease);
        let taken = store.take_copies()?;
        (rebuilt.containers, rebuilt.networks) = (taken.containers, taken.networks);
        let inner = Arc::into_inner(store.0);
        let inner = inner.ok_or_else(|| Error::new(Kind::Bug, "the new database is in use"))?;
        inner.db.settle()?;
        // Until here there is no database, and everybody is told so.
        for suffix in &SUFFIXES[1..] {
            let _ = fs::remove_file(with_suffix(new.db(), suffix));
        }
        let renamed = fs::rename(new.db(), home.db());
        renamed.map_err(host("put in place", new.db()))?;
        Ok((Self::open(options)?, rebuilt))
    }

    /// Where the image came from, of what the old database knew.
    fn put_origins(&self, id: &Digest, old: &Old) -> Result<()> {
        let Some(image) = self.image(id)? else {
            return Ok(());
        };
        self.0.db.write(Commit::Lazy, |tx| {
            for (repo, digest, of) in &old.origins {
                if of == id {
                    origins::put(tx, image.key, repo, digest)?;
                }
            }
            Ok(())
        })
    }

    /// Records the blobs that hold; the others are discarded.
    fn take_blobs(&self, lease: &Lease, cancel: &Cancel) -> Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.0.home.blobs(algorithm);
            for entry in fs::read_dir(&dir).map_err(host("list", &dir))? {
                let name = entry.map_err(host("list", &dir))?.file_name();
                let text = name.to_str().map(|n| format!("{}:{n}", algorithm.name()));
                found.extend(text.and_then(|t| t.parse::<Digest>().ok()));
            }
        }
        let verdicts = parallel(&found, cancel, |blob| self.verify_blob(blob, cancel))?;
        let mut blobs = Vec::new();
        for (blob, verdict) in found.iter().zip(verdicts) {
            let path = self.0.home.blob(blob);
            if verdict == Verdict::Good {
                let size = fs::metadata(&path).map_err(host("look at", &path))?.len();
                self.record_blob(lease.id, blob, size)?;
                blobs.push((*blob, size));
            } else {
                self.discard(&path)?;
            }
        }
        Ok(blobs)
    }

    /// The image of a manifest, if all of it is there and holds. Its layers are recorded.
    fn take_image(
        &self,
        lease: &Lease,
        driver: &dyn Driver,
        (digest, media_type, size): (Digest, &str, u64),
        manifest: &Manifest,
        old: &Old,
    ) -> Result<Option<NewImage>> {
        let id = manifest.config.digest;
        let Ok(bytes) = self.document(&id, config::MAX_BYTES) else {
            return Ok(None);
        };
        let Ok(config) = Config::parse(&bytes) else {
            return Ok(None);
        };
        if config.diff_ids.len() != manifest.layers.len() {
            return Ok(None);
        }
        let (mut layers, mut total, mut chain) = (Vec::new(), 0, None);
        for (diff_id, blob) in config.diff_ids.iter().zip(&manifest.layers) {
            let chained = chain_id(chain.as_ref(), diff_id);
            chain = Some(chained);
            let key = LayerKey {
                diff_id: *diff_id,
                chain_id: chained,
            };
            let tar_bytes = old.tar_bytes.get(diff_id).copied();
            let blob_at = (blob.digest, blob.size);
            let Some((layer, bytes)) = self.take_layer(lease, driver, &key, tar_bytes, blob_at)?
            else {
                return Ok(None);
            };
            total += bytes;
            layers.push(ImageLayer {
                layer,
                diff_id: *diff_id,
                blob: blob.digest,
                blob_size: blob.size,
                media_type: blob.media_type.clone(),
            });
        }
        let names = old
            .names
            .iter()
            .filter(|(_, m)| *m == digest)
            .map(|(n, _)| n.clone());
        let repos = old.repo_digests.iter().filter(|(.., image)| *image == id);
        Ok(Some(NewImage {
            id,
            config_size: bytes.len() as u64,
            manifest: digest,
            manifest_type: media_type.to_owned(),
            manifest_size: size,
            platform: config.platform,
            created: created(&bytes),
            size: total,
            layers,
            names: names.collect(),
            repo_digests: repos
                .map(|(repo, digest, _)| (repo.clone(), *digest))
                .collect(),
        }))
    }

    fn take_layer(
        &self,
        lease: &Lease,
        driver: &dyn Driver,
        key: &LayerKey,
        tar_bytes: Option<u64>,
        blob: (Digest, u64),
    ) -> Result<Option<(String, u64)>> {
        for id in driver.candidates(key) {
            if let Some(row) = self.find_layer(lease, &[id.to_string()])? {
                return Ok(Some((row.id, row.tar_bytes)));
            }
            let node = NodeId::Layer(id.clone());
            if !driver.list()?.contains(&node) || !driver.verify(&id)?.is_empty() {
                continue;
            }
            let _guard = self.commit_guard(lease)?;
            let usage = driver.usage(&node)?;
            let tar_bytes = tar_bytes.unwrap_or(usage.bytes);
            let layer = NewLayer {
                id: id.to_string(),
                diff_id: key.diff_id,
                chain_id: Some(key.chain_id),
                bytes: usage.bytes,
                inodes: usage.inodes,
                tar_bytes,
                blob: Some(blob),
            };
            self.add_layer(lease, &layer)?;
            return Ok(Some((layer.id, tar_bytes)));
        }
        Ok(None)
    }
}

/// When a config says that the image was made.
fn created(config: &[u8]) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct Created {
        created: Option<String>,
    }
    let config: Created = serde_json::from_slice(config).ok()?;
    let at: jiff::Timestamp = config.created?.parse().ok()?;
    Some(at.as_second())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    text.into()
}

/// Renames a database; one that was put aside before if there is none.
fn put_aside(db: &Path) -> Result<Option<PathBuf>> {
    let name = |n: usize| with_suffix(db, &format!(".damaged-{n}"));
    let taken = (1..).take_while(|n| name(*n).exists()).last();
    if !db.exists() {
        return Ok(taken.map(name));
    }
    let aside = name(taken.unwrap_or(0) + 1);
    for suffix in SUFFIXES {
        let (from, to) = (with_suffix(db, suffix), with_suffix(&aside, suffix));
        match fs::rename(&from, &to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(host("put aside", &from)(e));
            }
            _ => {}
        }
    }
    Ok(Some(aside))
}

/// Reads what can be read. Damage ends a table, not the rest.
fn salvage(path: &Path, driver: &str) -> Old {
    let mut old = Old::default();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(c) = Connection::open_with_flags(path, flags) else {
        return old;
    };
    let parse = |text: String| text.parse::<Digest>().ok();
    each(
        &c,
        "SELECT name, manifest FROM names WHERE driver = ?1",
        driver,
        |r| {
            let (name, manifest): (String, String) = (r.get(0)?, r.get(1)?);
            old.names.extend(parse(manifest).map(|m| (name, m)));
            Ok(())
        },
    );
    for (table, found) in [
        ("repo_digests", &mut old.repo_digests),
        ("origins", &mut old.origins),
    ] {
        let select = format!(
            "SELECT r.repo, r.digest, i.digest FROM {table} r
             JOIN images i ON i.key = r.image WHERE i.driver = ?1"
        );
        each(&c, &select, driver, |r| {
            let (digest, image) = (parse(r.get(1)?), parse(r.get(2)?));
            if let Some((digest, image)) = digest.zip(image) {
                found.push((r.get(0)?, digest, image));
            }
            Ok(())
        });
    }
    each(
        &c,
        "SELECT diff_id, tar_bytes FROM layers WHERE driver = ?1",
        driver,
        |r| {
            if let Some(diff_id) = parse(r.get(0)?) {
                old.tar_bytes.insert(diff_id, r.get(1)?);
            }
            Ok(())
        },
    );
    old
}

fn each(
    c: &Connection,
    select: &str,
    driver: &str,
    mut f: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) {
    let mut read = || -> rusqlite::Result<()> {
        let mut select = c.prepare(select)?;
        let mut rows = select.query(params![driver])?;
        while let Some(row) = rows.next()? {
            if let Err(e) = f(row) {
                tracing::debug!(error = %e, "a row of the old database is lost");
            }
        }
        Ok(())
    };
    if let Err(e) = read() {
        tracing::warn!(error = %e, "a part of the old database cannot be read");
    }
}
