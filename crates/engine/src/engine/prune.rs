//! The removal of what nobody needs.

use super::Engine;
use crate::{
    container::{PrunedContainers, Record},
    error::Result,
    journal::Object,
    network::Network,
    store::{GcOptions, GcReport, Image, Prune, Removed},
    volume::Volume,
};

/// What [`Engine::prune`] may remove, of what is not in use.
pub struct PruneRequest<'a> {
    /// Images with names too.
    pub all: bool,
    /// Volumes without a name too.
    pub volumes: bool,
    /// What containers without a record have left too.
    pub strays: bool,
    /// Which of the containers.
    pub container: &'a dyn Fn(&Record) -> bool,
    /// Which of the networks.
    pub network: &'a dyn Fn(&Network) -> bool,
    /// Which of the volumes.
    pub volume: &'a dyn Fn(&Volume) -> bool,
    /// Which of the images.
    pub image: &'a dyn Fn(&Image) -> bool,
}

impl std::fmt::Debug for PruneRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PruneRequest")
            .field("all", &self.all)
            .field("volumes", &self.volumes)
            .field("strays", &self.strays)
            .finish_non_exhaustive()
    }
}

/// What [`Engine::prune`] has removed.
#[derive(Debug)]
pub struct Pruned {
    /// Containers that did not run.
    pub containers: PrunedContainers,
    /// Containers without a record, of which snapshots were left.
    pub snapshots: Vec<String>,
    /// Names of networks.
    pub networks: Vec<String>,
    /// Names of volumes.
    pub volumes: Vec<String>,
    /// Bytes that these had.
    pub volume_bytes: u64,
    /// Names and images.
    pub images: Vec<Removed>,
    /// All else.
    pub swept: GcReport,
}

impl Engine {
    /// Removes what nobody needs: containers that do not run, and what such without a record have
    /// left; then networks, volumes and images that no container uses; then layers, blobs, and
    /// what broken-off work has left.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn prune(&self, request: &PruneRequest<'_>) -> Result<Pruned> {
        self.forget_stale_mounts()?;
        let all = self.containers()?;
        let containers = all.prune(request.container)?;
        let snapshots = match request.strays {
            true => all.remove_strays()?,
            false => Vec::new(),
        };
        let networks = self.prune_networks(request.network)?;
        let (volumes, volume_bytes) = if request.volumes {
            let chosen = |v: &Volume| Ok(v.is_anonymous() && (request.volume)(v));
            self.volumes().prune(&chosen)?
        } else {
            Default::default()
        };
        let prune = Prune { all: request.all };
        let images = self.unlist_images(prune, request.image)?;
        let options = GcOptions {
            ingest_age: std::time::Duration::ZERO,
            keep_layer_blobs: self.keep_blobs(),
            ..GcOptions::default()
        };
        let swept = self.beside_flush(|| self.store.gc(&*self.driver, &options))?;
        self.journal().note_prune(Object::Image, swept.bytes);
        Ok(Pruned {
            containers,
            snapshots,
            networks,
            volumes,
            volume_bytes,
            images,
            swept,
        })
    }
}
