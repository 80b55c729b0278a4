//! Networks themselves: making, finding and removing them.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Networks, ipam, link, options,
    record::{DEFAULT, Driver, Endpoint, Network, Range, is_name},
    subnet::Subnet,
};
use crate::{
    error::{Error, Kind, Result},
    journal::Object,
    store::{NetFail, NetTx, random_id},
};

/// Most networks of a store.
const MOST: usize = 4096;

/// What `network create` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewNetwork {
    /// What people call it.
    pub name: String,
    /// `bridge`, or empty for it, or `macvlan`.
    pub driver: String,
    /// Subnets; what is missing is chosen.
    pub subnets: Vec<String>,
    /// Gateways, each in one of the subnets.
    pub gateways: Vec<String>,
    /// Parts of the subnets that addresses come from.
    pub ranges: Vec<String>,
    /// Addresses that nobody gets, by what they are for.
    pub reserved: BTreeMap<String, String>,
    /// Whether nothing outside can be reached.
    pub internal: bool,
    /// Whether it has IPv6.
    pub ipv6: bool,
    /// Whether names of containers do not resolve.
    pub no_dns: bool,
    /// Means nothing without a swarm.
    pub attachable: bool,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// For people and programs.
    pub labels: BTreeMap<String, String>,
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::BadInput, message)
}

/// The subnets that were asked for, without those that are to be chosen.
fn given(new: &NewNetwork) -> Result<Vec<Range>> {
    let mut all: Vec<Range> = Vec::new();
    for text in &new.subnets {
        let subnet: Subnet = text.parse()?;
        let address = text
            .split('/')
            .next()
            .and_then(|a| a.parse::<IpAddr>().ok());
        if address.is_some_and(|a| a.is_loopback() || a.is_multicast()) {
            return Err(bad(format!("no network can have the subnet {subnet}")));
        }
        if all.iter().any(|r| r.subnet.is_v4() == subnet.is_v4()) {
            let m = "a network has at most one subnet of IPv4 and one of IPv6";
            return Err(Error::new(Kind::Unsupported, m));
        }
        all.push(Range {
            subnet,
            gateway: ipam::gateway(&subnet)?,
            range: None,
            reserved: BTreeMap::new(),
        });
    }
    let address = |text: &str| -> Result<IpAddr> {
        text.parse()
            .map_err(|_| bad(format!("`{}` is no address", text.escape_debug())))
    };
    let find = |all: &mut Vec<Range>, first: IpAddr, what: &str| -> Result<usize> {
        let found = all.iter().position(|r| r.subnet.contains(first));
        found.ok_or_else(|| {
            bad(format!("no matching subnet for {what} {first}"))
                .with_hint("give the subnet too: --subnet")
        })
    };
    for text in &new.gateways {
        let gateway = address(text)?;
        let at = find(&mut all, gateway, "gateway")?;
        if !all[at].subnet.is_host(gateway) {
            let subnet = all[at].subnet;
            return Err(bad(format!("{gateway} can be no gateway of {subnet}")));
        }
        all[at].gateway = gateway;
    }
    for text in &new.ranges {
        let range: Subnet = text.parse()?;
        let at = find(&mut all, range.first(), "range")?;
        if !all[at].subnet.holds(&range) {
            let subnet = all[at].subnet;
            return Err(bad(format!("the range {range} goes beyond {subnet}")));
        }
        all[at].range = Some(range);
    }
    for (name, text) in &new.reserved {
        let reserved = address(text)?;
        let at = find(&mut all, reserved, "aux-address")?;
        all[at].reserved.insert(name.clone(), reserved);
    }
    Ok(all)
}

fn predefined(name: &str, driver: Driver, id: String, created: &str) -> Network {
    Network {
        name: name.to_owned(),
        driver,
        id,
        created: created.to_owned(),
        ..Network::default()
    }
}

