//! Where a blob can be had, and whether an answer is what was asked for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Method,
    header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE},
};
use reqwest::{Response, Url};
use unlade_unpack::Digest;

use super::super::{
    auth::scope,
    call::{Core, Request, Target, Tries, of_all},
    hosts::{Endpoint, authority, bare_host},
    http::{Answer, Ask},
    ranges::content_range,
    retry::Failure,
    secret::redact,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Why a reader gave up.
pub(super) enum Stop {
    Error(Error),
    /// A part was wanted and the whole is all there is.
    NoRanges,
}

impl Stop {
    pub(super) fn error(self) -> Error {
        match self {
            Self::Error(e) => e,
            Self::NoRanges => Error::new(Kind::Bug, "a part of a blob was read whole"),
        }
    }
}

/// Where a blob can be had.
pub(super) struct Source {
    pub(super) core: Arc<Core>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) foreign: Vec<String>,
    pub(super) what: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Which endpoint is asked first; those before it have failed.
    pub(super) at: usize,
    /// Of the blob there, if it has a strong one.
    pub(super) etag: Option<String>,
    /// Ranges are ignored or answered wrongly there.
    pub(super) no_ranges: bool,
    /// Where the endpoint sent us to.
    pub(super) location: Option<Url>,
}

/// An answer with a part of the blob.
pub(super) struct Part {
    pub(super) response: Response,
    pub(super) host: String,
    /// What is still to be dropped before the bytes that are wanted.
    pub(super) skip: u64,
    /// Up to where this answer goes.
    pub(super) end: u64,
    /// Whether the length is known, so that the end is the end.
    pub(super) framed: bool,
    pub(super) window_waited: Duration,
    pub(super) window_bytes: u64,
}

impl Source {
    pub(super) fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives up on the endpoint that is asked, if there is another.
    pub(super) fn next_endpoint(&self) -> bool {
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

    pub(super) async fn open(&self, start: u64, end: u64, piece: bool) -> Result<Part, Stop> {
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

    pub(super) fn headers(&self, start: u64, end: u64) -> HeaderMap {
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

    pub(super) async fn open_at(
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

    pub(super) async fn open_foreign(
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
        let class = http.classes.get(bare_host(&authority(&base)));
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
    pub(super) fn check(
        &self,
        answer: Answer,
        start: u64,
        end: u64,
        piece: bool,
    ) -> Result<Part, Stop> {
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
                            show(said)
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
