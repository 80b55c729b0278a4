//! The store's directory: what lies where, the locks in it, and the look at it before use.
//!
//! Paths are joined from names of our own and digests checked by grammar; the directory is for
//! root alone (0700).

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};
use unlade_unpack::{Algorithm, Digest, fault};

use super::{
    db::{self, Db},
    gc::try_lock,
    reserve, schema,
};
use crate::error::{Error, Kind, Result};

const OCI_LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Files that are locked.
const LOCKS: [&str; 4] = ["lock", "lock.flush", "lock.flush-next", "lock.mounts"];
/// What may lie in a directory before it becomes a store, but for these.
const KNOWN: &[&str] = &[
    "blobs",
    "graph",
    "volumes",
    "containers",
    "networks",
    "oci-layout",
    "reserve",
    "lost+found",
];

/// The directory of a store.
#[derive(Debug, Clone)]
pub(super) struct Home {
    root: PathBuf,
    db: PathBuf,
}

/// A `flock` that is held until this is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "closed when dropped")] File);

pub(super) fn host(doing: &str, path: &Path) -> impl Fn(io::Error) -> Error {
    let doing = format!("{doing} `{}`", path.display());
    move |e| Error::host(doing.clone(), e)
}

/// Opens a file that is locked, and makes it if it is not there.
fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false);
    file.mode(0o600).open(path)
}

