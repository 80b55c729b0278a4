//! The way of input from clients to the container.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::io::Errno;

use crate::shim::Stdin;

/// Input that the container has not taken yet, and where it goes.
pub(super) struct Input {
    mode: Stdin,
    target: Option<OwnedFd>,
    pending: Vec<u8>,
    at: usize,
    /// Whether nothing follows what is pending.
    end: bool,
}

impl Input {
    pub(super) fn new(mode: Stdin) -> Self {
        Self {
            mode,
            target: None,
            pending: Vec::new(),
            at: 0,
            end: false,
        }
    }

    /// The container was started, and reads from there; what was for the last run is dropped.
    pub(super) fn open(&mut self, target: Option<OwnedFd>) {
        *self = Self {
            target,
            ..Self::new(self.mode)
        };
    }

    /// The container has ended.
    pub(super) fn close(&mut self) {
        self.open(None);
    }

    /// Whether more has to wait.
    pub(super) fn blocked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What to wait for until more can be written.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.target
            .as_ref()
            .filter(|_| self.blocked())
            .map(AsFd::as_fd)
    }

    /// Takes input; to be called only if it is not blocked.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.target.is_none() || self.end || bytes.is_empty() {
            return;
        }
        let wrote = self.write(bytes);
        if self.target.is_some() {
            self.pending.extend_from_slice(&bytes[wrote..]);
        }
    }

    /// A client that sends input has no more, or has gone. Only if input ends with its first client
    /// does the container see that; a terminal never does.
    pub(super) fn client_ended(&mut self, terminal: bool) {
        if self.mode == Stdin::Once && !terminal {
            self.end = true;
            self.settle();
        }
    }

    /// Goes on writing.
    pub(super) fn flush(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        self.at += self.write(&pending[self.at..]);
        if self.at < pending.len() && self.target.is_some() {
            self.pending = pending;
        } else {
            self.at = 0;
        }
        self.settle();
    }

    fn settle(&mut self) {
        if self.end && self.pending.is_empty() {
            self.target = None;
        }
    }

    /// Writes what can be written now; a container that does not read any more gets nothing.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let Some(target) = &self.target
            && done < bytes.len()
        {
            match rustix::io::write(target, &bytes[done..]) {
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.target = None,
            }
        }
        done
    }
}

/// Both ends of a pipe: theirs, and ours, which never blocks.
pub(super) fn pipe(ours_reads: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (ours, theirs) = if ours_reads {
        (read, write)
    } else {
        (write, read)
    };
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((theirs, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fd: &OwnedFd) -> Result<usize, Errno> {
        rustix::io::ioctl_fionbio(fd, true).unwrap();
        let mut buffer = vec![0; 1 << 20];
        rustix::io::read(fd, &mut buffer)
    }

    #[test]
    fn waits_and_goes_on() {
        let (theirs, ours) = pipe(false).unwrap();
        let mut input = Input::new(Stdin::Once);
        input.open(Some(ours));
        input.push(&vec![b'x'; 200_000]);
        assert!(input.blocked() && input.waits_for().is_some());
        input.client_ended(false);
        let mut got = 0;
        loop {
            match read(&theirs) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) => assert_eq!(e, Errno::AGAIN),
            }
            input.flush();
        }
        assert_eq!(got, 200_000);
        assert!(!input.blocked());
    }

    #[test]
    fn ends_only_where_it_may() {
        for (mode, terminal, ends) in [
            (Stdin::Open, false, false),
            (Stdin::Once, true, false),
            (Stdin::Once, false, true),
        ] {
            let (theirs, ours) = pipe(false).unwrap();
            let mut input = Input::new(mode);
            input.open(Some(ours));
            input.client_ended(terminal);
            let want = if ends { Ok(0) } else { Err(Errno::AGAIN) };
            assert_eq!(read(&theirs), want);
        }
    }

    #[test]
    fn a_container_that_does_not_read_blocks_nobody() {
        let (theirs, ours) = pipe(false).unwrap();
        let mut input = Input::new(Stdin::Open);
        input.push(b"nobody is there");
        input.open(Some(ours));
        drop(theirs);
        input.push(&vec![0; 100_000]);
        assert!(!input.blocked());
    }
}
