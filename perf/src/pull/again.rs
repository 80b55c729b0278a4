//! A second pull: of an image all of whose layers but the topmost are there already.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::fs::FsKind;
use crate::pull::engines::Engine;
use crate::pull::run::{Bench, Image};
use crate::run::rotation;

/// The rounds of one engine: wall seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AgainRow {
    /// Who.
    pub(crate) name: String,
    /// The image, when all below its top layer was pulled before.
    pub(crate) second: Vec<f64>,
    /// An image of the top layer alone, into an empty store.
    pub(crate) top_alone: Vec<f64>,
    /// Why it did not take part.
    pub(crate) skipped: Option<String>,
    /// What went wrong, and ended its part.
    pub(crate) error: Option<String>,
}

/// One image on one kind of file system.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Again {
    /// The workload.
    pub(crate) workload: String,
    /// The file system.
    pub(crate) fs: FsKind,
    /// Its layers.
    pub(crate) layers: usize,
    /// Stored bytes of the top one.
    pub(crate) top_bytes: u64,
    /// The engines.
    pub(crate) rows: Vec<AgainRow>,
}

impl Bench<'_> {
    /// Measures second pulls of an image.
    pub(crate) fn again(
        &self,
        image: &Image,
        fs: FsKind,
        engines: &[Engine],
        runs: usize,
    ) -> Result<Again> {
        let (name, layers) = (&image.workload, image.blobs.len());
        let part = |suffix, range| {
            let name = format!("{name}-{suffix}");
            let part = self.registry.publish_part(&name, &image.layout, range);
            part.map(|published| published.reference)
        };
        let (below, top) = (
            part("below", 0..layers - 1)?,
            part("top", layers - 1..layers)?,
        );
        let mut rows: Vec<_> = engines
            .iter()
            .map(|engine| AgainRow {
                name: engine.name.clone(),
                second: Vec::new(),
                top_alone: Vec::new(),
                skipped: if engine.has_store() {
                    engine.obstacle(image.compression, fs)
                } else {
                    Some("it has no store of layers".to_owned())
                },
                error: None,
            })
            .collect();
        for round in 0..runs {
            for place in rotation(engines.len(), round) {
                let (engine, row) = (&engines[place], &mut rows[place]);
                if row.skipped.is_some() || row.error.is_some() {
                    continue;
                }
                let mut measure = || {
                    let fresh = self.fresh(image, fs)?;
                    let running = self.session(engine, &fresh)?;
                    self.timed(&running, &below)?;
                    let second = self.timed(&running, &image.published.reference)?;
                    row.second.push(second.wall);
                    drop(running);
                    drop(fresh);
                    let fresh = self.fresh(image, fs)?;
                    let running = self.session(engine, &fresh)?;
                    row.top_alone.push(self.timed(&running, &top)?.wall);
                    anyhow::Ok(())
                };
                if let Err(error) = measure() {
                    eprintln!("perf: {}: {error:#}", row.name);
                    row.error = Some(format!("{error:#}"));
                }
            }
        }
        Ok(Again {
            workload: name.clone(),
            fs,
            layers,
            top_bytes: image.blobs.last().map_or(0, |blob| blob.size),
            rows,
        })
    }
}
