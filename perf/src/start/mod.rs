//! `perf run start`: from an image in the store to a container that has run, in milliseconds.

mod bundle;
mod contestants;
mod helpers;
mod lines;
mod markdown;
mod place;
mod report;
mod rounds;
mod seat;
mod targets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::fs::{Backing, FsKind, Lab, is_root};
use crate::machine;
use crate::pull::registry::{self, Registry};
use crate::start::contestants::{ALL, Contestant};
use crate::start::report::StartReport;
use crate::start::rounds::Bench;
use crate::workloads::{self, Store};

/// One static binary, and sixty layers with one more on top.
const IMAGES: [&str; 2] = ["busybox", "node-60-busybox"];
/// The same without a network to make them.
const SMOKE_IMAGES: [&str; 2] = ["busybox", "smoke-60-busybox"];
/// Where netavark lies if it is not in PATH.
const NETAVARK: &str = "/usr/lib/podman/netavark";

/// What is done again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scene {
    /// `--version`
    Version,
    /// `run --rm --network none IMAGE true`
    RunNone,
    /// `run --rm --network host IMAGE true`
    RunHost,
    /// `run --rm --network bridge IMAGE true`
    RunBridge,
    /// `exec CONTAINER true`
    Exec,
    /// create, start, stop, rm
    Lifecycle,
    /// `run --rm --network none IMAGE true`, many at once
    Concurrent,
    /// The memory of what stays beside one running container
    Helpers,
}

impl Scene {
    /// Its name in reports and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::RunNone => "run-none",
            Self::RunHost => "run-host",
            Self::RunBridge => "run-bridge",
            Self::Exec => "exec",
            Self::Lifecycle => "lifecycle",
            Self::Concurrent => "concurrent",
            Self::Helpers => "helpers",
        }
    }
}

/// What to run.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Name in reports: `start` or `start-smoke`.
    pub(crate) name: &'static str,
    /// Scenes; all if empty.
    pub(crate) scenes: Vec<Scene>,
    /// Workloads; the suite's own if empty. The layer `busybox` is put on top of others.
    pub(crate) workloads: Vec<String>,
    /// The file system all stores lie on; xfs if not named.
    pub(crate) fs: Vec<FsKind>,
    /// Contestants; all if empty.
    pub(crate) contestants: Vec<String>,
    /// Rounds, if not the suite's own.
    pub(crate) runs: Option<usize>,
    /// Where the file system image lies.
    pub(crate) backing: Backing,
    /// The unlade binary.
    pub(crate) unlade: PathBuf,
}

/// Runs the suite.
pub(crate) fn measure(settings: &Settings, dir: Option<PathBuf>) -> Result<StartReport> {
    ensure!(is_root(), "containers with stores of their own need root");
    if let Some(reason) = registry::obstacle() {
        bail!("{reason}");
    }
    let smoke = settings.name == "start-smoke";
    let runs = settings.runs.unwrap_or(if smoke { 2 } else { 100 });
    ensure!(runs > 0, "--runs is at least 1");
    let fs = match settings.fs[..] {
        [] => FsKind::Xfs,
        [one] if one != FsKind::Plain => one,
        _ => bail!("--fs: one file system, made for the run"),
    };
    let names = if settings.contestants.is_empty() {
        ALL.map(str::to_owned).to_vec()
    } else {
        settings.contestants.clone()
    };
    let contestants = names
        .iter()
        .map(|name| Contestant::named(name, &settings.unlade))
        .collect::<Result<Vec<_>>>()?;
    let images = images(settings, smoke);

    let store = Store::open(dir)?;
    workloads::ensure(&store, &images)?;
    let machine = machine::note(store.root());
    let lab = Lab::new(store.root(), &[fs], settings.backing)?;
    let crun = contestants.iter().any(Contestant::is_crun);
    let place = place::enter(crun)?;
    let registry = Registry::start(store.root())?;
    let bench = Bench {
        store: &store,
        lab: &lab,
        fs,
        registry: &registry,
        contestants: &contestants,
        runs,
        crowd: if smoke { (1, 3) } else { (5, 50) },
    };
    let has = |scene| settings.scenes.is_empty() || settings.scenes.contains(&scene);
    let scenes: Vec<_> = Scene::value_variants()
        .iter()
        .copied()
        .filter(|&scene| has(scene))
        .collect();
    let (mut cases, mut helpers) = (Vec::new(), Vec::new());
    for (number, image) in images.iter().enumerate() {
        bench.image(image, number == 0, &scenes, &mut cases, &mut helpers)?;
    }
    Ok(StartReport {
        suite: settings.name.to_owned(),
        machine,
        backing: lab.backing,
        fs,
        place,
        tools: versions(&settings.unlade),
        contestants: contestants
            .iter()
            .map(|one| (one.name.clone(), one.note()))
            .collect(),
        runs,
        cases,
        helpers,
    })
}

fn images(settings: &Settings, smoke: bool) -> Vec<String> {
    if settings.workloads.is_empty() {
        let names = if smoke { SMOKE_IMAGES } else { IMAGES };
        return names.map(str::to_owned).to_vec();
    }
    let on_top = |name: &String| match name.ends_with("busybox") {
        true => name.clone(),
        false => format!("{name}-busybox"),
    };
    settings.workloads.iter().map(on_top).collect()
}

/// netavark's path.
fn netavark() -> &'static str {
    if Path::new(NETAVARK).is_file() {
        NETAVARK
    } else {
        "netavark"
    }
}

fn versions(unlade: &Path) -> BTreeMap<String, String> {
    let mut found = machine::versions(&[
        "runc",
        "crun",
        "podman",
        "conmon",
        "containerd",
        "dockerd",
        "docker",
        netavark(),
    ]);
    if let Some(said) = machine::version_of_build(unlade) {
        found.insert("unlade".to_owned(), said);
    }
    found
}
