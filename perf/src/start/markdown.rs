//! The report as Markdown: what was asked, then one table a scene.

use crate::markdown::{heading, line, list};
use crate::start::Scene;
use crate::start::helpers::HelperCase;
use crate::start::report::StartReport;
use crate::start::rounds::{StartCase, StartRow};
use crate::start::targets;
use crate::stats::{paired_difference, paired_ratio, quantile};

impl StartReport {
    /// The report as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::new();
        line(
            &mut out,
            heading(&self.suite, &self.machine, Some(self.backing), self.runs),
        );
        line(
            &mut out,
            format!("\nAll stores on {}. {}", self.fs.name(), self.place),
        );
        if let Some(table) = targets::table(&self.cases, &self.helpers) {
            line(&mut out, "\n## Asked and reached\n");
            line(
                &mut out,
                format!(
                    "{table}\n\nMedians, of paired rounds where two figures meet; what was missed is bold."
                ),
            );
        }
        for case in &self.cases {
            scene(&mut out, case);
        }
        for case in &self.helpers {
            helpers(&mut out, case);
        }
        list(&mut out, "Contestants", &self.contestants);
        list(&mut out, "Versions", &self.tools);
        out
    }
}

fn scene(out: &mut String, case: &StartCase) {
    let what = match case.scene {
        Scene::Version => "`--version`",
        Scene::RunNone => "`run --rm`, network none",
        Scene::RunHost => "`run --rm`, network host",
        Scene::RunBridge => "`run --rm`, network bridge",
        Scene::Exec => "`exec`",
        Scene::Lifecycle => "create, start, stop, rm",
        Scene::Concurrent => "at once, `run --rm`, network none",
        Scene::Helpers => "helpers",
    };
    let many = match case.at_once {
        1 => String::new(),
        many => format!("{many} "),
    };
    let (image, layers) = (&case.image, case.layers);
    let of = match case.scene {
        Scene::Version => String::new(),
        _ => format!(": {image}, {layers} layers"),
    };
    line(out, format!("\n## {many}{what}{of}\n"));
    line(
        out,
        "| contestant | p50 ms | p90 | p99 | least | most | − floor ms | podman / it | ctr / it \
         | docker / it | settle ms | own CPU ms | machine CPU ms | peak RSS MiB | daemon RSS MiB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    );
    for row in &case.rows {
        if let Some(why) = trouble(&row.skipped, &row.error) {
            line(out, format!("| {} | {why} |{}", row.name, " |".repeat(13)));
            continue;
        }
        line(out, figures(case, row));
    }
}

fn figures(case: &StartCase, row: &StartRow) -> String {
    let at = |q| number(quantile(&row.wall_ms, q), 1);
    let [p50, p90, p99, least, most] = [0.5, 0.9, 0.99, 0.0, 1.0].map(at);
    let above = || {
        // `--version` of two programs has nothing in common.
        let floor = row.floor().filter(|_| case.scene != Scene::Version)?;
        let floor = case.walls(floor)?;
        Some(paired_difference(&row.wall_ms, floor)?.median)
    };
    let podman = match row.floor().unwrap_or(&row.name) {
        "crun" => "podman-crun",
        _ => "podman-runc",
    };
    let over = |name: &str| {
        let ratio = || Some(paired_ratio(case.walls(name)?, &row.wall_ms)?.median);
        number(ratio(), 2)
    };
    let mib = |kib: Option<u64>| kib.map_or("-".to_owned(), |kib| format!("{}", kib / 1024));
    format!(
        "| {} | {p50} | {p90} | {p99} | {least} | {most} | {} | {} | {} | {} | {:.1} | {:.1} | {:.1} \
         | {} | {} |",
        row.name,
        number(above(), 1),
        over(podman),
        over("ctr"),
        over("docker"),
        row.settle_ms,
        row.own_cpu_ms,
        row.machine_cpu_ms,
        mib(Some(row.peak_rss_kib)),
        mib(row.daemon_rss_kib),
    )
}

fn helpers(out: &mut String, case: &HelperCase) {
    line(
        out,
        format!("\n## Beside one running container: {}\n", case.image),
    );
    line(
        out,
        "| contestant | process | PSS KiB | private KiB | RSS KiB | threads | wake-ups/s |\n\
         |---|---|---|---|---|---|---|",
    );
    for row in &case.rows {
        if let Some(why) = trouble(&row.skipped, &row.error) {
            line(out, format!("| {} | {why} | | | | | |", row.name));
        } else if row.processes.is_empty() {
            line(out, format!("| {} | none | | | | | |", row.name));
        }
        for one in &row.processes {
            line(
                out,
                format!(
                    "| {} | {} | {} | {} | {} | {} | {:.1} |",
                    row.name,
                    one.program,
                    one.pss_kib,
                    one.private_kib,
                    one.rss_kib,
                    one.threads,
                    one.wakeups
                ),
            );
        }
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn trouble(skipped: &Option<String>, error: &Option<String>) -> Option<String> {
    let (what, why) = match (skipped, error) {
        (_, Some(error)) => ("FAILED", error),
        (Some(reason), None) => ("left out", reason),
        (None, None) => return None,
    };
    let why = why.replace('|', "/").replace('\n', " ");
    Some(format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, wall_ms: &[f64]) -> StartRow {
        StartRow {
            name: name.to_owned(),
            wall_ms: wall_ms.to_vec(),
            ..StartRow::default()
        }
    }

    #[test]
    fn a_row_is_compared_by_rounds() {
        let mut gone = row("ctr", &[]);
        gone.skipped = Some("a | b".to_owned());
        let case = StartCase {
            image: "busybox".to_owned(),
            layers: 1,
            scene: Scene::RunNone,
            at_once: 1,
            rows: vec![
                row("runc", &[20.0, 30.0, 25.0]),
                row("unlade-runc", &[26.0, 36.0, 30.0]),
                row("podman-runc", &[130.0, 144.0, 150.0]),
                gone,
            ],
        };
        let mut out = String::new();
        scene(&mut out, &case);
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines[1], "## `run --rm`, network none: busybox, 1 layers");
        assert!(lines[6].starts_with("| unlade-runc | 30.0 |"), "{out}");
        assert!(
            lines[6].contains("| 26.0 | 36.0 | 6.0 | 5.00 | - | - |"),
            "{out}"
        );
        assert!(lines[8].starts_with("| ctr | left out: a / b |"), "{out}");
        let columns = |line: &str| line.matches('|').count();
        assert!(lines[3..].iter().all(|line| columns(line) == 16), "{out}");
    }
}
