//! The flags of `run` and `create`, as they are typed. [`super::request`] makes a request of them.

mod network;
mod resources;
mod security;

use std::path::PathBuf;

use clap::{ArgAction, Args};

pub(super) use self::{network::NetworkFlags, resources::ResourceFlags, security::SecurityFlags};
use crate::{cli::trust::Trust, image::Platform};

/// What a container is to be, by docker's flags.
#[derive(Debug, Args)]
pub(super) struct Flags {
    /// Show this help.
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// Name of the container; by default two words and an underscore.
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,

    /// The image to take if it names several: os/arch[/variant]. Default: this machine's.
    #[arg(long, value_name = "PLATFORM")]
    pub(super) platform: Option<Platform>,

    /// Whether to pull the image first: always, missing or never.
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub(super) pull: String,

    /// Say nothing while the image is pulled.
    #[arg(short, long)]
    pub(super) quiet: bool,

    #[command(flatten)]
    pub(super) trust: Trust,

    /// Write the container's id to a file, which must not exist.
    #[arg(long, value_name = "FILE")]
    pub(super) cidfile: Option<PathBuf>,

    /// Remove the container when it ends.
    #[arg(long)]
    pub(super) rm: bool,

    /// OCI runtime: a name (runc, crun) or a path.
    #[arg(
        long,
        value_name = "RUNTIME",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) runtime: String,

    /// Give it a terminal.
    #[arg(short, long)]
    pub(super) tty: bool,

    /// Keep standard input open.
    #[arg(short, long)]
    pub(super) interactive: bool,

    /// Stream to attach to: stdin, stdout or stderr.
    #[arg(short, long, value_name = "STREAM")]
    pub(super) attach: Vec<String>,

    /// Set an environment variable: NAME=VALUE, or NAME for the caller's.
    #[arg(short, long, value_name = "NAME[=VALUE]", allow_hyphen_values = true)]
    pub(super) env: Vec<String>,

    /// Read environment variables from a file, one a line.
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,

    /// Set a label: KEY[=VALUE].
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub(super) label: Vec<String>,

    /// Read labels from a file, one a line.
    #[arg(long, value_name = "FILE")]
    pub(super) label_file: Vec<PathBuf>,

    /// Set an annotation of the OCI runtime: KEY[=VALUE].
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub(super) annotation: Vec<String>,

    /// Run this instead of the image's entrypoint; empty for none.
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub(super) entrypoint: Option<String>,

    /// Working directory.
    #[arg(
        short,
        long,
        value_name = "DIR",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) workdir: String,

    /// User: name|uid[:group|gid].
    #[arg(
        short,
        long,
        value_name = "USER",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) user: String,

    /// Further group.
    #[arg(long, value_name = "GROUP")]
    pub(super) group_add: Vec<String>,

    /// Host name.
    #[arg(
        short = 'h',
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) hostname: String,

    /// NIS domain name.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) domainname: String,

    /// Run an init as the first process: it passes signals on and reaps.
    #[arg(long)]
    pub(super) init: Option<bool>,

    /// Signal that asks it to stop.
    #[arg(long, value_name = "SIGNAL")]
    pub(super) stop_signal: Option<String>,

    /// Seconds from that signal to SIGKILL.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    pub(super) stop_timeout: Option<i64>,

    /// When it ends: no, always, unless-stopped or on-failure[:RETRIES].
    #[arg(long, value_name = "POLICY", default_value = "no")]
    pub(super) restart: String,

    /// Docker's socket in the container: refused, since there is no daemon to speak to.
    #[arg(long, hide = true)]
    pub(super) use_api_socket: bool,

    #[command(flatten)]
    pub(super) storage: StorageFlags,
    #[command(flatten)]
    pub(super) network: NetworkFlags,
    #[command(flatten)]
    pub(super) resources: ResourceFlags,
    #[command(flatten)]
    pub(super) security: SecurityFlags,
    #[command(flatten)]
    pub(super) health: HealthFlags,

    /// Where its output goes: json-file, local, k8s-file or none.
    #[arg(
        long,
        value_name = "DRIVER",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) log_driver: String,

    /// Option of that, KEY=VALUE: max-size, max-file, compress, mode, max-buffer-size, labels, env.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) log_opt: Vec<String>,
}

/// Mounts and the root.
#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
pub(super) struct StorageFlags {
    /// Mount a directory or volume: [SOURCE:]TARGET[:OPTIONS].
    #[arg(short, long, value_name = "VOLUME")]
    pub(super) volume: Vec<String>,

    /// Mount: type=bind|volume|tmpfs|image,source=…,target=…[,…].
    #[arg(long, value_name = "MOUNT")]
    pub(super) mount: Vec<String>,

    /// Mount a tmpfs: TARGET[:OPTIONS].
    #[arg(long, value_name = "TARGET")]
    pub(super) tmpfs: Vec<String>,

    /// Mount the volumes of another container: CONTAINER[:ro|rw].
    #[arg(long, value_name = "CONTAINER")]
    pub(super) volumes_from: Vec<String>,

    /// Driver of the volumes that are made for it; there is only local.
    #[arg(
        long,
        value_name = "DRIVER",
        default_value = "",
        hide_default_value = true
    )]
    pub(super) volume_driver: String,

    /// Make the root read-only.
    #[arg(long)]
    pub(super) read_only: bool,

    /// Option of the graph driver: size=10g limits what the container's own files take.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) storage_opt: Vec<String>,
}

/// How its health is found out.
#[derive(Debug, Args)]
#[command(next_help_heading = "Health")]
pub(super) struct HealthFlags {
    /// Command that checks its health.
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub(super) health_cmd: Option<String>,

    /// Time between two checks, such as 30s.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) health_interval: Option<String>,

    /// Failures in a row until it is unhealthy.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) health_retries: Option<i64>,

    /// Most time for one check.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) health_timeout: Option<String>,

    /// Time from the start in which failures do not count.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) health_start_period: Option<String>,

    /// Time between two checks in the start period.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) health_start_interval: Option<String>,

    /// Do not check its health, whatever the image says.
    #[arg(long)]
    pub(super) no_healthcheck: bool,
}

/// `IMAGE [COMMAND [ARG…]]`: what follows the image is the container's, whatever it looks like.
#[derive(Debug, Args)]
pub(super) struct Words {
    /// The image, and what runs in it instead of what the image says.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "IMAGE [COMMAND [ARG...]]"
    )]
    words: Vec<String>,
}

impl Words {
    /// The image.
    pub(super) fn image(&self) -> &str {
        self.words.first().map_or("", |w| w)
    }

    /// Command and arguments.
    pub(super) fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}
