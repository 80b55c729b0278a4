//! Registries: finding them, asking them, believing nothing they say until it is proved.
//!
//! [`Client`] speaks the OCI distribution protocol. Everything that it knows of this machine is
//! in [`RegistryConfig`]. A body is bounded before it is read, documents are verified here, and
//! [`BlobBody`] gives a blob's bytes in order, as many as were promised; whoever takes them
//! verifies their digest.

mod address;
mod auth;
mod call;
pub mod challenge;
mod config;
pub mod credentials;
mod daemon_json;
mod faults;
mod fetch;
mod helper;
mod hosts;
mod hosts_toml;
mod http;
mod login;
mod payload;
mod push;
mod ranges;
mod registries_conf;
mod retry;
mod secret;
mod tls;
mod token;

use std::sync::Arc;

use ::http::{
    HeaderValue, Method,
    header::{ACCEPT, CONTENT_TYPE, LINK},
};
use bytes::Bytes;
use reqwest::Url;
use serde::Deserialize;
use unlade_unpack::{Algorithm, Digest};

use self::{
    auth::{Auth, scope},
    call::{Core, Request, Target, of_all},
    hosts::{Endpoint, Hosts, Purpose},
    http::{Answer, Http},
};
pub use self::{
    config::{ParallelRanges, Proxies, RegistryConfig},
    credentials::{CredentialFiles, CredentialSource, Credentials},
    fetch::BlobBody,
    hosts_toml::HostsToml,
    login::Login,
    push::{BodySource, Uploaded},
    registries_conf::Registries,
    secret::Secret,
};
use crate::{
    error::{Error, Kind, Result},
    image::{
        Descriptor, Reference,
        json::{Object, show},
        manifest,
        name::DEFAULT_TAG,
    },
};

/// All kinds of manifests that a registry may answer with.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";
/// Largest page of a list of tags, in bytes.
const MAX_PAGE: usize = 4 << 20;
/// Most tags of one repository.
const MAX_TAGS: usize = 1_000_000;
/// Most pages of a list of tags.
const MAX_PAGES: usize = 10_000;

/// Speaks to registries. Cheap to clone; clones share connections, tokens and back-off.
#[derive(Debug, Clone)]
pub struct Client {
    core: Arc<Core>,
}

/// A document, verified.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
    /// What it is.
    pub media_type: String,
    /// The host that it came from.
    pub from: String,
}

/// What a registry says of a document, without having sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The digest that the registry claims.
    pub digest: Option<Digest>,
    /// What it is.
    pub media_type: Option<String>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

impl Client {
    /// A client with `config`'s rules. Reads `registries.conf`; everything else is read when a
    /// host is first asked.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for a `registries.conf` that is not valid.
    pub fn new(config: RegistryConfig) -> Result<Self> {
        Ok(Self {
            core: Arc::new(Core {
                hosts: Hosts::read(&config)?,
                auth: Auth::default(),
                http: Http::new(config)?,
            }),
        })
    }

