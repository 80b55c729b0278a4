//! `unlade stats` and `unlade top`.

use std::{
    io::IsTerminal,
    process::Command,
    time::{Duration, Instant},
};

use clap::Args;
use unlade_unpack::Cancel;

use super::signals::{Goes, Signals};
use crate::{
    cli::{
        globals::Globals,
        human, out,
        table::{Columns, List, laid_out},
        template::Value,
    },
    container::{Containers, Record, Stats},
    error::{Error, Kind, Result},
};

/// Time between two looks.
const TICK: Duration = Duration::from_secs(1);
/// Time between the two looks of `--no-stream`, long enough to see CPU time grow.
const GLANCE: Duration = Duration::from_millis(500);

const COLUMNS: Columns = Columns {
    name: "stats",
    headers: &[
        ("BlockIO", "BLOCK I/O"),
        ("CPUPerc", "CPU %"),
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("MemPerc", "MEM %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("Name", "NAME"),
        ("NetIO", "NET I/O"),
        ("PIDs", "PIDS"),
    ],
    table: &[
        "ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs",
    ],
    quiet: "ID",
};

#[derive(Debug, Args)]
pub(in crate::cli) struct StatsArgs {
    /// Names or ids; all that run if none is given.
    #[arg(value_name = "CONTAINER")]
    names: Vec<String>,

    /// Also those that do not run.
    #[arg(short, long)]
    all: bool,

    /// table, `table TEMPLATE`, json, or a template such as {{.CPUPerc}}.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Show it once.
    #[arg(long)]
    no_stream: bool,

    /// Show ids whole.
    #[arg(long)]
    no_trunc: bool,
}

/// A container as it was a while ago.
struct Before {
    id: String,
    stats: Stats,
    at: Instant,
}

pub(super) fn stats(
    globals: &Globals,
    args: &StatsArgs,
    cancel: &Cancel,
    signals: &Signals,
) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    signals.go(Goes::Ends);
    let mut before = Vec::new();
    for (record, name) in wanted(&containers, args)? {
        match containers.stats(&record) {
            Ok(stats) => before.push(Before {
                id: record.id.clone(),
                stats,
                at: Instant::now(),
            }),
            Err(e) if name.is_some() && e.kind() != Kind::Conflict => return Err(e),
            Err(_) => {}
        }
    }
    std::thread::sleep(GLANCE);
    loop {
        let mut list = List::new(&COLUMNS, args.format.as_deref(), false)?;
        let mut next = Vec::new();
        for (record, name) in wanted(&containers, args)? {
            let stats = containers.stats(&record).ok();
            if stats.is_none() && !args.all && args.names.is_empty() {
                continue;
            }
            let last = before.iter().find(|b| b.id == record.id);
            list.row(row(&record, name, stats, last, args))?;
            if let Some(stats) = stats {
                next.push(Before {
                    id: record.id,
                    stats,
                    at: Instant::now(),
                });
            }
        }
        before = next;
        let text = list.finish()?;
        if !args.no_stream && std::io::stdout().is_terminal() {
            // The screen is cleared, and written from its top.
            out::text("\x1b[2J\x1b[H")?;
        }
        out::text(&text)?;
        if args.no_stream {
            return Ok(());
        }
        std::thread::sleep(TICK);
    }
}

/// The containers, and the names by which they were asked for.
fn wanted<'a>(
    containers: &Containers<'_>,
    args: &'a StatsArgs,
) -> Result<Vec<(Record, Option<&'a str>)>> {
    if !args.names.is_empty() {
        return args
            .names
            .iter()
            .map(|n| Ok((containers.find(n)?, Some(&**n))))
            .collect();
    }
    let all = containers.list()?.into_iter();
    Ok(all
        .filter(|l| args.all || l.view.is_running())
        .map(|l| (l.record, None))
        .collect())
}

/// A size with binary units, as docker writes memory.
fn binary(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!(
        "{}{}",
        crate::cli::template::general(size, Some(4)),
        UNITS[unit]
    )
}

