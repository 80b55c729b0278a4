//! Networks and volumes.

use super::Engine;
use crate::{
    error::{Error, Kind, Result},
    network::{Member, Network, Networks, State, files},
    shim,
    spec::request::{EndpointSettings, Request},
    volume::Volumes,
};

impl Engine {
    /// The networks of its store.
    pub fn networks(&self) -> Networks {
        Networks::new(&self.store, &self.config.run_root, &self.config.network)
    }

    /// The volumes of its store.
    pub fn volumes(&self) -> Volumes {
        Volumes::new(&self.store, &self.config.run_root)
    }

    /// Removes the networks that `chosen` is true for and that no container is in or, once it is
    /// started, will be; their names.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub fn prune_networks(&self, chosen: &dyn Fn(&Network) -> bool) -> Result<Vec<String>> {
        let mut asked = std::collections::HashSet::new();
        for row in self.store.containers()? {
            // One that cannot be read cannot be started either.
            if let Ok(request) = serde_json::from_str::<Request>(&row.request) {
                asked.extend(wanted(&request, &row.name).unwrap_or_default());
            }
        }
        self.networks()
            .prune(&|network| Ok(chosen(network) && !asked.contains(&network.name)))
    }

    /// Gets a container into a further network: at once if it runs, and whenever it is started.
    ///
    /// # Errors
    /// If there is no such container or network, or it is in it.
    pub fn connect(&self, network: &str, container: &str, how: &EndpointSettings) -> Result<()> {
        let networks = self.networks();
        let network = networks.find(network)?;
        self.change(container, |id, name, request| {
            let wanted = wanted(request, name)?;
            if wanted.contains(&network.name) {
                let m = format!(
                    "endpoint with name {name} already exists in network {}",
                    network.name
                );
                return Err(Error::new(Kind::Conflict, m));
            }
            // An entry for each: what is not said is as it was.
            for n in wanted {
                request.networks.entry(n).or_default();
            }
            request.networks.insert(network.name.clone(), how.clone());
            let mode = &mut request.host_config.network_mode;
            if mode == "none" {
                mode.clone_from(&network.name);
            }
            networks.check(request)?;
            let who = member(id, name, request);
            match networks.attached(id)? {
                Some(_) => networks.connect(&who, &network.name, how).map(Some),
                None => Ok(None),
            }
        })
    }

    /// Gets a container out of a network. With `force`, one that is in it by the records alone.
    ///
    /// # Errors
    /// If there is no such container or network, or it is not in it.
    pub fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        let networks = self.networks();
        let network = networks.find(network)?;
        let done = self.change(container, |id, name, request| {
            let wanted = wanted(request, name)?;
            if !wanted.contains(&network.name) {
                let m = format!(
                    "container {name} is not connected to network {}",
                    network.name
                );
                return Err(Error::new(Kind::NotFound, m));
            }
            leave(request, &network, &wanted);
            let had = networks.attached(id)?.is_some_and(|s| !s.ports.is_empty());
            let left = networks.disconnect(id, &network.name)?;
            if had && left.as_ref().is_some_and(|s| s.ports.is_empty()) {
                let run = self.config.run_root.join("containers").join(id);
                match shim::release(&run) {
                    Err(e) if e.kind() == Kind::NotFound => {}
                    done => done?,
                }
            }
            Ok(left)
        });
        match done {
            Err(e) if force && e.kind() == Kind::NotFound => {
                let members = networks.members(&network)?;
                let mut found = members
                    .iter()
                    .filter(|m| m.name == container || m.container.starts_with(container));
                let member = found.next().ok_or(e)?;
                networks.detach(&member.container)
            }
            done => done,
        }
    }

    /// Changes what a container asks of networks, and its files if it is attached.
    fn change(
        &self,
        container: &str,
        f: impl FnOnce(&str, &str, &mut Request) -> Result<Option<State>>,
    ) -> Result<()> {
        let containers = self.containers()?;
        let record = containers.find(container)?;
        let (record, request, state) = containers.edit(&record.id, |record, request| {
            let state = f(&record.id, &record.name, request)?;
            Ok((record.clone(), request.clone(), state))
        })?;
        let dir = self.config.run_root.join("containers").join(&record.id);
        if let Some(state) = state
            && dir.join("hosts").exists()
        {
            let who = member(&record.id, &record.name, &request);
            files::write(&dir, &who, &request, &self.networks().again(&state))?;
        }
        Ok(())
    }
}

fn member<'a>(id: &'a str, name: &'a str, request: &'a Request) -> Member<'a> {
    Member {
        id,
        name,
        hostname: &request.config.hostname,
        other: None,
        links: &[],
    }
}

/// The networks that a container asks for.
fn wanted(request: &Request, name: &str) -> Result<Vec<String>> {
    let mode = &*request.host_config.network_mode;
    if mode == "host" || mode.starts_with("container:") {
        let m = format!(
            "container {name} shares the network of the host or of another container and cannot be \
             in any other"
        );
        return Err(Error::new(Kind::Conflict, m));
    }
    let mut all: Vec<String> = match mode {
        "none" => Vec::new(),
        "" | "default" => vec![crate::network::DEFAULT.to_owned()],
        name => vec![name.to_owned()],
    };
    for name in request.networks.keys() {
        if name != "default" && name != "none" && !all.contains(name) {
            all.push(name.clone());
        }
    }
    Ok(all)
}

/// Takes a network out of a request; another becomes that of its mode.
fn leave(request: &mut Request, network: &Network, wanted: &[String]) {
    request.networks.remove(&network.name);
    let mode = &mut request.host_config.network_mode;
    let first = matches!(&**mode, "" | "default") && network.name == crate::network::DEFAULT;
    if first || *mode == network.name {
        let other = wanted.iter().find(|n| **n != network.name);
        *mode = other.cloned().unwrap_or_else(|| "none".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_of_networks() {
        let mut request = Request::default();
        let all = |r: &Request| wanted(r, "x").map(|w| w.join(" "));
        assert_eq!(all(&request).unwrap(), "bridge");
        let place = EndpointSettings::default();
        request.networks.insert("mine".to_owned(), place.clone());
        request.networks.insert("bridge".to_owned(), place);
        assert_eq!(all(&request).unwrap(), "bridge mine");
        let network = |name: &str| Network {
            name: name.to_owned(),
            ..Network::default()
        };
        let now = wanted(&request, "x").unwrap();
        leave(&mut request, &network("bridge"), &now);
        assert_eq!(request.host_config.network_mode, "mine");
        assert_eq!(all(&request).unwrap(), "mine");
        let now = wanted(&request, "x").unwrap();
        leave(&mut request, &network("mine"), &now);
        assert_eq!(request.host_config.network_mode, "none");
        assert!(all(&request).unwrap().is_empty() && request.networks.is_empty());
        for mode in ["host", "container:y"] {
            mode.clone_into(&mut request.host_config.network_mode);
            assert_eq!(all(&request).unwrap_err().kind(), Kind::Conflict);
        }
    }
}
