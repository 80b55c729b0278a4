//! Reading back what was pulled: find, cat of everything, importing the Python stack; with a cold
//! cache and with a warm one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::fs::FsKind;
use crate::pull::engines::Engine;
use crate::pull::run::{Bench, Image};
use crate::run::rotation;
use crate::sys;

/// What the Python workload is imported with.
const IMPORT: &str =
    "import numpy, scipy.stats, pandas, pyarrow, sklearn.ensemble, matplotlib.pyplot";

/// The rounds of one engine on one file system: wall seconds by operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReadRow {
    /// Who.
    pub(crate) name: String,
    /// The file system under its store.
    pub(crate) fs: FsKind,
    /// `find cold`, `find warm`, `cat cold`, ...
    pub(crate) seconds: BTreeMap<String, Vec<f64>>,
    /// Why it did not take part.
    pub(crate) skipped: Option<String>,
    /// What went wrong, and ended its part.
    pub(crate) error: Option<String>,
}

/// One image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReadBack {
    /// The workload.
    pub(crate) workload: String,
    /// What the import was done with, where there is something to import.
    pub(crate) import: Option<String>,
    /// Engines and file systems.
    pub(crate) rows: Vec<ReadRow>,
}

impl Bench<'_> {
    /// Measures reading an image back, each engine on each file system in turn.
    pub(crate) fn read_back(
        &self,
        image: &Image,
        fs: &[FsKind],
        engines: &[Engine],
        runs: usize,
    ) -> Result<ReadBack> {
        let places: Vec<_> = engines
            .iter()
            .flat_map(|engine| fs.iter().map(move |&fs| (engine, fs)))
            .collect();
        let mut rows: Vec<_> = places
            .iter()
            .map(|&(engine, fs)| ReadRow {
                name: engine.name.clone(),
                fs,
                seconds: BTreeMap::new(),
                skipped: engine.obstacle(image.compression, fs),
                error: None,
            })
            .collect();
        let mut import = None;
        for round in 0..runs {
            for place in rotation(places.len(), round) {
                let ((engine, fs), row) = (places[place], &mut rows[place]);
                if row.skipped.is_some() || row.error.is_some() {
                    continue;
                }
                let mut measure = || {
                    let reference = &image.published.reference;
                    let fresh = self.fresh(image, fs)?;
                    let running = self.session(engine, &fresh)?;
                    self.timed(&running, reference)?;
                    let read = |tree: &Path| read_tree(tree, &mut row.seconds);
                    let said = running.session.with_tree(reference, read)?;
                    import = import.take().or(said.flatten());
                    anyhow::Ok(())
                };
                if let Err(error) = measure() {
                    eprintln!("perf: {}: {error:#}", row.name);
                    row.error = Some(format!("{error:#}"));
                }
            }
        }
        Ok(ReadBack {
            workload: image.workload.clone(),
            import,
            rows,
        })
    }
}

/// Every operation, cold and warm; says what the import was done with.
fn read_tree(tree: &Path, seconds: &mut BTreeMap<String, Vec<f64>>) -> Result<Option<String>> {
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(tree);
        command
    };
    let mut operations = vec![
        ("find", shell("find \"$1\" -printf '%s\\n' >/dev/null")),
        (
            "cat",
            shell("find \"$1\" -type f -print0 | xargs -0 cat >/dev/null"),
        ),
    ];
    let import = importer(tree)?;
    let said = import.map(|(said, command)| {
        operations.push(("import", command));
        said
    });
    for (name, command) in &mut operations {
        drop_caches()?;
        // What the machine itself brings, its programs and libraries, is not to be cold.
        warm_up()?;
        for cache in ["cold", "warm"] {
            let begin = Instant::now();
            let output = sys::die_with_parent(command)
                .output()
                .with_context(|| format!("start {name}"))?;
            let wall = begin.elapsed().as_secs_f64();
            let stderr = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "{name}: {}: {stderr}",
                output.status
            );
            seconds
                .entry(format!("{name} {cache}"))
                .or_default()
                .push(wall);
        }
    }
    Ok(said)
}

/// What imports the Python stack of a tree: a python3 in it, else this machine's, else a reading
/// of all its sources. Nothing where the tree has no such stack.
fn importer(tree: &Path) -> Result<Option<(String, Command)>> {
    let stack = tree.join("opt/python");
    if !stack.join("numpy").is_dir() {
        return Ok(None);
    }
    let settings = |command: &mut Command| {
        command.args(["-B", "-c", IMPORT]);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("MPLCONFIGDIR", "/tmp");
    };
    if tree.join("usr/bin/python3").exists() {
        let mut command = Command::new("chroot");
        command.arg(tree).arg("python3");
        settings(&mut command);
        command.env("PYTHONPATH", "/opt/python");
        return Ok(Some(("python3 of the image".to_owned(), command)));
    }
    if let Some(python) = host_python() {
        let mut command = Command::new(&python);
        settings(&mut command);
        command.env("PYTHONPATH", &stack);
        if command.output().is_ok_and(|output| output.status.success()) {
            let said = format!("{python} of this machine, as the image has none");
            return Ok(Some((said, command)));
        }
    }
    let mut command = Command::new("sh");
    let script = "find \"$1\" -name '*.py' -print0 | xargs -0 cat >/dev/null";
    command.args(["-c", script, "sh"]).arg(stack);
    let said = "no python3 fits: cat of every .py file instead of an import";
    Ok(Some((said.to_owned(), command)))
}

/// The interpreter itself behind whatever wrapper is called python3.
fn host_python() -> Option<String> {
    let said = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .ok()?;
    let path = String::from_utf8(said.stdout).ok()?;
    (said.status.success() && !path.trim().is_empty()).then(|| path.trim().to_owned())
}

fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("drop caches")
}

/// Reads the programs used above, and the standard library that an import reads too.
fn warm_up() -> Result<()> {
    let script = "find / -maxdepth 0 -printf '' | xargs -r -0 cat; cat /dev/null; chroot / true";
    let status = Command::new("sh").args(["-c", script]).status()?;
    ensure!(status.success(), "warm up: {status}");
    let Some(python) = host_python() else {
        return Ok(());
    };
    let library = "import os, sysconfig, ctypes, decimal, multiprocessing\n\
                   for at, dirs, files in os.walk(sysconfig.get_paths()['stdlib']):\n\
                   \x20 dirs[:] = [d for d in dirs if d not in ('site-packages', 'test')]\n\
                   \x20 for f in files: open(os.path.join(at, f), 'rb').read()";
    // Some modules may be lacking; what matters is that the files were read.
    let _ = Command::new(python).args(["-B", "-c", library]).output()?;
    Ok(())
}
