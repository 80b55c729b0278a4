//! What is mounted on the machine for a container: parts of volumes, images, and volumes that are
//! on devices. It stays until the container's run is over, since the runtime looks for it again
//! whenever a restart policy starts it anew.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, FlockOperation, OFlags, StatxAttributes, StatxFlags, flock, statat,
        statx,
    },
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount},
};

use super::{Planned, Volumes, device, failed, manage::Volume};
use crate::{
    error::{Error, Result},
    exchange::open_in,
};

/// Mounts for a container; dropped, they are gone, unless they are kept.
#[derive(Debug)]
pub struct Staged(Option<(Volumes, String)>);

impl Staged {
    pub(super) fn new(volumes: &Volumes, id: &str) -> Self {
        Self(Some((volumes.clone(), id.to_owned())))
    }

    /// The container runs: they stay until [`Volumes::take_away`].
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some((volumes, id)) = &self.0
            && let Err(e) = volumes.take_away(id)
        {
            tracing::warn!(error = %e, "temporary mounts stay");
        }
    }
}

/// Whether something is mounted at `path`, which need not be there.
///
/// # Errors
/// If the host does not say.
pub fn is_mount(path: &Path) -> Result<bool> {
    match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Ok(st) => Ok(st.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(e) => Err(failed("look at", path)(e)),
    }
}

/// Takes away whatever is mounted at `path`, which need not be there.
pub(super) fn clear(path: &Path) -> Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            // An ordinary user may not ask, and can have mounted nothing.
            Err(rustix::io::Errno::PERM) if matches!(is_mount(path), Ok(false)) => return Ok(()),
            Err(e) => return Err(failed("unmount", path)(e)),
        }
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.map_err(failed("list", dir))?,
    };
    list.map(|entry| Ok(entry.map_err(failed("list", dir))?.path()))
        .collect()
}

fn name_of(path: &Path) -> &str {
    path.file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default()
}

