//! From the beginning of the program to the start of the container.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    os::unix::net::{UnixListener, UnixStream},
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use nix::sys::signal::SigSet;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{Mode, OFlags},
};

use super::{
    Phase, SOCKET, Server,
    clients::Client,
    input::Input,
    job::{Container, Job},
    mounts,
};
use crate::{
    error::{Error, Kind, Result},
    rootless::{HOLD, holder},
    runtime::WITHOUT_UNIFIED,
    shim::{
        Log, Mounts, Process, State, boot_id,
        log::{self, Writer},
        wire::{self, Frames, Request},
    },
    sys,
};

pub(super) fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    match args.next() {
        None => {}
        Some(word) if word == WITHOUT_UNIFIED => return without_unified(args),
        Some(word) if word == HOLD => return holder::main(args),
        Some(word) if word == log::PACK => return log::pack(),
        Some(word) if word == "--version" => {
            let _ = writeln!(io::stdout(), "unlade-shim {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(_) => return misuse(),
    }
    match boot() {
        Ok(Some(server)) => server.run(),
        Ok(None) => ExitCode::SUCCESS,
        Err(e) if e.kind() == Kind::BadInput => misuse(),
        Err(_) => ExitCode::FAILURE,
    }
}

fn misuse() -> ExitCode {
    let _ = writeln!(
        io::stderr(),
        "unlade-shim is started by unlade, for each container: there is nothing to do by hand"
    );
    ExitCode::from(2)
}

/// Becomes the command that follows, in a mount namespace that crun accepts.
fn without_unified(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(program) = args.next() else {
        return misuse();
    };
    let e = match mounts::without_unified() {
        Ok(()) => Command::new(&program).args(args).exec(),
        Err(e) => e,
    };
    let _ = writeln!(io::stderr(), "{}: {e}", program.display());
    ExitCode::from(125)
}

/// Gets what is to be done, and begins; `None` if nothing is to be done.
fn boot() -> Result<Option<Server>> {
    let failed = |e: io::Error| Error::host("set up the shim", e);
    let (socket, children) = set_up().map_err(failed)?;
    let Some((request, fds)) = receive(&socket)? else {
        return Ok(None);
    };
    let mut fds = fds.into_iter();
    let (mut job, log, mounts, [rootfs, lock, users], stdio, restarts) = match request {
        Request::Launch {
            launch,
            rootfs,
            lock,
            users,
            stdio,
        } => {
            let (mounts, restarts) = (launch.mounts, launch.restarts);
            let mut next = |there: bool| if there { fds.next() } else { None };
            let first = [next(rootfs), next(lock), next(users)];
            let (job, log) = <(Job, Log)>::from(*launch);
            (job, log, mounts, first, stdio, restarts)
        }
        Request::Exec { exec, lock, stdio } => {
            let lock = if lock { fds.next() } else { None };
            let job = Job::from(*exec);
            (job, Log::None, Mounts::Host, [None, lock, None], stdio, 0)
        }
        _ => return Err(Error::new(Kind::Bug, "no shim begins with this")),
    };
    let three = if stdio { 3 } else { 0 };
    let stdio: Vec<OwnedFd> = fds.by_ref().take(three).collect();
    let stdio = <[OwnedFd; 3]>::try_from(stdio).ok();
    let held = fds.collect();
    let pid = std::process::id().cast_signed();
    let state = State {
        id: job.id.clone(),
        boot: boot_id(),
        shim: Process::of(pid).unwrap_or_default(),
        restarts,
        health: job.container().and_then(Container::first_feeling),
        ..State::default()
    };
    let made = job
        .runtime
        .prepare()
        .and_then(|()| listen(&job))
        .and_then(|listener| {
            let spaces = mounts::Namespaces::enter(&mut job, mounts, rootfs.as_ref())?;
            Ok((listener, spaces))
        });
    drop(rootfs);
    let starter = Client::starter(socket, job.foreground);
    let mut server = Server {
        input: Input::new(job.stdin()),
        job,
        state,
        phase: Phase::Flushing {
            since: std::time::Instant::now(),
        },
        children,
        listener: None,
        clients: vec![starter],
        outputs: Vec::new(),
        terminal: None,
        log: Writer::new(&log),
        log_until: None,
        init: None,
        oom: None,
        kills: 0,
        checks: None,
        stdio,
        held,
        users,
        namespaces: mounts::Namespaces::default(),
        stop_with: None,
        kill_at: None,
        exit: None,
        backoff: None,
        started_once: false,
        cleaned: false,
        scratch: Vec::new(),
    };
    match made {
        Ok((listener, spaces)) => {
            server.listener = Some(listener);
            server.namespaces = spaces;
            server.begin(lock);
        }
        Err(e) => server.refuse(125, format!("set up the container's shim: {e}")),
    }
    Ok(Some(server))
}

/// Leaves everything of the caller behind but the socket, which was standard input.
fn set_up() -> io::Result<(UnixStream, OwnedFd)> {
    sys::close_inherited();
    let socket = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    // Not in the caller's session: its terminal's signals are not for us.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    SigSet::empty().thread_set_mask().map_err(io::Error::from)?;
    let children = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    sys::handle_signals(children.as_fd())?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok((UnixStream::from(socket), children))
}

fn receive(socket: &UnixStream) -> Result<Option<(Request, Vec<OwnedFd>)>> {
    let (mut frames, mut fds) = (Frames::default(), Vec::new());
    let mut buffer = vec![0; 16 << 10];
    loop {
        let n = wire::receive(socket, &mut buffer, &mut fds);
        let n = n.map_err(|e| Error::new(Kind::BadInput, e.to_string()))?;
        if n == 0 {
            return Ok(None);
        }
        frames.push(&buffer[..n]);
        let bad = |e: io::Error| Error::new(Kind::BadInput, e.to_string());
        if let Some((_, payload)) = frames.peek().map_err(bad)? {
            let request = serde_json::from_slice(payload).map_err(|e| bad(e.into()))?;
            return Ok(Some((request, fds)));
        }
    }
}

/// The socket for everyone else; only our own user may connect.
fn listen(job: &Job) -> io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&job.run, flags, Mode::empty())?;
    match fs::remove_file(job.run.join(SOCKET)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    rustix::process::umask(Mode::from(0o077));
    let listener = UnixListener::bind(super::socket_path(&dir))?;
    rustix::process::umask(Mode::from(0o022));
    listener.set_nonblocking(true)?;
    Ok(listener)
}
