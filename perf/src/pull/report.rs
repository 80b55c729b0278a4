//! The report of the pull suite: everything measured, as JSON beside its Markdown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::fs::Backing;
use crate::machine::Machine;
use crate::pull::again::Again;
use crate::pull::readback::ReadBack;
use crate::report;
use crate::run::Case;

/// All that one call measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PullReport {
    /// `pull`, `pull-smoke` or `light`.
    pub(crate) suite: String,
    /// Where.
    pub(crate) machine: Machine,
    /// Where the file system images lay.
    pub(crate) backing: Backing,
    /// With what versions.
    pub(crate) tools: BTreeMap<String, String>,
    /// How each contestant is set up.
    pub(crate) contestants: BTreeMap<String, String>,
    /// Rounds of each case.
    pub(crate) runs: usize,
    /// Pulls into an empty store.
    pub(crate) cases: Vec<Case>,
    /// Second pulls.
    pub(crate) again: Vec<Again>,
    /// Reading back.
    pub(crate) readback: Vec<ReadBack>,
}

impl PullReport {
    /// Writes `DATE-SUITE.json` and `DATE-SUITE.md` into a directory and returns their paths.
    pub(crate) fn write(&self, dir: &Path) -> Result<[PathBuf; 2]> {
        let stem = format!("{}-{}", self.machine.date, self.suite);
        report::write(dir, &stem, self, &self.markdown())
    }

    /// Whether anything failed that was meant to run.
    pub(crate) fn failed(&self) -> bool {
        let pulls = self.cases.iter().flat_map(|case| &case.rows);
        let again = self.again.iter().flat_map(|case| &case.rows);
        let reads = self.readback.iter().flat_map(|case| &case.rows);
        pulls.map(|row| &row.error).any(Option::is_some)
            || again.map(|row| &row.error).any(Option::is_some)
            || reads.map(|row| &row.error).any(Option::is_some)
    }
}
