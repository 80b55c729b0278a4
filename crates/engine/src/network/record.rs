//! What is known about networks and about who is in them.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::subnet::Subnet;
use crate::{
    error::{Error, Kind, Result},
    spec::request::EndpointSettings,
    store::{EndpointRow, NetworkRow},
};

/// How a network works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// A bridge of its own, with translated addresses to the outside.
    #[default]
    Bridge,
    /// Interfaces of their own beside one of the host's, its parent: containers are in the
    /// network that the parent leads to, and the host does not come between.
    Macvlan,
    /// The host's own network.
    Host,
    /// No network.
    Null,
}

impl Driver {
    /// Docker's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Host => "host",
            Self::Null => "null",
        }
    }

    /// Whether containers get an interface in it, which netavark makes.
    pub(super) fn takes_containers(self) -> bool {
        matches!(self, Self::Bridge | Self::Macvlan)
    }
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Range {
    /// All addresses.
    pub subnet: Subnet,
    /// The host's address in it; with macvlan that of the parent's network's router.
    pub gateway: IpAddr,
    /// Those that containers get without asking; all if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Subnet>,
    /// Addresses that no container gets, with what they are for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reserved: BTreeMap<String, IpAddr>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Network {
    /// 64 hex digits.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// When it was made, as RFC 3339.
    pub created: String,
    /// How it works.
    pub driver: Driver,
    /// Its subnets, at most one of each family.
    pub subnets: Vec<Range>,
    /// Name of the bridge, or of the parent.
    pub interface: String,
    /// Whether nothing outside can be reached from it.
    pub internal: bool,
    /// Whether it has an IPv6 subnet.
    pub ipv6: bool,
    /// Whether names of containers resolve in it.
    pub dns: bool,
    /// What `--attachable` said; without a swarm it means nothing.
    pub attachable: bool,
    /// As they were given.
    pub options: BTreeMap<String, String>,
    /// For people and programs.
    pub labels: BTreeMap<String, String>,
}

/// Name of the network that containers are in unless they say otherwise.
pub const DEFAULT: &str = "bridge";

impl Network {
    /// Whether it is one of those that are always there.
    pub fn is_predefined(&self) -> bool {
        matches!(&*self.name, DEFAULT | "host" | "none")
    }

    pub(super) fn to_row(&self) -> Result<NetworkRow> {
        Ok(NetworkRow {
            id: self.id.clone(),
            name: self.name.clone(),
            record: json(self)?,
        })
    }

    pub(super) fn from_row(row: &NetworkRow) -> Result<Self> {
        parse(&row.record, "network", &row.name)
    }

    /// An option by any of its names.
    pub(super) fn option(&self, names: &[&str]) -> Option<&str> {
        names
            .iter()
            .find_map(|name| self.options.get(*name))
            .map(String::as_str)
    }
}

/// A container's place in a network, while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Endpoint {
    /// 64 hex digits.
    pub id: String,
    /// The container's id.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// Name of the interface in the container.
    pub interface: String,
    /// How its default route ranks, the lowest being used.
    pub metric: u32,
    /// Its hardware address.
    pub mac: String,
    /// Its addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Names that resolve to it there, besides the container's.
    pub names: Vec<String>,
    /// What was asked for.
    pub asked: EndpointSettings,
}

impl Endpoint {
    pub(super) fn to_row(&self, network: &str) -> Result<EndpointRow> {
        Ok(EndpointRow {
            container: self.container.clone(),
            network: network.to_owned(),
            record: json(self)?,
        })
    }

    pub(super) fn from_row(row: &EndpointRow) -> Result<Self> {
        parse(
            &row.record,
            "place in a network of container",
            &row.container,
        )
    }

    /// Its address in a subnet.
    pub fn address_in(&self, subnet: &Subnet) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| subnet.contains(*a))
    }
}

pub(super) fn json<T: Serialize>(of: &T) -> Result<String> {
    serde_json::to_string(of).map_err(|e| Error::new(Kind::Bug, format!("write JSON: {e}")))
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, what: &str, name: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        let m = format!("the store's record of {what} {name} is damaged: {e}");
        Error::new(Kind::Integrity, m).with_hint("remove it and make it anew")
    })
}

/// Whether `text` may name a network or a container there: these names are parts of file names,
/// and words of aardvark-dns's files.
pub(super) fn is_name(text: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|b| b.is_ascii_alphanumeric())
        && text.len() <= 255
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}
