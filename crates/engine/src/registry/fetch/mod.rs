//! A blob's bytes, in order, from wherever they can be had.
//!
//! A body that breaks off goes on at the byte where it broke, by `Range`; a server that ignores
//! the range is read again from the start, and what is known already is dropped. Bytes of two
//! answers are joined only if the second says that it starts where the first ended.

mod reader;
mod source;

use std::{collections::VecDeque, fmt, sync::Arc};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinHandle};
use unlade_unpack::Digest;

use self::{
    reader::Reader,
    source::{Source, Stop},
};
use super::{Client, hosts::Purpose};
use crate::{
    error::{Error, Kind, Result},
    image::Reference,
};

/// A blob on its way. [`BlobBody::chunk`] gives its bytes in order.
pub struct BlobBody {
    front: Reader,
    size: u64,
    /// What follows, fetched ahead; in order.
    ahead: VecDeque<Piece>,
    /// Up to where it is asked for.
    asked: u64,
    parallel: bool,
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, size, ahead) = (self.front.pos, self.size, self.ahead.len());
        write!(f, "BlobBody({at} of {size} bytes, {ahead} parts ahead)")
    }
}

struct Piece {
    end: u64,
    chunks: mpsc::UnboundedReceiver<Result<Bytes, Stop>>,
    task: JoinHandle<()>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// The bytes of blob `digest` from byte `from` on. `urls` are the manifest's for this layer;
    /// they are asked if the configuration allows that and the registry does not have it.
    ///
    /// # Errors
    /// As [`Client::resolve`]; [`Kind::Integrity`] if the registry says that its size is not
    /// `size`.
    pub async fn blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        from: u64,
        urls: &[String],
    ) -> Result<BlobBody> {
        if from > size {
            let m = format!("blob {digest}: byte {from} of {size} asked for");
            return Err(Error::new(Kind::Bug, m));
        }
        let source = Arc::new(Source {
            core: self.core.clone(),
            endpoints: self.endpoints(reference, Purpose::Pull)?,
            foreign: urls.to_vec(),
            what: format!("blob {digest} of {}", reference.repository()),
            digest: *digest,
            size,
            state: Default::default(),
        });
        let mut front = Reader::new(source, from, size, false);
        front.open().await.map_err(Stop::error)?;
        Ok(BlobBody {
            parallel: self.core.http.config.parallel.streams > 1,
            front,
            size,
            ahead: VecDeque::new(),
            asked: size,
        })
    }
}

impl BlobBody {
    /// The next bytes; [`None`] after the last. Never more in all than the size asked for.
    ///
    /// # Errors
    /// [`Kind::Network`] when no host can be brought to go on, [`Kind::Integrity`] when one
    /// sends what it must not.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.parallel && self.ahead.is_empty() {
                self.maybe_split();
            }
            if let Some(bytes) = self.front.chunk().await.map_err(Stop::error)? {
                return Ok(Some(bytes));
            }
            let Some(piece) = self.ahead.front_mut() else {
                return Ok(None);
            };
            // The first of the parts that run ahead is now where the body stands.
            match piece.chunks.recv().await {
                Some(Ok(bytes)) => {
                    self.front.pos += bytes.len() as u64;
                    self.front.end = self.front.pos;
                    return Ok(Some(bytes));
                }
                Some(Err(Stop::NoRanges)) => {
                    // All in one, from here on.
                    self.parallel = false;
                    self.ahead.clear();
                    self.front.end = self.size;
                }
                Some(Err(Stop::Error(e))) => return Err(e),
                None if piece.end == self.front.pos => {
                    self.ahead.pop_front();
                    self.ask_ahead();
                }
                None => return Err(Error::new(Kind::Bug, "a part of a blob ended early")),
            }
        }
    }

    /// How many bytes have been given, counted from the blob's start.
    pub fn position(&self) -> u64 {
        self.front.pos
    }

    /// The host that sends.
    pub fn from(&self) -> &str {
        &self.front.host
    }

    /// Fetches ahead, if the network is what is waited for and much is missing.
    fn maybe_split(&mut self) {
        let reader = &mut self.front;
        let rules = reader.source.core.http.config.parallel;
        if reader.waited < rules.after
            || reader.end != self.size
            || self.size - reader.pos <= rules.threshold_bytes
            || reader.source.state(|s| s.no_ranges)
        {
            return;
        }
        let part = rules.part_bytes.max(1);
        reader.end = (reader.pos + part).min(self.size);
        self.asked = reader.end;
        tracing::debug!(blob = %reader.source.digest, at = reader.pos, "fetching ahead");
        self.ask_ahead();
    }

    fn ask_ahead(&mut self) {
        let rules = self.front.source.core.http.config.parallel;
        // The front is one of the streams.
        while self.ahead.len() + 1 < rules.streams && self.asked < self.size {
            let end = self
                .asked
                .saturating_add(rules.part_bytes.max(1))
                .min(self.size);
            let mut reader = Reader::new(self.front.source.clone(), self.asked, end, true);
            let (send, chunks) = mpsc::unbounded_channel();
            let task = tokio::spawn(async move {
                loop {
                    let (last, item) = match reader.chunk().await {
                        Ok(Some(bytes)) => (false, Ok(bytes)),
                        Ok(None) => break,
                        Err(stop) => (true, Err(stop)),
                    };
                    if send.send(item).is_err() || last {
                        break;
                    }
                }
            });
            self.ahead.push_back(Piece { end, chunks, task });
            self.asked = end;
        }
    }
}
