//! This process's streams and a container's, joined until one of them ends.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{
    signals::Signals,
    terminal::{self, Keys, Raw},
};
use crate::{
    error::{Error, Result},
    shim::{Connection, Exit, Message, Sender, Stream},
};

/// How streams are joined.
pub(super) struct Join<'a> {
    /// The container has a terminal.
    pub(super) tty: bool,
    /// Our input goes to it.
    pub(super) stdin: bool,
    /// The keys that let go.
    pub(super) keys: Keys,
    /// What waits for changes of the window's size.
    pub(super) signals: &'a Signals,
}

/// How it ended.
pub(super) enum Parted {
    /// The container ended.
    Exited(Exit),
    /// The user let go of it.
    Detached,
    /// Its shim is gone.
    Lost,
}

/// Joins them.
pub(super) fn join(connection: &mut Connection, join: Join<'_>) -> Result<Parted> {
    let raw = if join.tty && join.stdin {
        Raw::enter()?
    } else {
        None
    };
    if join.tty {
        watch_size(connection.sender()?, join.signals);
    }
    let detached = Arc::new(AtomicBool::new(false));
    if join.stdin {
        let sender = connection.sender()?;
        let end = connection
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::host("copy a descriptor", e))?;
        let keys = join.tty.then_some(join.keys);
        let detached = detached.clone();
        // It may wait for input when all else is over; it goes with the process.
        thread::Builder::new()
            .name("unlade-stdin".into())
            .spawn(move || input(sender, keys, &end, &detached))
            .map_err(|e| Error::host("start a thread", e))?;
    }
    let parted = output(connection, &detached);
    drop(raw);
    parted
}

fn watch_size(mut sender: Sender, signals: &Signals) {
    let mut resize = move || {
        // A container that has just ended has no size.
        let _ = sender.resize(terminal::size());
    };
    resize();
    signals.on_resize(resize);
}

fn output(connection: &mut Connection, detached: &AtomicBool) -> Result<Parted> {
    let (mut stdout, mut stderr) = (Sink::new(io::stdout()), Sink::new(io::stderr()));
    loop {
        let message = match connection.recv() {
            Ok(message) => message,
            Err(_) if detached.load(Ordering::Acquire) => return Ok(Parted::Detached),
            Err(e) => return Err(e),
        };
        match message {
            Message::Output(Stream::Stdout, bytes) => stdout.put(bytes),
            Message::Output(Stream::Stderr, bytes) => stderr.put(bytes),
            Message::Exited(exit) if exit.again => {}
            Message::Exited(exit) => return Ok(Parted::Exited(exit)),
            Message::Closed if detached.load(Ordering::Acquire) => return Ok(Parted::Detached),
            Message::Closed => return Ok(Parted::Lost),
        }
    }
}

/// A stream of ours. One whose reader has gone takes no more, and the container goes on.
struct Sink<W>(Option<W>);

impl<W: Write> Sink<W> {
    fn new(writer: W) -> Self {
        Self(Some(writer))
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(writer) = &mut self.0
            && writer
                .write_all(bytes)
                .and_then(|()| writer.flush())
                .is_err()
        {
            self.0 = None;
        }
    }
}

fn input(mut sender: Sender, mut keys: Option<Keys>, end: &OwnedFd, detached: &AtomicBool) {
    let mut buffer = vec![0; 32 << 10];
    let mut typed = Vec::new();
    let mut stdin = io::stdin().lock();
    loop {
        let n = match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let let_go = match &mut keys {
            Some(keys) => keys.pass(&buffer[..n], &mut typed),
            None => {
                typed.clear();
                typed.extend_from_slice(&buffer[..n]);
                false
            }
        };
        if !typed.is_empty() && sender.input(&typed).is_err() {
            return;
        }
        if let_go {
            detached.store(true, Ordering::Release);
            // Wakes whoever waits for output.
            let _ = rustix::net::shutdown(end, rustix::net::Shutdown::Both);
            return;
        }
    }
    // A container that has ended takes no end of input.
    let _ = sender.end_of_input();
}