impl Networks {
    /// Makes a network.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for what cannot be, [`Kind::Conflict`] if the name or the subnet is
    /// taken, [`Kind::Unsupported`] for drivers and options that are not known.
    pub fn create(&self, new: &NewNetwork) -> Result<Network> {
        if !is_name(&new.name) {
            let m = format!("`{}` is no name for a network", new.name.escape_debug());
            return Err(bad(m).with_hint("letters and digits, and after the first also _ . -"));
        }
        let driver = match &*new.driver {
            "" | "bridge" => Driver::Bridge,
            "macvlan" => Driver::Macvlan,
            other => {
                let m = format!("network driver `{}` is not supported", other.escape_debug());
                return Err(
                    Error::new(Kind::Unsupported, m).with_hint("there are bridge and macvlan")
                );
            }
        };
        if matches!(
            &*new.name,
            DEFAULT | "host" | "none" | "default" | "container"
        ) {
            let m = format!(
                "operation is not permitted on predefined {} network",
                new.name
            );
            return Err(Error::new(Kind::Denied, m).with_hint("choose another name"));
        }
        options::check(driver, &new.options)?;
        let given = given(new)?;
        let network = Network {
            id: random_id()?,
            name: new.name.clone(),
            created: now(),
            driver,
            internal: new.internal,
            // Who answers for names does so at the host's address in a bridge.
            dns: driver == Driver::Bridge && !new.no_dns,
            attachable: new.attachable,
            options: new.options.clone(),
            labels: new.labels.clone(),
            ..Network::default()
        };
        self.predefine()?;
        let pools = &self.config.address_pools;
        let made = self.store.networks(true, |tx| {
            let mut network = network.clone();
            network.subnets.clone_from(&given);
            let all = all(tx)?;
            if all.len() >= MOST {
                return Err(Error::new(Kind::Limit, "there are too many networks").into());
            }
            complete(&mut network, new.ipv6, pools, &all)?;
            tx.insert(&network.to_row()?)?;
            Ok(network)
        })?;
        self.store.copy_network(&made.to_row()?);
        self.tell("create", &made, None);
        Ok(made)
    }

    /// Sees to it that the networks are there which always are.
    pub(super) fn predefine(&self) -> Result<()> {
        let there = |tx: &NetTx<'_>| Ok::<_, NetFail>(tx.network(DEFAULT)?.is_some());
        if self.store.read_networks(there)? {
            return Ok(());
        }
        let created = now();
        let ids = [random_id()?, random_id()?, random_id()?];
        let pools = &self.config.address_pools;
        let made = self.store.networks(true, |tx| {
            if there(tx)? {
                return Ok(Vec::new());
            }
            let [bridge, host, none] = ids.clone();
            let mut bridge = predefined(DEFAULT, Driver::Bridge, bridge, &created);
            complete(&mut bridge, false, pools, &all(tx)?)?;
            let made = vec![
                bridge.to_row()?,
                predefined("host", Driver::Host, host, &created).to_row()?,
                predefined("none", Driver::Null, none, &created).to_row()?,
            ];
            made.iter().try_for_each(|row| tx.insert(row))?;
            Ok(made)
        })?;
        made.iter().for_each(|row| self.store.copy_network(row));
        Ok(())
    }

