//! The use case "push": an image of the store to a registry.
//!
//! Blobs go first, several at once; the manifest last, so that a registry never has an image of
//! which something is missing. A blob that the registry has is not sent; one that another
//! repository of the same registry has is mounted from there.

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::runtime::Handle;
use unlade_unpack::{Cancel, Digest};

use crate::{
    error::{Error, Kind, Result},
    image::{manifest::MAX_BYTES, name::Reference},
    registry::{BodySource, Client, Uploaded},
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
    /// So many bytes of it are sent.
    Sent(u64),
    /// It is there.
    Done,
}

/// Told what happens to blob `n` of `count`. Called from several threads.
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
}

/// A blob to be sent.
#[derive(Debug, Clone, Copy)]
struct Blob {
    digest: Digest,
    size: u64,
}

pub(crate) struct Push<'a> {
    pub(crate) store: &'a Store,
    pub(crate) client: &'a Client,
    pub(crate) runtime: &'a Handle,
    pub(crate) request: &'a PushRequest,
}

impl Push<'_> {
    /// Pushes `image`.
    pub(crate) fn run(&self, image: &Image, layers: &[ImageLayer]) -> Result<Pushed> {
        let reference = &self.request.reference;
        let (media_type, size) = self.store.manifest_of(image)?;
        let manifest = self.store.document(&image.manifest, MAX_BYTES)?;
        let mut seen = HashSet::new();
        let layers = layers.iter().map(|l| Blob {
            digest: l.blob,
            size: l.blob_size,
        });
        let config = Blob {
            digest: image.id,
            size: image.config_size,
        };
        let blobs: Vec<Blob> = layers
            .chain([config])
            .filter(|blob| seen.insert(blob.digest))
            .collect();
        let files = blobs
            .iter()
            .map(|b| self.open(b))
            .collect::<Result<Vec<_>>>()?;
        self.blobs(&blobs, &files, &self.siblings(image))?;
        let put =
            self.client
                .put_manifest(reference, manifest.into(), &media_type, reference.tag());
        let digest = self.runtime.block_on(put)?;
        Ok(Pushed { digest, size })
    }

    fn open(&self, blob: &Blob) -> Result<Arc<File>> {
        let file = self.store.blob(&blob.digest)?;
        file.map(Arc::new).ok_or_else(|| {
            let m = format!("the blob {} is not kept here", blob.digest);
            Error::new(Kind::NotFound, m).with_hint(
                "set keep-blobs = \"always\" and pull the image again: pushing needs its blobs",
            )
        })
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

    fn blobs(&self, blobs: &[Blob], files: &[Arc<File>], siblings: &[Reference]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let cancel = &self.request.cancel;
        let mut first: Option<Error> = None;
        thread::scope(|scope| {
            let send = || {
                while let Some(n) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < blobs.len())
                {
                    if cancel.is_cancelled() {
                        return Err(Error::new(Kind::Cancelled, "cancelled"));
                    }
                    self.blob(n, &blobs[n], &files[n], siblings)
                        .inspect_err(|_| cancel.cancel())?;
                }
                Ok(())
            };
            let workers = self.request.at_once.clamp(1, blobs.len().max(1));
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
        first.map_or(Ok(()), Err)
    }

    fn blob(&self, n: usize, blob: &Blob, file: &Arc<File>, siblings: &[Reference]) -> Result<()> {
        let (reference, digest, size) = (&self.request.reference, blob.digest, blob.size);
        let watch = self.request.watch.clone();
        let tell = |event| watch(n, &digest, size, event);
        let client = self.client;
        let there = self.runtime.block_on(client.exists(reference, &digest))?;
        if there.is_some() {
            tell(PushEvent::Exists);
            return Ok(());
        }
        for sibling in siblings {
            if self
                .runtime
                .block_on(client.mount(reference, &digest, sibling))?
            {
                tell(PushEvent::Mounted);
                return Ok(());
            }
        }
        let watch = self.request.watch.clone();
        let progress = Arc::new(move |sent| watch(n, &digest, size, PushEvent::Sent(sent)));
        let source = BodySource::File(file.clone());
        let upload = client.upload(
            reference,
            &digest,
            size,
            source,
            &self.request.cancel,
            progress,
        );
        match self.runtime.block_on(upload)? {
            Uploaded::Existed => tell(PushEvent::Exists),
            Uploaded::Sent => tell(PushEvent::Done),
        }
        Ok(())
    }
}
