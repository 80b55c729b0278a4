//! `unlade volume`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Serialize;
use unlade_unpack::Cancel;

use super::{
    each::each,
    globals::Globals,
    human::{self, Filters},
    lists,
    networks::pairs,
    out,
    table::{Columns, List},
    template::Value,
};
use crate::{
    engine::Engine,
    error::{Error, Kind, Result},
    volume::{NewVolume, Volume},
};

#[derive(Debug, Subcommand)]
pub(super) enum VolumeCommand {
    /// Make a volume.
    Create(CreateArgs),
    /// Show all of a volume's details.
    Inspect(InspectArgs),
    /// List volumes.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove the volumes that no container uses.
    Prune(PruneArgs),
    /// Remove volumes and all that is in them.
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

pub(super) fn run(globals: &Globals, command: &VolumeCommand, cancel: &Cancel) -> Result<()> {
    match command {
        VolumeCommand::Create(a) => create(globals, a, cancel),
        VolumeCommand::Inspect(a) => inspect(globals, a, cancel),
        VolumeCommand::Ls(a) => list(globals, a, cancel),
        VolumeCommand::Prune(a) => prune(globals, a, cancel),
        VolumeCommand::Rm(a) => remove(globals, a, cancel),
    }
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// What it is to be called [default: 64 random digits].
    #[arg(value_name = "VOLUME")]
    name: Option<String>,

    /// As VOLUME.
    #[arg(
        long = "name",
        value_name = "VOLUME",
        hide = true,
        conflicts_with = "name"
    )]
    name_flag: Option<String>,

    /// Where it is: local.
    #[arg(short, long, value_name = "DRIVER", default_value = "local")]
    driver: String,

    /// A label: KEY=VALUE.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,

    /// An option: type=TYPE, device=DEVICE and o=OPTIONS, as of mount(8); o=bind for a directory.
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
}

fn create(globals: &Globals, args: &CreateArgs, cancel: &Cancel) -> Result<()> {
    let name = args.name.as_ref().or(args.name_flag.as_ref());
    let made = globals.engine(cancel)?.volumes().create(&NewVolume {
        name: name.cloned().unwrap_or_default(),
        driver: args.driver.clone(),
        labels: pairs(&args.label),
        options: pairs(&args.opt),
    })?;
    out::line(&made.name)
}

pub(super) const LIST: Columns = Columns {
    name: "volume",
    headers: &[
        ("Driver", "DRIVER"),
        ("Name", "VOLUME NAME"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Availability", "AVAILABILITY"),
        ("Group", "GROUP"),
        ("Status", "STATUS"),
    ],
    table: &["Driver", "Name"],
    quiet: "Name",
};

#[derive(Debug, Args)]
pub(super) struct LsArgs {
    /// Only volumes that KEY=VALUE fits: dangling, driver, label, name.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = crate::cli::values::filter)]
    filter: Vec<String>,

    /// table, `table TEMPLATE`, json, or a template such as {{.Name}}.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// Show names only.
    #[arg(short, long)]
    quiet: bool,
}

fn list(globals: &Globals, args: &LsArgs, cancel: &Cancel) -> Result<()> {
    let filters = Filters::parse(&args.filter, &["dangling", "driver", "label", "name"])?;
    let dangling = filters.flag("dangling")?;
    let volumes = globals.engine(cancel)?.volumes();
    let used = volumes.used()?;
    let mut list = List::new(&LIST, args.format.as_deref(), args.quiet)?;
    for volume in volumes.list()? {
        let wanted = filters.any("driver", |v| v == "local")
            && filters.any("name", |v| volume.name.contains(v))
            && filters.labels(&volume.labels)
            && dangling.is_none_or(|d| d != used.contains_key(&volume.name));
        if wanted {
            list.row(row(&volume, None))?;
        }
    }
    out::text(&list.finish()?)
}

/// A volume's row. How many containers use it and how many bytes are in it are known to `system df`
/// alone.
pub(super) fn row(
    volume: &Volume,
    usage: Option<(u64, Option<u64>)>,
) -> Vec<(&'static str, Value)> {
    let unknown = || "N/A".to_owned();
    let size = usage.and_then(|(_, bytes)| bytes);
    let mut row = vec![
        ("Driver", Value::text("local")),
        ("Name", Value::text(&volume.name)),
        ("Scope", Value::text("local")),
        ("Mountpoint", Value::text(&volume.mountpoint)),
        ("Label", Value::labels(&volume.labels)),
        ("Labels", Value::text(human::labels(&volume.labels))),
        (
            "Links",
            Value::text(usage.map_or_else(unknown, |(users, _)| users.to_string())),
        ),
        (
            "Size",
            Value::text(size.map_or_else(unknown, |bytes| human::size(bytes, 4))),
        ),
    ];
    // Of swarms.
    row.extend(["Availability", "Group", "Status"].map(|name| (name, Value::text("N/A"))));
    row
}

/// A volume as docker's `volume inspect` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    created_at: &'a str,
    driver: &'static str,
    labels: Option<&'a BTreeMap<String, String>>,
    mountpoint: &'a str,
    name: &'a str,
    options: Option<&'a BTreeMap<String, String>>,
    scope: &'static str,
}

