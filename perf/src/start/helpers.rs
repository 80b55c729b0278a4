//! What stays beside a container that runs: the memory of its helper processes, and how often they
//! wake while nothing happens.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::child::How;
use crate::start::rounds::StartRow;
use crate::start::seat::Seat;

/// How long helpers get to be done with the start.
const CALM: Duration = Duration::from_secs(1);
/// How long it is counted how often they wake.
const WATCH: Duration = Duration::from_secs(2);

/// One process beside the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Helper {
    /// Its program.
    pub(crate) program: String,
    /// Its share of memory in KiB: pages that n processes map count 1/n.
    pub(crate) pss_kib: u64,
    /// Memory in KiB that nobody else maps.
    pub(crate) private_kib: u64,
    /// Resident memory in KiB.
    pub(crate) rss_kib: u64,
    /// Its threads.
    pub(crate) threads: usize,
    /// How often its threads woke, per second.
    pub(crate) wakeups: f64,
}

/// The helpers of one contestant's container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HelperRow {
    /// Who.
    pub(crate) name: String,
    /// The helpers.
    pub(crate) processes: Vec<Helper>,
    /// Why it did not take part.
    pub(crate) skipped: Option<String>,
    /// What went wrong.
    pub(crate) error: Option<String>,
}

/// The helpers of everybody's container, one contestant after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HelperCase {
    /// The workload.
    pub(crate) image: String,
    /// The contestants.
    pub(crate) rows: Vec<HelperRow>,
}

impl HelperCase {
    /// Starts one container of each contestant in turn and looks at what came with it.
    pub(crate) fn measure(
        image: &str,
        mut rows: Vec<StartRow>,
        seats: &[Option<&Seat>],
    ) -> Result<Self> {
        let mut found = Vec::new();
        for (row, seat) in rows.iter_mut().zip(seats) {
            let mut processes = Vec::new();
            if let Some(seat) = seat.filter(|_| row.takes_part()) {
                match seat.lines.start() {
                    None => row.skipped = Some("has no containers".to_owned()),
                    Some(start) => {
                        let looked = look(seat, start).map(|helpers| processes = helpers);
                        row.note(looked);
                        row.note(seat.run(seat.lines.remove(), How::InTurn).map(|_| ()));
                    }
                }
            }
            found.push(HelperRow {
                name: row.name.clone(),
                processes,
                skipped: row.skipped.take(),
                error: row.error.take(),
            });
        }
        Ok(Self {
            image: image.to_owned(),
            rows: found,
        })
    }
}

impl HelperCase {
    /// Summed PSS in MiB of the helpers of a contestant's container.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn pss_mib(&self, name: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        if row.skipped.is_some() || row.error.is_some() {
            return None;
        }
        let sum: u64 = row.processes.iter().map(|helper| helper.pss_kib).sum();
        Some(sum as f64 / 1024.0)
    }
}

fn look(seat: &Seat, start: Vec<String>) -> Result<Vec<Helper>> {
    let before = ours()?;
    seat.run(vec![start], How::InTurn)
        .context("start a container")?;
    std::thread::sleep(CALM);
    let new: Vec<u32> = ours()?.difference(&before).copied().collect();
    let counted: Vec<_> = new.iter().map(|&pid| switches(pid)).collect();
    std::thread::sleep(WATCH);
    let mut helpers = Vec::new();
    for (pid, before) in new.into_iter().zip(counted) {
        // One that has ended meanwhile is no helper.
        let (Some(mut helper), Some(before)) = (helper(pid), before) else {
            continue;
        };
        let woken = switches(pid).unwrap_or(before).saturating_sub(before);
        helper.wakeups = f64::from(u32::try_from(woken).unwrap_or(u32::MAX)) / WATCH.as_secs_f64();
        helpers.push(helper);
    }
    Ok(helpers)
}

/// The processes in perf's network namespace, which is its own, and in its process namespace:
/// all that engines have started, but not what runs in their containers.
fn ours() -> Result<BTreeSet<u32>> {
    let spaces = |of: &Path| -> Option<[PathBuf; 2]> {
        let space = |name: &str| fs::read_link(of.join("ns").join(name)).ok();
        Some([space("net")?, space("pid")?])
    };
    let own = spaces(Path::new("/proc/self")).context("namespaces of perf")?;
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && spaces(&entry.path()).as_ref() == Some(&own)
        {
            found.insert(pid);
        }
    }
    Ok(found)
}

fn helper(pid: u32) -> Option<Helper> {
    let at = PathBuf::from(format!("/proc/{pid}"));
    let rollup = fs::read_to_string(at.join("smaps_rollup")).ok()?;
    let kib = |name| kib(&rollup, name);
    Some(Helper {
        program: fs::read_link(at.join("exe"))
            .ok()?
            .file_name()?
            .to_str()?
            .to_owned(),
        pss_kib: kib("Pss")?,
        private_kib: kib("Private_Clean")? + kib("Private_Dirty")?,
        rss_kib: kib("Rss")?,
        threads: fs::read_dir(at.join("task")).ok()?.count(),
        wakeups: 0.0,
    })
}

fn kib(rollup: &str, name: &str) -> Option<u64> {
    let mut found = rollup.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix(':')?;
        rest.split_whitespace().next()?.parse().ok()
    });
    found.next()
}

/// How often the threads of a process have gone to sleep so far.
fn switches(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let of = |task: PathBuf| -> Option<u64> {
        let status = fs::read_to_string(task.join("status")).ok()?;
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        count.trim().parse().ok()
    };
    Some(tasks.flatten().filter_map(|task| of(task.path())).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read() {
        let text = "00400000-7ffc rw-p 00000000 00:00 0 [rollup]\nRss:  3000 kB\nPss: 1200 kB\n\
                    Pss_Dirty: 7 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty: 900 kB\n";
        assert_eq!(kib(text, "Pss"), Some(1200));
        assert_eq!(kib(text, "Private_Dirty"), Some(900));
        assert_eq!(kib(text, "Swap"), None);
    }

    #[test]
    fn a_process_is_looked_at() {
        let me = std::process::id();
        assert!(ours().unwrap().contains(&me));
        let helper = helper(me).unwrap();
        assert!(helper.pss_kib > 0 && helper.rss_kib >= helper.private_kib);
        assert!(helper.threads >= 1 && switches(me).is_some());
    }
}
