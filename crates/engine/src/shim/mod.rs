//! The shim: one small process that stays with each running container.
//!
//! It starts the container through the runtime, holds its streams, its log and its terminal, waits
//! for its end, starts it again where that is wanted, and in the end runs a command that cleans
//! up. Containers so outlive every other process of ours. Everyone else speaks to it through the
//! socket `ctl.sock` in the directory of the run, and reads what it knows in `state.json` there.
//! It knows nothing of images and never opens the database.
//!
//! This module is both sides: what clients call, and the program itself ([`main`]).

mod client;
mod clock;
mod launch;
pub mod log;
mod server;
mod state;
mod wire;

use std::process::ExitCode;

use serde::{Deserialize, Serialize};

pub use self::{
    client::{
        Connection, Fds, Message, Outcome, Refused, Sender, Shim, Started, attach, exec, release,
        resize, set_paused, set_restart, signal, start, stop, wait,
    },
    launch::{Exec, Health, Io, Launch, Log, LogFile, Mounts, Restart, Size, Stdin, Streams},
    state::{Check, Feels, Process, Seen, State, Status, boot_id},
};
use crate::sys;

/// Name of the socket in the directory of a run.
pub const SOCKET: &str = "ctl.sock";

/// One of the two streams of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output, and all output of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exit {
    /// Its code, or 128 and the signal.
    pub code: i32,
    /// Whether the kernel killed one of its processes for want of memory.
    pub oom: bool,
    /// Whether it will be started again.
    pub again: bool,
    /// When, RFC 3339 in UTC.
    pub finished: String,
    /// Why it could not be started again.
    pub error: String,
}

/// Marks every descriptor above standard error as one that no program gets which this process
/// turns into.
///
/// # Errors
/// Those of the host.
pub fn seal_descriptors() -> std::io::Result<()> {
    sys::close_on_exec_from(3)
}

/// The program `unlade-shim`.
pub fn main() -> ExitCode {
    server::main()
}
