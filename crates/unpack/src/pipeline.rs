//! Threads and queues: a blob in, a report out.
//!
//! ```text
//! source -> decode thread -+-> blocks -> parse and apply (the caller's thread) -> writers
//!                          +-> bytes and blocks -> digest thread
//! ```
//!
//! The decode thread never waits for the disk but through the pool's budget; a layer that is
//! started ahead of its turn fills at most half of that.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::{
    cancel::Cancel,
    decode::{self, Compression, Decoder},
    digest::{Algorithm, Digest, Hasher},
    error::{Error, Kind, Result, Stream},
    io::{IoChoice, Stats, Writers},
    limits::Limits,
    pool::{Pool, Share, TICK},
    report::{LayerReport, Stage},
    sink::{DirOptions, DirSink, Sink, Want},
    source::BlobSource,
    sys::thread_cpu,
    tar::{Reader, Step},
};

/// What must be true of a layer; whatever is `None` is not checked, only reported.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// Digest of the blob as stored.
    pub blob: Option<Digest>,
    /// Bytes of the blob.
    pub blob_size: Option<u64>,
    /// Digest of the tar stream.
    pub diff_id: Option<Digest>,
    /// Compression by the media type. `None` believes the bytes.
    pub compression: Option<Compression>,
}

/// Told how far a layer is. Called from the pipeline's threads, a few times per MiB.
pub trait Progress: Send + Sync {
    /// `compressed` bytes of the blob are decoded, of `total` where that is known.
    fn advance(&self, compressed: u64, total: Option<u64>);
    /// The layer is applied and verified.
    fn done(&self) {}
}

/// Unpacks layers. A builder and a handle: clones share the memory budget and the writers, so
/// one of them serves all the layers of all the images in flight.
///
/// ```no_run
/// use std::fs::File;
/// use unlade_unpack::{DirOptions, Expect, Unpacker, source::FileSource};
///
/// let unpacker = Unpacker::new();
/// std::fs::create_dir("rootfs")?;
/// let mut tree = unpacker.dir_sink(File::open("rootfs")?.into(), DirOptions::default())?;
/// let blob = FileSource::new(File::open("layer.tar.gz")?)?;
/// let report = unpacker.run(blob, Expect::default(), &mut tree)?;
/// println!("{} files, diffID {}", report.counts.files, report.diff_id);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Unpacker {
    limits: Limits,
    memory: usize,
    threads: usize,
    io: IoChoice,
    cancel: Cancel,
    shared: Arc<OnceLock<Shared>>,
}

#[derive(Debug)]
struct Shared {
    pool: Pool,
    writers: Writers,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self::new()
    }
}

impl Unpacker {
    /// Default of [`Unpacker::memory_budget_bytes`].
    pub const MEMORY_BUDGET_BYTES: usize = 256 << 20;
    /// Least [`Unpacker::memory_budget_bytes`].
    pub const MEMORY_LEAST_BYTES: usize = 4 << 20;

    /// An unpacker with all defaults.
    pub fn new() -> Self {
        let threads = thread::available_parallelism().map_or(2, usize::from);
        Self {
            limits: Limits::default(),
            memory: Self::MEMORY_BUDGET_BYTES,
            threads,
            io: IoChoice::default(),
            cancel: Cancel::new(),
            shared: Arc::default(),
        }
    }

    /// Limits on what layers may ask for.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Bytes of memory for decoded data and for what is remembered of a layer, whatever the
    /// image says; at least 4 MiB. Default 256 MiB. A zstd layer's window comes on top.
    #[must_use]
    pub fn memory_budget_bytes(mut self, bytes: usize) -> Self {
        self.memory = bytes.max(Self::MEMORY_LEAST_BYTES);
        self.shared = Arc::default();
        self
    }

