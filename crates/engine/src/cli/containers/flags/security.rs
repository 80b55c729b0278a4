//! Flags of what a container may do, and of what it sees of the machine.

use clap::Args;

/// What it may do, and what it sees of the machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Security and namespaces")]
pub(in crate::cli::containers) struct SecurityFlags {
    /// Keep nothing from it.
    #[arg(long)]
    pub(in crate::cli::containers) privileged: bool,

    /// Add a capability; ALL for all.
    #[arg(long, value_name = "CAPABILITY")]
    pub(in crate::cli::containers) cap_add: Vec<String>,

    /// Drop a capability; ALL for all.
    #[arg(long, value_name = "CAPABILITY")]
    pub(in crate::cli::containers) cap_drop: Vec<String>,

    /// seccomp=FILE|unconfined, apparmor=PROFILE, label=…, no-new-privileges,
    /// systempaths=unconfined.
    #[arg(long, value_name = "OPTION")]
    pub(in crate::cli::containers) security_opt: Vec<String>,

    /// What rules that the image carries may do: narrow, replace or ignore.
    #[arg(
        long,
        value_name = "HOW",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) image_security: String,

    /// Kernel parameter: KEY=VALUE.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(in crate::cli::containers) sysctl: Vec<String>,

    /// Namespace of processes: host or container:CONTAINER.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) pid: String,

    /// IPC namespace: private, shareable, none, host or container:CONTAINER.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) ipc: String,

    /// UTS namespace: host.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) uts: String,

    /// User namespace: host.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) userns: String,

    /// How it is kept apart; on Linux there is only default.
    #[arg(
        long,
        value_name = "HOW",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) isolation: String,

    /// Namespace of control groups: host or private.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) cgroupns: String,
}
