//! One layer on its way: from the socket through digest and decoder into the graph driver.

use std::{io, sync::Arc, thread, time::Instant};

use bytes::Bytes;
use unlade_graph::driver::{LayerId, LayerRequest};
use unlade_unpack::{
    Expect, LayerReport, Progress,
    source::{BlobSource, ChannelSource, ChannelWriter, FileSource, channel},
};

use super::{Pull, watch::LayerWatch};
use crate::{
    error::{Error, Kind, Result},
    image::{Descriptor, media},
    registry::BlobBody,
    store::{BlobWriter, Ingest, NewLayer},
};

/// Pieces of a blob that may wait between the network and the decoder.
const QUEUE: usize = 64;

/// What became of a layer.
#[derive(Debug)]
pub struct LayerPulled {
    /// The blob.
    pub blob: Descriptor,
    /// The name that the graph driver has it under.
    pub id: LayerId,
    /// What the unpacker says; `None` if the layer was there already.
    pub report: Option<LayerReport>,
    /// What it takes of the disk, in bytes.
    pub bytes: u64,
    /// Bytes that came over the network.
    pub received_bytes: u64,
    /// Bytes of an earlier try that were used.
    pub resumed_bytes: u64,
    /// Seconds from its start to its publication.
    pub seconds: f64,
}