fn gone(done: io::Result<()>, path: &Path) -> Result<()> {
    match done {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

fn private(dir: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(dir)
        .map_err(failed("make the directory", dir))
}

/// A place to mount a directory or a file at.
fn place(path: &Path, is_dir: bool) -> Result<()> {
    let made = if is_dir {
        fs::create_dir(path)
    } else {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(path).map(drop)
    };
    made.map_err(failed("make", path))
}

fn put(mount: BorrowedFd<'_>, at: &Path) -> Result<()> {
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, "", CWD, at, how).map_err(failed("mount", at))
}

/// What is at `subpath` in a directory, with links that stay in it, and whether it is a directory.
fn part(root: &Path, subpath: &str, of: &str) -> Result<(OwnedFd, bool)> {
    let dir = File::open(root).map_err(failed("open", root))?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let fd = open_in(dir.as_fd(), subpath.as_bytes(), flags)
        .map_err(|e| Error::host(format!("find `{}` in {of}", subpath.escape_debug()), e))?;
    let stat =
        statat(&fd, "", AtFlags::EMPTY_PATH).map_err(failed("look at", Path::new(subpath)))?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok((fd, is_dir))
}

/// Mounts a part of a tree at a place that only we can change: containers that have the tree could
/// put a link in its place.
fn bind(part: &OwnedFd, is_dir: bool, at: &Path) -> Result<()> {
    place(at, is_dir)?;
    let how = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(part, "", how).map_err(failed("bind", at))?;
    put(tree.as_fd(), at)
}

impl Volumes {
    fn staging(&self) -> PathBuf {
        self.run_root.join("subpaths")
    }

    /// Containers that have a volume on a device, as files in a directory of its name.
    fn mounted(&self) -> PathBuf {
        self.run_root.join("mounted")
    }

    /// Where the mount with that number is put for a container.
    pub(super) fn staged_at(&self, id: &str, at: usize) -> PathBuf {
        self.staging().join(id).join(at.to_string())
    }

    /// Mounts a part of a volume that is at `root`.
    pub(super) fn stage_part(
        &self,
        id: &str,
        at: usize,
        p: &Planned,
        root: &Path,
    ) -> Result<PathBuf> {
        let of = format!("the volume {}", p.source);
        let (part, is_dir) =
            part(root, &p.subpath, &of).map_err(|e| e.with_hint("make it in the volume first"))?;
        private(&self.staging().join(id))?;
        let path = self.staged_at(id, at);
        bind(&part, is_dir, &path)?;
        Ok(path)
    }

    /// Puts the mount of an image, or of a part of it, at a place.
    pub(super) fn stage_image(
        &self,
        id: &str,
        at: usize,
        p: &Planned,
        mount: &OwnedFd,
    ) -> Result<PathBuf> {
        private(&self.staging().join(id))?;
        let path = self.staged_at(id, at);
        if p.subpath.is_empty() {
            place(&path, true)?;
            put(mount.as_fd(), &path)?;
            return Ok(path);
        }
        // Only of what is mounted somewhere a part can be mounted.
        let whole = path.with_extension("whole");
        place(&whole, true)?;
        put(mount.as_fd(), &whole)?;
        let (part, is_dir) = part(&whole, &p.subpath, &format!("the image {}", p.name))?;
        bind(&part, is_dir, &path)?;
        clear(&whole)?;
        Ok(path)
    }

    /// Nobody else mounts or unmounts the volume meanwhile.
    fn lock_volume(&self, name: &str) -> Result<Option<File>> {
        let path = self.root.join(name);
        let file = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed("open", &path))?,
        };
        rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
            .map_err(failed("lock", &path))?;
        Ok(Some(file))
    }

    /// Mounts a volume that is on a device, unless another container has it already. That this one
    /// has it is noted before, so that whoever finds it killed unmounts it.
    pub(super) fn attach(&self, id: &str, volume: &Volume) -> Result<()> {
        let _lock = self.lock_volume(&volume.name)?;
        let users = self.mounted().join(&volume.name);
        private(&users)?;
        let note = users.join(id);
        fs::write(&note, "").map_err(failed("write", &note))?;
        let data = self.data(&volume.name);
        match is_mount(&data)? {
            true => Ok(()),
            false => device::mount(volume, &data),
        }
    }

    /// Takes away what was mounted for a container. What is gone already is fine.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn take_away(&self, id: &str) -> Result<()> {
        let dir = self.staging().join(id);
        for path in entries(&dir)? {
            clear(&path)?;
            // Nothing of the volume: what was mounted is gone, and these are empty.
            let removed = match fs::symlink_metadata(&path).map(|m| m.is_dir()) {
                Ok(true) => fs::remove_dir(&path),
                Ok(false) => fs::remove_file(&path),
                Err(e) => Err(e),
            };
            gone(removed, &path)?;
        }
        gone(fs::remove_dir(&dir), &dir)?;
        for users in entries(&self.mounted())? {
            if !users.join(id).exists() {
                continue;
            }
            let name = name_of(&users);
            let _lock = self.lock_volume(name)?;
            let last = entries(&users)?.iter().all(|u| name_of(u) == id);
            if last {
                clear(&self.data(name))?;
            }
            // After it: should this process be killed, the next one does it again.
            gone(fs::remove_file(users.join(id)), &users)?;
            if last {
                gone(fs::remove_dir(&users), &users)?;
            }
        }
        Ok(())
    }

    /// Takes away what was mounted for containers that are not alive by `live`.
    pub(super) fn sweep_staged(&self, live: &dyn Fn(&str) -> Result<bool>) -> Result<()> {
        let mut all = entries(&self.staging())?;
        for users in entries(&self.mounted())? {
            all.extend(entries(&users)?);
        }
        for path in all {
            let id = name_of(&path);
            if !live(id)? {
                self.take_away(id)?;
            }
        }
        Ok(())
    }
}
