//! The rounds: contestants in turn, each scene with an image of its own case.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::child::How;
use crate::fs::{FsKind, Lab};
use crate::measure;
use crate::oci::read_layers;
use crate::pull::registry::Registry;
use crate::run::rotation;
use crate::start::contestants::Contestant;
use crate::start::helpers::HelperCase;
use crate::start::seat::Seat;
use crate::start::{Scene, place};
use crate::workloads::Store;

/// How long a daemon may go on tidying up before the next contestant's turn; it counts as
/// machine CPU.
const PAUSE: Duration = Duration::from_millis(20);

/// Where starts are measured.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    /// The workloads.
    pub(crate) store: &'a Store,
    /// The file systems.
    pub(crate) lab: &'a Lab,
    /// What kind.
    pub(crate) fs: FsKind,
    /// Where images are pulled from.
    pub(crate) registry: &'a Registry,
    /// Everybody.
    pub(crate) contestants: &'a [Contestant],
    /// Rounds of each scene.
    pub(crate) runs: usize,
    /// Rounds of many at once, and how many.
    pub(crate) crowd: (usize, usize),
}

/// The runs of one contestant in one scene.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct StartRow {
    /// Who.
    pub(crate) name: String,
    /// Wall milliseconds of each round, to a microsecond.
    pub(crate) wall_ms: Vec<f64>,
    /// Mean milliseconds until the last process that was left running had ended.
    pub(crate) settle_ms: f64,
    /// Mean CPU milliseconds of the process tree, and of what it left running.
    pub(crate) own_cpu_ms: f64,
    /// Mean busy milliseconds of all CPUs meanwhile.
    pub(crate) machine_cpu_ms: f64,
    /// Peak RSS in KiB of the largest process of any round.
    pub(crate) peak_rss_kib: u64,
    /// Peak RSS in KiB of the largest daemon since it was ready.
    pub(crate) daemon_rss_kib: Option<u64>,
    /// Why it did not take part.
    pub(crate) skipped: Option<String>,
    /// What went wrong, and ended its part.
    pub(crate) error: Option<String>,
}

/// One scene with one image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StartCase {
    /// The workload.
    pub(crate) image: String,
    /// Its layers.
    pub(crate) layers: usize,
    /// What was done.
    pub(crate) scene: Scene,
    /// How many at once.
    pub(crate) at_once: usize,
    /// The contestants.
    pub(crate) rows: Vec<StartRow>,
}

