//! Extraction from an uncompressed tar in memory by one thread: the least work that gives the
//! tree. Calls are relative to the parent directory, owners are set only when not 0:0, directory
//! times last. For trusted layers only: it follows links, knows no whiteouts and verifies nothing.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::EntryType;

use crate::tarhop::{Entry, Hop, trim};

/// Directory descriptors kept open at a time.
const OPEN_DIRS: usize = 512;

/// Extracts layers into one directory, one after the other.
#[derive(Debug)]
pub(crate) struct Extractor {
    root: Rc<OwnedFd>,
    open: HashMap<Vec<u8>, Rc<OwnedFd>>,
    last: (Vec<u8>, Rc<OwnedFd>),
    dir_times: Vec<(Vec<u8>, Timestamps)>,
    umask: Mode,
}

impl Extractor {
    /// Extracts into `dir`, which exists. While it lives, this process has no umask.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let root: OwnedFd = File::open(dir)
            .with_context(|| format!("open {}", dir.display()))?
            .into();
        let root = Rc::new(root);
        Ok(Self {
            last: (Vec::new(), Rc::clone(&root)),
            root,
            open: HashMap::new(),
            dir_times: Vec::new(),
            umask: rustix::process::umask(Mode::empty()),
        })
    }

    /// Extracts one layer.
    pub(crate) fn layer(&mut self, tar: &[u8]) -> Result<()> {
        let mut hop = Hop::new(tar);
        while let Some(entry) = hop.next_entry()? {
            self.entry(&entry)
                .with_context(|| format!("extract {}", String::from_utf8_lossy(&entry.path)))?;
        }
        Ok(())
    }

    /// Sets the times of all directories, in the order of layers; nothing may be extracted after.
    pub(crate) fn finish(mut self) -> Result<()> {
        for (path, times) in std::mem::take(&mut self.dir_times).iter() {
            let (dir, name) = self.parent(path)?;
            rustix::fs::utimensat(&*dir, name, times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        if entry.path.is_empty() {
            return Ok(());
        }
        let (dir, name) = self.parent(&entry.path)?;
        let mode = Mode::from_raw_mode(entry.header.mode()? & 0o7777);
        let times = times(entry.header.mtime()?);
        match entry.header.entry_type() {
            EntryType::Directory => {
                match rustix::fs::mkdirat(&*dir, name, mode) {
                    Err(Errno::EXIST) => {
                        rustix::fs::chmodat(&*dir, name, mode, AtFlags::empty())?;
                    }
                    other => other?,
                }
                self.dir_times.push((entry.path.to_vec(), times));
                return own(&dir, name, entry);
            }
            EntryType::Symlink => match rustix::fs::symlinkat(&*entry.link, &*dir, name) {
                Err(Errno::EXIST) => {
                    rustix::fs::unlinkat(&*dir, name, AtFlags::empty())?;
                    rustix::fs::symlinkat(&*entry.link, &*dir, name)?;
                }
                other => other?,
            },
            EntryType::Link => {
                let (to, target) = self.parent(trim(&entry.link))?;
                return Ok(rustix::fs::linkat(
                    &*to,
                    target,
                    &*dir,
                    name,
                    AtFlags::empty(),
                )?);
            }
            EntryType::Char => node(&dir, name, entry, FileType::CharacterDevice, mode)?,
            EntryType::Block => node(&dir, name, entry, FileType::BlockDevice, mode)?,
            EntryType::Fifo => node(&dir, name, entry, FileType::Fifo, mode)?,
            kind if kind.is_file() => return file(&dir, name, entry, mode, &times),
            other => bail!("entry type {other:?}"),
        }
        own(&dir, name, entry)?;
        Ok(rustix::fs::utimensat(
            &*dir,
            name,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// The directory that `path` lies in, and its last name.
    fn parent<'p>(&mut self, path: &'p [u8]) -> Result<(Rc<OwnedFd>, &'p [u8])> {
        let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else {
            return Ok((Rc::clone(&self.root), path));
        };
        Ok((self.dir(&path[..slash])?, &path[slash + 1..]))
    }

    fn dir(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if !path.is_empty() && self.last.0 == path {
            return Ok(Rc::clone(&self.last.1));
        }
        let fd = if let Some(fd) = self.open.get(path) {
            Rc::clone(fd)
        } else {
            let (parent, name) = self.parent(path)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = match rustix::fs::openat(&*parent, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&*parent, name, Mode::from_raw_mode(0o755))?;
                    rustix::fs::openat(&*parent, name, flags, Mode::empty())?
                }
                other => other?,
            };
            if self.open.len() >= OPEN_DIRS {
                self.open.clear();
            }
            let fd = Rc::new(fd);
            self.open.insert(path.to_vec(), Rc::clone(&fd));
            fd
        };
        self.last.0.clear();
        self.last.0.extend_from_slice(path);
        self.last.1 = Rc::clone(&fd);
        Ok(fd)
    }
}

impl Drop for Extractor {
    fn drop(&mut self) {
        rustix::process::umask(self.umask);
    }
}

fn file(
    dir: &OwnedFd,
    name: &[u8],
    entry: &Entry<'_>,
    mode: Mode,
    times: &Timestamps,
) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
            rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?
        }
        other => other?,
    };
    let mut rest = entry.data;
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest)?;
        rest = &rest[written..];
    }
    if rustix::process::geteuid().is_root() && (entry.uid, entry.gid) != (0, 0) {
        rustix::fs::fchown(
            &fd,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )?;
    }
    for (name, value) in &entry.xattrs {
        rustix::fs::fsetxattr(&fd, *name, value, XattrFlags::empty())?;
    }
    rustix::fs::fchmod(&fd, mode)?;
    Ok(rustix::fs::futimens(&fd, times)?)
}

