//! Where containers run: a network, a `/run` and a `/dev/shm` of our own, so that bridges, firewall
//! rules, addresses, locks and sockets of this run meet nobody else's, and are gone with it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::sys;

/// The second cgroup hierarchy of a hybrid layout. crun refuses to run where it is mounted.
const UNIFIED: &str = "/sys/fs/cgroup/unified";
/// Where engines keep what is no store: short, for sockets are made in it.
pub(crate) const SCRATCH: &str = "/run/perf";

/// Enters it; mounts must be private already. `crun` says whether crun takes part. Returns what a
/// reader of the report should know.
pub(crate) fn enter(crun: bool) -> Result<String> {
    for (dir, options) in [("/run", c"mode=755"), ("/dev/shm", c"mode=1777")] {
        mount("tmpfs", dir, "tmpfs", MountFlags::empty(), options)
            .with_context(|| format!("mount a tmpfs on {dir}"))?;
    }
    std::fs::create_dir(SCRATCH)?;
    sys::private_network()?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("start ip (Debian: iproute2)")?;
    ensure!(status.success(), "ip link set lo up: {status}");
    // Orphans of engines become ours, so that somebody waits for them.
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
        .context("become the parent of orphans")?;
    let mut said =
        "Everything runs in one network namespace, `/run` and `/dev/shm` of perf's own".to_owned();
    if crun && Path::new(UNIFIED).join("cgroup.procs").exists() {
        unmount(UNIFIED, UnmountFlags::empty()).context("unmount the unified cgroup hierarchy")?;
        said.push_str(&format!(
            ", and for all contestants alike `{UNIFIED}` is unmounted there, since crun refuses \
             hybrid cgroups"
        ));
    }
    said.push('.');
    Ok(said)
}

/// Waits for orphans that have ended. Only while no command is being waited for.
pub(crate) fn reap() {
    use rustix::process::{WaitOptions, wait};
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
