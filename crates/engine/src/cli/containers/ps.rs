//! `unlade ps`: which containers, and in which form.

use clap::Args;
use unlade_unpack::Cancel;

use super::row::{COLUMNS, Size, WITH_SIZE, row};
use crate::{
    cli::{globals::Globals, human::Filters, out, table::List},
    container::{Containers, Listed},
    engine::Engine,
    error::{Error, Kind, Result},
    image::json::show,
};

const FILTERS: &[&str] = &[
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "label!", "name",
    "network", "publish", "since", "status", "volume",
];

#[derive(Debug, Args)]
pub(in crate::cli) struct PsArgs {
    /// Also those that do not run.
    #[arg(short, long)]
    all: bool,

    /// Only containers that KEY=VALUE fits: ancestor, before, exited, expose, health, id, is-task,
    /// label, name, network, publish, since, status, volume.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = crate::cli::values::filter)]
    filter: Vec<String>,

    /// table, `table TEMPLATE`, json, or a template such as {{.Names}}.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// The N made last, whatever their state.
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true, default_value_t = -1, hide_default_value = true)]
    last: i64,

    /// The one made last, whatever its state.
    #[arg(short, long)]
    latest: bool,

    /// Show everything whole.
    #[arg(long)]
    no_trunc: bool,

    /// Show ids only.
    #[arg(short, long)]
    quiet: bool,

    /// Show what was written to their roots.
    #[arg(short, long)]
    size: bool,
}

/// Which containers are wanted.
struct Wanted {
    filters: Filters,
    before: Option<i64>,
    since: Option<i64>,
    of_tasks: bool,
    ancestors: Vec<unlade_unpack::Digest>,
}

impl Wanted {
    fn new(engine: &Engine, containers: &Containers<'_>, filter: &[String]) -> Result<Self> {
        let filters = Filters::parse(filter, FILTERS)?;
        for state in filters.get("status") {
            let known = [
                "created",
                "restarting",
                "running",
                "removing",
                "paused",
                "exited",
                "dead",
            ];
            if !known.contains(&state) {
                let m = format!("invalid filter 'status={}'", show(state));
                return Err(Error::new(Kind::BadInput, m)
                    .with_hint(format!("states are {}", known.join(", "))));
            }
        }
        for code in filters.get("exited") {
            if code.parse::<i32>().is_err() {
                let m = format!("invalid filter 'exited={}'", show(code));
                return Err(Error::new(Kind::BadInput, m).with_hint("write an exit code"));
            }
        }
        let created = |name: &str| -> Result<Option<i64>> {
            filters
                .get(name)
                .next()
                .map(|text| Ok(containers.find(text)?.created))
                .transpose()
        };
        // There is no swarm, and so no container is a task of one.
        let of_tasks = filters.flag("is-task")? == Some(true);
        let mut ancestors = Vec::new();
        for image in filters.get("ancestor") {
            match engine.store().resolve(image) {
                Ok(image) => ancestors.push(image.id),
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let (before, since) = (created("before")?, created("since")?);
        Ok(Self {
            filters,
            of_tasks,
            before,
            since,
            ancestors,
        })
    }

    fn fits(&self, containers: &Containers<'_>, listed: &Listed) -> Result<bool> {
        let Listed { record, view } = listed;
        let quick = !self.of_tasks
            && self.filters.any("id", |id| record.id.starts_with(id))
            && self
                .filters
                .any("name", |name| names_fit(name, &record.name))
            && self.filters.any("status", |s| s == view.status.as_str())
            && self.filters.any("exited", |code| {
                view.status == crate::container::Status::Exited
                    && code.parse() == Ok(view.exit_code)
            })
            && self.filters.any("health", |health| {
                health == view.health.as_ref().map_or("none", |h| &*h.status)
            })
            && self.before.is_none_or(|t| record.created < t)
            && self.since.is_none_or(|t| record.created > t)
            && self.filters.labels(Containers::labels(record))
            && (self.filters.get("ancestor").next().is_none()
                || self.ancestors.contains(&record.image));
        if !quick {
            return Ok(false);
        }
        let asks = |f: &str| self.filters.get(f).next().is_some();
        if asks("volume") {
            let points = containers.points(record);
            if !self.filters.any("volume", |v| {
                points.iter().any(|p| p.name == v || p.destination == v)
            }) {
                return Ok(false);
            }
        }
        if asks("network") || asks("publish") {
            let settings = containers.network_settings(record, view)?;
            let on = |wanted: &str| {
                settings.networks.iter().any(|(name, n)| {
                    name == wanted || (!n.network_id.is_empty() && n.network_id.starts_with(wanted))
                })
            };
            let published = |wanted: &str| {
                settings.ports.iter().any(|(port, b)| {
                    b.as_ref().is_some_and(|b| !b.is_empty()) && port_fits(wanted, port)
                })
            };
            if !self.filters.any("network", on) || !self.filters.any("publish", published) {
                return Ok(false);
            }
        }
        let exposed = record.request.config.exposed_ports.keys();
        Ok(self.filters.any("expose", |wanted| {
            exposed.clone().any(|port| port_fits(wanted, port))
        }))
    }
}

/// Docker takes these as patterns; here they are parts of names, with `^` and `$` for the ends.
fn names_fit(wanted: &str, name: &str) -> bool {
    let (start, wanted) = match wanted.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, wanted),
    };
    let (end, wanted) = match wanted.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, wanted),
    };
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    match (start, end) {
        (true, true) => name == wanted,
        (true, false) => name.starts_with(wanted),
        (false, true) => name.ends_with(wanted),
        (false, false) => name.contains(wanted),
    }
}

