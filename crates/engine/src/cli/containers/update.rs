//! `unlade update`.

use clap::Args;
use unlade_unpack::Cancel;

use super::{
    each,
    parse::{self, bad},
};
use crate::{
    cli::{globals::Globals, say},
    error::Result,
    spec::request::{HostConfig, RestartPolicy},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct UpdateArgs {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,

    /// Memory, such as 512m.
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,

    /// Memory and swap together; -1 for swap without a limit.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,

    /// Memory that it is pressed down to when memory is short.
    #[arg(long, value_name = "BYTES")]
    memory_reservation: Option<String>,

    /// CPUs, such as 1.5.
    #[arg(long, value_name = "N")]
    cpus: Option<String>,

    /// Relative weight of CPU time.
    #[arg(short, long, value_name = "N")]
    cpu_shares: Option<i64>,

    /// Period of CPU time, in microseconds.
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,

    /// CPU time in each period, in microseconds.
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,

    /// CPUs that it may run on: 0-3,7.
    #[arg(long, value_name = "CPUS")]
    cpuset_cpus: Option<String>,

    /// Memory nodes that it may use.
    #[arg(long, value_name = "NODES")]
    cpuset_mems: Option<String>,

    /// Weight of block I/O, 10 to 1000.
    #[arg(long, value_name = "N")]
    blkio_weight: Option<u16>,

    /// Most processes; -1 for no limit.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<i64>,

    /// When it ends: no, always, unless-stopped or on-failure[:RETRIES].
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
}

/// What is to be changed, read.
struct Change {
    memory: Option<i64>,
    memory_swap: Option<i64>,
    memory_reservation: Option<i64>,
    cpus: Option<i64>,
    restart: Option<RestartPolicy>,
}

impl UpdateArgs {
    fn change(&self) -> Result<Change> {
        let read = |text: &Option<String>, parse: fn(&str) -> Result<i64>| {
            text.as_deref().map(parse).transpose()
        };
        Ok(Change {
            memory: read(&self.memory, parse::bytes)?,
            memory_swap: read(&self.memory_swap, parse::bytes_or_unlimited)?,
            memory_reservation: read(&self.memory_reservation, parse::bytes)?,
            cpus: read(&self.cpus, parse::cpus)?,
            restart: self
                .restart
                .as_deref()
                .map(parse::restart_policy)
                .transpose()?,
        })
    }

    fn is_empty(&self, change: &Change) -> bool {
        let Change {
            memory,
            memory_swap,
            memory_reservation,
            cpus,
            restart,
        } = change;
        [memory, memory_swap, memory_reservation, cpus]
            .iter()
            .all(|n| n.is_none())
            && restart.is_none()
            && [
                self.cpu_shares,
                self.cpu_period,
                self.cpu_quota,
                self.pids_limit,
            ]
            .iter()
            .all(Option::is_none)
            && self.cpuset_cpus.is_none()
            && self.cpuset_mems.is_none()
            && self.blkio_weight.is_none()
    }

    fn apply(&self, change: &Change, host: &mut HostConfig) {
        fn put<T: Clone>(to: &mut T, from: Option<&T>) {
            if let Some(from) = from {
                to.clone_from(from);
            }
        }
        put(&mut host.memory, change.memory.as_ref());
        put(&mut host.memory_swap, change.memory_swap.as_ref());
        put(
            &mut host.memory_reservation,
            change.memory_reservation.as_ref(),
        );
        put(&mut host.nano_cpus, change.cpus.as_ref());
        put(&mut host.restart_policy, change.restart.as_ref());
        put(&mut host.cpu_shares, self.cpu_shares.as_ref());
        put(&mut host.cpu_period, self.cpu_period.as_ref());
        put(&mut host.cpu_quota, self.cpu_quota.as_ref());
        put(&mut host.cpuset_cpus, self.cpuset_cpus.as_ref());
        put(&mut host.cpuset_mems, self.cpuset_mems.as_ref());
        put(&mut host.blkio_weight, self.blkio_weight.as_ref());
        if self.pids_limit.is_some() {
            host.pids_limit = self.pids_limit;
        }
    }
}

pub(super) fn update(globals: &Globals, args: &UpdateArgs, cancel: &Cancel) -> Result<u8> {
    let change = match args.change() {
        Ok(change) => change,
        Err(e) => return Ok(super::failed(&e, None, super::ENGINE)),
    };
    if args.is_empty(&change) {
        let m = "you must provide one or more flags when using this command";
        return Err(bad(m, "`unlade update --help` lists them"));
    }
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    each(&args.names, |name| {
        let record = containers.find(name)?;
        let warnings = containers.update(&record, |host| args.apply(&change, host))?;
        for warning in warnings {
            say(&format!("warning: {warning}"));
        }
        Ok(Some(name.to_owned()))
    })?;
    Ok(0)
}
