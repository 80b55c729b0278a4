//! Limits on what a snapshot's own files take, by the project quotas of xfs and ext4.
//!
//! A project is a number that files carry and directories hand down; a file system may limit what
//! the files of a number take. Ours are drawn by chance from a range that others do not count up to
//! (docker counts from 1), and a number that has a file or a limit is left alone. Directories get
//! theirs first, and the limit is set only once the number is seen to have no other files: of two
//! processes that draw the same at once, the later one sees the files of both. So a process that is
//! killed before leaves directories that are swept, and nothing else; afterwards [`release`] finds
//! the number at a directory that no container reaches, and lifts the limit before that is deleted.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};
use unlade_unpack::{Error, Kind, Result, fault};

use crate::sys::quota as sys;

/// The part of a snapshot that its number is read from. Containers may give their own files other
/// numbers, and do not see this one.
pub(crate) const CARRIER: &str = "work";
/// The numbers that are ours.
const NUMBERS: Range<u32> = 1 << 30..1 << 31;
/// How many are tried. All but none are free.
const TRIES: u32 = 32;

/// Limits what the files in `dirs`, which are empty, may take together.
pub(crate) fn limit(dirs: [BorrowedFd<'_>; 2], bytes: u64) -> Result<()> {
    let [fs, _] = dirs;
    if !sys::enforced(fs) {
        let m = "the file system does not enforce project quotas";
        return Err(Error::new(Kind::Unsupported, m).with_hint(
            "mount xfs with `-o pquota`; or ext4, made or tuned with `-O quota,project -Q prjquota`, \
             with `-o prjquota`",
        ));
    }
    let host = |e| {
        let error = Error::host("limit the size of a snapshot", e);
        match e {
            Errno::PERM | Errno::INVAL => error.with_hint("only the machine's root may set quotas"),
            _ => error,
        }
    };
    let point = |name| fault::point(name).map_err(|e| Error::host("limit a snapshot", e));
    for _ in 0..TRIES {
        let number = draw();
        if sys::quota(fs, number).map_err(host)? != sys::Quota::default() {
            continue;
        }
        for dir in dirs {
            sys::set_project(dir, number).map_err(host)?;
        }
        point("numbered")?;
        let now = sys::quota(fs, number).map_err(host)?;
        if now.limited || now.inodes != 2 {
            continue;
        }
        sys::set_limit(fs, number, bytes).map_err(host)?;
        return point("limited");
    }
    let m = "the file system has no free project number";
    Err(Error::new(Kind::Host, m).with_hint("`repquota -P` or `xfs_quota -x -c report` lists them"))
}

fn draw() -> u32 {
    let random = RandomState::new().build_hasher().finish();
    let random = u32::try_from(random >> 32).unwrap_or(0);
    NUMBERS.start + random % (NUMBERS.end - NUMBERS.start)
}

/// Lifts the limit of the snapshot in `dir`, if that is one and has one. Whatever hinders keeps
/// nothing from being deleted: a number whose limit stays is never taken again.
pub(crate) fn release(dir: BorrowedFd<'_>) {
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(carrier) = openat(dir, CARRIER, how, Mode::empty()) else {
        return;
    };
    let number = sys::project(carrier.as_fd()).unwrap_or(0);
    if NUMBERS.contains(&number)
        && let Err(e) = sys::set_limit(carrier.as_fd(), number, 0)
    {
        tracing::warn!(number, error = %e, "the limit of a project stays");
    }
}
