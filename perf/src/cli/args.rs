//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::fs::{Backing, FsKind};
use crate::pull;
use crate::start;
use crate::suite::{Suite, default_unlade};

/// Measures unlade: against peers, against another build, against the speed of light.
#[derive(Debug, Parser)]
#[command(name = "perf", version)]
pub(super) struct Cli {
    #[command(subcommand)]
    /// What to do.
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make workloads (all if none is named) and keep them
    Workloads {
        #[command(flatten)]
        place: Place,
        /// Images to make: tiny, smoke, debian, python, node, pyds, nodeapp, ...
        names: Vec<String>,
    },
    /// Measure contestants
    Run {
        /// What to measure
        suite: Suite,
        #[command(flatten)]
        options: Options,
        /// Who takes part in unpacking: unlade, unlade-ring, unlade-16m, tar, tar-pigz, bsdtar,
        /// umoci, umoci-raw; in pulling: unlade-overlay, unlade-erofs, unlade-btrfs,
        /// unlade-reflink, unlade-copy, unlade-noblobs, containerd, containerd-tuned, podman,
        /// skopeo-umoci, dockerd; in starting: runc, crun, netavark, unlade-runc, unlade-crun,
        /// unlade-erofs-runc, unlade-erofs-crun, podman-runc, podman-crun, ctr, docker
        #[arg(long, value_delimiter = ',')]
        contestant: Vec<String>,
        /// Parts of the pull suite to run [default: all]
        #[arg(long, value_delimiter = ',')]
        part: Vec<pull::Part>,
        /// Scenes of the start suite to run [default: all]
        #[arg(long, value_delimiter = ',')]
        scene: Vec<start::Scene>,
        /// The unlade binary
        #[arg(long, default_value_os_t = default_unlade())]
        unlade: PathBuf,
        /// Leave light out
        #[arg(long)]
        no_light: bool,
    },
    /// Measure the speed of light alone
    Light {
        /// Workloads, such as nodeapp, node-zstd or debian-tar
        #[arg(required = true)]
        workloads: Vec<String>,
        #[command(flatten)]
        options: Options,
        /// Of a pull: receive the blobs from a loopback registry
        #[arg(long)]
        pull: bool,
    },
    /// Compare two unlade binaries; exit 1 if B is slower beyond noise
    Compare {
        /// The binary before
        a: PathBuf,
        /// The binary after
        b: PathBuf,
        #[command(flatten)]
        options: Options,
        /// An argument for both, such as --arg=--io=ring; may be given several times
        #[arg(long = "arg", allow_hyphen_values = true)]
        extra: Vec<String>,
    },
    #[command(name = "_child", hide = true)]
    Child { spec: String },
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// Where workloads are kept [default: $UNLADE_PERF_DIR or /var/tmp/unlade-perf]
    #[arg(long)]
    pub(super) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Where workloads are kept.
    #[command(flatten)]
    pub(super) place: Place,
    /// Workloads, such as nodeapp, node-zstd or debian-tar
    #[arg(long, value_delimiter = ',')]
    pub(super) workload: Vec<String>,
    /// File systems
    #[arg(long, value_delimiter = ',')]
    pub(super) fs: Vec<FsKind>,
    /// Rounds (of start-up latency: ten times as many; of container starts: 100)
    #[arg(long)]
    pub(super) runs: Option<usize>,
    /// Do not touch memory before each run
    #[arg(long)]
    pub(super) no_prime: bool,
    /// Where the file system images lie
    #[arg(long, default_value = "auto")]
    pub(super) backing: Backing,
    /// Directory for the report, as JSON and Markdown
    #[arg(long)]
    pub(super) out: Option<PathBuf>,
}
