//! Looking whether the store is whole: records against objects, blobs against their digests,
//! layers against what was recorded when they were made, what is kept of them merged against
//! them, images against their documents.

mod images;

use std::{
    collections::{HashMap, HashSet},
    fmt, fs,
};

use rusqlite::Connection;
use serde::Serialize;
use unlade_graph::driver::{Driver, LayerId, NodeId};
use unlade_unpack::{Cancel, Digest};

use super::{
    Store,
    content::{Verdict, parallel},
    db::{self, Tx},
    durability::layer_id,
    home::host,
};
use crate::error::{Kind, Result};

/// How closely to look.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckOptions {
    /// Read every blob and compare it with its digest.
    pub blobs: bool,
    /// Read every layer and compare it with what was recorded.
    pub layers: bool,
    /// Stops it.
    pub cancel: Cancel,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            blobs: true,
            layers: true,
            cancel: Cancel::new(),
        }
    }
}

/// What something is wrong with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Object {
    /// The database.
    Database,
    /// A blob, by its digest.
    Blob(String),
    /// A layer, by the driver's name for it.
    Layer(String),
    /// An image, by its id.
    Image(String),
    /// What the driver keeps of an image's layers merged, by the image's id.
    Merged(String),
    /// A name of an image.
    Name(String),
    /// What a container has written.
    Snapshot(String),
    /// A file that is no object of the store.
    File(String),
    /// What a process that is gone protected.
    Lease(String),
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Problem {
    /// It is recorded and not there.
    Missing,
    /// It is not what was recorded.
    Damaged,
    /// It is there and not recorded.
    Stray,
    /// A part of it is not there.
    Incomplete,
    /// It was not flushed before a power cut or by a flush that failed.
    Unverified,
}

/// What puts it right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Remedy {
    /// It is swept.
    Sweep,
    /// It is fetched again.
    Fetch,
    /// It is made again of what is here.
    Remake,
    /// It is verified or dropped ([`Store::recover`]).
    Verify,
    /// `system prune` removes it: it is what somebody has written, and cannot be fetched again.
    Prune,
    /// The database is built anew ([`Store::rebuild`]).
    Rebuild,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// With what.
    pub object: Object,
    /// What is wrong.
    pub problem: Problem,
    /// More about it, as a sentence.
    pub detail: String,
    /// What puts it right.
    pub remedy: Remedy,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Object::Database => f.write_str("the database"),
            Object::Blob(name) => write!(f, "blob {name}"),
            Object::Layer(name) => write!(f, "layer {name}"),
            Object::Image(name) => write!(f, "image {name}"),
            Object::Merged(name) => write!(f, "merged layers of image {name}"),
            Object::Name(name) => write!(f, "name `{name}`"),
            Object::Snapshot(name) => write!(f, "snapshot {name}"),
            Object::File(name) => write!(f, "file `{name}`"),
            Object::Lease(what) => write!(f, "lease of `{what}`"),
        }?;
        write!(f, ": {}", self.detail)
    }
}

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// What is wrong, in order.
    pub findings: Vec<Finding>,
    /// Images looked at.
    pub images: u64,
    /// Layers looked at.
    pub layers: u64,
    /// Blobs looked at.
    pub blobs: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, object: Object, problem: Problem, remedy: Remedy, detail: impl Into<String>) {
        self.findings.push(Finding {
            object,
            problem,
            detail: detail.into(),
            remedy,
        });
    }
}

