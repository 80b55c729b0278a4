//! Where what belongs to a container is, and the lock under which it changes.
//!
//! ```text
//! RUN_ROOT/containers/<id>/   0700, on tmpfs: what lives with a run
//!   config.json               the bundle
//!   rootfs/                   where its shim puts the root
//!   state.json ctl.sock       its shim's
//!   hostname hosts resolv.conf
//!   exec/<id>/                further processes
//! ROOT/containers/<id>/       what survives a boot: its log
//! ```
//!
//! The directory of the run is locked while a container is started, cleaned up or removed. A
//! directory that was removed meanwhile is made again, so a lock always is of what is at the path.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::names;
use crate::{
    error::{Error, Kind, Result},
    volume::is_mount,
};

/// The directories of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Of its run.
    pub(super) run: PathBuf,
    /// Of its log.
    pub(super) log: PathBuf,
}

/// A container that nobody else starts, cleans up or removes meanwhile.
#[derive(Debug)]
pub(super) struct Locked(File);

impl AsFd for Locked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Place {
    /// The directories of the container `id`.
    pub(super) fn new(root: &Path, run_root: &Path, id: &str) -> Result<Self> {
        if !names::is_id(id) {
            let m = format!("`{}` is no id of a container", id.escape_debug());
            return Err(Error::new(Kind::Bug, m));
        }
        Ok(Self {
            run: run_root.join("containers").join(id),
            log: root.join("containers").join(id),
        })
    }

    /// The bundle's spec.
    pub(super) fn spec(&self) -> PathBuf {
        self.run.join("config.json")
    }

    /// The log.
    pub(super) fn log_file(&self) -> PathBuf {
        let id = self.log.file_name().unwrap_or_default().to_string_lossy();
        self.log.join(format!("{id}-json.log"))
    }

    /// That of the driver `local`.
    pub(super) fn local_log(&self) -> PathBuf {
        self.log.join("local.log")
    }

    /// Waits until nobody else works on it, then makes the directory of its run if need be.
    pub(super) fn lock(&self) -> Result<Locked> {
        lock_dir(&self.run)
    }

    /// As [`Place::lock`]; `None` if somebody works on it.
    pub(super) fn lock_now(&self) -> Result<Option<Locked>> {
        lock_dir_now(&self.run)
    }

    /// Removes the directory of its run, under its lock.
    pub(super) fn remove_run(&self) -> Result<()> {
        remove_dir(&self.run)
    }

    /// Removes what a killed process has left of either directory when it removed them.
    pub(super) fn remove_asides(&self) -> Result<()> {
        remove_asides(&self.run)?;
        remove_asides(&self.log)
    }

    /// Removes its log.
    pub(super) fn remove_log(&self) -> Result<()> {
        remove_dir(&self.log)
    }
}

/// What a name gets that is put aside to be deleted, before the number of who does it.
pub(super) const ASIDE: &str = ".removed-";

/// Deletes what killed processes had put aside of `path`.
fn remove_asides(path: &Path) -> Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Ok(());
    };
    let list = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        list => list.map_err(failed("list", dir))?,
    };
    for entry in list {
        let entry = entry.map_err(failed("list", dir))?.file_name();
        let pid = entry
            .to_str()
            .and_then(|n| n.strip_prefix(name)?.strip_prefix(ASIDE));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            delete(&dir.join(&entry))?;
        }
    }
    Ok(())
}

/// Waits until nobody else works on a directory; makes it if need be.
pub(super) fn lock_dir(dir: &Path) -> Result<Locked> {
    try_lock(dir, FlockOperation::LockExclusive)?
        .ok_or_else(|| Error::new(Kind::Bug, "a lock that was waited for was not given"))
}

/// As [`lock_dir`]; `None` if somebody works on it.
pub(super) fn lock_dir_now(dir: &Path) -> Result<Option<Locked>> {
    try_lock(dir, FlockOperation::NonBlockingLockExclusive)
}