    /// Threads that write files; also how many layers are worth starting ahead. Default: the
    /// number of cores.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.clamp(1, 256);
        self.shared = Arc::default();
        self
    }

    /// How files are written. Default [`IoChoice::Auto`].
    #[must_use]
    pub fn io(mut self, io: IoChoice) -> Self {
        self.io = io;
        self.shared = Arc::default();
        self
    }

    /// A flag that stops everything started from now on.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    fn shared(&self) -> Result<&Shared> {
        if let Some(shared) = self.shared.get() {
            return Ok(shared);
        }
        // Half of the budget goes to blocks; a quarter each to the two tables of `DirSink`.
        let bytes = (self.memory / 2).min(BLOCKS_MOST);
        let block = (bytes / 64).clamp(64 << 10, 256 << 10);
        let pool = Pool::new(block, bytes / block);
        let writers = Writers::start(self.io, self.threads)?;
        Ok(self.shared.get_or_init(|| Shared { pool, writers }))
    }

    /// A sink that applies layers to the directory `root`.
    ///
    /// # Errors
    /// If `root` is not a directory, or threads cannot be started.
    pub fn dir_sink(&self, root: std::os::fd::OwnedFd, options: DirOptions) -> Result<DirSink> {
        let writers = self.shared()?.writers.clone();
        DirSink::new(root, options, writers, self.cancel.clone(), self.memory / 4)
    }

    /// Starts to read, decode and hash a layer on threads of its own. Call [`Layer::apply`] when
    /// its turn comes; until then it fills at most half of the memory budget.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn start(
        &self,
        source: impl BlobSource,
        expect: Expect,
        progress: Option<Arc<dyn Progress>>,
    ) -> Result<Layer> {
        let shared = self.shared()?;
        let (blocks, decoded) = crossbeam_channel::unbounded();
        let (to_digest, hashing) = crossbeam_channel::bounded(DIGEST_QUEUE);
        let flow = Arc::new(Flow {
            cancel: self.cancel.clone(),
            ..Flow::default()
        });
        let digest = spawn("unlade-digest", {
            let (blob, tar) = (algorithm(expect.blob), algorithm(expect.diff_id));
            move || digest(&hashing, blob, tar)
        })?;
        let decode = spawn("unlade-decode", {
            let flow = flow.clone();
            let task = Decode {
                limits: self.limits.clone(),
                expect: expect.clone(),
                pool: shared.pool.clone(),
                one_shot: ONE_SHOT_BYTES.min(self.memory / 8),
                flow: flow.clone(),
                blocks,
                to_digest,
                progress: progress.clone(),
                report: Decoded::default(),
            };
            move || task.run(source)
        })?;
        Ok(Layer {
            limits: self.limits.clone(),
            expect,
            progress,
            flow,
            decoded,
            decode: Some(decode),
            digest: Some(digest),
            engine: shared.writers.engine().to_owned(),
            writers: shared.writers.stats().clone(),
        })
    }

    /// Unpacks one layer: [`Unpacker::start`] and [`Layer::apply`].
    ///
    /// # Errors
    /// As for these two.
    pub fn run(
        &self,
        source: impl BlobSource,
        expect: Expect,
        sink: &mut dyn Sink,
    ) -> Result<LayerReport> {
        self.start(source, expect, None)?.apply(sink)
    }
}

/// Most bytes of decoded blocks in flight: more gains nothing but cache misses.
const BLOCKS_MOST: usize = 64 << 20;
/// Pieces that may wait for the digest thread.
const DIGEST_QUEUE: usize = 64;
/// Blobs of which all is local and that decode to at most this are decoded in one go: starting
/// a stream and passing blocks costs more than it gains.
const ONE_SHOT_BYTES: usize = 1 << 20;

fn algorithm(digest: Option<Digest>) -> Algorithm {
    digest.map_or(Algorithm::Sha256, |d| d.algorithm())
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let builder = thread::Builder::new()
        .name(name.into())
        .stack_size(512 << 10);
    builder
        .spawn(work)
        .map_err(|e| Error::host("start a thread", e))
}