    /// All networks, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn list(&self) -> Result<Vec<Network>> {
        self.predefine()?;
        self.store.read_networks(all)
    }

    /// The network of that name, of that id, or whose id begins so.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or [`Kind::Conflict`] for the beginning of several ids.
    pub fn find(&self, text: &str) -> Result<Network> {
        self.predefine()?;
        self.store.read_networks(|tx| find(tx, text))
    }

    /// Who is in a network now.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn members(&self, network: &Network) -> Result<Vec<Endpoint>> {
        self.store.read_networks(|tx| members(tx, &network.id))
    }

    /// Removes a network that nobody is in.
    ///
    /// # Errors
    /// As [`Networks::find`]'s; [`Kind::Conflict`] if it is in use, [`Kind::Denied`] for one that
    /// is always there.
    pub fn remove(&self, text: &str) -> Result<Network> {
        self.predefine()?;
        let removed = self.store.networks(true, |tx| {
            let network = find(tx, text)?;
            if network.is_predefined() {
                let m = format!(
                    "{} is a pre-defined network and cannot be removed",
                    network.name
                );
                return Err(Error::new(Kind::Denied, m).into());
            }
            let members = members(tx, &network.id)?;
            if !members.is_empty() {
                let names: Vec<&str> = members.iter().map(|m| &*m.name).collect();
                let m = format!(
                    "network {} has active endpoints: {}",
                    network.name,
                    names.join(", ")
                );
                return Err(Error::new(Kind::Conflict, m)
                    .with_hint("stop these containers, or `unlade network disconnect` them")
                    .into());
            }
            tx.delete(&network.id)?;
            Ok(network)
        })?;
        self.store.forget_network_copy(&removed.id);
        self.tell("destroy", &removed, None);
        Ok(removed)
    }

    /// Removes all networks that nobody is in and that `wanted` is true for.
    ///
    /// # Errors
    /// If the store cannot be written, or from `wanted`.
    pub fn prune(&self, wanted: &dyn Fn(&Network) -> Result<bool>) -> Result<Vec<String>> {
        self.predefine()?;
        let removed = self.store.networks(true, |tx| {
            let mut removed = Vec::new();
            for network in all(tx)? {
                let idle = !network.is_predefined() && members(tx, &network.id)?.is_empty();
                if idle && wanted(&network)? {
                    tx.delete(&network.id)?;
                    removed.push(network);
                }
            }
            Ok(removed)
        })?;
        let forget = |network: Network| {
            self.store.forget_network_copy(&network.id);
            self.tell("destroy", &network, None);
            network.name
        };
        let removed = removed.into_iter().map(forget).collect();
        self.journal.note_prune(Object::Network, 0);
        Ok(removed)
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

pub(super) fn all(tx: &NetTx<'_>) -> Result<Vec<Network>, NetFail> {
    let rows = tx.networks()?;
    Ok(rows.iter().map(Network::from_row).collect::<Result<_>>()?)
}

fn members(tx: &NetTx<'_>, id: &str) -> Result<Vec<Endpoint>, NetFail> {
    let rows = tx.endpoints(id)?;
    Ok(rows.iter().map(Endpoint::from_row).collect::<Result<_>>()?)
}

pub(super) fn find(tx: &NetTx<'_>, text: &str) -> Result<Network, NetFail> {
    if let Some(row) = tx.network(text)? {
        return Ok(Network::from_row(&row)?);
    }
    let hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let rows = if hex { tx.networks()? } else { Vec::new() };
    let mut found = rows.iter().filter(|r| r.id.starts_with(text));
    match (found.next(), found.next()) {
        (Some(row), None) => Ok(Network::from_row(row)?),
        (Some(_), Some(_)) => {
            let m = format!("network {text} is ambiguous: several ids begin so");
            Err(Error::new(Kind::Conflict, m)
                .with_hint("give more digits")
                .into())
        }
        _ => {
            let m = format!("network {} not found", text.escape_debug());
            Err(Error::new(Kind::NotFound, m)
                .with_hint("`unlade network ls` lists those that there are")
                .into())
        }
    }
}

/// Chooses what was left open: subnets and the bridge's name.
fn complete(network: &mut Network, six: bool, pools: &[String], all: &[Network]) -> Result<()> {
    let ranges = all.iter().flat_map(|n| &n.subnets);
    let mut taken: Vec<Subnet> = ranges.map(|r| r.subnet).collect();
    for range in &network.subnets {
        if let Some(other) = taken.iter().find(|t| t.overlaps(&range.subnet)) {
            let m = format!("Pool overlaps with other one on this address space: {other}");
            return Err(Error::new(Kind::Conflict, m)
                .with_hint("`unlade network ls` and `inspect` show which network has it"));
        }
    }
    taken.extend(ipam::routed());
    taken.extend(network.subnets.iter().map(|r| r.subnet));
    let has = |n: &Network, v4| n.subnets.iter().any(|r| r.subnet.is_v4() == v4);
    for v4 in [true, false] {
        if !has(network, v4) && (v4 || six) {
            let subnet = ipam::free_subnet(pools, !v4, &taken)?;
            network.subnets.push(Range {
                subnet,
                gateway: ipam::gateway(&subnet)?,
                range: None,
                reserved: BTreeMap::new(),
            });
        }
    }
    network.subnets.sort_by_key(|r| !r.subnet.is_v4());
    network.ipv6 = has(network, false);
    network.interface = match network.driver {
        Driver::Macvlan => parent(network, all)?,
        _ => bridge(network, all)?,
    };
    Ok(())
}

/// The name of the bridge of a network.
fn bridge(network: &Network, all: &[Network]) -> Result<String> {
    let taken = |name: &str| all.iter().any(|n| n.interface == name);
    if let Some(name) = network.option(options::INTERFACE) {
        if taken(name) {
            let m = format!("another network has the bridge {name}");
            return Err(Error::new(Kind::Conflict, m));
        }
        return Ok(name.to_owned());
    }
    // Other stores on this machine may have it.
    if network.name == DEFAULT && !link::exists("unlade0") {
        return Ok("unlade0".to_owned());
    }
    let id = network.id.get(..12).unwrap_or_default();
    Ok(format!("ul-{id}"))
}

/// The host's interface beside which those of a network's containers are.
fn parent(network: &Network, all: &[Network]) -> Result<String> {
    let Some(name) = network.option(options::PARENT) else {
        let m = "a macvlan network needs an interface of the host as its parent";
        return Err(bad(m).with_hint("-o parent=NAME; `ip link` lists them"));
    };
    if let Some(other) = all.iter().find(|n| n.interface == name) {
        let m = format!("network {} has the interface {name}", other.name);
        return Err(
            Error::new(Kind::Conflict, m).with_hint("containers can be in that network: --network")
        );
    }
    if !link::exists(name) {
        let m = format!("the parent {name} is no interface of this host");
        return Err(Error::new(Kind::NotFound, m).with_hint(
            "`ip link` lists them; that of a VLAN has to be made first: \
             ip link add link eth0 name eth0.10 type vlan id 10",
        ));
    }
    Ok(name.to_owned())
}
