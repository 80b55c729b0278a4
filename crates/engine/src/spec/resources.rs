//! Limits of a container's control group. The spec's terms are those of cgroup v1; the runtime
//! translates them for v2.

use oci_spec::runtime::{LinuxCpu, LinuxCpuBuilder, LinuxMemory, LinuxPids, LinuxResources};

use super::{
    blkio, bounds, cdi, devices,
    explain::{Notes, Origin},
    host::HostFacts,
    place::Placement,
    request::HostConfig,
};
use crate::error::{Error, Kind, Result};

/// Microseconds of a period, where the request gives CPUs.
const PERIOD: i64 = 100_000;

/// Refuses limits that are none, and says which of them this host will pass over.
pub(super) fn check(h: &HostConfig, host: &HostFacts) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    limits(h, host, &mut warnings)?;
    blkio::check(h, host, &mut warnings)?;
    devices::rules(&h.device_cgroup_rules)?;
    cdi::names(&h.device_requests)?;
    Ok(warnings)
}

/// Which limits count on this host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    memory: Option<i64>,
    swap: Option<i64>,
    reservation: Option<i64>,
    swappiness: Option<u64>,
    no_oom_kill: Option<bool>,
    shares: Option<u64>,
    quota: Option<i64>,
    period: Option<u64>,
    realtime_runtime: Option<i64>,
    realtime_period: Option<u64>,
    cpus: Option<String>,
    mems: Option<String>,
    pids: Option<i64>,
}

fn limits(h: &HostConfig, host: &HostFacts, warnings: &mut Vec<String>) -> Result<Limits> {
    let mut out = Limits::default();
    let mut has = |controller: &str, what: &str, wanted: bool| {
        if wanted && !host.controllers.contains(controller) {
            warnings.push(format!(
                "{what} is passed over: this host gives no control group controller `{controller}`"
            ));
            return false;
        }
        wanted
    };
    bounds::check(h, host)?;
    if has("memory", "the memory limit", h.memory > 0) {
        out.memory = Some(h.memory);
        out.swap = match h.memory_swap {
            0 => h.memory.checked_mul(2),
            n => Some(n),
        };
    }
    if has("memory", "--memory-reservation", h.memory_reservation > 0) {
        out.reservation = Some(h.memory_reservation);
    }
    let swappiness = h.memory_swappiness.filter(|n| *n >= 0);
    if has("memory", "--memory-swappiness", swappiness.is_some()) {
        out.swappiness = swappiness.and_then(|n| u64::try_from(n).ok());
    }
    if has(
        "memory",
        "--oom-kill-disable",
        h.oom_kill_disable == Some(true),
    ) {
        out.no_oom_kill = Some(true);
    }
    if has("cpu", "--cpu-shares", h.cpu_shares > 0) {
        // The kernel's own bounds, which Docker applies too.
        out.shares = u64::try_from(h.cpu_shares.clamp(2, 262_144)).ok();
    }
    if has("cpu", "--cpus", h.nano_cpus > 0) {
        out.period = u64::try_from(PERIOD).ok();
        let quota = i128::from(h.nano_cpus) * i128::from(PERIOD) / 1_000_000_000;
        out.quota = i64::try_from(quota).ok();
    } else if has(
        "cpu",
        "the CPU quota",
        h.cpu_quota != 0 || h.cpu_period != 0,
    ) {
        out.period = u64::try_from(h.cpu_period).ok().filter(|n| *n > 0);
        out.quota = Some(h.cpu_quota).filter(|n| *n != 0);
    }
    out.realtime_runtime = Some(h.cpu_realtime_runtime).filter(|n| *n > 0);
    out.realtime_period = u64::try_from(h.cpu_realtime_period).ok().filter(|n| *n > 0);
    let set = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    if has("cpuset", "--cpuset-cpus", !h.cpuset_cpus.is_empty()) {
        out.cpus = set(&h.cpuset_cpus);
    }
    if has("cpuset", "--cpuset-mems", !h.cpuset_mems.is_empty()) {
        out.mems = set(&h.cpuset_mems);
    }
    // No limit is what there is without one; crun 1.8 cannot write -1 to cgroup v1.
    let pids = h.pids_limit.filter(|n| *n > 0);
    if has("pids", "--pids-limit", pids.is_some()) {
        out.pids = pids;
    }
    without_what_the_kernel_lacks(&mut out, h, host, warnings);
    Ok(out)
}

