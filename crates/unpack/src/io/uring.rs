//! The io_uring engine: one thread, small files as linked open-write-close chains on direct
//! descriptors, large ones as writes in flight.
//!
//! The ring is probed for the operations it needs and then restricted to them. The kernel has no
//! operation for owner, mode or time by descriptor, so those follow by name when a chain is
//! done: nobody else works in the directory. Whatever a chain cannot do (attributes, something in
//! the way, a short write) falls to the plain path, so both engines give the same tree.

use std::{
    collections::VecDeque,
    ffi::CString,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    thread,
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, TryRecvError};
use rustix::fs::{self, AtFlags};

use super::{FileJob, Stats, Work, file, file::Stream, guarded, threads};
use crate::{
    error::{Error, Result},
    fault,
    sys::{
        self,
        ring::{Chain, Done, Ring},
    },
};

/// Chains and writes in flight at once.
const DEPTH: usize = 32;
/// Payload slices of a file that fit a chain.
const SLICES: usize = 6;

/// Starts the ring's thread. The inner error says why this kernel or sandbox has no ring for us.
pub(super) fn start(work: Receiver<Work>, stats: Arc<Stats>) -> Result<Result<(), String>> {
    let (ready, started) = crossbeam_channel::bounded(1);
    thread::Builder::new()
        .name("unlade-ring".into())
        .spawn(move || {
            // The ring's kernel workers share this thread's umask: set it before they exist.
            let umask = sys::private_umask();
            let ring = match Ring::new(DEPTH, SLICES + 2) {
                Ok(ring) if umask => ring,
                Ok(_) => return tell(&ready, Err("no umask of its own".into())),
                Err(why) => return tell(&ready, Err(why)),
            };
            tell(&ready, Ok(()));
            Engine {
                ring,
                waiting: VecDeque::new(),
                streams: Vec::new(),
            }
            .run(&work, &stats);
        })
        .map_err(|e| Error::host("start the ring's thread", e))?;
    started
        .recv()
        .map_err(|_| Error::new(crate::error::Kind::Bug, "the ring's thread died"))
}

fn tell(ready: &crossbeam_channel::Sender<Result<(), String>>, how: Result<(), String>) {
    // Whoever started us waits for this one message.
    let _ = ready.send(how);
}

/// What is in flight in the ring, owning all that the kernel reads.
#[derive(Debug)]
pub(crate) enum InFlight {
    File {
        job: FileJob,
        _name: CString,
    },
    Chunk {
        stream: Arc<Stream>,
        at: u64,
        bytes: Bytes,
    },
}

struct Engine {
    ring: Ring<InFlight>,
    waiting: VecDeque<FileJob>,
    /// Streams with chunks in flight, and how many.
    streams: Vec<(Arc<Stream>, usize)>,
}

impl Engine {
    fn run(mut self, work: &Receiver<Work>, stats: &Stats) {
        let mut open = true;
        while open || self.ring.in_flight() > 0 || !self.waiting.is_empty() {
            let idle = self.ring.in_flight() == 0 && self.waiting.is_empty();
            let next = if idle {
                work.recv().map_err(|_| TryRecvError::Disconnected)
            } else if self.waiting.len() < DEPTH {
                work.try_recv()
            } else {
                Err(TryRecvError::Empty)
            };
            threads::measured(stats, || match next {
                Ok(item) => self.take(item),
                Err(e) => {
                    open &= e != TryRecvError::Disconnected;
                    self.turn()
                }
            });
        }
    }

    fn take(&mut self, work: Work) -> u64 {
        match work {
            Work::Files(jobs) => self.waiting.extend(jobs),
            Work::Stream(stream) => return self.stream(&stream),
        }
        self.fill()
    }

    /// Starts what fits; returns bytes written by the plain path.
    fn fill(&mut self) -> u64 {
        let mut bytes = 0;
        while self.ring.has_room()
            && let Some(job) = self.waiting.pop_front()
        {
            bytes += self.file(job);
        }
        bytes
    }

