//! Limits that are none: out of bounds, or against each other.

use std::collections::BTreeSet;

use super::{check::bad, host::HostFacts, request::HostConfig};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Less than this no process can start in.
const LEAST_MEMORY: i64 = 6 << 20;

/// Refuses limits that no host could give, and sets of CPUs and memory nodes that this one lacks.
pub(super) fn check(h: &HostConfig, host: &HostFacts) -> Result<()> {
    memory(h)?;
    cpu(h, host)
}

fn memory(h: &HostConfig) -> Result<()> {
    let (memory, swap, reserved) = (h.memory, h.memory_swap, h.memory_reservation);
    if memory < 0 || reserved < 0 {
        return bad("a limit of memory is negative", "give a size such as 512m");
    }
    for (what, n) in [("memory", memory), ("memory reservation", reserved)] {
        if n > 0 && n < LEAST_MEMORY {
            return bad(format!("a {what} of {n} bytes"), "the least is 6m");
        }
    }
    if swap < -1 {
        return bad(
            format!("a limit of memory and swap of {swap}"),
            "give a size, or -1 for none",
        );
    }
    if swap > 0 && memory == 0 {
        return bad("a limit of swap without one of memory", "give --memory too");
    }
    if swap > 0 && swap < memory {
        return bad(
            "the limit of memory and swap is below that of memory",
            "--memory-swap is the sum of both",
        );
    }
    if memory > 0 && reserved > memory {
        return bad(
            "the memory reservation is above the limit",
            "give a smaller --memory-reservation",
        );
    }
    match h.memory_swappiness {
        Some(n) if !(-1..=100).contains(&n) => bad(
            format!("a swappiness of {n}"),
            "it is between 0 and 100, or -1",
        ),
        _ => Ok(()),
    }
}

fn realtime(h: &HostConfig, host: &HostFacts) -> Result<()> {
    let (period, runtime) = (h.cpu_realtime_period, h.cpu_realtime_runtime);
    if period == 0 && runtime == 0 {
        return Ok(());
    }
    if !host.realtime {
        let m = "--cpu-rt-runtime: the control groups of this host give no real-time CPU time";
        return Err(Error::new(Kind::Unsupported, m)
            .with_hint("it takes those of v1, and a kernel with CONFIG_RT_GROUP_SCHED"));
    }
    if period < 0 || runtime < 0 {
        let m = "real-time CPU time is negative";
        return bad(m, "give microseconds, such as --cpu-rt-runtime 10000");
    }
    if period > 0 && runtime > period {
        let m = "--cpu-rt-runtime is above --cpu-rt-period";
        return bad(
            m,
            "it is the part of each period that the container may take",
        );
    }
    Ok(())
}

fn cpu(h: &HostConfig, host: &HostFacts) -> Result<()> {
    if h.nano_cpus < 0 || h.cpu_shares < 0 {
        return bad("a limit of CPU is negative", "give a number such as 1.5");
    }
    if h.nano_cpus > 0 && (h.cpu_period != 0 || h.cpu_quota != 0) {
        return bad(
            "CPUs, and a CPU period or quota as well",
            "give --cpus alone",
        );
    }
    let ids = |set: &str| cpuset(set).map(|ids| ids.len()).unwrap_or(0);
    let there = i64::try_from(ids(&host.cpus)).unwrap_or(i64::MAX);
    if there > 0 && h.nano_cpus > there.saturating_mul(1_000_000_000) {
        let m = format!("{} CPUs, and there are {there}", h.nano_cpus as f64 / 1e9);
        return bad(m, "ask for fewer");
    }
    if h.nano_cpus > 0 && h.nano_cpus < 10_000_000 {
        return bad("less than a hundredth of a CPU", "the least is 0.01");
    }
    if h.cpu_period != 0 && !(1_000..=1_000_000).contains(&h.cpu_period) {
        let m = format!("a CPU period of {} microseconds", h.cpu_period);
        return bad(m, "it is between 1000 and 1000000");
    }
    if h.cpu_quota > 0 && h.cpu_quota < 1_000 {
        let m = format!("a CPU quota of {} microseconds", h.cpu_quota);
        return bad(m, "the least is 1000");
    }
    realtime(h, host)?;
    for (what, asked, there) in [
        ("CPUs", &h.cpuset_cpus, &host.cpus),
        ("memory nodes", &h.cpuset_mems, &host.mems),
    ] {
        let Some(wanted) = cpuset(asked) else {
            let m = format!("`{}` is no set of {what}", show(asked));
            return bad(m, "write it as 0-3,7");
        };
        let there = cpuset(there).unwrap_or_default();
        if !there.is_empty() && wanted.iter().any(|n| !there.contains(n)) {
            let m = format!("the set of {what} `{}` is not all there", show(asked));
            let e = Error::new(Kind::Unsupported, m);
            let have = if what == "CPUs" {
                &host.cpus
            } else {
                &host.mems
            };
            return Err(e.with_hint(format!("this host has {have}")));
        }
    }
    Ok(())
}

/// The numbers of a set such as `0-3,7`; `None` if it is none.
pub(super) fn cpuset(text: &str) -> Option<BTreeSet<u32>> {
    const MOST: u32 = 8192;
    let number = |t: &str| {
        let digits = !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        t.parse::<u32>().ok().filter(|n| digits && *n < MOST)
    };
    let mut out = BTreeSet::new();
    for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
        match part.split_once('-') {
            Some((from, to)) => {
                let (from, to) = (number(from)?, number(to)?);
                if from > to {
                    return None;
                }
                out.extend(from..=to);
            }
            None => drop(out.insert(number(part)?)),
        }
    }
    Some(out)
}
