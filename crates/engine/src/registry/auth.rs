//! Tokens and passwords: what is sent to whom.
//!
//! A registry's challenge names a token server. It is asked over HTTPS only (but for loopback
//! registries), it must not lie on this machine's own network if the registry does not, and it
//! gets credentials only if it belongs to the registry: same host, same domain, or listed as
//! trusted. Tokens are kept by scope until they end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method, header::AUTHORIZATION, header::CONTENT_TYPE};
use reqwest::Url;
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use super::{
    call::Tries,
    challenge,
    credentials::Credentials,
    hosts::{Endpoint, authority, bare_host, is_loopback},
    http::{Answer, Ask, Http},
    payload::Payload,
    retry::Failure,
    secret::{Secret, authorization, redact},
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Largest answer of a token server, in bytes.
const MAX_TOKEN: usize = 1 << 20;
/// Shortest life of a token, whatever its server says.
const SHORTEST: Duration = Duration::from_secs(60);
/// Longest, so that nonsense does no harm.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How long before its end a token is no longer used.
const MARGIN: Duration = Duration::from_secs(10);
const CLIENT_ID: &str = "unlade";

/// Domains whose subdomains belong to different people.
const SHARED: &[&str] = &[
    "amazonaws.com",
    "appspot.com",
    "azurecr.io",
    "azurewebsites.net",
    "cloudfront.net",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "pages.dev",
    "pkg.dev",
    "run.app",
    "web.app",
    "windows.net",
    "workers.dev",
];

/// What a registry wants.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wants {
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
        /// Whether the token server may see credentials.
        trusted: bool,
    },
}

#[derive(Debug, Clone)]
struct Token {
    value: Secret,
    until: Instant,
}

/// What a token server gave.
#[derive(Debug)]
pub(super) struct Given {
    value: Secret,
    life: Duration,
    pub(super) refresh: Option<Secret>,
}

type Slot<T> = Arc<AsyncMutex<Option<T>>>;
type Found = Arc<OnceCell<Option<Credentials>>>;

/// Tokens and credentials that are in use.
#[derive(Debug, Default)]
pub(super) struct Auth {
    wants: Mutex<HashMap<String, Wants>>,
    tokens: Mutex<HashMap<(String, String), Slot<Token>>>,
    credentials: Mutex<HashMap<(String, String), Found>>,
}

/// `repository:<path>:pull`.
pub(super) fn scope(repository: &str, actions: &str) -> String {
    format!("repository:{repository}:{actions}")
}

impl Auth {
    /// What to send to `endpoint`, if it has ever asked for something.
    pub(super) async fn header(
        &self,
        http: &Http,
        endpoint: &Endpoint,
        url: &Url,
        scopes: &[String],
    ) -> Result<Option<HeaderValue>, Failure> {
        let wants = {
            let wants = self.wants.lock().unwrap_or_else(PoisonError::into_inner);
            wants.get(&endpoint.host).cloned()
        };
        let Some(wants) = wants else {
            return Ok(None);
        };
        let credentials = self.credentials(http, endpoint).await?;
        match wants {
            Wants::Basic => Ok(match credentials {
                Some(Credentials::Password { user, password }) => basic(&user, &password),
                _ => None,
            }),
            Wants::Bearer {
                realm,
                service,
                trusted,
            } => {
                if let Some(Credentials::RegistryToken(token)) = &credentials {
                    return Ok(authorization("Bearer", token.expose()));
                }
                let slot = self.slot(endpoint, scopes);
                // One at a time: the others find what the first has fetched.
                let mut slot = slot.lock().await;
                if let Some(token) = slot.as_ref().filter(|t| t.until > Instant::now()) {
                    return Ok(authorization("Bearer", token.value.expose()));
                }
                let ask = TokenAsk {
                    endpoint,
                    registry: url,
                    realm: &realm,
                    service: service.as_deref(),
                    scopes,
                    credentials: credentials.filter(|_| trusted),
                    offline: false,
                };
                let given = ask.fetch(http).await?;
                let value = authorization("Bearer", given.value.expose());
                *slot = Some(Token {
                    until: Instant::now() + given.life - MARGIN,
                    value: given.value,
                });
                Ok(value)
            }
        }
    }

