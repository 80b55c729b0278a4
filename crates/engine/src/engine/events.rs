//! What is told of images in the journal.

use std::collections::BTreeMap;

use unlade_unpack::Digest;

use super::Engine;
use crate::{
    image::{config::MAX_BYTES, full::FullConfig, name::Reference},
    journal::{Journal, Object},
    store::Removed,
};

impl Engine {
    pub(super) fn journal(&self) -> Journal {
        Journal::new(&self.config.run_root)
    }

    /// Tells what has happened to an image that the store has, with its labels. `named` is what
    /// the event is of, docker's way: a name for `pull` and `push`, the id for all else.
    pub(super) fn tell_image(&self, action: &str, image: &Digest, named: &str, name: &str) {
        let config = self.store.document(image, MAX_BYTES);
        let config = config.and_then(FullConfig::parse);
        let labels = config.ok().and_then(|c| c.config?.labels);
        let mut attributes: BTreeMap<String, String> = labels.unwrap_or_default();
        attributes.insert("name".to_owned(), name.to_owned());
        self.journal()
            .note(Object::Image, named, action, attributes);
    }

    /// Tells of the names and images among what was removed. `images` are the ids of those that
    /// may be among it: layers are nobody's business.
    pub(super) fn tell_removed(&self, removed: &[Removed], images: &[Digest]) {
        let note = |id: &str, action: &str, name: &str| {
            let attributes = [("name".to_owned(), name.to_owned())].into();
            self.journal().note(Object::Image, id, action, attributes);
        };
        for (at, one) in removed.iter().enumerate() {
            match one {
                Removed::Untagged(name) => {
                    // An image goes right after its last name.
                    let of = removed[at..].iter().find_map(|r| match r {
                        Removed::Deleted(id) if images.contains(id) => Some(id),
                        _ => None,
                    });
                    let id = of.or(images.first()).map(Digest::to_string);
                    let name =
                        Reference::parse(name).map_or_else(|_| name.clone(), |r| r.familiar());
                    note(&id.unwrap_or_default(), "untag", &name);
                }
                Removed::Deleted(id) if images.contains(id) => {
                    let id = id.to_string();
                    note(&id, "delete", &id);
                }
                Removed::Deleted(_) => {}
            }
        }
    }
}
