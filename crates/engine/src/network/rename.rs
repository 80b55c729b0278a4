//! Containers that get another name while they are in networks.

use std::{fs, io::ErrorKind};

use super::{
    Member, Networks, aardvark,
    asked::{found_by, names},
    netavark, netns,
    settings::EndpointState,
};
use crate::error::{Error, Result};

impl Networks {
    /// Notes that a container gets another name: until [`Networks::renamed`] is done, its networks
    /// may have the old one.
    ///
    /// # Errors
    /// If the note cannot be written.
    pub fn renaming(&self, id: &str) -> Result<()> {
        netns::directory(&self.places.renames())?;
        let path = self.places.renames().join(id);
        fs::write(&path, "").map_err(|e| Error::host(format!("write `{}`", path.display()), e))
    }

    /// Ids of containers of which such a note is there.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn half_renamed(&self) -> Result<Vec<String>> {
        let dir = self.places.renames();
        let failed = |e| Error::host(format!("list `{}`", dir.display()), e);
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let names = entries.map(|entry| Ok(entry.map_err(failed)?.file_name()));
        let names = names.map(|name: Result<_>| Ok(name?.into_string().unwrap_or_default()));
        names.collect()
    }

    /// Has the networks of a container know it by its name, and forgets the note. Its addresses,
    /// and connections that there are, stay.
    ///
    /// # Errors
    /// If the store or the files of aardvark-dns cannot be written; the note stays then.
    pub fn renamed(&self, who: &Member<'_>) -> Result<()> {
        let _lock = self.places.lock(false)?;
        if let Some(mut state) = self.places.read(who.id)? {
            who.name.clone_into(&mut state.name);
            for joined in &mut state.joined {
                let endpoint = &mut joined.endpoint;
                who.name.clone_into(&mut endpoint.name);
                endpoint.names = names(who, &endpoint.asked);
                let shown = EndpointState::running(&joined.network, endpoint);
                if let Some(state) = state.settings.networks.get_mut(&joined.network.name) {
                    state.dns_names = shown.dns_names;
                }
            }
            self.store.networks(false, |tx| {
                state.joined.iter().try_for_each(|joined| {
                    let endpoint = &joined.endpoint;
                    tx.put_endpoint(&endpoint.to_row(&joined.network.id)?, &endpoint.addresses)
                })
            })?;
            self.places.write(&state)?;
            let resolving = state.joined.iter().filter(|j| j.network.dns);
            let all: Vec<_> = resolving
                .map(|j| (netavark::key(&j.network), found_by(&j.network, &j.endpoint)))
                .collect();
            if !all.is_empty() {
                let _alone = netavark::alone()?;
                aardvark::rename(&self.places.netavark(), who.id, &all)?;
            }
        }
        self.forget_rename(who.id)
    }

    /// Forgets the note about a container.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget_rename(&self, id: &str) -> Result<()> {
        let path = self.places.renames().join(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Error::host(format!("remove `{}`", path.display()), e))
            }
            _ => Ok(()),
        }
    }
}
