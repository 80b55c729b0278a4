//! The thread that reads and decodes a layer.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;
use crossbeam_channel::Sender;

use super::{
    Expect, Progress,
    flow::{Busy, Flow},
    panicked,
};
use crate::{
    decode::{self, Compression, Decoder, gzip::Parallel},
    error::{Error, Kind, Result, Stream},
    limits::Limits,
    pool::{Block, Pool, Share},
    source::BlobSource,
    sys::thread_cpu,
};

/// What the decode thread found.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    pub(super) compression: Option<Compression>,
    pub(super) decoder: String,
    pub(super) compressed_bytes: u64,
    pub(super) tar_bytes: u64,
    pub(super) read: Busy,
    pub(super) decode: Busy,
}

/// Blobs of which all is local and that decode to at most this are decoded in one go: starting
/// a stream and passing blocks costs more than it gains.
pub(super) const ONE_SHOT_BYTES: usize = 1 << 20;
/// Blobs from this size on are worth several threads.
const PARALLEL_FROM: u64 = 8 << 20;

pub(super) struct Decode {
    pub(super) limits: Limits,
    pub(super) expect: Expect,
    pub(super) pool: Pool,
    pub(super) one_shot: usize,
    /// How to decode a large gzip stream with several threads, if at all.
    pub(super) parallel: Option<Parallel>,
    pub(super) flow: Arc<Flow>,
    pub(super) blocks: Sender<Result<Bytes>>,
    pub(super) to_blob_digest: Sender<Bytes>,
    pub(super) to_tar_digest: Sender<Bytes>,
    pub(super) progress: Option<Arc<dyn Progress>>,
    pub(super) report: Decoded,
}

impl Decode {
    pub(super) fn run(mut self, mut source: impl BlobSource) -> Decoded {
        let started = Instant::now();
        // A source is not ours, and may panic: that must never look like the blob's end.
        let done = panic::catch_unwind(AssertUnwindSafe(|| self.stream(&mut source)));
        if let Err(e) = done.unwrap_or_else(|_| Err(panicked())) {
            // A receiver that is gone has its own error.
            let _ = self.blocks.send(Err(e));
        }
        let read = self.report.read;
        // A parallel decode has added its workers' time.
        self.report.decode.cpu += thread_cpu().saturating_sub(read.cpu);
        let idle = self.report.decode.wall;
        self.report.decode.wall = started.elapsed().saturating_sub(idle + read.wall);
        self.report.decode.bytes = self.report.tar_bytes;
        self.report.read.bytes = self.report.compressed_bytes;
        self.report
    }

    /// `decode.wall` collects the time spent waiting until [`Decode::run`] turns it round.
    fn waiting<T>(&mut self, wait: impl FnOnce(&mut Self) -> T) -> T {
        let at = Instant::now();
        let done = wait(self);
        self.report.decode.wall += at.elapsed();
        done
    }

    fn stream(&mut self, source: &mut impl BlobSource) -> Result<()> {
        let total = source.len_hint().or(self.expect.blob_size);
        // The first bytes tell the compression, and may come one at a time.
        let mut start = Vec::new();
        let mut first = Vec::new();
        while start.len() < Compression::MAGIC_BYTES
            && let Some(chunk) = self.next(source)?
        {
            start.extend_from_slice(&chunk[..chunk.len().min(16)]);
            first.push(chunk);
        }
        let mut compression = Compression::sniff(&start);
        if start.is_empty() {
            compression = self.of_nothing()?;
        } else if let Some(told) = self.expect.compression {
            compression.expect(told, &start)?;
        } else if let Some(name) = decode::foreign(&start) {
            let message = format!("the layer is compressed with {name}");
            return Err(Error::new(Kind::Unsupported, message)
                .with_hint("OCI layers are plain tar, gzip or zstd: convert the image"));
        }
        self.report.compression = Some(compression);
        match compression {
            Compression::None => return self.plain(first, source, total),
            Compression::Gzip => {
                let small = total.is_some_and(|n| n <= self.one_shot as u64);
                if source.is_local() && small {
                    // What it is at fault of is told best, and with its place, by the other one.
                    let Some(rest) = self.in_one_go(first, source)? else {
                        self.advance(total);
                        return Ok(());
                    };
                    first = vec![rest];
                } else if let Some(parallel) = self.parallel
                    && total.is_none_or(|n| n >= PARALLEL_FROM)
                {
                    return self.in_parallel(parallel, first, source, total);
                }
            }
            Compression::Zstd => {}
        }
        self.streaming(compression, first, source, total)
    }

