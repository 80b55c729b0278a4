//! `unlade container prune`.

use clap::Args;
use jiff::Timestamp;
use unlade_unpack::Cancel;

use crate::{
    cli::{
        globals::Globals,
        human::{self, Chosen},
        out,
    },
    container::{Containers, PrunedContainers, Record},
    error::Result,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct PruneArgs {
    /// Only containers that KEY=VALUE fits: label, label!, until.
    #[arg(long, value_name = "KEY=VALUE", value_parser = crate::cli::values::filter)]
    filter: Vec<String>,

    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

/// Whether a prune takes a container, if that does not run.
pub(in crate::cli) fn is_chosen(chosen: &Chosen, record: &Record) -> bool {
    let made = Timestamp::from_nanosecond(record.created.into()).unwrap_or_default();
    chosen.fits(made, Containers::labels(record))
}

pub(in crate::cli) fn say(pruned: &PrunedContainers) -> Result<()> {
    if pruned.ids.is_empty() {
        return Ok(());
    }
    out::text(&format!(
        "Deleted Containers:\n{}\n\n",
        pruned.ids.join("\n")
    ))
}

pub(super) fn prune(globals: &Globals, args: &PruneArgs, cancel: &Cancel) -> Result<()> {
    let chosen = Chosen::parse(&args.filter)?;
    let what = "WARNING! This will remove all stopped containers.";
    if !args.force && !crate::cli::confirm(what, cancel)? {
        return Ok(());
    }
    let engine = globals.engine(cancel)?;
    let pruned = engine
        .containers()?
        .prune(&|record| is_chosen(&chosen, record))?;
    say(&pruned)?;
    out::line(&format!(
        "Total reclaimed space: {}",
        human::size(pruned.bytes, 4)
    ))?;
    pruned.failed.map_or(Ok(()), Err)
}
