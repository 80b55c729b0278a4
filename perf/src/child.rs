//! The hidden `perf _child`: a small process between `perf` and what is timed.
//!
//! It runs steps one after another, or all at once, waits for them, and says what they took. A
//! process of its own for two reasons: what `getrusage(RUSAGE_CHILDREN)` returns then belongs to this run
//! alone, and a new process's peak RSS starts at that of the one it was forked from, which must
//! therefore be small.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::pull::daemon::descendants;
use crate::sys;

/// How long what steps left running may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How steps are run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum How {
    /// In order, until one fails. What they leave running is nobody's business.
    #[default]
    InTurn,
    /// The same, and then until all that they left running has ended.
    Settle,
    /// All at once, and then until all that they left running has ended.
    Together,
}

/// What to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Command lines.
    pub(crate) steps: Vec<Vec<String>>,
    /// Where their output goes (appended).
    pub(crate) log: PathBuf,
    /// Variables to set beside those of this process.
    #[serde(default)]
    pub(crate) env: Vec<(String, String)>,
    /// How they are run.
    #[serde(default)]
    pub(crate) how: How,
    /// Seconds after which whatever still runs is killed, and the run has failed.
    #[serde(default)]
    pub(crate) limit: Option<u64>,
}

/// What it took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Seconds from the start of the first step to the end of the last.
    pub(crate) wall: f64,
    /// Seconds from then on until the last descendant had ended, where that was waited for.
    pub(crate) settle: f64,
    /// User seconds of all descendants.
    pub(crate) user: f64,
    /// Kernel seconds of all descendants.
    pub(crate) sys: f64,
    /// Peak RSS, in KiB, of the largest descendant.
    pub(crate) max_rss_kib: u64,
    /// What failed.
    pub(crate) failure: Option<String>,
}

/// Runs a spec in a new process.
pub(crate) fn spawn(spec: &Spec) -> Result<Outcome> {
    let me = std::env::current_exe().context("path of perf itself")?;
    let mut command = Command::new(me);
    command.arg("_child").arg(serde_json::to_string(spec)?);
    let output = sys::die_with_parent(&mut command)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start the measuring process")?;
    ensure!(
        output.status.success(),
        "the measuring process: {}",
        output.status
    );
    let mut outcome: Outcome =
        serde_json::from_slice(&output.stdout).context("result of the measuring process")?;
    if let Some(failure) = &mut outcome.failure {
        failure.push_str(&tail(&spec.log));
    }
    Ok(outcome)
}

/// The body of `perf _child SPEC`: prints an [`Outcome`] as JSON.
pub(crate) fn main(spec: &str) -> Result<()> {
    let spec: Spec = serde_json::from_str(spec).context("spec of the measuring process")?;
    if spec.how != How::InTurn {
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
            .context("become the parent of orphans")?;
    }
    let late = Arc::new(AtomicBool::new(false));
    if let Some(limit) = spec.limit {
        guard(Duration::from_secs(limit), Arc::clone(&late));
    }
    let begin = Instant::now();
    let failure = match spec.how {
        How::Together => together(&spec).err(),
        _ => spec.steps.iter().find_map(|step| run(step, &spec).err()),
    };
    let wall = begin.elapsed().as_secs_f64();
    let settled = match spec.how {
        How::InTurn => Ok(()),
        _ => settle(),
    };
    let settle = begin.elapsed().as_secs_f64() - wall;
    let failure = failure.or(settled.err()).map(|error| {
        let seconds = spec.limit.filter(|_| late.load(Ordering::Relaxed));
        match seconds {
            Some(seconds) => error.context(format!("killed after {seconds} s")),
            None => error,
        }
    });
    let usage = sys::children_usage()?;
    let outcome = Outcome {
        wall,
        settle,
        user: usage.user,
        sys: usage.sys,
        max_rss_kib: usage.max_rss_kib,
        failure: failure.map(|error| format!("{error:#}")),
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn run(step: &[String], spec: &Spec) -> Result<()> {
    finish(step, start(step, spec)?)
}

/// Starts every step, then waits for every one; the first failure counts.
fn together(spec: &Spec) -> Result<()> {
    let started: Vec<_> = spec.steps.iter().map(|step| start(step, spec)).collect();
    let finished: Vec<_> = spec
        .steps
        .iter()
        .zip(started)
        .map(|(step, child)| finish(step, child?))
        .collect();
    finished.into_iter().collect()
}

fn finish(step: &[String], mut child: Child) -> Result<()> {
    let status = child.wait()?;
    let program = step.first().map_or("", String::as_str);
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

/// Kills every descendant after a while, in a thread that ends with this process.
fn guard(after: Duration, late: Arc<AtomicBool>) {
    use rustix::process::{Pid, Signal, kill_process};
    std::thread::spawn(move || {
        std::thread::sleep(after);
        late.store(true, Ordering::Relaxed);
        // Once more and again: a process may start another while the list is made.
        loop {
            for pid in descendants(std::process::id()).into_iter().skip(1) {
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

/// Waits until no descendant is left.
fn settle() -> Result<()> {
    use rustix::process::{WaitOptions, wait};
    let begin = Instant::now();
    loop {
        match wait(WaitOptions::NOHANG) {
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(rustix::io::Errno::INTR) | Ok(Some(_)) => {}
            Err(error) => return Err(error).context("wait for what was left running"),
            Ok(None) if begin.elapsed() > PATIENCE => {
                bail!("processes are left after {} s", PATIENCE.as_secs())
            }
            Ok(None) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

fn start(step: &[String], spec: &Spec) -> Result<Child> {
    let [program, args @ ..] = step else {
        bail!("an empty step")
    };
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)?;
    let mut command = Command::new(program);
    command
        .args(args)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    sys::die_with_parent(&mut command)
        .spawn()
        .with_context(|| format!("start {program}"))
}

/// The last lines of a log, for an error message.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(3)..]
        .iter()
        .map(|line| format!("; {line}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_at_once_take_as_long_as_the_longest_and_every_failure_counts() {
        let temp = tempfile::tempdir().unwrap();
        let step = |text: &str| vec!["sh".to_owned(), "-c".to_owned(), text.to_owned()];
        let mut spec = Spec {
            steps: vec![step("sleep 1"); 4],
            log: temp.path().join("log"),
            ..Spec::default()
        };
        let begin = Instant::now();
        together(&spec).unwrap();
        assert!(begin.elapsed() < Duration::from_millis(3500));
        spec.steps.insert(1, step("exit 3"));
        let error = together(&spec).unwrap_err().to_string();
        assert!(error.contains('3'), "{error}");
        spec.steps.insert(0, vec!["/no/such/program".to_owned()]);
        assert!(together(&spec).is_err());
    }
}
