//! SIGINT, SIGTERM and SIGHUP: the first stops the work and cleans up, the second ends the
//! process at once.
//!
//! They are blocked in every thread and waited for by one, so no handler runs anywhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
};

use nix::sys::signal::{SigSet, Signal};
use unlade_unpack::{Cancel, Error, Result};

use crate::sys;

/// Signals that are blocked in all threads that are started from now on.
pub(super) struct Signals {
    set: SigSet,
    received: Arc<AtomicI32>,
}

impl Signals {
    /// Blocks the signals in this thread and those that it will start.
    pub(super) fn block() -> Self {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        if let Err(e) = set.thread_block() {
            tracing::debug!(error = %e, "signals stay as they are");
        }
        Self {
            set,
            received: Arc::default(),
        }
    }

    /// Waits for a signal on a thread and cancels then.
    pub(super) fn watch(&self, cancel: Cancel) -> Result<()> {
        let (set, received) = (self.set, self.received.clone());
        let wait = move || {
            while let Ok(signal) = set.wait() {
                let signal = signal as i32;
                if received.swap(signal, Ordering::AcqRel) != 0 {
                    sys::exit_now(i32::from(exit_code(signal)));
                }
                cancel.cancel();
            }
        };
        let thread = thread::Builder::new()
            .name("unlade-signals".into())
            .stack_size(64 << 10);
        thread
            .spawn(wait)
            .map(drop)
            .map_err(|e| Error::host("start a thread", e))
    }

    /// The signal that has come, if one has.
    pub(super) fn received(&self) -> Option<i32> {
        Some(self.received.load(Ordering::Acquire)).filter(|s| *s != 0)
    }
}

/// What a shell makes of a process that a signal ended.
pub(super) fn exit_code(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(super::FAILED)
}
