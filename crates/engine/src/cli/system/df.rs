//! `unlade system df`.

use clap::Args;
use unlade_unpack::Cancel;

use crate::{
    cli::{
        containers::row as containers,
        globals::Globals,
        human::{self, Filters},
        images, lists, out,
        table::{Columns, List},
        template::{Template, Value},
        volumes,
    },
    engine::{Engine, Usage},
    error::Result,
    store::Share,
};

const DF: Columns = Columns {
    name: "disk usage",
    headers: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    table: &["Type", "TotalCount", "Active", "Size", "Reclaimable"],
    quiet: "Type",
};

const IMAGES: Columns = Columns {
    table: &[
        "Repository",
        "Tag",
        "ID",
        "CreatedSince",
        "Size",
        "SharedSize",
        "UniqueSize",
        "Containers",
    ],
    ..lists::IMAGES
};

const CONTAINERS: Columns = Columns {
    table: &[
        "ID",
        "Image",
        "Command",
        "LocalVolumes",
        "Size",
        "RunningFor",
        "Status",
        "Names",
    ],
    ..containers::COLUMNS
};

const VOLUMES: Columns = Columns {
    table: &["Name", "Links", "Size"],
    ..volumes::LIST
};

#[derive(Debug, Args)]
pub(in crate::cli) struct DfArgs {
    /// table, `table TEMPLATE`, json, or a template such as {{.Type}}; with --verbose one of the
    /// lists Images, Containers and Volumes.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Show each image, container and volume.
    #[arg(short, long)]
    verbose: bool,
}

pub(in crate::cli) fn df(globals: &Globals, args: &DfArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let usage = engine.df()?;
    if args.verbose {
        return each(&engine, &usage, args.format.as_deref());
    }
    let mut list = List::new(&DF, args.format.as_deref(), false)?;
    for (name, share) in [
        ("Images", usage.store.images),
        ("Containers", usage.all_containers()),
        ("Local Volumes", usage.all_volumes()),
        ("Layers", usage.store.layers),
        ("Blobs", usage.store.blobs),
        ("Partial downloads", usage.store.partial),
    ] {
        list.row(share_row(name, &share))?;
    }
    out::text(&list.finish()?)
}

fn share_row(name: &str, share: &Share) -> Vec<(&'static str, Value)> {
    let mut reclaimable = human::size(share.reclaimable, 4);
    if let Some(percent) = (share.reclaimable * 100).checked_div(share.bytes) {
        reclaimable.push_str(&format!(" ({percent}%)"));
    }
    vec![
        ("Type", Value::text(name)),
        ("TotalCount", Value::text(share.count.to_string())),
        ("Active", Value::text(share.active.to_string())),
        ("Size", Value::text(human::size(share.bytes, 4))),
        ("Reclaimable", Value::text(reclaimable)),
    ]
}

type Rows = Vec<Vec<(&'static str, Value)>>;

/// `--verbose`: each image, container and volume. Ids are whole where a program reads them.
fn each(engine: &Engine, usage: &Usage, format: Option<&str>) -> Result<()> {
    let template = match format {
        None | Some("" | "table") => None,
        Some("json") => Some(Template::parse("{{json .}}")?),
        Some(text) => Some(Template::parse(text)?),
    };
    let whole = template.is_some();
    let parts = [
        ("Images", "image", images_of(usage, whole)?),
        (
            "Containers",
            "container",
            containers_of(engine, usage, whole)?,
        ),
        ("Volumes", "volume", volumes_of(usage)),
    ];
    if let Some(template) = template {
        let lists = parts.into_iter().map(|(part, name, rows)| {
            let rows = rows.into_iter().map(|row| Value::row(name, row));
            (part, Value::List(rows.collect()))
        });
        let document = Value::row("disk usage", lists.collect());
        return out::line(&template.render_value(&document)?);
    }
    let mut text = String::new();
    let columns = [
        ("Images", &IMAGES),
        ("Containers", &CONTAINERS),
        ("Local Volumes", &VOLUMES),
    ];
    for ((title, columns), (_, _, rows)) in columns.into_iter().zip(parts) {
        let mut list = List::new(columns, None, false)?;
        rows.into_iter().try_for_each(|row| list.row(row))?;
        let gap = if text.is_empty() { "" } else { "\n" };
        text.push_str(&format!("{gap}{title} space usage:\n\n{}", list.finish()?));
    }
    out::text(&text)
}

fn images_of(usage: &Usage, whole: bool) -> Result<Rows> {
    let style = images::style(None, false, whole);
    let mut rows = Vec::new();
    for one in &usage.images {
        if let Some(mut listed) = images::entry(&one.image, &Filters::default())? {
            listed.usage = Some((one.shared, one.containers));
            rows.extend(lists::image_rows(&listed, &style));
        }
    }
    Ok(rows)
}

fn containers_of(engine: &Engine, usage: &Usage, whole: bool) -> Result<Rows> {
    let all = engine.containers()?;
    let row = |one: &crate::engine::ContainerUsage| {
        let size = containers::Size::Own(one.bytes);
        containers::row(engine, &all, &one.listed, whole, size)
    };
    usage.containers.iter().map(row).collect()
}

fn volumes_of(usage: &Usage) -> Rows {
    let each = usage.volumes.iter();
    each.map(|v| volumes::row(&v.volume, Some((v.users, v.bytes))))
        .collect()
}
