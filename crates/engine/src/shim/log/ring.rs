//! The log of `mode=non-blocking`: a buffer of so many bytes, and a thread that empties it into the
//! files, so that a slow disk holds up neither the container nor the shim. What finds no room is
//! dropped, and the log says how many lines that were.

use std::{
    mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::Errno,
};

use super::{LINE, files::Files};
use crate::{shim::Stream, sys};

/// What comes before each line's text: its stream, when it came, its length.
const HEAD: usize = 1 + 8 + 4;
/// The thread's stack, in bytes, of which it touches what it needs.
const STACK: usize = 256 << 10;
/// A buffer of more bytes is given back to the system.
const LARGE: usize = 128 << 10;
/// How long a thread that has nothing to write may take to end.
const CLOSING: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Ring {
    shared: Arc<Shared>,
    max: usize,
    dropped: Dropped,
    thread: Option<JoinHandle<()>>,
    /// Whether whoever writes waits until all is in the files.
    ends: bool,
}

/// What was dropped since the log has last said so.
#[derive(Debug, Default)]
struct Dropped {
    lines: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the thread.
    wake: Option<OwnedFd>,
    /// Told when all is in the files.
    settled: Option<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    /// What the thread has not taken yet.
    queue: Vec<u8>,
    /// Bytes of that, and of what it has taken and not written.
    used: usize,
    over: bool,
    /// Where it writes, until there is a thread.
    files: Option<Files>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    pub(super) fn new(files: Files, max: u64) -> Self {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    files: Some(files),
                    ..State::default()
                }),
                wake: event(),
                settled: event(),
            }),
            max: usize::try_from(max).unwrap_or(usize::MAX),
            dropped: Dropped::default(),
            thread: None,
            ends: false,
        }
    }

    /// Adds a line, or drops it. One that is larger than the buffer is kept if it is alone.
    pub(super) fn line(&mut self, stream: Stream, time: SystemTime, text: &[u8]) {
        let mut state = self.shared.lock();
        let used = state.used;
        if used > 0 && used.saturating_add(HEAD + text.len()) > self.max {
            self.dropped.lines += 1;
            self.dropped.bytes += text.len() as u64;
            return;
        }
        self.dropped.tell(&mut state, time);
        state.add(stream, time, text);
    }

    /// No more comes: says what was dropped last.
    pub(super) fn end(&mut self, time: SystemTime) {
        self.dropped.tell(&mut self.shared.lock(), time);
        self.ends = true;
    }

    /// Has the thread take what there is.
    pub(super) fn wake(&mut self) {
        if self.thread.is_none() && self.shared.lock().used > 0 {
            let shared = Arc::clone(&self.shared);
            let builder = thread::Builder::new().name("log".into()).stack_size(STACK);
            // If there can be none now, there may be one at the next line.
            self.thread = builder.spawn(move || work(&shared)).ok();
        }
        tell(self.shared.wake.as_ref());
    }

    pub(super) fn settled(&self) -> bool {
        self.shared.lock().used == 0
    }

    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        let settled = self.shared.settled.as_ref();
        settled.filter(|_| self.ends).map(AsFd::as_fd)
    }

    pub(super) fn turn(&mut self) {
        heard(self.shared.settled.as_ref());
        self.ends &= !self.settled();
    }

    /// Ends the thread: nothing is written any more.
    pub(super) fn close(&mut self) {
        if let Some(thread) = self.thread.take_if(|_| self.shared.lock().used == 0) {
            self.shared.lock().over = true;
            tell(self.shared.wake.as_ref());
            let end = Instant::now() + CLOSING;
            while !thread.is_finished() && Instant::now() < end {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Dropped {
    /// Adds a line that says what was dropped; there is always room for that.
    fn tell(&mut self, state: &mut State, time: SystemTime) {
        let Self { lines, bytes } = mem::take(self);
        if lines > 0 {
            let text = format!(
                "unlade: {lines} lines of {bytes} bytes were dropped here: the log's buffer was \
                 full\n"
            );
            state.add(Stream::Stderr, time, text.as_bytes());
        }
    }
}

impl State {
    fn add(&mut self, stream: Stream, time: SystemTime, text: &[u8]) {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        let nanos = u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(0);
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
        self.queue.push(stream as u8);
        self.queue.extend(nanos.to_le_bytes());
        self.queue.extend(len.to_le_bytes());
        self.queue.extend_from_slice(text);
        self.used += HEAD + text.len();
    }
}

fn tell(event: Option<&OwnedFd>) {
    if let Some(fd) = event {
        let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
    }
}

fn heard(event: Option<&OwnedFd>) {
    if let Some(fd) = event {
        let _ = rustix::io::read(fd, &mut [0; 8]);
    }
}

/// The thread.
fn work(shared: &Shared) {
    // The shim can leave its mount namespace only if it shares no directory with a thread.
    let _ = sys::unshare_fs();
    let Some(mut files) = shared.lock().files.take() else {
        return;
    };
    loop {
        let (taken, over) = {
            let mut state = shared.lock();
            (mem::take(&mut state.queue), state.over)
        };
        if !taken.is_empty() {
            write(shared, &mut files, &taken);
            let large = taken.capacity() > LARGE;
            drop(taken);
            if large && shared.lock().used == 0 {
                sys::give_back_memory();
            }
        } else if over {
            return;
        } else if !wait(shared, &mut files) {
            // Nothing can be waited for: better to end than to spin.
            std::process::abort();
        }
    }
}

/// Waits for lines, or for a file that is compressed.
fn wait(shared: &Shared, files: &mut Files) -> bool {
    let Some(wake) = &shared.wake else {
        return false;
    };
    let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
    fds.extend(
        files
            .waits_for()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
    );
    match poll(&mut fds, None) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(_) => return false,
    }
    drop(fds);
    heard(shared.wake.as_ref());
    files.packed();
    true
}

fn write(shared: &Shared, files: &mut Files, mut taken: &[u8]) {
    let mut done = 0;
    while let Some((head, rest)) = taken.split_first_chunk::<HEAD>() {
        let [kind, a, b, c, d, e, f, g, h, len @ ..] = *head;
        let nanos = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let len = u32::from_le_bytes(len) as usize;
        let Some((text, rest)) = rest.split_at_checked(len) else {
            break;
        };
        let stream = if kind == Stream::Stdout as u8 {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        files.line(stream, time, text);
        (taken, done) = (rest, done + HEAD + len);
        if done > 4 * LINE {
            files.flush();
            free(shared, mem::take(&mut done));
        }
    }
    files.flush();
    free(shared, done);
}

/// There is room for so many bytes again.
fn free(shared: &Shared, done: usize) {
    let mut state = shared.lock();
    state.used -= done;
    if state.used == 0 {
        tell(shared.settled.as_ref());
    }
}
