//! `unlade logs`.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    time::SystemTime,
};

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use unlade_unpack::Cancel;

use super::{
    parse::bad,
    signals::{Goes, Signals},
};
use crate::{
    cli::globals::Globals,
    error::{Error, Kind, Result},
    image::{json::show, time},
    shim::{
        Stream,
        log::{Entry, Filter, Reader},
    },
};

#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    container: String,

    /// Go on with what it writes from now on.
    #[arg(short, long)]
    follow: bool,

    /// Only the last N lines; all for all.
    #[arg(
        short = 'n',
        long,
        alias = "lines",
        value_name = "N",
        default_value = "all",
        allow_hyphen_values = true
    )]
    tail: String,

    /// Show times.
    #[arg(short, long)]
    timestamps: bool,

    /// Only what was written since: a time, or a duration such as 10m.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Only what was written before.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,

    /// Show labels and variables that the log was asked to carry.
    #[arg(long)]
    details: bool,
}

pub(super) fn logs(
    globals: &Globals,
    args: &LogsArgs,
    cancel: &Cancel,
    signals: &Signals,
) -> Result<()> {
    let now = Timestamp::now();
    let point = |text: &Option<String>| -> Result<Option<SystemTime>> {
        let text = text.as_deref().filter(|t| !t.is_empty());
        let system = |t: Timestamp| {
            let ns = u64::try_from(t.as_nanosecond()).unwrap_or(0);
            SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(ns)
        };
        text.map(|t| time::point(t, now, &TimeZone::system()).map(system))
            .transpose()
    };
    let tail = match &*args.tail {
        "all" | "" => None,
        text => match text.parse::<i64>() {
            Ok(n) => u64::try_from(n).ok(),
            Err(_) => {
                let m = format!("invalid value for \"tail\": {}", show(text));
                return Err(bad(m, "write a number of lines, or all"));
            }
        },
    };
    let filter = Filter {
        since: point(&args.since)?,
        until: point(&args.until)?,
        tail,
        stdout: true,
        stderr: true,
    };
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    let record = containers.find(&args.container)?;
    let Some(log) = containers.log(&record)? else {
        let m = "configured logging driver does not support reading";
        return Err(Error::new(Kind::Unsupported, m).with_hint("make it without --log-driver none"));
    };
    // What runs now ends the following when it ends.
    let ends = if args.follow {
        match crate::shim::wait(&containers.run_dir(&record.id)?) {
            Ok(connection) => Some(connection),
            Err(e) if e.kind() == Kind::NotFound => None,
            Err(e) => return Err(e),
        }
    } else {
        None
    };
    signals.go(Goes::Ends);
    let mut reader = Reader::open(&log, &filter)?;
    loop {
        let entry = match (&ends, reader.next_entry()?) {
            (_, Some(entry)) => Some(entry),
            (Some(ends), None) => reader.follow(ends.as_fd())?,
            (None, None) => None,
        };
        let Some(entry) = entry else {
            return reader.finish();
        };
        if !print(&entry, args)? {
            return Ok(());
        }
    }
}

/// Prints a line; false if nobody reads any more.
fn print(entry: &Entry, args: &LogsArgs) -> Result<bool> {
    let mut line = Vec::new();
    if args.timestamps {
        line.extend_from_slice(entry.time.as_bytes());
        line.push(b' ');
    }
    if args.details {
        line.extend_from_slice(details(entry).as_bytes());
        line.push(b' ');
    }
    line.extend_from_slice(&entry.text);
    let written = match entry.stream {
        Stream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(&line).and_then(|()| out.flush())
        }
        Stream::Stderr => io::stderr().lock().write_all(&line),
    };
    match written {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::host("write the log", e)),
    }
}

/// `a=1,b=2`, as docker has it.
fn details(entry: &Entry) -> String {
    let Some(attrs) = &entry.attrs else {
        return String::new();
    };
    let map: std::collections::BTreeMap<String, String> =
        serde_json::from_str(attrs).unwrap_or_default();
    map.iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect::<Vec<_>>()
        .join(",")
}