fn try_lock(dir: &Path, how: FlockOperation) -> Result<Option<Locked>> {
    loop {
        make_dir(dir)?;
        let file = match File::open(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(failed("open", dir))?,
        };
        match rustix::io::retry_on_intr(|| flock(&file, how)) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(failed("lock", dir)(e.into())),
        }
        let same = |there: fs::Metadata| -> io::Result<bool> {
            let ours = file.metadata()?;
            Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
        };
        match fs::symlink_metadata(dir).and_then(same) {
            Ok(true) => return Ok(Some(Locked(file))),
            Ok(false) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("look at", dir)(e)),
        }
    }
}

/// Makes a directory that is nobody else's, and those above it.
pub(super) fn make_dir(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    match builder.mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => builder
            .recursive(true)
            .create(path)
            .map_err(failed("make", path)),
        made => made.map_err(failed("make", path)),
    }
}

/// Removes a tree in which nothing is mounted any more; a mount is never gone into.
fn remove_dir(path: &Path) -> Result<()> {
    // Aside first, so that nobody finds half of it, under a name that no other process uses: one
    // that waits for the lock may make the directory anew and remove it, while this is at work.
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!("{ASIDE}{}", std::process::id()));
    let aside = PathBuf::from(aside);
    match fs::rename(path, &aside) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed("remove", path)(e)),
    }
    delete(&aside)
}

/// Deletes a directory that was moved aside, unless its removal is still at work, which has the
/// lock that went with it.
pub(super) fn delete_if_left(path: &Path) -> Result<()> {
    let Ok(dir) = File::open(path) else {
        return Ok(());
    };
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => delete(path),
        Err(_) => Ok(()),
    }
}

/// Deletes a tree that nobody finds any more.
pub(super) fn delete(path: &Path) -> Result<()> {
    // The root of a container may still be mounted where its shim was killed in the host's
    // namespace of mounts, and another's /dev/shm is: detached, never gone into.
    for name in ["rootfs", "shm"] {
        let at = path.join(name);
        while is_mount(&at)? {
            rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH)
                .map_err(|e| failed("unmount", &at)(e.into()))?;
        }
        match fs::remove_dir(&at) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &at)(e));
            }
            _ => {}
        }
    }
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |e| Error::host(format!("{doing} `{}`", path.display()), e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_of_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path(), dir.path(), &"a".repeat(64)).unwrap();
        let held = place.lock().unwrap();
        assert!(place.lock_now().unwrap().is_none());
        // Removed under the lock: whoever waits gets a new directory.
        place.remove_run().unwrap();
        assert!(!place.run.exists());
        let new = place.lock_now().unwrap().unwrap();
        assert!(place.run.exists());
        drop(held);
        assert!(place.lock_now().unwrap().is_none());
        drop(new);
        assert!(place.lock_now().unwrap().is_some());
        assert_eq!(fs::metadata(&place.run).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn removing_leaves_nothing_and_is_done_twice() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path(), dir.path(), &"b".repeat(64)).unwrap();
        make_dir(&place.run.join("exec")).unwrap();
        place.remove_run().unwrap();
        place.remove_run().unwrap();
        let left = fs::read_dir(dir.path().join("containers")).unwrap();
        assert_eq!(left.count(), 0);
        // What one left that was killed in between goes too, what one leaves that is at it stays.
        let aside = |pid: &str| {
            let id = place.run.file_name().unwrap().to_str().unwrap();
            place.run.with_file_name(format!("{id}.removed-{pid}"))
        };
        let own = std::process::id().to_string();
        for pid in ["0", &own] {
            make_dir(&aside(pid).join("exec")).unwrap();
        }
        place.remove_asides().unwrap();
        assert!(!aside("0").exists() && aside(&own).exists());
        let e = Place::new(dir.path(), dir.path(), "../x").unwrap_err();
        assert_eq!(e.kind(), Kind::Bug);
    }
}
