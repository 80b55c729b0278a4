//! The command line, as it is typed and as `--help` explains it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use unlade_unpack::{IoChoice, Limits, Owners, Whiteouts};

use super::{
    completion, containers, exchange, files, globals::Globals, images, inspect, man, mounts,
    namespaces, networks, pull, registries, system, values, version, volumes,
};
use crate::{image::Platform, source::Source};

/// A lean container engine: pulls, keeps, mounts and pushes OCI and Docker images, fast.
#[derive(Debug, Parser)]
#[command(name = "unlade", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) globals: Globals,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    #[command(flatten)]
    Verb(containers::Verb),
    #[command(flatten)]
    Files(exchange::Verb),
    /// Manage containers.
    #[command(subcommand)]
    Container(containers::Container),
    /// Show what happens to containers.
    Events(containers::EventsArgs),
    /// Pull an image from a registry.
    Pull(pull::PullArgs),
    /// Push an image to a registry.
    Push(registries::PushArgs),
    /// List images.
    Images(images::ImagesArgs),
    /// Show all details of containers, images, networks and volumes.
    Inspect(inspect::InspectArgs),
    /// Show how an image came to be.
    History(images::HistoryArgs),
    /// Give an image a further name.
    Tag(images::TagArgs),
    /// Remove images.
    Rmi(images::RmiArgs),
    /// Write images to an archive.
    Save(files::SaveArgs),
    /// Read images from an archive.
    Load(files::LoadArgs),
    /// Make an image of one layer from a tar.
    Import(files::ImportArgs),
    /// Manage images.
    #[command(subcommand)]
    Image(Image),
    /// Manage networks.
    #[command(subcommand)]
    Network(networks::NetworkCommand),
    /// Manage volumes.
    #[command(subcommand)]
    Volume(volumes::VolumeCommand),
    /// Manage the store.
    #[command(subcommand)]
    System(System),
    /// Show the graph driver, and why it is used, and other facts.
    Info(system::InfoArgs),
    /// Show the version of this program, and of the kernel and the runtime.
    Version(version::VersionArgs),
    /// Log in to a registry.
    Login(registries::LoginArgs),
    /// Log out of a registry.
    Logout(registries::LogoutArgs),
    /// Unpack an image to a directory, or verify it.
    Unpack(Box<UnpackArgs>),
    /// Decode a gzip file to standard output, with several threads if it is large.
    Gunzip(super::gunzip::GunzipArgs),
    /// Run a command in the namespaces of your containers: an ordinary user is root there, and sees
    /// what is mounted.
    Unshare(namespaces::UnshareArgs),
    /// Print a script that lets a shell complete commands, flags and names.
    Completion(completion::CompletionArgs),
    /// Write manual pages, one for each command.
    Man(man::ManArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// List images.
    #[command(visible_alias = "list")]
    Ls(images::ImagesArgs),
    /// Pull an image from a registry.
    Pull(pull::PullArgs),
    /// Push an image to a registry.
    Push(registries::PushArgs),
    /// Show all of an image's details.
    Inspect(images::InspectArgs),
    /// Show how an image came to be.
    History(images::HistoryArgs),
    /// Give an image a further name.
    Tag(images::TagArgs),
    /// Remove images.
    #[command(visible_alias = "remove")]
    Rm(images::RmiArgs),
    /// Write images to an archive.
    Save(files::SaveArgs),
    /// Read images from an archive.
    Load(files::LoadArgs),
    /// Make an image of one layer from a tar.
    Import(files::ImportArgs),
    /// Remove images without a name, or all that are not in use.
    Prune(images::PruneArgs),
    /// Mount an image's tree at a directory.
    Mount(mounts::MountArgs),
    /// Undo `image mount`.
    #[command(visible_alias = "umount")]
    Unmount(mounts::UnmountArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum System {
    /// Start containers by their restart policies, once after each boot of the machine.
    Boot(system::BootArgs),
    /// Check the whole store, and repair it.
    Check(system::CheckArgs),
    /// Show what the store takes of the disk.
    Df(system::DfArgs),
    /// Remove containers that do not run, and what nothing needs.
    Prune(system::PruneArgs),
    /// Wait until everything in the store is on the disk.
    Flush(super::flush::FlushArgs),
    /// Show the graph driver, and why it is used, and other facts.
    Info(system::InfoArgs),
    /// Show what happens to containers.
    Events(containers::EventsArgs),
}

const AFTER: &str = "\
Sources:
  oci:DIR[:REF|@DIGEST]       OCI image layout
  oci-archive:FILE[:REF]      tar file of an OCI image layout
  docker-archive:FILE[:REF]   what `docker save` and `podman save` write
  layer:FILE, layer:-         one layer, from a file or a pipe
Paths may hold colons: what follows the scheme is a path if it exists as it stands, and else is
split at the last `:` or `@` before which there is something that exists.
A compressed archive, or one from a pipe, is first decoded to a nameless temporary file beside DEST,
with --verify in $TMPDIR.

Exit codes: 0 done, 1 bad input or host error, 2 usage, 125 defect of unlade, 128+N signal N.
UNLADE_LOG=debug writes a log to stderr.";

#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(super) struct UnpackArgs {
    /// The image; see below.
    #[arg(value_parser = values::source())]
    pub(super) source: Source,

    /// Directory that is to appear: absent or empty, in a directory that exists.
    #[arg(required_unless_present = "verify", conflicts_with = "verify")]
    pub(super) dest: Option<PathBuf>,

    /// Which image of several: os/arch[/variant]. Default: this machine's.
    #[arg(long, value_name = "PLATFORM")]
    pub(super) platform: Option<Platform>,

    /// Whose the files are: archive (as the image says), caller, map:INSIDE:OUTSIDE:COUNT[,…] or
    /// map:uids=…;gids=…. Default: archive for root, else caller.
    #[arg(long, value_name = "OWNERS", value_parser = values::owners)]
    pub(super) owners: Option<Owners>,

    /// What becomes of whiteouts. With overlay, DEST gets one directory a layer.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = WhiteoutsArg::Apply)]
    pub(super) whiteouts: WhiteoutsArg,

    /// How files are written.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = IoArg::Auto)]
    pub(super) io: IoArg,

    /// Threads that write. Default: the number of cores.
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(super) threads: Option<usize>,

    /// Threads that decode a large gzip layer; 1 streams it in order. Default: by idle cores.
    #[arg(long, value_name = "N", value_parser = values::count)]
    pub(super) decode_threads: Option<usize>,

    /// Memory for decoded data, such as 64MiB; 4MiB at least. Default: 256MiB.
    #[arg(long, value_name = "SIZE", value_parser = values::memory)]
    pub(super) memory: Option<u64>,

    /// Verify all digests, the tar's structure and the names; write no tree. What only a tree can
    /// show is not looked at, such as a hard link to a file that is not there.
    #[arg(long)]
    pub(super) verify: bool,

    /// Replace what is at DEST, unless the source is in it.
    #[arg(long, conflicts_with = "verify")]
    pub(super) force: bool,

    /// Believe the bytes, not the media type, about a layer's compression.
    #[arg(long)]
    pub(super) sniff: bool,

    /// Write a report as JSON to a file that is not in DEST, or - for stdout.
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,

    /// When to show a bar for each layer.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = When::Auto)]
    pub(super) progress: When,

    /// Say nothing but errors.
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// Do not take write access to everything but DEST's parent from this process.
    #[arg(long)]
    pub(super) no_sandbox: bool,

    #[command(flatten)]
    pub(super) limits: LimitArgs,
}

/// Defaults are [`Limits`]'s, but for the number of layers.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// Layers of an image.
    #[arg(long = "limit-layers", value_name = "N", default_value_t = 1000)]
    pub(super) layers: usize,

    /// Entries of a layer [default: 10 million].
    #[arg(long = "limit-entries", value_name = "N")]
    entries: Option<u64>,

    /// Bytes of a path [default: 64KiB].
    #[arg(long = "limit-path-bytes", value_name = "SIZE", value_parser = values::size_usize)]
    path_bytes: Option<usize>,

    /// Components of a path [default: 4096].
    #[arg(long = "limit-path-depth", value_name = "N")]
    path_depth: Option<usize>,

    /// Bytes of a symbolic link's target [default: 4095].
    #[arg(long = "limit-symlink-bytes", value_name = "SIZE", value_parser = values::size_usize)]
    symlink_bytes: Option<usize>,

    /// Bytes of an extended header [default: 1MiB].
    #[arg(long = "limit-meta-bytes", value_name = "SIZE", value_parser = values::size)]
    meta_bytes: Option<u64>,

    /// Bytes of an extended attribute's value [default: 64KiB].
    #[arg(long = "limit-xattr-bytes", value_name = "SIZE", value_parser = values::size_usize)]
    xattr_value_bytes: Option<usize>,

    /// Extended attributes of an entry [default: 256].
    #[arg(long = "limit-xattrs", value_name = "N")]
    xattrs: Option<usize>,

    /// Bytes of a sparse file's map [default: 1MiB].
    #[arg(long = "limit-sparse-map-bytes", value_name = "SIZE", value_parser = values::size)]
    sparse_map_bytes: Option<u64>,

    /// Uncompressed bytes of a layer [default: 128GiB].
    #[arg(long = "limit-layer-bytes", value_name = "SIZE", value_parser = values::size)]
    layer_bytes: Option<u64>,

    /// Uncompressed for each compressed byte, after 64 MiB [default: 1000].
    #[arg(long = "limit-ratio", value_name = "N")]
    ratio: Option<u64>,

    /// Largest zstd window [default: 128MiB].
    #[arg(long = "limit-zstd-window", value_name = "SIZE", value_parser = values::size)]
    zstd_window_bytes: Option<u64>,

    /// Seconds that a source may be silent [default: 60].
    #[arg(long = "limit-idle", value_name = "SECONDS", value_parser = values::seconds)]
    idle: Option<Duration>,
}

