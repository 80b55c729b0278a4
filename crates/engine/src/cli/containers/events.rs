//! `unlade events`: what happens, as it happens.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::Args;
use jiff::{
    Timestamp,
    tz::{Offset, TimeZone},
};
use serde::Serialize;
use unlade_unpack::Cancel;

use crate::{
    cli::{globals::Globals, human::Filters, out, template::Template},
    error::{Error, Kind, Result},
    image::{name::Reference, time},
    journal::{Event, Journal, Object},
};

/// How often is looked for more.
const TICK: Duration = Duration::from_millis(100);
const FILTERS: &[&str] = &[
    "container",
    "event",
    "image",
    "label",
    "network",
    "scope",
    "type",
    "volume",
];

#[derive(Debug, Args)]
pub(in crate::cli) struct EventsArgs {
    /// Only events that KEY=VALUE fits: container, event, image, label, network, scope, type,
    /// volume.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = crate::cli::values::filter)]
    filter: Vec<String>,

    /// json, or a template such as {{.Action}}.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Begin with what has happened since: a time, or a duration such as 10m.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// End there.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
}

/// An event in docker's shape.
#[derive(Debug, Serialize)]
struct Message<'a> {
    status: &'a str,
    id: &'a str,
    from: &'a str,
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Action")]
    action: &'a str,
    #[serde(rename = "Actor")]
    actor: Actor<'a>,
    scope: &'static str,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Actor<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    attributes: &'a BTreeMap<String, String>,
}

pub(in crate::cli) fn events(globals: &Globals, args: &EventsArgs, cancel: &Cancel) -> Result<()> {
    let filters = Filters::parse(&args.filter, FILTERS)?;
    let now = Timestamp::now();
    let point = |text: &Option<String>| -> Result<Option<Timestamp>> {
        text.as_deref()
            .map(|t| time::point(t, now, &TimeZone::system()))
            .transpose()
    };
    let (since, until) = (point(&args.since)?, point(&args.until)?);
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let config = globals.config()?;
    let mut reader = Journal::new(&config.run_root).read()?;
    let first = since.unwrap_or(now);
    let ends = until.map(|until| {
        let left = until.as_nanosecond().saturating_sub(now.as_nanosecond());
        Instant::now() + Duration::from_nanos(u64::try_from(left).unwrap_or(0))
    });
    loop {
        while let Some(event) = reader.next_event()? {
            let Ok(at) = event.time.parse::<Timestamp>() else {
                continue;
            };
            if at < first || until.is_some_and(|until| at > until) || !fits(&filters, &event) {
                continue;
            }
            out::line(&line(&event, at, args, template.as_ref())?)?;
        }
        if cancel.is_cancelled() {
            return Err(Error::new(Kind::Cancelled, "cancelled"));
        }
        if ends.is_some_and(|ends| Instant::now() >= ends) {
            return Ok(());
        }
        std::thread::sleep(TICK);
    }
}

fn fits(filters: &Filters, event: &Event) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
    let is = |object: Object, text: &str| {
        event.object == object && (event.id.starts_with(text) || attribute("name") == text)
    };
    filters.any("container", |c| is(Object::Container, c))
        && filters.any("event", |e| {
            event.action == e || event.action.split(':').next().is_some_and(|a| a == e)
        })
        && filters.any("image", |i| of_image(event, i))
        && filters.any("network", |n| is(Object::Network, n))
        && filters.any("volume", |v| is(Object::Volume, v))
        && filters.any("type", |t| t == event.object.name())
        && filters.any("scope", |s| s == "local")
        && filters.labels(&event.attributes)
}

/// Whether an event is of an image, or of a container that was made of it.
fn of_image(event: &Event, image: &str) -> bool {
    let of = match event.object {
        Object::Container => "image",
        Object::Image if event.id.trim_start_matches("sha256:").starts_with(image) => return true,
        Object::Image if event.id == image => return true,
        Object::Image => "name",
        Object::Network | Object::Volume => return false,
    };
    let name = event.attributes.get(of).map_or("", String::as_str);
    name == image || Reference::parse(name).is_ok_and(|r| r.familiar_repository() == image)
}

fn line(
    event: &Event,
    at: Timestamp,
    args: &EventsArgs,
    template: Option<&Template>,
) -> Result<String> {
    let message = Message {
        status: &event.action,
        id: &event.id,
        from: match event.object {
            Object::Container => event.attributes.get("image"),
            Object::Image => event.attributes.get("name"),
            Object::Network | Object::Volume => None,
        }
        .map_or("", String::as_str),
        kind: event.object.name(),
        action: &event.action,
        actor: Actor {
            id: &event.id,
            attributes: &event.attributes,
        },
        scope: "local",
        time: at.as_second(),
        time_nano: i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX),
    };
    if let Some(template) = template {
        return template.render(&message);
    }
    if args.format.as_deref() == Some("json") {
        return serde_json::to_string(&message)
            .map_err(|e| Error::new(Kind::Bug, format!("write JSON: {e}")));
    }
    let zoned = at.to_zoned_datetime(TimeZone::system());
    let zone = if zoned.offset() == Offset::UTC {
        "Z"
    } else {
        "%:z"
    };
    let layout = format!("%Y-%m-%dT%H:%M:%S.%9f{zone}");
    let time = zoned.strftime(&layout);
    let attributes: Vec<String> = event
        .attributes
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let attributes = plain(&attributes.join(", "));
    Ok(format!(
        "{time} {} {} {} ({attributes})",
        event.object.name(),
        plain(&event.action),
        event.id
    ))
}

/// One line without anything that acts on a terminal: labels are an image's own.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c.is_control() {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        })
        .collect()
}
