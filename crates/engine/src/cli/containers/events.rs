//! `unlade events`: what happens to containers, as it happens.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use unlade_unpack::Cancel;

use crate::{
    cli::{globals::Globals, human::Filters, out, template::Template},
    container::{Event, Journal},
    error::{Error, Kind, Result},
    image::time,
};

/// How often is looked for more.
const TICK: Duration = Duration::from_millis(100);
const FILTERS: &[&str] = &["container", "event", "image", "label", "scope", "type"];

#[derive(Debug, Args)]
pub(in crate::cli) struct EventsArgs {
    /// Only events that KEY=VALUE fits: container, event, image, label, scope, type.
    #[arg(short, long, value_name = "KEY=VALUE")]
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
        while let Some(event) = reader.next()? {
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
    filters.any("container", |c| {
        event.id.starts_with(c) || attribute("name") == c
    }) && filters.any("event", |e| {
        event.action == e || event.action.split(':').next().is_some_and(|a| a == e)
    }) && filters.any("image", |i| {
        attribute("image") == i || attribute("image").split(':').next() == Some(i)
    }) && filters.any("type", |t| t == "container")
        && filters.any("scope", |s| s == "local")
        && filters.labels(&event.attributes)
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
        from: event.attributes.get("image").map_or("", String::as_str),
        kind: "container",
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
    let time = zoned.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z");
    let attributes: Vec<String> = event
        .attributes
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let attributes = attributes.join(", ");
    Ok(format!(
        "{time} container {} {} ({attributes})",
        event.action, event.id
    ))
}