/// What the threads of a layer know of each other.
#[derive(Debug, Default)]
struct Flow {
    cancel: Cancel,
    /// The layer is dropped or has failed.
    stop: AtomicBool,
    /// It is the layer's turn: it may use the whole pool.
    applying: AtomicBool,
    /// Milliseconds since `started` when the source was asked for bytes; 0 while it is not.
    asked: AtomicU64,
    started: Clock,
}

#[derive(Debug)]
struct Clock(Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Flow {
    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Acquire) {
            return Err(Error::cancelled());
        }
        self.cancel.check()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.0.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// How long the source has been silent.
    fn silent(&self) -> Duration {
        match self.asked.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            at => Duration::from_millis(self.now().saturating_sub(at)),
        }
    }
}

/// A clock that runs while a stage works.
#[derive(Debug, Default, Clone, Copy)]
struct Busy {
    wall: Duration,
    cpu: Duration,
    bytes: u64,
}

impl Busy {
    fn stage(self, name: &'static str) -> Stage {
        let (seconds, cpu_seconds) = (self.wall.as_secs_f64(), self.cpu.as_secs_f64());
        Stage {
            name,
            seconds,
            cpu_seconds,
            bytes: self.bytes,
        }
    }
}

/// Pieces for the digest thread.
enum Piece {
    Blob(Bytes),
    Tar(Bytes),
}

struct Digests {
    blob: Digest,
    tar: Digest,
    busy: Busy,
}

fn digest(pieces: &Receiver<Piece>, blob: Algorithm, tar: Algorithm) -> Digests {
    let (mut blob, mut tar) = (Hasher::new(blob), Hasher::new(tar));
    let mut busy = Busy::default();
    for piece in pieces {
        let at = Instant::now();
        let (hasher, bytes) = match &piece {
            Piece::Blob(bytes) => (&mut blob, bytes),
            Piece::Tar(bytes) => (&mut tar, bytes),
        };
        hasher.update(bytes);
        busy.bytes += bytes.len() as u64;
        drop(piece);
        busy.wall += at.elapsed();
    }
    busy.cpu = thread_cpu();
    Digests {
        blob: blob.finish(),
        tar: tar.finish(),
        busy,
    }
}

/// What the decode thread found.
#[derive(Debug, Default)]
struct Decoded {
    compression: Option<Compression>,
    decoder: &'static str,
    compressed_bytes: u64,
    tar_bytes: u64,
    read: Busy,
    decode: Busy,
}

struct Decode {
    limits: Limits,
    expect: Expect,
    pool: Pool,
    one_shot: usize,
    flow: Arc<Flow>,
    blocks: Sender<Result<Bytes>>,
    to_digest: Sender<Piece>,
    progress: Option<Arc<dyn Progress>>,
    report: Decoded,
}

impl Decode {
    fn run(mut self, mut source: impl BlobSource) -> Decoded {
        let started = Instant::now();
        if let Err(e) = self.stream(&mut source) {
            // A receiver that is gone has its own error.
            let _ = self.blocks.send(Err(e));
        }
        let read = self.report.read;
        self.report.decode.cpu = thread_cpu().saturating_sub(read.cpu);
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
        let compression = Compression::sniff(&start);
        if let Some(told) = self.expect.compression {
            compression.expect(told, &start)?;
        } else if let Some(name) = decode::foreign(&start) {
            let message = format!("the layer is compressed with {name}");
            return Err(Error::new(Kind::Unsupported, message)
                .with_hint("OCI layers are plain tar, gzip or zstd: convert the image"));
        }
        self.report.compression = Some(compression);
        let small = total.is_some_and(|n| n <= self.one_shot as u64);
        if compression == Compression::Gzip && source.is_local() && small {
            let mut blob = Vec::new();
            for chunk in first.drain(..) {
                blob.extend_from_slice(&chunk);
            }
            while let Some(chunk) = self.next(source)? {
                blob.extend_from_slice(&chunk);
            }
            if let Some(tar) = decode::one_shot(&blob, self.one_shot)? {
                self.report.decoder = "libdeflate one-shot";
                self.advance(total);
                return self.emit(tar.into());
            }
            first.push(blob.into());
        }
        if compression == Compression::None {
            self.report.decoder = "none";
            // The source's own buffers go on as they are.
            for chunk in first {
                self.emit(chunk)?;
            }
            while let Some(chunk) = self.next(source)? {
                self.emit(chunk)?;
                self.advance(total);
            }
            return Ok(());
        }
        let mut decoder = Decoder::new(compression, &self.limits)?;
        self.report.decoder = decoder.name();
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

    /// The next piece of the blob, on its way to the digest thread too.
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
        self.send(Piece::Blob(chunk.clone()))?;
        Ok(Some(chunk))
    }