    fn file(&mut self, job: FileJob) -> u64 {
        let plain = job.meta.xattrs.is_none()
            && !job.dir.default_acl
            && job.meta.mode & 0o6000 == 0
            && job.body.len() <= SLICES
            && job
                .body
                .iter()
                .map(|(at, b)| at + b.len() as u64)
                .max()
                .unwrap_or(0)
                == job.size;
        let faults = ["create", "write"]
            .map(fault::point)
            .into_iter()
            .any(|p| p.is_err());
        let Ok(name) = CString::new(&*job.name) else {
            return threads::one(job, true);
        };
        if !plain || faults || job.batch.failed() {
            return threads::one(job, true);
        }
        let chain = Chain {
            dir: job.dir.as_raw_fd(),
            name: name.as_ptr(),
            flags: i32::try_from(file::CREATE.bits()).unwrap_or_default(),
            mode: job.meta.mode,
            writes: job
                .body
                .iter()
                .map(|(at, b)| (*at, b.as_ptr(), b.len()))
                .collect(),
        };
        let owned = InFlight::File { job, _name: name };
        match self.ring.push_chain(&chain, owned) {
            Ok(()) => 0,
            // The request comes back when the queue is full.
            Err(InFlight::File { job, .. }) => threads::one(job, true),
            Err(InFlight::Chunk { .. }) => 0,
        }
    }

    /// Puts a stream's waiting chunks in flight; completes it once nothing more comes.
    fn stream(&mut self, stream: &Arc<Stream>) -> u64 {
        let mut bytes = 0;
        while let Some((at, chunk)) = stream.next_chunk() {
            let faults = fault::point("write").is_err();
            if faults || stream.failed() || !self.ring.has_room() {
                bytes += stream.write(at, &chunk);
                continue;
            }
            let raw = (at, chunk.as_ptr(), chunk.len());
            let owned = InFlight::Chunk {
                stream: stream.clone(),
                at,
                bytes: chunk,
            };
            match self.ring.push_write(stream.raw_fd(), raw, owned) {
                Ok(()) => match self
                    .streams
                    .iter_mut()
                    .find(|(s, _)| Arc::ptr_eq(s, stream))
                {
                    Some((_, n)) => *n += 1,
                    None => self.streams.push((stream.clone(), 1)),
                },
                Err(InFlight::Chunk {
                    at, bytes: chunk, ..
                }) => bytes += stream.write(at, &chunk),
                Err(InFlight::File { .. }) => {}
            }
        }
        let in_flight = self.streams.iter().any(|(s, _)| Arc::ptr_eq(s, stream));
        if !in_flight && !stream.settle() {
            return bytes + self.stream(stream);
        }
        bytes
    }

    /// Submits, waits for a completion, and deals with all that are there.
    fn turn(&mut self) -> u64 {
        if self.ring.in_flight() == 0 {
            return self.fill();
        }
        let done = self.ring.wait();
        let mut bytes = 0;
        for item in done {
            bytes += self.finished(item);
        }
        bytes + self.fill()
    }

    fn finished(&mut self, done: Done<InFlight>) -> u64 {
        match done.owned {
            InFlight::File { job, .. } if done.ok => {
                let bytes = job.size;
                let batch = job.batch.clone();
                if let Err(e) = guarded(|| finish(&job)) {
                    batch.fail(e);
                }
                batch.done(1);
                bytes
            }
            InFlight::File { job, .. } => {
                // Something in the way, a short write, or an error: the plain path replaces what
                // the chain left and reports the cause.
                threads::one(job, true)
            }
            InFlight::Chunk { stream, at, bytes } => {
                let written = if done.ok {
                    bytes.len() as u64
                } else {
                    stream.write(at, &bytes)
                };
                drop(bytes);
                if let Some(i) = self
                    .streams
                    .iter()
                    .position(|(s, _)| Arc::ptr_eq(s, &stream))
                {
                    self.streams[i].1 -= 1;
                    if self.streams[i].1 == 0 {
                        self.streams.swap_remove(i);
                        return written + self.stream(&stream);
                    }
                }
                written
            }
        }
    }
}

/// Owner and time of a file whose chain is done.
fn finish(job: &FileJob) -> Result<()> {
    let host = |e| {
        let doing = format!(
            "set the owner or time of `{}`",
            crate::error::show(&job.meta.path)
        );
        Error::host(doing, e).at_entry(job.meta.entry, &job.meta.path)
    };
    if let Some((uid, gid)) = job.meta.owner {
        let (uid, gid) = file::owner(uid, gid);
        fs::chownat(&job.dir, &*job.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(host)?;
    }
    let times = file::timestamps(job.meta.mtime);
    fs::utimensat(&job.dir, &*job.name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(host)
}

trait RawDir {
    fn as_raw_fd(&self) -> RawFd;
}

impl RawDir for Arc<crate::root::Dir> {
    fn as_raw_fd(&self) -> RawFd {
        use std::os::fd::AsFd;
        self.as_fd().as_raw_fd()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // The kernel may still read what is in flight.
        while self.ring.in_flight() > 0 {
            drop(self.ring.wait());
        }
    }
}
