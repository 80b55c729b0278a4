//! Threads and queues: a blob in, a report out.
//!
//! ```text
//! source -> decode thread -+-> blocks -> parse and apply (the caller's thread) -> writers
//!                          +-> bytes, blocks -> two digest threads
//! ```
//!
//! The decode thread never waits for the disk but through the pool's budget; a layer that is
//! started ahead of its turn fills at most half of that.

mod decode;
mod digest;
mod flow;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use self::{
    decode::{Decode, Decoded, ONE_SHOT_BYTES},
    digest::digest,
    flow::{Busy, Flow},
};
use crate::{
    cancel::Cancel,
    decode::{Compression, gzip::Parallel},
    digest::{Algorithm, Digest},
    error::{Error, Kind, Result, Stream},
    io::{IoChoice, Stats, Writers},
    limits::Limits,
    pool::{Pool, TICK},
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
    decode_threads: Option<usize>,
    cancel: Cancel,
    shared: Arc<OnceLock<Shared>>,
}

#[derive(Debug)]
struct Shared {
    pool: Pool,
    writers: Writers,
    /// Layers being decoded or applied.
    in_flight: Arc<AtomicUsize>,
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
            decode_threads: None,
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

    /// Threads that decode a large gzip layer; one streams it. Default: as many as there are idle
    /// cores for, see [`decode::gzip::Parallel`](crate::decode::gzip::Parallel).
    #[must_use]
    pub fn decode_threads(mut self, threads: usize) -> Self {
        self.decode_threads = Some(threads.clamp(1, 256));
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
        Ok(self.shared.get_or_init(|| Shared {
            pool,
            writers,
            in_flight: Arc::default(),
        }))
    }

    /// Several threads cost a half more CPU time than one, so they must be idle: beside them one
    /// core applies and one hashes. More than three would wait for the digest, which is not
    /// parallel.
    fn parallel(&self, shared: &Shared) -> Option<Parallel> {
        let others = shared.in_flight.load(Ordering::Relaxed);
        let threads = self.decode_threads.unwrap_or_else(|| {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            if others == 0 {
                cores.saturating_sub(2).clamp(1, 3)
            } else {
                1
            }
        });
        // Half of the budget, of which each layer more gets half of what the last one got.
        let memory = (self.memory / 2) >> others.min(16);
        let parallel = Parallel::new(threads, memory);
        (parallel.threads > 1).then_some(parallel)
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
        let flow = Arc::new(Flow {
            cancel: self.cancel.clone(),
            ..Flow::default()
        });
        let (to_blob_digest, blob) = digest_thread("unlade-blob-sum", expect.blob)?;
        let (to_tar_digest, tar) = digest_thread("unlade-tar-sum", expect.diff_id)?;
        let decode = spawn("unlade-decode", {
            let flow = flow.clone();
            let task = Decode {
                limits: self.limits.clone(),
                expect: expect.clone(),
                pool: shared.pool.clone(),
                one_shot: ONE_SHOT_BYTES.min(self.memory / 8),
                parallel: self.parallel(shared),
                flow: flow.clone(),
                blocks,
                to_blob_digest,
                to_tar_digest,
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
            digests: Some((blob, tar)),
            in_flight: InFlight::new(&shared.in_flight),
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
type DigestThread = JoinHandle<(Digest, Busy)>;

fn digest_thread(name: &str, expected: Option<Digest>) -> Result<(Sender<Bytes>, DigestThread)> {
    let algorithm = expected.map_or(Algorithm::Sha256, |d| d.algorithm());
    let (to, pieces) = crossbeam_channel::bounded(DIGEST_QUEUE);
    Ok((to, spawn(name, move || digest(&pieces, algorithm))?))
}

/// Counts a layer as long as it is being decoded or applied.
#[derive(Debug)]
struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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

/// A layer being decoded. Dropping it stops that.
#[derive(Debug)]
pub struct Layer {
    limits: Limits,
    expect: Expect,
    progress: Option<Arc<dyn Progress>>,
    flow: Arc<Flow>,
    decoded: Receiver<Result<Bytes>>,
    decode: Option<JoinHandle<Decoded>>,
    digests: Option<(DigestThread, DigestThread)>,
    #[allow(dead_code)] // Held for its drop.
    in_flight: InFlight,
    engine: String,
    writers: Arc<Stats>,
}

/// A layer's turn to use all of the memory budget.
#[derive(Debug, Clone)]
pub struct Turn(Arc<Flow>);

impl Turn {
    /// Takes it, for good.
    pub fn take(&self) {
        self.0.applying.store(true, Ordering::Relaxed);
    }
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
    pub fn apply(self, sink: &mut dyn Sink) -> Result<LayerReport> {
        self.turn().take();
        self.apply_beside(sink)
    }

    /// As [`Layer::apply`], while other layers are applied on other threads. Of the layers that
    /// are applied at once all together fill at most half of the memory budget, but for those
    /// that have taken their [`Turn`]. Give it to one that waits for none of the others, such as
    /// the lowest: then it always goes on.
    ///
    /// # Errors
    /// As for [`Layer::apply`].
    pub fn apply_beside(mut self, sink: &mut dyn Sink) -> Result<LayerReport> {
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

    /// The layer's turn, to be taken at any time from any thread.
    pub fn turn(&self) -> Turn {
        Turn(self.flow.clone())
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
            sink.tar(&block)?;
            let mut used = 0;
            loop {
                let (n, step) = reader.step(&block[used..])?;
                match step {
                    Step::NeedMore => break,
                    Step::Entry(entry) => {
                        let place = (entry.index, entry.path.clone(), entry.offset);
                        want = sink.entry(entry).map_err(|e| {
                            // A writer's error is about an entry before this one.
                            if e.place().entry.is_some_and(|n| n != place.0) {
                                return e;
                            }
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
        let decoded = self
            .decode
            .take()
            .map(JoinHandle::join)
            .and_then(Result::ok);
        let decoded = decoded.ok_or_else(panicked)?;
        let (blob, tar) = self.digests.take().ok_or_else(panicked)?;
        let (blob, blob_busy) = blob.join().map_err(|_| panicked())?;
        let (tar, tar_busy) = tar.join().map_err(|_| panicked())?;
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
            blob,
            "fetch the blob again",
        )?;
        let hint = "the image's config does not belong to its layers: do not use it";
        hold("diffID of the layer", self.expect.diff_id, tar, hint)?;
        let at = (Instant::now(), thread_cpu());
        let applied = sink.finish()?;
        apply.wall += at.0.elapsed();
        apply.cpu += thread_cpu().saturating_sub(at.1);
        let (wall, cpu, bytes) = writer_stats(&self.writers);
        write.seconds = wall - write.seconds;
        write.cpu_seconds = cpu - write.cpu_seconds;
        write.bytes = bytes - write.bytes;
        Ok(LayerReport {
            blob,
            diff_id: tar,
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
                blob_busy.beside(tar_busy).stage("digest"),
                apply.stage("apply"),
                write,
            ],
        })
    }
}

fn panicked() -> Error {
    Error::new(Kind::Bug, "a thread of the pipeline panicked")
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
