//! Runs cases: one workload on one kind of file system, all contestants round-robin.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::child::{self, How, Spec};
use crate::contestants::Contestant;
use crate::fs::{Fresh, FsKind, Lab};
use crate::light::{self, Stages};
use crate::measure::{self, Sample, TreeCount};
use crate::oci::{Blob, read_layers};
use crate::workloads::{self, Store, Summary};

/// Bytes of memory to touch beyond what the workload itself takes.
const PRIME_SLACK: u64 = 512 << 20;

/// The runs of one contestant in one case, in the order of rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Who.
    pub(crate) name: String,
    /// One sample a round.
    pub(crate) samples: Vec<Sample>,
    /// What the tree held after the first round.
    pub(crate) tree: Option<TreeCount>,
    /// unlade's own report, of one more run that is not among the samples.
    pub(crate) report: Option<serde_json::Value>,
    /// Why it did not take part.
    pub(crate) skipped: Option<String>,
    /// What went wrong, and ended its part.
    pub(crate) error: Option<String>,
}

/// One workload on one file system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Case {
    /// The workload, with compression suffix.
    pub(crate) workload: String,
    /// What is in it.
    pub(crate) image: Summary,
    /// Bytes of all blobs as stored.
    pub(crate) blob_bytes: u64,
    /// The file system.
    pub(crate) fs: FsKind,
    /// The contestants.
    pub(crate) rows: Vec<Row>,
    /// Light, one set of stages a round; empty if not measured.
    pub(crate) light: Vec<Stages>,
}

/// How to run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Rounds.
    pub(crate) runs: usize,
    /// Kinds of file system.
    pub(crate) fs: Vec<FsKind>,
    /// Workloads, with compression suffix.
    pub(crate) workloads: Vec<String>,
    /// Who takes part.
    pub(crate) contestants: Vec<Contestant>,
    /// Whether light is measured too.
    pub(crate) light: bool,
    /// Whether memory is touched before each run (see [`measure::prime`]).
    pub(crate) prime: bool,
}

/// Runs every case of a plan.
pub(crate) fn cases(store: &Store, lab: &Lab, plan: &Plan) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for workload in &plan.workloads {
        for &fs in &plan.fs {
            eprintln!("perf: {workload} on {}", fs.name());
            cases.push(case(store, lab, plan, workload, fs)?);
        }
    }
    Ok(cases)
}

fn case(store: &Store, lab: &Lab, plan: &Plan, workload: &str, fs: FsKind) -> Result<Case> {
    let image = store.image(workload);
    let blobs = read_layers(&image)?;
    let (name, compression) = workloads::parse(workload)?;
    let summary = workloads::summary(store, name)?;
    let blob_bytes = blobs.iter().map(|blob| blob.size).sum();
    let mut rows: Vec<Row> = plan
        .contestants
        .iter()
        .map(|contestant| Row {
            name: contestant.name.clone(),
            samples: Vec::new(),
            tree: None,
            report: None,
            skipped: contestant.obstacle(compression),
            error: None,
        })
        .collect();
    let mut light = Vec::new();
    for round in 0..plan.runs {
        for place in rotation(rows.len() + usize::from(plan.light), round) {
            if rows
                .get(place)
                .is_some_and(|row| row.skipped.is_some() || row.error.is_some())
            {
                continue;
            }
            measure::warm(&blobs)?;
            rustix::fs::sync();
            let fresh = lab.fresh(fs)?;
            if plan.prime {
                // The tree in the page cache, the tar in memory, the blobs in memory, and some.
                let tar = summary.bytes.get("tar").copied().unwrap_or(0);
                measure::prime(2 * tar + blob_bytes + PRIME_SLACK)?;
            }
            let (Some(contestant), Some(row)) = (plan.contestants.get(place), rows.get_mut(place))
            else {
                light.push(light::measure(&blobs, &fresh).context("measure light")?);
                continue;
            };
            match unpack(contestant, &image, &blobs, &fresh, store.root(), round == 0) {
                Ok((sample, tree)) => {
                    row.samples.push(sample);
                    row.tree = row.tree.or(tree);
                }
                Err(error) => {
                    eprintln!("perf: {}: {error:#}", row.name);
                    row.error = Some(format!("{error:#}"));
                }
            }
        }
    }
    for (contestant, row) in plan.contestants.iter().zip(&mut rows) {
        if row.samples.is_empty() {
            continue;
        }
        let fresh = lab.fresh(fs)?;
        row.report = own_report(contestant, &image, &fresh).unwrap_or_else(|error| {
            eprintln!("perf: no report of {}: {error:#}", row.name);
            None
        });
    }
    Ok(Case {
        workload: workload.to_owned(),
        image: summary,
        blob_bytes,
        fs,
        rows,
        light,
    })
}

/// The order of one round: everybody, beginning one further each round.
pub(crate) fn rotation(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + round) % count)
}

/// Has unlade say what it did, in a run that is not timed.
fn own_report(
    contestant: &Contestant,
    image: &Path,
    fresh: &Fresh,
) -> Result<Option<serde_json::Value>> {
    let [to, log] = ["report.json", "log"].map(|name| fresh.path().join(name));
    let Some(step) = contestant.reporting(image, &fresh.path().join("dest"), &to) else {
        return Ok(None);
    };
    if let Some(failure) = child::spawn(&Spec {
        steps: vec![step],
        log,
        env: Vec::new(),
        how: How::InTurn,
        limit: None,
    })?
    .failure
    {
        bail!(failure);
    }
    let bytes = std::fs::read(&to).context("read its report")?;
    Ok(Some(
        serde_json::from_slice(&bytes).context("parse its report")?,
    ))
}

fn unpack(
    contestant: &Contestant,
    image: &Path,
    blobs: &[Blob],
    fresh: &Fresh,
    root: &Path,
    count: bool,
) -> Result<(Sample, Option<TreeCount>)> {
    let dest = fresh.path().join("dest");
    if contestant.wants_dest() {
        std::fs::create_dir(&dest)?;
    }
    let log = tempfile::Builder::new()
        .prefix(&format!("log-{}-", std::process::id()))
        .tempfile_in(root)?;
    let steps = contestant.steps(image, blobs, &dest);
    let sample = measure::timed(
        &Spec {
            steps,
            log: log.path().to_owned(),
            env: Vec::new(),
            how: How::InTurn,
            limit: None,
        },
        fresh,
    )?;
    let tree = count
        .then(|| measure::count(&contestant.tree(&dest)))
        .transpose()?;
    Ok((sample, tree))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_runs_once_a_round_and_begins_in_turn() {
        let orders: Vec<Vec<_>> = (0..3).map(|round| rotation(3, round).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
    }
}
