//! The default engine: plain system calls on a pool of threads.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::Instant,
};

use crossbeam_channel::Receiver;

use super::{FileJob, Stats, Work, file, guarded};
use crate::{
    error::{Error, Result},
    sys,
};

/// Starts `n` writers that end when the queue's last sender is gone.
pub(super) fn start(n: usize, work: &Receiver<Work>, stats: &Arc<Stats>) -> Result<()> {
    for i in 0..n.max(1) {
        let (work, stats) = (work.clone(), stats.clone());
        thread::Builder::new()
            .name(format!("unlade-write-{i}"))
            .spawn(move || {
                let umask = sys::private_umask();
                for item in work {
                    measured(&stats, || run(item, umask));
                }
            })
            .map_err(|e| Error::host("start a writer thread", e))?;
    }
    Ok(())
}

/// Adds what `work` uses and the bytes that it returns to `stats`.
pub(super) fn measured(stats: &Stats, work: impl FnOnce() -> u64) {
    let (wall, cpu) = (Instant::now(), sys::thread_cpu());
    let bytes = work();
    let ns = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    stats
        .busy_ns
        .fetch_add(ns(wall.elapsed()), Ordering::Relaxed);
    stats
        .cpu_ns
        .fetch_add(ns(sys::thread_cpu().saturating_sub(cpu)), Ordering::Relaxed);
    stats.bytes.fetch_add(bytes, Ordering::Relaxed);
}

/// Does one unit of work; returns the bytes written.
pub(super) fn run(work: Work, umask_is_zero: bool) -> u64 {
    match work {
        Work::Stream(stream) => stream.run(),
        Work::Files(jobs) => jobs.into_iter().map(|job| one(job, umask_is_zero)).sum(),
    }
}

/// Writes one small file, with errors and returns going to its batch.
pub(super) fn one(job: FileJob, umask_is_zero: bool) -> u64 {
    let batch = job.batch.clone();
    let mut bytes = 0;
    // After the first error the rest is only counted off.
    if !batch.failed() {
        match guarded(|| file::write_file(job, umask_is_zero)) {
            Ok(Ok(n)) => bytes = n,
            Ok(Err(job)) => batch.give_back(job),
            Err(e) => batch.fail(e),
        }
    }
    batch.done(1);
    bytes
}
