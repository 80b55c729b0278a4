//! Uploads: blobs first, the manifest last.

use std::{fmt, fs::File, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method,
    header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE},
};
use reqwest::Url;
use unlade_unpack::{Algorithm, Cancel, Digest};

use super::{
    Client,
    auth::scope,
    call::{Core, Request, Target, Tries},
    damaged,
    hosts::{Endpoint, Purpose},
    http::Answer,
    named,
    payload::{FilePart, Payload, Told},
    ranges::upload_range,
    retry::Failure,
};
use crate::{
    error::{Error, Kind, Result},
    image::Reference,
};

/// Largest smallest chunk that a registry may ask for, in bytes.
const MAX_MIN_CHUNK: u64 = 1 << 30;
/// How often it is looked whether the caller has cancelled.
const CANCEL_EVERY: Duration = Duration::from_millis(50);

/// A blob to upload.
#[derive(Debug, Clone)]
pub enum BodySource {
    /// In memory.
    Bytes(Bytes),
    /// In a file, from its start.
    File(Arc<File>),
}

/// What an upload took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// The registry had it.
    Existed,
    /// It was sent.
    Sent,
}

impl BodySource {
    fn part(&self, offset: u64, len: u64, told: &Told) -> Payload {
        match self {
            Self::Bytes(bytes) => {
                let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
                Payload::Bytes(bytes.slice(at(offset)..at(offset + len)))
            }
            Self::File(file) => Payload::File(FilePart {
                file: file.clone(),
                offset,
                len,
                told: told.clone(),
            }),
        }
    }
}

/// An upload that is under way there; taken back if it is not finished.
struct Session<'a> {
    core: &'a Arc<Core>,
    endpoint: &'a Endpoint,
    scopes: Vec<String>,
    what: &'a str,
    location: Option<Url>,
    min_chunk: u64,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.what)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let Some(url) = self.location.take() else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (core, endpoint) = (self.core.clone(), self.endpoint.clone());
        let mut request = Request::new(Method::DELETE, "", "taking an upload back");
        request.target = Target::Url(url);
        request.scopes = self.scopes.clone();
        request.single = true;
        runtime.spawn(async move {
            let gone = tokio::time::timeout(Duration::from_secs(5), core.call(&endpoint, &request));
            if !matches!(gone.await, Ok(Ok(_))) {
                tracing::debug!(host = endpoint.host, "an upload was not taken back");
            }
        });
    }
}

impl Client {
    fn push_endpoint(&self, reference: &Reference) -> Result<Endpoint> {
        let mut all = self.endpoints(reference, Purpose::Push)?;
        if all.is_empty() {
            return Err(Error::new(Kind::Bug, "a registry without hosts"));
        }
        Ok(all.swap_remove(0))
    }