impl Home {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            db: root.join("unlade.db"),
        }
    }

    /// With a database of another name.
    pub(super) fn with_db(&self, name: &str) -> Self {
        Self {
            root: self.root.clone(),
            db: self.root.join(name),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn db(&self) -> &Path {
        &self.db
    }

    /// `blobs/<algorithm>`, where verified blobs lie under their hex digits.
    pub(super) fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.name())
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    /// Where blobs are while they are fetched.
    pub(super) fn ingest(&self) -> PathBuf {
        self.root.join("blobs/ingest")
    }

    /// Where blobs are until they are unlinked.
    pub(super) fn trash(&self) -> PathBuf {
        self.root.join("blobs/trash")
    }

    /// Takes the lock that keeps publishing and sweeping apart: `exclusive` for sweeping.
    pub(super) fn lock(&self, exclusive: bool) -> Result<Lock> {
        self.flock("lock", exclusive)
    }

    /// Takes the lock that lets one flush run at a time.
    pub(super) fn flush_lock(&self) -> Result<Lock> {
        self.flock("lock.flush", true)
    }

    /// The place of the one that waits for its turn to flush; none if it is taken.
    pub(super) fn flush_turn(&self) -> Result<Option<Lock>> {
        self.try_flock("lock.flush-next")
    }

    /// Takes the lock that is held while something is about to be mounted that is pinned already.
    pub(super) fn mounting(&self) -> Result<Lock> {
        self.flock("lock.mounts", false)
    }

    /// Keeps others from beginning to mount; none if somebody is about to.
    pub(super) fn not_mounting(&self) -> Result<Option<Lock>> {
        self.try_flock("lock.mounts")
    }

    fn try_flock(&self, name: &str) -> Result<Option<Lock>> {
        let path = self.root.join(name);
        let lock = open_lock(&path).and_then(|file| Ok(try_lock(&file)?.then_some(Lock(file))));
        lock.map_err(host("lock", &path))
    }

    fn flock(&self, name: &str, exclusive: bool) -> Result<Lock> {
        let path = self.root.join(name);
        let file = (|| {
            fault::point("store-open")?;
            let file = open_lock(&path)?;
            let operation = match exclusive {
                true => FlockOperation::LockExclusive,
                false => FlockOperation::LockShared,
            };
            rustix::io::retry_on_intr(|| flock(&file, operation))?;
            io::Result::Ok(file)
        })();
        file.map(Lock).map_err(host("lock", &path))
    }

    /// Makes the directories, and refuses a directory that is used for something else.
    pub(super) fn prepare(&self) -> Result<()> {
        let root = &*self.root;
        if !root.exists() {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(root);
            made.map_err(host("make", root))?;
        }
        if !self.db().exists() {
            self.refuse_foreign()?;
        }
        let private = fs::Permissions::from_mode(0o700);
        let mode = fs::metadata(root)
            .map_err(host("look at", root))?
            .permissions()
            .mode();
        if mode & 0o7777 != 0o700 {
            fs::set_permissions(root, private).map_err(host("make private", root))?;
        }
        let (sha256, sha512) = (self.blobs(Algorithm::Sha256), self.blobs(Algorithm::Sha512));
        for dir in [
            root.join("blobs"),
            sha256,
            sha512,
            self.ingest(),
            self.trash(),
        ] {
            match fs::create_dir(&dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(host("make", &dir)(e));
                }
                _ => {}
            }
        }
        let layout = root.join("oci-layout");
        if !fs::read(&layout).is_ok_and(|text| text == OCI_LAYOUT.as_bytes()) {
            fs::write(&layout, OCI_LAYOUT).map_err(host("write", &layout))?;
        }
        Ok(())
    }

    fn refuse_foreign(&self) -> Result<()> {
        let root = &*self.root;
        let list = fs::read_dir(root).map_err(host("list", root))?;
        for entry in list {
            let name = entry.map_err(host("list", root))?.file_name();
            let known = name.to_str().is_some_and(|n| {
                KNOWN.contains(&n) || LOCKS.contains(&n) || n.starts_with("unlade.db")
            });
            if !known {
                let (shown, name) = (root.display(), name.display());
                let m = format!("`{shown}` is not a store, and not empty: there is `{name}` in it");
                let e = Error::new(Kind::Conflict, m);
                return Err(e.with_hint("choose a directory of its own with --root"));
            }
        }
        Ok(())
    }

    /// Whether blobs or layers are there.
    pub(super) fn has_objects(&self) -> Result<bool> {
        let mut dirs = vec![self.blobs(Algorithm::Sha256), self.blobs(Algorithm::Sha512)];
        match fs::read_dir(self.root.join("graph")) {
            Ok(list) => {
                for driver in list {
                    let driver = driver.map_err(host("list", &self.root.join("graph")))?;
                    dirs.push(driver.path().join("layers"));
                    dirs.push(driver.path().join("snapshots"));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(host("list", &self.root.join("graph"))(e)),
        }
        for dir in dirs {
            let missing = |e: &io::Error| {
                matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                )
            };
            match fs::read_dir(&dir).map(|mut list| list.next().is_some()) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(e) if missing(&e) => {}
                Err(e) => return Err(host("list", &dir)(e)),
            }
        }
        Ok(false)
    }

    /// The database, which is sound and of today's format then; or says what is wrong. Whoever is
    /// alone with a database reads its whole log when he opens it: the connection that has looked
    /// at it is kept.
    pub(super) fn ready(&self) -> Result<Db> {
        let path = self.db().to_owned();
        let today = |version| version == schema::current();
        match self.look()? {
            Found::Sound(version, c) if today(version) => return Ok(Db::over(&path, *c)),
            _ => {}
        }
        let _lock = self.lock(true)?;
        match self.look()? {
            Found::Sound(version, c) if today(version) => return Ok(Db::over(&path, *c)),
            Found::Sound(version, _) if version > 0 => schema::migrate(&path)?,
            found => {
                if self.has_objects()? {
                    let what = match found {
                        Found::Nothing => "is gone",
                        _ => "is empty",
                    };
                    let shown = path.display();
                    let m =
                        format!("the store's database `{shown}` {what}, but its objects are there");
                    return Err(Error::new(Kind::Integrity, m).with_hint(db::REPAIR));
                }
                fault::point("store-create").map_err(host("make", &path))?;
                schema::create(&path)?;
                // A disk that is full later has no room for a new file.
                for name in LOCKS {
                    self.try_flock(name)?;
                }
                reserve::keep(&self.root);
            }
        }
        Db::open(&path)
    }

    /// Whether a newer program has written the database.
    pub(super) fn is_newer(&self) -> bool {
        self.look().is_err_and(|e| e.kind() == Kind::Unsupported)
    }

    fn look(&self) -> Result<Found> {
        let path = self.db().to_owned();
        let damaged = |what: &str| {
            let m = format!("the store's database `{}` {what}", path.display());
            Error::new(Kind::Integrity, m).with_hint(db::REPAIR)
        };
        fault::point("store-open").map_err(host("open", &path))?;
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(e) => return Err(host("open", &path)(e)),
        };
        let length = file.metadata().map_err(host("look at", &path))?.len();
        if length == 0 {
            return Ok(Found::Empty);
        }
        let mut header = [0; 100];
        file.read_exact(&mut header)
            .map_err(|_| damaged("is cut short"))?;
        if &header[..16] != MAGIC {
            return Err(damaged("is not a database: something has overwritten it"));
        }
        // In the middle of a checkpoint the header may count pages that only the log has yet.
        let log = fs::metadata(self.root.join("unlade.db-wal")).map_or(0, |m| m.len());
        let page = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65536,
            n => u64::from(n),
        };
        let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
        if log == 0 && length < page * u64::from(pages) {
            return Err(damaged("is cut short"));
        }
        let read = || -> rusqlite::Result<(bool, usize, Connection)> {
            let c = db::connect(&path)?;
            Ok((schema::is_ours(&c)?, schema::version(&c)?, c))
        };
        let found = match read() {
            Err(e) if db::is_full(&path, &e) && reserve::release(&self.root) => read(),
            found => found,
        };
        let (ours, version, connection) = found.map_err(|e| db::explain(&path, "open", e))?;
        if !ours && version > 0 {
            return Err(damaged("belongs to another program"));
        }
        schema::accept(&self.root, version)?;
        Ok(Found::Sound(version, Box::new(connection)))
    }
}

enum Found {
    Nothing,
    Empty,
    /// Of that version.
    Sound(usize, Box<Connection>),
}
