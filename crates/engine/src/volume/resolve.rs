//! The mounts of a container that starts.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Mount, MountBuilder};
use rustix::{
    fs::{FlockOperation, flock},
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount},
};

use super::{Planned, Volumes, What, failed};
use crate::{
    error::{Error, Kind, Result},
    spec::RuntimeFacts,
    store::{VolumeUser, random_id},
};

/// Longest table of mounts that is read.
const MOST_MOUNTS: u64 = 64 << 20;

/// What a container that starts gets mounted.
#[derive(Debug)]
pub struct Resolved {
    /// For the spec.
    pub mounts: Vec<Mount>,
    /// Whether mounts of the host must go on reaching the container, or its own the host: it has
    /// to be started in the host's mount namespace.
    pub shared: bool,
    /// To be kept until the runtime has started the container.
    pub staged: Staged,
}

/// Temporary mounts; dropped, they are gone.
#[derive(Debug, Default)]
pub struct Staged {
    /// The directory, and a lock on it: what is locked is in use.
    dir: Option<(PathBuf, fs::File)>,
}

#[cfg(test)]
impl Staged {
    /// As a kill does it.
    pub(super) fn forget(mut self) {
        self.dir = None;
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some((dir, _lock)) = &self.dir
            && let Err(e) = unstage(dir)
        {
            tracing::warn!(error = %e, "temporary mounts stay");
        }
    }
}

/// Unmounts all that is in `dir`, and removes it.
fn unstage(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("list", dir)(e)),
    };
    for entry in entries {
        let path = entry.map_err(failed("list", dir))?.path();
        loop {
            match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                Ok(()) => {}
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
                Err(e) => return Err(failed("unmount", &path)(e)),
            }
        }
        // Nothing of the volume: what was mounted is gone, and these are empty.
        let removed = match fs::symlink_metadata(&path).map(|m| m.is_dir()) {
            Ok(true) => fs::remove_dir(&path),
            Ok(false) => fs::remove_file(&path),
            Err(e) => Err(e),
        };
        removed.map_err(failed("remove", &path))?;
    }
    fs::remove_dir(dir).map_err(failed("remove", dir))
}

/// Makes a directory, and locks it. Until it is locked, a sweep takes it for a leftover.
fn locked(dir: &Path) -> Result<fs::File> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    loop {
        builder
            .create(dir)
            .map_err(failed("make the directory", dir))?;
        let lock = match fs::File::open(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(failed("open", dir))?,
        };
        flock(&lock, FlockOperation::LockExclusive).map_err(failed("lock", dir))?;
        let ours = lock.metadata().map_err(failed("look at", dir))?;
        if fs::symlink_metadata(dir).is_ok_and(|m| (m.dev(), m.ino()) == (ours.dev(), ours.ino())) {
            return Ok(lock);
        }
    }
}

/// Whether the mount that `path` is on is shared, and whether it follows another.
fn spreads(path: &Path) -> Result<(bool, bool)> {
    use std::io::Read as _;
    let whole = fs::canonicalize(path).map_err(failed("find", path))?;
    let table = "/proc/self/mountinfo";
    let mut bytes = Vec::new();
    fs::File::open(table)
        .and_then(|file| file.take(MOST_MOUNTS).read_to_end(&mut bytes))
        .map_err(failed("read", Path::new(table)))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut best = (0, (false, false));
    for line in text.lines() {
        let mut fields = line.split(' ');
        let Some(at) = fields.nth(4).map(unescape) else {
            continue;
        };
        if whole.starts_with(&at) && at.len() >= best.0 {
            let tags: Vec<&str> = fields.skip(1).take_while(|f| *f != "-").collect();
            let has = |tag: &str| tags.iter().any(|t| t.starts_with(tag));
            best = (at.len(), (has("shared:"), has("master:")));
        }
    }
    Ok(best.1)
}