    /// Makes the registry take blob `digest` over from its repository `from`. Returns whether it
    /// did; if not, the blob has to be uploaded.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn mount(
        &self,
        reference: &Reference,
        digest: &Digest,
        from: &Reference,
    ) -> Result<bool> {
        if from.domain() != reference.domain() || from.path() == reference.path() {
            return Ok(false);
        }
        let endpoint = self.push_endpoint(reference)?;
        let source = self.push_endpoint(from)?;
        if source.host != endpoint.host {
            return Ok(false);
        }
        let from = &source.repository;
        let what = format!("mount of blob {digest} into {}", reference.repository());
        let path = format!("blobs/uploads/?mount={digest}&from={from}");
        let mut request = Request::new(Method::POST, path, &*what);
        request.scopes = vec![
            scope(&endpoint.repository, "pull,push"),
            scope(from, "pull"),
        ];
        let answer = match self.core.call(&endpoint, &request).await {
            Ok(answer) => answer,
            Err(e) if e.error.kind() == Kind::Denied => return Ok(false),
            Err(e) => return Err(e.error),
        };
        match answer.status().as_u16() {
            201 => Ok(true),
            202 => {
                // It began an upload instead, which nobody will finish.
                drop(Session {
                    core: &self.core,
                    endpoint: &endpoint,
                    scopes: request.scopes.clone(),
                    what: &what,
                    location: location(&answer),
                    min_chunk: 0,
                });
                Ok(false)
            }
            401 | 403 | 404 | 405 => Ok(false),
            _ => Err(self.core.refusal(answer, &what).await),
        }
    }

    /// Uploads blob `digest` of `size` bytes, unless the registry has it. `progress` is told how
    /// many bytes are through.
    ///
    /// # Errors
    /// As [`Client::resolve`]; [`Kind::Cancelled`].
    pub async fn upload(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        source: BodySource,
        cancel: &Cancel,
        progress: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Uploaded> {
        if self.exists(reference, digest).await?.is_some() {
            return Ok(Uploaded::Existed);
        }
        let endpoint = self.push_endpoint(reference)?;
        let what = format!("upload of blob {digest} to {}", reference.repository());
        let upload = Upload {
            client: self,
            endpoint: &endpoint,
            scopes: vec![scope(&endpoint.repository, "pull,push")],
            what: &what,
            digest,
            size,
            source: &source,
            told: &progress,
        };
        tokio::select! {
            done = upload.run() => done.map(|()| Uploaded::Sent),
            () = cancelled(cancel) => {
                Err(Error::new(Kind::Cancelled, format!("{what}: cancelled")))
            }
        }
    }

    /// Puts a manifest, under `tag` or under its digest, which is returned. All that it names
    /// must be there already.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        bytes: Bytes,
        media_type: &str,
        tag: Option<&str>,
    ) -> Result<Digest> {
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let endpoint = self.push_endpoint(reference)?;
        let name = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let what = format!("manifest of {}", named(reference, &name));
        let mut request = Request::new(Method::PUT, format!("manifests/{name}"), &*what);
        let value = HeaderValue::from_str(media_type).map_err(|_| {
            let m = "the manifest's media type cannot be sent";
            Error::new(Kind::BadInput, m).with_hint("correct its `mediaType`")
        })?;
        request.headers.insert(CONTENT_TYPE, value);
        request.body = Payload::Bytes(bytes);
        request.scopes = vec![scope(&endpoint.repository, "pull,push")];
        let answer = self.core.call(&endpoint, &request).await?;
        if !answer.status().is_success() {
            return Err(self.core.refusal(answer, &what).await);
        }
        let said = answer.header("docker-content-digest");
        let said = said.and_then(|d| d.parse::<Digest>().ok());
        match said {
            Some(said) if said.algorithm() == digest.algorithm() && said != digest => {
                let host = answer.host();
                Err(damaged(format!(
                    "{host}: {what}: kept as {said}, not {digest}"
                )))
            }
            _ => Ok(digest),
        }
    }
}

async fn cancelled(cancel: &Cancel) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(CANCEL_EVERY).await;
    }
}

fn location(answer: &Answer) -> Option<Url> {
    let text = answer.header(LOCATION)?;
    answer.response.url().join(text).ok()
}

struct Upload<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    scopes: Vec<String>,
    what: &'a str,
    digest: &'a Digest,
    size: u64,
    source: &'a BodySource,
    told: &'a Told,
}

/// What became of one session.
enum Ended {
    Done,
    /// It is lost, or was spoilt: another may do better.
    Lost(Failure),
    /// The registry does not take chunks.
    NoChunks,
}

