//! A container in a list.

use jiff::{Timestamp, tz::TimeZone};

use super::status;
use crate::{
    cli::{human, table::Columns, template::Value},
    container::{Containers, Listed},
    engine::Engine,
    error::Result,
};

pub(in crate::cli) const COLUMNS: Columns = Columns {
    name: "container",
    headers: &[
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Labels", "LABELS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Mounts", "MOUNTS"),
        ("Names", "NAMES"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
        ("Ports", "PORTS"),
        ("RunningFor", "CREATED"),
        ("Size", "SIZE"),
        ("State", "STATE"),
        ("Status", "STATUS"),
    ],
    table: &[
        "ID",
        "Image",
        "Command",
        "RunningFor",
        "Status",
        "Ports",
        "Names",
    ],
    quiet: "ID",
};

pub(super) const WITH_SIZE: Columns = Columns {
    table: &[
        "ID",
        "Image",
        "Command",
        "RunningFor",
        "Status",
        "Ports",
        "Names",
        "Size",
    ],
    ..COLUMNS
};

/// What the field `Size` is to say.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) enum Size {
    /// Nothing: it takes long to find out.
    Unknown,
    /// What was written to its root, in bytes.
    Own(u64),
    /// That, and it with the image, once looked at.
    Looked,
}

/// The row of a container; with `whole` nothing is cut off.
pub(in crate::cli) fn row(
    engine: &Engine,
    containers: &Containers<'_>,
    listed: &Listed,
    whole: bool,
    size: Size,
) -> Result<Vec<(&'static str, Value)>> {
    let Listed { record, view } = listed;
    let now = Timestamp::now();
    let created = record.created / 1_000_000_000;
    let settings = containers.network_settings(record, view)?;
    let cut = |text: &str, width| {
        if whole {
            text.to_owned()
        } else {
            human::ellipsis(text, width)
        }
    };
    let labels = Containers::labels(record);
    let points = containers.points(record);
    let mounts: Vec<String> = points
        .iter()
        .map(|p| {
            cut(
                if p.name.is_empty() {
                    &p.source
                } else {
                    &p.name
                },
                15,
            )
        })
        .collect();
    let local = points.iter().filter(|p| p.driver == "local").count();
    let networks: Vec<&str> = settings.networks.keys().map(|n| &**n).collect();
    let size = match size {
        Size::Unknown => "0B".to_owned(),
        Size::Own(bytes) => human::size(bytes, 3),
        Size::Looked => {
            let (own, all) = containers.size(record)?;
            format!("{} (virtual {})", human::size(own, 3), human::size(all, 3))
        }
    };
    Ok(vec![
        (
            "Command",
            Value::text(format!("\"{}\"", cut(&listed.command(), 20))),
        ),
        (
            "CreatedAt",
            Value::text(human::date(created, &TimeZone::system())),
        ),
        (
            "ID",
            Value::text(if whole {
                &*record.id
            } else {
                record.short_id()
            }),
        ),
        ("Image", Value::text(image(engine, listed, whole)?)),
        ("Label", Value::labels(labels)),
        ("Labels", Value::text(human::labels(labels))),
        ("LocalVolumes", Value::text(local.to_string())),
        ("Mounts", Value::text(mounts.join(","))),
        ("Names", Value::text(&*record.name)),
        ("Networks", Value::text(networks.join(","))),
        ("Platform", Value::platform(&record.facts.platform)),
        ("Ports", Value::text(status::ports(&settings, listed))),
        ("RunningFor", Value::text(human::ago(created, now))),
        ("Size", Value::text(size)),
        ("State", Value::text(view.status.as_str())),
        ("Status", Value::text(status::status(view, now))),
    ])
}

/// The image as it was asked for; its id once that name is another's, as docker shows it.
fn image(engine: &Engine, listed: &Listed, whole: bool) -> Result<String> {
    let record = &listed.record;
    let asked = &record.request.config.image;
    let same = match engine.store().resolve(asked) {
        Ok(image) => image.id == record.image,
        Err(_) => false,
    };
    let id = record.image.to_string();
    Ok(match same {
        true if asked.starts_with("sha256:") && !whole => human::short_id(asked).to_owned(),
        true => asked.clone(),
        false if whole => id,
        false => human::short_id(&id).to_owned(),
    })
}
