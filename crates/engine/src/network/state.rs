//! What is known about a container that is attached: a file that goes away with the boot, as the
//! interfaces and rules do that it tells of. It is there before them, so that whoever comes after
//! a kill knows what to undo.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{
    netns,
    ports::Mapping,
    record::{Endpoint, Network, json},
    settings::NetworkSettings,
};
use crate::error::{Error, Kind, Result};

/// Longest file that is read, in bytes.
const MOST: u64 = 64 << 20;

/// A network that a container is in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Joined {
    /// The network, as it was then.
    pub network: Network,
    /// The container's place.
    pub endpoint: Endpoint,
    /// Whether the ports are published through it.
    pub publishes: bool,
}

/// A container that is attached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct State {
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// Its networks, the first being that of its default route.
    pub joined: Vec<Joined>,
    /// Its published ports.
    pub ports: Vec<Mapping>,
    /// Where names go that are no container's, if it was said.
    pub dns_servers: Vec<IpAddr>,
    /// What answers for names.
    pub name_servers: Vec<IpAddr>,
    /// Addresses and names of those that it is linked to.
    pub links: Vec<(IpAddr, String)>,
    /// How it looks in `inspect`.
    pub settings: NetworkSettings,
}

/// The files below the run root.
#[derive(Debug, Clone)]
pub(super) struct Places {
    run_root: PathBuf,
}

fn failed(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let doing = format!("{doing} `{}`", path.display());
    move |e| Error::host(doing, e)
}

impl Places {
    pub(super) fn new(run_root: &Path) -> Self {
        Self {
            run_root: run_root.to_owned(),
        }
    }

    /// The namespace of a container.
    pub(super) fn netns(&self, id: &str) -> PathBuf {
        self.run_root.join("netns").join(id)
    }

    /// Where aardvark-dns is told whom it answers for.
    pub(super) fn netavark(&self) -> PathBuf {
        self.run_root.join("netavark")
    }

    /// Whose networks may have an old name of theirs.
    pub(super) fn renames(&self) -> PathBuf {
        self.run_root.join("renames")
    }

    fn states(&self) -> PathBuf {
        self.run_root.join("network")
    }

    fn state(&self, id: &str) -> PathBuf {
        self.states().join(format!("{id}.json"))
    }

    /// Held over changes of what is attached; exclusively to look for leftovers. `None` if it
    /// cannot be had exclusively now.
    pub(super) fn lock(&self, exclusive: bool) -> Result<Option<File>> {
        let dir = self.states();
        netns::directory(&dir)?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(failed("open", &path))?;
        let how = match exclusive {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::LockShared,
        };
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Some(file)),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failed("lock", &path)(e.into())),
            }
        }
    }

    /// Writes a state as a whole.
    pub(super) fn write(&self, state: &State) -> Result<()> {
        netns::directory(&self.states())?;
        let path = self.state(&state.id);
        let new = path.with_extension("new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let text = json(state)?;
        let written = options
            .open(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&new, &path));
        written.map_err(failed("write", &path))
    }

    /// The state of a container, if it is attached.
    pub(super) fn read(&self, id: &str) -> Result<Option<State>> {
        let path = self.state(id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("open", &path)(e)),
        };
        let mut text = String::new();
        file.take(MOST)
            .read_to_string(&mut text)
            .map_err(failed("read", &path))?;
        let state = serde_json::from_str(&text).map_err(|e| {
            let m = format!("`{}` is damaged: {e}", path.display());
            Error::new(Kind::Integrity, m)
        })?;
        Ok(Some(state))
    }

    /// Forgets the state of a container.
    pub(super) fn forget(&self, id: &str) -> Result<()> {
        let path = self.state(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Ids of containers that have a namespace or a state.
    pub(super) fn ids(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for dir in [self.run_root.join("netns"), self.states()] {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed("list", &dir)(e)),
            };
            for entry in entries {
                let name = entry.map_err(failed("list", &dir))?.file_name();
                let Some(name) = name.to_str() else { continue };
                // Unfinished states, too, name a container that is to be looked at.
                let id = name.split('.').next().unwrap_or_default();
                if id != "lock" && !ids.iter().any(|i| i == id) {
                    ids.push(id.to_owned());
                }
            }
        }
        Ok(ids)
    }

    /// Removes what was half written of a state.
    pub(super) fn forget_half(&self, id: &str) {
        let _ = fs::remove_file(self.state(id).with_extension("new"));
    }
}
