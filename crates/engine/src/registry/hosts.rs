//! Which hosts answer for a repository, in which order, and how each is talked to.
//!
//! The first of these that knows the registry decides: a `hosts.toml` for it, an entry of
//! `registries.conf`, our own list of mirrors (for `docker.io`). The registry itself comes last,
//! unless a file says otherwise.

use std::{fmt, net::IpAddr};

use http::HeaderMap;
use reqwest::Url;

use super::{
    address::Class,
    config::RegistryConfig,
    hosts_toml,
    registries_conf::{Pull, Registries},
    secret::redact,
    tls::TlsFiles,
};
use crate::{
    error::{Error, Kind, Result},
    image::{
        Reference,
        json::show,
        name::{DEFAULT_DOMAIN, check_domain},
    },
};

/// What a host is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A tag's manifest.
    Resolve,
    /// What has a digest.
    Pull,
    /// Anything that is written.
    Push,
}

/// One way to speak to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    Http,
}

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

/// A host that answers for a repository.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host and port as in a URL.
    pub(super) host: String,
    /// What stands before `<repository>/manifests`: `/v2`.
    pub(super) prefix: String,
    /// The repository's path there.
    pub(super) repository: String,
    /// How to speak to it; the first that works is kept to.
    pub(super) schemes: Vec<Scheme>,
    /// For which credentials are looked up.
    pub(super) credentials_host: String,
    pub(super) tls: TlsFiles,
    pub(super) headers: HeaderMap,
    /// The registry that is meant, for mirrors of several.
    pub(super) ns: Option<String>,
    pub(super) is_mirror: bool,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schemes: Vec<_> = self.schemes.iter().map(|s| s.name()).collect();
        let (schemes, skip) = (schemes.join("|"), self.tls.skip_verify);
        let (host, prefix, repository) = (&self.host, &self.prefix, &self.repository);
        write!(f, "{schemes}://{host}{prefix}/{repository}")?;
        write!(f, "{}", if skip { " (unverified)" } else { "" })?;
        write!(f, "{}", if self.is_mirror { " (mirror)" } else { "" })
    }
}

impl Endpoint {
    /// The URL of `rest` (`manifests/latest`) in the repository; of the API itself if `rest` is
    /// empty.
    pub(super) fn url(&self, scheme: Scheme, rest: &str) -> Result<Url> {
        let (scheme, host, prefix) = (scheme.name(), &self.host, &self.prefix);
        let text = match rest {
            "" => format!("{scheme}://{host}{prefix}/"),
            rest => format!("{scheme}://{host}{prefix}/{}/{rest}", self.repository),
        };
        let mut url = Url::parse(&text).map_err(|_| {
            Error::new(Kind::BadInput, format!("`{}` is not a URL", show(&text)))
                .with_hint("correct the registry's address")
        })?;
        if let Some(ns) = &self.ns {
            url.query_pairs_mut().append_pair("ns", ns);
        }
        Ok(url)
    }
}

/// The rules of a configuration, read once.
#[derive(Debug)]
pub(super) struct Hosts {
    registries: Registries,
}

impl Hosts {
    pub(super) fn read(config: &RegistryConfig) -> Result<Self> {
        Ok(Self {
            registries: Registries::read(&config.registries_conf)?,
        })
    }

    /// The hosts for `purpose` on `reference`, in order; at least one.
    pub(super) fn endpoints(
        &self,
        config: &RegistryConfig,
        reference: &Reference,
        purpose: Purpose,
    ) -> Result<Vec<Endpoint>> {
        let host = reference.registry_host();
        for dir in &config.hosts_dirs {
            if let Some(found) = hosts_toml::read(dir, config, reference)? {
                let found: Vec<_> = found
                    .into_iter()
                    .filter(|(can, _)| can.contains(&purpose))
                    .map(|(_, endpoint)| endpoint)
                    .collect();
                if found.is_empty() {
                    let m = format!("hosts.toml names no host of {host} that can do this");
                    return Err(Error::new(Kind::Denied, m)
                        .with_hint("give one of its hosts the capability, or name a `server`"));
                }
                return Ok(found);
            }
        }
        let registry = self.registries.find(reference);
        if let Some(registry) = registry {
            if registry.blocked {
                let m = format!("{} is blocked by registries.conf", reference.repository());
                return Err(Error::new(Kind::Denied, m)
                    .with_hint("remove `blocked` from its entry if that is wrong"));
            }
            let mut all = Vec::new();
            for mirror in registry.mirrors.iter().filter(|_| purpose != Purpose::Push) {
                let wanted = match mirror.pull {
                    Pull::All => !registry.mirror_by_digest_only || purpose == Purpose::Pull,
                    Pull::DigestOnly => purpose == Purpose::Pull,
                    Pull::TagOnly => purpose == Purpose::Resolve,
                };
                if wanted {
                    let name = registry.rewrite(&mirror.location, reference);
                    let mut endpoint = endpoint_of(config, &name, mirror.insecure)?;
                    endpoint.is_mirror = true;
                    all.push(endpoint);
                }
            }
            let name = registry.rewrite(&registry.location, reference);
            all.push(endpoint_of(config, &name, registry.insecure)?);
            return Ok(all);
        }
        let mut all = Vec::new();
        if reference.domain() == DEFAULT_DOMAIN && purpose != Purpose::Push {
            for mirror in &config.mirrors {
                all.push(mirror_of(config, mirror, reference)?);
            }
        }
        all.push(endpoint_of(config, &reference.repository(), false)?);
        Ok(all)
    }