impl Bench<'_> {
    /// Runs the scenes with one image, all stores on one fresh file system. What does not depend
    /// on the image is done with the first alone.
    pub(crate) fn image(
        &self,
        workload: &str,
        first: bool,
        scenes: &[Scene],
        cases: &mut Vec<StartCase>,
        helpers: &mut Vec<HelperCase>,
    ) -> Result<()> {
        eprintln!("perf: preparing {workload}");
        let layout = self.store.image(workload);
        let blobs = read_layers(&layout)?;
        let published = self.registry.publish(workload, &layout)?;
        measure::warm(&blobs)?;
        let fresh = self.lab.fresh(self.fs)?;
        let take = |one: &Contestant| match one.obstacle() {
            Some(reason) => Err((true, reason)),
            None => Seat::take(one, fresh.path(), &published.reference, &blobs)
                .map_err(|error| (false, format!("{error:#}"))),
        };
        let seats: Vec<_> = self.contestants.iter().map(take).collect();
        fresh.flush()?;
        for &scene in scenes {
            if !first && matches!(scene, Scene::Version | Scene::Helpers) {
                continue;
            }
            eprintln!("perf: {workload}: {}", scene.name());
            let rows = self.contestants.iter().zip(&seats).map(|(one, seat)| {
                let mut row = StartRow {
                    name: one.name.clone(),
                    ..StartRow::default()
                };
                match seat {
                    Ok(_) => row.skipped = one.lacks(scene),
                    Err((true, reason)) => row.skipped = Some(reason.clone()),
                    Err((false, reason)) => row.error = Some(reason.clone()),
                }
                row
            });
            let rows: Vec<_> = rows.collect();
            let seats: Vec<_> = seats.iter().map(|seat| seat.as_ref().ok()).collect();
            if scene == Scene::Helpers {
                helpers.push(HelperCase::measure(workload, rows, &seats)?);
            } else {
                let rows = self.scene(scene, rows, &seats)?;
                let at_once = if scene == Scene::Concurrent {
                    self.crowd.1
                } else {
                    1
                };
                cases.push(StartCase {
                    image: workload.to_owned(),
                    layers: blobs.len(),
                    scene,
                    at_once,
                    rows,
                });
            }
            place::reap();
        }
        drop(seats);
        place::reap();
        Ok(())
    }

    /// One scene: everybody once untimed, then the rounds.
    fn scene(
        &self,
        scene: Scene,
        mut rows: Vec<StartRow>,
        seats: &[Option<&Seat>],
    ) -> Result<Vec<StartRow>> {
        let (runs, at_once) = match scene {
            Scene::Concurrent => self.crowd,
            _ => (self.runs, 1),
        };
        let mut turn = 0;
        let mut once = |row: &mut StartRow, seat: &Seat, timed: bool| -> Result<()> {
            let mut steps = Vec::new();
            for _ in 0..at_once {
                turn += 1;
                match seat.lines.steps(scene, &format!("perf-{turn}")) {
                    Ok(more) => steps.extend(more),
                    Err(reason) => {
                        row.skipped = Some(reason);
                        return Ok(());
                    }
                }
            }
            let how = if at_once > 1 {
                How::Together
            } else {
                How::Settle
            };
            let busy = measure::machine_busy()?;
            let outcome = seat.run(steps, how)?;
            std::thread::sleep(PAUSE);
            if timed {
                let busy = measure::machine_busy()? - busy;
                row.wall_ms.push((outcome.wall * 1e6).round() / 1e3);
                row.settle_ms += outcome.settle * 1e3;
                row.own_cpu_ms += (outcome.user + outcome.sys) * 1e3;
                row.machine_cpu_ms += busy * 1e3;
                row.peak_rss_kib = row.peak_rss_kib.max(outcome.max_rss_kib);
            }
            Ok(())
        };
        for (row, seat) in rows.iter_mut().zip(seats) {
            let Some(seat) = seat.filter(|_| row.takes_part()) else {
                continue;
            };
            let start = seat.lines.start().filter(|_| scene == Scene::Exec);
            let ready = start.map_or(Ok(()), |line| seat.run(vec![line], How::InTurn).map(|_| ()));
            let ready = match ready.context("start a container") {
                Ok(()) => once(row, seat, false),
                Err(error) => Err(error),
            };
            row.note(ready);
        }
        for round in 0..runs {
            for place in rotation(rows.len(), round) {
                let row = &mut rows[place];
                if let Some(seat) = seats[place].filter(|_| row.takes_part()) {
                    let done = once(row, seat, true);
                    row.note(done);
                }
            }
        }
        for (row, seat) in rows.iter_mut().zip(seats) {
            let Some(seat) = seat else { continue };
            if scene == Scene::Exec && row.skipped.is_none() {
                row.note(seat.run(seat.lines.remove(), How::InTurn).map(|_| ()));
            }
            row.daemon_rss_kib = seat.daemon_rss_kib();
            row.mean();
        }
        Ok(rows)
    }
}

impl StartRow {
    /// Whether it has a turn.
    pub(crate) fn takes_part(&self) -> bool {
        self.skipped.is_none() && self.error.is_none()
    }

    /// Keeps the first error.
    pub(crate) fn note(&mut self, done: Result<()>) {
        if let Err(error) = done {
            eprintln!("perf: {}: {error:#}", self.name);
            self.error.get_or_insert(format!("{error:#}"));
        }
    }

    /// Makes means of sums.
    #[allow(clippy::cast_precision_loss)]
    fn mean(&mut self) {
        let runs = self.wall_ms.len().max(1) as f64;
        for sum in [
            &mut self.settle_ms,
            &mut self.own_cpu_ms,
            &mut self.machine_cpu_ms,
        ] {
            *sum = (*sum / runs * 1e3).round() / 1e3;
        }
    }
}