    /// The same rules with other credentials, and no tokens yet.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_credentials(&self, credentials: Arc<dyn CredentialSource>) -> Result<Self> {
        Self::new(RegistryConfig {
            credentials,
            ..self.core.http.config.clone()
        })
    }

    /// The rules.
    pub fn config(&self) -> &RegistryConfig {
        &self.core.http.config
    }

    /// The manifest or index that `reference` stands for (`latest` without tag and digest).
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Denied`], [`Kind::Network`] as the registry answers;
    /// [`Kind::Integrity`] if a digest does not hold, [`Kind::Limit`] above 4 MiB.
    pub async fn resolve(&self, reference: &Reference) -> Result<Fetched> {
        match reference.digest() {
            Some(digest) => self.manifest(reference, digest).await,
            None => {
                let tag = reference.tag().unwrap_or(DEFAULT_TAG);
                self.get_manifest(reference, tag, None).await
            }
        }
    }

    /// The manifest or index `digest` of `reference`'s repository.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn manifest(&self, reference: &Reference, digest: &Digest) -> Result<Fetched> {
        self.get_manifest(reference, &digest.to_string(), Some(digest))
            .await
    }

    fn endpoints(&self, reference: &Reference, purpose: Purpose) -> Result<Vec<Endpoint>> {
        let config = &self.core.http.config;
        let all = self.core.hosts.endpoints(config, reference, purpose)?;
        Ok(self.core.in_order(all))
    }

    async fn get_manifest(
        &self,
        reference: &Reference,
        name: &str,
        want: Option<&Digest>,
    ) -> Result<Fetched> {
        let purpose = if want.is_some() {
            Purpose::Pull
        } else {
            Purpose::Resolve
        };
        let what = format!("manifest of {}", named(reference, name));
        let mut errors = Vec::new();
        for endpoint in self.endpoints(reference, purpose)? {
            let mut request = Request::new(Method::GET, format!("manifests/{name}"), &*what);
            request
                .headers
                .insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
            request.scopes = vec![scope(&endpoint.repository, "pull")];
            let got = match self.small(&endpoint, &request, manifest::MAX_BYTES).await {
                Ok((head, bytes)) => verified(head, bytes, want, &what),
                Err(e) => Err(e),
            };
            match got {
                Ok(fetched) => return Ok(fetched),
                Err(e) => errors.push(e),
            }
        }
        Err(of_all(errors))
    }

    /// A small body, with what was said of it; tried again if it breaks off.
    async fn small(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        cap: u64,
    ) -> Result<(Head, Bytes)> {
        let http = &self.core.http;
        let mut tries = call::Tries::new(http, &endpoint.host, http.config.max_tries);
        loop {
            let answer = self.core.call(endpoint, request).await?;
            if answer.status().as_u16() != 200 {
                return Err(self.core.refusal(answer, &request.what).await);
            }
            let head = Head::of(&answer);
            let cap = usize::try_from(cap).unwrap_or(usize::MAX);
            match http.body(answer, cap, &request.what).await {
                Ok(bytes) => return Ok((head, bytes)),
                Err(failure) => tries.again(failure).await?,
            }
        }
    }

    /// A small blob, such as a config, of at most `cap` bytes.
    ///
    /// # Errors
    /// As [`Client::resolve`]; [`Kind::Limit`] if the descriptor's size is above `cap`.
    pub async fn document(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        cap: u64,
    ) -> Result<Bytes> {
        let (digest, size) = (&descriptor.digest, descriptor.size);
        let what = format!("document {digest} of {}", reference.repository());
        if size > cap {
            let m = format!("{what}: {size} bytes, where {cap} are allowed");
            return Err(
                Error::new(Kind::Limit, m).with_hint("no honest image has a document of this size")
            );
        }
        let mut errors = Vec::new();
        for endpoint in self.endpoints(reference, Purpose::Pull)? {
            let mut request = Request::new(Method::GET, format!("blobs/{digest}"), &*what);
            request.scopes = vec![scope(&endpoint.repository, "pull")];
            match self.small(&endpoint, &request, size).await {
                Ok((head, bytes)) if bytes.len() as u64 != size => {
                    let m = format!("{}: {what}: {} bytes, not {size}", head.from, bytes.len());
                    errors.push(damaged(m));
                }
                Ok((head, bytes)) => match check(&bytes, digest, &head.from, &what) {
                    Ok(()) => return Ok(bytes),
                    Err(e) => errors.push(e),
                },
                Err(e) => errors.push(e),
            }
        }
        Err(of_all(errors))
    }

    /// All tags of `reference`'s repository, as the registry orders them.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>> {
        let what = format!("tags of {}", reference.repository());
        let mut errors = Vec::new();
        for endpoint in self.endpoints(reference, Purpose::Resolve)? {
            match self.tags_at(&endpoint, &what).await {
                Ok(tags) => return Ok(tags),
                Err(e) => errors.push(e),
            }
        }
        Err(of_all(errors))
    }

    async fn tags_at(&self, endpoint: &Endpoint, what: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut request = Request::new(Method::GET, "tags/list?n=1000", what);
        request.scopes = vec![scope(&endpoint.repository, "pull")];
        let mut all: Vec<String> = Vec::new();
        for _ in 0..MAX_PAGES {
            let (head, bytes) = self.small(endpoint, &request, MAX_PAGE as u64).await?;
            let Object(page): Object<Page> = serde_json::from_slice(&bytes).map_err(|_| {
                let m = format!("{}: {what}: not a list of tags", head.from);
                Error::new(Kind::BadInput, m).with_hint("is it a registry of version 2?")
            })?;
            all.extend(page.tags.unwrap_or_default());
            let next = head.next.filter(|next| next.origin() == head.url.origin());
            match next {
                Some(next) if all.len() < MAX_TAGS => request.target = Target::Url(next),
                Some(_) => break,
                None => return Ok(all),
            }
        }
        let m = format!(
            "{}: {what}: more than {MAX_TAGS} or without end",
            endpoint.host
        );
        Err(Error::new(Kind::Limit, m).with_hint("name the tag that you want"))
    }

    /// What the registry has under `reference`'s tag or digest, without fetching it: this does
    /// not count against Docker Hub's limits. [`None`] if there is nothing.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn head(&self, reference: &Reference) -> Result<Option<Found>> {
        let name = match reference.digest() {
            Some(digest) => digest.to_string(),
            None => reference.tag().unwrap_or(DEFAULT_TAG).to_owned(),
        };
        let what = format!("manifest of {}", named(reference, &name));
        self.look(
            reference,
            Purpose::Resolve,
            format!("manifests/{name}"),
            what,
        )
        .await
    }

    /// Whether the registry has the blob `digest` in `reference`'s repository.
    ///
    /// # Errors
    /// As [`Client::resolve`].
    pub async fn exists(&self, reference: &Reference, digest: &Digest) -> Result<Option<Found>> {
        let what = format!("blob {digest} of {}", reference.repository());
        self.look(reference, Purpose::Push, format!("blobs/{digest}"), what)
            .await
    }

    async fn look(
        &self,
        reference: &Reference,
        purpose: Purpose,
        path: String,
        what: String,
    ) -> Result<Option<Found>> {
        let mut errors = Vec::new();
        for endpoint in self.endpoints(reference, purpose)? {
            let mut request = Request::new(Method::HEAD, &*path, &*what);
            request
                .headers
                .insert(ACCEPT, HeaderValue::from_static(MANIFESTS));
            let actions = if purpose == Purpose::Push {
                "pull,push"
            } else {
                "pull"
            };
            request.scopes = vec![scope(&endpoint.repository, actions)];
            match self.core.call(&endpoint, &request).await {
                Ok(answer) if answer.status().as_u16() == 200 => {
                    let head = Head::of(&answer);
                    return Ok(Some(Found {
                        digest: head.digest,
                        media_type: head.media_type,
                        size: answer.header("content-length").and_then(|l| l.parse().ok()),
                    }));
                }
                Ok(answer) if answer.status().as_u16() == 404 && errors.is_empty() => {
                    if !endpoint.is_mirror {
                        return Ok(None);
                    }
                }
                Ok(answer) => errors.push(self.core.refusal(answer, &what).await),
                Err(failure) => errors.push(failure.error),
            }
        }
        if errors.is_empty() {
            return Ok(None);
        }
        Err(of_all(errors))
    }
}

/// What an answer says of its body.
#[derive(Debug)]
struct Head {
    from: String,
    url: Url,
    digest: Option<Digest>,
    media_type: Option<String>,
    next: Option<Url>,
}

impl Head {
    fn of(answer: &Answer) -> Self {
        let url = answer.response.url().clone();
        let media_type = answer.header(CONTENT_TYPE).map(|t| {
            let plain = t.split(';').next().unwrap_or_default();
            plain.trim().to_ascii_lowercase()
        });
        Self {
            from: answer.host(),
            digest: answer
                .header("docker-content-digest")
                .and_then(|d| d.parse().ok()),
            media_type,
            next: answer.header(LINK).and_then(|l| next_page(&url, l)),
            url,
        }
    }
}

/// The target of `<…>; rel="next"`.
fn next_page(url: &Url, link: &str) -> Option<Url> {
    let (target, params) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = params
        .split(';')
        .any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
    is_next.then(|| url.join(target).ok()).flatten()
}

/// `docker.io/library/alpine:3.20` or `…@sha256:…`.
fn named(reference: &Reference, name: &str) -> String {
    let between = if name.contains(':') { '@' } else { ':' };
    format!("{}{between}{name}", reference.repository())
}

fn damaged(message: String) -> Error {
    Error::new(Kind::Integrity, message)
        .with_hint("the registry's copy is damaged, or somebody changes it on its way")
}

fn check(bytes: &[u8], want: &Digest, from: &str, what: &str) -> Result<()> {
    let got = Digest::of(want.algorithm(), bytes);
    if got == *want {
        return Ok(());
    }
    Err(damaged(format!(
        "{from}: {what}: digest is {got}, not {want}"
    )))
}

/// A manifest of which the digest holds.
fn verified(head: Head, bytes: Bytes, want: Option<&Digest>, what: &str) -> Result<Fetched> {
    let digest = match (want, &head.digest) {
        (Some(want), _) => {
            check(&bytes, want, &head.from, what)?;
            *want
        }
        (None, said) => {
            if let Some(said) = said {
                check(&bytes, said, &head.from, what)?;
            }
            Digest::of(Algorithm::Sha256, &bytes)
        }
    };
    let media_type = match head.media_type {
        Some(t) if t.contains("manifest") || t.contains("index") => t,
        // Some servers of plain files know no better.
        other => sniff(&bytes).or(other).unwrap_or_default(),
    };
    Ok(Fetched {
        bytes,
        digest,
        media_type,
        from: head.from,
    })
}

fn sniff(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(bytes).ok()?;
    let guess = match (&shape.manifests, &shape.layers) {
        (Some(_), None) => Some("application/vnd.oci.image.index.v1+json"),
        (None, Some(_)) => Some("application/vnd.oci.image.manifest.v1+json"),
        _ => None,
    };
    let said = shape.media_type.map(|t| show(&t));
    said.or_else(|| guess.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_pages() {
        let url = Url::parse("https://r.example/v2/x/tags/list?n=2").unwrap();
        let next = |link| next_page(&url, link).map(|u| u.to_string());
        assert_eq!(
            next("</v2/x/tags/list?n=2&last=b>; rel=\"next\"").as_deref(),
            Some("https://r.example/v2/x/tags/list?n=2&last=b")
        );
        assert_eq!(next("</a>; rel=\"prev\""), None);
        assert_eq!(next("/a; rel=next"), None);
    }

    #[test]
    fn media_types_where_the_server_knows_none() {
        let sniffed = |text: &str| sniff(text.as_bytes());
        let is = |t: Option<String>, end: &str| t.is_some_and(|t| t.ends_with(end));
        assert!(is(sniffed(r#"{"manifests":[]}"#), "index.v1+json"));
        assert!(is(sniffed(r#"{"layers":[]}"#), "manifest.v1+json"));
        assert!(is(sniffed(r#"{"layers":[],"mediaType":"x/y"}"#), "x/y"));
        assert_eq!(sniffed("[]"), None);
    }
}