    /// Learns from a 401 what `endpoint` wants. `sent` was not good enough.
    pub(super) async fn challenged(
        &self,
        http: &Http,
        endpoint: &Endpoint,
        url: &Url,
        scopes: &[String],
        answer: &Answer,
        sent: Option<&HeaderValue>,
    ) -> Result<(), Failure> {
        let wants = self.wants_of(http, endpoint, url, answer)?;
        let denied = |m: String, hint: String| {
            Err(Failure::never(Error::new(Kind::Denied, m).with_hint(hint)))
        };
        let host = &endpoint.host;
        if wants == Wants::Basic {
            let login = format!("log in with `unlade login {}`", endpoint.credentials_host);
            if sent.is_some() {
                let m = format!("{host}: user name or password refused");
                return denied(m, login);
            }
            if !matches!(
                self.credentials(http, endpoint).await?,
                Some(Credentials::Password { .. })
            ) {
                let m = format!("{host}: a user name and password are needed");
                return denied(m, login);
            }
        } else if let Some(sent) = sent {
            // A token that was good has ended, or never was.
            let slot = self.slot(endpoint, scopes);
            let mut slot = slot.lock().await;
            if let Some(token) = slot.as_ref()
                && authorization("Bearer", token.value.expose()).as_ref() == Some(sent)
            {
                *slot = None;
            }
        }
        let mut all = self.wants.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(host.clone(), wants);
        Ok(())
    }

    fn wants_of(
        &self,
        http: &Http,
        endpoint: &Endpoint,
        url: &Url,
        answer: &Answer,
    ) -> Result<Wants, Failure> {
        let values = answer.response.headers().get_all("www-authenticate");
        let all = challenge::parse(values.iter().filter_map(|v| v.to_str().ok()));
        let host = &endpoint.host;
        if let Some(bearer) = all.iter().find(|c| c.scheme == "bearer") {
            let realm = bearer.param("realm").and_then(|r| Url::parse(r).ok());
            let Some(realm) = realm else {
                let m = format!("{host}: wants a token, but does not say from where");
                return Err(Error::new(Kind::BadInput, m)
                    .with_hint("the registry is set up wrongly; tell whoever runs it")
                    .into());
            };
            http.may_go(url, &realm, url).map_err(|why| {
                let m = format!("{host}: token server {why}");
                Error::new(Kind::Denied, m).with_hint(
                    "the registry names a token server that it should not; if that is right, \
                     list its host under `trusted-hosts`",
                )
            })?;
            let trusted = http.is_trusted(&realm) || belongs(host, &authority(&realm));
            if !trusted {
                tracing::debug!(host, realm = redact(&realm), "gets no credentials");
            }
            return Ok(Wants::Bearer {
                realm,
                service: bearer.param("service").map(str::to_owned),
                trusted,
            });
        }
        if all.iter().any(|c| c.scheme == "basic") {
            return Ok(Wants::Basic);
        }
        let kinds: Vec<_> = all.iter().map(|c| show(&c.scheme)).collect();
        let m = format!(
            "{host}: wants authentication of kind `{}`",
            kinds.join(", ")
        );
        Err(Error::new(Kind::Unsupported, m)
            .with_hint("bearer tokens and basic authentication are known")
            .into())
    }

    /// What more there is to say when a token does not help.
    pub(super) fn refused(&self, endpoint: &Endpoint) -> Error {
        let host = &endpoint.host;
        let m = format!("{host}: the token that it asked for is refused");
        let wants = self.wants.lock().unwrap_or_else(PoisonError::into_inner);
        let hint = match wants.get(host) {
            Some(Wants::Bearer {
                realm,
                trusted: false,
                ..
            }) => format!(
                "its token server {} got no credentials, as it is another domain's: if it \
                 belongs to the registry, list it under `trusted-hosts`",
                authority(realm)
            ),
            _ => format!(
                "is the name right? if so, log in with `unlade login {}`",
                endpoint.credentials_host
            ),
        };
        Error::new(Kind::Denied, m).with_hint(hint)
    }

    /// Asks the token server for a token that only shows who one is.
    pub(super) async fn login(
        &self,
        http: &Http,
        endpoint: &Endpoint,
        url: &Url,
        answer: &Answer,
        credentials: &Credentials,
    ) -> Result<LoginStep, Failure> {
        match self.wants_of(http, endpoint, url, answer)? {
            Wants::Basic => match credentials {
                Credentials::Password { user, password } => {
                    Ok(LoginStep::Send(basic(user, password), None))
                }
                _ => {
                    let m = format!("{}: takes user name and password only", endpoint.host);
                    let e = Error::new(Kind::Denied, m);
                    Err(e.with_hint("log in with a user name").into())
                }
            },
            Wants::Bearer {
                realm,
                service,
                trusted,
            } => {
                if !trusted {
                    let (host, realm) = (&endpoint.host, authority(&realm));
                    let m = format!("{host}: would have credentials sent to {realm}");
                    return Err(Error::new(Kind::Denied, m)
                        .with_hint("if that is right, list it under `trusted-hosts`")
                        .into());
                }
                let ask = TokenAsk {
                    endpoint,
                    registry: url,
                    realm: &realm,
                    service: service.as_deref(),
                    scopes: &[],
                    credentials: Some(credentials.clone()),
                    offline: true,
                };
                let given = ask.fetch(http).await?;
                let header = authorization("Bearer", given.value.expose());
                Ok(LoginStep::Send(header, given.refresh))
            }
        }
    }

