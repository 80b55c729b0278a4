//! Processes that run beside what is timed: started fresh, watched, ended.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::sys;

/// How long one may take to be ready, or to end when asked.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

/// What a daemon and its descendants hold and have used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// CPU seconds so far.
    pub(crate) cpu: f64,
    /// Peak RSS in KiB of the largest.
    pub(crate) peak_rss_kib: u64,
    /// The sum of all peaks in KiB.
    pub(crate) sum_rss_kib: u64,
}

impl Daemon {
    /// Starts a program; what it says goes to `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let to = OpenOptions::new().create(true).append(true).open(log)?;
        let child = sys::die_with_parent(command)
            .stdin(Stdio::null())
            .stdout(to.try_clone()?)
            .stderr(to)
            .spawn()
            .with_context(|| format!("start {name} (is it installed?)"))?;
        Ok(Self {
            name: name.to_owned(),
            child: Mutex::new(child),
            log: log.to_owned(),
        })
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().map_or(0, |child| child.id())
    }

    /// Fails if it has ended, with the last it said.
    pub(crate) fn ensure_alive(&self) -> Result<()> {
        let mut child = self.child.lock().map_err(|_| anyhow::anyhow!("lock"))?;
        let Some(status) = child.try_wait()? else {
            return Ok(());
        };
        let said = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        bail!(
            "{} ended: {status}: {}",
            self.name,
            said.lines().last().unwrap_or("it said nothing")
        )
    }

    /// Waits until `ready` succeeds.
    pub(crate) fn wait_ready(&self, mut ready: impl FnMut() -> bool) -> Result<()> {
        let begin = Instant::now();
        while !ready() {
            self.ensure_alive()?;
            if begin.elapsed() > PATIENCE {
                bail!("{} is not ready after {} s", self.name, PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Its peak RSS begins anew: what it held while it started does not count.
    pub(crate) fn forget_peak(&self) {
        for pid in descendants(self.pid()) {
            // Where the kernel has no such file the peak is that of its whole life.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    /// What it and its descendants use.
    pub(crate) fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        for pid in descendants(self.pid()) {
            sum.cpu += sys::cpu_seconds_of(pid).unwrap_or(0.0) + waited_for(pid).unwrap_or(0.0);
            let peak = peak_rss_kib(pid).unwrap_or(0);
            sum.peak_rss_kib = sum.peak_rss_kib.max(peak);
            sum.sum_rss_kib += peak;
        }
        sum
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let Ok(child) = self.child.get_mut() else {
            return;
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (child.try_wait(), pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let begin = Instant::now();
        while let Ok(None) = child.try_wait() {
            if begin.elapsed() > PATIENCE {
                eprintln!("perf: {} does not end, killing it", self.name);
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A process and all that descend from it.
pub(crate) fn descendants(of: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let parent = stat_fields(pid)?.get(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let (mut found, mut next) = (vec![of], 0);
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found
}

/// The fields of `/proc/PID/stat` after the name: state, parent, ...
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// CPU seconds of the children that a process has waited for, to 0.01 s.
fn waited_for(pid: u32) -> Option<f64> {
    let fields = stat_fields(pid)?;
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(13)? + ticks(14)?) / 100.0)
}

fn peak_rss_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_watched_with_its_children_and_ends() {
        let temp = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "i=0; while [ $i -lt 99999 ]; do i=$((i+1)); done; sleep 60; :",
        ]);
        let daemon = Daemon::start("sh", &mut command, &temp.path().join("log")).unwrap();
        daemon
            .wait_ready(|| descendants(daemon.pid()).len() == 2)
            .unwrap();
        daemon.forget_peak();
        let usage = daemon.usage();
        assert!(usage.cpu > 0.0 && usage.sum_rss_kib > usage.peak_rss_kib);
        let pid = daemon.pid();
        drop(daemon);
        assert!(stat_fields(pid).is_none());
    }

    #[test]
    fn one_that_ends_by_itself_is_reported_with_its_last_words() {
        let temp = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such config; exit 3"]);
        let daemon = Daemon::start("x", &mut command, &temp.path().join("log")).unwrap();
        let error = daemon.wait_ready(|| false).unwrap_err().to_string();
        assert!(error.contains("no such config"), "{error}");
    }
}
