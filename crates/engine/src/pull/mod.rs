//! The use case "pull": from a name in a registry to an image that can be mounted.
//!
//! ```text
//! name -> index -> manifest -+-> config ------------------------> diffIDs
//!                            +-> layers, several at once: socket -> digest -> decoder -> driver
//! ```
//!
//! Config and missing layers are fetched at once. Each layer streams from the socket into its
//! transaction, and is published as soon as it is verified: when another one fails it stays for
//! the next try. The image appears last, in one transaction of the store.

mod board;
mod choose;
mod layer;
mod watch;

use std::{fmt, future::Future, sync::Arc, thread, time::Duration, time::Instant};

use tokio::runtime::Handle;
use unlade_graph::driver::{Driver, LayerId};
use unlade_unpack::{Cancel, Digest, Unpacker};

use self::{
    board::{Blame, Board},
    choose::{Chosen, choose},
};
pub use self::{
    layer::LayerPulled,
    watch::{LayerEvent, PullWatch, Quiet},
};
use crate::{
    error::{Error, Kind, Result},
    image::{
        Config, Descriptor, Platform, config::MAX_BYTES, full::FullConfig, media, name::Reference,
    },
    registry::Client,
    store::{Durability, ImageLayer, Lease, NewImage, Store},
};

/// What is to be pulled, and how.
#[derive(Clone)]
pub struct PullRequest {
    /// The name; without tag and digest it is `latest`.
    pub reference: Reference,
    /// Which image of an index; this machine's if not given.
    pub platform: Option<Platform>,
    /// Layers fetched and unpacked at once.
    pub at_once: usize,
    /// Most layers of an image.
    pub max_layers: usize,
    /// Keep the blobs, so that they can be pushed and saved as they are.
    pub keep_blobs: bool,
    /// Fetch the blobs of layers that are here without them too, to make a store whole again.
    pub complete: bool,
    /// Stops the pull. The pull sets it itself when something fails.
    pub cancel: Cancel,
    /// Watches it.
    pub watch: Arc<dyn PullWatch>,
}

impl fmt::Debug for PullRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullRequest")
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

/// What was pulled.
#[derive(Debug)]
pub struct Pulled {
    /// Digest of the config: the image's id.
    pub id: Digest,
    /// Digest of what the name stands for: the index, or the manifest itself.
    pub digest: Digest,
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Whether the name stood for this image already.
    pub up_to_date: bool,
    /// The layers, lowest first; empty if the image was here already.
    pub layers: Vec<LayerPulled>,
    /// Seconds from the name to the manifest.
    pub resolve_seconds: f64,
    /// Seconds for all.
    pub seconds: f64,
}

/// What layers are made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) store: &'a Store,
    pub(crate) driver: &'a dyn Driver,
    pub(crate) unpacker: &'a Unpacker,
}

/// What registries are reached with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote<'a> {
    pub(crate) client: &'a Client,
    pub(crate) runtime: &'a Handle,
}

/// The layers of an image on their way.
struct Pull<'a> {
    parts: Parts<'a>,
    /// Where what is not here comes from; nowhere for images that were loaded.
    from: Option<(Remote<'a>, &'a Reference)>,
    unpacker: Unpacker,
    lease: &'a Lease,
    blobs: &'a [Descriptor],
    board: Board,
    cancel: &'a Cancel,
    keep_blobs: bool,
    complete: bool,
    /// Of each layer, whether one that is here came by its blob.
    came_by: Vec<bool>,
    watch: Arc<dyn PullWatch>,
}

/// Makes the layers of an image whose blobs are all here.
///
/// # Errors
/// The first thing that went wrong.
pub(crate) fn layers_here(
    parts: Parts<'_>,
    lease: &Lease,
    blobs: &[Descriptor],
    diff_ids: &[Digest],
    cancel: &Cancel,
) -> Result<Vec<LayerPulled>> {
    let known = diff_ids.iter().copied().map(Some).collect();
    let pull = Pull {
        parts,
        from: None,
        unpacker: parts.unpacker.clone().cancel(cancel.clone()),
        lease,
        blobs,
        board: Board::new(known, cancel.clone()),
        cancel,
        keep_blobs: true,
        complete: false,
        came_by: Vec::new(),
        watch: Arc::new(Quiet),
    };
    pull.board.set_diff_ids(diff_ids);
    let at_once = thread::available_parallelism().map_or(2, usize::from);
    let ((), layers) = pull.all(at_once, || Ok(()))?;
    let ids: Vec<LayerId> = layers.iter().map(|l| l.id.clone()).collect();
    parts.driver.prepare(&ids)?;
    Ok(layers)
}

