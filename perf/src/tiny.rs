//! Start-up latency: a tiny image unpacked many times onto one file system.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::child::{self, How, Spec};
use crate::contestants::Contestant;
use crate::fs::{FsKind, Lab};
use crate::measure;
use crate::oci::{Compression, read_layers};
use crate::workloads::Store;

/// The workload.
pub(crate) const WORKLOAD: &str = "tiny";

/// The runs of one contestant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Who.
    pub(crate) name: String,
    /// The file system.
    pub(crate) fs: FsKind,
    /// Wall milliseconds of each run.
    pub(crate) wall_ms: Vec<f64>,
    /// What went wrong, and ended its part.
    pub(crate) error: Option<String>,
}

/// Unpacks the tiny image `runs` times with each contestant, in turn, each into a new directory.
pub(crate) fn latency(
    store: &Store,
    lab: &Lab,
    fs: FsKind,
    contestants: &[Contestant],
    runs: usize,
) -> Result<Vec<Latency>> {
    eprintln!("perf: start-up latency on {}", fs.name());
    let image = store.image(WORKLOAD);
    let blobs = read_layers(&image)?;
    measure::warm(&blobs)?;
    let present = contestants
        .iter()
        .filter(|c| c.obstacle(Compression::Gzip).is_none());
    let mut rows: Vec<_> = present
        .map(|c| {
            (
                c,
                Latency {
                    name: c.name.clone(),
                    fs,
                    wall_ms: Vec::new(),
                    error: None,
                },
            )
        })
        .collect();
    let fresh = lab.fresh(fs)?;
    let log = tempfile::Builder::new()
        .prefix(&format!("log-{}-", std::process::id()))
        .tempfile_in(store.root())?;
    for round in 0..runs {
        for (contestant, row) in &mut rows {
            if row.error.is_some() {
                continue;
            }
            let dest = fresh.path().join(format!("{}-{round}", row.name));
            if contestant.wants_dest() {
                std::fs::create_dir(&dest)?;
            }
            let steps = contestant.steps(&image, &blobs, &dest);
            let outcome = child::spawn(&Spec {
                steps,
                log: log.path().to_owned(),
                env: Vec::new(),
                how: How::InTurn,
                limit: None,
            })?;
            match outcome.failure {
                None => row.wall_ms.push(outcome.wall * 1e3),
                failure => row.error = failure,
            }
        }
    }
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}