    fn slot(&self, endpoint: &Endpoint, scopes: &[String]) -> Slot<Token> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (endpoint.host.clone(), scopes.join(" "));
        tokens.entry(key).or_default().clone()
    }

    async fn credentials(
        &self,
        http: &Http,
        endpoint: &Endpoint,
    ) -> Result<Option<Credentials>, Failure> {
        let key = (
            endpoint.credentials_host.clone(),
            endpoint.repository.clone(),
        );
        let cell = {
            let mut all = self
                .credentials
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.entry(key.clone()).or_default().clone()
        };
        let source = http.config.credentials.clone();
        let found = cell
            .get_or_try_init(|| async move {
                let find = move || source.find(&key.0, &key.1);
                match tokio::task::spawn_blocking(find).await {
                    Ok(found) => found,
                    Err(e) => Err(Error::new(Kind::Bug, format!("credentials: {e}"))),
                }
            })
            .await;
        Ok(found?.clone())
    }
}

/// What to show the registry, and the identity token to keep.
#[derive(Debug)]
pub(super) enum LoginStep {
    Send(Option<HeaderValue>, Option<Secret>),
}

pub(super) fn basic(user: &str, password: &Secret) -> Option<HeaderValue> {
    let pair = format!("{user}:{}", password.expose());
    authorization("Basic", &STANDARD.encode(pair))
}

struct TokenAsk<'a> {
    endpoint: &'a Endpoint,
    registry: &'a Url,
    realm: &'a Url,
    service: Option<&'a str>,
    scopes: &'a [String],
    credentials: Option<Credentials>,
    offline: bool,
}

