//! The one place with `unsafe` code: system calls that no safe wrapper has yet.
#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::{AtomicI32, Ordering},
};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Makes the mount at `path` and all below it read-only and private to this mount namespace.
pub(crate) fn make_read_only(path: &CStr) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let attr = MountAttr {
        attr_set: MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    const AT_RECURSIVE: libc::c_int = 0x8000;
    // SAFETY: `path` ends with a NUL, `attr` has the layout and size that are passed, and the
    // kernel reads both before the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether the kernel has system calls of the x32 ABI. A seccomp filter may not survive the
/// question.
pub(crate) fn x32_calls() -> bool {
    if !cfg!(target_arch = "x86_64") {
        return false;
    }
    const X32: libc::c_long = 0x4000_0000;
    // SAFETY: getpid has no arguments and changes nothing; a kernel without x32 refuses the number.
    let answer = unsafe { libc::syscall(X32 | libc::SYS_getpid) };
    answer != -1
}

/// Gives this thread a root and a working directory of its own, so that it may enter another mount
/// namespace.
pub(crate) fn unshare_fs() -> io::Result<()> {
    // SAFETY: the descriptor table stays shared (no CLONE_FILES); on working directory, root and
    // umask no memory safety rests.
    Ok(unsafe { unshare_unsafe(UnshareFlags::FS) }?)
}

/// Gives this thread, and those it starts from now on, a mount namespace of their own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the descriptor table stays shared (no CLONE_FILES); what is unshared are mounts,
    // working directory, root and umask, on which no memory safety rests.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Brings this process, which must have one thread, into a new user namespace, where it has all
/// powers and no id is mapped yet.
pub(crate) fn unshare_user() -> io::Result<()> {
    // SAFETY: the descriptor table stays shared (no CLONE_FILES); no memory safety rests on
    // credentials.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?)
}

/// Gives this thread, and those it starts from now on, a network namespace of their own.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: the descriptor table stays shared (no CLONE_FILES); no memory safety rests on
    // which network a thread is in.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Closes all descriptors but standard input, output and error: those that this process was
/// started with. To be called before it opens any.
pub(crate) fn close_inherited() {
    // SAFETY: nothing in this program owns a descriptor above 2 yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}

/// Has a child killed when the thread that starts it ends, as it does when we are killed.
pub(crate) fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only two system calls are made, which allocate nothing and
    // take no locks.
    unsafe {
        command.pre_exec(move || {
            let signal = Some(rustix::process::Signal::KILL);
            rustix::process::set_parent_process_death_signal(signal)?;
            // It may be too late already.
            if rustix::process::getppid() == Some(parent) {
                Ok(())
            } else {
                Err(rustix::io::Errno::SRCH.into())
            }
        });
    }
}

/// Marks every descriptor from `first` on to be closed when another program is executed.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: a flag of descriptors is set; none is closed here.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends a signal, also one of the real-time signals, to the process behind a handle.
pub(crate) fn signal_process(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: numbers and a null pointer, which stands for no further information.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Descriptor to which [`on_child`] writes.
static CHILD_ENDED: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_child(_: libc::c_int) {
    let one = 1_u64;
    // SAFETY: write is safe in a handler, `one` is eight bytes; errno is what the interrupted code
    // must find again.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(
            CHILD_ENDED.load(Ordering::Relaxed),
            (&raw const one).cast(),
            8,
        );
        *libc::__errno_location() = errno;
    }
}

extern "C" fn on_other(_: libc::c_int) {}

/// From now on the end of a child is counted in the event descriptor, which must stay open, and
/// the signals by which terminals and systems end processes do nothing. Handlers, not an ignored
/// or blocked signal: those would be inherited by every program that is executed.
pub(crate) fn handle_signals(children: BorrowedFd<'_>) -> io::Result<()> {
    CHILD_ENDED.store(children.as_raw_fd(), Ordering::Relaxed);
    let handlers: [(libc::c_int, extern "C" fn(libc::c_int)); 5] = [
        (libc::SIGCHLD, on_child),
        (libc::SIGTERM, on_other),
        (libc::SIGINT, on_other),
        (libc::SIGHUP, on_other),
        (libc::SIGQUIT, on_other),
    ];
    for (signal, handler) in handlers {
        // SAFETY: zeroes are a valid `sigaction`; the handler makes only calls that are allowed in
        // one.
        let done = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Gives memory that was freed back to the system, which glibc keeps for later.
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Ends the process at once: no destructors, no hooks.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(code) }
}

/// What the process has used so far.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// CPU time in user mode, in seconds.
    pub(crate) user: f64,
    /// CPU time in the kernel, in seconds.
    pub(crate) system: f64,
    /// Most memory held.
    pub(crate) peak_rss_bytes: u64,
}

pub(crate) fn usage() -> Usage {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to writable memory of the right size.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) } != 0 {
        return Usage::default();
    }
    // SAFETY: zeroes are a valid `rusage`, and the kernel has filled it in.
    let usage = unsafe { usage.assume_init() };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Usage {
        user: seconds(usage.ru_utime),
        system: seconds(usage.ru_stime),
        peak_rss_bytes: peak_rss_bytes()
            .unwrap_or_else(|| u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024),
    }
}

/// The most that this program has held. `ru_maxrss` also counts what the process was before it
/// became this program.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_of_this_program() {
        let peak = peak_rss_bytes().unwrap();
        assert!((1 << 20..1 << 40).contains(&peak), "{peak}");
        assert!(usage().peak_rss_bytes >= peak);
    }
}
