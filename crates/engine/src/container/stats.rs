//! What a container uses of the machine, as its control group counts it.

use std::{fs, path::Path};

use super::{Containers, Record, start::cgroup};
use crate::{
    error::{Error, Kind, Result},
    runtime::cgroup::Cgroup,
    user::inode,
};

/// What a container has used and uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time so far, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory without what can be dropped at once, in bytes.
    pub memory: u64,
    /// Most that it may use, in bytes; the machine's where nothing is set.
    pub memory_limit: u64,
    /// Bytes received by its network.
    pub net_in: u64,
    /// Bytes sent.
    pub net_out: u64,
    /// Bytes read from disks.
    pub read: u64,
    /// Bytes written to disks.
    pub written: u64,
    /// Processes and threads.
    pub pids: u64,
}

impl Containers<'_> {
    /// What a container that runs uses.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it does not run.
    pub fn stats(&self, record: &Record) -> Result<Stats> {
        let view = self.view(record)?;
        if !view.is_running() {
            return Err(Self::not_running(record));
        }
        let group = Self::group(record)?;
        let mut stats = if group.is_v2() {
            second(&group)
        } else {
            first(&group)
        };
        let machine = machine_memory();
        if stats.memory_limit == 0 || stats.memory_limit > machine {
            stats.memory_limit = machine;
        }
        let net = fs::read_to_string(format!("/proc/{}/net/dev", view.pid)).unwrap_or_default();
        (stats.net_in, stats.net_out) = net_bytes(&net);
        Ok(stats)
    }

    fn group(record: &Record) -> Result<Cgroup> {
        let path = cgroup(&record.request, &record.id).ok_or_else(|| no_group(record))?;
        Cgroup::at(&path).ok_or_else(|| {
            let m = format!(
                "container {} has no control group that is known",
                record.name
            );
            Error::new(Kind::Host, m).with_hint("are control groups mounted at /sys/fs/cgroup?")
        })
    }

    /// The processes of a container that runs, by their numbers on this host.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it does not run.
    pub fn processes(&self, record: &Record) -> Result<Vec<i32>> {
        let view = self.view(record)?;
        if !view.is_running() {
            return Err(Self::not_running(record));
        }
        if cgroup(&record.request, &record.id).is_none() {
            return Ok(of_namespace(view.pid));
        }
        Self::group(record)?.pids().map_err(|e| {
            let m = format!("list the processes of container {}: {e}", record.name);
            Error::new(Kind::Host, m).with_hint("has it just ended?")
        })
    }
}

/// What cannot be done to a container of an ordinary user.
pub(super) fn no_group(record: &Record) -> Error {
    let m = format!("container {} has no control group", record.name);
    Error::new(Kind::Unsupported, m)
        .with_hint("those of ordinary users have none; run it as root for that")
}

/// The processes in the namespace of processes that `pid` is in; only itself where that is ours.
fn of_namespace(pid: i32) -> Vec<i32> {
    let namespace = |pid: &str| inode(Path::new(&format!("/proc/{pid}/ns/pid")));
    let theirs = namespace(&pid.to_string());
    if theirs.is_none() || theirs == namespace("self") {
        return vec![pid];
    }
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut all: Vec<i32> = numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| namespace(&pid.to_string()) == theirs)
        .collect();
    all.sort_unstable();
    all
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The number after a word at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, number)
}

fn first(group: &Cgroup) -> Stats {
    let read = |controller: &str, file: &str| group.read(controller, file).unwrap_or_default();
    let inactive = field(&read("memory", "memory.stat"), "total_inactive_file");
    let io = read("blkio", "blkio.throttle.io_service_bytes_recursive");
    let sum = |word: &str| {
        let of = io.lines().filter_map(|l| {
            let mut words = l.split(' ').skip(1);
            (words.next()? == word).then(|| words.next().map_or(0, number))
        });
        of.sum()
    };
    Stats {
        cpu_ns: number(&read("cpuacct", "cpuacct.usage")),
        memory: number(&read("memory", "memory.usage_in_bytes")).saturating_sub(inactive),
        memory_limit: number(&read("memory", "memory.limit_in_bytes")),
        read: sum("Read"),
        written: sum("Write"),
        pids: number(&read("pids", "pids.current")),
        ..Stats::default()
    }
}

fn second(group: &Cgroup) -> Stats {
    let read = |controller: &str, file: &str| group.read(controller, file).unwrap_or_default();
    let inactive = field(&read("memory", "memory.stat"), "inactive_file");
    let io = read("io", "io.stat");
    let sum = |key: &str| {
        io.split_whitespace()
            .filter_map(|w| w.strip_prefix(key))
            .map(number)
            .sum()
    };
    Stats {
        cpu_ns: field(&read("cpu", "cpu.stat"), "usage_usec").saturating_mul(1000),
        memory: number(&read("memory", "memory.current")).saturating_sub(inactive),
        memory_limit: number(&read("memory", "memory.max")),
        read: sum("rbytes="),
        written: sum("wbytes="),
        pids: number(&read("pids", "pids.current")),
        ..Stats::default()
    }
}

/// Bytes of memory that this machine has.
pub(crate) fn machine_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = line
        .and_then(|l| l.trim().strip_suffix("kB"))
        .map_or(0, number);
    kib * 1024
}

/// Bytes received and sent, of all interfaces but the one to itself.
fn net_bytes(text: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for line in text.lines().skip(2) {
        let Some((name, counts)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let counts: Vec<u64> = counts.split_whitespace().map(number).collect();
        sum.0 += counts.first().copied().unwrap_or(0);
        sum.1 += counts.get(8).copied().unwrap_or(0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        assert_eq!(
            field("total_inactive_file 7\ninactive_file 8\n", "inactive_file"),
            8
        );
        assert_eq!(field("", "x"), 0);
        let net = "Inter-| x\n face | y\n    lo: 5 0 0 0 0 0 0 0 5 0\n  eth0: 10 1 0 0 0 0 0 0 20 1 0\n eth1: 1 0 0 0 0 0 0 0 2 0";
        assert_eq!(net_bytes(net), (11, 22));
        assert!(machine_memory() > 1 << 20);
    }
}
