//! The side of those who start shims and speak to them.

use std::{
    io::{self, IoSlice, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::fs::{Mode, OFlags};

use super::{
    Exec, Exit, Io, Launch, Restart, SOCKET, Size, Stream, Streams,
    wire::{self, Frames, Reply, Request},
};
use crate::{
    config::Config,
    error::{Error, Kind, Result},
    runtime::shim_binary,
};

/// What is handed to a shim.
#[derive(Debug, Default)]
pub struct Fds<'a> {
    /// The root's mount, not yet attached anywhere; `None` if the bundle's `rootfs` is there.
    pub rootfs: Option<BorrowedFd<'a>>,
    /// The lock under which it is started. The shim keeps it until others can see it, so that
    /// whoever comes after a client that was killed meanwhile waits for that.
    pub lock: Option<BorrowedFd<'a>>,
    /// What keeps an ordinary user's namespaces. The shim has it to its very end, and whoever cleans
    /// up after it has it from there.
    pub users: Option<BorrowedFd<'a>>,
    /// For [`Io::Passed`]: standard input, output and error.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// What the shim only has to keep open as long as the container is not over: sockets that
    /// keep its published ports from other programs.
    pub held: &'a [OwnedFd],
}

/// A shim that waits to be told what to do. Dropped unused, it ends.
#[derive(Debug)]
pub struct Shim {
    socket: UnixStream,
    child: Child,
}

/// What became of a start.
#[derive(Debug)]
pub enum Outcome {
    /// It runs.
    Started(Started),
    /// It does not.
    Refused(Refused),
}

/// A container, or a process in one, that was started.
#[derive(Debug)]
pub struct Started {
    /// Its first process.
    pub pid: i32,
    /// The foreground's streams, and its exit; dropped, it is left alone.
    pub connection: Connection,
}

/// Why it was not started. Nothing is left but the directory of the run; the command that cleans
/// up was not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// As Docker's: 127 for a program that is not there, 126 for one that cannot be executed, 125
    /// for anything else.
    pub exit_code: u8,
    /// The runtime's words.
    pub message: String,
}

/// A connection to a shim.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    frames: Frames,
    buffer: Vec<u8>,
    /// Whether the frame that was given out last still has to be dropped.
    given: bool,
    /// Of who started the shim; so that it is waited for when it ends first.
    child: Option<Child>,
}

/// The way into a container, for another thread than the one that waits for output.
#[derive(Debug)]
pub struct Sender(UnixStream);

/// What a shim tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Output of the container.
    Output(Stream, &'a [u8]),
    /// It ended; if it will be started again, more follows.
    Exited(Exit),
    /// The shim has gone.
    Closed,
}

fn broken(e: impl Into<io::Error>) -> Error {
    Error::host("speak to the shim", e)
}

impl Shim {
    /// Starts the program, so that it is ready when there is something to do.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the program is not there, [`Kind::Host`] if it cannot be run.
    pub fn spawn(config: &Config) -> Result<Self> {
        let program = shim_binary(config)?;
        let (socket, theirs) = UnixStream::pair().map_err(broken)?;
        let child = Command::new(&program)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::host(format!("run `{}`", program.display()), e))?;
        Ok(Self { socket, child })
    }

    /// Starts a container.
    ///
    /// # Errors
    /// [`Kind::Host`] if the shim dies or does not do as it should; what the runtime refuses is an
    /// [`Outcome`].
    pub fn start(self, launch: &Launch, fds: &Fds<'_>) -> Result<Outcome> {
        let stdio = launch.io == Io::Passed;
        let request = Request::Launch {
            launch: Box::new(launch.clone()),
            rootfs: fds.rootfs.is_some(),
            lock: fds.lock.is_some(),
            users: fds.users.is_some(),
            stdio,
        };
        self.begin(&request, fds, stdio)
    }

    /// Starts a process in a container that runs.
    ///
    /// # Errors
    /// As [`Shim::start`].
    pub fn exec(self, exec: &Exec, fds: &Fds<'_>) -> Result<Outcome> {
        let stdio = exec.io == Io::Passed;
        let request = Request::Exec {
            exec: Box::new(exec.clone()),
            lock: fds.lock.is_some(),
            stdio,
        };
        self.begin(&request, fds, stdio)
    }

    fn begin(self, request: &Request, fds: &Fds<'_>, stdio: bool) -> Result<Outcome> {
        let first = [fds.rootfs, fds.lock, fds.users];
        let mut all: Vec<BorrowedFd<'_>> = first.into_iter().flatten().collect();
        match fds.stdio {
            Some(three) if stdio => all.extend(three),
            None if stdio => return Err(Error::new(Kind::Bug, "no streams were handed over")),
            _ => {}
        }
        all.extend(fds.held.iter().map(AsFd::as_fd));
        let bytes = wire::json(request).map_err(broken)?;
        wire::send(&self.socket, &bytes, &all).map_err(broken)?;
        let mut connection = Connection::over(self.socket);
        connection.child = Some(self.child);
        let reply = connection.reply()?.ok_or_else(|| {
            Error::new(Kind::Host, "the shim ended without an answer")
                .with_hint("it may have been killed: try again")
        })?;
        match reply {
            Reply::Started { pid } => Ok(Outcome::Started(Started { pid, connection })),
            Reply::Refused { exit_code, message } => {
                // It ends at once, and nobody else would wait for it.
                while !matches!(connection.recv()?, Message::Closed) {}
                if let Some(child) = &mut connection.child {
                    let _ = child.wait();
                }
                Ok(Outcome::Refused(Refused { exit_code, message }))
            }
            other => Err(unexpected(&other)),
        }
    }
}

