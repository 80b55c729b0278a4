//! Reports as Markdown: the figures to quote, one table a case.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::fs::{Backing, FsKind};
use crate::light::{Cost, Stages};
use crate::machine::Machine;
use crate::measure::Sample;
use crate::report::Report;
use crate::run::{Case, Row};
use crate::stats::{Spread, paired_ratio, quantile, spread};
use crate::tiny::Latency;

/// The contestant that all ratios refer to.
const BASE: &str = "unlade";

impl Report {
    /// The report as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        let plain = self.cases.iter().all(|case| case.fs == FsKind::Plain)
            && self.latency.iter().all(|row| row.fs == FsKind::Plain);
        let backing = if plain { None } else { Some(self.backing) };
        let heading = heading(&self.suite, &self.machine, backing, self.runs);
        line(&mut out, heading);
        for case in &self.cases {
            self.case(&mut out, case);
        }
        latency(&mut out, &self.latency);
        list(&mut out, "Contestants", &self.contestants);
        list(&mut out, "Versions", &self.tools);
        out
    }

    fn case(&self, out: &mut String, case: &Case) {
        let tar = case.image.bytes.get("tar").copied().unwrap_or(0);
        line(
            out,
            format!(
                "\n## {} on {}\n\n{} layers, {} entries, {} MB as stored, {} MB as tar\n",
                case.workload,
                case.fs.name(),
                case.image.layers,
                case.image.entries,
                case.blob_bytes / 1_000_000,
                tar / 1_000_000
            ),
        );
        let lights = [false, true].map(|fresh| {
            case.light
                .iter()
                .map(|s| s.light(self.machine.cores, fresh))
                .collect::<Vec<_>>()
        });
        if !case.rows.is_empty() {
            rows(out, case, &lights);
        }
        stages(out, &case.light, &lights);
    }
}

/// The title, the machine, and what all tables have in common. `backing` is where the file system
/// images lie, if there are any.
pub(crate) fn heading(
    suite: &str,
    machine: &Machine,
    backing: Option<Backing>,
    rounds: usize,
) -> String {
    let backing = match backing {
        None => "Plain directories, no file systems of our own",
        Some(Backing::Disk) => "File system images on disk",
        Some(_) => "File system images in a tmpfs",
    };
    format!(
        "# perf {suite}, {}\n\n\
         {}, {} cores, {} MiB, Linux {}, {}, huge pages {}, load {} at the start. \
         {backing}, source blobs in the page cache ({}). {rounds} rounds.\n\n\
         Medians; in brackets the least and the most. Ratios are of paired rounds. \
         What each column means: perf/README.md.",
        machine.date,
        machine.cpu,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.os,
        machine.huge_pages,
        machine.load,
        machine.source_fs,
    )
}

fn rows(out: &mut String, case: &Case, lights: &[Vec<f64>; 2]) {
    line(
        out,
        "| contestant | wall s | user s | sys s | machine CPU s | peak RSS MiB | flush s \
         | wall / unlade | wall / light | wall / light_fresh |\n\
         |---|---|---|---|---|---|---|---|---|---|",
    );
    let base = case.rows.iter().find(|row| row.name == BASE).map(walls);
    for row in &case.rows {
        if let Some(reason) = row.skipped.as_ref().or(row.error.as_ref()) {
            let what = if row.error.is_some() {
                "FAILED"
            } else {
                "left out"
            };
            let reason = reason.replace('|', "/").replace('\n', " ");
            line(
                out,
                format!("| {} | {what}: {reason} | | | | | | | | |", row.name),
            );
            continue;
        }
        let median = |f: fn(&Sample) -> f64, digits| plain(&values(row, f), digits);
        let wall = walls(row);
        let ratio = |to: Option<&Vec<f64>>| to.and_then(|to| paired_ratio(&wall, to));
        line(
            out,
            format!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.name,
                bracketed(spread(&wall), 3),
                median(|s| s.user, 2),
                median(|s| s.sys, 2),
                median(|s| s.machine_cpu, 2),
                median(rss_mib, 0),
                median(|s| s.flush, 2),
                bracketed(ratio(base.as_ref()), 2),
                bracketed(ratio(Some(&lights[0])), 2),
                bracketed(ratio(Some(&lights[1])), 2),
            ),
        );
    }
    let trees: Vec<_> = case
        .rows
        .iter()
        .filter_map(|row| Some((&row.name, row.tree?)))
        .collect();
    if let Some((first, tree)) = trees.first() {
        let others: Vec<_> = trees.iter().filter(|(_, other)| other != tree).collect();
        line(
            out,
            format!(
                "\nTree: {} entries, {} MB.",
                tree.entries,
                tree.bytes / 1_000_000
            ),
        );
        for (name, other) in others {
            line(
                out,
                format!("**{name} left another tree than {first}: {other:?}.**"),
            );
        }
    }
}

