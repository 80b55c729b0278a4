//! Whether a registry takes somebody's credentials.

use http::{Method, header::AUTHORIZATION};

use super::{
    Client,
    auth::LoginStep,
    call::{Request, Tries},
    credentials::Credentials,
    http::Ask,
    payload::Payload,
};
use crate::error::{Error, Kind, Result};

/// What came of a login.
#[derive(Debug, Clone)]
pub struct Login {
    /// What to keep: the identity token that the registry gave, or what was shown to it.
    pub keep: Credentials,
    /// Whether the registry wants to know who one is at all.
    pub needed: bool,
}

impl Client {
    /// Shows `credentials` to the registry `domain` (`docker.io`, `localhost:5000`). Keeps
    /// nothing; see [`CredentialFiles::store`](super::CredentialFiles::store).
    ///
    /// # Errors
    /// [`Kind::Denied`] if they are refused, [`Kind::Network`] if there is no answer.
    pub async fn login_check(&self, domain: &str, credentials: &Credentials) -> Result<Login> {
        let http = &self.core.http;
        let endpoint = self.core.hosts.login(&http.config, domain)?;
        let what = "login";
        // Nothing is known yet, so that nothing is sent but the question.
        let fresh = Self::new(super::RegistryConfig {
            credentials: std::sync::Arc::new(super::CredentialFiles::default()),
            ..http.config.clone()
        })?;
        let http = &fresh.core.http;
        let mut request = Request::new(Method::GET, "", what);
        request.body = Payload::Empty;
        // Finds the scheme, and what the host wants.
        let mut at = 0;
        let mut tries = Tries::new(http, &endpoint.host, http.config.max_tries);
        let (answer, url) = loop {
            let Some(scheme) = endpoint.schemes.get(at).copied() else {
                return Err(Error::new(Kind::Bug, "an endpoint without schemes"));
            };
            let url = endpoint.url(scheme, "")?;
            let mut ask = Ask::new(Method::GET, url.clone(), endpoint.tls.clone());
            ask.private = endpoint.headers.clone();
            let sent = match http.send(&ask).await {
                Ok(answer) => http.transient(answer, what).await,
                Err(e) => Err(e),
            };
            match sent {
                Ok(answer)
                    if answer.status().as_u16() == 400 && at + 1 < endpoint.schemes.len() =>
                {
                    at += 1;
                }
                Ok(answer) => break (answer, url),
                Err(e) if e.other_scheme && at + 1 < endpoint.schemes.len() => at += 1,
                Err(e) => {
                    at = 0;
                    tries.again(e).await?;
                }
            }
        };
        if answer.status().is_success() {
            return Ok(Login {
                keep: credentials.clone(),
                needed: false,
            });
        }
        if answer.status().as_u16() != 401 || answer.elsewhere {
            return Err(fresh.core.refusal(answer, what).await);
        }
        let auth = &fresh.core.auth;
        let LoginStep::Send(header, refresh) = auth
            .login(http, &endpoint, &url, &answer, credentials)
            .await?;
        let mut ask = Ask::new(Method::GET, url, endpoint.tls.clone());
        ask.private = endpoint.headers.clone();
        if let Some(value) = header {
            ask.private.insert(AUTHORIZATION, value);
        }
        let answer = loop {
            let sent = match http.send(&ask).await {
                Ok(answer) => http.transient(answer, what).await,
                Err(e) => Err(e),
            };
            match sent {
                Ok(answer) => break answer,
                Err(e) => tries.again(e).await?,
            }
        };
        match answer.status().as_u16() {
            200..=299 => Ok(Login {
                keep: match refresh {
                    Some(token) => Credentials::IdentityToken(token),
                    None => credentials.clone(),
                },
                needed: true,
            }),
            401 => {
                let m = format!("{}: user name or password refused", endpoint.host);
                Err(Error::new(Kind::Denied, m).with_hint("check both, and the registry's name"))
            }
            _ => Err(fresh.core.refusal(answer, what).await),
        }
    }
}
