//! The only module of this crate with `unsafe`: ioctls and mount calls that no safe crate offers.
//!
//! Numbers and layouts are those of linux/btrfs.h, linux/fiemap.h, linux/loop.h and
//! linux/mount.h.
#![allow(unsafe_code)]

pub(crate) mod quota;

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::{
    fs::{self, Mode, OFlags},
    io::Errno,
    thread::{UnshareFlags, unshare_unsafe},
};

/// `f_type` of btrfs.
pub(crate) const BTRFS_MAGIC: u64 = 0x9123_683e;
/// The inode number of every subvolume's root directory.
pub(crate) const SUBVOLUME_INODE: u64 = 256;

/// Whether `fd` is on btrfs.
pub(crate) fn is_btrfs(fd: BorrowedFd<'_>) -> bool {
    fs::fstatfs(fd).is_ok_and(|s| u64::try_from(s.f_type).is_ok_and(|t| t == BTRFS_MAGIC))
}

fn done(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    let error = io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

// ---- btrfs ----

#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

const SUBVOL_CREATE: u64 = 0x5000_940e;
const SNAP_DESTROY: u64 = 0x5000_940f;
const SNAP_CREATE_V2: u64 = 0x5000_9417;
const SUBVOL_GETFLAGS: u64 = 0x8008_9419;
const SUBVOL_SETFLAGS: u64 = 0x4008_941a;
const SUBVOL_RDONLY: u64 = 1 << 1;

/// `name` with at least one NUL behind it.
fn put<const N: usize>(name: &[u8]) -> Result<[u8; N], Errno> {
    let mut out = [0; N];
    if name.len() >= N {
        return Err(Errno::NAMETOOLONG);
    }
    out[..name.len()].copy_from_slice(name);
    Ok(out)
}

fn vol_ioctl(dir: BorrowedFd<'_>, request: u64, name: &[u8]) -> Result<(), Errno> {
    let args = VolArgs {
        fd: 0,
        name: put(name)?,
    };
    // SAFETY: both requests read one `VolArgs` and keep no pointer to it.
    done(unsafe { libc::ioctl(dir.as_raw_fd(), request, &raw const args) }).map(drop)
}

/// Makes an empty btrfs subvolume `name` in `dir`.
pub(crate) fn subvolume_create(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    vol_ioctl(dir, SUBVOL_CREATE, name)
}

/// Removes the btrfs subvolume `name` in `dir`, with all that is in it but other subvolumes.
pub(crate) fn subvolume_destroy(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    vol_ioctl(dir, SNAP_DESTROY, name)
}

/// Makes `name` in `dir` a writable snapshot of the subvolume `of`.
pub(crate) fn subvolume_snapshot(
    dir: BorrowedFd<'_>,
    name: &[u8],
    of: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let args = VolArgsV2 {
        fd: of.as_raw_fd().into(),
        transid: 0,
        flags: 0,
        unused: [0; 4],
        name: put(name)?,
    };
    // SAFETY: the request reads one `VolArgsV2` and keeps no pointer to it.
    done(unsafe { libc::ioctl(dir.as_raw_fd(), SNAP_CREATE_V2, &raw const args) }).map(drop)
}

/// Makes a subvolume read-only.
pub(crate) fn subvolume_freeze(subvolume: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut flags = 0_u64;
    // SAFETY: the request writes one u64.
    done(unsafe { libc::ioctl(subvolume.as_raw_fd(), SUBVOL_GETFLAGS, &raw mut flags) })?;
    flags |= SUBVOL_RDONLY;
    // SAFETY: the request reads one u64.
    done(unsafe { libc::ioctl(subvolume.as_raw_fd(), SUBVOL_SETFLAGS, &raw const flags) }).map(drop)
}

// ---- extents ----

const EXTENTS: usize = 64;
const FIEMAP: u64 = 0xc020_660b;
const EXTENT_LAST: u32 = 1;
const EXTENT_SHARED: u32 = 0x2000;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

/// Bytes of a regular file that it shares with no other file, where the file system can tell.
pub(crate) fn unshared_bytes(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let (mut start, mut total) = (0, 0_u64);
    loop {
        let mut map = Fiemap {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped_extents: 0,
            extent_count: 64,
            reserved: 0,
            extents: [Extent::default(); EXTENTS],
        };
        // SAFETY: the request reads the header and writes it and at most `extent_count` extents,
        // for which there is room.
        done(unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP, &raw mut map) })?;
        let mapped = usize::try_from(map.mapped_extents).unwrap_or(0);
        let Some(extents) = map.extents.get(..mapped).filter(|e| !e.is_empty()) else {
            return Ok(total);
        };
        for extent in extents {
            if extent.flags & EXTENT_SHARED == 0 {
                total += extent.length;
            }
            start = extent.logical.saturating_add(extent.length);
            if extent.flags & EXTENT_LAST != 0 {
                return Ok(total);
            }
        }
    }
}