/// The error for a run that no shim looks after any more.
fn silent(run: &Path) -> Error {
    let m = format!("no shim answers at `{}`", run.join(SOCKET).display());
    Error::new(Kind::NotFound, m).with_hint("the container does not run, or its shim was killed")
}

fn unexpected(reply: &Reply) -> Error {
    Error::new(Kind::Bug, format!("the shim answered {reply:?}"))
}

/// [`Shim::spawn`] and [`Shim::start`].
///
/// # Errors
/// Those of both.
pub fn start(config: &Config, launch: &Launch, fds: &Fds<'_>) -> Result<Outcome> {
    Shim::spawn(config)?.start(launch, fds)
}

/// [`Shim::spawn`] and [`Shim::exec`].
///
/// # Errors
/// Those of both.
pub fn exec(config: &Config, exec: &Exec, fds: &Fds<'_>) -> Result<Outcome> {
    Shim::spawn(config)?.exec(exec, fds)
}

impl Connection {
    fn over(socket: UnixStream) -> Self {
        Self {
            socket,
            frames: Frames::default(),
            buffer: Vec::new(),
            given: false,
            child: None,
        }
    }

    /// To the shim of a run.
    fn to(run: &Path) -> Result<Self> {
        let failed = |e: io::Error| {
            let gone = matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            );
            if gone {
                return silent(run);
            }
            Error::host(format!("connect to `{}`", run.join(SOCKET).display()), e)
        };
        // A path in a socket's address has room for 107 bytes: the directory's descriptor is short.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(run, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        UnixStream::connect(super::server::socket_path(&dir))
            .map(Self::over)
            .map_err(failed)
    }

    /// The next that the shim tells; waits for it.
    ///
    /// # Errors
    /// [`Kind::Host`] if the socket fails.
    pub fn recv(&mut self) -> Result<Message<'_>> {
        loop {
            if !self.fill()? {
                return Ok(Message::Closed);
            }
            // Twice, so that what is borrowed is what is returned.
            let Some((kind, payload)) = self.frames.peek().map_err(broken)? else {
                return Ok(Message::Closed);
            };
            let exit = match kind {
                wire::STDOUT | wire::STDERR => None,
                _ => match parse(payload)? {
                    Reply::Exited(exit) => Some(exit),
                    _ => continue,
                },
            };
            if let Some(exit) = exit {
                return Ok(Message::Exited(exit));
            }
            let (kind, payload) = self.frames.peek().map_err(broken)?.unwrap_or_default();
            let stream = match kind {
                wire::STDERR => Stream::Stderr,
                _ => Stream::Stdout,
            };
            return Ok(Message::Output(stream, payload));
        }
    }

    /// Waits for the next exit; output before it is passed over.
    ///
    /// # Errors
    /// [`Kind::Host`] if the shim goes without telling of one.
    pub fn exit(&mut self) -> Result<Exit> {
        loop {
            match self.recv()? {
                Message::Exited(exit) => return Ok(exit),
                Message::Output(..) => {}
                Message::Closed => {
                    return Err(Error::new(
                        Kind::Host,
                        "the shim ended without saying how the container did",
                    )
                    .with_hint("it may have been killed"));
                }
            }
        }
    }

    /// Another handle, to send through.
    ///
    /// # Errors
    /// [`Kind::Host`] if there are too many open files.
    pub fn sender(&self) -> Result<Sender> {
        self.socket.try_clone().map(Sender).map_err(broken)
    }

    /// Makes the next frame whole; `false` at the end.
    fn fill(&mut self) -> Result<bool> {
        if std::mem::take(&mut self.given) {
            self.frames.take();
        }
        while self.frames.peek().map_err(broken)?.is_none() {
            self.buffer.resize(wire::CHUNK, 0);
            let n = match self.socket.read(&mut self.buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // What a killed shim leaves behind.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => 0,
                Err(e) => return Err(broken(e)),
            };
            if n == 0 {
                return Ok(false);
            }
            self.frames.push(&self.buffer[..n]);
        }
        self.given = true;
        Ok(true)
    }

    /// The next reply to a request; `None` if the shim has gone.
    fn reply(&mut self) -> Result<Option<Reply>> {
        while self.fill()? {
            if let Some((wire::JSON, payload)) = self.frames.peek().map_err(broken)? {
                return parse(payload).map(Some);
            }
        }
        Ok(None)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // It may have ended before; one that stays is nobody's child when this process ends.
        if let Some(child) = &mut self.child {
            let _ = child.try_wait();
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn parse(payload: &[u8]) -> Result<Reply> {
    serde_json::from_slice(payload).map_err(broken)
}

impl Sender {
    /// Sends input; waits where the container does not take it.
    ///
    /// # Errors
    /// [`Kind::Host`] if the shim has gone.
    pub fn input(&mut self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(wire::CHUNK) {
            let head = wire::header(wire::INPUT, chunk.len());
            let mut parts = [IoSlice::new(&head), IoSlice::new(chunk)];
            let mut parts = &mut parts[..];
            while !parts.is_empty() {
                match self.0.write_vectored(parts) {
                    Ok(n) => IoSlice::advance_slices(&mut parts, n),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(broken(e)),
                }
            }
        }
        Ok(())
    }

    /// Says that no more input comes.
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub fn end_of_input(&mut self) -> Result<()> {
        self.say(&Request::EndOfInput)
    }

    /// Says how large the terminal is now.
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub fn resize(&mut self, size: Size) -> Result<()> {
        self.say(&Request::Resize(size))
    }

    /// After the last exit: the caller has cleaned up, the shim need not. See
    /// [`Launch::client_cleans`].
    ///
    /// # Errors
    /// As [`Sender::input`].
    pub fn cleaned(mut self) -> Result<()> {
        self.say(&Request::Cleaned)
    }

    fn say(&mut self, request: &Request) -> Result<()> {
        let bytes = wire::json(request).map_err(broken)?;
        self.0.write_all(&bytes).map_err(broken)
    }
}

/// Takes part in a container's streams from now on.
///
/// # Errors
/// [`Kind::NotFound`] if no shim answers there.
pub fn attach(run: &Path, streams: Streams) -> Result<Connection> {
    let (connection, reply) = ask(run, &Request::Attach(streams))?;
    match reply {
        Reply::Done => Ok(connection),
        other => Err(unexpected(&other)),
    }
}

/// A connection that only tells of exits.
///
/// # Errors
/// As [`attach`].
pub fn wait(run: &Path) -> Result<Connection> {
    attach(run, Streams::default())
}

/// Sets the size of the terminal.
///
/// # Errors
/// As [`attach`]; [`Kind::Conflict`] if there is no terminal.
pub fn resize(run: &Path, size: Size) -> Result<()> {
    tell(run, &Request::Resize(size))
}

/// Sends a signal to the first process.
///
/// # Errors
/// As [`attach`]; [`Kind::Conflict`] if it does not run.
pub fn signal(run: &Path, signal: i32) -> Result<()> {
    tell(run, &Request::Signal(signal))
}

/// Sends a signal that asks it to stop, and SIGKILL when the time is over; it is not started
/// again. Returns at once.
///
/// # Errors
/// As [`attach`].
pub fn stop(run: &Path, signal: i32, timeout: Option<Duration>) -> Result<()> {
    let millis = |t: Duration| u64::try_from(t.as_millis()).unwrap_or(u64::MAX);
    let timeout_ms = timeout.map(millis);
    tell(run, &Request::Stop { signal, timeout_ms })
}

/// Changes what is done when it ends.
///
/// # Errors
/// As [`attach`].
pub fn set_restart(run: &Path, restart: Restart) -> Result<()> {
    tell(run, &Request::Restart(restart))
}

/// Records that it was paused or resumed, which the caller has done; while paused, its health is
/// not looked at.
///
/// # Errors
/// As [`attach`].
pub fn set_paused(run: &Path, paused: bool) -> Result<()> {
    tell(run, &Request::Paused(paused))
}

/// Has what was handed over only to be held let go: the container's ports are not published any
/// more.
///
/// # Errors
/// As [`attach`].
pub fn release(run: &Path) -> Result<()> {
    tell(run, &Request::Release)
}

fn ask(run: &Path, request: &Request) -> Result<(Connection, Reply)> {
    let mut connection = Connection::to(run)?;
    let bytes = wire::json(request).map_err(broken)?;
    // A shim at its end hangs up on whoever came last: it is gone, as a moment later.
    let gone = |e: &io::Error| {
        matches!(
            e.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        )
    };
    match wire::send(&connection.socket, &bytes, &[]) {
        Err(e) if gone(&e) => return Err(silent(run)),
        sent => sent.map_err(broken)?,
    }
    match connection.reply()? {
        Some(reply) => Ok((connection, reply)),
        None => Err(silent(run)),
    }
}

fn tell(run: &Path, request: &Request) -> Result<()> {
    match ask(run, request)?.1 {
        Reply::Done => Ok(()),
        Reply::Failed(m) => Err(Error::new(Kind::Conflict, m)),
        other => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn a_shim_that_hangs_up_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(wait(dir.path()).unwrap_err().kind(), Kind::NotFound);
        let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
        let hangs_up = thread::spawn(move || {
            // Once before it has heard anything, once after.
            drop(listener.accept().unwrap());
            let (mut heard, _) = listener.accept().unwrap();
            heard.read_exact(&mut [0; 1]).unwrap();
        });
        for _ in 0..2 {
            assert_eq!(wait(dir.path()).unwrap_err().kind(), Kind::NotFound);
        }
        hangs_up.join().unwrap();
    }
}
