//! Who watches a pull, and what is told.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use unlade_unpack::Progress;

use crate::image::Descriptor;

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerEvent {
    /// It is here already.
    Exists,
    /// It waits, for another process that fetches the same blob or for its first byte.
    Waiting,
    /// So many bytes of its blob are here.
    Received(u64),
    /// So many bytes of its blob are unpacked.
    Unpacked(u64),
    /// It is verified and published.
    Done,
}

/// Watches a pull. Called from several threads.
pub trait PullWatch: Send + Sync {
    /// What the name stands for: these layers, lowest first.
    fn chosen(&self, layers: &[Descriptor]);
    /// Something happened to layer `n`.
    fn layer(&self, n: usize, event: LayerEvent);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl PullWatch for Quiet {
    fn chosen(&self, _: &[Descriptor]) {}
    fn layer(&self, _: usize, _: LayerEvent) {}
}

/// Steps of the counters at which somebody is told.
const STEP: u64 = 256 << 10;

/// The watch of one layer.
#[derive(Clone)]
pub(super) struct LayerWatch {
    to: Arc<dyn PullWatch>,
    n: usize,
    size: u64,
    told: Arc<[AtomicU64; 2]>,
}

impl LayerWatch {
    pub(super) fn new(to: Arc<dyn PullWatch>, n: usize, size: u64) -> Self {
        Self {
            to,
            n,
            size,
            told: Arc::default(),
        }
    }

    pub(super) fn exists(&self) {
        self.to.layer(self.n, LayerEvent::Exists);
    }

    pub(super) fn waiting(&self) {
        self.to.layer(self.n, LayerEvent::Waiting);
    }

    pub(super) fn published(&self) {
        self.to.layer(self.n, LayerEvent::Done);
    }

    pub(super) fn received(&self, bytes: u64) {
        if self.is_news(0, bytes) {
            self.to.layer(self.n, LayerEvent::Received(bytes));
        }
    }

    fn is_news(&self, counter: usize, bytes: u64) -> bool {
        let told = &self.told[counter];
        let news = bytes >= told.load(Ordering::Relaxed) + STEP || bytes == self.size;
        if news {
            told.store(bytes, Ordering::Relaxed);
        }
        news
    }
}

impl Progress for LayerWatch {
    fn advance(&self, compressed: u64, _total: Option<u64>) {
        if self.is_news(1, compressed) {
            self.to.layer(self.n, LayerEvent::Unpacked(compressed));
        }
    }
}
