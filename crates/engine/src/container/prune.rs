//! Containers that do not run, removed together.

use super::{Containers, Record, Removal};
use crate::{
    error::{Error, Result},
    journal::Object,
    store::Stage,
};

/// What [`Containers::prune`] has removed.
#[derive(Debug, Default)]
pub struct PrunedContainers {
    /// Ids of containers.
    pub ids: Vec<String>,
    /// What was written to their roots, in bytes.
    pub bytes: u64,
    /// Why the first that could not be removed was not.
    pub failed: Option<Error>,
}

impl Containers<'_> {
    /// Removes the containers that do not run and that `chosen` agrees to. One that cannot be
    /// removed stops none of the others.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn prune(&self, chosen: &dyn Fn(&Record) -> bool) -> Result<PrunedContainers> {
        let mut pruned = PrunedContainers::default();
        for listed in self.list()? {
            let record = &listed.record;
            let is_made = record.stage != Stage::Creating;
            if listed.view.is_active() || !is_made || !chosen(record) {
                continue;
            }
            let size = self.size(record).map_or(0, |(own, _)| own);
            match self.remove(record, Removal::default()) {
                Ok(_) => {
                    pruned.bytes += size;
                    pruned.ids.push(record.id.clone());
                }
                Err(e) => {
                    pruned.failed.get_or_insert(e);
                }
            }
        }
        self.journal().note_prune(Object::Container, pruned.bytes);
        Ok(pruned)
    }
}
