//! What a request asks of networks.

use std::net::IpAddr;

use super::{
    Member, Networks, ipam, manage, options,
    ports::{self, Ask},
    record::{DEFAULT, Endpoint, Network, is_name},
    settings::{EndpointState, NetworkSettings},
};
use crate::{
    error::{Error, Kind, Result},
    spec::request::{EndpointIpam, EndpointSettings, Request},
    store::{NetFail, NetTx},
};

/// How the default route of the first network ranks, as netavark has it.
pub(super) const METRIC: u32 = 100;

/// Longest name that can be asked for, in bytes.
const MOST_NAME: usize = 253;

/// What `NetworkMode` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    None,
    Host,
    /// That of the container with this name or id.
    Container(String),
    /// A network of that name.
    Network(String),
}

pub(super) fn mode(request: &Request) -> Mode {
    if request.config.network_disabled {
        return Mode::None;
    }
    match &*request.host_config.network_mode {
        "" | "default" => Mode::Network(DEFAULT.to_owned()),
        "none" => Mode::None,
        "host" => Mode::Host,
        text => match text.strip_prefix("container:") {
            Some(other) => Mode::Container(other.to_owned()),
            None => Mode::Network(text.to_owned()),
        },
    }
}

pub(super) fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::BadInput, message)
}

/// Addresses that were asked for.
pub(super) fn wanted(asked: &EndpointSettings) -> Result<Vec<IpAddr>> {
    let EndpointIpam { ipv4, ipv6 } = asked.ipam_config.clone().unwrap_or_default();
    let mut all = Vec::new();
    for (text, v4) in [(ipv4, true), (ipv6, false)] {
        if text.is_empty() {
            continue;
        }
        let ip = text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == v4);
        all.push(ip.ok_or_else(|| {
            let family = if v4 { "IPv4" } else { "IPv6" };
            bad(format!("`{}` is no {family} address", text.escape_debug()))
        })?);
    }
    Ok(all)
}

/// Checks what is asked of a place in a network.
pub(super) fn check_place(network: &Network, asked: &EndpointSettings) -> Result<()> {
    let wanted = wanted(asked)?;
    if network.name == DEFAULT {
        let what = if !wanted.is_empty() {
            "user specified IP address"
        } else if !asked.aliases.is_empty() {
            "network-scoped alias"
        } else {
            ""
        };
        if !what.is_empty() {
            let m = format!("{what} is supported for containers in user defined networks only");
            return Err(bad(m).with_hint("make one: `unlade network create`"));
        }
    }
    if let Some(alias) = asked.aliases.iter().find(|a| !is_name(a)) {
        let m = format!("`{}` is no alias", alias.escape_debug());
        return Err(bad(m).with_hint("letters and digits, and after the first also _ . -"));
    }
    if !asked.mac_address.is_empty() {
        ipam::mac(&asked.mac_address)?;
    }
    for ip in wanted {
        if !network.subnets.iter().any(|r| r.subnet.contains(ip)) {
            let m = format!(
                "invalid address {ip}: it is in no subnet of network {}",
                network.name
            );
            return Err(bad(m));
        }
    }
    Ok(())
}

/// The networks that a request names, with what it asks of them; that of its mode comes first.
pub(super) fn asked(
    tx: &NetTx<'_>,
    request: &Request,
) -> Result<Vec<(Network, EndpointSettings)>, NetFail> {
    let Mode::Network(first) = mode(request) else {
        return Ok(Vec::new());
    };
    let mut all = vec![(manage::find(tx, &first)?, EndpointSettings::default())];
    for (name, settings) in &request.networks {
        let name = if name == "default" { DEFAULT } else { name };
        let network = manage::find(tx, name)?;
        match all.iter_mut().find(|(n, _)| n.id == network.id) {
            Some((_, asked)) => asked.clone_from(settings),
            None => all.push((network, settings.clone())),
        }
    }
    if let (Some(mac), Some((_, first))) = (&request.config.mac_address, all.first_mut())
        && first.mac_address.is_empty()
    {
        first.mac_address.clone_from(mac);
    }
    for (network, settings) in &all {
        if !network.driver.takes_containers() {
            let m = format!(
                "container cannot be connected to network {} and to others",
                network.name
            );
            return Err(Error::new(Kind::BadInput, m).into());
        }
        check_place(network, settings)?;
    }
    Ok(all)
}

