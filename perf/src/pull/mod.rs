//! `perf run pull`: from a registry on a loopback port to a store that is ready to use.

mod again;
pub(crate) mod daemon;
mod engines;
mod markdown;
mod readback;
pub(crate) mod registry;
mod report;
mod run;
mod session;
mod targets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::fs::{Backing, FsKind, Lab, is_root};
use crate::machine;
use crate::pull::engines::{ALL, Engine};
use crate::pull::registry::Registry;
use crate::pull::report::PullReport;
use crate::pull::run::Bench;
use crate::workloads::{self, Store};

/// What is pulled unless told otherwise: one, several and 60 layers, gzip and zstd.
const WORKLOADS: &str = "debian,nodeapp,pyds,three,node-many,python-many,node-60,pyds-60,\
                         nodeapp-zstd,pyds-zstd,node-60-zstd";
/// What is pulled a second time and read back unless told otherwise.
const AGAIN: &str = "nodeapp,node-60";
const READ_BACK: &str = "nodeapp,pyds";
/// Who reads back unless told otherwise.
const READERS: [&str; 2] = ["unlade-erofs", "unlade-overlay"];

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Pulls into an empty store, and light
    Cold,
    /// Second pulls, with all layers there but the topmost
    Again,
    /// Reading back what was pulled
    ReadBack,
}

/// What to run.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Name in reports: `pull`, `pull-smoke` or `light`.
    pub(crate) name: &'static str,
    /// Parts; all if empty.
    pub(crate) parts: Vec<Part>,
    /// Workloads; the suite's own if empty.
    pub(crate) workloads: Vec<String>,
    /// File systems; the suite's own if empty.
    pub(crate) fs: Vec<FsKind>,
    /// Contestants; all if empty.
    pub(crate) contestants: Vec<String>,
    /// Rounds, if not the suite's own.
    pub(crate) runs: Option<usize>,
    /// Whether light is measured.
    pub(crate) light: bool,
    /// Whether memory is touched before each run.
    pub(crate) prime: bool,
    /// Where the file system images lie.
    pub(crate) backing: Backing,
    /// The unlade binary; without one nobody takes part, and light alone is measured.
    pub(crate) unlade: Option<PathBuf>,
}

/// Runs the suite.
pub(crate) fn measure(settings: &Settings, dir: Option<PathBuf>) -> Result<PullReport> {
    ensure!(
        is_root(),
        "pulls onto fresh file systems, by engines with mounts and daemons, need root"
    );
    if let Some(reason) = registry::obstacle() {
        bail!("{reason}");
    }
    let smoke = settings.name == "pull-smoke";
    let named = |part, names: &str| -> Vec<String> {
        if !settings.parts.is_empty() && !settings.parts.contains(&part) {
            Vec::new()
        } else if settings.workloads.is_empty() {
            let names = if smoke {
                "smoke,smoke-zstd,smoke-60"
            } else {
                names
            };
            names.split(',').map(str::to_owned).collect()
        } else {
            settings.workloads.clone()
        }
    };
    let engines = match &settings.unlade {
        Some(unlade) => engines(&settings.contestants, unlade)?,
        None => Vec::new(),
    };
    let runs = settings.runs.unwrap_or(if smoke { 2 } else { 3 });
    ensure!(runs > 0, "--runs is at least 1");
    let fs = if settings.fs.is_empty() {
        vec![FsKind::Xfs, FsKind::Ext4]
    } else {
        settings.fs.clone()
    };
    ensure!(
        !fs.contains(&FsKind::Plain),
        "pulls need a file system of their own"
    );

    let store = Store::open(dir)?;
    let cold = named(Part::Cold, WORKLOADS);
    let second = named(Part::Again, AGAIN);
    let back = named(Part::ReadBack, READ_BACK);
    workloads::ensure(&store, &[&cold[..], &second, &back].concat())?;
    let machine = machine::note(store.root());
    let lab = Lab::new(store.root(), &fs, settings.backing)?;
    let registry = Registry::start(store.root())?;
    let bench = Bench {
        store: &store,
        lab: &lab,
        registry: &registry,
        prime: settings.prime,
    };

    let (mut cases, mut again, mut readback) = (Vec::new(), Vec::new(), Vec::new());
    for workload in &cold {
        let image = bench.image(workload)?;
        for &fs in &fs {
            eprintln!("perf: {workload} onto {}", fs.name());
            cases.push(bench.case(&image, fs, &engines, runs, settings.light)?);
        }
    }
    for workload in &second {
        let image = bench.image(workload)?;
        if image.blobs.len() > 1 {
            eprintln!("perf: {workload} again");
            again.push(bench.again(&image, fs[0], &engines, runs)?);
        }
    }
    let readers = readers(&settings.contestants, &engines);
    for workload in &back {
        let image = bench.image(workload)?;
        eprintln!("perf: reading {workload} back");
        readback.push(bench.read_back(&image, &fs, &readers, runs)?);
    }
    Ok(PullReport {
        suite: settings.name.to_owned(),
        machine,
        backing: lab.backing,
        tools: versions(settings.unlade.as_deref()),
        contestants: engines.iter().map(|e| (e.name.clone(), e.note())).collect(),
        runs,
        cases,
        again,
        readback,
    })
}

fn engines(names: &[String], unlade: &Path) -> Result<Vec<Engine>> {
    if names.is_empty() {
        return ALL.iter().map(|name| Engine::named(name, unlade)).collect();
    }
    names
        .iter()
        .map(|name| Engine::named(name, unlade))
        .collect()
}

/// Those of the contestants that read back: the usual two, or all that were named.
fn readers(names: &[String], engines: &[Engine]) -> Vec<Engine> {
    let reads = |engine: &&Engine| !names.is_empty() || READERS.contains(&engine.name.as_str());
    engines.iter().filter(reads).cloned().collect()
}

fn versions(unlade: Option<&Path>) -> BTreeMap<String, String> {
    let mut found = machine::versions(&[
        "docker-registry",
        "containerd",
        "podman",
        "skopeo",
        "umoci",
        "dockerd",
        "docker",
        "igzip",
        "pigz",
        "mkfs.xfs",
        "mkfs.ext4",
        "mkfs.btrfs",
    ]);
    if let Some(said) = unlade.and_then(machine::version_of_build) {
        found.insert("unlade".to_owned(), said);
    }
    found
}
