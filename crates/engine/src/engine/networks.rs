//! Networks and volumes.

use super::Engine;
use crate::{network::Networks, volume::Volumes};

impl Engine {
    /// The networks of its store.
    pub fn networks(&self) -> Networks {
        Networks::new(&self.store, &self.config.run_root, &self.config.network)
    }

    /// The volumes of its store.
    pub fn volumes(&self) -> Volumes {
        Volumes::new(&self.store, &self.config.run_root)
    }
}
