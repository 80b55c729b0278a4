//! One gzip stream on several cores.
//!
//! The compressed bytes are cut into chunks. The first is decoded as usual; workers look for a
//! block's start in each of the others and decode from there, with markers for what they cannot
//! know (see `inflate/markers.rs`). Pieces are joined in order: a piece is taken if the decoder of
//! what comes before it stops at just the bit where the piece began, so a wrong guess costs time
//! and nothing else. Everything else is decoded on the joining thread, which always can.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{
    header::{check_trailer, cut},
    piece::{self, Buffers, Chunk, Piece, Start},
    slots::{Slot, Slots},
    stream::{Gzip, Segment, Sum},
};
use crate::{
    decode::inflate::{WINDOW, markers::Resolver},
    error::{Error, Result, Stream},
    sys::{crc32, thread_cpu},
};

/// How to share the work out.
#[derive(Debug, Clone, Copy)]
pub struct Parallel {
    /// Threads that decode, beside the calling one.
    pub threads: usize,
    /// Bytes of compressed data per piece.
    pub chunk_bytes: usize,
}

/// What a parallel decode did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Bytes of output.
    pub bytes: u64,
    /// Bytes of it that were decoded in order, on the calling thread or with a known window.
    pub in_order: u64,
    /// Bytes that went through the second stage.
    pub second_stage: u64,
    /// Pieces taken, and pieces thrown away.
    pub pieces: (u64, u64),
    /// CPU time of the workers, of which:
    pub workers_cpu: Duration,
    /// looking for the starts of the pieces that were taken;
    pub search_cpu: Duration,
    /// decoding with markers what went through the second stage;
    pub first_stage_cpu: Duration,
    /// the second stage, checksums included.
    pub second_stage_cpu: Duration,
}

/// A piece may decode to this many times its size before the rest of it is left to the joining
/// thread: a bound on memory.
const MOST_RATIO: usize = 8;
/// Least bytes of output in two consecutive pieces: a receiver that holds on to some MiB in a row
/// never holds all slots.
const EMIT_LEAST: usize = 1 << 20;
/// Bytes of a chunk.
const CHUNK_LEAST: usize = 64 << 10;
const CHUNK_MOST: usize = 2 << 20;
/// After this many useless pieces in a row no start is looked for …
const MISSES: u32 = 4;
/// … in this many chunks.
const REST: u32 = 32;
/// Pieces of output that a receiver may hold while it waits for more.
const HELD: usize = 8;

impl Parallel {
    /// `threads` threads in `memory` bytes, or as many as these are enough for: two take
    /// 21 MiB. With one it is better to stream.
    pub fn new(threads: usize, memory: usize) -> Self {
        let mut threads = threads.clamp(1, 256);
        while threads > 1 && Self::most_bytes(threads, CHUNK_LEAST) > memory {
            threads -= 1;
        }
        // Where pieces of output are not of the least size.
        let chunk_bytes = memory / Self::most_bytes(threads, 1 << 20).div_ceil(1 << 20);
        let chunk_bytes = if chunk_bytes * MOST_RATIO < EMIT_LEAST {
            CHUNK_LEAST
        } else {
            chunk_bytes.min(CHUNK_MOST)
        };
        Self {
            threads,
            chunk_bytes,
        }
    }

    /// What a decode takes at most.
    fn most_bytes(threads: usize, chunk: usize) -> usize {
        let out = (chunk * MOST_RATIO).max(EMIT_LEAST);
        // A task takes its input twice over, markers of two bytes and as many bytes of output.
        (2 * chunk + 3 * out) * (threads + 2) + HELD * out
    }

