//! Clients of a shim.

use std::{
    io::{self, IoSlice, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::UnixStream,
};

use serde::Serialize;

use crate::shim::{
    Stream, Streams,
    wire::{self, Frames},
};

/// One connection.
pub(super) struct Client {
    socket: UnixStream,
    pub(super) frames: Frames,
    /// What it has not taken yet.
    pending: Vec<u8>,
    at: usize,
    /// What it takes part in; `None` until it says so.
    pub(super) streams: Option<Streams>,
    /// Whether it is the one that started us.
    pub(super) starter: bool,
    /// Whether it has gone, or is to go once it has taken everything.
    pub(super) gone: bool,
}

impl Client {
    /// The one that started us; whatever happens to the settings of its socket.
    pub(super) fn starter(socket: UnixStream, streams: Option<Streams>) -> Self {
        let _ = socket.set_nonblocking(true);
        Self {
            socket,
            frames: Frames::default(),
            pending: Vec::new(),
            at: 0,
            // Also without streams it is told of the exit.
            streams: Some(streams.unwrap_or_default()),
            starter: true,
            gone: false,
        }
    }

    /// One that has connected; `None` for another user.
    pub(super) fn accepted(socket: UnixStream) -> Option<Self> {
        let who = rustix::net::sockopt::socket_peercred(&socket).ok()?;
        let allowed = who.uid.is_root() || who.uid == rustix::process::geteuid();
        allowed.then(|| Self {
            streams: None,
            starter: false,
            ..Self::starter(socket, None)
        })
    }

    pub(super) fn sends_input(&self) -> bool {
        self.streams.is_some_and(|s| s.stdin)
    }

    pub(super) fn wants(&self, stream: Stream) -> bool {
        !self.gone
            && self.streams.is_some_and(|s| match stream {
                Stream::Stdout => s.stdout,
                Stream::Stderr => s.stderr,
            })
    }

    /// Whether it has to take something before there can be more.
    pub(super) fn congested(&self) -> bool {
        !self.gone && !self.pending.is_empty()
    }

    /// Sends output; what it does not take at once waits.
    pub(super) fn output(&mut self, stream: Stream, bytes: &[u8]) {
        let kind = match stream {
            Stream::Stdout => wire::STDOUT,
            Stream::Stderr => wire::STDERR,
        };
        self.send(&wire::header(kind, bytes.len()), bytes);
    }

    /// Sends a message.
    pub(super) fn tell(&mut self, message: &impl Serialize) {
        if let Ok(bytes) = wire::json(message) {
            self.send(&bytes, &[]);
        }
    }

    fn send(&mut self, head: &[u8], body: &[u8]) {
        if self.gone {
            return;
        }
        let mut done = 0;
        if self.pending.is_empty() {
            let parts = [IoSlice::new(head), IoSlice::new(body)];
            match (&self.socket).write_vectored(&parts) {
                Ok(n) => done = n,
                Err(e) if soon(&e) => {}
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
        let (in_head, in_body) = (done.min(head.len()), done.saturating_sub(head.len()));
        self.pending.extend_from_slice(&head[in_head..]);
        self.pending.extend_from_slice(&body[in_body..]);
    }

    /// Goes on sending.
    pub(super) fn flush(&mut self) {
        while self.at < self.pending.len() && !self.gone {
            match (&self.socket).write(&self.pending[self.at..]) {
                Ok(n) => self.at += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if soon(&e) => return,
                Err(_) => self.gone = true,
            }
        }
        (self.pending, self.at) = (Vec::new(), 0);
    }

    /// Receives some of what has come; `false` at the end.
    pub(super) fn receive(&mut self, scratch: &mut [u8]) -> bool {
        match (&self.socket).read(scratch) {
            Ok(0) => false,
            Ok(n) => {
                self.frames.push(&scratch[..n]);
                true
            }
            Err(e) => soon(&e),
        }
    }
}

fn soon(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
