//! What a shim is told at its start.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::runtime::Runtime;

/// All that a shim needs to know to start a container and to stay with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// The container's id, as the runtime knows it too.
    pub id: String,
    /// Directory with `config.json`; its `root.path` is `rootfs`, on which the shim puts the mount
    /// that it was handed.
    pub bundle: PathBuf,
    /// Directory of this run, mode 0700, on a file system in memory: `state.json`, `ctl.sock`. May
    /// be the bundle.
    pub run: PathBuf,
    /// Who starts it.
    pub runtime: Runtime,
    /// Where its standard streams go.
    pub io: Io,
    /// The streams that the client who starts it takes part in; `None` to start it detached.
    pub foreground: Option<Streams>,
    /// Where its output is kept.
    pub log: Log,
    /// Its control group as in the spec's `cgroupsPath`, `/unlade/<id>`; `None` if the runtime
    /// chooses, which is slower.
    pub cgroup: Option<String>,
    /// Whether the spec has hooks to be run when it has ended, so that the runtime has to be asked.
    pub hooks: bool,
    /// Where the root's mount is put.
    pub mounts: Mounts,
    /// What is done when it ends.
    pub restart: Restart,
    /// How often it was restarted before.
    pub restarts: u32,
    /// How its health is found out.
    pub health: Option<Health>,
    /// Run once when all is over, unless [`Launch::client_cleans`]: `[unlade, --root, …, cleanup,
    /// id]`. Empty for nothing.
    pub cleanup: Vec<String>,
    /// Whether the client that starts it cleans up itself, as long as it is there.
    pub client_cleans: bool,
    /// The journal, to which is appended what happens to it from its start to its end:
    /// [`Event`](crate::journal::Event).
    pub events: Option<PathBuf>,
    /// Told with its first start, for those who read the journal.
    pub attributes: BTreeMap<String, String>,
    /// How long the runtime may take, in milliseconds; 0 for a minute.
    pub timeout_ms: u64,
}

/// One more process in a container. Its streams, its exit and its terminal are treated as a
/// container's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// The container.
    pub container: String,
    /// The process's own id.
    pub id: String,
    /// Directory of this run, mode 0700: `state.json`, `ctl.sock`.
    pub run: PathBuf,
    /// Who starts it.
    pub runtime: Runtime,
    /// The process as an OCI `process` object.
    pub process: serde_json::Value,
    /// Where its standard streams go.
    pub io: Io,
    /// The journal, to which its end is appended.
    pub events: Option<PathBuf>,
    /// As for [`Launch`].
    pub foreground: Option<Streams>,
    /// As for [`Launch`]; empty for nothing.
    pub cleanup: Vec<String>,
    /// As for [`Launch`].
    pub timeout_ms: u64,
}

/// Where the standard streams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Io {
    /// Through pipes to log and clients.
    Pipes {
        /// Where input comes from.
        stdin: Stdin,
    },
    /// To a terminal that the shim holds; the spec says `terminal` too.
    Terminal {
        /// Its size at first.
        size: Size,
        /// Where input comes from.
        stdin: Stdin,
    },
    /// To the three descriptors handed over: nothing is logged, nobody can attach.
    Passed,
}

/// Where input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdin {
    /// There is none: it is at its end from the start.
    #[default]
    Closed,
    /// From clients; it never ends, unless one says so.
    Open,
    /// From clients; it ends when the first one that sends input has gone.
    Once,
}

/// Size of a terminal; zeroes leave it to whoever comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// Streams that a client takes part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Streams {
    /// It sends input.
    pub stdin: bool,
    /// It gets standard output; of a terminal, all output.
    pub stdout: bool,
    /// It gets standard error.
    pub stderr: bool,
}

/// Where output is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Log {
    /// Nowhere.
    #[default]
    None,
    /// Docker's JSON lines.
    JsonFile(LogFile),
    /// The lines of Kubernetes' CRI.
    K8sFile(LogFile),
    /// Those too, for nobody but ourselves.
    Local(LogFile),
}

/// A log on disk. Older files are `<path>.1`, `<path>.2`, …, and compressed `<path>.1.gz`, ….
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogFile {
    /// The newest file.
    pub path: PathBuf,
    /// Bytes at which a new file is begun; 0 for never.
    pub max_size: u64,
    /// Files in all, at least 1.
    pub max_files: u32,
    /// Whether older files are compressed.
    pub compress: bool,
    /// Bytes of output that wait for the disk while the container goes on, and are dropped beyond;
    /// `None` if it is the container that waits.
    pub buffer: Option<u64>,
    /// JSON object that each line of `json-file` and `local` carries as `attrs`; empty for none.
    pub attrs: String,
}

impl LogFile {
    /// The default: 5 files of 20 MB.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_size: 20_000_000,
            max_files: 5,
            compress: false,
            buffer: None,
            attrs: String::new(),
        }
    }
}

/// Where the root's mount is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mounts {
    /// In a mount namespace of the shim's own, which gets what is mounted on the host later: when
    /// the shim is gone, so is the mount.
    #[default]
    Own,
    /// In the host's, for containers whose mounts are to appear there (`shared` propagation).
    Host,
}

/// What is done when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Nothing.
    #[default]
    No,
    /// It is started again, unless it was told to stop.
    Always,
    /// As `Always` for a shim; what differs is what is done after a reboot.
    UnlessStopped,
    /// It is started again unless it ended with 0 or was told to stop.
    OnFailure {
        /// How often at most; 0 for ever.
        most: u32,
    },
}

/// How health is found out. Zeroes stand for Docker's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// What runs in the container: already `["/bin/sh", "-c", …]` for a shell's line.
    pub argv: Vec<String>,
    /// Milliseconds between checks; default 30 s.
    pub interval_ms: u64,
    /// Milliseconds for one check; default 30 s.
    pub timeout_ms: u64,
    /// Milliseconds in which failures do not count; default 0.
    pub start_period_ms: u64,
    /// Milliseconds between checks within that; default 5 s.
    pub start_interval_ms: u64,
    /// Failures in a row until it is unhealthy; default 3.
    pub retries: u32,
}
