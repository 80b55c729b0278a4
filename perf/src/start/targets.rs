//! What was asked of starts (issue 5) beside what was reached.

use crate::asked::Asked;
use crate::start::Scene;
use crate::start::helpers::HelperCase;
use crate::start::rounds::StartCase;
use crate::stats::{paired_difference, paired_ratio, spread};

/// The contestants of ours, and the podman that uses the same runtime.
const OURS: [(&str, &str, &str); 4] = [
    ("unlade-runc", "runc", "podman-runc"),
    ("unlade-crun", "crun", "podman-crun"),
    ("unlade-erofs-runc", "runc", "podman-runc"),
    ("unlade-erofs-crun", "crun", "podman-crun"),
];

/// One promise: its words, what was asked, what was reached with an image.
type Line = (String, Asked, Option<f64>);

/// A table: a row for each promise, a column for each image; what was missed is bold.
pub(crate) fn table(cases: &[StartCase], helpers: &[HelperCase]) -> Option<String> {
    let mut images: Vec<&str> = Vec::new();
    for case in cases {
        if !images.contains(&case.image.as_str()) {
            images.push(&case.image);
        }
    }
    let columns: Vec<Vec<Line>> = images
        .iter()
        .map(|image| lines(cases, helpers, image))
        .collect();
    let mut out = format!("| | asked | {} |\n|---|---|", images.join(" | "));
    out.push_str(&"---|".repeat(images.len()));
    let mut any = false;
    for at in 0..columns.first()?.len() {
        let (words, asked, _) = &columns[0][at];
        out.push_str(&format!("\n| {words} | {asked} |"));
        for column in &columns {
            let reached = column[at].2;
            any |= reached.is_some();
            out.push_str(&asked.cell(reached, 2));
        }
    }
    any.then_some(out)
}

fn lines(cases: &[StartCase], helpers: &[HelperCase], image: &str) -> Vec<Line> {
    let walls = |scene, name: &str| find(cases, image, scene)?.walls(name);
    let none = |name: &str| walls(Scene::RunNone, name);
    let mut lines = Vec::new();
    for (ours, floor, podman) in OURS {
        let above = || Some(paired_difference(none(ours)?, none(floor)?)?.median);
        let words = format!("{ours} − {floor}, network none, ms");
        lines.push((words, Asked::AtMost(8.0), above()));
        let (least, most) = if floor == "runc" {
            (4.0, 6.0)
        } else {
            (8.0, 12.0)
        };
        for (peer, times) in [(podman, least), ("ctr", least), ("docker", most)] {
            let ratio = || Some(paired_ratio(none(peer)?, none(ours)?)?.median);
            let words = format!("{peer} / {ours}, network none");
            lines.push((words, Asked::AtLeast(times), ratio()));
        }
        let bridge = |name: &str| walls(Scene::RunBridge, name);
        let above = || {
            let (floor, netavark) = (bridge(floor)?, bridge("netavark")?);
            let sum: Vec<f64> = floor.iter().zip(netavark).map(|(a, b)| a + b).collect();
            Some(paired_difference(bridge(ours)?, &sum)?.median)
        };
        let words = format!("{ours} − {floor} − netavark, network bridge, ms");
        lines.push((words, Asked::AtMost(8.0), above()));
        let words = format!("{ours}, concurrent / serial");
        lines.push((words, Asked::AtMost(0.5), crowd(cases, image, ours)));
    }
    let version = || Some(spread(walls(Scene::Version, "unlade-runc")?)?.median);
    lines.push((
        "unlade --version, ms".to_owned(),
        Asked::AtMost(5.0),
        version(),
    ));
    let of_it = |case: &&HelperCase| case.image == image;
    let pss = || helpers.iter().find(of_it)?.pss_mib("unlade-runc");
    let words = "helpers of one container, PSS MiB".to_owned();
    lines.push((words, Asked::AtMost(2.0), pss()));
    lines
}

fn find<'a>(cases: &'a [StartCase], image: &str, scene: Scene) -> Option<&'a StartCase> {
    let is_it = |case: &&StartCase| case.image == image && case.scene == scene;
    cases.iter().find(is_it)
}

/// Wall time of many at once over that of as many one after the other.
#[allow(clippy::cast_precision_loss)]
fn crowd(cases: &[StartCase], image: &str, name: &str) -> Option<f64> {
    let case = find(cases, image, Scene::Concurrent)?;
    let together = spread(case.walls(name)?)?.median;
    let alone = spread(find(cases, image, Scene::RunNone)?.walls(name)?)?.median;
    Some(together / (alone * case.at_once as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::start::rounds::StartRow;

    fn case(scene: Scene, at_once: usize, walls: &[(&str, f64)]) -> StartCase {
        let row = |&(name, wall): &(&str, f64)| StartRow {
            name: name.to_owned(),
            wall_ms: vec![wall],
            ..StartRow::default()
        };
        StartCase {
            image: "busybox".to_owned(),
            layers: 1,
            scene,
            at_once,
            rows: walls.iter().map(row).collect(),
        }
    }

    #[test]
    fn what_was_missed_is_bold_and_what_was_not_measured_is_a_dash() {
        let cases = [
            case(
                Scene::RunNone,
                1,
                &[("runc", 25.0), ("unlade-runc", 31.0), ("podman-runc", 93.0)],
            ),
            case(Scene::Concurrent, 50, &[("unlade-runc", 620.0)]),
            case(
                Scene::RunBridge,
                1,
                &[("runc", 25.0), ("netavark", 100.0), ("unlade-runc", 135.0)],
            ),
        ];
        let table = table(&cases, &[]).unwrap();
        for line in [
            "| | asked | busybox |",
            "| unlade-runc − runc, network none, ms | ≤ 8 | 6.00 |",
            "| podman-runc / unlade-runc, network none | ≥ 4 | **3.00** |",
            "| docker / unlade-runc, network none | ≥ 6 | - |",
            "| unlade-runc − runc − netavark, network bridge, ms | ≤ 8 | **10.00** |",
            "| unlade-runc, concurrent / serial | ≤ 0.5 | 0.40 |",
            "| unlade --version, ms | ≤ 5 | - |",
        ] {
            assert!(table.contains(line), "{line}\n{table}");
        }
    }
}