impl Store {
    /// Looks whether the store is whole. Others may use it meanwhile.
    ///
    /// # Errors
    /// If the host refuses, or `options.cancel` was set; damage is a finding, not an error.
    pub fn check(&self, driver: &dyn Driver, options: &CheckOptions) -> Result<CheckReport> {
        self.same_driver(driver)?;
        let mut report = CheckReport::default();
        let looked: Result<()> = (|| {
            let wrong = self.0.db.read(database)?;
            let sound = wrong.is_empty();
            for detail in wrong {
                report.add(Object::Database, Problem::Damaged, Remedy::Rebuild, detail);
            }
            if sound {
                self.presence(driver, &mut report)?;
                self.contents(driver, options, &mut report)?;
                if options.layers {
                    self.merged(driver, &options.cancel, &mut report)?;
                }
                self.whole_images(&mut report)?;
                self.names(&mut report)?;
            }
            Ok(())
        })();
        match looked {
            // Rows that cannot be what was written.
            Err(e) if e.kind() == Kind::Integrity => {
                let detail = e.message().to_owned();
                report.add(Object::Database, Problem::Damaged, Remedy::Rebuild, detail);
            }
            looked => looked?,
        }
        report.findings.sort();
        report.findings.dedup();
        Ok(report)
    }

    /// Records against objects.
    fn presence(&self, driver: &dyn Driver, report: &mut CheckReport) -> Result<()> {
        let _lock = self.0.home.lock(true)?;
        let strays = self.strays(driver)?;
        for layer in strays.layers {
            let detail = "it is on disk, but not recorded";
            report.add(
                Object::Layer(layer.to_string()),
                Problem::Stray,
                Remedy::Sweep,
                detail,
            );
        }
        for path in strays.blobs {
            let name = path
                .strip_prefix(self.root())
                .unwrap_or(&path)
                .display()
                .to_string();
            let detail = "it lies among the blobs, but is not recorded";
            report.add(Object::File(name), Problem::Stray, Remedy::Sweep, detail);
        }
        for snapshot in self.stray_snapshots(driver)? {
            let detail = "no container or mount is recorded for it";
            let object = Object::Snapshot(snapshot.to_string());
            report.add(object, Problem::Stray, Remedy::Prune, detail);
        }
        let trash = self.0.home.trash();
        for entry in fs::read_dir(&trash).map_err(host("list", &trash))? {
            let name = entry
                .map_err(host("list", &trash))?
                .file_name()
                .display()
                .to_string();
            let name = format!("blobs/trash/{name}");
            report.add(
                Object::File(name),
                Problem::Stray,
                Remedy::Sweep,
                "it was to be unlinked",
            );
        }
        let there: HashSet<NodeId> = driver.list()?.into_iter().collect();
        for layer in self.layer_ids()? {
            report.layers += 1;
            if !there.contains(&NodeId::Layer(layer.clone())) {
                let detail = "it is recorded, but not on disk";
                let object = Object::Layer(layer.to_string());
                report.add(object, Problem::Missing, Remedy::Fetch, detail);
            }
        }
        for (blob, size) in self.blob_sizes()? {
            report.blobs += 1;
            let object = || Object::Blob(blob.to_string());
            match fs::metadata(self.0.home.blob(&blob)) {
                Ok(meta) if meta.len() == size => {}
                Ok(meta) => {
                    let detail = format!("it has {} bytes instead of {size}", meta.len());
                    report.add(object(), Problem::Damaged, Remedy::Fetch, detail);
                }
                Err(_) => {
                    let detail = "it is recorded, but not on disk";
                    report.add(object(), Problem::Missing, Remedy::Fetch, detail);
                }
            }
        }
        let suspects = self.suspects()?;
        let detail = "it may not have been on disk when the machine went down, or a flush failed";
        for layer in suspects.layers {
            report.add(
                Object::Layer(layer),
                Problem::Unverified,
                Remedy::Verify,
                detail,
            );
        }
        for blob in suspects.blobs {
            let object = Object::Blob(blob.to_string());
            report.add(object, Problem::Unverified, Remedy::Verify, detail);
        }
        let dead = self.0.db.read(|c| {
            let mut what = Vec::new();
            for id in self.dead_leases(c)? {
                let select = "SELECT what FROM leases WHERE id = ?1";
                what.push(c.query_row(select, [id], |r| r.get::<_, String>(0))?);
            }
            Ok(what)
        })?;
        for what in dead {
            let detail = "its process is gone";
            report.add(Object::Lease(what), Problem::Stray, Remedy::Sweep, detail);
        }
        Ok(())
    }

