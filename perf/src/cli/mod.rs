//! The command line, and what each command puts together.

mod args;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use self::args::{Cli, Command, Options};
use crate::contestants::{Contestant, DEFAULT};
use crate::fs::{FsKind, Lab, is_root};
use crate::report::Report;
use crate::run::{self, Plan};
use crate::suite::{Settings, Suite, UnpackSuite, results_dir};
use crate::workloads::{self, Store};
use crate::{child, compare, machine, pull, start, tiny};

/// Runs the command line.
pub(crate) fn dispatch() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Child { spec } => child::main(&spec).map(|()| ExitCode::SUCCESS),
        Command::Workloads { place, names } => {
            let store = Store::open(place.dir)?;
            workloads::ensure(&store, &names)?;
            workloads::print(&store)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run {
            suite,
            options,
            contestant,
            part,
            scene,
            unlade,
            no_light,
        } => {
            let unlade = std::path::absolute(unlade)?;
            let starting = matches!(suite, Suite::Start | Suite::StartSmoke);
            ensure!(
                scene.is_empty() || starting,
                "--scene is of the start suite"
            );
            let suite = match suite {
                Suite::Unpack => UnpackSuite::Unpack,
                Suite::Smoke => UnpackSuite::Smoke,
                Suite::Tiny => UnpackSuite::Tiny,
                Suite::Pull | Suite::PullSmoke => {
                    let (name, keep) = match suite {
                        Suite::Pull => ("pull", Some(results_dir())),
                        _ => ("pull-smoke", None),
                    };
                    let who = (contestant, part, !no_light);
                    return pulls(name, options, who, Some(unlade), keep);
                }
                Suite::Start | Suite::StartSmoke => {
                    ensure!(part.is_empty(), "--part is of the pull suite");
                    let smoke = suite == Suite::StartSmoke;
                    return starts(options, (contestant, scene), unlade, smoke);
                }
            };
            ensure!(part.is_empty(), "--part is of the pull suite");
            let names = if contestant.is_empty() {
                DEFAULT.map(str::to_owned).to_vec()
            } else {
                contestant
            };
            let named = names.iter().map(|name| Contestant::named(name, &unlade));
            let contestants = named.collect::<Result<Vec<_>>>()?;
            let suite = Settings::of(suite, contestants, !no_light);
            measure(options, suite, &[unlade.as_path()])
        }
        Command::Light {
            workloads,
            mut options,
            pull,
        } => {
            options.workload.splice(..0, workloads);
            if pull {
                let nobody = (Vec::new(), vec![pull::Part::Cold], true);
                return pulls("light", options, nobody, None, None);
            }
            let mut suite = Settings::of(UnpackSuite::Unpack, Vec::new(), true);
            (suite.name, suite.tiny, suite.out) = ("light", 0, None);
            measure(options, suite, &[])
        }
        Command::Compare {
            a,
            b,
            options,
            extra,
        } => compare_builds(a, b, options, &extra),
    }
}

/// Runs the pull suite, or light alone. `who`: contestants, parts, whether light is measured.
fn pulls(
    name: &'static str,
    options: Options,
    who: (Vec<String>, Vec<pull::Part>, bool),
    unlade: Option<PathBuf>,
    keep: Option<PathBuf>,
) -> Result<ExitCode> {
    let (contestants, parts, light) = who;
    let settings = pull::Settings {
        name,
        parts,
        workloads: options.workload,
        fs: options.fs,
        contestants,
        runs: options.runs,
        light,
        prime: name != "pull-smoke" && !options.no_prime,
        backing: options.backing,
        unlade,
    };
    let report = pull::measure(&settings, options.place.dir)?;
    let write = |dir: &Path| report.write(dir);
    tell(options.out.or(keep), write, || report.markdown())?;
    Ok(verdict(report.failed()))
}

/// Runs the start suite. `who`: contestants, and what they do.
fn starts(
    options: Options,
    who: (Vec<String>, Vec<start::Scene>),
    unlade: PathBuf,
    smoke: bool,
) -> Result<ExitCode> {
    let settings = start::Settings {
        name: if smoke { "start-smoke" } else { "start" },
        contestants: who.0,
        scenes: who.1,
        workloads: options.workload,
        fs: options.fs,
        runs: options.runs,
        backing: options.backing,
        unlade,
    };
    let report = start::measure(&settings, options.place.dir)?;
    let write = |dir: &Path| report.write(dir);
    tell(
        options.out.or_else(|| (!smoke).then(results_dir)),
        write,
        || report.markdown(),
    )?;
    Ok(verdict(report.failed()))
}

