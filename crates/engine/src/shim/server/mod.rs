//! The shim itself: one thread that waits for everything at once.

mod boot;
mod clients;
mod end;
mod health;
mod input;
mod job;
mod mounts;
mod oom;
mod requests;
mod start;
mod turn;

use std::{
    os::fd::{AsRawFd, OwnedFd},
    os::unix::net::UnixListener,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::process::Pid;

use self::{clients::Client, input::Input, job::Job, mounts::Namespaces};
use super::{Exit, SOCKET, State, Stream, log::Writer};

/// A socket's path by the descriptor of its directory, which is short enough for any directory.
pub(super) fn socket_path(dir: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))
}

pub(super) fn main() -> ExitCode {
    boot::main()
}

/// Everything that a shim has.
struct Server {
    job: Job,
    state: State,
    phase: Phase,
    /// Counts children that have ended.
    children: OwnedFd,
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    /// Where output comes from.
    outputs: Vec<Output>,
    input: Input,
    /// The terminal's other side.
    terminal: Option<OwnedFd>,
    log: Writer,
    /// Until when the end of a run waits for the log.
    log_until: Option<Instant>,
    /// A handle on the first process.
    init: Option<OwnedFd>,
    /// Watches for want of memory.
    oom: Option<oom::Watch>,
    /// How many kills were seen without watching.
    kills: u64,
    checks: Option<health::Checks>,
    /// What was handed over for [`super::Io::Passed`].
    stdio: Option<[OwnedFd; 3]>,
    /// What is only to be kept open until the end.
    held: Vec<OwnedFd>,
    /// What keeps an ordinary user's namespaces, until somebody has cleaned up.
    users: Option<OwnedFd>,
    namespaces: Namespaces,
    /// The signal that asked to stop.
    stop_with: Option<i32>,
    /// When SIGKILL follows a signal that asked to stop.
    kill_at: Option<Instant>,
    /// The last exit, once it is told.
    exit: Option<Exit>,
    /// How long was waited before the last time it was started again.
    backoff: Option<Duration>,
    /// Whether it ever ran: until then, whoever started us is told why not, and cleans up.
    started_once: bool,
    /// Whether the client that started us has cleaned up.
    cleaned: bool,
    /// All input and output passes through here.
    scratch: Vec<u8>,
}

/// A stream of output.
struct Output {
    stream: Stream,
    from: OwnedFd,
}

/// What a shim is at.
enum Phase {
    /// The runtime is at work.
    Starting(Starting),
    /// The first process runs.
    Running { since: Instant },
    /// It has ended; what it wrote last is passed on.
    Draining {
        code: i32,
        since: Instant,
        ran: Duration,
    },
    /// It will be started again.
    Waiting { until: Instant },
    /// Everything is told; the last bytes go to the clients.
    Flushing { since: Instant },
}

struct Starting {
    runtime: Pid,
    deadline: Instant,
    /// The runtime's standard error, where that is not the container's.
    words: Option<OwnedFd>,
    /// Where the terminal's other side arrives.
    console: Option<Console>,
    /// Where it says what went wrong.
    log: PathBuf,
    pid_file: PathBuf,
}

/// Where the runtime hands over a terminal's other side.
struct Console {
    listener: UnixListener,
    /// The socket's directory, through which the runtime finds it.
    _dir: OwnedFd,
}
