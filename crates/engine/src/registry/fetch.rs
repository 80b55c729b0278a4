//! A blob's bytes, in order, from wherever they can be had.
//!
//! A body that breaks off goes on at the byte where it broke, by `Range`; a server that ignores
//! the range is read again from the start, and what is known already is dropped. Bytes of two
//! answers are joined only if the second says that it starts where the first ended.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE},
};
use reqwest::{Response, Url};
use tokio::{sync::mpsc, task::JoinHandle};
use unlade_unpack::Digest;

use super::{
    Client,
    auth::scope,
    call::{Core, Request, Target, Tries, of_all},
    hosts::{Endpoint, Purpose, authority},
    http::{Answer, Ask, causes, stalled},
    ranges::content_range,
    retry::Failure,
    secret::redact,
};
use crate::{
    error::{Error, Kind, Result},
    image::Reference,
};

/// So much progress makes earlier failures forgotten, in bytes.
const PROGRESS: u64 = 256 << 10;
/// How often in a row a body may break off without a byte.
const TRIES_IDLE: u32 = 3;

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

/// Why a reader gave up.
enum Stop {
    Error(Error),
    /// A part was wanted and the whole is all there is.
    NoRanges,
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
            state: Mutex::default(),
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

impl Stop {
    fn error(self) -> Error {
        match self {
            Self::Error(e) => e,
            Self::NoRanges => Error::new(Kind::Bug, "a part of a blob was read whole"),
        }
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

/// Where a blob can be had.
struct Source {
    core: Arc<Core>,
    endpoints: Vec<Endpoint>,
    foreign: Vec<String>,
    what: String,
    digest: Digest,
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Which endpoint is asked first; those before it have failed.
    at: usize,
    /// Of the blob there, if it has a strong one.
    etag: Option<String>,
    /// Ranges are ignored or answered wrongly there.
    no_ranges: bool,
    /// Where the endpoint sent us to.
    location: Option<Url>,
}

/// An answer with a part of the blob.
struct Part {
    response: Response,
    host: String,
    /// What is still to be dropped before the bytes that are wanted.
    skip: u64,
    /// Up to where this answer goes.
    end: u64,
    /// Whether the length is known, so that the end is the end.
    framed: bool,
    window_waited: Duration,
    window_bytes: u64,
}

impl Source {
    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives up on the endpoint that is asked, if there is another.
    fn next_endpoint(&self) -> bool {
        let most = self.endpoints.len();
        self.state(|s| {
            let more = s.at + 1 < most;
            if more {
                *s = State {
                    at: s.at + 1,
                    ..State::default()
                };
            }
            more
        })
    }

    async fn open(&self, start: u64, end: u64, piece: bool) -> Result<Part, Stop> {
        let mut errors = Vec::new();
        let first = self.state(|s| s.at);
        for (at, endpoint) in self.endpoints.iter().enumerate().skip(first) {
            match self.open_at(endpoint, start, end, piece).await {
                Ok(part) => return Ok(part),
                Err(Stop::NoRanges) => return Err(Stop::NoRanges),
                Err(Stop::Error(e)) => errors.push(e),
            }
            if at + 1 < self.endpoints.len() {
                self.state(|s| {
                    if s.at == at {
                        *s = State {
                            at: at + 1,
                            ..State::default()
                        };
                    }
                });
            }
        }
        let missing = errors.iter().all(|e| e.kind() == Kind::NotFound);
        if missing && !self.foreign.is_empty() {
            if !self.core.http.config.foreign_layers {
                return Err(Stop::Error(of_all(errors).with_hint(
                    "the image says that it is elsewhere; allow that with `foreign-layers`",
                )));
            }
            for url in &self.foreign {
                match self.open_foreign(url, start, end, piece).await {
                    Ok(part) => return Ok(part),
                    Err(Stop::NoRanges) => return Err(Stop::NoRanges),
                    Err(Stop::Error(e)) => errors.push(e),
                }
            }
        }
        Err(Stop::Error(of_all(errors)))
    }

    fn headers(&self, start: u64, end: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let (no_ranges, etag) = self.state(|s| (s.no_ranges, s.etag.clone()));
        if (start, end) == (0, self.size) || no_ranges {
            return headers;
        }
        let range = format!("bytes={start}-{}", end - 1);
        if let Ok(value) = HeaderValue::from_str(&range) {
            headers.insert(RANGE, value);
        }
        if let Some(value) = etag.and_then(|e| HeaderValue::from_str(&e).ok()) {
            headers.insert(IF_RANGE, value);
        }
        headers
    }

    async fn open_at(
        &self,
        endpoint: &Endpoint,
        start: u64,
        end: u64,
        piece: bool,
    ) -> Result<Part, Stop> {
        let mut request = Request::new(Method::GET, format!("blobs/{}", self.digest), &*self.what);
        request.scopes = vec![scope(&endpoint.repository, "pull")];
        request.headers = self.headers(start, end);
        // Parts go straight to where the registry sent the first; when that is over, it is
        // asked again.
        if let Some(url) = self.state(|s| s.location.clone()).filter(|_| piece) {
            let mut direct = request.clone();
            direct.target = Target::Url(url);
            direct.single = true;
            match self.core.call(endpoint, &direct).await {
                Ok(answer) if answer.status().is_success() => {
                    return self.check(answer, start, end, piece);
                }
                _ => self.state(|s| s.location = None),
            }
        }
        let failed = |e: Failure| Stop::Error(e.error);
        let mut answer = self.core.call(endpoint, &request).await.map_err(failed)?;
        if matches!(answer.status().as_u16(), 400..=499) && answer.elsewhere {
            // A signed URL may end in the moment it is given.
            answer = self.core.call(endpoint, &request).await.map_err(failed)?;
        }
        if answer.status().as_u16() == 416 && start > 0 {
            self.state(|s| s.no_ranges = true);
            if piece {
                return Err(Stop::NoRanges);
            }
            request.headers = HeaderMap::new();
            answer = self.core.call(endpoint, &request).await.map_err(failed)?;
        }
        if !answer.status().is_success() {
            return Err(Stop::Error(self.core.refusal(answer, &self.what).await));
        }
        if answer.elsewhere {
            let url = answer.response.url().clone();
            self.state(|s| s.location = Some(url));
        }
        self.check(answer, start, end, piece)
    }

    async fn open_foreign(
        &self,
        url: &str,
        start: u64,
        end: u64,
        piece: bool,
    ) -> Result<Part, Stop> {
        let http = &self.core.http;
        let parsed = Url::parse(url).ok().filter(|u| u.host_str().is_some());
        let base = self.endpoints.last().and_then(|e| {
            let scheme = http.scheme(&e.host).or(e.schemes.first().copied())?;
            e.url(scheme, "").ok()
        });
        let (Some(url), Some(base)) = (parsed, base) else {
            let m = format!("{}: a URL that it names is none", self.what);
            return Err(Stop::Error(
                Error::new(Kind::BadInput, m).with_hint("the image is damaged"),
            ));
        };
        http.may_go(&base, &url, &base).map_err(|why| {
            let m = format!("{}: layer URL: {why}", self.what);
            Stop::Error(Error::new(Kind::Denied, m).with_hint(
                "layers are fetched from public hosts over https; list others under \
                 `trusted-hosts`",
            ))
        })?;
        let mut ask = Ask::new(Method::GET, url.clone(), http.tls_of(&url));
        ask.headers = self.headers(start, end);
        let class = http.classes.get(super::hosts::bare_host(&authority(&base)));
        ask.named_by = (!http.is_trusted(&url)).then_some(class);
        let mut tries = Tries::new(http, &authority(&url), http.config.max_tries);
        loop {
            tries.wait_turn().await;
            let answer = match http.send(&ask).await {
                Ok(answer) => http.transient(answer, &self.what).await,
                Err(e) => Err(e),
            };
            match answer {
                Ok(answer) if answer.status().is_success() => {
                    tracing::debug!(url = redact(&url), "layer from a URL of the image");
                    return self.check(answer, start, end, piece);
                }
                Ok(answer) => {
                    return Err(Stop::Error(self.core.refusal(answer, &self.what).await));
                }
                Err(failure) => {
                    tries
                        .again(failure)
                        .await
                        .map_err(|e| Stop::Error(e.error))?;
                }
            }
        }
    }

    /// Holds an answer against what was asked for.
    fn check(&self, answer: Answer, start: u64, end: u64, piece: bool) -> Result<Part, Stop> {
        let host = answer.host();
        let wrong = |why: String| {
            let m = format!("{host}: {}: {why}", self.what);
            let e = Error::new(Kind::Integrity, m);
            Stop::Error(e.with_hint("the registry, or a proxy before it, does not keep the rules"))
        };
        if let Some(encoding) = answer.header(CONTENT_ENCODING)
            && !encoding.eq_ignore_ascii_case("identity")
        {
            return Err(wrong("encoded, which nobody asked for".to_owned()));
        }
        let length = answer.response.content_length();
        let etag = answer
            .header(ETAG)
            .filter(|e| e.starts_with('"'))
            .map(str::to_owned);
        let known = self.state(|s| s.etag.clone());
        if let (Some(now), Some(before)) = (&etag, &known)
            && start > 0
            && now != before
        {
            return Err(wrong("it has changed while it was fetched".to_owned()));
        }
        let (skip, part_end) = match answer.status().as_u16() {
            200 => {
                if let Some(length) = length.filter(|l| *l != self.size) {
                    return Err(wrong(format!("{length} bytes, not {}", self.size)));
                }
                if piece {
                    self.state(|s| s.no_ranges = true);
                    return Err(Stop::NoRanges);
                }
                (start, self.size)
            }
            206 => {
                let said = answer.header(CONTENT_RANGE).unwrap_or_default();
                let range = content_range(said);
                let multipart = answer
                    .header(CONTENT_TYPE)
                    .is_some_and(|t| t.to_ascii_lowercase().starts_with("multipart/"));
                let range = range.filter(|r| {
                    r.first == start
                        && r.last < end
                        && r.total.is_none_or(|t| t == self.size)
                        && length.is_none_or(|l| l == r.last - r.first + 1)
                        && !multipart
                });
                let Some(range) = range else {
                    // Not asked for parts again.
                    self.state(|s| s.no_ranges = true);
                    return Err(match piece {
                        true => Stop::NoRanges,
                        false => wrong(format!(
                            "bytes {start}-{} asked for, `{}` offered",
                            end - 1,
                            crate::image::json::show(said)
                        )),
                    });
                };
                (0, range.last + 1)
            }
            status => return Err(wrong(format!("answered with status {status}"))),
        };
        let none = answer
            .header(ACCEPT_RANGES)
            .is_some_and(|r| r.eq_ignore_ascii_case("none"));
        self.state(|s| {
            s.no_ranges |= none;
            s.etag = etag.or(known);
        });
        Ok(Part {
            response: answer.response,
            host,
            skip,
            end: part_end,
            framed: length.is_some(),
            window_waited: Duration::ZERO,
            window_bytes: 0,
        })
    }
}

/// Reads `pos..end` of a blob, whatever it takes.
struct Reader {
    source: Arc<Source>,
    pos: u64,
    end: u64,
    /// Whether nothing but the range itself will do.
    piece: bool,
    part: Option<Part>,
    host: String,
    /// Failures since there was much progress.
    strikes: u32,
    /// Failures without any.
    idle: u32,
    struck_at: u64,
    /// How long the network was waited for.
    waited: Duration,
}

impl Reader {
    fn new(source: Arc<Source>, pos: u64, end: u64, piece: bool) -> Self {
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

    async fn open(&mut self) -> Result<(), Stop> {
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

    async fn chunk(&mut self) -> Result<Option<Bytes>, Stop> {
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
    async fn finish(&mut self) -> Result<(), Stop> {
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

    fn too_long(&self) -> Error {
        let (host, what, size) = (&self.host, &self.source.what, self.source.size);
        let m = format!("{host}: {what}: more than its {size} bytes");
        Error::new(Kind::Integrity, m)
            .with_hint("the registry's copy is damaged, or somebody changes it on its way")
    }

    /// Pauses after a failure, or gives up.
    async fn broken(&mut self, why: String) -> Result<(), Stop> {
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
