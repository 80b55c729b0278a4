//! The report of the start suite: everything measured, as JSON beside its Markdown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::fs::{Backing, FsKind};
use crate::machine::Machine;
use crate::report;
use crate::start::helpers::HelperCase;
use crate::start::rounds::{StartCase, StartRow};

/// All that one call measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StartReport {
    /// `start` or `start-smoke`.
    pub(crate) suite: String,
    /// Where.
    pub(crate) machine: Machine,
    /// Where the file system image lay.
    pub(crate) backing: Backing,
    /// The file system of all stores.
    pub(crate) fs: FsKind,
    /// What was done to the surroundings.
    pub(crate) place: String,
    /// With what versions.
    pub(crate) tools: BTreeMap<String, String>,
    /// How each contestant is set up.
    pub(crate) contestants: BTreeMap<String, String>,
    /// Rounds of each scene but the concurrent one.
    pub(crate) runs: usize,
    /// The scenes.
    pub(crate) cases: Vec<StartCase>,
    /// What stays beside a container.
    pub(crate) helpers: Vec<HelperCase>,
}

impl StartReport {
    /// Writes `DATE-SUITE.json` and `DATE-SUITE.md` into a directory and returns their paths.
    pub(crate) fn write(&self, dir: &Path) -> Result<[PathBuf; 2]> {
        let stem = format!("{}-{}", self.machine.date, self.suite);
        report::write(dir, &stem, self, &self.markdown())
    }

    /// Whether anything failed that was meant to run.
    pub(crate) fn failed(&self) -> bool {
        let rows = self.cases.iter().flat_map(|case| &case.rows);
        let helpers = self.helpers.iter().flat_map(|case| &case.rows);
        rows.map(|row| &row.error).any(Option::is_some)
            || helpers.map(|row| &row.error).any(Option::is_some)
    }
}

impl StartCase {
    /// A contestant's wall milliseconds, if it took part to the end.
    pub(crate) fn walls(&self, name: &str) -> Option<&[f64]> {
        let row = self.rows.iter().find(|row| row.name == name)?;
        (row.takes_part() && !row.wall_ms.is_empty()).then_some(&row.wall_ms[..])
    }
}

impl StartRow {
    /// The name of the floor it stands on: the runtime of its own; nothing for the floor.
    pub(crate) fn floor(&self) -> Option<&'static str> {
        match self.name.as_str() {
            "runc" | "crun" | "netavark" => None,
            name if name.ends_with("-crun") => Some("crun"),
            _ => Some("runc"),
        }
    }
}
