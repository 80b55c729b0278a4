//! One request and its answer: connections, proxies, redirects, time limits, and what an error
//! may say.
//!
//! Knows nothing of tokens: `Authorization` is given to it, and taken away from a request that
//! leaves for another host.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, HeaderName, LOCATION},
};
use reqwest::{Body, Client, NoProxy, Proxy, Response, Url};

use super::{
    address::{Class, Classes, Resolver},
    config::RegistryConfig,
    faults::{causes, failure, refusal_of, stalled},
    hosts::{self, Scheme, authority, is_listed, is_loopback},
    payload::Payload,
    retry::{Again, Backoff, Failure, is_transient, retry_after},
    secret::{redact, redact_text},
    tls::{self, TlsFiles},
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Most redirects that are followed.
pub(super) const MAX_REDIRECTS: usize = 5;
/// Most of an error's body that is read, in bytes.
pub(super) const MAX_ERROR: usize = 64 << 10;

/// A request, ready to be sent as often as needed.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// Headers for this host alone, `Authorization` among them.
    pub(super) private: HeaderMap,
    pub(super) body: Payload,
    pub(super) tls: TlsFiles,
    /// Where the host that named this URL lies; none if the user named it.
    pub(super) named_by: Option<Class>,
}

impl Ask {
    pub(super) fn new(method: Method, url: Url, tls: TlsFiles) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            private: HeaderMap::new(),
            body: Payload::Empty,
            tls,
            named_by: None,
        }
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// An answer's head, with the body to come.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    /// Whether it came from another host than was asked.
    pub(super) elsewhere: bool,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The host that answered.
    pub(super) fn host(&self) -> String {
        show(&authority(self.response.url()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    tls: Option<TlsFiles>,
    named_by: Option<Class>,
}

/// What is known of a host.
#[derive(Debug, Default)]
struct HostState {
    /// Nobody asks before.
    not_before: Option<Instant>,
    /// The scheme that it answered to.
    scheme: Option<Scheme>,
    /// A mirror that failed is asked last until then.
    down_until: Option<Instant>,
}

/// Connections to all hosts, and what is known of them.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) config: RegistryConfig,
    pub(super) backoff: Backoff,
    clients: Mutex<HashMap<ClientKey, Client>>,
    hosts: Mutex<HashMap<String, HostState>>,
    pub(super) classes: Classes,
}

impl Http {
    pub(super) fn new(config: RegistryConfig) -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|e| Error::host("get random bytes", io::Error::other(e)))?;
        let seed = config.seed.unwrap_or(u64::from_ne_bytes(random));
        Ok(Self {
            backoff: Backoff::new(seed, config.backoff, config.max_backoff),
            clients: Mutex::default(),
            hosts: Mutex::default(),
            classes: Classes::default(),
            config,
        })
    }

    fn host<T>(&self, host: &str, with: impl FnOnce(&mut HostState) -> T) -> T {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = hosts.get_mut(host) {
            return with(state);
        }
        with(hosts.entry(host.to_owned()).or_default())
    }

    /// Waits while the host has asked everybody to wait.
    pub(super) async fn wait_turn(&self, host: &str) {
        while let Some(at) = self.host(host, |h| h.not_before) {
            let now = Instant::now();
            if at <= now {
                break;
            }
            tokio::time::sleep(at - now).await;
        }
    }

    pub(super) fn pause_host(&self, host: &str, pause: Duration) {
        let at = Instant::now() + pause;
        self.host(host, |h| h.not_before = h.not_before.max(Some(at)));
    }

    pub(super) fn scheme(&self, host: &str) -> Option<Scheme> {
        self.host(host, |h| h.scheme)
    }

    pub(super) fn set_scheme(&self, host: &str, scheme: Scheme) {
        self.host(host, |h| h.scheme = Some(scheme));
    }

    pub(super) fn mark_down(&self, host: &str) {
        let until = Instant::now() + self.config.stall_timeout;
        self.host(host, |h| h.down_until = Some(until));
    }

    pub(super) fn is_down(&self, host: &str) -> bool {
        self.host(host, |h| h.down_until.is_some_and(|t| t > Instant::now()))
    }

    fn client(&self, key: ClientKey) -> Result<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let tls = match &key.tls {
            Some(files) => tls::config(files, self.config.system_roots)?,
            None => tls::nobody()?,
        };
        // HTTP/1.1 alone: a connection a stream, so that layers and ranges do not share one
        // window and one loss does not stop them all.
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .connect_timeout(self.config.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(&*self.config.user_agent)
            .dns_resolver(Arc::new(Resolver {
                named_by: key.named_by,
                classes: self.classes.clone(),
            }));
        let proxies = &self.config.proxies;
        let around =
            NoProxy::from_string(&format!("localhost,127.0.0.0/8,::1,{}", proxies.no_proxy));
        let bad = |_| {
            let m = "the address of the proxy is not a URL";
            Error::new(Kind::BadInput, m).with_hint("correct HTTP_PROXY and HTTPS_PROXY")
        };
        if let Some(url) = &proxies.http {
            builder = builder.proxy(Proxy::http(url).map_err(bad)?.no_proxy(around.clone()));
        }
        if let Some(url) = &proxies.https {
            builder = builder.proxy(Proxy::https(url).map_err(bad)?.no_proxy(around));
        }
        let client = builder.build().map_err(|e| {
            Error::new(
                Kind::Bug,
                format!("the HTTP client cannot be set up: {}", causes(&e)),
            )
        })?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Sends once, and waits for the answer's head.
    async fn exchange(&self, ask: &Ask) -> Result<Response, Failure> {
        let key = ClientKey {
            tls: (ask.url.scheme() == "https").then(|| ask.tls.clone()),
            named_by: ask.named_by,
        };
        let client = self.client(key).map_err(Failure::never)?;
        let moved = Arc::new(AtomicU64::new(0));
        let mut request = client
            .request(ask.method.clone(), ask.url.clone())
            .headers(ask.headers.clone())
            .header(ACCEPT_ENCODING, "identity");
        for (name, value) in &ask.private {
            request = request.header(name, value);
        }
        request = match &ask.body {
            Payload::Empty if matches!(ask.method, Method::GET | Method::HEAD) => request,
            Payload::Empty => request.header(CONTENT_LENGTH, 0),
            Payload::Bytes(bytes) => request.body(bytes.clone()),
            Payload::File(part) => request
                .header(CONTENT_LENGTH, part.len)
                .body(Body::wrap_stream(part.stream(moved.clone()))),
        };
        let answer = request.send();
        tokio::pin!(answer);
        let (stall, mut before) = (self.config.stall_timeout, 0);
        loop {
            match tokio::time::timeout(stall, &mut answer).await {
                Ok(answer) => return answer.map_err(|e| failure(&ask.url, &e)),
                Err(_) => {
                    let now = moved.load(Ordering::Relaxed);
                    if now == before {
                        return Err(Failure::later(stalled(&authority(&ask.url), stall)));
                    }
                    before = now;
                }
            }
        }
    }

    /// Sends, and follows redirects as far as they may lead.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Answer, Failure> {
        let mut now = ask.clone();
        let origin = ask.url.origin();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.exchange(&now).await?;
            warnings(&response);
            let status = response.status();
            let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            if !is_redirect {
                let elsewhere = now.url.origin() != origin;
                return Ok(Answer {
                    response,
                    elsewhere,
                });
            }
            let from = authority(&now.url);
            let refuse =
                |why: String| {
                    let m = format!("{from}: redirect {why}");
                    Failure::never(Error::new(Kind::Denied, m).with_hint(
                        "the registry is set up wrongly, or somebody else answers for it",
                    ))
                };
            let reads = matches!(now.method, Method::GET | Method::HEAD);
            if !reads && !matches!(status.as_u16(), 307 | 308) {
                return Err(refuse(format!("of a {} with status {status}", now.method)));
            }
            let target = response
                .headers()
                .get(LOCATION)
                .and_then(|l| l.to_str().ok());
            let target = target.and_then(|l| now.url.join(l).ok());
            let Some(mut target) = target else {
                return Err(refuse("without a target".to_owned()));
            };
            target.set_fragment(None);
            self.may_go(&now.url, &target, &ask.url).map_err(&refuse)?;
            if !reads && target.origin() != now.url.origin() {
                // What is sent may be a password.
                return Err(refuse(format!("of a {} to another host", now.method)));
            }
            tracing::debug!(from, to = redact(&target), "redirect");
            if target.origin() != now.url.origin() {
                now.private = HeaderMap::new();
                now.headers.remove(AUTHORIZATION);
                now.tls = self.tls_of(&target);
                let class = self.classes.get(hosts::bare_host(&authority(&ask.url)));
                now.named_by = (!self.is_trusted(&target)).then_some(class);
            }
            now.url = target;
        }
        let host = authority(&ask.url);
        let m = format!("{host}: more than {MAX_REDIRECTS} redirects");
        Err(Failure::never(Error::new(Kind::Denied, m).with_hint(
            "the registry redirects in a circle; tell whoever runs it",
        )))
    }

    /// Whether `from` may send us to `target`, as part of a request to `first`.
    pub(super) fn may_go(&self, from: &Url, target: &Url, first: &Url) -> Result<(), String> {
        let shown = redact(target);
        match (from.scheme(), target.scheme()) {
            (_, "https") => {}
            ("https", "http") => return Err(format!("from https to {shown} refused")),
            ("http", "http") => {
                let host = authority(target);
                let same = target.host_str() == first.host_str();
                let loopback = is_loopback(&host) && is_loopback(&authority(first));
                if !(same || loopback || is_listed(&self.config.insecure, &host)) {
                    return Err(format!("to plain HTTP at {shown} refused"));
                }
            }
            (_, scheme) => return Err(format!("to `{}` refused", show(scheme))),
        }
        if !target.username().is_empty() || target.password().is_some() {
            return Err(format!("with credentials to {shown} refused"));
        }
        let by = self.classes.get(hosts::bare_host(&authority(first)));
        let class = Class::of_literal(hosts::bare_host(&authority(target)));
        match class {
            Some(class)
                if target.host_str() != first.host_str()
                    && !by.may_name(class)
                    && !self.is_trusted(target) =>
            {
                Err(format!("to {} ({shown}) refused", class.words()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn is_trusted(&self, url: &Url) -> bool {
        is_listed(&self.config.trusted_hosts, &authority(url))
    }

    /// What is set up for a host that was not named by the user.
    pub(super) fn tls_of(&self, url: &Url) -> TlsFiles {
        let host = authority(url);
        let mut files = TlsFiles {
            skip_verify: is_listed(&self.config.insecure, &host),
            ..TlsFiles::default()
        };
        files.add_docker_dirs(&self.config.cert_dirs, &host);
        files
    }

    /// Makes of an answer what it says about trying again, unless it is one that the caller
    /// handles.
    pub(super) async fn transient(&self, answer: Answer, what: &str) -> Result<Answer, Failure> {
        let status = answer.status();
        if !is_transient(status) {
            return Ok(answer);
        }
        let asked = retry_after(answer.response.headers(), SystemTime::now());
        let error = self.refusal(answer, what).await;
        let again = match asked {
            Some(pause) if pause > self.config.max_backoff => {
                let seconds = pause.as_secs();
                let long = match seconds {
                    0..7200 => format!("{} minutes", seconds.div_ceil(60)),
                    7200..259_200 => format!("{} hours", seconds.div_ceil(3600)),
                    _ => "days".to_owned(),
                };
                let hint = format!("it asks to wait for {long}; log in to be allowed more");
                return Err(Failure::never(error.with_hint(hint)));
            }
            Some(pause) => Again::After(pause),
            None => Again::Later,
        };
        Err(Failure::new(error, again))
    }

    /// The error of an answer that is not what was wanted.
    pub(super) async fn refusal(&self, answer: Answer, what: &str) -> Error {
        let (status, host) = (answer.status(), answer.host());
        let body = self.body(answer, MAX_ERROR, what).await;
        refusal_of(status, &host, what, &body.unwrap_or_default())
    }

    /// Reads a small body whole.
    pub(super) async fn body(
        &self,
        answer: Answer,
        cap: usize,
        what: &str,
    ) -> Result<Bytes, Failure> {
        let host = answer.host();
        let mut response = answer.response;
        let too_long = || {
            let m = format!("{host}: {what}: answer of more than {cap} bytes");
            Failure::never(
                Error::new(Kind::Limit, m)
                    .with_hint("no honest registry sends that much here: it is damaged or hostile"),
            )
        };
        let length = response.content_length().unwrap_or(0);
        if length > cap as u64 {
            return Err(too_long());
        }
        let deadline = Instant::now() + self.config.stall_timeout;
        let mut parts = BytesMut::new();
        let mut first = Bytes::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let chunk = match tokio::time::timeout(left, response.chunk()).await {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(e)) => {
                    let m = format!("{host}: {what}: answer broken off: {}", causes(&e));
                    return Err(Failure::later(
                        Error::new(Kind::Network, m).with_hint("try again"),
                    ));
                }
                Err(_) => {
                    return Err(Failure::later(stalled(&host, self.config.stall_timeout)));
                }
            };
            let Some(chunk) = chunk else {
                break;
            };
            if first.is_empty() && parts.is_empty() {
                first = chunk;
            } else {
                if parts.is_empty() {
                    parts.extend_from_slice(&first);
                }
                parts.extend_from_slice(&chunk);
            }
            if parts.len().max(first.len()) > cap {
                return Err(too_long());
            }
        }
        Ok(if parts.is_empty() {
            first
        } else {
            parts.freeze()
        })
    }
}

/// Shows what a registry wants its users to know.
fn warnings(response: &Response) {
    for value in response.headers().get_all("warning").iter().take(4) {
        let text = value.to_str().unwrap_or_default();
        if let Some(text) = text.strip_prefix("299 - ") {
            let (host, text) = (authority(response.url()), redact_text(text));
            tracing::warn!(host, "the registry says: {text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(config: RegistryConfig) -> Http {
        Http::new(config).unwrap()
    }

    #[test]
    fn where_redirects_may_lead() {
        let mut config = RegistryConfig::isolated();
        config.insecure = vec!["plain.example".into()];
        config.trusted_hosts = vec!["10.0.0.9".into()];
        let http = http(config);
        for (first, target, ok) in [
            ("https://r.example/", "https://cdn.example/x?sig=1", true),
            ("https://r.example/", "http://cdn.example/", false),
            ("https://r.example/", "file:///etc/passwd", false),
            ("https://r.example/", "ftp://r.example/", false),
            ("https://r.example/", "https://169.254.169.254/", false),
            ("https://r.example/", "https://[fe80::1]/", false),
            ("https://r.example/", "https://127.0.0.1/", false),
            ("https://r.example/", "https://localhost/", false),
            ("https://r.example/", "https://10.0.0.1/", false),
            ("https://r.example/", "https://10.0.0.9/", true),
            ("https://r.example/", "https://a:b@r.example/", false),
            ("https://10.0.0.1/", "https://10.0.0.2/", true),
            ("https://10.0.0.1/", "https://127.0.0.1/", false),
            ("http://127.0.0.1:5/", "http://localhost:6/", true),
            ("http://127.0.0.1:5/", "http://r.example/", false),
            ("http://127.0.0.1:5/", "http://plain.example/", true),
            ("http://127.0.0.1:5/", "http://169.254.169.254/", false),
            ("http://127.0.0.1:5/", "https://169.254.169.254/", false),
            ("http://10.0.0.1/", "http://10.0.0.1:99/", true),
            ("http://10.0.0.1/", "http://10.0.0.2/", false),
        ] {
            let (f, t) = (Url::parse(first).unwrap(), Url::parse(target).unwrap());
            let got = http.may_go(&f, &t, &f);
            assert_eq!(got.is_ok(), ok, "{first} -> {target}: {got:?}");
            if let Err(why) = got {
                assert!(!why.contains("sig=") && !why.contains("a:b"), "{why}");
            }
        }
    }
}
