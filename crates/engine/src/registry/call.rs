//! A request to one endpoint until it is answered: schemes, tokens, and trying again.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header::AUTHORIZATION};
use reqwest::Url;

use super::{
    auth::Auth,
    faults::refusal_of,
    hosts::{Endpoint, Hosts, Scheme},
    http::{Answer, Ask, Http, MAX_ERROR},
    payload::Payload,
    retry::{Again, Failure},
};
use crate::error::{Error, Kind, Result};

/// How often a token is asked for because of one request.
const TOKEN_ROUNDS: u32 = 2;
/// How often a host is tried that has never answered.
const TRIES_UNKNOWN: u32 = 3;
/// How often a mirror is tried before the next is.
const TRIES_MIRROR: u32 = 2;
/// Longest pause that a mirror is granted before the next is asked.
const MIRROR_PAUSE: Duration = Duration::from_secs(2);

/// Everything that clients of one configuration share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) http: Http,
    pub(super) auth: Auth,
    pub(super) hosts: Hosts,
}

/// What is asked of an endpoint.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) body: Payload,
    pub(super) scopes: Vec<String>,
    /// Whether it must not be sent twice, once the other end may have taken it.
    pub(super) single: bool,
    /// What it is for, in messages.
    pub(super) what: String,
}

#[derive(Debug, Clone)]
pub(super) enum Target {
    /// Below the repository: `manifests/latest`. Empty for the API itself.
    Path(String),
    /// Where the endpoint said; on its own host, or not.
    Url(Url),
}

impl Request {
    pub(super) fn new(method: Method, path: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            method,
            target: Target::Path(path.into()),
            headers: HeaderMap::new(),
            body: Payload::Empty,
            scopes: Vec::new(),
            single: false,
            what: what.into(),
        }
    }
}

/// Counts tries at one host, and pauses between them.
#[derive(Debug)]
pub(super) struct Tries<'a> {
    http: &'a Http,
    host: String,
    made: u32,
    most: u32,
}

impl<'a> Tries<'a> {
    pub(super) fn new(http: &'a Http, host: &str, most: u32) -> Self {
        Self {
            http,
            host: host.to_owned(),
            made: 0,
            most,
        }
    }

    pub(super) async fn wait_turn(&self) {
        self.http.wait_turn(&self.host).await;
    }

