//! How a container's networks look in `inspect`, in the shapes of Docker's API.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    ports::Mapping,
    record::{DEFAULT, Endpoint, Network},
};
use crate::spec::request::{EndpointIpam, EndpointSettings, PortBinding};

/// Docker's `NetworkSettings`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    /// Always empty.
    pub bridge: String,
    /// The container's id, if it has a namespace of ours.
    #[serde(rename = "SandboxID")]
    pub sandbox_id: String,
    /// Path of the namespace.
    pub sandbox_key: String,
    /// `port/protocol` to where it is published; `null` if it is exposed only.
    pub ports: BTreeMap<String, Option<Vec<PortBinding>>>,
    /// Of the network `bridge`, as are those below.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// IPv4 gateway.
    pub gateway: String,
    /// IPv6 address.
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    /// Its prefix.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    /// IPv4 address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Its prefix.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// IPv6 gateway.
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    /// Hardware address.
    pub mac_address: String,
    /// By the network's name.
    pub networks: BTreeMap<String, EndpointState>,
}

/// Docker's `EndpointSettings`, with what it became.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EndpointState {
    /// What was asked for.
    #[serde(rename = "IPAMConfig")]
    pub ipam_config: Option<EndpointIpam>,
    /// Not supported, always `null`.
    pub links: Option<Vec<String>>,
    /// Further names.
    pub aliases: Option<Vec<String>>,
    /// Hardware address.
    pub mac_address: String,
    /// Not supported, always `null`.
    pub driver_opts: Option<BTreeMap<String, String>>,
    /// Not supported, always 0.
    pub gw_priority: i64,
    /// The network's id.
    #[serde(rename = "NetworkID")]
    pub network_id: String,
    /// The endpoint's id.
    #[serde(rename = "EndpointID")]
    pub endpoint_id: String,
    /// IPv4 gateway.
    pub gateway: String,
    /// IPv4 address.
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    /// Its prefix.
    #[serde(rename = "IPPrefixLen")]
    pub ip_prefix_len: u8,
    /// IPv6 gateway.
    #[serde(rename = "IPv6Gateway")]
    pub ipv6_gateway: String,
    /// IPv6 address.
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    /// Its prefix.
    #[serde(rename = "GlobalIPv6PrefixLen")]
    pub global_ipv6_prefix_len: u8,
    /// Names that resolve to it in the network.
    #[serde(rename = "DNSNames")]
    pub dns_names: Option<Vec<String>>,
}

impl EndpointState {
    /// Of a container that does not run.
    pub(super) fn idle(network_id: &str, asked: &EndpointSettings) -> Self {
        Self {
            ipam_config: asked.ipam_config.clone(),
            aliases: (!asked.aliases.is_empty()).then(|| asked.aliases.clone()),
            mac_address: asked.mac_address.clone(),
            network_id: network_id.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn running(network: &Network, endpoint: &Endpoint) -> Self {
        let mut state = Self::idle(&network.id, &endpoint.asked);
        state.endpoint_id.clone_from(&endpoint.id);
        state.mac_address.clone_from(&endpoint.mac);
        if network.dns {
            let mut names = vec![endpoint.name.clone()];
            names.extend(endpoint.names.iter().cloned());
            state.dns_names = Some(names);
        }
        for range in &network.subnets {
            let Some(address) = endpoint.address_in(&range.subnet) else {
                continue;
            };
            let gateway = if network.internal {
                String::new()
            } else {
                range.gateway.to_string()
            };
            match address {
                IpAddr::V4(a) => {
                    state.ip_address = a.to_string();
                    state.ip_prefix_len = range.subnet.prefix();
                    state.gateway = gateway;
                }
                IpAddr::V6(a) => {
                    state.global_ipv6_address = a.to_string();
                    state.global_ipv6_prefix_len = range.subnet.prefix();
                    state.ipv6_gateway = gateway;
                }
            }
        }
        state
    }
}

impl NetworkSettings {
    /// Adds a network, and with `bridge` the fields that are its.
    pub(super) fn add(&mut self, name: &str, state: EndpointState) {
        if name == DEFAULT {
            self.endpoint_id.clone_from(&state.endpoint_id);
            self.gateway.clone_from(&state.gateway);
            self.global_ipv6_address
                .clone_from(&state.global_ipv6_address);
            self.global_ipv6_prefix_len = state.global_ipv6_prefix_len;
            self.ip_address.clone_from(&state.ip_address);
            self.ip_prefix_len = state.ip_prefix_len;
            self.ipv6_gateway.clone_from(&state.ipv6_gateway);
            self.mac_address.clone_from(&state.mac_address);
        }
        self.networks.insert(name.to_owned(), state);
    }

    /// Takes a network out again.
    pub(super) fn take(&mut self, name: &str) {
        self.networks.remove(name);
        if name == DEFAULT {
            let old = std::mem::take(self);
            *self = Self {
                sandbox_id: old.sandbox_id,
                sandbox_key: old.sandbox_key,
                ports: old.ports,
                networks: old.networks,
                ..Self::default()
            };
        }
    }

    /// Shows where ports are published.
    pub(super) fn publish(&mut self, mappings: &[Mapping], six: bool) {
        for m in mappings {
            let key = format!("{}/{}", m.container_port, m.protocol);
            let list = self.ports.entry(key).or_default();
            let addresses = match m.host_ip {
                Some(ip) => vec![ip.to_string()],
                None if six => vec!["0.0.0.0".to_owned(), "::".to_owned()],
                None => vec!["0.0.0.0".to_owned()],
            };
            let host_port = m.host_port.to_string();
            let bindings = addresses.into_iter().map(|host_ip| PortBinding {
                host_ip,
                host_port: host_port.clone(),
            });
            list.get_or_insert_default().extend(bindings);
        }
    }
}
