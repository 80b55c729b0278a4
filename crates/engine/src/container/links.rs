//! Docker's links: another container's address in the hosts file, and on the default network what
//! it says about itself in the environment.

use std::net::IpAddr;

use super::{Containers, record::Record};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
    network::DEFAULT,
    spec::request::Request,
};

/// What a container gets of those that it is linked to.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// For its hosts file: addresses and names.
    pub(super) hosts: Vec<(IpAddr, String)>,
    /// Variables.
    pub(super) env: Vec<String>,
}

/// Name and alias of one `--link`.
pub(super) fn parse(text: &str) -> Result<(&str, &str)> {
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    let (name, alias) = (name.trim_start_matches('/'), alias.trim_start_matches('/'));
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let word = |text: &str| !text.is_empty() && text.len() <= 255 && text.chars().all(good);
    if word(name) && word(alias) {
        return Ok((name, alias));
    }
    let m = format!("bad format for links: {}", show(text));
    Err(Error::new(Kind::BadInput, m).with_hint("--link CONTAINER[:ALIAS]"))
}

/// Refuses links that cannot be.
pub(super) fn check(request: &Request) -> Result<()> {
    let host = &request.host_config;
    for link in &host.links {
        parse(link)?;
    }
    let kind = match &*host.network_mode {
        "host" | "none" => &*host.network_mode,
        mode if mode.starts_with(super::create::OTHER) => "container",
        _ => return Ok(()),
    };
    if host.links.is_empty() {
        return Ok(());
    }
    let m = format!("conflicting options: {kind} type networking can't be used with links");
    Err(Error::new(Kind::BadInput, m).with_hint("leave out --link or --network"))
}

impl Containers<'_> {
    /// Looks up those that a container is linked to, which have to run.
    pub(super) fn links(&self, record: &Record) -> Result<Links> {
        let mut links = Links::default();
        let request = &record.request;
        for text in &request.host_config.links {
            let (name, alias) = parse(text)?;
            let id = record.facts.others.get(name).map_or(name, |id| id);
            let other = self.find(id)?;
            let refused = |m: String| {
                let hint = format!("start it first: `unlade start {}`", other.name);
                Err(Error::new(Kind::Conflict, m).with_hint(hint))
            };
            if !self.view(&other)?.is_running() {
                return refused(format!(
                    "Cannot link to a non running container: /{} AS /{}/{alias}",
                    other.name, record.name
                ));
            }
            let ours = |network: &str| {
                request.networks.contains_key(network)
                    || match &*request.host_config.network_mode {
                        "" | "default" => network == DEFAULT,
                        mode => network == mode,
                    }
            };
            let state = self.networks.attached(&other.id)?.unwrap_or_default();
            let joined = state.joined.iter().find(|j| ours(&j.network.name));
            let Some((joined, address)) =
                joined.and_then(|j| Some((j, *j.endpoint.addresses.first()?)))
            else {
                return refused(format!(
                    "Cannot link to /{}, as it is in no network of /{}",
                    other.name, record.name
                ));
            };
            let mut names = vec![alias];
            for name in [&*other.request.config.hostname, &*other.name] {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            links.hosts.push((address, names.join(" ")));
            if joined.network.name == DEFAULT {
                let path = format!("/{}/{alias}", record.name);
                links
                    .env
                    .extend(variables(alias, &path, address, &other.request));
            }
        }
        Ok(links)
    }

    /// Takes away the link `CONTAINER/ALIAS`. What a process has of it already stays: a container
    /// that runs is without it from its next start on.
    ///
    /// # Errors
    /// In docker's words: [`Kind::NotFound`] if there is no such link, [`Kind::Conflict`] for the
    /// name of a container.
    pub fn unlink(&self, name: &str) -> Result<()> {
        let plain = name.strip_prefix('/').unwrap_or(name);
        let Some((container, alias)) = plain.rsplit_once('/') else {
            self.find(plain)?;
            let m = "Conflict, cannot remove the default link name of the container";
            return Err(Error::new(Kind::Conflict, m).with_hint("name a link: CONTAINER/ALIAS"));
        };
        let missing = || {
            Error::new(Kind::NotFound, format!("No such container: {}", show(name)))
                .with_hint("`unlade inspect -f '{{.HostConfig.Links}}' CONTAINER` lists its links")
        };
        let record = match self.find(container) {
            Err(e) if e.kind() == Kind::NotFound => return Err(missing()),
            found => found?,
        };
        self.edit(&record.id, |_, request| {
            let links = &mut request.host_config.links;
            let before = links.len();
            links.retain(|link| parse(link).map_or(true, |(_, a)| a != alias));
            if links.len() == before {
                return Err(missing());
            }
            Ok(())
        })
    }
}

/// Docker's variables about a container that is linked to.
fn variables(alias: &str, path: &str, address: IpAddr, other: &Request) -> Vec<String> {
    let alias = alias.to_uppercase().replace('-', "_");
    let mut all = vec![format!("{alias}_NAME={path}")];
    let exposed = other.config.exposed_ports.keys();
    let mut ports: Vec<(u16, &str)> = exposed
        .filter_map(|key| {
            let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
            Some((port.parse().ok()?, protocol))
        })
        .collect();
    ports.sort_by_key(|(port, protocol)| (*port, *protocol != "tcp"));
    if let Some((port, protocol)) = ports.first() {
        all.push(format!("{alias}_PORT={protocol}://{address}:{port}"));
    }
    for (port, protocol) in ports {
        let prefix = format!("{alias}_PORT_{port}_{}", protocol.to_uppercase());
        all.push(format!("{prefix}={protocol}://{address}:{port}"));
        all.push(format!("{prefix}_ADDR={address}"));
        all.push(format!("{prefix}_PORT={port}"));
        all.push(format!("{prefix}_PROTO={protocol}"));
    }
    for (name, value) in other.config.env.iter().filter_map(|e| e.split_once('=')) {
        if !matches!(name, "HOME" | "PATH") {
            all.push(format!("{alias}_ENV_{name}={value}"));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked() {
        assert_eq!(parse("db").unwrap(), ("db", "db"));
        assert_eq!(parse("/db:store").unwrap(), ("db", "store"));
        for bad in ["", ":", "db:", ":x", "a:b:c", "a b", "db:x\n6.6.6.6"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let mut request = Request::default();
        request.host_config.links = vec!["db".to_owned()];
        check(&request).unwrap();
        for mode in ["host", "none", "container:x"] {
            mode.clone_into(&mut request.host_config.network_mode);
            assert!(check(&request).is_err(), "{mode}");
        }
    }
}