impl Pull<'_> {
    /// Brings layer `n` here, unless it is.
    pub(super) fn layer(&self, n: usize) -> Result<LayerPulled> {
        let started = Instant::now();
        let blob = &self.blobs[n];
        let watch = LayerWatch::new(self.watch.clone(), n, blob.size);
        if let Some(done) = self.present(n, started)? {
            watch.exists();
            // A layer that came by this blob, which is not kept any more, or was lost.
            let refill = self.keep_blobs && self.from.is_some() && self.came_by[n];
            if self.complete || refill {
                self.fetch_blob(n, &watch)?;
            } else if self.keep_blobs && self.from.is_some() {
                self.finish_blob(n)?;
            }
            return Ok(done);
        }
        watch.waiting();
        let ingest = self
            .parts
            .store
            .ingest(self.lease, &blob.digest, blob.size, self.cancel)?;
        // Whoever had the blob until now may have made the layer too.
        if let Some(done) = self.present(n, started)? {
            watch.exists();
            return Ok(done);
        }
        match ingest {
            Ingest::Present => {
                let file = self.parts.store.blob(&blob.digest)?.ok_or_else(|| {
                    Error::new(Kind::Conflict, format!("{} was removed", blob.digest))
                        .with_hint("pull again")
                })?;
                let source = FileSource::new(file)
                    .map_err(|e| Error::host(format!("read the blob {}", blob.digest), e))?;
                self.apply(n, source, &watch, started, 0)
            }
            Ingest::Write(writer) => self.fetch(n, writer, &watch, started),
        }
    }

    /// Protects the blob of a layer that is here. Publishes it, if all of it has come but for that:
    /// the process that made the layer was killed before it got there.
    fn finish_blob(&self, n: usize) -> Result<()> {
        let (store, blob) = (self.parts.store, &self.blobs[n]);
        if store.hold(self.lease, &blob.digest, blob.size)?
            || !store.is_fetched(&blob.digest, blob.size)
        {
            return Ok(());
        }
        match store.ingest(self.lease, &blob.digest, blob.size, self.cancel)? {
            Ingest::Write(writer) if writer.resume_at() == blob.size => {
                match writer.verify_and_commit(self.cancel) {
                    // Wrong bytes are gone now; the layer does not need them.
                    Err(e) if e.kind() == Kind::Integrity => Ok(()),
                    done => done,
                }
            }
            _ => Ok(()),
        }
    }

    /// Brings the blob of a layer that is here without it.
    fn fetch_blob(&self, n: usize, watch: &LayerWatch) -> Result<()> {
        let blob = &self.blobs[n];
        let ingest = self
            .parts
            .store
            .ingest(self.lease, &blob.digest, blob.size, self.cancel)?;
        let Ingest::Write(mut writer) = ingest else {
            return Ok(());
        };
        let from = writer.resume_at();
        let (digest, size) = (&blob.digest, blob.size);
        let (remote, reference) = self.remote(digest)?;
        let body = remote
            .client
            .blob(reference, digest, size, from, &blob.urls);
        let mut body = self.wait(body)?;
        while let Some(chunk) = self.chunk(&mut body)? {
            writer.write(&chunk)?;
            watch.received(writer.len());
        }
        writer.verify_and_commit(self.cancel)
    }

    /// The layer, if it is here.
    fn present(&self, n: usize, started: Instant) -> Result<Option<LayerPulled>> {
        let Some(key) = self.board.key_so_far(n) else {
            return Ok(None);
        };
        let names: Vec<String> = self
            .parts
            .driver
            .candidates(&key)
            .iter()
            .map(ToString::to_string)
            .collect();
        let Some(row) = self.parts.store.find_layer(self.lease, &names)? else {
            return Ok(None);
        };
        let bad = || Error::new(Kind::Bug, format!("`{}` is no name of a layer", row.id));
        Ok(Some(LayerPulled {
            blob: self.blobs[n].clone(),
            id: LayerId::parse(&row.id).ok_or_else(bad)?,
            report: None,
            bytes: row.bytes,
            received_bytes: 0,
            resumed_bytes: 0,
            seconds: started.elapsed().as_secs_f64(),
        }))
    }

    fn fetch(
        &self,
        n: usize,
        writer: BlobWriter,
        watch: &LayerWatch,
        started: Instant,
    ) -> Result<LayerPulled> {
        let blob = &self.blobs[n];
        let from = writer.resume_at();
        let (sender, received) = channel(QUEUE, Some(blob.size));
        let source = Resumed {
            kept: match from {
                0 => None,
                _ => Some(FileSource::range(Arc::new(writer.partial()?), 0, from)),
            },
            rest: received,
            size: blob.size,
        };
        let (done, writer) = thread::scope(|scope| {
            let feeder = thread::Builder::new()
                .name("unlade-fetch".into())
                .stack_size(512 << 10)
                .spawn_scoped(scope, || self.feed(n, from, writer, sender, watch))
                .map_err(|e| Error::host("start a thread", e))?;
            let done = self.apply(n, source, watch, started, from);
            let bug = || Error::new(Kind::Bug, "the thread that fetches a layer panicked");
            let fed = feeder.join().map_err(|_| bug())?;
            Ok::<_, Error>(match fed {
                // The network's error says more than that of the decoder it starved.
                (Err(e), writer) if e.kind() != Kind::Cancelled || done.is_ok() => (Err(e), writer),
                (_, writer) => (done, writer),
            })
        })?;
        match done {
            Ok(mut pulled) => {
                if self.keep_blobs {
                    writer.commit(&blob.digest)?;
                } else {
                    writer.discard();
                }
                pulled.received_bytes = blob.size - from;
                pulled.resumed_bytes = from;
                Ok(pulled)
            }
            Err(e) => {
                // What did not hold must not be built upon; all else is kept for the next try.
                if e.kind() == Kind::Integrity || e.kind() == Kind::BadInput {
                    writer.discard();
                }
                Err(e)
            }
        }
    }

    /// The network's side: what arrives goes to the blob's file and to the decoder.
    fn feed(
        &self,
        n: usize,
        from: u64,
        mut writer: BlobWriter,
        sender: ChannelWriter,
        watch: &LayerWatch,
    ) -> (Result<()>, BlobWriter) {
        let blob = &self.blobs[n];
        let fed = (|| {
            let (remote, reference) = self.remote(&blob.digest)?;
            let (digest, size) = (&blob.digest, blob.size);
            let body = remote
                .client
                .blob(reference, digest, size, from, &blob.urls);
            let mut body = self.wait(body)?;
            let mut at = from;
            while let Some(chunk) = self.chunk(&mut body)? {
                if self.keep_blobs {
                    writer.write(&chunk)?;
                }
                at += chunk.len() as u64;
                watch.received(at);
                if !sender.send(chunk) {
                    return Err(Error::new(Kind::Cancelled, "cancelled"));
                }
            }
            Ok(())
        })();
        match &fed {
            Ok(()) => sender.finish(),
            Err(e) => sender.fail(io::Error::other(e.to_string())),
        }
        (fed, writer)
    }

    fn chunk(&self, body: &mut BlobBody) -> Result<Option<Bytes>> {
        self.wait(body.chunk())
    }

    fn apply(
        &self,
        n: usize,
        source: impl BlobSource,
        watch: &LayerWatch,
        started: Instant,
        from: u64,
    ) -> Result<LayerPulled> {
        let blob = &self.blobs[n];
        let expect = Expect {
            blob: Some(blob.digest),
            blob_size: Some(blob.size),
            diff_id: None,
            compression: Some(media::layer(&blob.media_type)?),
        };
        let progress: Arc<dyn Progress> = Arc::new(watch.clone());
        let mut txn = self.parts.driver.begin_layer(LayerRequest {
            parents: self.board.parents(n),
            unpacker: self.unpacker.clone(),
            cancel: self.cancel.clone(),
        })?;
        let layer = self.unpacker.start(source, expect, Some(progress))?;
        self.board.started(n, layer.turn());
        let report = layer.apply_beside(txn.sink())?;
        let key = self.board.key(n)?;
        if report.diff_id != key.diff_id {
            let m = format!(
                "diffID of the layer is {}, expected {}",
                report.diff_id, key.diff_id
            );
            return Err(Error::new(Kind::Integrity, m)
                .with_hint("the image's config does not belong to its layers: do not use it"));
        }
        let guard = self.parts.store.commit_guard(self.lease)?;
        let info = txn.commit(&key, &report)?;
        self.parts.store.add_layer(
            self.lease,
            &NewLayer {
                id: info.id.to_string(),
                diff_id: key.diff_id,
                chain_id: Some(key.chain_id),
                bytes: info.usage.bytes,
                inodes: info.usage.inodes,
                tar_bytes: report.tar_bytes,
                blob: Some((blob.digest, blob.size)),
            },
        )?;
        drop(guard);
        watch.published();
        Ok(LayerPulled {
            blob: blob.clone(),
            id: info.id,
            report: Some(report),
            bytes: info.usage.bytes,
            received_bytes: 0,
            resumed_bytes: from,
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// What an earlier try kept, then what arrives.
struct Resumed {
    kept: Option<FileSource>,
    rest: ChannelSource,
    size: u64,
}

impl BlobSource for Resumed {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(kept) = &mut self.kept {
            if let Some(chunk) = kept.next_chunk()? {
                return Ok(Some(chunk));
            }
            self.kept = None;
        }
        self.rest.next_chunk()
    }

    fn len_hint(&self) -> Option<u64> {
        Some(self.size)
    }
}