fn node(dir: &OwnedFd, name: &[u8], entry: &Entry<'_>, kind: FileType, mode: Mode) -> Result<()> {
    let major = entry.header.device_major()?.unwrap_or(0);
    let minor = entry.header.device_minor()?.unwrap_or(0);
    Ok(rustix::fs::mknodat(
        dir,
        name,
        kind,
        mode,
        rustix::fs::makedev(major, minor),
    )?)
}

/// Sets the owner unless it is 0:0 already. A chown takes setuid bits away, so directories that
/// have one get their mode again.
fn own(dir: &OwnedFd, name: &[u8], entry: &Entry<'_>) -> Result<()> {
    if (entry.uid, entry.gid) == (0, 0) || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = entry.header.mode()? & 0o7777;
    if entry.header.entry_type().is_dir() && mode & 0o6000 != 0 {
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    }
    Ok(())
}

fn times(mtime: u64) -> Timestamps {
    let time = Timespec {
        tv_sec: i64::try_from(mtime).unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use tar::Header;

    #[test]
    fn a_small_tree_comes_out_right() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: EntryType, data: &[u8], link: &str| {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o751);
            header.set_mtime(1_000_000);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(data.len() as u64);
            if link.is_empty() {
                builder.append_data(&mut header, path, data).unwrap();
            } else {
                builder.append_link(&mut header, path, link).unwrap();
            }
        };
        add("d/", EntryType::Directory, b"", "");
        add("d/implied/f", EntryType::Regular, b"content", "");
        add("h", EntryType::Link, b"", "d/implied/f");
        add("d/s", EntryType::Symlink, b"", "implied/f");
        let tar = builder.into_inner().unwrap();

        let temp = tempfile::tempdir().unwrap();
        let mut extractor = Extractor::new(temp.path()).unwrap();
        extractor.layer(&tar).unwrap();
        extractor.layer(&tar[..512]).unwrap();
        extractor.finish().unwrap();

        let meta = |path: &str| std::fs::symlink_metadata(temp.path().join(path)).unwrap();
        assert_eq!(std::fs::read(temp.path().join("d/s")).unwrap(), b"content");
        assert_eq!(meta("h").ino(), meta("d/implied/f").ino());
        for path in ["d", "h", "d/s"] {
            assert_eq!(meta(path).mtime(), 1_000_000, "{path}");
        }
        assert_eq!(meta("d").permissions().mode() & 0o7777, 0o751);
        assert_eq!(meta("h").permissions().mode() & 0o7777, 0o751);
    }
}
