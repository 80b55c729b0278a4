//! What clients and shims say to each other: frames of one byte for the kind, four for the length
//! (little-endian), and the payload.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use super::{Exec, Exit, Launch, Restart, Size, Streams};

/// A request or a reply in JSON.
pub(super) const JSON: u8 = b'J';
/// Input for the container.
pub(super) const INPUT: u8 = b'I';
/// Output.
pub(super) const STDOUT: u8 = b'O';
/// Output.
pub(super) const STDERR: u8 = b'E';
/// Bytes before the payload.
pub(super) const HEADER: usize = 5;
/// Longest payload.
const MAX: usize = 4 << 20;
/// Most of input or output in one frame.
pub(super) const CHUNK: usize = 64 << 10;
/// Most descriptors that go beside one piece of a message.
const MAX_FDS: usize = 64;

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// Beside it come the descriptors: the root's mount, the lock of its start, that of an ordinary
    /// user's namespaces, three streams, then sockets that are only held.
    Launch {
        launch: Box<Launch>,
        rootfs: bool,
        lock: bool,
        users: bool,
        stdio: bool,
    },
    Exec {
        exec: Box<Exec>,
        lock: bool,
        stdio: bool,
    },
    Attach(Streams),
    EndOfInput,
    Resize(Size),
    Signal(i32),
    Stop {
        signal: i32,
        timeout_ms: Option<u64>,
    },
    Restart(Restart),
    Paused(bool),
    Release,
    Cleaned,
}

/// What a shim answers, and tells unasked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reply {
    Started { pid: i32 },
    Refused { exit_code: u8, message: String },
    Done,
    Failed(String),
    Exited(Exit),
}

/// The bytes before a payload.
pub(super) fn header(kind: u8, len: usize) -> [u8; HEADER] {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    [kind, a, b, c, d]
}

/// A frame with a message in JSON.
pub(super) fn json(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; HEADER];
    serde_json::to_writer(&mut out, message)?;
    let head = header(JSON, out.len() - HEADER);
    out[..HEADER].copy_from_slice(&head);
    Ok(out)
}

/// Bytes that have come, taken apart into frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    at: usize,
}

impl Frames {
    /// Adds what has come.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Kind and payload of the next frame, if it is whole; it stays until [`Frames::take`].
    ///
    /// # Errors
    /// `InvalidData` for one that is too long.
    pub(super) fn peek(&self) -> io::Result<Option<(u8, &[u8])>> {
        let rest = &self.bytes[self.at..];
        let Some((head, rest)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if len > MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
        }
        Ok(rest.get(..len).map(|payload| (head[0], payload)))
    }

    /// Drops the frame that [`Frames::peek`] gave; a buffer that is empty is given back.
    pub(super) fn take(&mut self) {
        if let Ok(Some((_, payload))) = self.peek() {
            self.at += HEADER + payload.len();
        }
        if self.at == self.bytes.len() {
            (self.bytes, self.at) = (Vec::new(), 0);
        }
    }
}

/// Sends all of it, with the descriptors beside it: as many as go at once with each of the first
/// bytes, and the last of them with the rest, so that whoever has the bytes has them all.
pub(super) fn send(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut groups = fds.chunks(MAX_FDS);
    if groups.len() > bytes.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (mut sent, mut group) = (0, groups.next());
    while sent < bytes.len() {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(fds) = group
            && !control.push(SendAncillaryMessage::ScmRights(fds))
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let end = match groups.len() {
            0 => bytes.len(),
            _ => sent + 1,
        };
        let piece = [IoSlice::new(&bytes[sent..end])];
        match rustix::net::sendmsg(socket, &piece, &mut control, SendFlags::NOSIGNAL) {
            Ok(n) => (sent, group) = (sent + n, groups.next()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Receives some bytes, and the descriptors beside them; 0 at the end.
pub(super) fn receive(
    socket: &UnixStream,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(buffer)];
    let got = loop {
        let flags = RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(socket, &mut into, &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            got => break got?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(got.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn frames_in_any_pieces() {
        let mut all = json(&Request::Signal(9)).unwrap();
        all.extend(header(INPUT, 3));
        all.extend(b"abc");
        all.extend(header(INPUT, 0));
        for piece in 1..all.len() {
            let mut frames = Frames::default();
            let mut got = Vec::new();
            for bytes in all.chunks(piece) {
                frames.push(bytes);
                while let Some((kind, payload)) = frames.peek().unwrap() {
                    got.push((kind, payload.to_vec()));
                    frames.take();
                }
            }
            assert_eq!(got.len(), 3);
            let request: Request = serde_json::from_slice(&got[0].1).unwrap();
            assert!(matches!(request, Request::Signal(9)), "{request:?}");
            assert_eq!(got[1..], [(INPUT, b"abc".to_vec()), (INPUT, vec![])]);
        }
        let mut frames = Frames::default();
        frames.push(&[JSON, 0, 0, 0, 0xff]);
        assert!(frames.peek().is_err());
    }

    #[test]
    fn descriptors_go_along_closed_on_exec() {
        let (a, b) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        send(&a, b"hello", &[file.as_fd(), file.as_fd()]).unwrap();
        let (mut buffer, mut fds) = ([0; 16], Vec::new());
        assert_eq!(receive(&b, &mut buffer, &mut fds).unwrap(), 5);
        assert_eq!(fds.len(), 2);
        let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        // More than go at once: they are there when the bytes are.
        fds.clear();
        send(&a, b"hello", &vec![file.as_fd(); 3 * MAX_FDS + 1]).unwrap();
        let mut got = 0;
        while got < 5 {
            got += receive(&b, &mut buffer, &mut fds).unwrap();
        }
        assert_eq!((got, fds.len()), (5, 3 * MAX_FDS + 1));
        assert!(send(&a, b"x", &vec![file.as_fd(); MAX_FDS + 1]).is_err());
        drop(a);
        assert_eq!(receive(&b, &mut buffer, &mut fds).unwrap(), 0);
    }
}
