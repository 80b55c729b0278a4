//! Standard input that does not keep a cancelled command waiting.

use std::io::{self, BufRead, BufReader, Read};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use unlade_unpack::Cancel;

use crate::error::{Error, Kind, Result};

/// How often to look whether to go on.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Standard input; reading fails once the command is cancelled.
pub(super) struct Input(Cancel);

impl Input {
    pub(super) fn new(cancel: &Cancel) -> Self {
        Self(cancel.clone())
    }
}

impl Read for Input {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let stdin = io::stdin();
        loop {
            if self.0.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut ready, Some(&TICK)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                // Past any buffer of the standard library's: nobody else reads here.
                Ok(_) => return Ok(rustix::io::read(&stdin, to)?),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Reads a line that a person types, without its end.
///
/// # Errors
/// [`Kind::Cancelled`] if a signal came meanwhile.
pub(super) fn line(cancel: &Cancel) -> Result<String> {
    let mut line = String::new();
    let read = BufReader::with_capacity(1, Input::new(cancel)).read_line(&mut line);
    match read {
        Ok(_) => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        Err(_) if cancel.is_cancelled() => Err(Error::new(Kind::Cancelled, "cancelled")),
        Err(e) => Err(Error::host("read standard input", e)),
    }
}
