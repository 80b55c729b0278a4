//! The only module of this crate with `unsafe`: calls that no safe crate offers.
#![allow(unsafe_code)]

pub(crate) mod ring;

use std::ptr::NonNull;

use libdeflate_sys as ffi;

use crate::error::{Error, Result};

/// Why [`Inflate::run`] gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InflateError {
    /// The input is not a whole, valid deflate stream.
    BadData,
    /// The output buffer is too small.
    Full,
}

/// libdeflate's one-shot decoder, with the count of bytes consumed that `libdeflater` hides.
#[derive(Debug)]
pub(crate) struct Inflate(NonNull<ffi::libdeflate_decompressor>);

impl Inflate {
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: takes no arguments; a null result is handled.
        let raw = unsafe { ffi::libdeflate_alloc_decompressor() };
        NonNull::new(raw)
            .map(Self)
            .ok_or_else(|| Error::host("set up the gzip decoder", std::io::ErrorKind::OutOfMemory))
    }

    /// Decodes one raw deflate stream at the start of `input`: (bytes read, bytes written).
    pub(crate) fn run(
        &mut self,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(usize, usize), InflateError> {
        let (mut read, mut written) = (0, 0);
        // SAFETY: `self.0` is a live decompressor, used by one thread (`&mut self`); both
        // buffers are valid for the lengths given and do not overlap, by Rust's borrow rules;
        // the two counters outlive the call.
        let status = unsafe {
            ffi::libdeflate_deflate_decompress_ex(
                self.0.as_ptr(),
                input.as_ptr().cast(),
                input.len(),
                output.as_mut_ptr().cast(),
                output.len(),
                &mut read,
                &mut written,
            )
        };
        match status {
            ffi::libdeflate_result_LIBDEFLATE_SUCCESS => Ok((read, written)),
            ffi::libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE => Err(InflateError::Full),
            _ => Err(InflateError::BadData),
        }
    }
}

/// CRC32 as gzip uses it, going on from `before` (0 at the start); by carry-less multiplication
/// where the CPU can.
pub(crate) fn crc32(before: u32, bytes: &[u8]) -> u32 {
    // SAFETY: the buffer is valid for its length.
    unsafe { ffi::libdeflate_crc32(before, bytes.as_ptr().cast(), bytes.len()) }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, freed once.
        unsafe { ffi::libdeflate_free_decompressor(self.0.as_ptr()) }
    }
}

/// Gives the calling thread a umask of its own and sets it to 0, so that files get their modes
/// when they are created and no other thread of the process notices. False where the kernel
/// refuses (seccomp): then modes must be set afterwards.
pub(crate) fn private_umask() -> bool {
    // SAFETY: CLONE_FS alone only gives this thread its own copy of root, working directory and
    // umask; no memory or descriptor table is unshared.
    if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
        return false;
    }
    rustix::process::umask(rustix::fs::Mode::empty());
    true
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu() -> std::time::Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let nanos = u32::try_from(t.tv_nsec).unwrap_or_default();
    std::time::Duration::new(u64::try_from(t.tv_sec).unwrap_or_default(), nanos)
}
