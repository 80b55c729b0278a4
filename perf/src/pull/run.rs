//! Pulls: every image by every engine in turn, each onto a fresh file system.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::child::{How, Spec};
use crate::fs::{Fresh, FsKind, Lab};
use crate::light::{self, Stages};
use crate::measure::{self, Daemons, Sample};
use crate::oci::{Blob, Compression, read_layers};
use crate::pull::engines::Engine;
use crate::pull::registry::{Published, Registry};
use crate::pull::session::{Session, output};
use crate::run::{Case, Row, rotation};
use crate::workloads::{self, Store, Summary};

/// Bytes of memory to touch beyond what the workload itself takes.
const PRIME_SLACK: u64 = 768 << 20;

/// Where pulls are measured.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// The workloads.
    pub(crate) store: &'a Store,
    /// The file systems.
    pub(crate) lab: &'a Lab,
    /// The registry.
    pub(crate) registry: &'a Registry,
    /// Whether memory is touched before each run.
    pub(crate) prime: bool,
}

/// An image in the layout directory and on the registry.
#[derive(Debug)]
pub(crate) struct Image {
    /// Name of the workload.
    pub(crate) workload: String,
    /// Its layout.
    pub(crate) layout: PathBuf,
    /// Its layers.
    pub(crate) blobs: Vec<Blob>,
    /// How they are stored.
    pub(crate) compression: Compression,
    /// What is in it.
    pub(crate) summary: Summary,
    /// Where it is pulled from.
    pub(crate) published: Published,
}

impl Bench<'_> {
    /// Puts a workload on the registry.
    pub(crate) fn image(&self, workload: &str) -> Result<Image> {
        let layout = self.store.image(workload);
        let (name, compression) = workloads::parse(workload)?;
        Ok(Image {
            workload: workload.to_owned(),
            blobs: read_layers(&layout)?,
            compression,
            summary: workloads::summary(self.store, name)?,
            published: self.registry.publish(workload, &layout)?,
            layout,
        })
    }

    /// A fresh file system, with the image's blobs in the page cache and memory touched.
    pub(crate) fn fresh(&self, image: &Image, fs: FsKind) -> Result<Fresh> {
        measure::warm(&image.blobs)?;
        rustix::fs::sync();
        let fresh = self.lab.fresh(fs)?;
        if self.prime {
            let tar = image.summary.bytes.get("tar").copied().unwrap_or(0);
            let blobs: u64 = image.blobs.iter().map(|blob| blob.size).sum();
            measure::prime(2 * tar + 2 * blobs + PRIME_SLACK)?;
        }
        Ok(fresh)
    }

    /// Starts an engine whose store is on `fresh`.
    pub(crate) fn session<'f>(&self, engine: &Engine, fresh: &'f Fresh) -> Result<Running<'f>> {
        let scratch = tempfile::tempdir_in(self.lab.scratch())?;
        let session = engine.start(fresh.path(), scratch.path())?;
        Ok(Running {
            session,
            fresh,
            scratch,
        })
    }

    /// The stages of a pull, each alone.
    fn light(&self, image: &Image, fresh: &Fresh) -> Result<Stages> {
        let mut stages = light::measure_pull(&image.blobs, fresh)?;
        let mut buffer = vec![0; 1 << 20];
        let before = self.registry.cpu_seconds()?;
        light::time(&mut stages.receive, || {
            self.registry.receive(&image.published, &mut buffer)
        })?;
        stages.receive.cpu += self.registry.cpu_seconds()? - before;
        Ok(stages)
    }

    /// Pulls, timed.
    pub(crate) fn timed(&self, running: &Running<'_>, reference: &str) -> Result<Sample> {
        let Running { session, fresh, .. } = running;
        let usage = || session.daemon.as_ref().map(|daemon| daemon.usage());
        let (before, served) = (usage().unwrap_or_default(), self.registry.cpu_seconds()?);
        let mut sample = measure::timed(&running.spec(session.pull(reference)), fresh)?;
        let after = usage().unwrap_or_default();
        sample.daemons = Some(Daemons {
            cpu: (after.cpu - before.cpu).max(0.0),
            peak_rss_kib: after.peak_rss_kib,
            sum_rss_kib: after.sum_rss_kib,
            registry_cpu: self.registry.cpu_seconds()? - served,
        });
        Ok(sample)
    }

    /// One image on one kind of file system, all engines in turn.
    pub(crate) fn case(
        &self,
        image: &Image,
        fs: FsKind,
        engines: &[Engine],
        runs: usize,
        with_light: bool,
    ) -> Result<Case> {
        let mut rows = rows(engines, image, fs);
        let mut light = Vec::new();
        for round in 0..runs {
            for place in rotation(rows.len() + usize::from(with_light), round) {
                let (Some(engine), Some(row)) = (engines.get(place), rows.get_mut(place)) else {
                    let fresh = self.fresh(image, fs)?;
                    light.push(self.light(image, &fresh).context("measure light")?);
                    continue;
                };
                if row.skipped.is_some() || row.error.is_some() {
                    continue;
                }
                if let Err(error) = self.round(engine, row, image, fs, round == 0) {
                    eprintln!("perf: {}: {error:#}", row.name);
                    row.error = Some(format!("{error:#}"));
                }
            }
        }
        Ok(Case {
            workload: image.workload.clone(),
            image: image.summary.clone(),
            blob_bytes: image.blobs.iter().map(|blob| blob.size).sum(),
            fs,
            rows,
            light,
        })
    }

    /// One pull; in the first round the tree is counted after it, and unlade says what it did in
    /// another pull that is not timed.
    fn round(
        &self,
        engine: &Engine,
        row: &mut Row,
        image: &Image,
        fs: FsKind,
        first: bool,
    ) -> Result<()> {
        let reference = &image.published.reference;
        let fresh = self.fresh(image, fs)?;
        let running = self.session(engine, &fresh)?;
        row.samples.push(self.timed(&running, reference)?);
        if first {
            let count = |tree: &std::path::Path| measure::count(tree);
            row.tree = running.session.with_tree(reference, count)?;
        }
        drop(running);
        drop(fresh);
        if first && engine.is_unlade() {
            let fresh = self.fresh(image, fs)?;
            let running = self.session(engine, &fresh)?;
            let to = running.scratch.path().join("report.json");
            if let Some(line) = running.session.reporting(reference, &to) {
                output(&line, &running.session.env)?;
                let bytes = std::fs::read(&to).context("read its report")?;
                row.report = Some(serde_json::from_slice(&bytes).context("parse its report")?);
            }
        }
        Ok(())
    }
}

/// An engine with its store on a fresh file system. The engine ends before its directories go.
#[derive(Debug)]
pub(crate) struct Running<'f> {
    /// The engine.
    pub(crate) session: Session,
    fresh: &'f Fresh,
    scratch: tempfile::TempDir,
}

impl Running<'_> {
    fn spec(&self, steps: Vec<Vec<String>>) -> Spec {
        Spec {
            steps,
            log: self.scratch.path().join("log"),
            env: self.session.env.clone(),
            how: How::InTurn,
            limit: None,
        }
    }
}

/// An empty row for each engine, or the reason why it does not take part.
pub(crate) fn rows(engines: &[Engine], image: &Image, fs: FsKind) -> Vec<Row> {
    let row = |engine: &Engine| Row {
        name: engine.name.clone(),
        samples: Vec::new(),
        tree: None,
        report: None,
        skipped: engine.obstacle(image.compression, fs),
        error: None,
    };
    engines.iter().map(row).collect()
}
