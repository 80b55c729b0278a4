//! What this host is like, as far as a spec depends on it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What this host is like. Gathered once a process; [`super::assemble`] reads nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct HostFacts {
    /// Its name.
    pub hostname: String,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// Go's name of the architecture: `amd64`, `arm64`, …
    pub arch: String,
    /// Whether control groups are of version 2 alone.
    pub cgroup_v2: bool,
    /// Controllers that there are (`memory`, `cpu`, `pids`, …).
    pub controllers: BTreeSet<String>,
    /// Whether swap is counted (`memory.memsw.*`, `memory.swap.max`).
    pub swap_limit: bool,
    /// Whether block I/O can be weighted.
    pub blkio_weight: bool,
    /// The engine's bounding set, as `CAP_…`.
    pub bounding: BTreeSet<String>,
    /// Whether the kernel has time namespaces.
    pub time_namespace: bool,
    /// Whether the kernel has namespaces of control groups.
    pub cgroup_namespace: bool,
    /// Whether the engine is in a user namespace (rootless).
    pub in_user_namespace: bool,
    /// Whether AppArmor is on.
    pub apparmor: bool,
    /// The profile for containers that is loaded, if one is.
    pub apparmor_profile: Option<String>,
    /// Whether SELinux is on.
    pub selinux: bool,
    /// CPUs that there are, as `0-3,7`.
    pub cpus: String,
    /// Memory nodes that there are.
    pub mems: String,
    /// Directories that show when CPUs are throttled: masked, since they are a side channel.
    pub thermal_throttle: Vec<String>,
    /// Whether the engine may raise hard limits (CAP_SYS_RESOURCE).
    pub may_raise_limits: bool,
    /// The engine's hard limits by name (`nofile`); no entry for unlimited.
    pub hard_limits: std::collections::BTreeMap<String, u64>,
    /// The engine's own OOM score adjustment.
    pub oom_score_adj: i32,
}
