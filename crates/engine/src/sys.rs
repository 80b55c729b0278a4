//! The one place with `unsafe` code: system calls that no safe wrapper has yet.
#![allow(unsafe_code)]

use std::{ffi::CStr, io};

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

/// Gives this thread, and those it starts from now on, a mount namespace of their own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the descriptor table stays shared (no CLONE_FILES); what is unshared are mounts,
    // working directory, root and umask, on which no memory safety rests.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Ends the process at once: no destructors, no hooks.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any status and does not return.
    unsafe { libc::_exit(code) }
}