impl TokenAsk<'_> {
    async fn fetch(&self, http: &Http) -> Result<Given, Failure> {
        let answer = match &self.credentials {
            Some(Credentials::IdentityToken(token)) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token.expose()),
                ];
                self.send(http, self.post(http, &form)).await?
            }
            Some(Credentials::Password { user, password }) => {
                let answer = self.send(http, self.get(http)).await?;
                if matches!(answer.status().as_u16(), 404 | 405) {
                    // It may speak OAuth2 alone.
                    let form = [
                        ("grant_type", "password"),
                        ("username", user),
                        ("password", password.expose()),
                        (
                            "access_type",
                            if self.offline { "offline" } else { "online" },
                        ),
                    ];
                    self.send(http, self.post(http, &form)).await?
                } else {
                    answer
                }
            }
            _ => self.send(http, self.get(http)).await?,
        };
        self.read(http, answer).await
    }

    fn what(&self) -> String {
        format!("token for {}", self.endpoint.host)
    }

    fn ask(&self, http: &Http, method: Method, url: Url) -> Ask {
        let same = url.origin() == self.registry.origin();
        let tls = if same {
            self.endpoint.tls.clone()
        } else {
            http.tls_of(&url)
        };
        let by = http.classes.get(bare_host(&self.endpoint.host));
        let mut ask = Ask::new(method, url, tls);
        ask.named_by = (!same && !http.is_trusted(self.realm)).then_some(by);
        ask
    }

    fn get(&self, http: &Http) -> Ask {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = self.service {
                query.append_pair("service", service);
            }
            for scope in self.scopes {
                query.append_pair("scope", scope);
            }
            if let Some(Credentials::Password { user, .. }) = &self.credentials {
                query.append_pair("account", user);
            }
            if self.offline {
                query.append_pair("client_id", CLIENT_ID);
                query.append_pair("offline_token", "true");
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        let mut ask = self.ask(http, Method::GET, url);
        if let Some(Credentials::Password { user, password }) = &self.credentials
            && let Some(value) = basic(user, password)
        {
            ask.private.insert(AUTHORIZATION, value);
        }
        ask
    }

    fn post(&self, http: &Http, form: &[(&str, &str)]) -> Ask {
        let mut encoded = Url::parse("form:").unwrap_or_else(|_| self.realm.clone());
        {
            let mut query = encoded.query_pairs_mut();
            query.clear().append_pair("client_id", CLIENT_ID);
            query.append_pair("service", self.service.unwrap_or_default());
            if !self.scopes.is_empty() {
                query.append_pair("scope", &self.scopes.join(" "));
            }
            for (name, value) in form {
                query.append_pair(name, value);
            }
        }
        let body = encoded.query().unwrap_or_default().to_owned();
        let mut ask = self.ask(http, Method::POST, self.realm.clone());
        ask.body = Payload::Bytes(body.into());
        ask.header(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        )
    }

    async fn send(&self, http: &Http, ask: Ask) -> Result<Answer, Failure> {
        let mut tries = Tries::new(http, &authority(&ask.url), http.config.max_tries);
        loop {
            tries.wait_turn().await;
            let sent = match http.send(&ask).await {
                Ok(answer) => http.transient(answer, &self.what()).await,
                Err(e) => Err(e),
            };
            match sent {
                Ok(answer) => return Ok(answer),
                Err(failure) => tries.again(failure).await?,
            }
        }
    }

    async fn read(&self, http: &Http, answer: Answer) -> Result<Given, Failure> {
        if !answer.status().is_success() {
            let host = &self.endpoint.credentials_host;
            let denied = matches!(answer.status().as_u16(), 401 | 403);
            let e = http.refusal(answer, &self.what()).await;
            return Err(Failure::never(match (&self.credentials, denied) {
                (Some(_), true) => {
                    e.with_hint(format!("the login is not good: `unlade login {host}`"))
                }
                _ => e,
            }));
        }
        let from = answer.host();
        let bytes = http.body(answer, MAX_TOKEN, &self.what()).await?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text = |name: &str| {
            let text = value.get(name).and_then(Value::as_str);
            text.filter(|t| !t.is_empty()).map(Secret::new)
        };
        let Some(token) = text("token").or_else(|| text("access_token")) else {
            let m = format!("{from}: {}: no token in the answer", self.what());
            return Err(Error::new(Kind::BadInput, m)
                .with_hint("the token server is set up wrongly; tell whoever runs it")
                .into());
        };
        let seconds = value.get("expires_in").and_then(Value::as_f64);
        let life = Duration::try_from_secs_f64(seconds.unwrap_or(60.0)).unwrap_or(SHORTEST);
        Ok(Given {
            value: token,
            life: life.clamp(SHORTEST, LONGEST),
            refresh: text("refresh_token"),
        })
    }
}

/// Whether the token server `realm` is taken to be that of `registry`: the same host, or the
/// same domain.
fn belongs(registry: &str, realm: &str) -> bool {
    let (a, b) = (
        bare_host(registry).to_ascii_lowercase(),
        bare_host(realm).to_ascii_lowercase(),
    );
    if a == b || is_loopback(registry) && is_loopback(realm) {
        return true;
    }
    if [&a, &b]
        .iter()
        .any(|h| h.parse::<std::net::IpAddr>().is_ok())
    {
        return false;
    }
    let common: Vec<&str> = (a.rsplit('.').zip(b.rsplit('.')))
        .take_while(|(x, y)| x == y)
        .map(|(x, _)| x)
        .collect();
    let domain: Vec<&str> = common.iter().rev().copied().collect();
    let country = common.first().is_some_and(|tld| tld.len() == 2)
        && common.get(1).is_some_and(|second| second.len() <= 3);
    common.len() >= if country { 3 } else { 2 } && !SHARED.contains(&&*domain.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_servers_of_a_registry() {
        for (registry, realm, want) in [
            ("registry-1.docker.io", "auth.docker.io", true),
            ("ghcr.io", "ghcr.io", true),
            ("registry.gitlab.com", "gitlab.com", true),
            ("h.example:5000", "h.example:5001", true),
            ("h.example", "H.EXAMPLE", true),
            ("127.0.0.1:5000", "localhost:5001", true),
            ("h.example", "evil.example", false),
            ("docker.io", "io", false),
            ("a.co.uk", "b.co.uk", false),
            ("r.a.co.uk", "auth.a.co.uk", true),
            ("a.azurecr.io", "b.azurecr.io", false),
            ("a.azurecr.io", "a.azurecr.io", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("1.2.3.4", "9.2.3.4", false),
            ("notdocker.io", "auth.docker.io", false),
        ] {
            assert_eq!(belongs(registry, realm), want, "{registry} {realm}");
        }
    }
}
