//! The report as Markdown: what was asked, then one table a case.

use crate::light::{Cost, Stages};
use crate::markdown::{bracketed, heading, line, list, plain, values};
use crate::measure::Sample;
use crate::pull::again::Again;
use crate::pull::readback::ReadBack;
use crate::pull::report::PullReport;
use crate::pull::targets;
use crate::run::{Case, Row};
use crate::stats::{paired_ratio, spread};

/// The contestant that all ratios refer to.
const BASE: &str = "unlade-overlay";

impl PullReport {
    /// The report as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        let heading = heading(&self.suite, &self.machine, Some(self.backing), self.runs);
        line(&mut out, heading);
        let cores = self.machine.cores;
        if let Some(table) = targets::table(&self.cases, cores) {
            line(&mut out, "\n## Asked and reached\n");
            line(
                &mut out,
                format!("{table}\n\nMedians of paired rounds; what was missed is bold."),
            );
        }
        for case in &self.cases {
            pulls(&mut out, case, cores);
        }
        for case in &self.again {
            again(&mut out, case);
        }
        for case in &self.readback {
            readback(&mut out, case);
        }
        list(&mut out, "Contestants", &self.contestants);
        list(&mut out, "Versions", &self.tools);
        out
    }
}

fn pulls(out: &mut String, case: &Case, cores: usize) {
    let tar = case.image.bytes.get("tar").copied().unwrap_or(0);
    line(
        out,
        format!(
            "\n## {} onto {}\n\n{} layers, {} entries, {} MB as stored, {} MB as tar\n",
            case.workload,
            case.fs.name(),
            case.image.layers,
            case.image.entries,
            case.blob_bytes / 1_000_000,
            tar / 1_000_000
        ),
    );
    let light = |f: &dyn Fn(&Stages) -> f64| case.light.iter().map(f).collect::<Vec<_>>();
    let lights = [
        light(&|stages| stages.light(cores, false)),
        light(&|stages| stages.light_one_file(cores)),
    ];
    if !case.rows.is_empty() {
        rows(out, case, &lights);
    }
    stages(out, &case.light, &lights);
}

fn rows(out: &mut String, case: &Case, lights: &[Vec<f64>; 2]) {
    line(
        out,
        "| contestant | wall s | machine CPU s | own CPU s | peak RSS MiB | sum with daemons MiB \
         | flush s | wall / overlay | CPU / overlay | wall / light | wall / light, one file |\n\
         |---|---|---|---|---|---|---|---|---|---|---|",
    );
    let base = case.rows.iter().find(|row| row.name == BASE);
    for row in &case.rows {
        if let Some(why) = trouble(&row.skipped, &row.error) {
            line(out, format!("| {} | {why} | | | | | | | | | |", row.name));
            continue;
        }
        let over = |figure: fn(&Row) -> Vec<f64>| {
            bracketed(
                base.and_then(|base| paired_ratio(&figure(row), &figure(base))),
                2,
            )
        };
        let light = |at: usize| bracketed(paired_ratio(&walls(row), &lights[at]), 2);
        line(
            out,
            format!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.name,
                bracketed(spread(&walls(row)), 3),
                bracketed(spread(&cpu(row)), 2),
                plain(&values(row, own_cpu), 2),
                plain(&largest_rss_mib(row), 0),
                plain(&values(row, summed_rss_mib), 0),
                plain(&values(row, |sample| sample.flush), 2),
                over(walls),
                over(cpu),
                light(0),
                light(1),
            ),
        );
    }
    trees(out, case);
}

fn trees(out: &mut String, case: &Case) {
    let counted = case
        .rows
        .iter()
        .filter_map(|row| Some((&row.name, row.tree?)));
    let mut counted = counted.peekable();
    let Some((first, tree)) = counted.peek().copied() else {
        return;
    };
    let (entries, mb) = (tree.entries, tree.bytes / 1_000_000);
    line(out, format!("\nTree: {entries} entries, {mb} MB."));
    for (name, other) in counted.filter(|(_, other)| *other != tree) {
        line(
            out,
            format!("**{name} left another tree than {first}: {other:?}.**"),
        );
    }
}