fn shown(volume: &Volume) -> Shown<'_> {
    Shown {
        created_at: &volume.created,
        driver: "local",
        labels: Some(&volume.labels).filter(|l| !l.is_empty()),
        mountpoint: &volume.mountpoint,
        name: &volume.name,
        options: Some(&volume.options).filter(|o| !o.is_empty()),
        scope: "local",
    }
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Names of volumes.
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,

    /// json, or a template such as {{.Mountpoint}}.
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// A volume, written as docker's `volume inspect` does.
#[derive(Debug)]
pub(super) struct Document(Volume);

impl Serialize for Document {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        shown(&self.0).serialize(s)
    }
}

/// The document of a volume.
pub(super) fn document(engine: &Engine, name: &str) -> Result<Document> {
    engine.volumes().find(name).map(Document)
}

/// Prints all that are there; each of those that are not is an error.
fn inspect(globals: &Globals, args: &InspectArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let (found, done) = each(&args.volumes, |name| document(&engine, name));
    out::text(&lists::inspect(&found, args.format.as_deref())?)?;
    done
}

#[derive(Debug, Args)]
pub(super) struct RmArgs {
    /// Names of volumes.
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,

    /// What is not there is no failure.
    #[arg(short, long)]
    force: bool,
}

/// Removes all that can be; each of those that cannot is an error.
fn remove(globals: &Globals, args: &RmArgs, cancel: &Cancel) -> Result<()> {
    let volumes = globals.engine(cancel)?.volumes();
    let remove = |name: &String| match volumes.remove(name) {
        Err(e) if !args.force || e.kind() != Kind::NotFound => Err(e),
        _ => out::line(name),
    };
    each(&args.volumes, remove).1
}

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Also volumes with names.
    #[arg(short, long)]
    all: bool,

    /// Only volumes that KEY=VALUE fits: all, label, label!.
    #[arg(long, value_name = "KEY=VALUE", value_parser = crate::cli::values::filter)]
    filter: Vec<String>,

    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

fn prune(globals: &Globals, args: &PruneArgs, cancel: &Cancel) -> Result<()> {
    let filters = Filters::parse(&args.filter, &["all", "label", "label!"])?;
    let by_filter = filters.flag("all")?;
    if args.all && by_filter == Some(false) {
        let m = "conflicting options: cannot specify both --all and --filter all=0";
        return Err(Error::new(Kind::BadInput, m));
    }
    let all = args.all || by_filter == Some(true);
    let which = if all { "all" } else { "anonymous" };
    let what = format!(
        "WARNING! This will remove {which} local volumes not used by at least one container."
    );
    if !args.force && !super::confirm(&what, cancel)? {
        return Ok(());
    }
    let volumes = globals.engine(cancel)?.volumes();
    let (removed, bytes) = volumes
        .prune(&|volume| Ok((all || volume.is_anonymous()) && filters.labels(&volume.labels)))?;
    if !removed.is_empty() {
        out::text(&format!("Deleted Volumes:\n{}\n\n", removed.join("\n")))?;
    }
    out::line(&format!("Total reclaimed space: {}", human::size(bytes, 4)))
}
