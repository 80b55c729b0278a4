//! What is recorded of containers and networks, once more in files: of what the database alone
//! knows, it is what cannot be fetched again when that is lost.
//!
//! ```text
//! ROOT/containers/<id>/record.json
//! ROOT/networks/<id>.json
//! ```
//!
//! A file follows its record: it is written after it, and goes before anything else goes. Nothing
//! reads it but [`Store::rebuild`].

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rusqlite::params;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    NetworkRow, Stage, Store, VolumeUser,
    containers::{mount_owner, owner, pin_image},
    db::Commit,
    home::host,
};
use crate::error::{Error, Kind, Result};

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;
const RECORD: &str = "record.json";

/// A container, as far as it outlives its runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Container {
    driver: String,
    id: String,
    name: String,
    created: i64,
    image: String,
    request: String,
    facts: String,
    run: Option<String>,
    /// Volumes that it uses, and whether they are filled.
    volumes: Vec<(String, bool)>,
    /// Images that it has mounted.
    #[serde(default)]
    images: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Network {
    id: String,
    name: String,
    record: String,
}

/// How much was taken up from files.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) containers: u64,
    pub(super) networks: u64,
}

impl Store {
    fn container_copies(&self) -> PathBuf {
        self.root().join("containers")
    }

    fn network_copies(&self) -> PathBuf {
        self.root().join("networks")
    }

    fn network_copy(&self, id: &str) -> PathBuf {
        self.network_copies().join(format!("{id}.json"))
    }

    /// Writes what is recorded of a container to its file. That this fails stops nobody.
    pub fn copy_container(&self, id: &str) {
        let copied = (|| {
            let row = self.container(id)?;
            let used = self.read_volumes(|tx| tx.used_by(id))?;
            let prefix = format!("{}/", owner(id));
            let mounted = self.pins()?.into_iter();
            let mounted = mounted.filter(|(owner, _)| owner.starts_with(&prefix));
            let copy = Container {
                driver: self.driver().to_owned(),
                id: row.id,
                name: row.name,
                created: row.created,
                image: row.image.to_string(),
                request: row.request,
                facts: row.facts,
                run: row.run,
                volumes: used.into_iter().map(|u| (u.volume, u.filled)).collect(),
                images: mounted.map(|(_, image)| image.to_string()).collect(),
            };
            write(&self.container_copies().join(id), RECORD, &copy)
        })();
        if let Err(e) = copied {
            tracing::warn!(error = %e, id, "the record of a container was not copied");
        }
    }

    /// Writes what is recorded of a network to its file. That this fails stops nobody.
    pub fn copy_network(&self, row: &NetworkRow) {
        let copy = Network {
            id: row.id.clone(),
            name: row.name.clone(),
            record: row.record.clone(),
        };
        if let Err(e) = write(&self.network_copies(), &format!("{}.json", row.id), &copy) {
            tracing::warn!(error = %e, id = row.id, "the record of a network was not copied");
        }
    }

    /// Removes the file of a network that was removed.
    pub fn forget_network_copy(&self, id: &str) {
        let path = self.network_copy(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(error = %e, path = %path.display(), "a file was not removed");
            }
            _ => {}
        }
    }

    /// Records again what the files tell of, in a new database. A file that cannot be read, and
    /// one whose name another has by now, is passed over.
    pub(super) fn take_copies(&self) -> Result<Taken> {
        let mut taken = Taken::default();
        for path in names(&self.network_copies())? {
            let Some(copy) = read::<Network>(&path) else {
                continue;
            };
            let row = NetworkRow {
                id: copy.id,
                name: copy.name,
                record: copy.record,
            };
            if path != self.network_copy(&row.id) {
                continue;
            }
            match self.networks(true, |tx| tx.insert(&row)) {
                Ok(()) => taken.networks += 1,
                Err(e) if e.kind() == Kind::Conflict => {}
                Err(e) => return Err(e),
            }
        }
        for dir in names(&self.container_copies())? {
            let Some(copy) = read::<Container>(&dir.join(RECORD)) else {
                continue;
            };
            if dir == self.container_copies().join(&copy.id) && self.take_container(&copy)? {
                taken.containers += 1;
            }
        }
        Ok(taken)
    }

    /// Also one whose image is lost: what it has written can be copied out, and it can be removed.
    fn take_container(&self, copy: &Container) -> Result<bool> {
        let Ok(image) = copy.image.parse() else {
            return Ok(false);
        };
        self.0.db.write(Commit::Durable, |tx| {
            let mut insert = tx.prepare_cached(
                "INSERT OR IGNORE INTO containers (id, driver, name, created, image, request,
                   facts, stage, run) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?;
            let new = insert.execute(params![
                copy.id,
                copy.driver,
                copy.name,
                copy.created,
                copy.image,
                copy.request,
                copy.facts,
                Stage::Created.text(),
                copy.run,
            ])?;
            if new == 0 {
                return Ok(false);
            }
            pin_image(tx, &copy.driver, &owner(&copy.id), &image)?;
            for image in copy.images.iter().filter_map(|i| i.parse().ok()) {
                pin_image(tx, &copy.driver, &mount_owner(&copy.id, &image), &image)?;
            }
            for (volume, filled) in &copy.volumes {
                VolumeUser {
                    volume: volume.clone(),
                    container: copy.id.clone(),
                    filled: *filled,
                }
                .insert(tx)?;
            }
            Ok(true)
        })
    }
}

fn names(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.map_err(host("list", dir))?,
    };
    let mut names = list
        .map(|entry| Ok(entry.map_err(host("list", dir))?.path()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// `None` for what is not whole: it may have been written just before a power cut.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let whole = fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= MAX_BYTES);
    serde_json::from_slice(&fs::read(path).ok().filter(|_| whole)?).ok()
}

fn write(dir: &Path, name: &str, what: &impl Serialize) -> Result<()> {
    let bytes =
        serde_json::to_vec(what).map_err(|e| Error::new(Kind::Bug, format!("write JSON: {e}")))?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(host("make", dir))?;
    let new = dir.join(format!("{name}.{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .open(&new)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| fs::rename(&new, dir.join(name)));
    written.map_err(host("write", &new))
}
