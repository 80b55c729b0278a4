//! The use case "push": an image of the store to a registry.
//!
//! Blobs go first, several at once; the manifest last, so that a registry never has an image of
//! which something is missing. A blob that the registry has is not sent; one that another
//! repository of the same registry has is mounted from there. A layer whose blob is not kept here
//! is compressed again from its tar, where the graph driver has that; the manifest is another one
//! then.

mod again;

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::runtime::Handle;
use unlade_graph::driver::{Driver, LayerId};
use unlade_unpack::{Cancel, Digest};

use self::again::{Blob, Compressed};
use crate::{
    error::{Error, Kind, Result},
    image::{manifest::MAX_BYTES, name::Reference},
    registry::{BodySource, Client, Uploaded},
    source::Scratch,
    store::{Image, ImageLayer, Store},
};

/// What happens to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushEvent {
    /// The registry has it.
    Exists,
    /// It was mounted from another repository of the registry.
    Mounted,
    /// It is not kept here, or was never compressed; so many bytes of the layer's tar are.
    Compressed(u64),
    /// So many bytes of it are sent.
    Sent(u64),
    /// It is there.
    Done,
}

/// Told what happens to blob `n`, which the image has by that digest: the bytes to come for this
/// event, and the event. Called from several threads.
pub type PushWatch = dyn Fn(usize, &Digest, u64, PushEvent) + Send + Sync;

/// What is to be pushed, and how.
#[derive(Clone)]
pub struct PushRequest {
    /// The image, as [`Store::resolve`] takes it, and where it goes.
    pub reference: Reference,
    /// Blobs sent at once.
    pub at_once: usize,
    /// Stops it.
    pub cancel: Cancel,
    /// Watches it.
    pub watch: Arc<PushWatch>,
}

impl fmt::Debug for PushRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushRequest")
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

/// What was pushed.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Digest of the manifest that the image has here, if layers were compressed and what was pushed
    /// is another one.
    pub instead_of: Option<Digest>,
}

/// A blob that the registry is to have.
#[derive(Debug)]
struct Item {
    blob: Blob,
    from: From,
}

/// Where a blob's bytes are.
#[derive(Debug)]
enum From {
    /// Here.
    File(Arc<File>),
    /// Not here, but this layer's tar is, of so many bytes; or that is what is here.
    Tar(File, u64, Digest),
    /// Not here.
    Nowhere,
}

pub(crate) struct Push<'a> {
    pub(crate) store: &'a Store,
    pub(crate) driver: &'a dyn Driver,
    pub(crate) scratch: &'a Scratch,
    pub(crate) client: &'a Client,
    pub(crate) runtime: &'a Handle,
    pub(crate) request: &'a PushRequest,
}

