//! Volumes themselves: making, finding and removing them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, OpenOptionsExt},
        },
    },
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};
use serde::{Deserialize, Serialize};
use unlade_graph::driver::Usage;

use super::{
    Volumes,
    device::{self, Source},
    failed, is_volume_name,
    stage::clear,
};
use crate::{
    error::{Error, Kind, Result},
    journal::Object,
    store::{VolumeFail, VolumeTx, random_id},
};

/// The label of volumes without a name, as Docker has it.
const ANONYMOUS: &str = "com.docker.volume.anonymous";
/// Longest record that is read, in bytes.
const MOST: u64 = 1 << 20;

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Volume {
    /// What it is called.
    pub name: String,
    /// When it was made, as RFC 3339.
    pub created: String,
    /// For people and programs.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Where what is in it is.
    #[serde(skip)]
    pub mountpoint: String,
}

/// What `volume create` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Empty for one that is chosen.
    pub name: String,
    /// `local`, or empty for it.
    pub driver: String,
    /// For people and programs.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

impl Volume {
    /// Whether nobody gave it a name.
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }
}

pub(super) fn not_found(name: &str) -> Error {
    let m = format!("get {}: no such volume", name.escape_debug());
    Error::new(Kind::NotFound, m).with_hint("`unlade volume ls` lists those that there are")
}

