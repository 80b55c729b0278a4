//! Getting containers into networks and out of them.

use std::{net::IpAddr, path::PathBuf};

use super::{
    Attached, Dns, HostsLine, Member, Networks, hold, ipam, manage,
    netavark::{Job, Verb},
    netns,
    ports::{self, Ask},
    record::{DEFAULT, Driver, Endpoint, Network, is_name, new_id},
    settings::{EndpointState, NetworkSettings},
    state::{Joined, State},
};
use crate::{
    error::{Error, Kind, Result},
    spec::{
        Ns,
        request::{EndpointIpam, EndpointSettings, Request},
    },
    store::{NetFail, NetTx},
};

/// How the default route of the first network ranks, as netavark has it.
const METRIC: u32 = 100;

/// What `NetworkMode` means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    None,
    Host,
    /// That of the container with this name or id.
    Container(String),
    /// A network of that name.
    Network(String),
}

fn mode(request: &Request) -> Mode {
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

fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::BadInput, message)
}

/// Addresses that were asked for.
fn wanted(asked: &EndpointSettings) -> Result<Vec<IpAddr>> {
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
fn check_place(network: &Network, asked: &EndpointSettings) -> Result<()> {
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
fn asked(tx: &NetTx<'_>, request: &Request) -> Result<Vec<(Network, EndpointSettings)>, NetFail> {
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
        if network.driver != Driver::Bridge {
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
fn names(who: &Member<'_>, asked: &EndpointSettings) -> Vec<String> {
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

/// A place for a container in a network; recorded.
fn place(
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

    /// Gets a container into its networks.
    ///
    /// # Errors
    /// If a network is not there, addresses or ports are taken, or netavark is missing or fails.
    /// Nothing is left then.
    pub fn attach(&self, who: &Member<'_>, request: &Request) -> Result<Attached> {
        let simple = |ns, dns| Attached {
            ns,
            settings: NetworkSettings::default(),
            hosts: Vec::new(),
            gateway: None,
            dns,
            held: Vec::new(),
        };
        let mut attached = match mode(request) {
            Mode::None => simple(Ns::New, Dns::Filtered),
            Mode::Host => {
                let mut host = simple(Ns::Host, Dns::Host);
                host.gateway = Some(IpAddr::from([127, 0, 0, 1]));
                host
            }
            Mode::Container(name) => {
                let (id, pid) = who.other.ok_or_else(|| {
                    let m = format!("cannot join network of a non running container: {name}");
                    Error::new(Kind::Conflict, m).with_hint("start it first")
                })?;
                let own = self.places.netns(id);
                let path = if own.exists() {
                    own
                } else {
                    PathBuf::from(format!("/proc/{pid}/ns/net"))
                };
                return Ok(simple(Ns::Path(path), Dns::Host));
            }
            Mode::Network(_) => return self.bridged(who, request),
        };
        attached.settings = self.idle_settings(request)?;
        Ok(attached)
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

    /// What a container is attached to; `None` if it is to nothing.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn attached(&self, id: &str) -> Result<Option<State>> {
        self.places.read(id)
    }

    fn bridged(&self, who: &Member<'_>, request: &Request) -> Result<Attached> {
        if !is_name(who.name) || !is_name(who.id) {
            let m = format!("`{}` is no name of a container", who.name.escape_debug());
            return Err(bad(m));
        }
        self.programs.netavark()?;
        let _lock = self.places.lock(false)?;
        self.predefine()?;
        // What a run has left that nobody could undo.
        if self.places.read(who.id)?.is_some() {
            self.undo(who.id, true)?;
        }
        let (state, held) = self.take(who, request)?;
        let done = self.places.write(&state).and_then(|()| {
            let mut state = state;
            self.set_up(&mut state, request)?;
            Ok(state)
        });
        match done {
            Ok(state) => Ok(described(&self.places.netns(who.id), &state, held)),
            Err(e) => {
                if let Err(again) = self.undo(who.id, false) {
                    tracing::warn!(error = %again, "what a failed start has made was not undone");
                }
                Err(e)
            }
        }
    }

    /// Takes addresses and ports, by the records and on the host.
    pub(super) fn take(
        &self,
        who: &Member<'_>,
        request: &Request,
    ) -> Result<(State, Vec<std::os::fd::OwnedFd>)> {
        let mut ids = Vec::new();
        for _ in 0..=request.networks.len() {
            ids.push(new_id()?);
        }
        self.store.networks(false, |tx| {
            tx.forget(who.id)?;
            let mut state = State {
                id: who.id.to_owned(),
                name: who.name.to_owned(),
                hostname: who.hostname.to_owned(),
                ..State::default()
            };
            let all = asked(tx, request)?;
            for (at, (network, settings)) in all.iter().enumerate() {
                let id = ids.get(at).map(String::as_str).unwrap_or_default();
                let metric = METRIC + u32::try_from(at).unwrap_or(u32::MAX - METRIC);
                let endpoint = place(tx, who, network, settings, (at, metric), id)?;
                state.joined.push(Joined {
                    network: network.clone(),
                    endpoint,
                    publishes: false,
                });
            }
            let outside = state.joined.iter_mut().find(|j| !j.network.internal);
            let mut held = Vec::new();
            if let Some(joined) = outside {
                let asks = self::published(request, &joined.network)?;
                joined.publishes = !asks.is_empty();
                (state.ports, held) = hold::split(hold::take(tx, who.id, &asks)?);
            }
            for server in &request.host_config.dns {
                let ip = server
                    .parse()
                    .map_err(|_| bad(format!("`{}` is no address", server.escape_debug())))?;
                state.dns_servers.push(ip);
            }
            Ok((state, held))
        })
    }

    /// Makes the namespace and all that is in it.
    fn set_up(&self, state: &mut State, request: &Request) -> Result<()> {
        let netns = self.places.netns(&state.id);
        netns::create(&netns)?;
        let mut servers = Vec::new();
        for joined in &state.joined {
            servers.extend(self.netavark(Verb::Setup, state, joined)?);
        }
        state.name_servers = servers;
        state.settings = settings(&netns, state, request);
        self.places.write(state)
    }

    /// A container that is attached already, as if it were just now; without sockets that keep
    /// its ports.
    pub fn again(&self, state: &State) -> Attached {
        described(&self.places.netns(&state.id), state, Vec::new())
    }

    /// Runs netavark for one network; who answers for names there.
    fn netavark(&self, verb: Verb, state: &State, joined: &Joined) -> Result<Vec<IpAddr>> {
        netns::directory(&self.places.netavark())?;
        let networks = [(&joined.network, &joined.endpoint)];
        let job = Job {
            id: &state.id,
            name: &state.name,
            hostname: &state.hostname,
            networks: &networks,
            ports: if joined.publishes { &state.ports } else { &[] },
            dns_servers: &state.dns_servers,
        };
        let netns = self.places.netns(&state.id);
        let done = self
            .programs
            .run(verb, &self.places.netavark(), &netns, &job);
        let status = done.map_err(|e| e.context(format!("network {}", joined.network.name)))?;
        let servers = status.into_values().filter_map(|s| s.dns_server_ips);
        Ok(servers.flatten().collect())
    }

    /// Gets a container out of its networks; nothing to do is fine.
    ///
    /// # Errors
    /// If netavark is gone, or the host refuses. What could be undone is.
    pub fn detach(&self, id: &str) -> Result<()> {
        let there = self.places.netns(id).exists() || self.places.read(id)?.is_some();
        if !there {
            return Ok(());
        }
        let _lock = self.places.lock(false)?;
        self.undo(id, true)
    }

    /// Undoes what was done of an attachment. It may be `half` done: then netavark has to do it
    /// as a whole before it can undo it as a whole.
    pub(super) fn undo(&self, id: &str, half: bool) -> Result<()> {
        let netns = self.places.netns(id);
        let state = match self.places.read(id) {
            Ok(state) => state,
            // Nothing can be told of it any more; the namespace takes its interfaces with it.
            Err(e) if e.kind() == Kind::Integrity => None,
            Err(e) => return Err(e),
        };
        let mut failed = None;
        if let Some(state) = &state {
            // Without the program its rules would stay, and nobody would know of them.
            self.programs.netavark()?;
            // netavark 1 wants a namespace even where there is none to clear.
            if !netns.exists() {
                netns::create(&netns)?;
            }
            for joined in &state.joined {
                let mut done = self.netavark(Verb::Teardown, state, joined);
                if half && done.is_err() && self.netavark(Verb::Setup, state, joined).is_ok() {
                    done = self.netavark(Verb::Teardown, state, joined);
                }
                if let Err(e) = done {
                    failed.get_or_insert(e);
                }
            }
        }
        netns::remove(&netns)?;
        self.store.networks(false, |tx| tx.forget(id))?;
        self.places.forget(id)?;
        self.places.forget_half(id);
        // It complains of what is not there any more; all that was there is gone all the same.
        if let Some(e) = failed {
            tracing::debug!(error = %e, id, "netavark complains about a teardown");
        }
        Ok(())
    }

    /// Gets a running container into another network.
    ///
    /// # Errors
    /// As [`Networks::attach`]'s; [`Kind::Conflict`] if it is in it, or has no networks of ours.
    pub fn connect(
        &self,
        who: &Member<'_>,
        network: &str,
        how: &EndpointSettings,
    ) -> Result<State> {
        let _lock = self.places.lock(false)?;
        let mut state = self.places.read(who.id)?.ok_or_else(|| {
            let m = "container sharing network namespace with another container or host cannot be \
                     connected to any other network";
            Error::new(Kind::Conflict, m)
        })?;
        let used = |n: usize| {
            let name = format!("eth{n}");
            state.joined.iter().any(|j| j.endpoint.interface == name)
        };
        let interface = (0..).find(|n| !used(*n)).unwrap_or_default();
        let last = state.joined.iter().map(|j| j.endpoint.metric).max();
        let metric = last.map_or(METRIC, |m| m.saturating_add(1));
        let id = new_id()?;
        let joined = self.store.networks(false, |tx| {
            let network = manage::find(tx, network)?;
            if network.driver != Driver::Bridge {
                let m = format!("container cannot be connected to network {}", network.name);
                return Err(bad(m).into());
            }
            if state.joined.iter().any(|j| j.network.id == network.id) {
                let m = format!(
                    "endpoint with name {} already exists in network {}",
                    who.name, network.name
                );
                return Err(Error::new(Kind::Conflict, m).into());
            }
            check_place(&network, how)?;
            let endpoint = place(tx, who, &network, how, (interface, metric), &id)?;
            Ok(Joined {
                network,
                endpoint,
                publishes: false,
            })
        })?;
        state.joined.push(joined.clone());
        let done = self.places.write(&state).and_then(|()| {
            let servers = self.netavark(Verb::Setup, &state, &joined)?;
            state.name_servers.extend(servers);
            let shown = EndpointState::running(&joined.network, &joined.endpoint);
            state.settings.add(&joined.network.name, shown);
            self.places.write(&state)
        });
        match done {
            Ok(()) => Ok(state),
            Err(e) => {
                if let Err(again) = self.leave(&mut state, &joined.network.id) {
                    tracing::warn!(error = %again, "a failed connection was not undone");
                }
                Err(e)
            }
        }
    }

    /// Gets a running container out of a network. `None` if it is attached to nothing of ours.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is not in that network; [`Kind::Host`] if netavark fails.
    pub fn disconnect(&self, id: &str, network: &str) -> Result<Option<State>> {
        let _lock = self.places.lock(false)?;
        let Some(mut state) = self.places.read(id)? else {
            return Ok(None);
        };
        let joined = state.joined.iter();
        let mut found = joined.filter(|j| j.network.name == network || j.network.id == network);
        let Some(joined) = found.next().cloned() else {
            let m = format!(
                "container {} is not connected to network {network}",
                state.name
            );
            return Err(Error::new(Kind::NotFound, m));
        };
        self.leave(&mut state, &joined.network.id)?;
        Ok(Some(state))
    }

    fn leave(&self, state: &mut State, network: &str) -> Result<()> {
        let Some(at) = state.joined.iter().position(|j| j.network.id == network) else {
            return Ok(());
        };
        let done = self.netavark(Verb::Teardown, state, &state.joined[at]);
        let joined = state.joined.remove(at);
        if joined.publishes {
            state.ports.clear();
            for list in state.settings.ports.values_mut() {
                *list = None;
            }
        }
        state.settings.take(&joined.network.name);
        let gateways = joined.network.subnets.iter().map(|r| r.gateway);
        let gone: Vec<IpAddr> = gateways.collect();
        state.name_servers.retain(|s| !gone.contains(s));
        self.store
            .networks(false, |tx| tx.forget_endpoint(&state.id, network))?;
        self.places.write(state)?;
        done.map(|_| ())
    }
}

/// The ports that a request wants published through a network.
fn published(request: &Request, network: &Network) -> Result<Vec<Ask>> {
    let ip = network.option(manage::HOST_IP);
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

fn settings(netns: &std::path::Path, state: &State, request: &Request) -> NetworkSettings {
    let mut settings = NetworkSettings {
        sandbox_id: state.id.clone(),
        sandbox_key: netns.display().to_string(),
        ..NetworkSettings::default()
    };
    for joined in &state.joined {
        let shown = EndpointState::running(&joined.network, &joined.endpoint);
        settings.add(&joined.network.name, shown);
    }
    let six = state.joined.iter().any(|j| j.publishes && j.network.ipv6);
    for (port, protocol) in ports::exposed(request) {
        settings
            .ports
            .entry(format!("{port}/{protocol}"))
            .or_default();
    }
    settings.publish(&state.ports, six);
    settings
}

fn described(netns: &std::path::Path, state: &State, held: Vec<std::os::fd::OwnedFd>) -> Attached {
    let mut hosts = Vec::new();
    for joined in &state.joined {
        for address in &joined.endpoint.addresses {
            hosts.push(HostsLine {
                address: *address,
                names: vec![state.hostname.clone()],
            });
        }
    }
    let gateways = state.joined.iter().flat_map(|j| &j.network.subnets);
    let gateway = gateways.map(|r| r.gateway).next();
    let resolves = state.joined.iter().any(|j| j.network.dns) && !state.name_servers.is_empty();
    Attached {
        ns: Ns::Path(netns.to_owned()),
        settings: state.settings.clone(),
        hosts,
        gateway,
        dns: match resolves {
            true => Dns::Servers(state.name_servers.clone()),
            false => Dns::Filtered,
        },
        held,
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
        };
        let asked = EndpointSettings {
            aliases: ["db", "web", "db"].map(str::to_owned).to_vec(),
            ..EndpointSettings::default()
        };
        // Words of aardvark-dns's files only.
        assert_eq!(names(&who, &asked), ["db", "0123456789ab"]);
    }
}