impl Upload<'_> {
    async fn run(&self) -> Result<()> {
        let http = &self.client.core.http;
        let mut chunked = self.size > http.config.upload_chunk_bytes;
        let mut tries = Tries::new(http, &self.endpoint.host, http.config.max_tries);
        loop {
            let mut session = self.start().await?;
            let ended = if chunked {
                self.chunks(&mut session).await?
            } else {
                let whole = self.source.part(0, self.size, self.told);
                self.put(&mut session, whole).await?
            };
            match ended {
                Ended::Done => {
                    (self.told)(self.size);
                    return Ok(());
                }
                Ended::NoChunks => chunked = false,
                Ended::Lost(failure) => {
                    drop(session);
                    tries.again(failure).await?;
                }
            }
        }
    }

    fn request(&self, method: Method, url: Option<&Url>) -> Result<Request> {
        let mut request = Request::new(method, "blobs/uploads/", self.what);
        if let Some(url) = url {
            let base = self
                .client
                .core
                .http
                .scheme(&self.endpoint.host)
                .and_then(|s| self.endpoint.url(s, "").ok());
            if let Some(base) = base {
                let may = self.client.core.http.may_go(&base, url, &base);
                may.map_err(|why| {
                    let m = format!("{}: {}: {why}", self.endpoint.host, self.what);
                    Error::new(Kind::Denied, m)
                        .with_hint("the registry sends uploads where they must not go")
                })?;
            }
            request.target = Target::Url(url.clone());
        }
        request.scopes = self.scopes.clone();
        Ok(request)
    }

    async fn start(&self) -> Result<Session<'_>> {
        let core = &self.client.core;
        let request = self.request(Method::POST, None)?;
        let answer = core.call(self.endpoint, &request).await?;
        if answer.status().as_u16() != 202 {
            return Err(core.refusal(answer, self.what).await);
        }
        let Some(location) = location(&answer) else {
            let m = format!("{}: {}: no place to upload to", answer.host(), self.what);
            return Err(Error::new(Kind::BadInput, m)
                .with_hint("the registry is set up wrongly; tell whoever runs it"));
        };
        let min = answer.header("oci-chunk-min-length");
        let min = min.and_then(|l| l.trim().parse().ok()).unwrap_or(0);
        Ok(Session {
            core,
            endpoint: self.endpoint,
            scopes: self.scopes.clone(),
            what: self.what,
            location: Some(location),
            min_chunk: u64::min(min, MAX_MIN_CHUNK),
        })
    }

    /// Sends `body`, and closes the upload with it.
    async fn put(&self, session: &mut Session<'_>, body: Payload) -> Result<Ended> {
        let Some(mut url) = session.location.clone() else {
            return Err(Error::new(Kind::Bug, "an upload without a place"));
        };
        let digest = self.digest.to_string();
        url.query_pairs_mut().append_pair("digest", &digest);
        let mut request = self.request(Method::PUT, Some(&url))?;
        request.headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        request.body = body;
        request.single = true;
        match self.client.core.call(self.endpoint, &request).await {
            Ok(answer) if matches!(answer.status().as_u16(), 200 | 201 | 204) => {
                session.location = None;
                Ok(Ended::Done)
            }
            Ok(answer) if answer.status().as_u16() == 404 => {
                session.location = None;
                let e = self.client.core.refusal(answer, self.what).await;
                Ok(Ended::Lost(Failure::later(e)))
            }
            Ok(answer) => Err(self.client.core.refusal(answer, self.what).await),
            Err(failure) => {
                // It may have got through before the answer was lost.
                Ok(Ended::Lost(failure))
            }
        }
    }

    async fn chunks(&self, session: &mut Session<'_>) -> Result<Ended> {
        let http = &self.client.core.http;
        let chunk = http.config.upload_chunk_bytes.max(session.min_chunk).max(1);
        let mut tries = Tries::new(http, &self.endpoint.host, http.config.max_tries);
        let mut at = 0;
        while at < self.size {
            let len = chunk.min(self.size - at);
            let mut request = self.request(Method::PATCH, session.location.as_ref())?;
            request.headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            );
            let range = format!("{at}-{}", at + len - 1);
            if let Ok(value) = HeaderValue::from_str(&range) {
                request.headers.insert(CONTENT_RANGE, value);
            }
            request.body = self.source.part(at, len, self.told);
            request.single = true;
            let failure = match self.client.core.call(self.endpoint, &request).await {
                Ok(answer) if matches!(answer.status().as_u16(), 202 | 204) => {
                    session.location = location(&answer).or(session.location.take());
                    let has = answer.header(RANGE).and_then(upload_range);
                    // More than was sent would be somebody else's.
                    let has = has.filter(|n| *n > at && *n <= at + len);
                    at = has.unwrap_or(at + len);
                    (self.told)(at);
                    tries = Tries::new(http, &self.endpoint.host, http.config.max_tries);
                    continue;
                }
                Ok(answer)
                    if at == 0 && matches!(answer.status().as_u16(), 400 | 404 | 405 | 501) =>
                {
                    return Ok(Ended::NoChunks);
                }
                Ok(answer) => {
                    let retry = answer.status().as_u16() == 416;
                    let e = self.client.core.refusal(answer, self.what).await;
                    if !retry {
                        return Err(e);
                    }
                    Failure::later(e)
                }
                Err(failure) => failure,
            };
            tries.again(failure).await?;
            match self.status(session).await? {
                Some(has) if has <= self.size => at = has,
                _ => {
                    session.location = None;
                    let m = format!("{}: the upload was lost", self.what);
                    let e = Error::new(Kind::Network, m).with_hint("try again");
                    return Ok(Ended::Lost(Failure::later(e)));
                }
            }
        }
        self.put(session, Payload::Empty).await
    }

    /// How much of the upload is there; none if it is lost.
    async fn status(&self, session: &mut Session<'_>) -> Result<Option<u64>> {
        let request = self.request(Method::GET, session.location.as_ref())?;
        let answer = self.client.core.call(self.endpoint, &request).await?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        session.location = location(&answer).or(session.location.take());
        let name = HeaderName::from_static("range");
        Ok(answer.header(name).and_then(upload_range))
    }
}