/// A path as the table of mounts writes it.
fn unescape(text: &str) -> String {
    let all = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    all.iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Checks that mounts can spread as `planned` wants.
fn check_propagation(planned: &Planned, source: &Path) -> Result<bool> {
    let shared = planned.propagation.ends_with("shared");
    let slave = planned.propagation.ends_with("slave");
    if !shared && !slave {
        return Ok(false);
    }
    let (is_shared, is_slave) = spreads(source)?;
    if is_shared || (slave && is_slave) {
        return Ok(true);
    }
    let what = if slave {
        "a shared or slave"
    } else {
        "a shared"
    };
    let m = format!("path {} is not on {what} mount", source.display());
    Err(Error::new(Kind::BadInput, m).with_hint(format!(
        "make it one: mount --bind {0} {0} && mount --make-shared {0}",
        source.display()
    )))
}

/// Options of a bind.
fn options(planned: &Planned, facts: &RuntimeFacts) -> Result<Vec<String>> {
    let bind = if planned.non_recursive {
        "bind"
    } else {
        "rbind"
    };
    let propagation = match &*planned.propagation {
        "" => "rprivate",
        given => given,
    };
    let access = if !planned.read_only {
        "rw"
    } else if planned.non_recursive || planned.read_only_non_recursive {
        "ro"
    } else if facts.recursive_read_only && kernel() >= (5, 12) {
        "rro"
    } else if planned.read_only_force_recursive {
        let m = "the runtime cannot make mounts read-only recursively";
        return Err(Error::new(Kind::Unsupported, m)
            .with_hint("use runc 1.1 or crun 1.4 and Linux 5.12, or bind-recursive=writable"));
    } else {
        "ro"
    };
    Ok([bind, propagation, access].map(str::to_owned).to_vec())
}

/// Major and minor version of the kernel.
fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn mount(kind: &str, source: &Path, target: &str, options: Vec<String>) -> Result<Mount> {
    let built = MountBuilder::default()
        .typ(kind)
        .source(source)
        .destination(target)
        .options(options)
        .build();
    built.map_err(|e| Error::new(Kind::Bug, format!("describe a mount: {e}")))
}

/// A mount as the spec has it.
fn described(p: &Planned, source: &Path, facts: &RuntimeFacts) -> Result<Mount> {
    if p.what != What::Tmpfs {
        return mount("bind", source, &p.target, options(p, facts)?);
    }
    let mut options = p.options.clone();
    let access = if p.read_only { "ro" } else { "rw" };
    if !options.iter().any(|o| matches!(&**o, "ro" | "rw")) {
        options.push(access.to_owned());
    }
    options.push("rprivate".to_owned());
    mount("tmpfs", Path::new("tmpfs"), &p.target, options)
}

impl Volumes {
    /// The mounts of a container that starts. New volumes are filled from its root, which may be
    /// mounted nowhere yet; sources of `-v` that are not there are made.
    ///
    /// # Errors
    /// If a source is not there or the host refuses.
    pub fn resolve(
        &self,
        id: &str,
        planned: &[Planned],
        rootfs: BorrowedFd<'_>,
        facts: &RuntimeFacts,
    ) -> Result<Resolved> {
        let mut resolved = Resolved {
            mounts: Vec::new(),
            shared: false,
            staged: Staged::default(),
        };
        self.fill_new(id, planned, rootfs)?;
        for (at, p) in planned.iter().enumerate() {
            let source = match p.what {
                What::Tmpfs => PathBuf::new(),
                What::Bind => {
                    let source = PathBuf::from(&p.source);
                    make_source(p, &source)?;
                    resolved.shared |= check_propagation(p, &source)?;
                    source
                }
                What::Volume => {
                    let volume = self.find(&p.source)?;
                    match volume.device() {
                        Some(device) => PathBuf::from(device),
                        None if p.subpath.is_empty() => self.data(&p.source),
                        None => self.stage(id, at, p, &mut resolved.staged)?,
                    }
                }
            };
            resolved.mounts.push(described(p, &source, facts)?);
        }
        Ok(resolved)
    }

    /// The mounts that [`Volumes::resolve`] gives, with nothing looked up, filled or made. A volume
    /// that is still to be made without a name gets one here that it will not have.
    ///
    /// # Errors
    /// If the record of a volume cannot be read, or the host or the runtime cannot do what is asked.
    pub fn describe(
        &self,
        id: &str,
        planned: &[Planned],
        facts: &RuntimeFacts,
    ) -> Result<Vec<Mount>> {
        let source = |at: usize, p: &Planned| -> Result<PathBuf> {
            if p.what != What::Volume {
                return Ok(PathBuf::from(&p.source));
            }
            if p.source.is_empty() {
                return Ok(self.data(&random_id()?));
            }
            let volume = self.load(&p.source)?.unwrap_or_default();
            Ok(match volume.device() {
                Some(device) => PathBuf::from(device),
                None if p.subpath.is_empty() => self.data(&p.source),
                None => self.staging().join(id).join(at.to_string()),
            })
        };
        let each = planned.iter().enumerate();
        each.map(|(at, p)| described(p, &source(at, p)?, facts))
            .collect()
    }

    /// Fills the volumes that are new to this container and wanted so.
    fn fill_new(&self, id: &str, planned: &[Planned], rootfs: BorrowedFd<'_>) -> Result<()> {
        let wanted: Vec<&Planned> = planned
            .iter()
            .filter(|p| p.what == What::Volume && p.copy && p.subpath.is_empty())
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let used = self.store.read_volumes(|tx| tx.used_by(id))?;
        let done = |p: &Planned| used.iter().any(|u| u.volume == p.source && u.filled);
        let mut filled = Vec::new();
        for p in wanted.into_iter().filter(|p| !done(p)) {
            if self.find(&p.source)?.device().is_none() {
                self.fill(&p.source, rootfs, &p.target)?;
            }
            filled.push(p.source.clone());
        }
        if filled.is_empty() {
            return Ok(());
        }
        self.store.volumes(|tx| {
            for volume in &filled {
                tx.put(&VolumeUser {
                    volume: volume.clone(),
                    container: id.to_owned(),
                    filled: true,
                })?;
            }
            Ok(())
        })
    }

    fn staging(&self) -> PathBuf {
        self.run_root.join("subpaths")
    }

    /// Mounts a part of a volume where only we can change what is at the path: containers that
    /// have the volume could put a link in its place.
    fn stage(&self, id: &str, at: usize, p: &Planned, staged: &mut Staged) -> Result<PathBuf> {
        let (part, is_dir) = self.part(&p.source, &p.subpath)?;
        let dir = self.staging().join(id);
        if staged.dir.is_none() {
            unstage(&dir)?;
            staged.dir = Some((dir.clone(), locked(&dir)?));
        }
        let path = dir.join(at.to_string());
        let made = if is_dir {
            fs::create_dir(&path)
        } else {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            options.open(&path).map(drop)
        };
        made.map_err(failed("make", &path))?;
        let how = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let tree = open_tree(&part, "", how).map_err(failed("bind", &path))?;
        let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", rustix::fs::CWD, &path, how).map_err(failed("mount", &path))?;
        Ok(path)
    }

    /// Removes what killed commands have left: temporary mounts, volumes that were half made or
    /// half removed.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn sweep(&self) -> Result<()> {
        let dir = self.staging();
        match fs::read_dir(&dir) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry.map_err(failed("list", &dir))?.path();
                    let Ok(lock) = fs::File::open(&path) else {
                        continue;
                    };
                    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                        unstage(&path)?;
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("list", &dir)(e)),
        }
        let left = |name: &str| name.starts_with(".new-") || name.starts_with(".trash-");
        let any = fs::read_dir(&self.root).is_ok_and(|mut list| {
            list.any(|e| e.is_ok_and(|e| e.file_name().to_str().is_some_and(left)))
        });
        if any {
            // In a transaction nobody makes one.
            self.store
                .volumes(|_| Ok(self.remove_where(|name| name.starts_with(".new-"))?))?;
            self.empty_trash()?;
        }
        Ok(())
    }
}

/// Makes the source of a `-v` that is not there.
fn make_source(p: &Planned, source: &Path) -> Result<()> {
    match fs::metadata(source) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && p.create_source => {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o755);
            builder
                .create(source)
                .map_err(failed("make the directory", source))
        }
        Err(e) => Err(failed("find the source of a mount,", source)(e)),
    }
}