fn stages(out: &mut String, rounds: &[Stages], lights: &[Vec<f64>; 2]) {
    if rounds.is_empty() {
        return;
    }
    line(
        out,
        "\n| light s | light_fresh s | read s | decode s | decode, fresh memory s | SHA-256 s \
         | extract s (CPU) |\n|---|---|---|---|---|---|---|",
    );
    let stage = |f: fn(&Stages) -> Cost| {
        plain(
            &rounds.iter().map(|round| f(round).wall).collect::<Vec<_>>(),
            3,
        )
    };
    let extract_cpu: Vec<_> = rounds.iter().map(|round| round.extract.cpu).collect();
    line(
        out,
        format!(
            "| {} | {} | {} | {} | {} | {} | {} ({}) |",
            bracketed(spread(&lights[0]), 3),
            bracketed(spread(&lights[1]), 3),
            stage(|s| s.read),
            stage(|s| s.decode),
            stage(|s| s.decode_fresh),
            stage(|s| s.sha256),
            stage(|s| s.extract),
            plain(&extract_cpu, 3)
        ),
    );
}

fn latency(out: &mut String, rows: &[Latency]) {
    if rows.is_empty() {
        return;
    }
    line(out, "\n## Start-up: the tiny image\n");
    line(
        out,
        "| contestant | fs | runs | median ms | least | 90th percentile | most |",
    );
    line(out, "|---|---|---|---|---|---|---|");
    for row in rows {
        if let Some(error) = &row.error {
            let error = error.replace('|', "/").replace('\n', " ");
            line(
                out,
                format!(
                    "| {} | {} | FAILED: {error} | | | | |",
                    row.name,
                    row.fs.name()
                ),
            );
            continue;
        }
        let at = |q| quantile(&row.wall_ms, q).map_or("-".to_owned(), |v| format!("{v:.2}"));
        let (name, fs, runs) = (&row.name, row.fs.name(), row.wall_ms.len());
        let [median, least, p90, most] = [0.5, 0.0, 0.9, 1.0].map(at);
        line(
            out,
            format!("| {name} | {fs} | {runs} | {median} | {least} | {p90} | {most} |"),
        );
    }
}

/// A section that lists names with a text each.
pub(crate) fn list(out: &mut String, title: &str, items: &BTreeMap<String, String>) {
    line(out, format!("\n## {title}\n"));
    for (name, text) in items {
        line(out, format!("- {name}: {text}"));
    }
}

/// Appends a line.
pub(crate) fn line(out: &mut String, text: impl AsRef<str>) {
    let _ = writeln!(out, "{}", text.as_ref());
}

/// A figure of every run of a contestant.
pub(crate) fn values(row: &Row, figure: fn(&Sample) -> f64) -> Vec<f64> {
    row.samples.iter().map(figure).collect()
}

fn walls(row: &Row) -> Vec<f64> {
    values(row, |sample| sample.wall)
}

/// Peak RSS in MiB.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn rss_mib(sample: &Sample) -> f64 {
    sample.peak_rss_kib as f64 / 1024.0
}

/// The median, or a dash.
pub(crate) fn plain(values: &[f64], digits: usize) -> String {
    spread(values).map_or_else(|| "-".to_owned(), |s| format!("{:.digits$}", s.median))
}

/// `median (min-max)`, or a dash.
pub(crate) fn bracketed(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |s| {
            format!(
                "{:.digits$} ({:.digits$}-{:.digits$})",
                s.median, s.min, s.max
            )
        },
    )
}
