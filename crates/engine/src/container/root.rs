//! A container's root, opened for what reads or writes files in it from outside.
//!
//! One that runs has its root already. With what is mounted in it, that is what its first process
//! sees; without, a mount of its own is made of the same tree, which nothing is mounted in. The
//! root of one that does not run is mounted for as long as it is needed, under the lock that
//! starting it would take. All of these are descriptors: no path leads into a container, and
//! whoever ends, starts or removes it meanwhile takes nothing away.

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
    thread,
};

use oci_spec::runtime::Mount;
use rustix::{
    fs::{
        CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, mknodat, open, openat, openat2,
    },
    io::Errno,
    mount::{
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use unlade_graph::{
    driver::{Change, MountOf},
    mount::attach,
    walk::DIRECTORY,
};

use super::{
    Containers, Record, Status,
    place::{Locked, Place, make_dir},
};
use crate::{
    error::{Error, Kind, Result},
    shim::Process,
    spec::RuntimeFacts,
    sys,
};

/// What is wanted of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// Its volumes and all else that is mounted in it.
    Mounts,
    /// What belongs to the container alone.
    Nothing,
}

/// The root of a container.
#[derive(Debug)]
pub struct Root {
    /// Its directory, open for reading.
    pub dir: OwnedFd,
    /// Whether the container's own processes are at work in it.
    pub running: bool,
    /// What keeps it as it is; dropped in this order.
    _kept: Kept,
}

#[derive(Debug, Default)]
struct Kept {
    /// A namespace of mounts, or a mount that is nowhere.
    _mounts: Option<OwnedFd>,
    _stopped: Option<Stopped>,
}

/// A container that nobody starts.
#[derive(Debug)]
struct Stopped {
    place: Place,
    /// There was no directory of a run before.
    fresh: bool,
    _locked: Locked,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.fresh
            && let Err(e) = self.place.remove_run()
        {
            tracing::warn!(error = %e, "an empty directory of a run stays");
        }
    }
}

impl Root {
    /// The directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Containers<'_> {
    /// Opens the root of a container.
    ///
    /// # Errors
    /// [`Kind::Conflict`] while it is between two runs or is being removed; if the host refuses.
    pub fn root(&self, record: &Record, with: With) -> Result<Root> {
        if let Some(root) = self.running_root(record, with)? {
            return Ok(root);
        }
        let place = self.place(&record.id)?;
        // It may have been started, or removed, while the lock was waited for.
        let (locked, record) = self.hold(&record.id)?;
        if let Some(root) = self.running_root(&record, with)? {
            return Ok(root);
        }
        let fresh = self.seen(&record.id)?.is_none();
        let stopped = Stopped {
            place,
            fresh,
            _locked: locked,
        };
        let (dir, mounts) = self.stopped_root(&record, with, &stopped.place)?;
        Ok(Root {
            dir,
            running: false,
            _kept: Kept {
                _mounts: Some(mounts),
                _stopped: Some(stopped),
            },
        })
    }

    /// What differs from the layers below, with the places of the engine's own mounts.
    ///
    /// # Errors
    /// If it cannot be compared.
    pub fn raw_changes(&self, record: &Record) -> Result<Vec<Change>> {
        Ok(self.driver.changes(&Self::snapshot(&record.id)?)?)
    }

    /// Notes what was done with a container's files.
    pub fn note(&self, action: &str, record: &Record) {
        self.tell(action, record, &[]);
    }

    fn running_root(&self, record: &Record, with: With) -> Result<Option<Root>> {
        let view = self.view(record)?;
        match view.status {
            Status::Restarting => {
                let m = format!(
                    "Container {} is restarting, wait until the container is running",
                    record.id
                );
                return Err(Error::new(Kind::Conflict, m).with_hint("`unlade ps` shows its state"));
            }
            Status::Removing => {
                let m = format!("container {} is marked for removal", record.id);
                return Err(Error::new(Kind::Conflict, m).with_hint("it will be gone"));
            }
            _ if !view.is_running() => return Ok(None),
            _ => {}
        }
        let seen = self.seen(&record.id)?;
        let Some(init) = seen.and_then(|s| s.state.init) else {
            return Ok(None);
        };
        let Some(handle) = init.open() else {
            return Ok(None);
        };
        let opened = opened_root(init);
        // As long as the process lived until now, what was opened is its own.
        if !init.lives() {
            return Ok(None);
        }
        drop(handle);
        let (dir, namespace) = opened?;
        let (dir, mounts) = match with {
            With::Mounts => (dir, namespace),
            With::Nothing => bare(dir, namespace)?,
        };
        let kept = Kept {
            _mounts: Some(mounts),
            _stopped: None,
        };
        Ok(Some(Root {
            dir,
            running: true,
            _kept: kept,
        }))
    }

    fn stopped_root(
        &self,
        record: &Record,
        with: With,
        place: &Place,
    ) -> Result<(OwnedFd, OwnedFd)> {
        let snapshot = Self::snapshot(&record.id)?;
        let mount = self.driver.mount(MountOf::Snapshot(&snapshot))?;
        let dir = directory(mount.as_fd())?;
        if with == With::Nothing || record.facts.mounts.is_empty() {
            return Ok((dir, mount));
        }
        // What is in an image where a volume comes is copied into that first, as a start would.
        let facts = RuntimeFacts::default();
        let mounts = &record.facts.mounts;
        let resolved =
            self.volumes
                .resolve(&record.id, mounts, dir.as_fd(), &facts, &self.layers())?;
        drop(dir);
        let at = place.run.join("rootfs");
        make_dir(&at)?;
        let built = aside(|| build(&mount, &at, &resolved.mounts));
        drop(resolved);
        built
    }
}