impl Volumes {
    /// Makes a volume; one of that name that is there already is fine.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for what is no name, [`Kind::Unsupported`] for drivers and options that
    /// are not known, [`Kind::Conflict`] if it is there with other options.
    pub fn create(&self, new: &NewVolume) -> Result<Volume> {
        if !matches!(&*new.driver, "" | "local") {
            let m = format!(
                "volume driver `{}` is not supported",
                new.driver.escape_debug()
            );
            return Err(Error::new(Kind::Unsupported, m).with_hint("there is local"));
        }
        device::source(&new.options)?;
        let mut new = new.clone();
        if new.name.is_empty() {
            new.name = random_id()?;
            new.labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        self.store.volumes(|_| {
            let volume = self.ensure(&new)?;
            if volume.options != new.options {
                let m = format!(
                    "a volume named {} already exists with other options",
                    new.name
                );
                let e = Error::new(Kind::Conflict, m);
                return Err(e.with_hint("choose another name").into());
            }
            Ok(volume)
        })
    }

    /// A volume that nobody gave a name. To be called in a transaction.
    pub(super) fn anonymous(&self, labels: &BTreeMap<String, String>) -> Result<Volume> {
        let mut labels = labels.clone();
        labels.insert(ANONYMOUS.to_owned(), String::new());
        self.ensure(&NewVolume {
            name: random_id()?,
            labels,
            ..NewVolume::default()
        })
    }

    /// The volume, made if it is not there. To be called in a transaction, so that nobody removes
    /// it meanwhile.
    pub(super) fn ensure(&self, new: &NewVolume) -> Result<Volume> {
        if !is_volume_name(&new.name) {
            let m = format!("`{}` is no name for a volume", new.name.escape_debug());
            return Err(Error::new(Kind::BadInput, m).with_hint(
                "two characters at least: letters and digits, and after the first also _ . -",
            ));
        }
        if let Some(volume) = self.load(&new.name)? {
            return Ok(volume);
        }
        let volume = Volume {
            name: new.name.clone(),
            created: jiff::Timestamp::now().to_string(),
            labels: new.labels.clone(),
            options: new.options.clone(),
            mountpoint: self.data(&new.name).display().to_string(),
        };
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        private
            .create(&self.root)
            .map_err(failed("make the directory", &self.root))?;
        let made = self.root.join(format!(".new-{}", random_id()?));
        let data = made.join("_data");
        private
            .create(&made)
            .map_err(failed("make the directory", &made))?;
        fs::create_dir(&data).map_err(failed("make the directory", &data))?;
        // Whatever the umask is: users of containers enter it.
        rustix::fs::chmod(&data, Mode::from_raw_mode(0o755))
            .map_err(failed("set the mode of", &data))?;
        let record = made.join("volume.json");
        let text = serde_json::to_string(&volume)
            .map_err(|e| Error::new(Kind::Bug, format!("write JSON: {e}")))?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options
            .open(&record)
            .and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_data()))
            .map_err(failed("write", &record))?;
        let to = self.root.join(&new.name);
        renameat_with(CWD, &made, CWD, &to, RenameFlags::NOREPLACE)
            .map_err(failed("make the volume", &to))?;
        File::open(&self.root)
            .and_then(|dir| dir.sync_all())
            .map_err(failed("flush", &self.root))?;
        self.tell("create", &volume.name, &[]);
        Ok(volume)
    }

    /// The volume of that name, if it is there.
    pub(super) fn load(&self, name: &str) -> Result<Option<Volume>> {
        if !is_volume_name(name) {
            return Ok(None);
        }
        let dir = self.root.join(name);
        let meta = match fs::symlink_metadata(&dir) {
            Ok(meta) if meta.is_dir() => meta,
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("look at", &dir)(e)),
        };
        let path = dir.join("volume.json");
        let read = File::open(&path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(MOST).read_to_end(&mut bytes).map(|_| bytes)
        });
        let mut volume = match read {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                let m = format!("`{}` is damaged: {e}", path.display());
                Error::new(Kind::Integrity, m).with_hint("remove it; what is in the volume stays")
            })?,
            // What people keep in it counts, not what we wrote about it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Volume {
                created: meta
                    .modified()
                    .ok()
                    .and_then(|t| jiff::Timestamp::try_from(t).ok())
                    .map(|t| t.to_string())
                    .unwrap_or_default(),
                ..Volume::default()
            },
            Err(e) => return Err(failed("read", &path)(e)),
        };
        name.clone_into(&mut volume.name);
        volume.mountpoint = self.data(name).display().to_string();
        Ok(Some(volume))
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn list(&self) -> Result<Vec<Volume>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed("list", &self.root)(e)),
        };
        let mut all = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed("list", &self.root))?.file_name();
            if let Some(name) = name.to_str() {
                all.extend(self.load(name)?);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The volume of that name.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub fn find(&self, name: &str) -> Result<Volume> {
        self.load(name)?.ok_or_else(|| not_found(name))
    }

    /// Volumes that containers use, running or not, with the ids of those.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn used(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut used: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for user in self.store.read_volumes(|tx| tx.users())? {
            used.entry(user.volume).or_default().insert(user.container);
        }
        Ok(used)
    }

    /// What is in a volume, in bytes; `None` if it is elsewhere.
    ///
    /// # Errors
    /// If it cannot be walked.
    pub fn size(&self, volume: &Volume) -> Result<Option<u64>> {
        if device::source(&volume.options)? != Source::Own {
            return Ok(None);
        }
        let path = self.data(&volume.name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(CWD, &path, flags, Mode::empty()) {
            Ok(dir) => Ok(Some(Usage::of_tree(dir.as_fd())?.bytes)),
            // It is removed meanwhile.
            Err(rustix::io::Errno::NOENT) => Ok(Some(0)),
            Err(e) => Err(failed("open", &path)(e)),
        }
    }

    /// Removes a volume that no container uses, and all that is in it.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Conflict`] if it is in use.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.store.volumes(|tx| {
            self.find(name)?;
            let users = tx.users_of(name)?;
            if !users.is_empty() {
                let ids: Vec<&str> = users.iter().map(|u| &*u.container).collect();
                let m = format!("remove {name}: volume is in use - [{}]", ids.join(", "));
                return Err(Error::new(Kind::Conflict, m)
                    .with_hint("remove these containers first: `unlade rm`")
                    .into());
            }
            Ok(self.discard(name)?)
        })?;
        self.empty_trash().map(drop)
    }

    /// Removes the volumes that no container uses and that `wanted` is true for; their names, and
    /// the bytes that this freed.
    ///
    /// # Errors
    /// From `wanted`, or if the host refuses.
    pub fn prune(&self, wanted: &dyn Fn(&Volume) -> Result<bool>) -> Result<(Vec<String>, u64)> {
        let removed = self.store.volumes(|tx| {
            let users = tx.users()?;
            let mut removed = Vec::new();
            for volume in self.list()? {
                let used = users.iter().any(|u| u.volume == volume.name);
                if !used && wanted(&volume)? {
                    self.discard(&volume.name)?;
                    removed.push(volume.name);
                }
            }
            Ok(removed)
        })?;
        let freed = self.empty_trash()?;
        self.journal.note_prune(Object::Volume, freed);
        Ok((removed, freed))
    }

    /// Ends a container's use of its volumes. With `anonymous`, those of them that nobody gave a
    /// name and nobody else uses are removed; their names.
    ///
    /// # Errors
    /// If the store cannot be written, or the host refuses.
    pub fn release(&self, id: &str, anonymous: bool) -> Result<Vec<String>> {
        if self
            .store
            .read_volumes(|tx| tx.used_by(id).map(|used| used.is_empty()))?
        {
            return Ok(Vec::new());
        }
        let removed = self.store.volumes(|tx| {
            let used = tx.used_by(id)?;
            tx.forget(id)?;
            let mut removed = Vec::new();
            for user in used.iter().filter(|_| anonymous) {
                if self.is_orphan(tx, &user.volume)? {
                    self.discard(&user.volume)?;
                    removed.push(user.volume.clone());
                }
            }
            Ok(removed)
        })?;
        if !removed.is_empty() {
            self.empty_trash()?;
        }
        Ok(removed)
    }

    fn is_orphan(&self, tx: &VolumeTx<'_>, name: &str) -> Result<bool, VolumeFail> {
        let volume = self.load(name)?;
        Ok(volume.is_some_and(|v| v.is_anonymous()) && tx.users_of(name)?.is_empty())
    }

    /// Puts a volume aside, so that it is gone at once. To be called in a transaction.
    fn discard(&self, name: &str) -> Result<()> {
        // Nobody uses it, so nothing is mounted; what is, must not be removed.
        clear(&self.data(name))?;
        let from = self.root.join(name);
        let to = self.root.join(format!(".trash-{}", random_id()?));
        fs::rename(&from, &to).map_err(failed("remove the volume", &from))?;
        self.tell("destroy", name, &[]);
        Ok(())
    }

    /// Removes what was put aside, and what was half made.
    pub(super) fn empty_trash(&self) -> Result<u64> {
        self.remove_where(|name| name.starts_with(".trash-"))
    }

    pub(super) fn remove_where(&self, which: impl Fn(&str) -> bool) -> Result<u64> {
        let mut freed = 0;
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(failed("list", &self.root)(e)),
        };
        for entry in entries {
            let name = entry.map_err(failed("list", &self.root))?.file_name();
            if name.to_str().is_some_and(&which) {
                freed += remove_tree(&self.root, Path::new(&name))?;
            }
        }
        Ok(freed)
    }
}

/// Removes a directory with whatever is in it; the bytes that this freed. One that is gone is fine.
pub(super) fn remove_tree(parent: &Path, name: &Path) -> Result<u64> {
    let path = parent.join(name);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let above = openat(CWD, parent, flags, Mode::empty()).map_err(failed("open", parent))?;
    let dir = match openat(&above, name, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(rustix::io::Errno::NOENT) => return Ok(0),
        Err(e) => return Err(failed("open", &path)(e)),
    };
    let name = std::ffi::CString::new(name.as_os_str().as_bytes())
        .map_err(|e| Error::new(Kind::Bug, format!("a name with a NUL: {e}")))?;
    match unlade_graph::remove::remove(above.as_fd(), &name, dir.as_fd()) {
        // Another process does the same.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        done => done.map_err(failed("remove", &path)),
    }
}
