//! Getting containers into their networks and out of them.

use std::{
    fs, io,
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{
    Attached, Dns, Member, Networks,
    asked::{METRIC, Mode, asked, bad, mode, place, published},
    hold, link,
    netavark::{self, Job, Verb},
    netns, options, ports,
    record::{DEFAULT, Driver, Network, is_name},
    settings::{EndpointState, NetworkSettings},
    state::{Joined, State},
};
use crate::{
    error::{Error, Kind, Result},
    spec::{Ns, request::Request},
    store::random_id,
};

impl Networks {
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
            links: Vec::new(),
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
        refuse_ordinary()?;
        self.programs.netavark()?;
        let _lock = self.places.lock(false)?;
        self.predefine()?;
        // What a run has left that nobody could undo.
        if self.places.read(who.id)?.is_some() {
            self.undo(who.id)?;
        }
        let (state, held) = self.take(who, request)?;
        let done = self.places.write(&state).and_then(|()| {
            let mut state = state;
            self.set_up(&mut state, request)?;
            Ok(state)
        });
        match done {
            Ok(state) => {
                for joined in &state.joined {
                    self.tell("connect", &joined.network, Some(who.id));
                }
                Ok(described(&self.places.netns(who.id), &state, held))
            }
            Err(e) => {
                if let Err(again) = self.undo(who.id) {
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
    ) -> Result<(State, Vec<OwnedFd>)> {
        let mut ids = Vec::new();
        for _ in 0..=request.networks.len() {
            ids.push(random_id()?);
        }
        self.store.networks(false, |tx| {
            tx.forget(who.id)?;
            let mut state = State {
                id: who.id.to_owned(),
                name: who.name.to_owned(),
                hostname: who.hostname.to_owned(),
                links: who.links.to_owned(),
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
            let outside = |n: &Network| n.driver == Driver::Bridge && !n.internal;
            let outside = state.joined.iter_mut().find(|j| outside(&j.network));
            let mut held = Vec::new();
            if let Some(joined) = outside {
                let asks = published(request, &joined.network)?;
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
    pub(super) fn netavark(
        &self,
        verb: Verb,
        state: &State,
        joined: &Joined,
    ) -> Result<Vec<IpAddr>> {
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
        if verb == Verb::Setup {
            pin(&joined.network)?;
        }
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
        let state = self.places.read(id).ok().flatten();
        self.undo(id)?;
        for joined in state.iter().flat_map(|s| &s.joined) {
            self.tell("disconnect", &joined.network, Some(id));
        }
        Ok(())
    }

    /// Undoes what was done of an attachment.
    pub(super) fn undo(&self, id: &str) -> Result<()> {
        let netns = self.places.netns(id);
        let state = match self.places.read(id) {
            Ok(state) => state,
            // Nothing can be told of it any more; the namespace takes its interfaces with it.
            Err(e) if e.kind() == Kind::Integrity => None,
            Err(e) => return Err(e),
        };
        let done = match &state {
            // What does not go like this netavark takes away.
            Some(state) if self.bridge_stays(state) && self.take_interfaces(state).is_ok() => {
                Ok(())
            }
            Some(state) => self.tear_down(state)?,
            None => Ok(()),
        };
        netns::remove(&netns)?;
        self.store.networks(false, |tx| tx.forget(id))?;
        self.places.forget(id)?;
        self.places.forget_half(id);
        // It complains of what is not there any more; all that was there is gone all the same.
        if let Err(e) = done {
            tracing::debug!(error = %e, id, "netavark complains about a teardown");
        }
        Ok(())
    }
}

impl Networks {
    /// Has netavark undo all that it did; its first complaint is in the inner result.
    fn tear_down(&self, state: &State) -> Result<Result<()>> {
        // Without the program its rules would stay, and nobody would know of them.
        self.programs.netavark()?;
        let netns = self.places.netns(&state.id);
        // netavark 1 wants a namespace even where there is none to clear.
        if !netns.exists() {
            netns::create(&netns)?;
        }
        let mut result = Ok(());
        for joined in &state.joined {
            result = result.and(self.undo_one(state, joined));
        }
        Ok(result)
    }

    /// Has netavark undo what it did in one network. That may be half of it: it, or what it runs,
    /// may have been killed while it did it or undid it.
    fn undo_one(&self, state: &State, joined: &Joined) -> Result<()> {
        let began = Instant::now();
        let undo = || self.netavark(Verb::Teardown, state, joined).map(drop);
        let hangs = || began.elapsed() >= netavark::PATIENCE;
        // First for one that was killed before it had undone the interface. Without an interface
        // it leaves the bridge and its rules: it has to do all again before it can undo all.
        for whole in [false, true] {
            match undo() {
                Err(_) if !hangs() => {}
                done => return done,
            }
            if whole && let Err(e) = self.netavark(Verb::Setup, state, joined) {
                tracing::debug!(error = %e, id = state.id, "netavark does not do it again");
            }
        }
        undo()
    }

    /// Takes its interfaces away.
    fn take_interfaces(&self, state: &State) -> Result<()> {
        let netns = self.places.netns(&state.id);
        for joined in &state.joined {
            netns::remove_interface(&netns, &joined.endpoint.interface)?;
            // What later versions of netavark write for a firewall that is started anew.
            let note = format!("firewall/ports/{}_{}", joined.network.id, state.id);
            let note = self.places.netavark().join(note);
            match fs::remove_file(&note) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::host(format!("remove `{}`", note.display()), e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether its interfaces and its namespace are all that has to go. netavark takes the bridge
    /// and the rules of a network away with the last container, call by call of `iptables`; those
    /// of the default network are wanted again by the next one. What a container alone has there,
    /// its ports and its names, is netavark's to undo, as is what was not done to its end.
    fn bridge_stays(&self, state: &State) -> bool {
        let whole = !state.settings.sandbox_id.is_empty();
        let plain = |j: &Joined| j.network.name == DEFAULT && !j.network.dns && !j.publishes;
        self.keep_bridge && whole && state.joined.iter().all(plain)
    }
}

/// Gives a bridge of ours a hardware address that stays, of its gateway's.
fn pin(network: &Network) -> Result<()> {
    let gateway = network.subnets.first().map(|r| r.gateway);
    let tail = match gateway {
        // One that was named may have been there before, with an address of its own.
        _ if network.option(options::INTERFACE).is_some() => return Ok(()),
        _ if network.driver != Driver::Bridge => return Ok(()),
        Some(IpAddr::V4(ip)) => ip.octets(),
        Some(IpAddr::V6(ip)) => ip.octets().last_chunk().copied().unwrap_or_default(),
        None => return Ok(()),
    };
    let [a, b, c, d] = tail;
    link::set_address(&network.interface, [0x02, 0x42, a, b, c, d]).map_err(|e| {
        let doing = format!("set the hardware address of `{}`", network.interface);
        Error::host(doing, e)
    })
}

/// Bridges and rules of the firewall are for root alone.
pub(super) fn refuse_ordinary() -> Result<()> {
    if crate::user::ordinary().is_none() {
        return Ok(());
    }
    let m = "networks of containers need root";
    Err(Error::new(Kind::Unsupported, m)
        .with_hint("--network none and --network host do not: the latter is the network you use"))
}

fn settings(netns: &Path, state: &State, request: &Request) -> NetworkSettings {
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

fn described(netns: &Path, state: &State, held: Vec<OwnedFd>) -> Attached {
    let joined = state.joined.iter();
    let hosts = joined.flat_map(|j| &j.endpoint.addresses).copied();
    // That of another kind of network is not the host's.
    let bridges = state.joined.iter().map(|j| &j.network);
    let bridges = bridges.filter(|n| n.driver == Driver::Bridge);
    let gateway = bridges.flat_map(|n| &n.subnets).map(|r| r.gateway).next();
    let resolves = state.joined.iter().any(|j| j.network.dns) && !state.name_servers.is_empty();
    Attached {
        ns: Ns::Path(netns.to_owned()),
        settings: state.settings.clone(),
        hosts: hosts.collect(),
        links: state.links.clone(),
        gateway,
        dns: match resolves {
            true => Dns::Servers(state.name_servers.clone()),
            false => Dns::Filtered,
        },
        held,
    }
}
