//! Reports: everything that was measured, kept as JSON beside its Markdown.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::fs::Backing;
use crate::machine::Machine;
use crate::run::Case;
use crate::tiny::Latency;

/// All that one call of `perf` measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    /// `unpack`, `light`, `smoke` or `tiny`.
    pub(crate) suite: String,
    /// Where.
    pub(crate) machine: Machine,
    /// Where the file system images lay.
    pub(crate) backing: Backing,
    /// With what versions.
    pub(crate) tools: BTreeMap<String, String>,
    /// What each contestant restores and does.
    pub(crate) contestants: BTreeMap<String, String>,
    /// Rounds of each case.
    pub(crate) runs: usize,
    /// The cases.
    pub(crate) cases: Vec<Case>,
    /// Start-up latency.
    pub(crate) latency: Vec<Latency>,
}

impl Report {
    /// Writes `DATE-SUITE.json` and `DATE-SUITE.md` into a directory and returns their paths.
    pub(crate) fn write(&self, dir: &Path) -> Result<[PathBuf; 2]> {
        let stem = format!("{}-{}", self.machine.date, self.suite);
        write(dir, &stem, self, &self.markdown())
    }

    /// Whether anything failed that was meant to run.
    pub(crate) fn failed(&self) -> bool {
        self.cases
            .iter()
            .flat_map(|case| &case.rows)
            .any(|row| row.error.is_some())
            || self.latency.iter().any(|row| row.error.is_some())
    }
}

/// Writes a report as `STEM.json` and `STEM.md` into a directory and returns their paths.
pub(crate) fn write(
    dir: &Path,
    stem: &str,
    report: &impl Serialize,
    markdown: &str,
) -> Result<[PathBuf; 2]> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let paths = ["json", "md"].map(|extension| dir.join(format!("{stem}.{extension}")));
    let mut json = serde_json::to_string_pretty(report)?;
    json.push('\n');
    fs::write(&paths[0], json)?;
    fs::write(&paths[1], markdown)?;
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FsKind;
    use crate::light::{Cost, Stages};
    use crate::measure::Sample;
    use crate::run::Row;
    use crate::workloads::Summary;

    fn row(name: &str, walls: &[f64]) -> Row {
        let sample = |&wall: &f64| Sample {
            wall,
            user: wall / 2.0,
            sys: 0.25,
            peak_rss_kib: 2048,
            machine_cpu: wall,
            flush: 0.0,
            daemons: None,
        };
        let samples = walls.iter().map(sample).collect();
        Row {
            name: name.to_owned(),
            samples,
            tree: None,
            report: None,
            skipped: None,
            error: None,
        }
    }

    fn report() -> Report {
        let image = Summary {
            image: "node".to_owned(),
            layers: 2,
            entries: 10,
            bytes: BTreeMap::from([("tar".to_owned(), 5_000_000)]),
        };
        let mut gone = row("umoci", &[]);
        gone.skipped = Some("umoci is not there".to_owned());
        let cost = Cost {
            wall: 0.5,
            cpu: 0.5,
        };
        let stage = Stages {
            decode: cost,
            decode_fresh: cost,
            ..Stages::default()
        };
        let mut machine = crate::machine::note(Path::new("/"));
        machine.date = "2026-01-02".to_owned();
        machine.cores = 2;
        Report {
            suite: "unpack".to_owned(),
            machine,
            backing: Backing::Tmpfs,
            tools: BTreeMap::new(),
            contestants: BTreeMap::new(),
            runs: 3,
            cases: vec![Case {
                workload: "node".to_owned(),
                image,
                blob_bytes: 1_000_000,
                fs: FsKind::Xfs,
                rows: vec![
                    row("unlade", &[1.0, 2.0, 1.0]),
                    row("tar", &[3.0, 8.0, 3.0]),
                    gone,
                ],
                light: vec![stage; 3],
            }],
            latency: Vec::new(),
        }
    }

    #[test]
    fn ratios_are_of_paired_rounds() {
        let text = report().markdown();
        let tar = text
            .lines()
            .find(|line| line.starts_with("| tar "))
            .unwrap();
        assert!(tar.contains("| 3.000 (3.000-8.000) |"), "{tar}");
        assert!(tar.contains("| 3.00 (3.00-4.00) |"), "{tar}");
        let ours = text
            .lines()
            .find(|line| line.starts_with("| unlade "))
            .unwrap();
        assert!(
            ours.contains("| 2.00 (2.00-4.00) | 2.00 (2.00-4.00) |"),
            "{ours}"
        );
        assert!(text.contains("| umoci | left out: umoci is not there |"));
    }

    #[test]
    fn a_report_is_written_and_reads_back() {
        let temp = tempfile::tempdir().unwrap();
        let [json, markdown] = report().write(temp.path()).unwrap();
        assert!(json.ends_with("2026-01-02-unpack.json") && markdown.exists());
        let back: Report = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
        assert_eq!(back.cases[0].rows.len(), 3);
        assert!(!back.failed());
    }
}