    /// What no bytes at all are: what the image calls them, but never a layer that nothing is
    /// known about, such as the output of a command that failed.
    fn of_nothing(&self) -> Result<Compression> {
        let known = self.expect.blob.is_some() || self.expect.diff_id.is_some();
        match self.expect.compression {
            Some(told) => Ok(told),
            None if known => Ok(Compression::None),
            None => Err(Error::bad("the source is empty")
                .with_hint("check what writes it: even a layer without files has bytes")),
        }
    }

    /// The source's own buffers go on as they are and count as blocks of the pool; pieces too
    /// small or too large for that are copied into blocks.
    fn plain(
        &mut self,
        first: Vec<Bytes>,
        source: &mut impl BlobSource,
        total: Option<u64>,
    ) -> Result<()> {
        self.report.decoder = "none".into();
        let mut pending = first.into_iter();
        let mut block: Option<Block> = None;
        loop {
            let chunk = match pending.next() {
                Some(chunk) => chunk,
                None => match self.next(source)? {
                    Some(chunk) => chunk,
                    None => break,
                },
            };
            if block.is_none() && self.pool.adopts(chunk.len()) {
                let chunk = self.with_pool(|pool, share, flow| {
                    pool.adopt(chunk, share, &flow.cancel, &flow.stop)
                })?;
                self.emit(chunk)?;
            } else {
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let mut to = match block.take() {
                        Some(block) => block,
                        None => self.block()?,
                    };
                    let n = rest.len().min(to.spare().len());
                    to.spare()[..n].copy_from_slice(&rest[..n]);
                    to.fill(n);
                    rest = &rest[n..];
                    if to.is_full() {
                        self.emit(to.freeze())?;
                    } else {
                        block = Some(to);
                    }
                }
            }
            self.advance(total);
        }
        match block {
            Some(block) => self.emit(block.freeze()),
            None => Ok(()),
        }
    }

    /// Gives the blob back if it turns out to be too large.
    fn in_one_go(
        &mut self,
        first: Vec<Bytes>,
        source: &mut impl BlobSource,
    ) -> Result<Option<Bytes>> {
        let mut blob = first.concat();
        while let Some(chunk) = self.next(source)? {
            blob.extend_from_slice(&chunk);
        }
        let Ok(Some(tar)) = decode::one_shot(&blob, self.one_shot) else {
            return Ok(Some(blob.into()));
        };
        self.report.decoder = "libdeflate one-shot".into();
        self.emit(tar.into())?;
        Ok(None)
    }

    fn in_parallel(
        &mut self,
        parallel: Parallel,
        first: Vec<Bytes>,
        source: &mut impl BlobSource,
        total: Option<u64>,
    ) -> Result<()> {
        self.report.decoder = format!("unlade parallel, {} threads", parallel.threads);
        let mut first = first.into_iter();
        // Both closures are called on this thread, one at a time.
        let this = RefCell::new(self);
        let done = parallel.run(
            &mut || match first.next() {
                Some(chunk) => Ok(Some(chunk)),
                None => this.borrow_mut().next(source),
            },
            &mut |bytes| {
                let mut this = this.borrow_mut();
                this.advance(total);
                this.emit(bytes)
            },
        )?;
        this.into_inner().report.decode.cpu += done.workers_cpu;
        Ok(())
    }

    /// Through a decoder that fills blocks of the pool.
    fn streaming(
        &mut self,
        compression: Compression,
        first: Vec<Bytes>,
        source: &mut impl BlobSource,
        total: Option<u64>,
    ) -> Result<()> {
        let mut decoder = Decoder::new(compression, &self.limits)?;
        self.report.decoder = decoder.name().into();
        let mut block = self.block()?;
        let mut pending = first.into_iter();
        loop {
            let chunk = match pending.next() {
                Some(chunk) => chunk,
                None => match self.next(source)? {
                    Some(chunk) => chunk,
                    None => break,
                },
            };
            let mut input = &chunk[..];
            loop {
                let done = decoder.decode(input, block.spare())?;
                input = &input[done.read..];
                block.fill(done.written);
                if block.is_full() {
                    let full = std::mem::replace(&mut block, self.block()?);
                    self.emit(full.freeze())?;
                } else if input.is_empty() {
                    break;
                }
            }
            self.advance(total);
        }
        decoder.finish()?;
        if !block.is_empty() {
            self.emit(block.freeze())?;
        }
        Ok(())
    }

    /// The next piece of the blob, on its way to its digest too.
    fn next(&mut self, source: &mut impl BlobSource) -> Result<Option<Bytes>> {
        self.flow.check()?;
        let (at, cpu) = (Instant::now(), thread_cpu());
        self.flow.asked.store(self.flow.now(), Ordering::Release);
        let chunk = source.next_chunk();
        self.flow.asked.store(0, Ordering::Release);
        self.report.read.wall += at.elapsed();
        self.report.read.cpu += thread_cpu().saturating_sub(cpu);
        let offset = self.report.compressed_bytes;
        let chunk = chunk
            .map_err(|e| Error::host("read the blob", e).at_offset(Stream::Compressed, offset))?;
        let Some(chunk) = chunk else {
            return match self.expect.blob_size {
                Some(size) if offset < size => {
                    let message =
                        format!("the blob has {offset} bytes, its descriptor says {size}");
                    Err(Error::new(Kind::Integrity, message).with_hint("fetch the blob again"))
                }
                _ => Ok(None),
            };
        };
        self.report.compressed_bytes += chunk.len() as u64;
        if let Some(size) = self.expect.blob_size
            && self.report.compressed_bytes > size
        {
            let message = format!("the blob has more than the {size} bytes its descriptor says");
            return Err(Error::new(Kind::Integrity, message).with_hint("fetch the blob again"));
        }
        self.hash(chunk.clone(), |this| &this.to_blob_digest)?;
        Ok(Some(chunk))
    }

    fn hash(&mut self, bytes: Bytes, to: impl Fn(&Self) -> &Sender<Bytes>) -> Result<()> {
        self.waiting(|this| to(this).send(bytes))
            .map_err(|_| Error::new(Kind::Bug, "a digest thread has stopped"))
    }

    fn block(&mut self) -> Result<Block> {
        self.with_pool(|pool, share, flow| pool.take(share, &flow.cancel, &flow.stop))
    }

    /// Waits for the pool; `take` gets it with the share that this layer has.
    fn with_pool<T>(
        &mut self,
        take: impl FnOnce(&Pool, &dyn Fn() -> Share, &Flow) -> Result<T>,
    ) -> Result<T> {
        self.waiting(|this| {
            let share = || {
                if this.flow.applying.load(Ordering::Relaxed) {
                    Share::All
                } else {
                    Share::Ahead
                }
            };
            // The flow's own stop is seen when the receiver is gone.
            take(&this.pool, &share, &this.flow)
        })
    }

    fn emit(&mut self, bytes: Bytes) -> Result<()> {
        self.flow.check()?;
        self.report.tar_bytes += bytes.len() as u64;
        let (tar, blob) = (self.report.tar_bytes, self.report.compressed_bytes);
        if tar > self.limits.layer_bytes {
            let message = format!(
                "the layer expands to over {} bytes",
                self.limits.layer_bytes
            );
            return Err(Error::limit(message, "layer-bytes").at_offset(Stream::Compressed, blob));
        }
        if tar.saturating_sub(Limits::RATIO_FREE_BYTES) / blob.max(1) > self.limits.ratio {
            let message = format!(
                "the layer expands to over {} times its size",
                self.limits.ratio
            );
            return Err(Error::limit(message, "ratio").at_offset(Stream::Compressed, blob));
        }
        self.hash(bytes.clone(), |this| &this.to_tar_digest)?;
        self.blocks.send(Ok(bytes)).map_err(|_| Error::cancelled())
    }

    fn advance(&self, total: Option<u64>) {
        if let Some(progress) = &self.progress {
            progress.advance(self.report.compressed_bytes, total);
        }
    }
}
