//! Space kept back so that a full disk can be made less full: opening the database and taking
//! rows out of it need a little.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::{FallocateFlags, fallocate};

const NAME: &str = "reserve";
const BYTES: u64 = 512 << 10;

/// Puts the space aside, if it is not and can be.
pub(super) fn keep(root: &Path) {
    let path = root.join(NAME);
    if fs::metadata(&path).is_ok_and(|m| m.len() == BYTES) {
        return;
    }
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let kept = file.is_ok_and(|f| fallocate(&f, FallocateFlags::empty(), 0, BYTES).is_ok());
    if !kept {
        let _ = fs::remove_file(&path);
    }
}

/// Gives the space up; whether there was any.
pub(super) fn release(root: &Path) -> bool {
    let gone = fs::remove_file(root.join(NAME)).is_ok();
    if gone {
        tracing::debug!("the disk is full: the store's reserve is used");
    }
    gone
}
