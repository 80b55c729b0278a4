//! Networks of containers: which there are, and how containers get into them.
//!
//! What there is, and whose which address and port are, is in the store. Bridges, interfaces and
//! firewall rules are netavark's work, names that of aardvark-dns. Below the run root, which does
//! not outlive a boot, lie:
//!
//! ```text
//! RUN_ROOT/netns/ID           the namespace of a container
//! RUN_ROOT/network/ID.json    what it is attached to; written before anything is done
//! RUN_ROOT/network/lock       flock: shared to attach, exclusive to look for leftovers
//! RUN_ROOT/netavark/          whom aardvark-dns answers for
//! RUN_ROOT/renames/ID         that it gets another name: its networks may have the old one
//! ```

mod aardvark;
mod asked;
mod attach;
mod connect;
pub mod files;
pub mod flag;
mod hold;
mod ipam;
mod link;
mod manage;
mod netavark;
mod netns;
mod options;
pub mod ports;
mod record;
mod rename;
mod settings;
mod state;
mod subnet;
mod sweep;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, os::fd::OwnedFd, path::Path};

pub use self::{
    manage::NewNetwork,
    ports::Mapping,
    record::{DEFAULT, Driver, Endpoint, Network, Range},
    settings::{EndpointState, NetworkSettings},
    state::{Joined, State},
    subnet::Subnet,
    sweep::Swept,
};
use crate::{
    config,
    journal::{Journal, Object},
    spec::Ns,
    store::Store,
};

/// The networks of a store.
#[derive(Debug, Clone)]
pub struct Networks {
    store: Store,
    config: config::Network,
    programs: netavark::Programs,
    places: state::Places,
    keep_bridge: bool,
    journal: Journal,
}

/// A container, as networks know it.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its host name.
    pub hostname: &'a str,
    /// Whose network it shares with `container:…`: id and first process.
    pub other: Option<(&'a str, i32)>,
    /// For its hosts file: addresses and names of those that it is linked to.
    pub links: &'a [(IpAddr, String)],
}

/// What a container got.
#[derive(Debug)]
pub struct Attached {
    /// Its namespace.
    pub ns: Ns,
    /// How it looks in `inspect`.
    pub settings: NetworkSettings,
    /// Its addresses, for its hosts file.
    pub hosts: Vec<IpAddr>,
    /// Addresses and names of those that it is linked to.
    pub links: Vec<(IpAddr, String)>,
    /// Its gateway, for `host-gateway`.
    pub gateway: Option<IpAddr>,
    /// Who resolves names for it.
    pub dns: Dns,
    /// Sockets that keep its ports from other programs: to be held until it ends.
    pub held: Vec<OwnedFd>,
}

/// Who resolves names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dns {
    /// Those whom the host asks.
    Host,
    /// Those whom the host asks, but for servers on the host itself, which cannot be reached.
    Filtered,
    /// These, which know the names of containers.
    Servers(Vec<IpAddr>),
}

impl Networks {
    /// The networks of `store`; nothing is looked at before it is needed.
    pub fn new(store: &Store, run_root: &Path, config: &config::Network) -> Self {
        Self {
            store: store.clone(),
            config: config.clone(),
            programs: netavark::Programs::new(config),
            places: state::Places::new(run_root),
            keep_bridge: config
                .keep_bridge
                .unwrap_or_else(|| run_root == Path::new(config::RUN_ROOT)),
            journal: Journal::new(run_root),
        }
    }

    /// Tells what has happened to a network; with `container`, that it has come or gone.
    fn tell(&self, action: &str, network: &Network, container: Option<&str>) {
        let more = [
            ("name", Some(&*network.name)),
            ("type", Some(network.driver.name())),
            ("container", container),
        ];
        let attributes = more
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
        self.journal
            .note(Object::Network, &network.id, action, attributes.collect());
    }
}