impl Push<'_> {
    /// Pushes `image`.
    pub(crate) fn run(&self, image: &Image, layers: &[ImageLayer]) -> Result<Pushed> {
        let reference = &self.request.reference;
        let (media_type, _) = self.store.manifest_of(image)?;
        let mut manifest = self.store.document(&image.manifest, MAX_BYTES)?;
        let made = self.blobs(&self.items(image, layers)?, &self.siblings(image))?;
        if !made.is_empty() {
            let blobs: Vec<_> = layers.iter().map(|l| made.get(&l.blob).copied()).collect();
            manifest = again::manifest(&manifest, &blobs)?;
        }
        let size = manifest.len() as u64;
        let put =
            self.client
                .put_manifest(reference, manifest.into(), &media_type, reference.tag());
        let digest = self.runtime.block_on(put)?;
        Ok(Pushed {
            digest,
            size,
            instead_of: (!made.is_empty()).then_some(image.manifest),
        })
    }

    /// Every blob once. What can only be had from the registry itself comes first, so that nothing
    /// is sent in vain where it cannot.
    fn items(&self, image: &Image, layers: &[ImageLayer]) -> Result<Vec<Item>> {
        // As docker does it; what a registry has uncompressed stays so.
        let from_here = (image.repo_digests.iter()).all(|(_, digest)| *digest != image.manifest);
        let mut items: Vec<Item> = Vec::new();
        for layer in layers {
            if items.iter().any(|i| i.blob.digest == layer.blob) {
                continue;
            }
            let blob = Blob {
                digest: layer.blob,
                size: layer.blob_size,
            };
            let from = match self.store.blob(&layer.blob)? {
                Some(file) if from_here && is_plain(layer) => {
                    From::Tar(file, layer.blob_size, layer.diff_id)
                }
                Some(file) => From::File(Arc::new(file)),
                None => self.tar(layer)?,
            };
            items.push(Item { blob, from });
        }
        let config = Blob {
            digest: image.id,
            size: image.config_size,
        };
        let file = self
            .store
            .blob(&image.id)?
            .ok_or_else(|| not_kept(&config))?;
        items.push(Item {
            blob: config,
            from: From::File(Arc::new(file)),
        });
        items.sort_by_key(|i| !matches!(i.from, From::Nowhere));
        Ok(items)
    }

    fn tar(&self, layer: &ImageLayer) -> Result<From> {
        if !self.driver.features().keeps_tar {
            return Ok(From::Nowhere);
        }
        let bad = || {
            Error::new(
                Kind::Bug,
                format!("`{}` is no name of a layer", layer.layer),
            )
        };
        let id = LayerId::parse(&layer.layer).ok_or_else(bad)?;
        let Some(file) = self.driver.tar(&id)? else {
            return Ok(From::Nowhere);
        };
        let meta = file.metadata();
        let size = meta
            .map_err(|e| Error::host("look at a layer's tar", e))?
            .len();
        Ok(From::Tar(file, size, layer.diff_id))
    }

    /// Other repositories of the same registry that have the image, and so its blobs.
    fn siblings(&self, image: &Image) -> Vec<Reference> {
        let target = &self.request.reference;
        let repos = image.repo_digests.iter().map(|(repo, _)| repo);
        let mut found: Vec<Reference> = repos
            .filter_map(|name| Reference::parse(name).ok())
            .filter(|r| r.domain() == target.domain() && r.path() != target.path())
            .collect();
        found.dedup_by(|a, b| a.path() == b.path());
        found
    }

    /// Brings all of them there. Returns what was sent instead of what, where that is another blob.
    fn blobs(&self, items: &[Item], siblings: &[Reference]) -> Result<HashMap<Digest, Blob>> {
        let next = AtomicUsize::new(0);
        let cancel = &self.request.cancel;
        let made = Mutex::new(HashMap::new());
        let mut first: Option<Error> = None;
        thread::scope(|scope| {
            let send = || {
                while let Some(n) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < items.len())
                {
                    if cancel.is_cancelled() {
                        return Err(Error::new(Kind::Cancelled, "cancelled"));
                    }
                    let other = self
                        .item(n, &items[n], siblings)
                        .inspect_err(|_| cancel.cancel())?;
                    if let Some(other) = other {
                        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
                        made.insert(items[n].blob.digest, other);
                    }
                }
                Ok(())
            };
            let workers = self.request.at_once.clamp(1, items.len().max(1));
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(send)).collect();
            for thread in threads {
                let panicked = || Err(Error::new(Kind::Bug, "a thread of the push panicked"));
                if let Err(e) = thread.join().unwrap_or_else(|_| panicked())
                    && first.as_ref().is_none_or(|f| f.kind() == Kind::Cancelled)
                {
                    first = Some(e);
                }
            }
        });
        match first {
            Some(e) => Err(e),
            None => Ok(made.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Brings one blob there; which other one instead, if it had to be made anew.
    fn item(&self, n: usize, item: &Item, siblings: &[Reference]) -> Result<Option<Blob>> {
        let (reference, watch) = (&self.request.reference, &self.request.watch);
        let Blob { digest, size } = item.blob;
        let client = self.client;
        let there = self.runtime.block_on(client.exists(reference, &digest))?;
        if there.is_some() {
            watch(n, &digest, size, PushEvent::Exists);
            return Ok(None);
        }
        for sibling in siblings {
            if self
                .runtime
                .block_on(client.mount(reference, &digest, sibling))?
            {
                watch(n, &digest, size, PushEvent::Mounted);
                return Ok(None);
            }
        }
        match &item.from {
            From::File(file) => {
                self.send(n, &digest, item.blob, file.clone())?;
                Ok(None)
            }
            From::Tar(tar, bytes, diff_id) => {
                let out = self.scratch.file();
                let out = out.map_err(|e| Error::host("make a temporary file for a layer", e))?;
                let told = |through| watch(n, &digest, *bytes, PushEvent::Compressed(through));
                let cancel = &self.request.cancel;
                let Compressed { file, blob } = again::gzip(tar, diff_id, out, cancel, &told)?;
                self.send(n, &digest, blob, Arc::new(file))?;
                // It may well have been compressed in the same way before.
                Ok((blob != item.blob).then_some(blob))
            }
            From::Nowhere => Err(not_kept(&item.blob)),
        }
    }

    /// Uploads `blob` from `file`; the image has it as `known`.
    fn send(&self, n: usize, known: &Digest, blob: Blob, file: Arc<File>) -> Result<()> {
        let (known, watch) = (*known, self.request.watch.clone());
        let progress = Arc::new(move |sent| watch(n, &known, blob.size, PushEvent::Sent(sent)));
        let upload = self.client.upload(
            &self.request.reference,
            &blob.digest,
            blob.size,
            BodySource::File(file),
            &self.request.cancel,
            progress,
        );
        let event = match self.runtime.block_on(upload)? {
            Uploaded::Existed => PushEvent::Exists,
            Uploaded::Sent => PushEvent::Done,
        };
        (self.request.watch)(n, &known, blob.size, event);
        Ok(())
    }
}

/// Whether a layer is a tar that is not compressed.
fn is_plain(layer: &ImageLayer) -> bool {
    layer.media_type.ends_with(".tar")
}

fn not_kept(blob: &Blob) -> Error {
    let m = format!("the blob {} is not kept here", blob.digest);
    Error::new(Kind::NotFound, m).with_hint(
        "set keep-blobs = \"always\" and pull the image again, or use the graph driver erofs, \
         which keeps what pushing needs",
    )
}
