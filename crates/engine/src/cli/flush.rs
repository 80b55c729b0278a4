//! `unlade system flush`, and the process that does it beside whatever comes after a pull.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use clap::Args;
use unlade_unpack::Cancel;

use super::globals::Globals;
use crate::{config::Flush, engine::Engine, error::Result, sys};

/// How much less it is worth than other work, as nice(1) counts.
const NICE: i32 = 10;

#[derive(Debug, Args)]
pub(super) struct FlushArgs {
    /// In a session of its own, with little claim to processors; not at all if somebody else is
    /// about to.
    #[arg(long, hide = true)]
    background: bool,
}

impl FlushArgs {
    /// Lets go of what belongs to whoever started this process. To be called first.
    pub(super) fn detach(&self) {
        if !self.background {
            return;
        }
        // A lock of the caller's, say, which would be held for as long as this runs.
        sys::close_inherited();
        if let Err(e) = rustix::process::setsid() {
            tracing::debug!(error = %e, "no session of its own");
        }
        if let Err(e) = rustix::process::nice(NICE) {
            tracing::debug!(error = %e, "not made nice");
        }
    }
}

pub(super) fn run(globals: &Globals, args: &FlushArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    match args.background {
        true => engine.flush_unless_begun(),
        false => engine.flush(),
    }
}

/// Starts a process that waits for the disk to have what `engine` has made, unless that is left to
/// the next command. Whether it can be started or not, nothing is lost but the time of that.
pub(super) fn soon(engine: &Engine) {
    let config = engine.config();
    if config.flush == Flush::Later || !engine.store().unflushed().is_ok_and(|u| u.is_some()) {
        return;
    }
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("unlade")
        .arg("--root")
        .arg(&config.root)
        .arg("--run-root")
        .arg(&config.run_root)
        .args(["--graph-driver", engine.driver().kind().name()])
        .args(["system", "flush", "--background"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match command.spawn() {
        Ok(child) => tracing::debug!(pid = child.id(), "flushing in the background"),
        Err(e) => tracing::debug!(error = %e, "the next command flushes"),
    }
}
