//! Trees as btrfs subvolumes: a clone is a snapshot, whatever is in it.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, fchmod},
    io::Errno,
};
use unlade_unpack::{Error, Kind, Result, fault};

use crate::{
    layout::Place,
    sys::{self, quota},
    walk,
};

/// Makes the subvolume `name` in `place`: a snapshot of `from`, or an empty one.
pub(crate) fn fork(from: Option<BorrowedFd<'_>>, place: &Place, name: &str) -> Result<OwnedFd> {
    let doing = "make a btrfs subvolume";
    fault::point("fork").map_err(|e| Error::host(doing, e))?;
    let host = |e| Error::host(doing, e);
    let name = name.as_bytes();
    match from {
        Some(from) => sys::subvolume_snapshot(place.fd(), name, from).map_err(host)?,
        None => sys::subvolume_create(place.fd(), name).map_err(host)?,
    }
    let tree = walk::open(place.fd(), name).map_err(host)?;
    if from.is_none() {
        fchmod(&tree, Mode::from_raw_mode(0o755)).map_err(host)?;
    }
    Ok(tree)
}

/// Makes a subvolume read-only.
pub(crate) fn freeze(tree: BorrowedFd<'_>) -> Result<()> {
    let doing = "make a btrfs subvolume read-only";
    fault::point("freeze").map_err(|e| Error::host(doing, e))?;
    sys::subvolume_freeze(tree).map_err(|e| Error::host(doing, e))
}

/// Limits what a subvolume may have that no other shares.
pub(crate) fn limit(tree: BorrowedFd<'_>, bytes: u64, at: &Path) -> Result<()> {
    quota::limit_subvolume(tree, bytes).map_err(|e| match e {
        Errno::NOTCONN => Error::new(Kind::Unsupported, "btrfs has its quotas turned off")
            .with_hint(format!("`btrfs quota enable {}`", at.display())),
        Errno::PERM => Error::host("limit a btrfs subvolume", e)
            .with_hint("only the machine's root may set quotas"),
        e => Error::host("limit a btrfs subvolume", e),
    })
}

/// Whether subvolumes can be made in a place, snapshotted and removed.
pub(crate) fn works(place: &Place) -> Result<()> {
    if !sys::is_btrfs(place.fd()) {
        return Err(Error::new(
            Kind::Unsupported,
            "the file system is not btrfs",
        ));
    }
    let first = fork(None, place, "first")?;
    freeze(first.as_fd())?;
    let second = fork(Some(first.as_fd()), place, "second")?;
    drop((first, second));
    for name in ["first", "second"] {
        sys::subvolume_destroy(place.fd(), name.as_bytes()).map_err(|e| {
            let error = Error::host("remove a btrfs subvolume", e);
            match e {
                Errno::PERM => {
                    error.with_hint("ordinary users need the mount option user_subvol_rm_allowed")
                }
                _ => error,
            }
        })?;
    }
    Ok(())
}
