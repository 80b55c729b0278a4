//! A tar made on one thread and put into a tree on another.

use std::io::{self, Read, Write};

use bytes::Bytes;
use unlade_unpack::{
    Expect, LayerReport, Limits, Sink, Unpacker,
    source::{ChannelWriter, ReadSource, channel},
};

use crate::error::{Error, Kind, Result};

/// Bytes of the tar that are handed over at a time.
const PIECE: usize = 256 << 10;
/// Pieces that may wait.
const PIECES: usize = 8;

struct Sender {
    to: ChannelWriter,
    piece: Vec<u8>,
    /// Nobody takes more: the other side has failed.
    closed: bool,
}

impl Sender {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        if !self.to.send(Bytes::from(piece)) {
            self.closed = true;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        if self.piece.len() == PIECE {
            self.send()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// An unpacker for what people copy: as much of it as there is.
fn unlimited(unpacker: &Unpacker) -> Unpacker {
    unpacker.clone().limits(Limits {
        layer_bytes: u64::MAX,
        entries: u64::MAX,
        idle: std::time::Duration::from_secs(24 * 3600),
        ..Limits::default()
    })
}

/// Gives `sink` the tar that `make` writes; what `make` returns.
pub(crate) fn transfer<T: Send>(
    unpacker: &Unpacker,
    make: impl FnOnce(&mut dyn Write) -> Result<T> + Send,
    sink: &mut dyn Sink,
) -> Result<T> {
    std::thread::scope(|scope| {
        let (to, from) = channel(PIECES, None);
        let maker = scope.spawn(move || {
            let mut sender = Sender {
                to,
                piece: Vec::with_capacity(PIECE),
                closed: false,
            };
            let made = make(&mut sender);
            match &made {
                Ok(_) => sender.to.finish(),
                Err(e) => sender.to.fail(io::Error::other(e.to_string())),
            }
            (made, sender.closed)
        });
        let put = unlimited(unpacker).run(from, Expect::default(), sink);
        let (made, closed) = maker
            .join()
            .map_err(|_| Error::new(Kind::Bug, "the thread that reads files panicked"))?;
        match (made, put) {
            // The first failure is the one to tell.
            (Err(e), _) if !closed => Err(e),
            (_, Err(e)) => Err(e.into()),
            (made, Ok(report)) => {
                told(&report);
                made
            }
        }
    })
}

/// Gives `sink` the tar that is read from `from`, plain or compressed.
pub(crate) fn receive(
    unpacker: &Unpacker,
    from: impl Read + Send + 'static,
    sink: &mut dyn Sink,
) -> Result<()> {
    let report = unlimited(unpacker).run(ReadSource::new(from), Expect::default(), sink)?;
    told(&report);
    Ok(())
}

fn told(report: &LayerReport) {
    for skipped in &report.skipped {
        tracing::warn!(?skipped, "left out");
    }
}
