//! What is told of containers in the journal.

use std::collections::BTreeMap;

use super::{Containers, Record};
use crate::journal::{Journal, Object};

impl Containers<'_> {
    pub(super) fn journal(&self) -> Journal {
        Journal::new(&self.config.run_root)
    }

    /// Tells what has happened to a container, with what belongs to that.
    pub(super) fn tell(&self, action: &str, record: &Record, more: &[(&str, &str)]) {
        let mut attributes = attributes(record);
        attributes.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        self.journal()
            .note(Object::Container, &record.id, action, attributes);
    }
}

/// What each event of a container says of it: its labels, image and name.
pub(super) fn attributes(record: &Record) -> BTreeMap<String, String> {
    let config = &record.request.config;
    let mut attributes = config.labels.clone();
    attributes.insert("image".to_owned(), config.image.clone());
    attributes.insert("name".to_owned(), record.name.clone());
    attributes
}
