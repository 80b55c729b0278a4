//! What a shim is told of the container that it starts: its streams, its log, its health check,
//! and what is done at its end.

use super::{
    Begin, Containers,
    events::attributes,
    logging,
    place::{Place, make_dir},
    record::Record,
    start::Ready,
};
use crate::{
    error::Result,
    shim::{Health, Io, Launch, Log, Mounts, Restart, Size, Stdin},
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
        let log = logging::log(&record.request, place)?;
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