fn row<'a>(
    record: &Record,
    name: Option<&str>,
    stats: Option<Stats>,
    before: Option<&Before>,
    args: &StatsArgs,
) -> Vec<(&'a str, Value)> {
    let id = if args.no_trunc {
        &*record.id
    } else {
        record.short_id()
    };
    let pair = |a: u64, b: u64| format!("{} / {}", human::size(a, 3), human::size(b, 3));
    let known = stats.unwrap_or_default();
    let cpu = before.map_or(0.0, |b| {
        let used = known.cpu_ns.saturating_sub(b.stats.cpu_ns) as f64;
        used * 100.0 / (b.at.elapsed().as_nanos().max(1) as f64)
    });
    let memory = known.memory as f64 * 100.0 / (known.memory_limit.max(1) as f64);
    let shown = |text: String| {
        Value::text(if stats.is_some() {
            text
        } else {
            "--".to_owned()
        })
    };
    vec![
        ("BlockIO", shown(pair(known.read, known.written))),
        ("CPUPerc", shown(format!("{cpu:.2}%"))),
        ("Container", Value::text(name.unwrap_or(id))),
        ("ID", Value::text(id)),
        ("MemPerc", shown(format!("{memory:.2}%"))),
        (
            "MemUsage",
            match stats {
                Some(_) => shown(format!(
                    "{} / {}",
                    binary(known.memory),
                    binary(known.memory_limit)
                )),
                None => Value::text("-- / --"),
            },
        ),
        ("Name", Value::text(&*record.name)),
        ("NetIO", shown(pair(known.net_in, known.net_out))),
        ("PIDs", shown(known.pids.to_string())),
    ]
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TopArgs {
    /// Name or id, and options of ps(1); -ef if none are given.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "CONTAINER [PS OPTION...]"
    )]
    words: Vec<String>,
}

pub(super) fn top(globals: &Globals, args: &TopArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    let (name, options) = args
        .words
        .split_first()
        .map_or(("", &[][..]), |(n, o)| (&**n, o));
    let record = containers.find(name)?;
    let pids = containers.processes(&record)?;
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() {
        &default[..]
    } else {
        options
    };
    let ps = Command::new("ps")
        .args(options)
        .output()
        .map_err(|e| Error::host("run ps", e).with_hint("install it: the Debian package procps"))?;
    if !ps.status.success() {
        let said = String::from_utf8_lossy(&ps.stderr).trim().to_owned();
        return Err(Error::new(Kind::BadInput, format!("ps: {said}"))
            .with_hint("what follows the container are options of ps(1)"));
    }
    out::text(&table(&String::from_utf8_lossy(&ps.stdout), &pids)?)
}

/// The lines of ps about these processes, in columns.
fn table(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let at = header.iter().position(|c| *c == "PID").ok_or_else(|| {
        Error::new(Kind::BadInput, "Couldn't find PID field in ps output")
            .with_hint("the columns that are asked for must have pid among them")
    })?;
    let mut rows = vec![header.join("\t")];
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields
            .get(at)
            .and_then(|p| p.parse().ok())
            .is_some_and(|p| pids.contains(&p))
        {
            let last = header.len().saturating_sub(1).min(fields.len());
            let (head, tail) = fields.split_at(last);
            rows.push([head.join("\t"), tail.join(" ")].join("\t"));
        }
    }
    laid_out(&(rows.join("\n") + "\n"), 17)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_memory() {
        for (bytes, want) in [
            (0, "0B"),
            (1536, "1.5KiB"),
            (5 << 20, "5MiB"),
            (1 << 34, "16GiB"),
        ] {
            assert_eq!(binary(bytes), want);
        }
    }

    #[test]
    fn processes_of_a_container() {
        let text = "UID PID PPID CMD\nroot 1 0 /sbin/init x\nroot 77 1 sleep 9 8\n";
        let shown = table(text, &[77]).unwrap();
        let lines: Vec<Vec<&str>> = shown
            .lines()
            .map(|l| {
                l.split("  ")
                    .map(str::trim)
                    .filter(|w| !w.is_empty())
                    .collect()
            })
            .collect();
        assert_eq!(
            lines,
            [
                vec!["UID", "PID", "PPID", "CMD"],
                vec!["root", "77", "1", "sleep 9 8"]
            ]
        );
        let e = table("UID CMD\n", &[]).unwrap_err();
        assert_eq!(e.message(), "Couldn't find PID field in ps output");
    }
}
