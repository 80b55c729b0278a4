//! Filling a new volume with what the image has at its place.

use std::{
    fs::{self, File},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        Dir, FlockOperation, Gid, Mode, OFlags, RenameFlags, Uid, fchmod, fchown, flock, fstat,
        renameat_with,
    },
    io::Errno,
};

use super::{Volumes, failed, manage::remove_tree, stage::is_mount};
use crate::{
    error::{Error, Result},
    exchange::open_in,
};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Name of a copy beside a volume's content, while it is made.
const STAGING: &str = "filling";

/// The directory at `path` in a container's root, however its symbolic links lead; they do not
/// lead out of it. `None` if there is none.
fn inside(rootfs: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>> {
    match open_in(rootfs, path.as_bytes(), DIRECTORY) {
        Ok(dir) => Ok(Some(dir)),
        // Not there, a file, or links in a circle: there is nothing to copy.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => Ok(None),
        Err(e) => Err(Error::host(
            format!("open `{}` in the container's root", path.escape_debug()),
            e,
        )),
    }
}

fn is_empty(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut list = Dir::read_from(dir)?;
    Ok(!list.any(|e| e.is_ok_and(|e| !matches!(e.file_name().to_bytes(), b"." | b".."))))
}

/// Gives a directory owner and mode of another.
fn like(to: BorrowedFd<'_>, from: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = fstat(from)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchown(to, Some(uid), Some(gid))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

impl Volumes {
    /// Copies what is at `target` in a container's root into the volume, if that is empty: with
    /// owners, modes, times and extended attributes. A kill leaves the volume empty or whole;
    /// only if others have it mounted meanwhile can it be partly filled.
    pub(super) fn fill(&self, name: &str, rootfs: BorrowedFd<'_>, target: &str) -> Result<()> {
        let (above, data) = (self.root.join(name), self.data(name));
        let lock = File::open(&above).map_err(failed("open", &above))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(failed("lock", &above))?;
        let there = File::open(&data).map_err(failed("open", &data))?;
        if !is_empty(there.as_fd()).map_err(failed("read", &data))? {
            return Ok(());
        }
        let Some(from) = inside(rootfs, target)? else {
            return Ok(());
        };
        if is_empty(from.as_fd()).map_err(failed("read", Path::new(target)))? {
            return like(there.as_fd(), from.as_fd()).map_err(failed("set the owner of", &data));
        }
        if is_mount(&data)? {
            // Nothing beside it is on the same device: what a kill cuts off stays so.
            unlade_graph::copy::tree(from.as_fd(), there.as_fd())?;
            return like(there.as_fd(), from.as_fd()).map_err(failed("set the owner of", &data));
        }
        // Beside it first: what others write into it cannot get in the way of copying.
        remove_tree(&above, Path::new(STAGING))?;
        let copy = above.join(STAGING);
        fs::create_dir(&copy).map_err(failed("make the directory", &copy))?;
        let done = (|| {
            let to = File::open(&copy).map_err(failed("open", &copy))?;
            unlade_graph::copy::tree(from.as_fd(), to.as_fd())?;
            self.publish(name, &copy, to.as_fd(), there.as_fd())
        })();
        remove_tree(&above, Path::new(STAGING))?;
        done
    }

    /// Puts a copy in the place of a volume's content.
    fn publish(
        &self,
        name: &str,
        copy: &Path,
        to: BorrowedFd<'_>,
        there: BorrowedFd<'_>,
    ) -> Result<()> {
        let data = self.data(name);
        let users = self.store.read_volumes(|tx| tx.users_of(name))?;
        if users.len() == 1 {
            return match fs::rename(copy, &data) {
                // Filled by somebody else meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ENOTEMPTY) => Ok(()),
                done => done.map_err(failed("fill the volume", &data)),
            };
        }
        // Others may have it mounted: the directory stays the same.
        let list = Dir::read_from(to).map_err(failed("read", copy))?;
        let mut names = Vec::new();
        for entry in list {
            let entry = entry.map_err(failed("read", copy))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        for entry in &names {
            match renameat_with(to, entry, there, entry, RenameFlags::NOREPLACE) {
                // Theirs stays.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(failed("fill the volume", &data)(e)),
            }
        }
        like(there, to).map_err(failed("set the owner of", &data))
    }
}
