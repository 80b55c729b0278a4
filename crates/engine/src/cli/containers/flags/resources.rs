//! Flags of what a container may use of the machine.

use clap::Args;

/// What it may use of the machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Resources")]
pub(in crate::cli::containers) struct ResourceFlags {
    /// Memory, such as 512m.
    #[arg(short, long, value_name = "BYTES")]
    pub(in crate::cli::containers) memory: Option<String>,

    /// Memory and swap together; -1 for swap without a limit.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub(in crate::cli::containers) memory_swap: Option<String>,

    /// Memory that it is pressed down to when memory is short.
    #[arg(long, value_name = "BYTES")]
    pub(in crate::cli::containers) memory_reservation: Option<String>,

    /// How willingly its memory is swapped out, 0 to 100.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(in crate::cli::containers) memory_swappiness: Option<i64>,

    /// Do not kill it for want of memory.
    #[arg(long)]
    pub(in crate::cli::containers) oom_kill_disable: Option<bool>,

    /// How willingly the kernel kills it, -1000 to 1000.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(in crate::cli::containers) oom_score_adj: i32,

    /// CPUs, such as 1.5.
    #[arg(long, value_name = "N")]
    pub(in crate::cli::containers) cpus: Option<String>,

    /// Relative weight of CPU time.
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(in crate::cli::containers) cpu_shares: i64,

    /// Period of CPU time, in microseconds.
    #[arg(
        long,
        value_name = "MICROSECONDS",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(in crate::cli::containers) cpu_period: i64,

    /// CPU time in each period, in microseconds.
    #[arg(
        long,
        value_name = "MICROSECONDS",
        allow_negative_numbers = true,
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(in crate::cli::containers) cpu_quota: i64,

    /// Period of real-time CPU time, in microseconds; the kernel's is a second.
    #[arg(
        long,
        value_name = "MICROSECONDS",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(in crate::cli::containers) cpu_rt_period: i64,

    /// Real-time CPU time in each such period, in microseconds. It needs control groups of v1.
    #[arg(
        long,
        value_name = "MICROSECONDS",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub(in crate::cli::containers) cpu_rt_runtime: i64,

    /// CPUs that it may run on: 0-3,7.
    #[arg(
        long,
        value_name = "CPUS",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) cpuset_cpus: String,

    /// Memory nodes that it may use.
    #[arg(
        long,
        value_name = "NODES",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) cpuset_mems: String,

    /// Weight of block I/O, 10 to 1000.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(in crate::cli::containers) blkio_weight: u16,

    /// Weight of block I/O on one disk: PATH:WEIGHT.
    #[arg(long, value_name = "DEVICE")]
    pub(in crate::cli::containers) blkio_weight_device: Vec<String>,

    /// Bytes that may be read from a disk each second: PATH:RATE, such as /dev/sda:1mb.
    #[arg(long, value_name = "DEVICE")]
    pub(in crate::cli::containers) device_read_bps: Vec<String>,

    /// Bytes that may be written to a disk each second: PATH:RATE.
    #[arg(long, value_name = "DEVICE")]
    pub(in crate::cli::containers) device_write_bps: Vec<String>,

    /// Reads of a disk each second: PATH:NUMBER.
    #[arg(long, value_name = "DEVICE")]
    pub(in crate::cli::containers) device_read_iops: Vec<String>,

    /// Writes to a disk each second: PATH:NUMBER.
    #[arg(long, value_name = "DEVICE")]
    pub(in crate::cli::containers) device_write_iops: Vec<String>,

    /// Memory of the kernel: passed over with a warning, since kernels no longer limit it.
    #[arg(long, value_name = "BYTES", hide = true)]
    pub(in crate::cli::containers) kernel_memory: Option<String>,

    /// Most processes; -1 for no limit.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(in crate::cli::containers) pids_limit: Option<i64>,

    /// Resource limit: NAME=SOFT[:HARD].
    #[arg(long, value_name = "LIMIT")]
    pub(in crate::cli::containers) ulimit: Vec<String>,

    /// Size of /dev/shm.
    #[arg(long, value_name = "BYTES")]
    pub(in crate::cli::containers) shm_size: Option<String>,

    /// Device of the host: PATH[:PATH][:PERMISSIONS], or vendor.com/class=NAME of CDI.
    #[arg(long, value_name = "DEVICE")]
    pub(in crate::cli::containers) device: Vec<String>,

    /// GPUs, through CDI: all, how many, or device=…; a list in quotes: '"device=0,1"'.
    #[arg(long, value_name = "GPUS")]
    pub(in crate::cli::containers) gpus: Vec<String>,

    /// Rule for devices: TYPE MAJOR:MINOR PERMISSIONS.
    #[arg(long, value_name = "RULE")]
    pub(in crate::cli::containers) device_cgroup_rule: Vec<String>,

    /// Control group under which its own is made.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "",
        hide_default_value = true
    )]
    pub(in crate::cli::containers) cgroup_parent: String,
}
