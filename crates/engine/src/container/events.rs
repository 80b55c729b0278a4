//! What is told of containers in the journal.

use std::collections::BTreeMap;

use super::{Containers, Record};
use crate::journal::{Journal, Object};

/// Most bytes of labels that an event carries: an image may have megabytes of them.
const MAX_LABELS: usize = 64 << 10;

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
    let mut room = MAX_LABELS;
    let fits = |(key, value): &(&String, &String)| {
        let left = room.checked_sub(key.len() + value.len());
        room = left.unwrap_or(room);
        left.is_some()
    };
    let labels = config.labels.iter().filter(fits);
    let mut attributes: BTreeMap<String, String> =
        labels.map(|(k, v)| (k.clone(), v.clone())).collect();
    attributes.insert("image".to_owned(), config.image.clone());
    attributes.insert("name".to_owned(), record.name.clone());
    attributes
}