fn measure(options: Options, settings: Settings, builds: &[&Path]) -> Result<ExitCode> {
    if settings.name == "smoke" && !is_root() {
        eprintln!("perf: not root: plain directories instead of freshly made file systems");
    }
    let (store, lab, plan) = prepare(&options, &settings)?;
    let machine = machine::note(store.root());
    let cases = run::cases(&store, &lab, &plan)?;
    let mut latency = Vec::new();
    for &fs in plan.fs.iter().filter(|_| settings.tiny > 0) {
        let runs = plan.runs * settings.tiny;
        latency.extend(tiny::latency(&store, &lab, fs, &plan.contestants, runs)?);
    }
    let notes = plan
        .contestants
        .iter()
        .map(|c| (c.name.clone(), c.note().to_owned()))
        .collect();
    let report = Report {
        suite: settings.name.to_owned(),
        machine,
        backing: lab.backing,
        tools: versions(builds),
        contestants: notes,
        runs: plan.runs,
        cases,
        latency,
    };
    let write = |dir: &Path| report.write(dir);
    tell(options.out.or(settings.out), write, || report.markdown())?;
    Ok(verdict(report.failed()))
}

/// Writes a report into `dir` and names its files, or prints it where there is no such directory.
fn tell(
    dir: Option<PathBuf>,
    write: impl FnOnce(&Path) -> Result<[PathBuf; 2]>,
    markdown: impl FnOnce() -> String,
) -> Result<()> {
    match dir {
        Some(dir) => {
            for path in write(&dir)? {
                println!("{}", path.display());
            }
        }
        None => print!("{}", markdown()),
    }
    Ok(())
}

fn verdict(failed: bool) -> ExitCode {
    match failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn prepare(options: &Options, settings: &Settings) -> Result<(Store, Lab, Plan)> {
    let or = |given: &[String], default: &[String]| {
        if given.is_empty() {
            default.to_vec()
        } else {
            given.to_vec()
        }
    };
    let plan = Plan {
        runs: options.runs.unwrap_or(settings.runs),
        fs: if options.fs.is_empty() {
            settings.fs.clone()
        } else {
            options.fs.clone()
        },
        workloads: or(&options.workload, &settings.workloads),
        contestants: settings.contestants.clone(),
        light: settings.light,
        prime: settings.prime && !options.no_prime,
    };
    ensure!(plan.runs > 0, "--runs is at least 1");
    let store = Store::open(options.place.dir.clone())?;
    let mut needed = plan.workloads.clone();
    needed.extend((settings.tiny > 0).then(|| tiny::WORKLOAD.to_owned()));
    workloads::ensure(&store, &needed)?;
    let lab = Lab::new(store.root(), &plan.fs, options.backing)?;
    Ok((store, lab, plan))
}

fn compare_builds(a: PathBuf, b: PathBuf, options: Options, extra: &[String]) -> Result<ExitCode> {
    for build in [&a, &b] {
        ensure!(build.is_file(), "{} is no file", build.display());
    }
    let (a, b) = (std::path::absolute(a)?, std::path::absolute(b)?);
    let contestants = vec![
        Contestant::build("A", &a, extra),
        Contestant::build("B", &b, extra),
    ];
    let mut settings = Settings::of(UnpackSuite::Unpack, contestants, false);
    settings.workloads = vec![
        "debian".to_owned(),
        "nodeapp".to_owned(),
        "python-many".to_owned(),
    ];
    (settings.fs, settings.runs, settings.tiny) = (vec![FsKind::Xfs], 11, 0);
    let (store, lab, plan) = prepare(&options, &settings)?;
    if plan.runs < compare::LEAST_RUNS {
        bail!(
            "--runs: {} at least, or nothing can be told from noise",
            compare::LEAST_RUNS
        );
    }
    let cases = run::cases(&store, &lab, &plan)?;
    let (table, refused) = compare::judge(&cases);
    print!("{table}");
    if let Some(dir) = options.out {
        std::fs::create_dir_all(&dir)?;
        let stem = format!("{}-compare", machine::note(store.root()).date);
        std::fs::write(dir.join(format!("{stem}.md")), &table)?;
        let json = serde_json::to_vec_pretty(&cases)?;
        std::fs::write(dir.join(format!("{stem}.json")), json).context("write the figures")?;
    }
    Ok(verdict(refused))
}

/// Versions of every program involved, and digests of the builds of unlade.
fn versions(builds: &[&Path]) -> BTreeMap<String, String> {
    let mut found = machine::versions(&[
        "tar",
        "gzip",
        "pigz",
        "zstd",
        "bsdtar",
        "umoci",
        "mkfs.xfs",
        "mkfs.ext4",
        "mkfs.btrfs",
    ]);
    for build in builds {
        if let Some(said) = machine::version_of_build(build) {
            found.insert("unlade".to_owned(), said);
        }
    }
    found
}