fn without_what_the_kernel_lacks(
    out: &mut Limits,
    h: &HostConfig,
    host: &HostFacts,
    warnings: &mut Vec<String>,
) {
    if out.swap.is_some() && !host.swap_limit {
        out.swap = None;
        if h.memory_swap > 0 {
            let m = "--memory-swap is passed over: this kernel does not count swap";
            warnings.push(m.to_owned());
        }
    }
    if host.cgroup_v2 {
        if out.swappiness.take().is_some() {
            let m = "--memory-swappiness is passed over: cgroup v2 has none";
            warnings.push(m.to_owned());
        }
        if out.no_oom_kill.take().is_some() {
            let m = "--oom-kill-disable is passed over: cgroup v2 has none";
            warnings.push(m.to_owned());
        }
    } else if out.no_oom_kill.is_some() && out.memory.is_none() {
        let m = "--oom-kill-disable without a limit of memory can hang the host";
        warnings.push(m.to_owned());
    }
}

/// The resources of a container.
pub(super) fn assemble(
    h: &HostConfig,
    host: &HostFacts,
    place: &Placement,
    notes: &mut Notes,
) -> Result<LinuxResources> {
    let limits = limits(h, host, &mut Vec::new())?;
    let mut out = LinuxResources::default();
    out.set_devices(Some(devices::allowed(h, &place.devices, notes)?));
    for (path, flag, given) in [
        ("memory.limit", "--memory", limits.memory.is_some()),
        ("memory.swap", "--memory-swap", h.memory_swap != 0),
        ("memory.reservation", "--memory-reservation", true),
        ("memory.swappiness", "--memory-swappiness", true),
        ("memory.disableOOMKiller", "--oom-kill-disable", true),
        ("cpu.shares", "--cpu-shares", true),
        (
            "cpu.quota",
            if h.nano_cpus > 0 {
                "--cpus"
            } else {
                "--cpu-quota"
            },
            true,
        ),
        (
            "cpu.period",
            if h.nano_cpus > 0 {
                "--cpus"
            } else {
                "--cpu-period"
            },
            true,
        ),
        ("cpu.realtimeRuntime", "--cpu-rt-runtime", true),
        ("cpu.realtimePeriod", "--cpu-rt-period", true),
        ("cpu.cpus", "--cpuset-cpus", true),
        ("cpu.mems", "--cpuset-mems", true),
        ("pids.limit", "--pids-limit", true),
    ] {
        let origin = if given { Origin::User } else { Origin::Default };
        let detail = if given { flag } else { "twice the memory" };
        notes.set(format!("linux.resources.{path}"), origin, detail);
    }
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(limits.memory)
        .set_swap(limits.swap)
        .set_reservation(limits.reservation)
        .set_swappiness(limits.swappiness)
        .set_disable_oom_killer(limits.no_oom_kill);
    out.set_memory(Some(memory).filter(|m| *m != LinuxMemory::default()));
    let mut cpu: LinuxCpu = LinuxCpuBuilder::default()
        .build()
        .map_err(|e| Error::new(Kind::Bug, e.to_string()))?;
    let none = cpu.clone();
    cpu.set_shares(limits.shares)
        .set_quota(limits.quota)
        .set_period(limits.period)
        .set_realtime_runtime(limits.realtime_runtime)
        .set_realtime_period(limits.realtime_period)
        .set_cpus(limits.cpus)
        .set_mems(limits.mems);
    out.set_cpu(Some(cpu).filter(|c| *c != none));
    out.set_pids(limits.pids.map(|n| {
        let mut pids = LinuxPids::default();
        pids.set_limit(n);
        pids
    }));
    out.set_block_io(blkio::assemble(h, host, &place.disks, notes)?);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            controllers: ["memory", "cpu", "cpuset", "pids"]
                .map(str::to_owned)
                .into(),
            swap_limit: true,
            blkio_weight: true,
            cpus: "0-1".into(),
            mems: "0".into(),
            ..HostFacts::default()
        }
    }

    fn json(h: &HostConfig, host: &HostFacts) -> serde_json::Value {
        let out = assemble(h, host, &Placement::default(), &mut Notes::default()).unwrap();
        let mut value = serde_json::to_value(out).unwrap();
        value.as_object_mut().unwrap().remove("devices");
        value
    }

    #[test]
    fn limits_become_resources() {
        let h = HostConfig {
            memory: 512 << 20,
            memory_reservation: 64 << 20,
            memory_swappiness: Some(0),
            oom_kill_disable: Some(true),
            nano_cpus: 1_500_000_000,
            cpu_shares: 1,
            cpuset_cpus: "0,1".into(),
            cpuset_mems: "0".into(),
            pids_limit: Some(100),
            blkio_weight: 500,
            ..HostConfig::default()
        };
        assert_eq!(
            json(&h, &host()).to_string(),
            r#"{"blockIO":{"weight":500},"cpu":{"cpus":"0,1","mems":"0","period":100000,"quota":150000,"shares":2},"memory":{"disableOOMKiller":true,"limit":536870912,"reservation":67108864,"swap":1073741824,"swappiness":0},"pids":{"limit":100}}"#
        );
        let v2 = HostFacts {
            cgroup_v2: true,
            ..host()
        };
        assert_eq!(check(&h, &v2).unwrap().len(), 2);
        let memory = json(&h, &v2)["memory"].to_string();
        assert_eq!(
            memory,
            r#"{"limit":536870912,"reservation":67108864,"swap":1073741824}"#
        );
        assert_eq!(json(&HostConfig::default(), &host()).to_string(), "{}");
        let h = HostConfig {
            memory: 6 << 20,
            memory_swap: -1,
            pids_limit: Some(-5),
            cpu_quota: -1,
            ..HostConfig::default()
        };
        assert_eq!(
            json(&h, &host()).to_string(),
            r#"{"cpu":{"quota":-1},"memory":{"limit":6291456,"swap":-1}}"#
        );
    }

    #[test]
    fn what_the_host_lacks_is_said() {
        let h = HostConfig {
            memory: 512 << 20,
            memory_swap: 1 << 30,
            nano_cpus: 1_000_000_000,
            pids_limit: Some(5),
            blkio_weight: 10,
            ..HostConfig::default()
        };
        let bare = HostFacts::default();
        let warnings = check(&h, &bare).unwrap();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert_eq!(json(&h, &bare).to_string(), "{}");
        let no_swap = HostFacts {
            swap_limit: false,
            ..host()
        };
        assert_eq!(check(&h, &no_swap).unwrap().len(), 1);
        assert_eq!(
            json(&h, &no_swap)["memory"].to_string(),
            r#"{"limit":536870912}"#
        );
    }

    #[test]
    fn refused() {
        let d = HostConfig::default;
        for (h, part) in [
            (HostConfig { memory: -1, ..d() }, "negative"),
            (
                HostConfig {
                    memory: 1 << 20,
                    ..d()
                },
                "bytes",
            ),
            (
                HostConfig {
                    memory_swap: 1 << 30,
                    ..d()
                },
                "without one of memory",
            ),
            (
                HostConfig {
                    memory: 1 << 30,
                    memory_swap: 1 << 20,
                    ..d()
                },
                "below",
            ),
            (
                HostConfig {
                    memory_swap: -2,
                    ..d()
                },
                "-2",
            ),
            (
                HostConfig {
                    memory: 1 << 30,
                    memory_reservation: 2 << 30,
                    ..d()
                },
                "above",
            ),
            (
                HostConfig {
                    memory_swappiness: Some(101),
                    ..d()
                },
                "swappiness",
            ),
            (
                HostConfig {
                    nano_cpus: 3_000_000_000,
                    ..d()
                },
                "3 CPUs",
            ),
            (
                HostConfig {
                    nano_cpus: 1,
                    ..d()
                },
                "hundredth",
            ),
            (
                HostConfig {
                    nano_cpus: 1_000_000_000,
                    cpu_quota: 5000,
                    ..d()
                },
                "as well",
            ),
            (
                HostConfig {
                    cpu_period: 5,
                    ..d()
                },
                "period",
            ),
            (
                HostConfig {
                    cpu_quota: 5,
                    ..d()
                },
                "quota",
            ),
            (
                HostConfig {
                    cpu_shares: -1,
                    ..d()
                },
                "negative",
            ),
            (
                HostConfig {
                    cpuset_cpus: "0-2".into(),
                    ..d()
                },
                "not all there",
            ),
            (
                HostConfig {
                    cpuset_cpus: "1-0".into(),
                    ..d()
                },
                "no set",
            ),
            (
                HostConfig {
                    cpuset_mems: "a\n".into(),
                    ..d()
                },
                "no set",
            ),
            (
                HostConfig {
                    cpuset_cpus: "0-99999999999".into(),
                    ..d()
                },
                "no set",
            ),
            (
                HostConfig {
                    blkio_weight: 5,
                    ..d()
                },
                "weight",
            ),
            (
                HostConfig {
                    device_cgroup_rules: vec!["x".into()],
                    ..d()
                },
                "rule",
            ),
        ] {
            let e = check(&h, &host()).unwrap_err();
            assert!(e.message().contains(part), "{part}: {e}");
        }
    }
}