    /// Decodes what `next` provides and hands the output to `emit`, in order. Both are called on
    /// this thread; `next` gives `None` at the end of the blob. Pieces of output go back to the
    /// decoder when they are dropped: it waits when the receiver holds more than about 4 MiB.
    ///
    /// # Errors
    /// Whatever is wrong with the stream, and what `next` and `emit` return.
    pub fn run(
        self,
        next: &mut dyn FnMut() -> Result<Option<Bytes>>,
        emit: &mut dyn FnMut(Bytes) -> Result<()>,
    ) -> Result<Done> {
        let (decode, to_decode) = unbounded();
        let (resolve, to_resolve) = unbounded();
        let cpu = AtomicU64::new(0);
        let mut done = std::thread::scope(|scope| {
            for i in 0..self.threads {
                let (decode, resolve) = (to_decode.clone(), to_resolve.clone());
                let cpu = &cpu;
                std::thread::Builder::new()
                    .name(format!("unlade-inflate-{i}"))
                    .stack_size(512 << 10)
                    .spawn_scoped(scope, move || {
                        work(&decode, &resolve);
                        let used = u64::try_from(thread_cpu().as_nanos()).unwrap_or(u64::MAX);
                        cpu.fetch_add(used, Ordering::Relaxed);
                    })
                    .map_err(|e| Error::host("start a thread", e))?;
            }
            let symbols = (self.chunk_bytes * MOST_RATIO).max(EMIT_LEAST);
            let mut join = Join {
                next,
                emit,
                chunk_bytes: self.chunk_bytes.max(4 << 10),
                most_tasks: self.threads + 1,
                partial: BytesMut::new(),
                chunks: VecDeque::new(),
                dispatched: 0,
                read: 0,
                eof: false,
                decoder: Gzip::default(),
                tasks: VecDeque::new(),
                ready: VecDeque::new(),
                sum: Sum::default(),
                slots: Slots::new(self.threads + 1 + HELD, symbols),
                misses: 0,
                resting: 0,
                small: None,
                decode,
                resolve,
                done: Done::default(),
            };
            join.decoder.check_later();
            let result = join.run();
            // The workers end when the channels are gone.
            result.map(|()| join.done)
        })?;
        done.workers_cpu = Duration::from_nanos(cpu.into_inner());
        Ok(done)
    }
}

/// A piece to decode.
struct Task {
    chunks: Vec<Chunk>,
    stop: Option<u64>,
    buffers: Buffers,
    /// The decoder of all that comes before, where that is known.
    decoder: Option<Gzip>,
    result: Sender<Finished>,
}

enum Finished {
    /// In order: bytes, their checksums, the decoder behind them.
    Known(Buffers, usize, Box<Gzip>, Result<()>),
    Unknown(Box<Piece>),
    Nothing(Buffers),
}

/// Markers to replace.
struct Second {
    marked: Vec<u16>,
    len: usize,
    resolver: Resolver,
    result: Sender<Resolved>,
    to: Vec<u8>,
}

struct Resolved {
    marked: Vec<u16>,
    plain: Vec<u8>,
    crc: u32,
    cpu: Duration,
}

fn work(decode: &Receiver<Task>, resolve: &Receiver<Second>) {
    loop {
        // What is waited for first.
        if let Ok(second) = resolve.try_recv() {
            second.run();
            continue;
        }
        crossbeam_channel::select! {
            recv(resolve) -> second => match second {
                Ok(second) => second.run(),
                Err(_) => return,
            },
            recv(decode) -> task => match task {
                Ok(task) => task.run(),
                Err(_) => return,
            },
        }
    }
}

impl Task {
    fn run(mut self) {
        let finished = match self.decoder.take() {
            Some(mut decoder) => {
                decoder.stop_at(self.stop);
                let mut used = 0;
                let plain = &mut self.buffers.plain;
                let done = piece::known(&mut decoder, &self.chunks, plain, &mut used);
                Finished::Known(self.buffers, used, Box::new(decoder), done)
            }
            None => match piece::unknown(&self.chunks, self.stop, self.buffers) {
                Ok(piece) => Finished::Unknown(Box::new(piece)),
                Err(buffers) => Finished::Nothing(buffers),
            },
        };
        // Nobody waits any more when the decode has failed.
        let _ = self.result.send(finished);
    }
}

impl Second {
    fn run(mut self) {
        let begun = thread_cpu();
        let from = &self.marked[WINDOW..WINDOW + self.len];
        let to = &mut self.to[..self.len];
        let mut crc = 0;
        for (from, to) in from.chunks(64 << 10).zip(to.chunks_mut(64 << 10)) {
            self.resolver.resolve(from, to);
            crc = crc32(crc, to);
        }
        let _ = self.result.send(Resolved {
            marked: self.marked,
            plain: self.to,
            crc,
            cpu: thread_cpu().saturating_sub(begun),
        });
    }
}

