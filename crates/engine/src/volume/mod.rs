//! Volumes, and everything else that is mounted into a container besides its root.
//!
//! ```text
//! ROOT/volumes/NAME/_data         what is in it
//! ROOT/volumes/NAME/volume.json   its labels and options
//! ROOT/volumes/.new-…, .trash-…   being made, being removed
//! RUN_ROOT/subpaths/ID/N          images and parts of volumes, mounted while a container runs
//! RUN_ROOT/mounted/NAME/ID        who has a volume that is on a device, mounted at its `_data`
//! ```
//!
//! A volume is its directory: it does not depend on the database, which knows who uses it.

mod device;
mod fill;
mod manage;
pub mod parse;
mod plan;
mod resolve;
mod stage;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use self::{
    manage::{NewVolume, Volume},
    resolve::Resolved,
    stage::{Staged, is_mount},
};
use crate::{
    error::Error,
    journal::{Journal, Object},
    store::Store,
};

/// The volumes of a store.
#[derive(Debug, Clone)]
pub struct Volumes {
    store: Store,
    root: PathBuf,
    run_root: PathBuf,
    journal: Journal,
}

impl Volumes {
    /// The volumes of `store`; nothing is looked at before it is needed.
    pub fn new(store: &Store, run_root: &Path) -> Self {
        Self {
            store: store.clone(),
            root: store.root().join("volumes"),
            run_root: run_root.to_owned(),
            journal: Journal::new(run_root),
        }
    }

    /// Tells what has happened to a volume.
    fn tell(&self, action: &str, name: &str, more: &[(&str, &str)]) {
        let driver = [("driver", "local")];
        let attributes = driver.iter().chain(more);
        let attributes = attributes.map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        self.journal
            .note(Object::Volume, name, action, attributes.collect());
    }

    /// Tells that a container that starts mounts its volumes.
    pub fn tell_mounted(&self, container: &str, mounts: &[Planned]) {
        for mount in mounts.iter().filter(|m| m.what == What::Volume) {
            let writable = (!mount.read_only).to_string();
            let more = [
                ("container", container),
                ("destination", &*mount.target),
                ("propagation", &*mount.propagation),
                ("read/write", &*writable),
            ];
            self.tell("mount", &mount.source, &more);
        }
    }

    /// Tells that a container that has ended no longer mounts them.
    pub fn tell_unmounted(&self, container: &str, mounts: &[Planned]) {
        for mount in mounts.iter().filter(|m| m.what == What::Volume) {
            self.tell("unmount", &mount.source, &[("container", container)]);
        }
    }

    /// Where what is in a volume is.
    fn data(&self, name: &str) -> PathBuf {
        self.root.join(name).join("_data")
    }
}

/// What a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A path of the host.
    #[default]
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
    /// The tree of an image.
    Image,
}

/// A mount as it was decided when the container was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Planned {
    /// What it is.
    pub what: What,
    /// The path, the volume's name, or the image's id.
    pub source: String,
    /// What the image was called.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The image's layers, lowest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// The path in the container.
    pub target: String,
    /// Whether it cannot be written.
    pub read_only: bool,
    /// Of `[r]private`, `[r]shared`, `[r]slave`, or empty.
    pub propagation: String,
    /// The mode of `-v`, as it was given.
    pub mode: String,
    /// Whether mounts below the source stay out.
    pub non_recursive: bool,
    /// Whether mounts below stay writable.
    pub read_only_non_recursive: bool,
    /// Whether it is an error if they cannot be made read-only.
    pub read_only_force_recursive: bool,
    /// Whether a source that is not there is made.
    pub create_source: bool,
    /// Whether an empty volume gets what the image has there.
    pub copy: bool,
    /// The part of the volume or image that is mounted.
    pub subpath: String,
    /// Options of a tmpfs.
    pub options: Vec<String>,
}

/// A mount as `inspect` shows it: Docker's `Mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Point {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub r#type: String,
    /// The volume's name, or the image's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The path on the host, or the image's id.
    pub source: String,
    /// The path in the container.
    pub destination: String,
    /// `local` for volumes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// The mode of `-v`.
    pub mode: String,
    /// Whether it can be written.
    #[serde(rename = "RW")]
    pub rw: bool,
    /// How mounts made later spread.
    pub propagation: String,
}

impl Planned {
    /// How `inspect` shows it.
    pub fn point(&self, volumes: &Volumes) -> Point {
        let volume = self.what == What::Volume;
        // Docker: an option of `-v` that volumes with names get unless they have another.
        let named = volume && self.source.len() != 64;
        let propagation = match (&*self.propagation, self.what) {
            ("", What::Bind) => "rprivate",
            (given, _) => given,
        };
        Point {
            r#type: match self.what {
                What::Bind => "bind",
                What::Volume => "volume",
                What::Tmpfs => "tmpfs",
                What::Image => "image",
            }
            .to_owned(),
            name: if volume {
                self.source.clone()
            } else {
                self.name.clone()
            },
            source: if volume {
                volumes.data(&self.source).display().to_string()
            } else {
                self.source.clone()
            },
            destination: self.target.clone(),
            driver: if volume { "local" } else { "" }.to_owned(),
            mode: if named && self.mode.is_empty() {
                "z".to_owned()
            } else {
                self.mode.clone()
            },
            rw: !self.read_only,
            propagation: propagation.to_owned(),
        }
    }
}

/// Whether `text` may name a volume: it names a directory, too.
fn is_volume_name(text: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|b| b.is_ascii_alphanumeric())
        && (2..=255).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn failed<E: Into<io::Error>>(doing: &str, path: &Path) -> impl FnOnce(E) -> Error {
    let doing = format!("{doing} `{}`", path.display());
    move |e| Error::host(doing, e)
}
