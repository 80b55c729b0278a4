//! Leftovers: what killed commands and killed containers have not undone.

use std::{collections::BTreeSet, fs, io};

use super::{Networks, netns};
use crate::error::{Error, Result};

/// What was found and removed.
#[derive(Debug, Default)]
pub struct Swept {
    /// Ids of containers whose namespaces, interfaces and rules were undone.
    pub detached: Vec<String>,
    /// Ids of containers that had addresses or ports by the records only, after a reboot say.
    pub forgotten: Vec<String>,
    /// Ids of containers whose networks could not be undone, and why.
    pub failed: Vec<(String, Error)>,
}

impl Networks {
    /// Undoes what belongs to containers that are not alive by `live`. One counts as alive from
    /// before it is attached until it is detached. While another process attaches, nothing is
    /// looked for: the next call does it.
    ///
    /// # Errors
    /// From `live`, or if the host refuses.
    pub fn sweep(&self, live: &dyn Fn(&str) -> Result<bool>) -> Result<Swept> {
        let mut swept = Swept::default();
        let recorded = self.store.read_networks(|tx| tx.containers())?;
        let found: BTreeSet<String> = self.places.ids()?.into_iter().collect();
        if found.is_empty() && recorded.is_empty() {
            return Ok(swept);
        }
        let Some(_lock) = self.places.lock(true)? else {
            return Ok(swept);
        };
        for id in &found {
            if !live(id)? {
                tracing::debug!(id, "a container's network was left behind");
                match self.undo(id) {
                    Ok(()) => swept.detached.push(id.clone()),
                    Err(e) => {
                        tracing::warn!(error = %e, id, "a network that was left behind stays");
                        swept.failed.push((id.clone(), e));
                    }
                }
            }
        }
        for id in recorded.difference(&found) {
            if !live(id)? {
                self.store.networks(false, |tx| tx.forget(id))?;
                swept.forgotten.push(id.clone());
            }
        }
        Ok(swept)
    }

    /// Records anew, where the database is new, in which networks containers are that run: their
    /// addresses and ports are not free.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn record_anew(&self) -> Result<()> {
        for id in self.places.ids()? {
            let Ok(Some(state)) = self.places.read(&id) else {
                continue;
            };
            self.store.networks(true, |tx| {
                tx.forget(&id)?;
                for joined in &state.joined {
                    let (network, endpoint) = (&joined.network, &joined.endpoint);
                    match tx.network(&network.name)? {
                        Some(row) if row.id != network.id => continue,
                        Some(_) => {}
                        None => tx.insert(&network.to_row()?)?,
                    }
                    tx.put_endpoint(&endpoint.to_row(&network.id)?, &endpoint.addresses)?;
                }
                for mapping in &state.ports {
                    tx.put_port(&mapping.to_row(&id))?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Forgets all that an earlier boot has left: namespaces, interfaces and rules went with it.
    /// netavark is not asked to undo them, for it would signal whatever process now has the number
    /// that aardvark-dns had.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn forget_boot(&self) -> Result<()> {
        let recorded = self.store.read_networks(|tx| tx.containers())?;
        let found = self.places.ids()?;
        // Somebody is at work already, and so there is nothing of an earlier boot.
        let Some(_lock) = self.places.lock(true)? else {
            return Ok(());
        };
        for id in &found {
            netns::remove(&self.places.netns(id))?;
            self.places.forget(id)?;
            self.places.forget_half(id);
        }
        for dir in [self.places.netavark(), self.places.renames()] {
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::host(format!("remove `{}`", dir.display()), e));
                }
                _ => {}
            }
        }
        for id in &recorded {
            self.store.networks(false, |tx| tx.forget(id))?;
        }
        Ok(())
    }
}