/// A task under way.
struct Pending {
    result: Receiver<Finished>,
    slot: Arc<Slot>,
}

/// Output in order, on its way out.
enum Ready {
    Bytes(Bytes, Vec<Segment>, Arc<Slot>),
    Second(Receiver<Resolved>, usize, Arc<Slot>),
}

/// The thread that reads, joins and emits.
struct Join<'a> {
    next: &'a mut dyn FnMut() -> Result<Option<Bytes>>,
    emit: &'a mut dyn FnMut(Bytes) -> Result<()>,
    chunk_bytes: usize,
    most_tasks: usize,
    /// Of the chunk being read.
    partial: BytesMut,
    chunks: VecDeque<Chunk>,
    /// Offset behind the last chunk given to a worker.
    dispatched: u64,
    read: u64,
    eof: bool,
    /// Behind all that is joined.
    decoder: Gzip,
    tasks: VecDeque<Pending>,
    ready: VecDeque<Ready>,
    /// Of the current member.
    sum: Sum,
    slots: Slots,
    /// Pieces in a row that were of no use.
    misses: u32,
    /// Chunks to be decoded in order before guessing is tried again.
    resting: u32,
    /// Small pieces, collected.
    small: Option<(Vec<u8>, usize, Arc<Slot>)>,
    decode: Sender<Task>,
    resolve: Sender<Second>,
    done: Done,
}

