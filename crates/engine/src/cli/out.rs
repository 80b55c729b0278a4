//! What commands print on standard output. A reader that has gone away is no failure.

use std::io::{self, Write};

use crate::error::{Error, Result};

/// Prints `text` as it is.
pub(super) fn text(text: &str) -> Result<()> {
    bytes(text.as_bytes())
}

/// Prints `text` and a newline.
pub(super) fn line(text: &str) -> Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints bytes as they are.
pub(super) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|e| Error::host("write to standard output", e)),
    }
}
