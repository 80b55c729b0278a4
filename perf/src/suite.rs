//! What each suite measures unless options say otherwise.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::contestants::Contestant;
use crate::fs::{FsKind, is_root};

/// What `perf run unpack` measures unless told otherwise.
const UNPACK: &str = "debian,python,node,pyds,nodeapp,three,python-many,node-many,big";

/// What `perf run` can measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Real images, all contestants, light, start-up latency
    Unpack,
    /// Small generated images, two rounds: does the harness work? (no network, any user)
    Smoke,
    /// Start-up latency alone
    Tiny,
    /// Pulls from a loopback registry: all engines, light, second pulls, reading back
    Pull,
    /// The same with small generated images, two rounds, no network: does the harness work?
    PullSmoke,
    /// Containers started from images in the store: unlade, runtimes alone, podman, ctr, docker
    Start,
    /// The same with small generated images, few rounds, no network: does the harness work?
    StartSmoke,
}

/// A suite that unpacks what lies on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnpackSuite {
    /// Real images.
    Unpack,
    /// Generated images.
    Smoke,
    /// Latency alone.
    Tiny,
}

/// What a suite does unless options say otherwise.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Its name in reports.
    pub(crate) name: &'static str,
    /// Who takes part.
    pub(crate) contestants: Vec<Contestant>,
    /// Workloads.
    pub(crate) workloads: Vec<String>,
    /// File systems.
    pub(crate) fs: Vec<FsKind>,
    /// Rounds.
    pub(crate) runs: usize,
    /// Rounds of start-up latency for each round of the rest.
    pub(crate) tiny: usize,
    /// Whether memory is touched before each run.
    pub(crate) prime: bool,
    /// Whether light is measured.
    pub(crate) light: bool,
    /// Where the report goes; to standard output if nowhere.
    pub(crate) out: Option<PathBuf>,
}

impl Settings {
    /// The defaults of a suite.
    pub(crate) fn of(suite: UnpackSuite, contestants: Vec<Contestant>, light: bool) -> Self {
        let list = |names: &str| names.split(',').map(str::to_owned).collect::<Vec<_>>();
        let both = vec![FsKind::Xfs, FsKind::Ext4];
        match suite {
            UnpackSuite::Unpack => Self {
                name: "unpack",
                contestants,
                workloads: list(UNPACK),
                fs: both,
                runs: 5,
                tiny: 10,
                prime: true,
                light,
                out: Some(results_dir()),
            },
            UnpackSuite::Smoke => Self {
                name: "smoke",
                contestants,
                workloads: list("tiny,smoke,smoke-zstd,smoke-tar"),
                fs: if is_root() { both } else { vec![FsKind::Plain] },
                runs: 2,
                tiny: 2,
                prime: false,
                light,
                out: None,
            },
            UnpackSuite::Tiny => Self {
                name: "tiny",
                contestants,
                workloads: Vec::new(),
                fs: vec![FsKind::Xfs],
                runs: 5,
                tiny: 10,
                prime: true,
                light: false,
                out: None,
            },
        }
    }
}

fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where the results live that are kept.
pub(crate) fn results_dir() -> PathBuf {
    workspace().join("perf/results")
}

/// Where cargo puts the release build of unlade.
pub(crate) fn default_unlade() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("release/unlade")
}