// ---- mounts ----

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes (`MOUNT_ATTR_*`) on the mount behind `mount`, a copy of another one, which no
/// longer follows that one's.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: u64) -> Result<(), Errno> {
    let attr = MountAttr {
        attr_set: set,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path ends with a NUL, `attr` has the layout and size that are passed, and the
    // kernel reads both before the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    done(libc::c_int::try_from(result).unwrap_or(-1)).map(drop)
}

/// Gives the calling thread a working directory, root and umask of its own.
pub(crate) fn unshare_working_directory() -> Result<(), Errno> {
    // SAFETY: the descriptor table stays shared (no CLONE_FILES), and no memory safety rests on
    // the working directory.
    unsafe { unshare_unsafe(UnshareFlags::FS) }
}

// ---- loop devices ----

#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const LOOP_CTL_GET_FREE: u64 = 0x4c82;
const LOOP_CONFIGURE: u64 = 0x4c0a;
const LO_READ_ONLY: u32 = 1;
const LO_AUTOCLEAR: u32 = 4;

/// A loop device over a file; it goes when the last user of it does.
#[derive(Debug)]
pub struct LoopDevice {
    /// Keeps it from going before it is mounted.
    pub fd: std::os::fd::OwnedFd,
    /// Such as `/dev/loop7`.
    pub path: String,
}

/// Makes a read-only loop device over `file` with blocks of `block_bytes`.
///
/// # Errors
/// If there are no loop devices, or this user may not use them.
pub fn loop_device(file: BorrowedFd<'_>, block_bytes: u32) -> Result<LoopDevice, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let control = fs::open(c"/dev/loop-control", flags, Mode::empty())?;
    let backing = u32::try_from(file.as_raw_fd()).map_err(|_| Errno::BADF)?;
    // Another process may take the free one first.
    for _ in 0..64 {
        // SAFETY: the request takes no argument and touches no memory of ours.
        let number = done(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
        let path = format!("/dev/loop{number}");
        let fd = fs::open(&*path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let config = LoopConfig {
            fd: backing,
            block_size: block_bytes,
            info: LoopInfo {
                device: 0,
                inode: 0,
                rdevice: 0,
                offset: 0,
                size_limit: 0,
                number: 0,
                encrypt_type: 0,
                encrypt_key_size: 0,
                flags: LO_READ_ONLY | LO_AUTOCLEAR,
                file_name: [0; 64],
                crypt_name: [0; 64],
                encrypt_key: [0; 32],
                init: [0; 2],
            },
            reserved: [0; 8],
        };
        // SAFETY: the request reads one `LoopConfig` and keeps no pointer to it.
        match done(unsafe { libc::ioctl(fd.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }) {
            Ok(_) => return Ok(LoopDevice { fd, path }),
            Err(Errno::BUSY) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::BUSY)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write, os::fd::AsFd};

    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<VolArgs>(), 4096);
        assert_eq!(size_of::<VolArgsV2>(), 4096);
        assert_eq!(size_of::<Extent>(), 56);
        assert_eq!(size_of::<Fiemap>(), 32 + EXTENTS * 56);
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert_eq!(put::<4>(b"abc"), Ok(*b"abc\0"));
        assert_eq!(put::<4>(b"abcd"), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn a_loop_device_reads_the_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b'x'; 8192]).unwrap();
        let device = match loop_device(file.as_fd(), 512) {
            Ok(device) => device,
            Err(e @ (Errno::ACCESS | Errno::PERM | Errno::NOENT)) => {
                eprintln!("skipped: no loop devices for this user: {e}");
                return;
            }
            Err(e) => panic!("{e}"),
        };
        let mut read = Vec::new();
        io::Read::read_to_end(&mut File::open(&device.path).unwrap(), &mut read).unwrap();
        assert_eq!(read, [b'x'; 8192]);
    }
}