    /// Pauses before the next try, or gives the failure back.
    pub(super) async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        self.made += 1;
        let most = if failure.other_scheme && self.http.scheme(&self.host).is_none() {
            self.most.min(TRIES_UNKNOWN)
        } else {
            self.most
        };
        if failure.again == Again::Never {
            return Err(failure);
        }
        if self.made >= most {
            let tries = self.made;
            let error = failure.error;
            return Err(Failure::never(if tries > 1 {
                error.context(format!("after {tries} tries"))
            } else {
                error
            }));
        }
        let pause = match failure.again {
            Again::After(pause) => {
                self.http.pause_host(&self.host, pause);
                pause
            }
            _ => self.http.backoff.pause(self.made),
        };
        tracing::debug!(host = self.host, error = %failure.error, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl Core {
    /// Endpoints in the order to ask them: those that just failed go last.
    pub(super) fn in_order(&self, mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
        endpoints.sort_by_key(|e| e.is_mirror && self.http.is_down(&e.host));
        endpoints
    }

    /// Asks until there is an answer that trying again would not change.
    pub(super) async fn call(
        &self,
        endpoint: &Endpoint,
        request: &Request,
    ) -> Result<Answer, Failure> {
        let http = &self.http;
        let most = if endpoint.is_mirror {
            http.config.max_tries.min(TRIES_MIRROR)
        } else {
            http.config.max_tries
        };
        let mut tries = Tries::new(http, &endpoint.host, most);
        let (mut rounds, mut at) = (0, 0);
        loop {
            tries.wait_turn().await;
            let pinned = http.scheme(&endpoint.host);
            let pinned = pinned.filter(|s| endpoint.schemes.contains(s));
            let scheme = pinned.or_else(|| endpoint.schemes.get(at).copied());
            let Some(scheme) = scheme else {
                return Err(Error::new(Kind::Bug, "an endpoint without schemes").into());
            };
            let more = pinned.is_none() && at + 1 < endpoint.schemes.len();
            let failure = match self
                .once(endpoint, request, scheme, more, &mut rounds)
                .await
            {
                Ok(Step::Done(answer)) => return Ok(answer),
                Ok(Step::Again) => continue,
                Ok(Step::OtherScheme) => {
                    at += 1;
                    continue;
                }
                Err(failure) if failure.other_scheme && more => {
                    at += 1;
                    continue;
                }
                Err(failure) => failure,
            };
            if request.single {
                return Err(failure);
            }
            if endpoint.is_mirror && matches!(failure.again, Again::After(p) if p > MIRROR_PAUSE) {
                http.mark_down(&endpoint.host);
                return Err(failure);
            }
            at = 0;
            if let Err(failure) = tries.again(failure).await {
                if endpoint.is_mirror && failure.error.kind() == Kind::Network {
                    http.mark_down(&endpoint.host);
                }
                return Err(failure);
            }
        }
    }

    async fn once(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        scheme: Scheme,
        more: bool,
        rounds: &mut u32,
    ) -> Result<Step, Failure> {
        let http = &self.http;
        let base = endpoint.url(scheme, "")?;
        let url = match &request.target {
            Target::Path(path) => endpoint.url(scheme, path)?,
            Target::Url(url) => url.clone(),
        };
        let own = url.origin() == base.origin();
        let tls = if own {
            endpoint.tls.clone()
        } else {
            http.tls_of(&url)
        };
        let mut ask = Ask::new(request.method.clone(), url, tls);
        ask.headers = request.headers.clone();
        ask.body = request.body.clone();
        let mut sent = None;
        if own {
            ask.private = endpoint.headers.clone();
            let scopes = &request.scopes;
            if !ask.private.contains_key(AUTHORIZATION) {
                sent = self.auth.header(http, endpoint, &base, scopes).await?;
                if let Some(value) = &sent {
                    ask.private.insert(AUTHORIZATION, value.clone());
                }
            }
        } else if !http.is_trusted(&ask.url) {
            ask.named_by = Some(http.classes.get(super::hosts::bare_host(&endpoint.host)));
        }
        let answer = http.send(&ask).await?;
        let status = answer.status().as_u16();
        if own && status == 400 && more && scheme == Scheme::Http {
            // What Go's and nginx's servers say to plain HTTP on a TLS port.
            let (status, host) = (answer.status(), answer.host());
            let body = http.body(answer, MAX_ERROR, &request.what).await;
            let body = body.unwrap_or_default();
            if String::from_utf8_lossy(&body).contains("HTTPS") {
                return Ok(Step::OtherScheme);
            }
            http.set_scheme(&endpoint.host, scheme);
            return Err(refusal_of(status, &host, &request.what, &body).into());
        }
        if own {
            http.set_scheme(&endpoint.host, scheme);
        }
        if status == 401 && own && !answer.elsewhere {
            *rounds += 1;
            if *rounds > TOKEN_ROUNDS {
                return Err(self.auth.refused(endpoint).into());
            }
            let sent: Option<&HeaderValue> = sent.as_ref();
            self.auth
                .challenged(http, endpoint, &base, &request.scopes, &answer, sent)
                .await?;
            return Ok(Step::Again);
        }
        let answer = http.transient(answer, &request.what).await?;
        Ok(Step::Done(answer))
    }

    /// The error of an answer that is not what was wanted.
    pub(super) async fn refusal(&self, answer: Answer, what: &str) -> Error {
        self.http.refusal(answer, what).await
    }
}

enum Step {
    Done(Answer),
    Again,
    OtherScheme,
}

/// One error of those of all hosts: the last, which is the registry's own, and who else was
/// asked.
pub(super) fn of_all(mut errors: Vec<Error>) -> Error {
    let Some(last) = errors.pop() else {
        return Error::new(Kind::Bug, "no host was asked");
    };
    if errors.is_empty() {
        return last;
    }
    let others: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let m = format!("{last} (before: {})", others.join("; "));
    let hint = last.hint().unwrap_or("try again later").to_owned();
    Error::new(last.kind(), m).with_hint(hint)
}
