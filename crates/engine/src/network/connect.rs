//! Getting running containers into further networks, and out of some.

use std::net::IpAddr;

use super::{
    Member, Networks,
    asked::{METRIC, bad, check_place, place},
    attach::refuse_ordinary,
    manage,
    netavark::Verb,
    settings::EndpointState,
    state::{Joined, State},
};
use crate::{
    error::{Error, Kind, Result},
    spec::request::EndpointSettings,
    store::random_id,
};

impl Networks {
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
        refuse_ordinary()?;
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
        let id = random_id()?;
        let joined = self.store.networks(false, |tx| {
            let network = manage::find(tx, network)?;
            if !network.driver.takes_containers() {
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
            Ok(()) => {
                self.tell("connect", &joined.network, Some(who.id));
                Ok(state)
            }
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
        self.tell("disconnect", &joined.network, Some(id));
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
