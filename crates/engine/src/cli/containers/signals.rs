//! Signals of a command that holds a container in the foreground: before the container runs they
//! stop the work, then they go to the container.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    thread,
};

use nix::sys::signal::{SigSet, Signal};
use unlade_unpack::Cancel;

use crate::{
    error::{Error, Result},
    shim, sys,
};

/// What becomes of a signal.
#[derive(Debug)]
pub(super) enum Goes {
    /// The first of those that end programs cancels, the second ends this process.
    Stops(Cancel),
    /// To the container whose run has this directory.
    To(PathBuf),
    /// Nowhere: the container has them already, from the terminal, or they are not to reach it.
    Nowhere,
    /// This process ends by it.
    Ends,
}

/// What is done when the window's size changes.
type Resize = Box<dyn FnMut() + Send>;

/// Signals that are blocked in all threads and waited for by one.
#[derive(Clone)]
pub(super) struct Signals {
    goes: Arc<Mutex<Goes>>,
    resize: Arc<Mutex<Option<Resize>>>,
    received: Arc<AtomicI32>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those that are not passed on: they are about this process itself.
fn is_own(signal: Signal) -> bool {
    use Signal::*;
    matches!(
        signal,
        SIGCHLD
            | SIGPIPE
            | SIGURG
            | SIGKILL
            | SIGSTOP
            | SIGSEGV
            | SIGBUS
            | SIGFPE
            | SIGILL
            | SIGTRAP
            | SIGABRT
            | SIGSYS
            | SIGTTIN
            | SIGTTOU
    )
}

impl Signals {
    /// Blocks them and starts to wait. Before any other thread is started.
    pub(super) fn start(cancel: Cancel) -> Result<Self> {
        let set: SigSet = Signal::iterator().filter(|s| !is_own(*s)).collect();
        set.thread_block()
            .map_err(|e| Error::host("block signals", std::io::Error::from(e)))?;
        let this = Self {
            goes: Arc::new(Mutex::new(Goes::Stops(cancel))),
            resize: Arc::default(),
            received: Arc::default(),
        };
        let waits = this.clone();
        let thread = thread::Builder::new()
            .name("unlade-signals".into())
            .stack_size(128 << 10);
        let wait = move || {
            while let Ok(signal) = set.wait() {
                waits.got(signal);
            }
        };
        thread
            .spawn(wait)
            .map(drop)
            .map_err(|e| Error::host("start a thread", e))?;
        Ok(this)
    }

    fn got(&self, signal: Signal) {
        if signal == Signal::SIGWINCH {
            if let Some(resize) = &mut *lock(&self.resize) {
                resize();
            }
            return;
        }
        let number = signal as i32;
        match &*lock(&self.goes) {
            Goes::Stops(cancel) => {
                if !matches!(
                    signal,
                    Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT
                ) {
                    return;
                }
                if self.received.swap(number, Ordering::AcqRel) != 0 {
                    sys::exit_now(128 + number);
                }
                cancel.cancel();
            }
            Goes::To(run) => {
                if let Err(e) = shim::signal(run, number) {
                    tracing::debug!(error = %e, "a signal did not reach the container");
                }
            }
            Goes::Nowhere => {}
            Goes::Ends => {
                if matches!(
                    signal,
                    Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT
                ) {
                    sys::exit_now(128 + number);
                }
            }
        }
    }

    /// From now on signals go there.
    pub(super) fn go(&self, goes: Goes) {
        *lock(&self.goes) = goes;
    }

    /// From now on a change of the window's size does this.
    pub(super) fn on_resize(&self, resize: impl FnMut() + Send + 'static) {
        *lock(&self.resize) = Some(Box::new(resize));
    }

    /// The signal that has stopped the work, if one has.
    pub(super) fn received(&self) -> Option<i32> {
        Some(self.received.load(Ordering::Acquire)).filter(|s| *s != 0)
    }
}