    fn layer_ids(&self) -> Result<Vec<LayerId>> {
        self.0.db.read(|c| {
            let mut select = c.prepare("SELECT id FROM layers WHERE driver = ?1")?;
            let ids = select.query_map([self.driver()], |r| layer_id(r, 0))?;
            Ok(ids.collect::<rusqlite::Result<_>>()?)
        })
    }

    fn blob_sizes(&self) -> Result<Vec<(Digest, u64)>> {
        self.0.db.read(|c| {
            let mut select = c.prepare("SELECT digest, size FROM blobs")?;
            let blobs = select.query_map([], |r| Ok((db::digest(r, 0)?, r.get(1)?)))?;
            Ok(blobs.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Objects against digests. What goes away while it is looked at is nobody's damage.
    fn contents(
        &self,
        driver: &dyn Driver,
        options: &CheckOptions,
        report: &mut CheckReport,
    ) -> Result<()> {
        let known: HashSet<Object> = report.findings.iter().map(|f| f.object.clone()).collect();
        let cancel = &options.cancel;
        if options.blobs {
            let mut blobs: Vec<Digest> = self.blob_sizes()?.into_iter().map(|(d, _)| d).collect();
            blobs.retain(|d| !known.contains(&Object::Blob(d.to_string())));
            let verdicts = parallel(&blobs, cancel, |blob| self.verify_blob(blob, cancel))?;
            let still: HashMap<Digest, u64> = self.blob_sizes()?.into_iter().collect();
            for (blob, verdict) in blobs.iter().zip(verdicts) {
                if verdict != Verdict::Good && still.contains_key(blob) {
                    let detail = "its bytes do not have its digest";
                    let object = Object::Blob(blob.to_string());
                    report.add(object, Problem::Damaged, Remedy::Fetch, detail);
                }
            }
        }
        if options.layers {
            let mut layers = self.layer_ids()?;
            layers.retain(|l| !known.contains(&Object::Layer(l.to_string())));
            let found = parallel(&layers, cancel, |layer| match driver.verify(layer) {
                Ok(findings) => Ok(findings),
                Err(e) if e.kind() == unlade_unpack::Kind::Cancelled => Err(e.into()),
                Err(e) => {
                    let what = format!("it cannot be read: {e}");
                    Ok(vec![unlade_graph::driver::Finding {
                        path: Vec::new(),
                        what,
                    }])
                }
            })?;
            let still: HashSet<LayerId> = self.layer_ids()?.into_iter().collect();
            for (layer, wrong) in layers.iter().zip(found) {
                let Some(first) = wrong.first().filter(|_| still.contains(layer)) else {
                    continue;
                };
                let path = String::from_utf8_lossy(&first.path)
                    .escape_debug()
                    .to_string();
                let more = match wrong.len() {
                    1 => String::new(),
                    n => format!(", and {} more", n - 1),
                };
                let detail = format!("`/{path}`: {}{more}", first.what);
                let object = Object::Layer(layer.to_string());
                report.add(object, Problem::Damaged, Remedy::Fetch, detail);
            }
        }
        Ok(())
    }
}

/// What SQLite finds wrong with its own pages and with references between tables.
fn database(c: &Connection) -> Tx<Vec<String>> {
    let mut wrong = Vec::new();
    let mut pragma = c.prepare("PRAGMA integrity_check(20)")?;
    let mut rows = pragma.query([])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        if text != "ok" {
            wrong.push(text);
        }
    }
    let mut pragma = c.prepare("PRAGMA foreign_key_check")?;
    let mut rows = pragma.query([])?;
    if let Some(row) = rows.next()? {
        let (table, other): (String, String) = (row.get(0)?, row.get(2)?);
        wrong.push(format!(
            "`{table}` refers to rows of `{other}` that are not there"
        ));
    }
    Ok(wrong)
}
