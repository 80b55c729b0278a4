//! Images: pulled, listed, described, named, removed.

use std::{cell::RefCell, collections::BTreeMap};

use unlade_graph::driver::LayerId;
use unlade_unpack::Digest;

use super::Engine;
use crate::{
    container::Containers,
    error::{Error, Kind, Result},
    image::{
        config::MAX_BYTES,
        full::FullConfig,
        inspect::{self, Facts, HistoryRow, Inspect},
        name::Reference,
    },
    journal::Object,
    pull::{self, PullRequest, Pulled},
    store::{GcOptions, Image, ImageLayer, Prune, RemoveOptions, Removed},
};

/// An image with its config.
#[derive(Debug)]
pub struct Described {
    /// What the store has of it.
    pub image: Image,
    /// Its config.
    pub config: FullConfig,
    /// Its layers, lowest first.
    pub layers: Vec<ImageLayer>,
}

impl Engine {
    /// Pulls an image.
    ///
    /// # Errors
    /// Whatever is wrong with the name, the registry, the image or this machine.
    pub fn pull(&self, request: &PullRequest) -> Result<Pulled> {
        let remote = self.remote()?;
        let pulled = self.beside_flush(|| pull::pull(self.parts(), &remote, request))?;
        let name = &request.reference;
        self.tell_image(
            "pull",
            &pulled.id,
            &name.familiar(),
            &name.familiar_repository(),
        );
        Ok(pulled)
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// If there is no such image, or the store cannot be written.
    pub fn tag(&self, text: &str, name: &Reference) -> Result<()> {
        let image = self.store.resolve(text)?.id;
        self.store.tag(text, name)?;
        self.tell_image("tag", &image, &image.to_string(), &name.familiar());
        Ok(())
    }

    /// All tags of a repository.
    ///
    /// # Errors
    /// If the registry does not give them.
    pub fn tags(&self, repository: &Reference) -> Result<Vec<String>> {
        self.runtime()?.block_on(self.client()?.tags(repository))
    }

    /// The image that a name or id stands for, with its config.
    ///
    /// # Errors
    /// If there is none, or several.
    pub fn describe(&self, text: &str) -> Result<Described> {
        let image = self.store.resolve(text)?;
        self.describe_image(image)
    }

    /// An image of the store with its config.
    ///
    /// # Errors
    /// If its config cannot be read.
    pub fn describe_image(&self, image: Image) -> Result<Described> {
        let bytes = self.store.document(&image.id, MAX_BYTES)?;
        let config = FullConfig::parse(bytes)?;
        let layers = self.store.image_layers(&image)?;
        Ok(Described {
            image,
            config,
            layers,
        })
    }

    /// What docker's `image inspect` says of an image.
    ///
    /// # Errors
    /// As [`Engine::describe`].
    pub fn inspect(&self, text: &str) -> Result<Inspect> {
        let Described { image, config, .. } = self.describe(text)?;
        let (media_type, size) = self.store.manifest_of(&image)?;
        let familiar = |name: &String| match Reference::parse(name) {
            Ok(reference) => reference.familiar(),
            Err(_) => name.clone(),
        };
        let digests = image.repo_digests.iter().map(|(repo, digest)| {
            let repo = Reference::parse(repo).map_or_else(|_| repo.clone(), |r| r.familiar());
            format!("{repo}@{digest}")
        });
        let facts = Facts {
            id: image.id,
            repo_tags: image.names.iter().map(familiar).collect(),
            repo_digests: digests.collect(),
            size: image.size,
            driver: (self.driver.kind().name().to_owned(), BTreeMap::new()),
            manifest: Some((media_type, image.manifest, size)),
            last_tagged: None,
        };
        Ok(inspect::inspect(facts, &config))
    }

    /// How an image came to be, newest step first.
    ///
    /// # Errors
    /// As [`Engine::describe`].
    pub fn history(&self, text: &str) -> Result<Vec<HistoryRow>> {
        let Described {
            image,
            config,
            layers,
        } = self.describe(text)?;
        let size = |layer: &ImageLayer| {
            let row = self.store.layer(&layer.layer)?;
            Ok(row.map_or(0, |row| row.bytes))
        };
        let sizes: Vec<u64> = layers.iter().map(size).collect::<Result<_>>()?;
        Ok(inspect::history(image.id, &config, &sizes))
    }

    /// Removes a name, or an image with its last name; frees what nobody needs then.
    ///
    /// # Errors
    /// If it is not there, in use, or named in several repositories.
    pub fn remove(&self, text: &str, options: RemoveOptions<'_>) -> Result<Vec<Removed>> {
        let images: Vec<Digest> = self.store.resolve(text).iter().map(|i| i.id).collect();
        // Without force any container is in the way.
        let running = if options.force {
            self.running_container(text)?
        } else {
            None
        };
        let options = RemoveOptions {
            running: running.as_deref(),
            ..options
        };
        let removed = self.store.remove_image(text, options)?;
        self.tell_removed(&removed, &images);
        let deleted = removed.iter().any(|r| matches!(r, Removed::Deleted(_)));
        if deleted && !options.no_prune {
            self.store.gc(&*self.driver, &GcOptions::default())?;
        }
        Ok(removed)
    }

    /// A container of that image that runs.
    fn running_container(&self, text: &str) -> Result<Option<String>> {
        let Ok(image) = self.store.resolve(text) else {
            return Ok(None);
        };
        let containers = Containers::new(&self.store, &*self.driver, &self.config);
        for record in containers.all()? {
            if record.image == image.id && containers.view(&record)?.is_active() {
                return Ok(Some(record.id));
            }
        }
        Ok(None)
    }

    /// Removes images without a name, or all that are not in use, and says how many bytes that
    /// has freed.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn prune_images(
        &self,
        prune: Prune,
        wanted: &dyn Fn(&Image) -> bool,
    ) -> Result<(Vec<Removed>, u64)> {
        let removed = self.unlist_images(prune, wanted)?;
        let report = self.store.gc(&*self.driver, &GcOptions::default())?;
        self.journal().note_prune(Object::Image, report.bytes);
        Ok((removed, report.bytes))
    }

    /// Takes images off the list; what they had on disk stays for now.
    pub(super) fn unlist_images(
        &self,
        prune: Prune,
        wanted: &dyn Fn(&Image) -> bool,
    ) -> Result<Vec<Removed>> {
        let images = RefCell::new(Vec::new());
        let removed = self.store.prune_images(prune, &|image| {
            images.borrow_mut().push(image.id);
            wanted(image)
        })?;
        self.tell_removed(&removed, &images.take());
        Ok(removed)
    }

    /// The names that the graph driver has the image's layers under, lowest first.
    pub(super) fn layer_ids(&self, image: &Image) -> Result<Vec<LayerId>> {
        let id = |layer: ImageLayer| {
            let bad = || {
                Error::new(
                    Kind::Bug,
                    format!("`{}` is no name of a layer", layer.layer),
                )
            };
            LayerId::parse(&layer.layer).ok_or_else(bad)
        };
        self.store
            .image_layers(image)?
            .into_iter()
            .map(id)
            .collect()
    }
}