/// Names that a container has beyond its own.
pub(super) fn names(who: &Member<'_>, asked: &EndpointSettings) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let short = who.id.get(..12).unwrap_or(who.id);
    let all = asked.aliases.iter().map(|a| &**a);
    for name in all.chain([short, who.hostname]) {
        if is_name(name) && name != who.name && !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// All names that lead to a container in a network, its own first: each also with the network's
/// name behind it, as with docker.
pub(super) fn found_by(network: &Network, endpoint: &Endpoint) -> Vec<String> {
    let names = || std::iter::once(&endpoint.name).chain(&endpoint.names);
    let long = names().map(|name| format!("{name}.{}", network.name));
    let mut all: Vec<String> = Vec::new();
    for name in names().cloned().chain(long) {
        if name.len() <= MOST_NAME && !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// A place for a container in a network; recorded.
pub(super) fn place(
    tx: &NetTx<'_>,
    who: &Member<'_>,
    network: &Network,
    asked: &EndpointSettings,
    (interface, metric): (usize, u32),
    id: &str,
) -> Result<Endpoint, NetFail> {
    let taken = tx.addresses(&network.id)?;
    let addresses = ipam::addresses(network, &taken, &wanted(asked)?)?;
    let mac = match &*asked.mac_address {
        "" => ipam::hardware(&addresses)?,
        text => ipam::mac(text)?,
    };
    let endpoint = Endpoint {
        id: id.to_owned(),
        container: who.id.to_owned(),
        name: who.name.to_owned(),
        interface: format!("eth{interface}"),
        metric,
        mac,
        addresses,
        names: names(who, asked),
        asked: asked.clone(),
    };
    tx.put_endpoint(&endpoint.to_row(&network.id)?, &endpoint.addresses)?;
    Ok(endpoint)
}

/// The ports that a request wants published through a network.
pub(super) fn published(request: &Request, network: &Network) -> Result<Vec<Ask>> {
    let ip = network.option(options::HOST_IP);
    let asks = ports::asked(request, ip.and_then(|ip| ip.parse().ok()))?;
    let six = asks.iter().find_map(|a| a.host_ip.filter(IpAddr::is_ipv6));
    if let Some(ip) = six.filter(|_| !network.ipv6) {
        let m = format!(
            "cannot publish ports at {ip}: network {} has no IPv6",
            network.name
        );
        return Err(Error::new(Kind::Unsupported, m)
            .with_hint("use a network that has it: `unlade network create --ipv6`"));
    }
    Ok(asks)
}

impl Networks {
    /// Checks what a request says of networks, and puts names in the place of ids.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for networks that are not there, [`Kind::BadInput`] for what does not go
    /// together.
    pub fn check(&self, request: &mut Request) -> Result<()> {
        let mode = mode(request);
        let conflict = |what: &str, with: &str| {
            Err(bad(format!(
                "conflicting options: {what} and the {with} network mode"
            )))
        };
        let Mode::Network(_) = &mode else {
            let with = match &mode {
                Mode::None => "none",
                Mode::Host => "host",
                _ => "container",
            };
            let own = |name: &str| {
                matches!(name, "none" | "host" | "default")
                    || name == request.host_config.network_mode
            };
            if let Some(name) = request.networks.keys().find(|n| !own(n)) {
                return conflict(&format!("network {}", name.escape_debug()), with);
            }
            if let Mode::Container(_) = &mode {
                let host = &request.host_config;
                for (is, what) in [
                    (!host.port_bindings.is_empty(), "port publishing"),
                    (host.publish_all_ports, "port publishing"),
                    (!host.dns.is_empty(), "dns"),
                    (!host.extra_hosts.is_empty(), "custom host-to-IP mapping"),
                    (request.config.mac_address.is_some(), "mac-address"),
                ] {
                    if is {
                        return conflict(what, with);
                    }
                }
            }
            return Ok(());
        };
        self.predefine()?;
        ports::asked(request, None)?;
        let all = self.store.read_networks(|tx| asked(tx, request))?;
        let host_mode = &mut request.host_config.network_mode;
        if !matches!(&**host_mode, "" | "default")
            && let Some((first, _)) = all.first()
        {
            host_mode.clone_from(&first.name);
        }
        let named = !request.networks.is_empty();
        request.networks = all
            .into_iter()
            .filter(|_| named)
            .map(|(network, settings)| (network.name, settings))
            .collect();
        Ok(())
    }

    /// How the networks of a container look in `inspect` that does not run.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn idle_settings(&self, request: &Request) -> Result<NetworkSettings> {
        let mut settings = NetworkSettings::default();
        let mode = mode(request);
        if let Mode::Container(_) = mode {
            return Ok(settings);
        }
        let mut wanted = request.networks.clone();
        let first = match mode {
            Mode::None => "none".to_owned(),
            Mode::Host => "host".to_owned(),
            Mode::Network(name) => name,
            Mode::Container(_) => String::new(),
        };
        if let Some(asked) = wanted.remove("default") {
            wanted.insert(first.clone(), asked);
        }
        wanted.entry(first).or_default();
        self.store.read_networks(|tx| {
            for (name, asked) in &wanted {
                // Removed since, it still is what the container asks for.
                let id = tx.network(name)?.map(|row| row.id).unwrap_or_default();
                settings.add(name, EndpointState::idle(&id, asked));
            }
            Ok(())
        })?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let mut request = Request::default();
        for (text, want) in [
            ("", Mode::Network("bridge".to_owned())),
            ("default", Mode::Network("bridge".to_owned())),
            ("bridge", Mode::Network("bridge".to_owned())),
            ("none", Mode::None),
            ("host", Mode::Host),
            ("container:x", Mode::Container("x".to_owned())),
            ("mine", Mode::Network("mine".to_owned())),
        ] {
            text.clone_into(&mut request.host_config.network_mode);
            assert_eq!(mode(&request), want, "{text}");
        }
        request.config.network_disabled = true;
        assert_eq!(mode(&request), Mode::None);
    }

    #[test]
    fn names_that_resolve() {
        let who = Member {
            id: "0123456789abcdef",
            name: "web",
            hostname: "no good,name",
            other: None,
            links: &[],
        };
        let asked = EndpointSettings {
            aliases: ["db", "web", "db"].map(str::to_owned).to_vec(),
            ..EndpointSettings::default()
        };
        // Words of aardvark-dns's files only.
        assert_eq!(names(&who, &asked), ["db", "0123456789ab"]);
        let network = Network {
            name: "back.end".to_owned(),
            ..Network::default()
        };
        let endpoint = Endpoint {
            name: "web".to_owned(),
            names: vec!["db".to_owned(), "l".repeat(250)],
            ..Endpoint::default()
        };
        assert_eq!(
            found_by(&network, &endpoint),
            ["web", "db", &"l".repeat(250), "web.back.end", "db.back.end"]
        );
    }
}
