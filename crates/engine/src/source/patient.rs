//! Files that may keep a reader waiting: fifos, terminals, sockets. They are opened and read on a
//! thread of their own, so that the work can be cancelled, or given up, meanwhile.

use std::{
    fs::File,
    io,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use unlade_unpack::{
    Cancel, Error, Kind, Result,
    source::{BlobSource, ReadSource},
};

use super::Opening;

/// How often to look whether to go on.
const TICK: Duration = Duration::from_millis(50);
/// Pieces that may be read ahead.
const AHEAD: usize = 4;

/// Opens the file at `path` for reading.
pub(super) fn open(path: &Path, opening: &Opening<'_>) -> Result<File> {
    let shown = path.display().to_string();
    let host = |e| Error::host(format!("open `{shown}`"), e);
    let waits = std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir());
    if !waits {
        return File::open(path).map_err(host);
    }
    let (sender, opened) = sync_channel(1);
    let path = path.to_owned();
    // Never joined: it ends when the file opens, or with the process.
    spawn(move || {
        let _ = sender.send(File::open(path));
    })?;
    match wait(&opened, opening)? {
        Some(done) => done.map_err(host),
        None => Err(Error::new(Kind::Bug, "a thread that opens a file panicked")),
    }
}

/// A stream read ahead by a thread.
pub(super) struct Pump(Receiver<io::Result<Bytes>>);

impl Pump {
    /// Reads `file` to its end.
    pub(super) fn new(file: File) -> Result<Self> {
        let (sender, chunks) = sync_channel(AHEAD);
        spawn(move || {
            let mut source = ReadSource::new(file);
            while let Some(chunk) = source.next_chunk().transpose() {
                let failed = chunk.is_err();
                if sender.send(chunk).is_err() || failed {
                    break;
                }
            }
        })?;
        Ok(Self(chunks))
    }

    /// The next piece; `None` at the end.
    pub(super) fn next(&self, opening: &Opening<'_>) -> Result<Option<Bytes>> {
        wait(&self.0, opening)?
            .transpose()
            .map_err(|e| Error::host("read the archive", e))
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name("unlade-wait".into())
        .spawn(run)
        .map(drop)
        .map_err(|e| Error::host("start a thread", e))
}

/// Fails if the work was cancelled.
pub(super) fn check(cancel: &Cancel) -> Result<()> {
    if cancel.is_cancelled() {
        return Err(Error::new(Kind::Cancelled, "cancelled"));
    }
    Ok(())
}

/// What the other side sends next; `None` if it is gone.
fn wait<T>(from: &Receiver<T>, opening: &Opening<'_>) -> Result<Option<T>> {
    let since = Instant::now();
    loop {
        match from.recv_timeout(TICK) {
            Ok(got) => return Ok(Some(got)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => check(opening.cancel)?,
        }
        let idle = opening.limits.idle;
        if since.elapsed() > idle {
            let m = format!("the source gave no byte for {} s", idle.as_secs_f64());
            return Err(Error::new(Kind::Limit, m)
                .with_hint("is anything writing to it? raise --limit-idle to wait longer"));
        }
    }
}