impl Join<'_> {
    fn run(&mut self) -> Result<()> {
        let result = self.join_all();
        // What came before an error is still right, or has an error of its own that comes first.
        let flushed = self.flush(true);
        flushed.and(result)
    }

    fn join_all(&mut self) -> Result<()> {
        loop {
            self.flush(false)?;
            while self.tasks.len() < self.most_tasks && self.dispatch()? {}
            let more = !self.eof || self.dispatched < self.read;
            if self.tasks.is_empty() && !more {
                self.advance(None)?;
                let whole = self.decoder.at_end();
                return if whole { Ok(()) } else { Err(cut(self.read)) };
            }
            if !self.eof && self.tasks.len() < self.most_tasks && self.dispatchable().is_none() {
                self.read_chunk()?;
            } else {
                self.join_one()?;
            }
        }
    }

    fn read_chunk(&mut self) -> Result<()> {
        match (self.next)()? {
            Some(bytes) => self.partial.extend_from_slice(&bytes),
            None => self.eof = true,
        }
        while self.partial.len() >= self.chunk_bytes || self.eof && !self.partial.is_empty() {
            let n = self.partial.len().min(self.chunk_bytes);
            let bytes = self.partial.split_to(n).freeze();
            let start = self.read;
            self.read += bytes.len() as u64;
            self.chunks.push_back(Chunk { start, bytes });
        }
        Ok(())
    }

    /// The next chunk for a worker and what follows it, if that is there.
    fn dispatchable(&self) -> Option<Vec<Chunk>> {
        let at = self
            .chunks
            .iter()
            .position(|c| c.start >= self.dispatched)?;
        let found: Vec<_> = self.chunks.range(at..).take(2).cloned().collect();
        (found.len() == 2 || self.eof).then_some(found)
    }

    fn dispatch(&mut self) -> Result<bool> {
        if self.resting > 0 && !self.tasks.is_empty() {
            return Ok(false);
        }
        let Some(mut chunks) = self.dispatchable() else {
            return Ok(false);
        };
        let Some((slot, buffers)) = self.slots.try_take() else {
            if self.tasks.is_empty() {
                // All is with the receiver: wait for it.
                self.flush(true)?;
                self.slots.wait();
            }
            return Ok(false);
        };
        let (from, end) = (chunks[0].start, chunks[0].end());
        let last = self.eof && end == self.read;
        let stop = (!last).then_some(end * 8);
        // With nothing under way there is no need to guess.
        let decoder = self.tasks.is_empty().then(|| {
            let mut fresh = Gzip::default();
            fresh.check_later();
            std::mem::replace(&mut self.decoder, fresh)
        });
        if let Some(decoder) = &decoder {
            self.resting = self.resting.saturating_sub(1);
            let mut before: Vec<_> = self
                .chunks
                .iter()
                .filter(|c| c.end() > decoder.taken() && c.start < from)
                .cloned()
                .collect();
            before.append(&mut chunks);
            chunks = before;
        }
        self.dispatched = end;
        let (result, finished) = bounded(1);
        let task = Task {
            chunks,
            stop,
            buffers,
            decoder,
            result,
        };
        self.decode.send(task).map_err(|_| gone())?;
        self.tasks.push_back(Pending {
            result: finished,
            slot,
        });
        Ok(true)
    }

    /// Waits for the oldest task and takes what it found.
    fn join_one(&mut self) -> Result<()> {
        let Some(task) = self.tasks.pop_front() else {
            return Ok(());
        };
        match task.result.recv().map_err(|_| gone())? {
            Finished::Known(buffers, used, mut decoder, done) => {
                let segments = decoder.segments();
                self.decoder = *decoder;
                self.done.in_order += used as u64;
                task.slot.give_marked(buffers.marked);
                let bytes = task.slot.bytes(buffers.plain, used);
                self.ready
                    .push_back(Ready::Bytes(bytes, segments, task.slot));
                done?;
            }
            Finished::Nothing(buffers) => {
                task.slot.give(buffers);
                self.missed();
            }
            Finished::Unknown(piece) => {
                self.advance(Some(piece.start.bit()))?;
                self.take(*piece, &task.slot)?;
            }
        }
        let taken = self.decoder.taken();
        while self
            .chunks
            .front()
            .is_some_and(|c| c.end() <= taken.min(self.dispatched))
        {
            self.chunks.pop_front();
        }
        Ok(())
    }

    /// A piece was of no use. After some the stream is taken for one without blocks to find.
    fn missed(&mut self) {
        self.done.pieces.1 += 1;
        self.misses += 1;
        if self.misses >= MISSES {
            (self.misses, self.resting) = (0, REST);
        }
    }

    /// Joins a piece if it begins where everything before it ends.
    fn take(&mut self, piece: Piece, slot: &Arc<Slot>) -> Result<()> {
        let at = match piece.start {
            Start::Block(_) => self.decoder.at_block(),
            Start::Member(_) => self.decoder.at_member_start(),
        };
        let resolver = Resolver::new(self.decoder.window());
        let marked = &piece.buffers.marked;
        let behind = (piece.marked > 0).then(|| &marked[WINDOW..WINDOW + piece.marked]);
        let covered = behind.is_none_or(|m| resolver.covers(m));
        if !at || self.decoder.bit() != piece.start.bit() || !covered {
            self.missed();
            slot.give(piece.buffers);
            return Ok(());
        }
        self.done.pieces.0 += 1;
        self.misses = 0;
        self.done.search_cpu += piece.costs.search;
        self.done.first_stage_cpu += piece.costs.first_stage;
        let known = self.decoder.window().len();
        self.decoder = piece.decoder;
        if piece.open {
            let last = &marked[piece.marked..WINDOW + piece.marked];
            let mut window = vec![0; WINDOW];
            resolver.resolve(last, &mut window);
            let known = (known + piece.marked).min(WINDOW);
            self.decoder.set_window(&window[WINDOW - known..]);
        }
        let Buffers { marked, plain } = piece.buffers;
        if piece.marked > 0 {
            self.done.second_stage += piece.marked as u64;
            let (result, resolved) = bounded(1);
            let second = Second {
                marked,
                len: piece.marked,
                resolver,
                result,
                to: slot.plain(),
            };
            self.resolve.send(second).map_err(|_| gone())?;
            self.ready
                .push_back(Ready::Second(resolved, piece.marked, slot.clone()));
        } else {
            slot.give_marked(marked);
        }
        let bytes = slot.bytes(plain, piece.plain);
        self.ready
            .push_back(Ready::Bytes(bytes, piece.segments, slot.clone()));
        Ok(())
    }

    /// Decodes in order up to the first boundary from `stop` on.
    fn advance(&mut self, stop: Option<u64>) -> Result<()> {
        self.decoder.stop_at(stop);
        while !self.decoder.stopped() {
            let (slot, mut buffers) = loop {
                match self.slots.try_take() {
                    Some(taken) => break taken,
                    None => {
                        self.flush(true)?;
                        self.slots.wait();
                    }
                }
            };
            let mut used = 0;
            let chunks = self.chunks.make_contiguous();
            // Less than a whole buffer: others wait for it.
            let to = &mut buffers.plain[..EMIT_LEAST];
            let done = piece::known(&mut self.decoder, chunks, to, &mut used);
            slot.give_marked(buffers.marked);
            self.done.in_order += used as u64;
            let segments = self.decoder.segments();
            let bytes = slot.bytes(buffers.plain, used);
            self.ready.push_back(Ready::Bytes(bytes, segments, slot));
            done?;
            if used < EMIT_LEAST {
                // The end of the input.
                break;
            }
            self.flush(false)?;
        }
        Ok(())
    }

    /// Emits what is ready, in order; all of it, waiting for the second stage, if `all`.
    fn flush(&mut self, all: bool) -> Result<()> {
        let done = self.flush_ready(all);
        if done.is_err() {
            self.ready.clear();
            self.small = None;
        }
        done
    }

    fn flush_ready(&mut self, all: bool) -> Result<()> {
        while let Some(front) = self.ready.pop_front() {
            let (bytes, segments, slot) = match front {
                Ready::Bytes(bytes, segments, slot) => (bytes, segments, slot),
                Ready::Second(result, len, slot) => {
                    let resolved = if all {
                        result.recv().ok()
                    } else {
                        match result.try_recv() {
                            Ok(resolved) => Some(resolved),
                            Err(crossbeam_channel::TryRecvError::Empty) => {
                                self.ready.push_front(Ready::Second(result, len, slot));
                                return Ok(());
                            }
                            Err(_) => None,
                        }
                    };
                    let Resolved {
                        marked,
                        plain,
                        crc,
                        cpu,
                    } = resolved.ok_or_else(gone)?;
                    slot.give_marked(marked);
                    self.done.second_stage_cpu += cpu;
                    let sum = Sum {
                        crc,
                        length: len as u64,
                    };
                    let segment = Segment { sum, trailer: None };
                    (slot.bytes(plain, len), vec![segment], slot)
                }
            };
            let mut len = 0;
            for segment in segments {
                len += segment.sum.length;
                self.sum = self.sum.and(segment.sum);
                if let Some(trailer) = segment.trailer
                    && let Err(e) = check_trailer(trailer.bytes, std::mem::take(&mut self.sum))
                {
                    // Just what decoding in order gives before it comes to this.
                    let len = usize::try_from(len).map_or(bytes.len(), |n| n.min(bytes.len()));
                    self.emit(bytes.slice(..len), slot)?;
                    self.emit_small()?;
                    return Err(e.at_offset(Stream::Compressed, trailer.end));
                }
            }
            self.done.bytes += bytes.len() as u64;
            self.emit(bytes, slot)?;
        }
        if all {
            self.emit_small()?;
        }
        Ok(())
    }

    /// Emits a piece, or collects it with others if it is small.
    fn emit(&mut self, mut bytes: Bytes, slot: Arc<Slot>) -> Result<()> {
        if let Some((small, used, _)) = &mut self.small {
            let fill = bytes.split_to(bytes.len().min(EMIT_LEAST - *used));
            small[*used..*used + fill.len()].copy_from_slice(&fill);
            *used += fill.len();
            if *used == EMIT_LEAST {
                self.emit_small()?;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            // The rest of a piece needs no slot of its own, and may be short.
            return (self.emit)(bytes);
        }
        if bytes.len() >= EMIT_LEAST {
            return (self.emit)(bytes);
        }
        if !bytes.is_empty() {
            let mut small = slot.plain();
            small[..bytes.len()].copy_from_slice(&bytes);
            self.small = Some((small, bytes.len(), slot));
        }
        Ok(())
    }

    fn emit_small(&mut self) -> Result<()> {
        match self.small.take() {
            Some((small, used, slot)) => (self.emit)(slot.bytes(small, used)),
            None => Ok(()),
        }
    }
}

fn gone() -> Error {
    Error::new(
        crate::error::Kind::Bug,
        "a thread of the gzip decoder panicked",
    )
}
