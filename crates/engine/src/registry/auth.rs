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
use http::HeaderValue;
use reqwest::Url;
use tokio::sync::{Mutex as AsyncMutex, OnceCell};

use super::{
    challenge,
    credentials::Credentials,
    hosts::{Endpoint, authority},
    http::{Answer, Http},
    retry::Failure,
    secret::{Secret, authorization, redact},
    token::{TokenAsk, belongs},
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// How long before its end a token is no longer used.
const MARGIN: Duration = Duration::from_secs(10);
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