fn stages(out: &mut String, rounds: &[Stages], lights: &[Vec<f64>; 2]) {
    if rounds.is_empty() {
        return;
    }
    line(
        out,
        "\n| light s | light, one file s | receive s (CPU, the registry's too) | decode s \
         | SHA-256 s | extract s | one file s |\n|---|---|---|---|---|---|---|",
    );
    let walls = |stage: fn(&Stages) -> Cost| {
        plain(&rounds.iter().map(|s| stage(s).wall).collect::<Vec<_>>(), 3)
    };
    let receive_cpu: Vec<_> = rounds.iter().map(|s| s.receive.cpu).collect();
    line(
        out,
        format!(
            "| {} | {} | {} ({}) | {} | {} | {} | {} |",
            bracketed(spread(&lights[0]), 3),
            bracketed(spread(&lights[1]), 3),
            walls(|s| s.receive),
            plain(&receive_cpu, 3),
            walls(|s| s.decode),
            walls(|s| s.sha256),
            walls(|s| s.extract),
            walls(|s| s.one_file),
        ),
    );
}

fn again(out: &mut String, case: &Again) {
    line(
        out,
        format!(
            "\n## {} onto {} again: all but the top of {} layers ({} MB) is there\n\n\
             | contestant | second pull s | the top layer alone s | ratio |\n|---|---|---|---|",
            case.workload,
            case.fs.name(),
            case.layers,
            case.top_bytes / 1_000_000
        ),
    );
    for row in &case.rows {
        if let Some(why) = trouble(&row.skipped, &row.error) {
            line(out, format!("| {} | {why} | | |", row.name));
            continue;
        }
        line(
            out,
            format!(
                "| {} | {} | {} | {} |",
                row.name,
                bracketed(spread(&row.second), 3),
                bracketed(spread(&row.top_alone), 3),
                bracketed(paired_ratio(&row.second, &row.top_alone), 2)
            ),
        );
    }
}

fn readback(out: &mut String, case: &ReadBack) {
    let mut names: Vec<_> = case
        .rows
        .iter()
        .flat_map(|row| row.seconds.keys())
        .collect();
    names.sort();
    names.dedup();
    let head: String = names.iter().map(|name| format!(" {name} s |")).collect();
    line(
        out,
        format!(
            "\n## Reading {} back\n\n| contestant | store on |{head}\n|---|---|{}",
            case.workload,
            "---|".repeat(names.len())
        ),
    );
    for row in &case.rows {
        let (name, fs) = (&row.name, row.fs.name());
        if let Some(why) = trouble(&row.skipped, &row.error) {
            let rest = "|".repeat(names.len());
            line(out, format!("| {name} | {fs}: {why} |{rest}"));
            continue;
        }
        let cells = names.iter().map(|key| {
            let seconds = row.seconds.get(*key).map_or(&[][..], Vec::as_slice);
            format!(" {} |", bracketed(spread(seconds), 3))
        });
        let cells: String = cells.collect();
        line(out, format!("| {name} | {fs} |{cells}"));
    }
    if let Some(import) = &case.import {
        line(out, format!("\nImport: {import}."));
    }
}

fn trouble(skipped: &Option<String>, error: &Option<String>) -> Option<String> {
    let (what, why) = match (skipped, error) {
        (_, Some(error)) => ("FAILED", error),
        (Some(reason), None) => ("left out", reason),
        (None, None) => return None,
    };
    Some(
        format!("{what}: {why}")
            .replace('|', "/")
            .replace('\n', " "),
    )
}

/// Wall seconds of every round.
pub(crate) fn walls(row: &Row) -> Vec<f64> {
    values(row, |sample| sample.wall)
}

/// CPU seconds of the whole machine, every round.
pub(crate) fn cpu(row: &Row) -> Vec<f64> {
    values(row, |sample| sample.machine_cpu)
}

/// Peak RSS in MiB of the largest process, daemons included, every round.
pub(crate) fn largest_rss_mib(row: &Row) -> Vec<f64> {
    values(row, |sample| {
        let daemons = sample.daemons.unwrap_or_default();
        mib(sample.peak_rss_kib.max(daemons.peak_rss_kib))
    })
}

/// The contestant's CPU seconds: process tree and daemons.
fn own_cpu(sample: &Sample) -> f64 {
    sample.cpu() + sample.daemons.unwrap_or_default().cpu
}

fn summed_rss_mib(sample: &Sample) -> f64 {
    mib(sample.peak_rss_kib + sample.daemons.unwrap_or_default().sum_rss_kib)
}

#[allow(clippy::cast_precision_loss)]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