    fn send(&mut self, piece: Piece) -> Result<()> {
        self.waiting(|this| this.to_digest.send(piece))
            .map_err(|_| Error::new(Kind::Bug, "the digest thread has stopped"))
    }

    fn block(&mut self) -> Result<crate::pool::Block> {
        self.waiting(|this| {
            let share = || {
                if this.flow.applying.load(Ordering::Relaxed) {
                    Share::All
                } else {
                    Share::Ahead
                }
            };
            // The flow's own stop is seen when the receiver is gone.
            this.pool.take(share, &this.flow.cancel, &this.flow.stop)
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
        self.send(Piece::Tar(bytes.clone()))?;
        self.blocks.send(Ok(bytes)).map_err(|_| Error::cancelled())
    }

    fn advance(&self, total: Option<u64>) {
        if let Some(progress) = &self.progress {
            progress.advance(self.report.compressed_bytes, total);
        }
    }
}

/// A layer being decoded. Dropping it stops that.
#[derive(Debug)]
pub struct Layer {
    limits: Limits,
    expect: Expect,
    progress: Option<Arc<dyn Progress>>,
    flow: Arc<Flow>,
    decoded: Receiver<Result<Bytes>>,
    decode: Option<JoinHandle<Decoded>>,
    digest: Option<JoinHandle<Digests>>,
    engine: String,
    writers: Arc<Stats>,
}

impl std::fmt::Debug for dyn Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Layer {
    /// Parses the layer into `sink`, on this thread, and verifies it: size and digest of the
    /// blob, diffID of the tar stream. The sink's [`finish`](Sink::finish) is called only if all
    /// hold, its [`abort`](Sink::abort) otherwise.
    ///
    /// # Errors
    /// Whatever is wrong with the layer, the host or the sink; the cause comes first.
    pub fn apply(mut self, sink: &mut dyn Sink) -> Result<LayerReport> {
        self.flow.applying.store(true, Ordering::Relaxed);
        let done = self.parse(sink);
        let done = done.and_then(|busy| self.verify(sink, busy));
        match done {
            Ok(report) => {
                if let Some(progress) = &self.progress {
                    progress.done();
                }
                Ok(report)
            }
            Err(e) => {
                sink.abort();
                Err(match self.expect.blob {
                    Some(blob) => e.in_blob(blob),
                    None => e,
                })
            }
        }
    }

    fn parse(&mut self, sink: &mut dyn Sink) -> Result<(Busy, Stage)> {
        let mut busy = Busy::default();
        let started = (Instant::now(), thread_cpu());
        let (wall0, cpu0, bytes0) = writer_stats(&self.writers);
        sink.begin()?;
        let mut reader = Reader::new(self.limits.clone());
        let mut want = Want::Skip;
        let mut idle = Duration::ZERO;
        loop {
            let at = Instant::now();
            let block = self.receive()?;
            idle += at.elapsed();
            let Some(block) = block else { break };
            let mut used = 0;
            loop {
                let (n, step) = reader.step(&block[used..])?;
                match step {
                    Step::NeedMore => break,
                    Step::Entry(entry) => {
                        let place = (entry.index, entry.path.clone(), entry.offset);
                        want = sink.entry(entry).map_err(|e| {
                            e.at_entry(place.0, &place.1)
                                .at_offset(Stream::Tar, place.2)
                        })?;
                    }
                    Step::Data { range, at } if want == Want::Payload => {
                        sink.payload(at, block.slice(used + range.start..used + range.end))?;
                    }
                    Step::EntryEnd if want == Want::Payload => sink.end_entry()?,
                    Step::Data { .. } | Step::EntryEnd | Step::End => {}
                }
                used += n;
            }
        }
        reader.finish()?;
        busy.bytes = reader.position();
        busy.wall = started.0.elapsed().saturating_sub(idle);
        busy.cpu = thread_cpu().saturating_sub(started.1);
        let write = Stage {
            name: "write",
            seconds: wall0,
            cpu_seconds: cpu0,
            bytes: bytes0,
        };
        Ok((busy, write))
    }

    /// The next decoded block; looks after cancelling and silent sources meanwhile.
    fn receive(&self) -> Result<Option<Bytes>> {
        loop {
            match self.decoded.recv_timeout(TICK) {
                Ok(block) => return block.map(Some),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => self.flow.check()?,
            }
            if self.flow.silent() > self.limits.idle {
                let s = self.limits.idle.as_secs();
                let message = format!("the source gave no byte for {s} s");
                return Err(Error::limit(message, "idle"));
            }
        }
    }

    fn verify(
        &mut self,
        sink: &mut dyn Sink,
        (mut apply, mut write): (Busy, Stage),
    ) -> Result<LayerReport> {
        let bug = || Error::new(Kind::Bug, "a thread of the pipeline panicked");
        let decoded = self
            .decode
            .take()
            .map(JoinHandle::join)
            .and_then(Result::ok);
        let decoded = decoded.ok_or_else(bug)?;
        let digests = self
            .digest
            .take()
            .map(JoinHandle::join)
            .and_then(Result::ok);
        let digests = digests.ok_or_else(bug)?;
        let hold = |what: &str, want: Option<Digest>, got: Digest, hint: &str| match want {
            Some(want) if want != got => {
                let message = format!("{what} is {got}, expected {want}");
                Err(Error::new(Kind::Integrity, message).with_hint(hint))
            }
            _ => Ok(()),
        };
        hold(
            "digest of the blob",
            self.expect.blob,
            digests.blob,
            "fetch the blob again",
        )?;
        let hint = "the image's config does not belong to its layers: do not use it";
        hold(
            "diffID of the layer",
            self.expect.diff_id,
            digests.tar,
            hint,
        )?;
        let at = (Instant::now(), thread_cpu());
        let applied = sink.finish()?;
        apply.wall += at.0.elapsed();
        apply.cpu += thread_cpu().saturating_sub(at.1);
        let (wall, cpu, bytes) = writer_stats(&self.writers);
        write.seconds = wall - write.seconds;
        write.cpu_seconds = cpu - write.cpu_seconds;
        write.bytes = bytes - write.bytes;
        Ok(LayerReport {
            blob: digests.blob,
            diff_id: digests.tar,
            compression: decoded.compression.unwrap_or(Compression::None),
            decoder: decoded.decoder,
            io: self.engine.clone(),
            compressed_bytes: decoded.compressed_bytes,
            tar_bytes: decoded.tar_bytes,
            counts: applied.counts,
            skipped: applied.skipped,
            stages: vec![
                decoded.read.stage("read"),
                decoded.decode.stage("decode"),
                digests.busy.stage("digest"),
                apply.stage("apply"),
                write,
            ],
        })
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        self.flow.stop.store(true, Ordering::Release);
        // Not joined: a source may be blocked in a read for ever. The threads end at its next
        // byte and touch nothing but their own memory.
    }
}

fn writer_stats(stats: &Stats) -> (f64, f64, u64) {
    let seconds = |n: &AtomicU64| Duration::from_nanos(n.load(Ordering::Relaxed)).as_secs_f64();
    (
        seconds(&stats.busy_ns),
        seconds(&stats.cpu_ns),
        stats.bytes.load(Ordering::Relaxed),
    )
}
