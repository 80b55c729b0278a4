//! Containers that get another name.

use std::{fs, io};

use super::{
    Containers, names,
    place::{Place, failed},
    record::Record,
};
use crate::error::{Error, Kind, Result};

impl Containers<'_> {
    /// Gives a container another name, also in the networks that it is in.
    ///
    /// # Errors
    /// As [`names::check`]'s; [`Kind::Conflict`] if it is taken.
    pub fn rename(&self, record: &Record, name: &str) -> Result<()> {
        let name = names::check(name)?;
        if name == record.name {
            let m = "Renaming a container with the same name as its current name";
            return Err(Error::new(Kind::BadInput, m).with_hint("give another name"));
        }
        let (_locked, record) = self.hold(&record.id)?;
        // A note first: should this process be killed, the next command goes on.
        let attached = self.networks.attached(&record.id)?.is_some();
        if attached {
            self.networks.renaming(&record.id)?;
        }
        let done = self.store.rename_container(&record.id, name);
        let mut named = record.clone();
        if done.is_ok() {
            name.clone_into(&mut named.name);
            self.store.copy_container(&record.id);
        }
        let told = match attached {
            true => self.networks.renamed(&named.member(None)),
            false => Ok(()),
        };
        forget_empty(&self.place(&record.id)?)?;
        done?;
        told.map_err(|e| e.context("it is renamed, but not in its networks"))?;
        self.tell("rename", &named, &[("oldName", &record.name)]);
        Ok(())
    }

    /// Finishes what killed processes have left half renamed.
    pub(super) fn recover_renames(&self) -> Result<()> {
        for id in self.networks.half_renamed()? {
            if !names::is_id(&id) {
                continue;
            }
            let place = self.place(&id)?;
            let Some(_locked) = place.lock_now()? else {
                continue;
            };
            let done = match self.find(&id) {
                // Another graph driver's commands see to theirs.
                Err(e) if e.kind() == Kind::NotFound && self.store.container_exists(&id)? => {
                    continue;
                }
                Err(e) if e.kind() == Kind::NotFound => self.networks.forget_rename(&id),
                found => self.networks.renamed(&found?.member(None)),
            };
            if let Err(e) = done {
                tracing::warn!(error = %e, id, "networks know a container by an old name");
            }
            forget_empty(&place)?;
        }
        Ok(())
    }
}

/// Removes what the lock of a container that does not run has made.
pub(super) fn forget_empty(place: &Place) -> Result<()> {
    match fs::remove_dir(&place.run) {
        Err(e)
            if !matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(failed("remove", &place.run)(e))
        }
        _ => Ok(()),
    }
}
