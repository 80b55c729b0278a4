//! Token servers: how they are asked, and whose they are.

use std::time::Duration;

use http::{
    HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use reqwest::Url;
use serde_json::Value;

use super::{
    auth::basic,
    call::Tries,
    credentials::Credentials,
    hosts::{Endpoint, authority, bare_host, is_loopback},
    http::{Answer, Ask, Http},
    payload::Payload,
    retry::Failure,
    secret::Secret,
};
use crate::error::{Error, Kind, Result};

/// Largest answer of a token server, in bytes.
const MAX_TOKEN: usize = 1 << 20;
/// Shortest life of a token, whatever its server says.
const SHORTEST: Duration = Duration::from_secs(60);
/// Longest, so that nonsense does no harm.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
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

/// What a token server gave.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) value: Secret,
    pub(super) life: Duration,
    pub(super) refresh: Option<Secret>,
}

/// A token that is asked for.
pub(super) struct TokenAsk<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) registry: &'a Url,
    pub(super) realm: &'a Url,
    pub(super) service: Option<&'a str>,
    pub(super) scopes: &'a [String],
    pub(super) credentials: Option<Credentials>,
    pub(super) offline: bool,
}

impl TokenAsk<'_> {
    pub(super) async fn fetch(&self, http: &Http) -> Result<Given, Failure> {
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
pub(super) fn belongs(registry: &str, realm: &str) -> bool {
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
