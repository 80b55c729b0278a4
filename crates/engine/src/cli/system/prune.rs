//! `unlade system prune`.

use clap::Args;
use unlade_unpack::Cancel;

use crate::{
    cli::{
        confirm,
        containers::prune as containers,
        globals::Globals,
        human::{self, Chosen},
        images, networks, out,
    },
    engine::PruneRequest,
    error::{Error, Kind, Result},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct PruneArgs {
    /// All images that no container uses, not only those without a name.
    #[arg(short, long)]
    all: bool,

    /// Also volumes without a name that no container uses.
    #[arg(long)]
    volumes: bool,

    /// Only what KEY=VALUE fits: label, label!, until.
    #[arg(long, value_name = "KEY=VALUE", value_parser = crate::cli::values::filter)]
    filter: Vec<String>,

    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

/// What is about to be removed, in docker's words.
fn warning(args: &PruneArgs) -> String {
    let mut lines = vec![
        "all stopped containers",
        "all networks not used by at least one container",
    ];
    if args.volumes {
        lines.push("all anonymous volumes not used by at least one container");
    }
    lines.push(images::pruned(args.all));
    lines.push("layers, blobs and partial downloads that nothing needs");
    if args.filter.is_empty() {
        lines.push("what containers without a record have written");
    }
    let mut text = "WARNING! This will remove:\n".to_owned();
    for line in lines {
        text.push_str(&format!("  - {line}\n"));
    }
    if !args.filter.is_empty() {
        let mut filters = args.filter.clone();
        filters.sort();
        text.push_str("\n  Items to be pruned will be filtered with:\n");
        for filter in filters {
            text.push_str(&format!("  - {filter}\n"));
        }
    }
    text
}

pub(in crate::cli) fn prune(globals: &Globals, args: &PruneArgs, cancel: &Cancel) -> Result<()> {
    let chosen = Chosen::parse(&args.filter)?;
    if args.volumes && chosen.has_until() {
        let m = "The \"until\" filter is not supported with \"--volumes\"";
        return Err(Error::new(Kind::BadInput, m)
            .with_hint("remove volumes by themselves: `unlade volume prune`"));
    }
    if !args.force && !confirm(&warning(args), cancel)? {
        return Ok(());
    }
    let engine = globals.engine(cancel)?;
    let (wanted, unread) = images::chosen(&engine, &args.filter)?;
    let pruned = engine.prune(&PruneRequest {
        all: args.all,
        volumes: args.volumes,
        // Nobody knows their labels.
        strays: args.filter.is_empty(),
        container: &|record| containers::is_chosen(&chosen, record),
        network: &|network| networks::is_chosen(&chosen, network),
        volume: &|volume| chosen.fits(jiff::Timestamp::MIN, &volume.labels),
        image: &|image| wanted.contains(&image.id),
    })?;
    containers::say(&pruned.containers)?;
    for (what, names) in [
        ("Snapshots", &pruned.snapshots),
        ("Networks", &pruned.networks),
        ("Volumes", &pruned.volumes),
    ] {
        if !names.is_empty() {
            out::text(&format!("Deleted {what}:\n{}\n\n", names.join("\n")))?;
        }
    }
    images::say_pruned(&pruned.images)?;
    let swept = &pruned.swept;
    let total = pruned.containers.bytes + swept.bytes + swept.partial_bytes + pruned.volume_bytes;
    out::line(&format!(
        "Removed {} layers, {} blobs, {} strays\nTotal reclaimed space: {}",
        swept.layers.len(),
        swept.blobs.len(),
        swept.strays,
        human::size(total, 4)
    ))?;
    pruned.containers.failed.or(unread).map_or(Ok(()), Err)
}