/// Whether `port/protocol` is one that `PORT[-PORT][/PROTOCOL]` means.
fn port_fits(wanted: &str, port: &str) -> bool {
    let (wanted, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = wanted.split_once('-').unwrap_or((wanted, wanted));
    let (number, of) = port.split_once('/').unwrap_or((port, "tcp"));
    match (
        first.parse::<u16>(),
        last.parse::<u16>(),
        number.parse::<u16>(),
    ) {
        (Ok(first), Ok(last), Ok(number)) => of == protocol && (first..=last).contains(&number),
        _ => false,
    }
}

pub(super) fn ps(globals: &Globals, args: &PsArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    let wanted = Wanted::new(&engine, &containers, &args.filter)?;
    let last = if args.latest { 1 } else { args.last };
    let all = args.all
        || last > 0
        || ["status", "exited"]
            .iter()
            .any(|f| wanted.filters.get(f).next().is_some());
    let most = usize::try_from(last)
        .ok()
        .filter(|n| *n > 0)
        .unwrap_or(usize::MAX);
    let columns = if args.size { &WITH_SIZE } else { &COLUMNS };
    let mut list = List::new(columns, args.format.as_deref(), args.quiet)?;
    let size = match args.size || args.format.as_ref().is_some_and(|f| f.contains(".Size")) {
        true => Size::Looked,
        false => Size::Unknown,
    };
    let mut shown = 0;
    for listed in containers.list()? {
        if shown == most {
            break;
        }
        if (all || listed.view.is_active()) && wanted.fits(&containers, &listed)? {
            list.row(row(&engine, &containers, &listed, args.no_trunc, size)?)?;
            shown += 1;
        }
    }
    out::text(&list.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_fit() {
        for (wanted, name, fits) in [
            ("web", "my_web_1", true),
            ("^web", "my_web_1", false),
            ("^/my", "my_web_1", true),
            ("1$", "my_web_1", true),
            ("^my_web_1$", "my_web_1", true),
            ("db", "my_web_1", false),
        ] {
            assert_eq!(names_fit(wanted, name), fits, "{wanted}");
        }
        assert!(port_fits("80", "80/tcp") && port_fits("79-81/udp", "80/udp"));
        assert!(!port_fits("80", "80/udp") && !port_fits("x", "80/tcp"));
    }
}
