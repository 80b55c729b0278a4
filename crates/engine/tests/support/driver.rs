//! A graph driver for tests of the store: a directory a layer, with one file and its digest.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use unlade_graph::driver::{
    Change, Driver, DriverKind, Features, Finding, LayerId, LayerKey, LayerRequest, LayerTxn,
    MountOf, NodeId, RwOptions, SnapshotId, Usage,
};
use unlade_unpack::{Algorithm, Digest, Error, Kind, Result, fault};

#[derive(Debug)]
pub struct FakeDriver {
    root: PathBuf,
    pub fail_flush: AtomicBool,
    pub busy: AtomicBool,
    pub flushes: AtomicU64,
}

fn host(doing: &str, path: &Path) -> impl Fn(io::Error) -> Error {
    let doing = format!("{doing} {}", path.display());
    move |e| Error::host(doing.clone(), e)
}

fn unsupported<T>() -> Result<T> {
    Err(Error::new(Kind::Unsupported, "not in a fake driver"))
}

impl FakeDriver {
    pub fn new(store_root: &Path) -> Self {
        let root = store_root.join("graph/copy");
        for dir in ["layers", "staging", "trash"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        Self {
            root,
            fail_flush: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
        }
    }

    pub fn layer(&self, id: &LayerId) -> PathBuf {
        self.root.join("layers").join(id.as_str())
    }

    /// Publishes a layer; one that is there stays.
    pub fn publish(&self, id: &LayerId, content: &[u8]) -> io::Result<()> {
        let pid = std::process::id();
        let staging = self.root.join(format!("staging/{pid}-{id}"));
        fs::create_dir(&staging)?;
        fs::write(staging.join("data"), content)?;
        let sum = Digest::of(Algorithm::Sha256, content).to_string();
        fs::write(staging.join("sum"), sum)?;
        fault::point("driver-rename")?;
        match fs::rename(&staging, self.layer(id)) {
            Err(e) if self.layer(id).exists() => {
                let _ = e;
                fs::remove_dir_all(&staging)
            }
            done => done,
        }?;
        fault::point("driver-renamed")
    }
}

impl Driver for FakeDriver {
    fn kind(&self) -> DriverKind {
        DriverKind::Copy
    }

    fn features(&self) -> Features {
        Features::default()
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn begin_layer(&self, _: LayerRequest) -> Result<Box<dyn LayerTxn>> {
        unsupported()
    }

    fn candidates(&self, key: &LayerKey) -> Vec<LayerId> {
        vec![LayerId::of(&key.diff_id)]
    }

    fn prepare(&self, _: &[LayerId]) -> Result<()> {
        Ok(())
    }

    fn create_rw(&self, _: &SnapshotId, _: &[LayerId], _: &RwOptions) -> Result<()> {
        unsupported()
    }

    fn mount(&self, _: MountOf<'_>) -> Result<OwnedFd> {
        unsupported()
    }

    fn changes(&self, _: &SnapshotId) -> Result<Vec<Change>> {
        unsupported()
    }

    fn usage(&self, what: &NodeId) -> Result<Usage> {
        let NodeId::Layer(id) = what else {
            return unsupported();
        };
        let path = self.layer(id).join("data");
        let bytes = fs::metadata(&path).map_err(host("look at", &path))?.len();
        Ok(Usage { bytes, inodes: 3 })
    }

    fn remove(&self, what: &NodeId) -> Result<()> {
        let NodeId::Layer(id) = what else {
            return unsupported();
        };
        let path = self.layer(id);
        if self.busy.load(Ordering::Relaxed) {
            return Err(Error::host(
                "remove",
                io::Error::from_raw_os_error(libc::EBUSY),
            ));
        }
        let trash = self.root.join(format!("trash/{}-{id}", std::process::id()));
        match fs::rename(&path, &trash) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(host("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    fn sweep(&self) -> Result<u64> {
        for dir in ["trash", "staging"] {
            let dir = self.root.join(dir);
            for entry in fs::read_dir(&dir).map_err(host("list", &dir))? {
                let path = entry.map_err(host("list", &dir))?.path();
                let name = path.file_name().unwrap().to_str().unwrap();
                let pid = name.split('-').next().unwrap();
                let alive = dir.ends_with("staging") && Path::new("/proc").join(pid).exists();
                if !alive {
                    let _ = fs::remove_dir_all(&path);
                }
            }
        }
        Ok(0)
    }

    fn list(&self) -> Result<Vec<NodeId>> {
        let dir = self.root.join("layers");
        let mut all = Vec::new();
        for entry in fs::read_dir(&dir).map_err(host("list", &dir))? {
            let name = entry.map_err(host("list", &dir))?.file_name();
            all.extend(name.to_str().and_then(LayerId::parse).map(NodeId::Layer));
        }
        Ok(all)
    }

    fn verify(&self, id: &LayerId) -> Result<Vec<Finding>> {
        let dir = self.layer(id);
        let read = |name: &str| fs::read(dir.join(name)).unwrap_or_default();
        let found = Digest::of(Algorithm::Sha256, &read("data")).to_string();
        if found.as_bytes() == read("sum") {
            return Ok(Vec::new());
        }
        Ok(vec![Finding {
            path: b"data".to_vec(),
            what: "its content differs".to_owned(),
        }])
    }

    fn tar(&self, _: &LayerId) -> Result<Option<fs::File>> {
        Ok(None)
    }

    fn flush(&self) -> Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        if self.fail_flush.load(Ordering::Relaxed) {
            return Err(Error::host(
                "flush",
                io::Error::from_raw_os_error(libc::EIO),
            ));
        }
        Ok(())
    }
}