impl LimitArgs {
    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        macro_rules! take {
            ($($field:ident)*) => {
                $(if let Some(limit) = self.$field { limits.$field = limit; })*
            };
        }
        take!(entries path_bytes path_depth symlink_bytes meta_bytes xattr_value_bytes xattrs);
        take!(sparse_map_bytes layer_bytes ratio zstd_window_bytes idle);
        limits
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum When {
    /// If stderr is a terminal.
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum WhiteoutsArg {
    /// Remove what they hide.
    Apply,
    /// A directory a layer, with overlayfs's whiteouts. Needs root.
    Overlay,
    /// The same with user.overlay attributes.
    OverlayUserxattr,
    /// Keep them as files.
    Keep,
}

impl From<WhiteoutsArg> for Whiteouts {
    fn from(arg: WhiteoutsArg) -> Self {
        match arg {
            WhiteoutsArg::Apply => Self::Apply,
            WhiteoutsArg::Overlay => Self::Overlay,
            WhiteoutsArg::OverlayUserxattr => Self::OverlayUserXattr,
            WhiteoutsArg::Keep => Self::Keep,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum IoArg {
    /// What is fastest here.
    Auto,
    /// Ordinary system calls on several threads.
    Threads,
    /// The kernel's io_uring.
    Ring,
}

impl From<IoArg> for IoChoice {
    fn from(arg: IoArg) -> Self {
        match arg {
            IoArg::Auto => Self::Auto,
            IoArg::Threads => Self::Threads,
            IoArg::Ring => Self::Ring,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_limit_has_an_option() {
        let parse = |extra: &[&str]| {
            let base = ["unlade", "unpack", "layer:-", "d"];
            match Cli::try_parse_from(base.iter().chain(extra))
                .unwrap()
                .command
            {
                Command::Unpack(args) => args.limits.limits(),
                _ => unreachable!("it was told to unpack"),
            }
        };
        assert_eq!(parse(&[]), Limits::default());
        let changed = parse(&[
            "--limit-entries=1",
            "--limit-path-bytes=2",
            "--limit-path-depth=3",
            "--limit-symlink-bytes=4",
            "--limit-meta-bytes=5",
            "--limit-xattr-bytes=6",
            "--limit-xattrs=7",
            "--limit-sparse-map-bytes=8k",
            "--limit-layer-bytes=1GiB",
            "--limit-ratio=10",
            "--limit-zstd-window=8MiB",
            "--limit-idle=1.5",
        ]);
        let expected = Limits {
            entries: 1,
            path_bytes: 2,
            path_depth: 3,
            symlink_bytes: 4,
            meta_bytes: 5,
            xattr_value_bytes: 6,
            xattrs: 7,
            sparse_map_bytes: 8192,
            layer_bytes: 1 << 30,
            ratio: 10,
            zstd_window_bytes: 8 << 20,
            idle: Duration::from_millis(1500),
        };
        assert_eq!(changed, expected);
    }

    #[test]
    fn usage_errors() {
        for args in [
            &["unlade", "unpack", "layer:-"][..],
            &["unlade", "unpack", "nothing:x", "d"],
            &["unlade", "unpack", "layer:-", "d", "--verify"],
            &["unlade", "unpack", "layer:-", "--verify", "--force"],
            &["unlade", "unpack", "layer:-", "d", "--threads=0"],
            &["unlade", "unpack", "layer:-", "d", "--memory=lots"],
            &["unlade", "unpack", "layer:-", "d", "--memory=0"],
            &["unlade", "unpack", "layer:-", "d", "--memory=4095k"],
            &["unlade", "unpack", "layer:-", "d", "--owners=root"],
            &["unlade", "unpack", "layer:-", "d", "--platform=linux"],
        ] {
            assert!(Cli::try_parse_from(args).is_err(), "{args:?}");
        }
    }
}
