//! What was asked of a pull (issue 4) beside what was reached, on the several-layer gzip images.

use crate::asked::Asked;
use crate::pull::markdown::{cpu, largest_rss_mib, walls};
use crate::run::{Case, Row};
use crate::stats::{paired_ratio, spread};

/// One promise: its words, what was asked, and the figure of a case, where it can be had.
struct Target {
    words: &'static str,
    asked: Asked,
    reached: fn(&Case, usize) -> Option<f64>,
}

const TARGETS: [Target; 12] = [
    Target {
        words: "containerd / overlay, wall",
        asked: Asked::AtLeast(3.5),
        reached: |case, _| ratio(case, "containerd", "unlade-overlay", walls),
    },
    Target {
        words: "containerd tuned / overlay, wall",
        asked: Asked::AtLeast(2.5),
        reached: |case, _| ratio(case, "containerd-tuned", "unlade-overlay", walls),
    },
    Target {
        words: "dockerd / overlay, wall",
        asked: Asked::AtLeast(3.0),
        reached: |case, _| ratio(case, "dockerd", "unlade-overlay", walls),
    },
    Target {
        words: "podman / overlay, wall",
        asked: Asked::AtLeast(5.0),
        reached: |case, _| ratio(case, "podman", "unlade-overlay", walls),
    },
    Target {
        words: "skopeo + umoci / overlay, wall",
        asked: Asked::AtLeast(5.0),
        reached: |case, _| ratio(case, "skopeo-umoci", "unlade-overlay", walls),
    },
    Target {
        words: "overlay / erofs, wall, Node workload",
        asked: Asked::AtLeast(1.25),
        reached: |case, _| {
            let node = case.workload.starts_with("node");
            node.then(|| ratio(case, "unlade-overlay", "unlade-erofs", walls))?
        },
    },
    Target {
        words: "overlay / containerd, machine CPU",
        asked: Asked::AtMost(0.45),
        reached: |case, _| ratio(case, "unlade-overlay", "containerd", cpu),
    },
    Target {
        words: "erofs / containerd, machine CPU",
        asked: Asked::AtMost(0.45),
        reached: |case, _| ratio(case, "unlade-erofs", "containerd", cpu),
    },
    Target {
        words: "overlay / light",
        asked: Asked::AtMost(1.3),
        reached: |case, cores| to_light(case, "unlade-overlay", cores),
    },
    Target {
        words: "erofs / light",
        asked: Asked::AtMost(1.3),
        reached: |case, cores| to_light(case, "unlade-erofs", cores),
    },
    Target {
        words: "overlay, peak RSS MiB",
        asked: Asked::AtMost(350.0),
        reached: |case, _| peak(case, "unlade-overlay"),
    },
    Target {
        words: "erofs, peak RSS MiB",
        asked: Asked::AtMost(350.0),
        reached: |case, _| peak(case, "unlade-erofs"),
    },
];

/// A table: a row for each target, a column for each case; what was missed is bold.
pub(crate) fn table(cases: &[Case], cores: usize) -> Option<String> {
    let several = |case: &&Case| case.image.layers > 1 && case.workload == case.image.image;
    let cases: Vec<_> = cases.iter().filter(several).collect();
    let mut out = String::from("| | asked |");
    for case in &cases {
        out.push_str(&format!(" {}, {} |", case.workload, case.fs.name()));
    }
    out.push_str("\n|---|---|");
    out.push_str(&"---|".repeat(cases.len()));
    let mut any = false;
    for target in &TARGETS {
        let asked = target.asked;
        let cells = cases.iter().map(|case| {
            let reached = (target.reached)(case, cores);
            any |= reached.is_some();
            let digits = if reached >= Some(10.0) { 0 } else { 2 };
            asked.cell(reached, digits)
        });
        let cells: String = cells.collect();
        out.push_str(&format!("\n| {} | {asked} |{cells}", target.words));
    }
    any.then_some(out)
}

fn row<'a>(case: &'a Case, name: &str) -> Option<&'a Row> {
    case.rows.iter().find(|row| row.name == name)
}

/// Median of the ratios of paired rounds.
fn ratio(case: &Case, over: &str, under: &str, figure: fn(&Row) -> Vec<f64>) -> Option<f64> {
    let (over, under) = (figure(row(case, over)?), figure(row(case, under)?));
    Some(paired_ratio(&over, &under)?.median)
}

fn to_light(case: &Case, name: &str, cores: usize) -> Option<f64> {
    let light: Vec<_> = case.light.iter().map(|s| s.light(cores, false)).collect();
    Some(paired_ratio(&walls(row(case, name)?), &light)?.median)
}

fn peak(case: &Case, name: &str) -> Option<f64> {
    Some(spread(&largest_rss_mib(row(case, name)?))?.max)
}
