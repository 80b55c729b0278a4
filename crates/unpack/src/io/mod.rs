//! Writing files: a pool of writers, shared by all layers in flight, with two engines.
//!
//! A [`FileJob`] holds a whole small file; a large one is a [`Stream`] that takes its bytes as
//! they are decoded. Both carry slices of the decoder's blocks, so payload is not copied on the
//! way. What a writer cannot finish by itself comes back ([`Batch::take_returned`]).

mod file;
mod threads;
mod uring;

use std::{
    fmt,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;

pub(crate) use self::file::{FileMeta, Notes, Stream, owner, timestamps, unlink};
use crate::{
    cancel::Cancel,
    error::{Error, Result},
    pool::TICK,
    root::Dir,
};

/// Which engine writes files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IoChoice {
    /// What measurements favour: today [`IoChoice::Threads`]
    /// (docs/decisions/0004-io-engines.md).
    #[default]
    Auto,
    /// Plain system calls on a pool of threads.
    Threads,
    /// io_uring, with linked open-write-close on direct descriptors. Falls back to threads where
    /// the kernel lacks or forbids it; the report says why.
    Ring,
}

/// A small file, whole.
#[derive(Debug)]
pub(crate) struct FileJob {
    pub dir: Arc<Dir>,
    pub name: Box<[u8]>,
    pub meta: FileMeta,
    pub size: u64,
    /// Payload by offset; what lies between reads as zeros.
    pub body: Vec<(u64, Bytes)>,
    pub batch: Arc<Batch>,
}

/// A unit of work for a writer.
#[derive(Debug)]
pub(crate) enum Work {
    /// Small files, several at once so that handing over costs little.
    Files(Vec<FileJob>),
    /// Bytes wait in this large file.
    Stream(Arc<Stream>),
}

/// The pool of writers. Clones share it; it ends with the last clone.
#[derive(Clone)]
pub(crate) struct Writers {
    queue: crossbeam_channel::Sender<Work>,
    stats: Arc<Stats>,
    engine: Arc<str>,
}

impl fmt::Debug for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writers")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// What the writers have used, in nanoseconds and bytes.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub busy_ns: AtomicU64,
    pub cpu_ns: AtomicU64,
    pub bytes: AtomicU64,
}

/// Batches of work that may wait for a writer.
const QUEUE: usize = 64;

impl Writers {
    /// Starts `threads` writers, or a ring.
    pub(crate) fn start(choice: IoChoice, threads: usize) -> Result<Self> {
        let (queue, work) = crossbeam_channel::bounded(QUEUE);
        let stats = Arc::new(Stats::default());
        let mut engine = "threads".to_owned();
        if choice == IoChoice::Ring {
            match uring::start(work.clone(), stats.clone())? {
                Ok(()) => {
                    return Ok(Self {
                        queue,
                        stats,
                        engine: "ring".into(),
                    });
                }
                Err(why) => {
                    tracing::warn!("io_uring cannot be used ({why}): writing with threads");
                    engine = format!("threads (io_uring cannot be used: {why})");
                }
            }
        }
        threads::start(threads, &work, &stats)?;
        Ok(Self {
            queue,
            stats,
            engine: engine.into(),
        })
    }

    /// Which engine works, and why not the one that was asked for.
    pub(crate) fn engine(&self) -> &str {
        &self.engine
    }

    pub(crate) fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Hands work over; waits while the queue is full.
    pub(crate) fn submit(&self, work: Work) -> Result<()> {
        self.queue
            .send(work)
            .map_err(|_| Error::new(crate::error::Kind::Bug, "the writers have stopped"))
    }
}

/// The work of one layer: counts what is under way, keeps the first error.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    state: Mutex<BatchState>,
    changed: Condvar,
    /// Set with the first error or returned job, so that the hot path reads one flag.
    attention: AtomicBool,
    /// Names that were there already.
    replaced: AtomicU64,
}

#[derive(Debug, Default)]
struct BatchState {
    pending: u64,
    error: Option<Error>,
    returned: Vec<FileJob>,
}

/// Does a writer's work on one file; a panic is an error of that file's layer. So its batch is
/// counted off and the writer lives on for others.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Error::new(
            crate::error::Kind::Bug,
            "a writer of the pipeline panicked",
        ))
    })
}

impl Batch {
    fn lock(&self) -> MutexGuard<'_, BatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `n` units as under way.
    pub(crate) fn begin(&self, n: u64) {
        self.lock().pending += n;
    }

    /// Counts `n` units as done.
    pub(crate) fn done(&self, n: u64) {
        let mut state = self.lock();
        state.pending -= n;
        if state.pending == 0 {
            self.changed.notify_all();
        }
    }

    /// Keeps `error` if it is the first.
    pub(crate) fn fail(&self, error: Error) {
        self.lock().error.get_or_insert(error);
        self.attention.store(true, Ordering::Release);
    }

    pub(crate) fn failed(&self) -> bool {
        self.attention.load(Ordering::Acquire) && self.lock().error.is_some()
    }

    /// Gives back a job that needs the layer's thread: a directory is in its way.
    pub(crate) fn give_back(&self, job: FileJob) {
        self.lock().returned.push(job);
        self.attention.store(true, Ordering::Release);
    }

    /// Counts a name that was there already.
    pub(crate) fn replace(&self) {
        self.replaced.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Whether there is an error or a returned job.
    pub(crate) fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// Jobs given back so far, or the first error.
    pub(crate) fn take_returned(&self) -> Result<Vec<FileJob>> {
        let mut state = self.lock();
        if let Some(e) = state.error.take() {
            return Err(e);
        }
        self.attention.store(false, Ordering::Release);
        Ok(std::mem::take(&mut state.returned))
    }

    /// Waits until nothing is under way. Returns early when cancelled.
    pub(crate) fn wait(&self, cancel: &Cancel) -> Result<()> {
        let mut state = self.lock();
        while state.pending > 0 {
            if cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            state = self
                .changed
                .wait_timeout(state, TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }

    /// Waits until nothing is under way, whatever happens: writers always get there.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        while state.pending > 0 {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_the_layer() {
        let e = guarded::<()>(|| panic!("a panic that the test asks for")).unwrap_err();
        assert_eq!(e.kind(), crate::error::Kind::Bug);
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
    }
}
