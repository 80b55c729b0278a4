//! `unlade system`.

mod check;
mod df;
mod info;
mod prune;

use clap::Args;
use unlade_unpack::Cancel;

pub(super) use self::{
    check::{CheckArgs, check},
    df::{DfArgs, df},
    info::{InfoArgs, info},
    prune::{PruneArgs, prune},
};
use super::{containers, globals::Globals, out, unit::unit};
use crate::{
    container::Begin,
    error::{Error, Result},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Those with the policy always are started; with unless-stopped, unless they were stopped; with
on-failure, if they had failed or were running. One that has run since the boot is left alone, so
the command may be given again. With systemd:
  unlade system boot --unit > /etc/systemd/system/unlade-boot.service
  systemctl enable unlade-boot")]
pub(super) struct BootArgs {
    /// Print a unit for systemd that does this at each boot, and start nothing.
    #[arg(long)]
    unit: bool,
}

pub(super) fn boot(globals: &Globals, args: &BootArgs, cancel: &Cancel) -> Result<()> {
    if args.unit {
        return out::text(&unit(&globals.config()?, &globals.given()?)?);
    }
    let engine = globals.engine(cancel)?;
    let begin = Begin {
        cleanup: containers::cleanup_line(&engine),
        ..Begin::default()
    };
    let mut failed: Option<Error> = None;
    engine.start_after_boot(&begin, &mut |record, done| match done {
        Ok(()) => out::line(&record.name),
        Err(e) => {
            let e = e.context(format!("start {}", record.name));
            if let Some(before) = failed.replace(e) {
                super::say(&before.to_string());
            }
            Ok(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}
