//! `unlade container prune`.

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use unlade_unpack::Cancel;

use crate::{
    cli::{
        globals::Globals,
        human::{self, Filters},
        out,
    },
    container::{Containers, Removal},
    error::Result,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct PruneArgs {
    /// Only containers that KEY=VALUE fits: label, label!, until.
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

pub(super) fn prune(globals: &Globals, args: &PruneArgs, cancel: &Cancel) -> Result<()> {
    let filters = Filters::parse(&args.filter, &["label", "label!", "until"])?;
    let until = filters.until(Timestamp::now(), &TimeZone::system())?;
    let what = "This will remove all containers that do not run.";
    if !args.force && !crate::cli::confirm(what, cancel)? {
        return Ok(());
    }
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    let (mut removed, mut bytes, mut failed) = (Vec::new(), 0, None);
    for listed in containers.list()? {
        let record = &listed.record;
        let making = record.stage == crate::store::Stage::Creating;
        let created = i128::from(record.created);
        if listed.view.is_active()
            || making
            || !filters.labels(Containers::labels(record))
            || until.is_some_and(|t| created >= t.as_nanosecond())
        {
            continue;
        }
        let size = containers.size(record).map_or(0, |(own, _)| own);
        match containers.remove(record, Removal::default()) {
            Ok(_) => {
                bytes += size;
                removed.push(record.id.clone());
            }
            Err(e) => {
                failed.get_or_insert(e);
            }
        }
    }
    if !removed.is_empty() {
        out::line("Deleted Containers:")?;
        removed.iter().try_for_each(|id| out::line(id))?;
        out::line("")?;
    }
    out::line(&format!("Total reclaimed space: {}", human::size(bytes, 4)))?;
    failed.map_or(Ok(()), Err)
}