    /// The host that logins for `domain` go to.
    pub(super) fn login(&self, config: &RegistryConfig, domain: &str) -> Result<Endpoint> {
        let domain = match domain {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN,
            domain => domain,
        };
        let reference = Reference::parse(&format!("{domain}/login"))?;
        let mut all = self.endpoints(config, &reference, Purpose::Push)?;
        all.pop()
            .ok_or_else(|| Error::new(Kind::Bug, "a registry without hosts"))
    }
}

/// The endpoint of `name`, a registry's host with the repository's path.
fn endpoint_of(config: &RegistryConfig, name: &str, insecure: bool) -> Result<Endpoint> {
    let (host, repository) = name.split_once('/').unwrap_or((name, ""));
    check_domain(host).map_err(|why| {
        Error::new(Kind::BadInput, why).with_hint("correct the location in registries.conf")
    })?;
    let credentials_host = host.to_owned();
    let host = match host {
        DEFAULT_DOMAIN | "index.docker.io" => "registry-1.docker.io",
        host => host,
    };
    let mut endpoint = Endpoint {
        host: host.to_owned(),
        prefix: "/v2".to_owned(),
        repository: repository.to_owned(),
        schemes: Vec::new(),
        credentials_host,
        tls: TlsFiles::default(),
        headers: HeaderMap::new(),
        ns: None,
        is_mirror: false,
    };
    secure(config, &mut endpoint, insecure);
    Ok(endpoint)
}

/// Finds out how a host may be spoken to.
fn secure(config: &RegistryConfig, endpoint: &mut Endpoint, insecure: bool) {
    endpoint
        .tls
        .add_docker_dirs(&config.cert_dirs, &endpoint.host);
    let insecure = insecure || is_listed(&config.insecure, &endpoint.host);
    endpoint.tls.skip_verify |= insecure;
    endpoint.schemes = if is_loopback(&endpoint.host) && endpoint.tls.is_empty() {
        // Nobody is between; and most that run here have no certificate.
        vec![Scheme::Http, Scheme::Https]
    } else if insecure {
        vec![Scheme::Https, Scheme::Http]
    } else {
        vec![Scheme::Https]
    };
}

/// A mirror of Docker Hub: a URL or a host.
fn mirror_of(config: &RegistryConfig, mirror: &str, reference: &Reference) -> Result<Endpoint> {
    let (given, url) = parse_url(mirror)?;
    let (host, path) = host_and_path(&url);
    let mut endpoint = endpoint_of(config, &host, false)?;
    endpoint.prefix = format!("{path}/v2");
    endpoint.repository = reference.path().to_owned();
    endpoint.is_mirror = true;
    if let Some(scheme) = given {
        // To write `http` is to allow it.
        endpoint.schemes = vec![scheme];
    }
    Ok(endpoint)
}

/// A URL, with `https` where no scheme is written, and the scheme that is.
pub(super) fn parse_url(text: &str) -> Result<(Option<Scheme>, Url)> {
    let bad = || {
        let m = format!("`{}` is not the address of a registry", show(text));
        Error::new(Kind::BadInput, m).with_hint("write https://HOST[:PORT]")
    };
    let given = text.contains("://");
    let full = if given {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let url = Url::parse(&full).map_err(|_| bad())?;
    let scheme = match url.scheme() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return Err(bad()),
    };
    let clean = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if !clean || url.host_str().is_none() {
        return Err(bad().context(redact(&url)));
    }
    Ok((given.then_some(scheme), url))
}

/// `host[:port]`, and the path without a slash at its end.
pub(super) fn host_and_path(url: &Url) -> (String, String) {
    let host = authority(url);
    (host, url.path().trim_end_matches('/').to_owned())
}

/// `host[:port]` of `url`, the port only where it is not the scheme's own.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// An endpoint for the URL of a `hosts.toml`.
pub(super) fn endpoint_of_url(
    config: &RegistryConfig,
    text: &str,
    reference: &Reference,
    override_path: bool,
) -> Result<Endpoint> {
    let (given, url) = parse_url(text)?;
    let (host, path) = host_and_path(&url);
    let mut endpoint = endpoint_of(config, &host, false)?;
    endpoint.prefix = match (&*path, override_path) {
        (path, true) => path.to_owned(),
        (path, false) if path.ends_with("/v2") => path.to_owned(),
        (path, false) => format!("{path}/v2"),
    };
    endpoint.repository = reference.path().to_owned();
    if let Some(scheme) = given {
        // To write `http` is to allow it.
        endpoint.schemes = vec![scheme];
    }
    Ok(endpoint)
}

/// The registry itself, before any file has its say.
pub(super) fn upstream(config: &RegistryConfig, reference: &Reference) -> Result<Endpoint> {
    endpoint_of(config, &reference.repository(), false)
}

/// A host without its port and brackets.
pub(super) fn bare_host(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

pub(super) fn is_loopback(host: &str) -> bool {
    Class::of_literal(bare_host(host)) == Some(Class::Loopback)
}

/// Whether `host` (with port) is in a list of hosts and networks.
pub(super) fn is_listed(list: &[String], host: &str) -> bool {
    let bare = bare_host(host);
    let ip = bare.parse::<IpAddr>().ok();
    list.iter().any(|entry| {
        let entry = entry.trim();
        entry.eq_ignore_ascii_case(host)
            || bare_host(entry).eq_ignore_ascii_case(bare) && bare_host(entry) == entry
            || entry.eq_ignore_ascii_case(bare)
            || ip.is_some_and(|ip| is_in(entry, ip))
    })
}

fn is_in(network: &str, ip: IpAddr) -> bool {
    let Some((base, bits)) = network.split_once('/') else {
        return false;
    };
    let (Ok(base), Ok(bits)) = (base.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let covers = |a: u128, b: u128, width: u32| {
        bits <= width && (bits == 0 || (a ^ b) >> (width - bits) == 0)
    };
    match (base, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => covers(u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => covers(a.into(), b.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
