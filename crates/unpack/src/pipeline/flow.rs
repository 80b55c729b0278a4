//! What the threads of a layer share, and their clocks.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{
    cancel::Cancel,
    error::{Error, Result},
    report::Stage,
};

/// What the threads of a layer know of each other.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) cancel: Cancel,
    /// The layer is dropped or has failed.
    pub(super) stop: AtomicBool,
    /// It is the layer's turn: it may use the whole pool.
    pub(super) applying: AtomicBool,
    /// Milliseconds since `started` when the source was asked for bytes; 0 while it is not.
    pub(super) asked: AtomicU64,
    pub(super) started: Clock,
}

#[derive(Debug)]
pub(super) struct Clock(Instant);

impl Default for Clock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Flow {
    pub(super) fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Acquire) {
            return Err(Error::cancelled());
        }
        self.cancel.check()
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.0.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// How long the source has been silent.
    pub(super) fn silent(&self) -> Duration {
        match self.asked.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            at => Duration::from_millis(self.now().saturating_sub(at)),
        }
    }
}

/// A clock that runs while a stage works.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Busy {
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
    pub(super) bytes: u64,
}

impl Busy {
    /// Two threads at once.
    pub(super) fn beside(self, other: Self) -> Self {
        Self {
            wall: self.wall.max(other.wall),
            cpu: self.cpu + other.cpu,
            bytes: self.bytes + other.bytes,
        }
    }

    pub(super) fn stage(self, name: &'static str) -> Stage {
        let (seconds, cpu_seconds) = (self.wall.as_secs_f64(), self.cpu.as_secs_f64());
        Stage {
            name,
            seconds,
            cpu_seconds,
            bytes: self.bytes,
        }
    }
}
