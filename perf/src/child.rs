//! The hidden `perf _child`: a small process between `perf` and what is timed.
//!
//! It runs steps one after another, waits for all of them, and says what they took. A process of
//! its own for two reasons: what `getrusage(RUSAGE_CHILDREN)` returns then belongs to this run
//! alone, and a new process's peak RSS starts at that of the one it was forked from, which must
//! therefore be small.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::sys;

/// What to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Command lines, run in order until one fails.
    pub(crate) steps: Vec<Vec<String>>,
    /// Where their output goes (appended).
    pub(crate) log: PathBuf,
    /// Variables to set beside those of this process.
    #[serde(default)]
    pub(crate) env: Vec<(String, String)>,
}

/// What it took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Seconds from the start of the first step to the end of the last.
    pub(crate) wall: f64,
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
    let begin = Instant::now();
    let failure = spec.steps.iter().find_map(|step| run(step, &spec).err());
    let wall = begin.elapsed().as_secs_f64();
    let usage = sys::children_usage()?;
    let outcome = Outcome {
        wall,
        user: usage.user,
        sys: usage.sys,
        max_rss_kib: usage.max_rss_kib,
        failure: failure.map(|error| format!("{error:#}")),
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn run(step: &[String], spec: &Spec) -> Result<()> {
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
    let status = sys::die_with_parent(&mut command)
        .status()
        .with_context(|| format!("start {program}"))?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
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
