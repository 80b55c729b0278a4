//! What a shim is told of the container that it starts: its streams, its log, its health check,
//! and what is done at its end.

use std::collections::BTreeMap;

use super::{
    Begin, Containers,
    events::attributes,
    place::{Place, make_dir},
    record::{Record, text},
    start::Ready,
};
use crate::{
    error::{Error, Kind, Result},
    shim::{Health, Io, Launch, Log, LogFile, Mounts, Restart, Size, Stdin},
    spec::request::{Healthcheck, Request, RestartPolicy},
};

/// Nanoseconds in a millisecond, of Docker's health checks.
const MS: i64 = 1_000_000;

impl Containers<'_> {
    /// What its shim is told.
    pub(super) fn launch(
        &self,
        record: &Record,
        begin: &Begin,
        place: &Place,
        ready: &Ready,
    ) -> Result<Launch> {
        let request = &record.request;
        let stdin = match (request.config.open_stdin, request.config.stdin_once) {
            (false, _) => Stdin::Closed,
            (true, true) => Stdin::Once,
            (true, false) => Stdin::Open,
        };
        let mut cleanup = begin.cleanup.clone();
        if !cleanup.is_empty() {
            cleanup.push(record.id.clone());
        }
        let log = log(record, place)?;
        if log != Log::None {
            make_dir(&place.log)?;
        }
        Ok(Launch {
            id: record.id.clone(),
            bundle: place.run.clone(),
            run: place.run.clone(),
            runtime: ready.runtime.clone(),
            io: if request.config.tty {
                Io::Terminal {
                    size: size(begin.size, request.host_config.console_size),
                    stdin,
                }
            } else {
                Io::Pipes { stdin }
            },
            foreground: begin.foreground,
            log,
            cgroup: ready.cgroup.clone(),
            hooks: false,
            mounts: if ready.resolved.shared {
                Mounts::Host
            } else {
                Mounts::Own
            },
            restart: restart(&request.host_config.restart_policy),
            restarts: 0,
            health: health(request),
            cleanup,
            client_cleans: begin.cleans,
            events: Some(self.journal().path().to_owned()),
            attributes: attributes(record),
            timeout_ms: 0,
        })
    }
}

fn size(given: Size, asked: [u16; 2]) -> Size {
    if given == Size::default() {
        return Size {
            rows: asked[0],
            columns: asked[1],
        };
    }
    given
}

/// What its policy means to a shim.
pub(super) fn restart(policy: &RestartPolicy) -> Restart {
    match &*policy.name {
        "always" => Restart::Always,
        "unless-stopped" => Restart::UnlessStopped,
        "on-failure" => Restart::OnFailure {
            most: u32::try_from(policy.maximum_retry_count).unwrap_or(0),
        },
        _ => Restart::No,
    }
}

/// A health check as a shim runs it; `None` for none.
fn health(request: &Request) -> Option<Health> {
    let check: &Healthcheck = request.config.healthcheck.as_ref()?;
    let argv = match check.test.split_first()? {
        (kind, _) if kind == "NONE" => return None,
        (kind, rest) if kind == "CMD" => rest.to_vec(),
        (_, rest) => ["/bin/sh", "-c"]
            .map(str::to_owned)
            .iter()
            .chain(rest)
            .cloned()
            .collect(),
    };
    let ms = |ns: i64| u64::try_from(ns / MS).unwrap_or(0).max(u64::from(ns > 0));
    Some(Health {
        argv,
        interval_ms: ms(check.interval),
        timeout_ms: ms(check.timeout),
        start_period_ms: ms(check.start_period),
        start_interval_ms: ms(check.start_interval),
        retries: u32::try_from(check.retries).unwrap_or(0),
    })
}

/// Size and number of the log's files, as `max-size` and `max-file` say.
pub(super) fn log_limits(request: &Request) -> Result<(u64, u32)> {
    let default = LogFile::at("");
    let options = &request.host_config.log_config.config;
    let bad = |key: &str, value: &str| {
        Error::new(
            Kind::BadInput,
            format!(
                "invalid value for {key}: {}",
                crate::image::json::show(value)
            ),
        )
        .with_hint("write max-size=10m or max-size=-1, and max-file=3")
    };
    let size = match options.get("max-size").map(String::as_str) {
        None => default.max_size,
        Some("-1") => 0,
        Some(text) => bytes(text)
            .filter(|n| *n > 0)
            .ok_or_else(|| bad("max-size", text))?,
    };
    let files = match options.get("max-file") {
        None => default.max_files,
        Some(text) => text
            .parse()
            .ok()
            .filter(|n| (1..=1000).contains(n))
            .ok_or_else(|| bad("max-file", text))?,
    };
    Ok((size, files))
}

fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = match unit {
        "" | "b" => 0,
        "k" | "kb" => 1,
        "m" | "mb" => 2,
        "g" | "gb" => 3,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1024_u64.pow(power))
}

/// Where a container's output is kept.
pub(super) fn log(record: &Record, place: &Place) -> Result<Log> {
    let request = &record.request;
    let (max_size, max_files) = log_limits(request)?;
    let kind = &*request.host_config.log_config.r#type;
    if kind == "none" {
        return Ok(Log::None);
    }
    let file = LogFile {
        path: place.log_file(),
        max_size,
        max_files,
        attrs: attrs(request)?,
    };
    Ok(match kind {
        "k8s-file" => Log::K8sFile(file),
        _ => Log::JsonFile(file),
    })
}

/// Labels and variables that each line of the log carries, as docker's `labels` and `env` have it.
fn attrs(request: &Request) -> Result<String> {
    let options = &request.host_config.log_config.config;
    let mut attrs: BTreeMap<&str, &str> = BTreeMap::new();
    let keys = |option: &str| {
        let list = options.get(option).map_or("", String::as_str);
        list.split(',')
            .map(str::trim)
            .filter(|k| !k.is_empty())
            .collect::<Vec<_>>()
    };
    for key in keys("labels") {
        if let Some((key, value)) = request.config.labels.get_key_value(key) {
            attrs.insert(key, value);
        }
    }
    for key in keys("env") {
        let of = |v: &'_ String| {
            v.strip_prefix(key)
                .is_some_and(|rest| rest.starts_with('='))
        };
        if let Some((name, value)) = request
            .config
            .env
            .iter()
            .find(|v| of(v))
            .and_then(|v| v.split_once('='))
        {
            attrs.insert(name, value);
        }
    }
    if attrs.is_empty() {
        Ok(String::new())
    } else {
        text(&attrs)
    }
}
