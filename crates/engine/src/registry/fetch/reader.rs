//! Reading on, whatever it takes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    super::faults::{causes, stalled},
    source::{Part, Source, Stop},
};
use crate::error::{Error, Kind, Result};

/// So much progress makes earlier failures forgotten, in bytes.
const PROGRESS: u64 = 256 << 10;
/// How often in a row a body may break off without a byte.
const TRIES_IDLE: u32 = 3;

/// Reads `pos..end` of a blob, whatever it takes.
pub(super) struct Reader {
    pub(super) source: Arc<Source>,
    pub(super) pos: u64,
    pub(super) end: u64,
    /// Whether nothing but the range itself will do.
    pub(super) piece: bool,
    pub(super) part: Option<Part>,
    pub(super) host: String,
    /// Failures since there was much progress.
    pub(super) strikes: u32,
    /// Failures without any.
    pub(super) idle: u32,
    pub(super) struck_at: u64,
    /// How long the network was waited for.
    pub(super) waited: Duration,
}

impl Reader {
    pub(super) fn new(source: Arc<Source>, pos: u64, end: u64, piece: bool) -> Self {
        Self {
            source,
            pos,
            end,
            piece,
            part: None,
            host: String::new(),
            strikes: 0,
            idle: 0,
            struck_at: pos,
            waited: Duration::ZERO,
        }
    }

    pub(super) async fn open(&mut self) -> Result<(), Stop> {
        if self.pos < self.end {
            let mut opened = self.source.open(self.pos, self.end, self.piece).await;
            if let Err(Stop::Error(e)) = &opened
                && e.kind() == Kind::Integrity
                && self.pos > 0
                && !self.piece
                && self.source.state(|s| s.no_ranges)
            {
                // Once more, from the start.
                opened = self.source.open(self.pos, self.end, self.piece).await;
            }
            let part = opened?;
            self.host.clone_from(&part.host);
            self.part = Some(part);
        }
        Ok(())
    }

    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Stop> {
        loop {
            if self.pos >= self.end {
                return self.finish().await.map(|()| None);
            }
            if self.part.is_none() {
                self.open().await?;
            }
            let Some(part) = &mut self.part else {
                continue;
            };
            let config = &self.source.core.http.config;
            let start = Instant::now();
            let left = config.stall_timeout.saturating_sub(part.window_waited);
            let got = tokio::time::timeout(left, part.response.chunk()).await;
            let waited = start.elapsed();
            self.waited += waited;
            part.window_waited += waited;
            let mut bytes = match got {
                Ok(Ok(Some(bytes))) => bytes,
                Ok(Ok(None)) => {
                    self.broken("ended early".to_owned()).await?;
                    continue;
                }
                Ok(Err(e)) => {
                    self.broken(format!("broken off: {}", causes(&e))).await?;
                    continue;
                }
                Err(_) => {
                    let e = stalled(&part.host, config.stall_timeout);
                    self.broken(e.to_string()).await?;
                    continue;
                }
            };
            part.window_bytes += bytes.len() as u64;
            if part.window_bytes >= config.stall_bytes {
                part.window_bytes = 0;
                part.window_waited = Duration::ZERO;
            }
            if part.skip > 0 {
                let drop = part.skip.min(bytes.len() as u64);
                part.skip -= drop;
                bytes = bytes.split_off(usize::try_from(drop).unwrap_or(bytes.len()));
            }
            if bytes.is_empty() {
                continue;
            }
            if bytes.len() as u64 > part.end - self.pos {
                return Err(Stop::Error(self.too_long()));
            }
            if self.pos + bytes.len() as u64 == part.end && part.end < self.end {
                // A shorter range than was asked for: the rest is asked for next.
                self.part = None;
            }
            let left = usize::try_from(self.end - self.pos).unwrap_or(usize::MAX);
            bytes.truncate(left);
            self.pos += bytes.len() as u64;
            return Ok(Some(bytes));
        }
    }

    /// After the last byte: nothing may follow.
    pub(super) async fn finish(&mut self) -> Result<(), Stop> {
        let Some(mut part) = self.part.take() else {
            return Ok(());
        };
        if part.framed || part.end != self.end {
            return Ok(());
        }
        let stall = self.source.core.http.config.stall_timeout;
        match tokio::time::timeout(stall, part.response.chunk()).await {
            Ok(Ok(Some(bytes))) if !bytes.is_empty() => Err(Stop::Error(self.too_long())),
            _ => Ok(()),
        }
    }

    pub(super) fn too_long(&self) -> Error {
        let (host, what, size) = (&self.host, &self.source.what, self.source.size);
        let m = format!("{host}: {what}: more than its {size} bytes");
        Error::new(Kind::Integrity, m)
            .with_hint("the registry's copy is damaged, or somebody changes it on its way")
    }

    /// Pauses after a failure, or gives up.
    pub(super) async fn broken(&mut self, why: String) -> Result<(), Stop> {
        self.part = None;
        let gained = self.pos - self.struck_at;
        self.struck_at = self.pos;
        if gained >= PROGRESS {
            self.strikes = 0;
        }
        self.idle = if gained > 0 { 0 } else { self.idle + 1 };
        self.strikes += 1;
        let http = &self.source.core.http;
        tracing::debug!(blob = %self.source.digest, at = self.pos, why, "going on");
        if self.idle >= TRIES_IDLE || self.strikes >= http.config.max_tries {
            if !self.piece && self.source.next_endpoint() {
                (self.idle, self.strikes) = (0, 0);
                return Ok(());
            }
            let (host, what, at) = (&self.host, &self.source.what, self.pos);
            let m = format!(
                "{host}: {what}: at byte {at} of {}: {why}",
                self.source.size
            );
            return Err(Stop::Error(
                Error::new(Kind::Network, m).with_hint("check the network, and try again"),
            ));
        }
        if self.strikes > 1 {
            tokio::time::sleep(http.backoff.pause(self.strikes - 1)).await;
        }
        Ok(())
    }
}
