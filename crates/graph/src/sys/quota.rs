//! Quotas: of projects (linux/fs.h, linux/quota.h, linux/dqblk_xfs.h) and of btrfs subvolumes
//! (linux/btrfs.h). The quota commands of xfs are those of ext4 too.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::done;

// ---- project numbers ----

#[repr(C)]
#[derive(Default)]
struct Fsxattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

const GETXATTR: u64 = 0x801c_581f;
const SETXATTR: u64 = 0x401c_5820;
const PROJINHERIT: u32 = 0x200;

fn attributes(dir: BorrowedFd<'_>) -> Result<Fsxattr, Errno> {
    let mut attr = Fsxattr::default();
    // SAFETY: the request writes one `Fsxattr`.
    done(unsafe { libc::ioctl(dir.as_raw_fd(), GETXATTR, &raw mut attr) })?;
    Ok(attr)
}

/// The project that a directory belongs to; 0 is none.
pub(crate) fn project(dir: BorrowedFd<'_>) -> Result<u32, Errno> {
    Ok(attributes(dir)?.project)
}

/// Gives a directory to a project, with all that is made in it from now on.
pub(crate) fn set_project(dir: BorrowedFd<'_>, project: u32) -> Result<(), Errno> {
    let mut attr = attributes(dir)?;
    attr.project = project;
    attr.flags |= PROJINHERIT;
    // SAFETY: the request reads one `Fsxattr` and keeps no pointer to it.
    done(unsafe { libc::ioctl(dir.as_raw_fd(), SETXATTR, &raw const attr) }).map(drop)
}

// ---- their quotas ----

#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    kind: i8,
    fields: u16,
    id: u32,
    blocks_hard: u64,
    blocks_soft: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    blocks: u64,
    inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    pad: [u8; 4],
    realtime_hard: u64,
    realtime_soft: u64,
    realtime: u64,
    realtime_timer: i32,
    realtime_warnings: u16,
    pad_end: [u8; 10],
}

#[repr(C)]
#[derive(Default)]
struct QuotaFile {
    inode: u64,
    blocks: u64,
    extents: u32,
}

#[repr(C)]
#[derive(Default)]
struct QuotaState {
    version: i8,
    flags: u16,
    pad: i8,
    files: [QuotaFile; 2],
    rest: [u32; 5],
}

const PROJECTS: u32 = 2;
const GET_QUOTA: u32 = 0x5803;
const SET_LIMITS: u32 = 0x5804;
const GET_STATE: u32 = 0x5805;
/// Limits of projects are enforced.
const ENFORCED: u16 = 1 << 5;
const BLOCKS_HARD: u16 = 1 << 3;
const OF_PROJECT: i8 = 1 << 1;
/// Unit of sizes.
const BLOCK: u64 = 512;

/// What the quota of a project says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Quota {
    /// There is any limit.
    pub(crate) limited: bool,
    /// Blocks of 512 bytes that its files have.
    pub(crate) blocks: u64,
    /// How many files it has.
    pub(crate) inodes: u64,
}

/// A quota command on the file system that `fs` is on (Linux 5.14).
///
/// # Safety
/// `data` is what the command reads or writes.
unsafe fn command<T>(
    fs: BorrowedFd<'_>,
    command: u32,
    project: u32,
    data: &mut T,
) -> Result<(), Errno> {
    let command = command << 8 | PROJECTS;
    let data = std::ptr::from_mut(data).cast::<libc::c_void>();
    // SAFETY: the command reads or writes one `T`, as the caller promises, and keeps no pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            fs.as_raw_fd(),
            command,
            project,
            data,
        )
    };
    done(libc::c_int::try_from(result).unwrap_or(-1)).map(drop)
}

/// Whether the file system holds projects to their limits.
pub(crate) fn enforced(fs: BorrowedFd<'_>) -> bool {
    let mut state = QuotaState {
        version: 1,
        ..QuotaState::default()
    };
    // SAFETY: the command writes one `fs_quota_stat`, which `QuotaState` is.
    let told = unsafe { command(fs, GET_STATE, 0, &mut state) };
    told.is_ok() && state.flags & ENFORCED != 0
}

/// The quota of a project.
pub(crate) fn quota(fs: BorrowedFd<'_>, project: u32) -> Result<Quota, Errno> {
    let mut got = DiskQuota::default();
    // SAFETY: the command writes one `fs_disk_quota`, which `DiskQuota` is.
    match unsafe { command(fs, GET_QUOTA, project, &mut got) } {
        // Nobody has ever had it.
        Err(Errno::NOENT) => return Ok(Quota::default()),
        done => done?,
    }
    let limits = [
        got.blocks_hard,
        got.blocks_soft,
        got.inodes_hard,
        got.inodes_soft,
        got.realtime_hard,
        got.realtime_soft,
    ];
    Ok(Quota {
        limited: limits.iter().any(|n| *n != 0),
        blocks: got.blocks,
        inodes: got.inodes,
    })
}

/// Sets how many bytes the files of a project may have; 0 is no limit.
pub(crate) fn set_limit(fs: BorrowedFd<'_>, project: u32, bytes: u64) -> Result<(), Errno> {
    let mut limit = DiskQuota {
        version: 1,
        kind: OF_PROJECT,
        fields: BLOCKS_HARD,
        id: project,
        blocks_hard: bytes.div_ceil(BLOCK),
        ..DiskQuota::default()
    };
    // SAFETY: the command reads one `fs_disk_quota`, which `DiskQuota` is.
    unsafe { command(fs, SET_LIMITS, project, &mut limit) }
}

// ---- subvolumes ----

#[repr(C)]
#[derive(Default)]
struct GroupLimit {
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

const GROUP_LIMIT: u64 = 0x8030_942b;
const MAX_EXCLUSIVE: u64 = 1 << 1;

/// Sets how many bytes a btrfs subvolume may have that no other shares. Since Linux 6.11 its quota
/// group goes with it; before, one without meaning stays, as of any subvolume.
pub(crate) fn limit_subvolume(subvolume: BorrowedFd<'_>, bytes: u64) -> Result<(), Errno> {
    let limit = GroupLimit {
        // The group 0 stands for that of the subvolume.
        flags: MAX_EXCLUSIVE,
        max_exclusive: bytes,
        ..GroupLimit::default()
    };
    // SAFETY: the request reads one `GroupLimit` and keeps no pointer to it.
    done(unsafe { libc::ioctl(subvolume.as_raw_fd(), GROUP_LIMIT, &raw const limit) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<Fsxattr>(), 28);
        assert_eq!(size_of::<DiskQuota>(), 112);
        assert_eq!(size_of::<QuotaState>(), 80);
        assert_eq!(size_of::<GroupLimit>(), 48);
    }
}