/// Pulls an image.
///
/// # Errors
/// The first thing that went wrong. Layers that were complete by then stay for the next try, and
/// so do the bytes of those that were not.
pub(crate) fn pull(parts: Parts<'_>, remote: &Remote<'_>, request: &PullRequest) -> Result<Pulled> {
    let started = Instant::now();
    let reference = request.reference.clone().with_default_tag();
    let lease = parts
        .store
        .lease(&format!("pull {}", reference.canonical()))?;
    let want = request.platform.clone().unwrap_or_else(Platform::host);
    let chosen = wait(remote.runtime, &request.cancel, async {
        let top = remote.client.resolve(&reference).await?;
        choose(remote.client, &reference, top, &want).await
    })?;
    let resolve_seconds = started.elapsed().as_secs_f64();
    check(&chosen, request.max_layers)?;
    let manifest = &chosen.manifest;
    request.watch.chosen(&manifest.layers);
    let known = parts
        .store
        .known_diff_ids(manifest.layers.iter().map(|l| &l.digest))?;
    let came_by = known.iter().map(Option::is_some).collect();
    let pull = Pull {
        parts,
        from: Some((*remote, &reference)),
        unpacker: parts.unpacker.clone().cancel(request.cancel.clone()),
        lease: &lease,
        blobs: &manifest.layers,
        board: Board::new(known, request.cancel.clone()),
        cancel: &request.cancel,
        keep_blobs: request.keep_blobs,
        complete: request.complete,
        came_by,
        watch: request.watch.clone(),
    };
    let config = || pull.config(&manifest.config, &want, request.platform.is_some());
    let (config, layers) = pull.all(request.at_once, config)?;
    let ids = pull
        .board
        .layers()
        .ok_or_else(|| Error::new(Kind::Bug, "a layer is missing"))?;
    parts.driver.prepare(&ids)?;
    let before = parts.store.resolve(&reference.canonical()).ok();
    let id = manifest.config.digest;
    let fetched = &chosen.fetched;
    parts
        .store
        .put_blob(&lease, &fetched.digest, &fetched.bytes)?;
    let digest = chosen.index.as_ref().unwrap_or(fetched).digest;
    let image = NewImage {
        id,
        config_size: manifest.config.size,
        manifest: fetched.digest,
        manifest_type: fetched.media_type.clone(),
        manifest_size: fetched.bytes.len() as u64,
        platform: config.platform(),
        created: config.created_seconds(),
        size: layers.iter().map(|l| l.bytes).sum(),
        layers: pull.image_layers(&ids)?,
        names: name(&reference).into_iter().collect(),
        // What is made whole again is called what it is called.
        repo_digests: match request.complete {
            true => Vec::new(),
            false => vec![(reference.repository(), digest)],
        },
    };
    if parts.store.durability() == Durability::Sync {
        parts.store.flush(parts.driver)?;
    }
    parts.store.add_image(&lease, &image)?;
    Ok(Pulled {
        id,
        digest,
        manifest: chosen.fetched.digest,
        up_to_date: before.is_some_and(|image| image.id == id),
        layers,
        resolve_seconds,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The name that the image gets; by digest it gets none.
fn name(reference: &Reference) -> Option<String> {
    let tag = reference.tag().filter(|_| reference.digest().is_none())?;
    Some(format!("{}:{tag}", reference.repository()))
}

fn check(chosen: &Chosen, most: usize) -> Result<()> {
    let layers = &chosen.manifest.layers;
    if layers.len() > most {
        let m = format!("{} layers are more than {most}", layers.len());
        return Err(Error::new(Kind::Limit, m).with_hint("build the image with fewer layers"));
    }
    let what = || format!("manifest {}", chosen.fetched.digest);
    if !media::is_config(&chosen.manifest.config.media_type) {
        let m = format!("`{}` is not an image", chosen.manifest.config.media_type);
        return Err(Error::new(Kind::Unsupported, m)
            .context(what())
            .with_hint("this is an artifact: fetch it with a tool for its type"));
    }
    for layer in layers {
        media::layer(&layer.media_type).map_err(|e| Error::from(e).context(what()))?;
    }
    Ok(())
}

impl Pull<'_> {
    /// Makes the layers, and does `beside` meanwhile. The first error stops all.
    fn all<T: Send>(
        &self,
        at_once: usize,
        beside: impl FnOnce() -> Result<T> + Send,
    ) -> Result<(T, Vec<LayerPulled>)> {
        let workers = at_once.clamp(1, self.blobs.len().max(1));
        let mut first: Option<Error> = None;
        let mut layers: Vec<Option<LayerPulled>> = (0..self.blobs.len()).map(|_| None).collect();
        let mut other = None;
        thread::scope(|scope| {
            let beside = scope.spawn(|| self.stop_all(beside()));
            let workers: Vec<_> = (0..workers)
                .map(|_| {
                    scope.spawn(|| {
                        let mut done = Vec::new();
                        while let Some(n) = self.board.take() {
                            let count = self.blobs.len();
                            let layer = self.layer(n).map_err(|e| {
                                let digest = self.blobs[n].digest;
                                e.context(format!("layer {} of {count}: {digest}", n + 1))
                            });
                            let layer = self.stop_all(layer)?;
                            self.board.published(n, layer.id.clone());
                            done.push((n, layer));
                        }
                        Ok(done)
                    })
                })
                .collect();
            // Those that were stopped say nothing of why.
            let mut failed = |cause: Option<Error>| first = first.take().or(cause);
            let panicked = || Some(Error::new(Kind::Bug, "a thread of the pull panicked"));
            match beside.join().unwrap_or_else(|_| Err(panicked())) {
                Ok(done) => other = Some(done),
                Err(e) => failed(e),
            }
            for worker in workers {
                match worker.join().unwrap_or_else(|_| Err(panicked())) {
                    Ok(done) => done
                        .into_iter()
                        .for_each(|(n, layer)| layers[n] = Some(layer)),
                    Err(e) => failed(e),
                }
            }
        });
        if let Some(e) = first {
            // What a layer could not remove itself: it may have lacked the descriptors for that.
            if let Err(e) = self.parts.driver.sweep() {
                tracing::debug!(error = %e, "staging directories stay until they are swept");
                self.lease.outlive();
            }
            return Err(e);
        }
        let layers: Option<Vec<_>> = layers.into_iter().collect();
        other
            .zip(layers)
            .ok_or_else(|| Error::new(Kind::Cancelled, "cancelled"))
    }

    /// On an error stops all threads. The error is given on only if it is what began it.
    fn stop_all<T>(&self, done: Result<T>) -> std::result::Result<T, Option<Error>> {
        done.map_err(|e| match self.board.fail() {
            Blame::Cause => Some(e),
            Blame::Caller => Some(Error::new(Kind::Cancelled, "cancelled")),
            Blame::Others => None,
        })
    }

    /// Fetches the config, and tells all of the diffIDs in it.
    fn config(&self, descriptor: &Descriptor, want: &Platform, asked: bool) -> Result<FullConfig> {
        let digest = descriptor.digest;
        let what = |e: Error| e.context(format!("config {digest}"));
        // Held first: an image that has it may be removed at any time.
        let here = self.parts.store;
        let bytes = match here.hold(self.lease, &digest, descriptor.size)? {
            true => here.document(&digest, MAX_BYTES)?.into(),
            false => {
                let (remote, reference) = self.remote(&digest)?;
                let document = remote.client.document(reference, descriptor, MAX_BYTES);
                let bytes = self.wait(document).map_err(what)?;
                here.put_blob(self.lease, &digest, &bytes)?;
                bytes
            }
        };
        let config = Config::parse(&bytes).map_err(|e| what(e.into()))?;
        if asked
            && let Some(is) = &config.platform
            && want.rank(is).is_none()
        {
            let m = format!("the image is for {is}, not for {want}");
            return Err(Error::new(Kind::NotFound, m)
                .with_hint("leave out --platform to pull it nevertheless"));
        }
        let (ids, layers) = (config.diff_ids.len(), self.blobs.len());
        if ids != layers {
            let m = format!("the config lists {ids} diff_ids for {layers} layers");
            return Err(what(
                Error::new(Kind::Integrity, m)
                    .with_hint("the image is damaged: build or push it again"),
            ));
        }
        self.board.set_diff_ids(&config.diff_ids);
        FullConfig::parse(bytes).map_err(what)
    }

    /// What the store keeps of the layers.
    fn image_layers(&self, ids: &[LayerId]) -> Result<Vec<ImageLayer>> {
        let one = |(n, id): (usize, &LayerId)| {
            let blob = &self.blobs[n];
            Ok(ImageLayer {
                layer: id.to_string(),
                diff_id: self.board.key(n)?.diff_id,
                blob: blob.digest,
                blob_size: blob.size,
                media_type: blob.media_type.clone(),
            })
        };
        ids.iter().enumerate().map(one).collect()
    }

    /// Where `digest`, which is not here, comes from.
    fn remote(&self, digest: &Digest) -> Result<(Remote<'_>, &Reference)> {
        self.from.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("the blob {digest} is not here"))
                .with_hint("load or pull the image again")
        })
    }

    /// Waits for the network, or until the pull is cancelled.
    fn wait<T>(&self, what: impl Future<Output = Result<T>>) -> Result<T> {
        match &self.from {
            Some((remote, _)) => wait(remote.runtime, self.cancel, what),
            None => Err(Error::new(Kind::Bug, "there is no network to wait for")),
        }
    }
}

/// How often a wait for the network looks at the cancel flag.
const TICK: Duration = Duration::from_millis(50);

fn wait<T>(runtime: &Handle, cancel: &Cancel, what: impl Future<Output = Result<T>>) -> Result<T> {
    runtime.block_on(async {
        let cancelled = async {
            while !cancel.is_cancelled() {
                tokio::time::sleep(TICK).await;
            }
        };
        tokio::select! {
            biased;
            done = what => done,
            () = cancelled => Err(Error::new(Kind::Cancelled, "cancelled")),
        }
    })
}