/// The root of a process, and its namespace of mounts.
fn opened_root(init: Process) -> Result<(OwnedFd, OwnedFd)> {
    let host = |e| Error::host("open the root of the container's first process", e);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = open(format!("/proc/{}/root", init.pid), flags, Mode::empty()).map_err(host)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let ns = open(format!("/proc/{}/ns/mnt", init.pid), flags, Mode::empty()).map_err(host)?;
    Ok((dir, ns))
}

/// A mount of the same tree as `dir`, without what is mounted in that.
fn bare(dir: OwnedFd, namespace: OwnedFd) -> Result<(OwnedFd, OwnedFd)> {
    let mount = clone_mount(&dir, &namespace)?;
    Ok((directory(mount.as_fd())?, mount))
}

/// A mount of the tree at `dir`, which is in that namespace of mounts: only from inside it can a
/// mount be cloned. What is mounted below stays away.
pub(super) fn clone_mount(dir: &OwnedFd, namespace: &OwnedFd) -> Result<OwnedFd> {
    aside(|| {
        let host = |e: Errno| Error::host("make a mount of the container's root", e);
        sys::unshare_fs().map_err(|e| Error::host("leave the shared root directory", e))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
            .map_err(|e| Error::host("enter the container's mount namespace", e))?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(dir, "", clone).map_err(host)
    })
}

/// Puts a mount and what belongs into it at a place in a namespace of its own; the root there, and
/// the namespace.
fn build(mount: &OwnedFd, at: &Path, mounts: &[Mount]) -> Result<(OwnedFd, OwnedFd)> {
    sys::unshare_mounts().map_err(|e| Error::host("make a mount namespace", e))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| Error::host("make the mounts private", e))?;
    attach(mount.as_fd(), at)?;
    let host = |e: Errno| Error::host("open the container's root", e);
    let dir = openat(CWD, at, DIRECTORY, Mode::empty()).map_err(host)?;
    for mount in mounts {
        if mount.typ().as_deref() == Some("bind") {
            bind(&dir, mount)?;
        }
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let ns = open("/proc/thread-self/ns/mnt", flags, Mode::empty()).map_err(host)?;
    Ok((dir, ns))
}

/// Mounts a path of the host where the container has it.
fn bind(root: &OwnedFd, mount: &Mount) -> Result<()> {
    let Some(source) = mount.source() else {
        return Ok(());
    };
    let to = mount.destination();
    let host = |e: Errno| Error::host(format!("mount what belongs at `{}`", to.display()), e);
    let options = mount.options().as_deref().unwrap_or_default();
    let has = |name: &str| options.iter().any(|o| o == name);
    let mut clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if has("rbind") {
        clone |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = match open_tree(CWD, source, clone) {
        // A path of the host that is gone: the container's start will tell.
        Err(Errno::NOENT) => return Ok(()),
        tree => tree.map_err(host)?,
    };
    let stat = fstat(&tree).map_err(host)?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let Some(place) = mount_point(root, to, is_dir).map_err(host)? else {
        return Ok(());
    };
    let into = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", &place, "", into).map_err(host)?;
    if has("ro") || has("rro") {
        let path = CString::new(format!("/proc/self/fd/{}", tree.as_raw_fd()))
            .map_err(|e| Error::new(Kind::Bug, e.to_string()))?;
        sys::make_read_only(&path)
            .map_err(|e| Error::host(format!("mount `{}` read-only", to.display()), e))?;
    }
    Ok(())
}

/// The place for a mount; made as the runtime would where it was never started. `None` where
/// something is in the way.
fn mount_point(root: &OwnedFd, to: &Path, is_dir: bool) -> Result<Option<OwnedFd>, Errno> {
    let find = |path: &Path| {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT) => Ok(None),
            found => found.map(Some),
        }
    };
    let (mut above, mut path) = (root.try_clone().map_err(|_| Errno::MFILE)?, PathBuf::new());
    let mut parts = to
        .components()
        .filter(|c| matches!(c, Component::Normal(_)))
        .peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        let name = part.as_os_str();
        let found = match find(&path)? {
            Some(found) => found,
            None => {
                let made = if is_dir || parts.peek().is_some() {
                    mkdirat(&above, name, Mode::from_raw_mode(0o755))
                } else {
                    mknodat(
                        &above,
                        name,
                        FileType::RegularFile,
                        Mode::from_raw_mode(0o644),
                        0,
                    )
                };
                match made {
                    // A link that leads to nothing.
                    Err(Errno::EXIST) => return Ok(None),
                    made => made?,
                }
                let Some(found) = find(&path)? else {
                    return Ok(None);
                };
                found
            }
        };
        above = found;
    }
    Ok(Some(above))
}

fn directory(mount: BorrowedFd<'_>) -> Result<OwnedFd> {
    openat(mount, c".", DIRECTORY, Mode::empty())
        .map_err(|e| Error::host("open the container's root", e))
}

/// Does `work` on a thread of its own, which changes what a thread has to itself.
fn aside<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let done = scope.spawn(work).join();
        done.map_err(|_| Error::new(Kind::Bug, "the thread that mounts panicked"))?
    })
}
