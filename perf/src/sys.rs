//! The few system calls that no safe wrapper covers. The only file with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

/// What the kernel accounted to finished children: seconds and KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChildrenUsage {
    /// Seconds in user mode, over all waited-for descendants.
    pub(crate) user: f64,
    /// Seconds in the kernel, over all waited-for descendants.
    pub(crate) sys: f64,
    /// Peak resident KiB of the largest single descendant.
    pub(crate) max_rss_kib: u64,
}

/// The usage of every descendant that was waited for, by us or by the process that started it.
pub(crate) fn children_usage() -> Result<ChildrenUsage> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a `rusage` of our own; the kernel writes no more than its size.
    let rc = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    if rc != 0 {
        return Err(io::Error::last_os_error()).context("getrusage(RUSAGE_CHILDREN)");
    }
    // SAFETY: zeroed is a valid `rusage`, and getrusage returned success and filled it.
    let usage = unsafe { usage.assume_init() };
    Ok(ChildrenUsage {
        user: seconds(usage.ru_utime),
        sys: seconds(usage.ru_stime),
        max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    })
}

#[allow(clippy::cast_precision_loss)]
fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

/// CPU seconds (user and kernel) that this process has used so far.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn process_cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a `timespec` of our own; this clock always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU seconds that another process has used so far, without its children.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn cpu_seconds_of(pid: u32) -> Result<f64> {
    let pid = libc::pid_t::try_from(pid).context("process number")?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a clock id of our own.
    let rc = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    anyhow::ensure!(
        rc == 0,
        "CPU clock of process {pid}: {}",
        io::Error::from_raw_os_error(rc)
    );
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a `timespec` of our own; a clock of a process that is gone fails.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("CPU time of {pid}"));
    }
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// Asks the kernel to kill the command when the thread that starts it ends, however it ends.
pub(crate) fn die_with_parent(command: &mut Command) -> &mut Command {
    let arm = || {
        // SAFETY: prctl is async-signal-safe and this option takes one integer argument.
        let rc = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: between fork and exec the closure only calls prctl: no allocation, no locks.
    unsafe { command.pre_exec(arm) }
}

/// Moves the calling thread, and whatever it starts from here on, into a mount namespace of its
/// own that nothing propagates out of. Call it before any thread is started.
///
/// Mounts made there are undone by the kernel when the last process in it is gone, however that
/// happens, and a loop device set up by `mount -o loop` is released with its mount.
pub(crate) fn private_mounts() -> Result<()> {
    // SAFETY: CLONE_NEWNS takes no pointers and changes only this thread's view of mounts.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error()).context("unshare(CLONE_NEWNS)");
    }
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::REC | rustix::mount::MountPropagationFlags::PRIVATE,
    )
    .context("make mounts private")
}

/// Moves the calling thread, and whatever it starts from here on, into a network namespace of its
/// own, in which there is nothing but a loopback device that is down.
pub(crate) fn private_network() -> Result<()> {
    // SAFETY: CLONE_NEWNET takes no pointers and changes only this thread's view of the network.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error()).context("unshare(CLONE_NEWNET)");
    }
    Ok(())
}

/// A read-only mapping of a file that nobody changes while it is measured.
pub(crate) fn map_file(file: &std::fs::File) -> Result<memmap2::Mmap> {
    // SAFETY: the files mapped are finished layers in the workload directory, which this program
    // writes under another name and renames; none is changed in place.
    unsafe { memmap2::Mmap::map(file) }.context("mmap")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_of_a_child_is_seen() {
        assert!(Command::new("true").status().unwrap().success());
        let usage = children_usage().unwrap();
        assert!(usage.max_rss_kib > 0);
        assert!(usage.user + usage.sys >= 0.0);
    }

    #[test]
    fn the_process_clock_moves() {
        let before = process_cpu_seconds();
        let mut sum = 0_u64;
        for i in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum ^ i);
        }
        assert!(process_cpu_seconds() > before);
    }

    #[test]
    fn the_clock_of_another_process_is_read() {
        let own = cpu_seconds_of(std::process::id()).unwrap();
        assert!(own > 0.0 && own <= process_cpu_seconds());
        assert!(cpu_seconds_of(u32::MAX).is_err());
    }

    #[test]
    fn a_guarded_command_still_runs() {
        assert!(
            die_with_parent(&mut Command::new("true"))
                .status()
                .unwrap()
                .success()
        );
    }
}
