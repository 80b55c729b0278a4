//! The tree being built, reached only through directory descriptors.
//!
//! Paths are walked one component at a time from a descriptor we hold, with openat2 forbidding
//! symlinks, magic links and leaving the directory. Symlinks are read and followed here, inside
//! the root, as the kernel would follow them after a chroot. So no name, link or `..` in an image
//! can reach outside, and no path is ever joined into a string that the kernel resolves.
//!
//! For an overlay layer the tree is the layer's own directory, seen merged with the layers below
//! ([`Root::with_lowers`]): a directory that only lies below is copied up, without its content,
//! as soon as something is put into it.

mod dir;
mod locked;
mod lower;

pub(crate) use dir::{Attrs, Dir};
pub use lower::LowerLayers;
pub(crate) use lower::{Layers, Lower};

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use dir::nothing;
use lower::is_opaque;

use crate::{
    entry::{Xattrs, split},
    error::{Error, Result, show},
    fault,
};

/// Symlinks followed on one path, as in the kernel.
const MOST_LINKS: usize = 40;

const DIR_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What a name in a directory is.
#[derive(Debug)]
pub(crate) enum Child {
    Dir(Arc<Dir>),
    Symlink(Vec<u8>),
    /// Neither a directory nor a symlink.
    Other,
    Absent,
}

/// What to do about missing directories on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Create them, replacing what is not a directory.
    Create,
    /// Give up: nothing is there.
    Stop,
}

/// Told of what the walk does on its way, so that it is noted in the layer's plan.
pub(crate) trait Walk {
    /// `name` in `dir` is about to be looked at: writes to it that are under way must be done.
    fn settle(&mut self, root: &mut Root, dir: &Arc<Dir>, name: &[u8]) -> Result<()>;
    /// `name` in `dir` is not a directory and is in the way of one.
    fn clear(&mut self, root: &mut Root, dir: &Arc<Dir>, name: &[u8]) -> Result<()>;
    /// What is looked for is found through the symlink with this real path.
    fn through(&mut self, real: &[u8]);
    /// `dir` was created in `parent` though the layer has no entry for it. `below` has what a
    /// lower layer's directory of that name has, if there is one.
    fn implied(
        &mut self,
        parent: &Arc<Dir>,
        dir: &Arc<Dir>,
        below: Option<(Attrs, Xattrs)>,
    ) -> Result<()>;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Root {
    top: Arc<Dir>,
    /// Open directories by real path.
    cache: HashMap<Box<[u8]>, Arc<Dir>>,
    most_cached: usize,
    /// Has a clone in each open directory, also of those that only a file on its way holds.
    open: Arc<()>,
    most_open: usize,
    next_id: u64,
    /// The last directory resolved.
    last: Option<Arc<Dir>>,
    lowers: Layers,
    overlay_xattr: Option<&'static str>,
    openat2: AtomicBool,
    /// Whether modes lock the caller out of its own directories.
    bound_by_modes: bool,
    /// Attributes of directories that were opened up, until they are restored.
    unlocked: BTreeMap<Box<[u8]>, Attrs>,
}

impl Root {
    /// The tree under `fd`.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self> {
        let st = fs::fstat(&fd).map_err(|e| Error::host("look at the destination", e))?;
        if FileType::from_raw_mode(st.st_mode) != FileType::Directory {
            return Err(Error::host("open the destination", Errno::NOTDIR));
        }
        let open = Arc::new(());
        let top = Arc::new(Dir {
            default_acl: has_default_acl(fd.as_fd()),
            fd,
            id: 0,
            path: Box::default(),
            before: Attrs::of(&st),
            setgid: st.st_mode & 0o2000 != 0,
            created: false,
            unlocked: false,
            lowers: nothing(),
            _open: open.clone(),
        });
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = usize::try_from(limit.unwrap_or(4096)).unwrap_or(usize::MAX);
        Ok(Self {
            top,
            cache: HashMap::new(),
            most_cached: (limit / 4).clamp(12, 512),
            open,
            most_open: (limit / 2).max(24),
            next_id: 1,
            last: None,
            lowers: Layers::default(),
            overlay_xattr: None,
            openat2: AtomicBool::new(true),
            bound_by_modes: !rustix::process::geteuid().is_root(),
            unlocked: BTreeMap::new(),
        })
    }

    /// Sees the tree merged with `lowers`; `opaque` is the attribute that marks opaque
    /// directories in them.
    pub(crate) fn with_lowers(mut self, lowers: Layers, opaque: &'static str) -> Self {
        self.overlay_xattr = Some(opaque);
        self.lowers = lowers;
        if let Some(top) = Arc::get_mut(&mut self.top) {
            top.lowers = OnceLock::new();
        }
        self
    }

    /// The root directory.
    pub(crate) fn top(&self) -> &Arc<Dir> {
        &self.top
    }

    /// The open directory with this real path, if it is in the cache.
    pub(crate) fn cached(&self, real: &[u8]) -> Option<&Arc<Dir>> {
        if real.is_empty() {
            Some(&self.top)
        } else {
            self.cache.get(real)
        }
    }

    /// Forgets `real` and everything under it: it is about to be replaced.
    pub(crate) fn forget(&mut self, real: &[u8]) {
        self.last = None;
        self.cache.retain(|path, _| !is_under(path, real));
        self.unlocked.retain(|path, _| !is_under(path, real));
    }

    /// Whether so many directories are open that the files on their way, which keep theirs open,
    /// should be waited for.
    pub(crate) fn too_many_open(&self) -> bool {
        Arc::strong_count(&self.open) > self.most_open
    }

    /// Closes all cached directories.
    pub(crate) fn forget_all(&mut self) {
        self.last = None;
        self.cache.clear();
    }

    /// Looks at the root directory anew and closes all others: another layer begins.
    pub(crate) fn renew(&mut self) -> Result<()> {
        let lowers = self.top.lowers.clone();
        self.renew_top(lowers)
    }

    /// Lower layers no longer show through the root directory.
    pub(crate) fn hide_lowers(&mut self) -> Result<()> {
        self.renew_top(nothing())
    }

    fn renew_top(&mut self, lowers: OnceLock<Box<[u16]>>) -> Result<()> {
        self.forget_all();
        let host = |e| Error::host("look at the root directory", e);
        let fd = self
            .top
            .fd
            .try_clone()
            .map_err(|e| Error::host("reopen the root", e))?;
        let st = fs::fstat(&fd).map_err(host)?;
        let id = self.next_id;
        self.next_id += 1;
        let (before, unlocked) = self.unlock(fd.as_fd(), b"", Attrs::of(&st), None);
        self.top = Arc::new(Dir {
            default_acl: has_default_acl(fd.as_fd()),
            fd,
            id,
            path: Box::default(),
            before,
            setgid: st.st_mode & 0o2000 != 0,
            created: false,
            unlocked,
            lowers,
            _open: self.open.clone(),
        });
        Ok(())
    }

    /// Whether any lower layer may show through `dir`. Does not wait to know.
    pub(crate) fn may_be_merged(&self, dir: &Dir) -> Result<bool> {
        if dir.hides() || !self.lowers.at_hand() {
            return Ok(!dir.hides());
        }
        Ok(!self.shown(dir)?.is_empty())
    }

    /// The directory at `path`, symlinks followed inside the root. `None` if it is not there and
    /// `missing` is [`Missing::Stop`].
    pub(crate) fn resolve(
        &mut self,
        path: &[u8],
        missing: Missing,
        walk: &mut dyn Walk,
    ) -> Result<Option<Arc<Dir>>> {
        if path.is_empty() {
            return Ok(Some(self.top.clone()));
        }
        if let Some(last) = self.last.as_ref().filter(|last| *last.path == *path) {
            return Ok(Some(last.clone()));
        }
        let found = match self.cache.get(path) {
            Some(dir) => Some(dir.clone()),
            None => self.walk(path, missing, walk)?,
        };
        // What was reached through a symlink changes with it: only real paths are remembered. And
        // only what is in the cache, so that whatever replaces a directory above finds it there.
        self.last = self.cache.get(path).cloned();
        Ok(found)
    }

    fn walk(
        &mut self,
        path: &[u8],
        missing: Missing,
        walk: &mut dyn Walk,
    ) -> Result<Option<Arc<Dir>>> {
        // Start from the nearest directory that is open.
        let (mut dir, mut rest) = (self.top.clone(), path);
        let mut above = split(path).0;
        while !above.is_empty() {
            if let Some(open) = self.cache.get(above) {
                (dir, rest) = (open.clone(), &path[above.len() + 1..]);
                break;
            }
            above = split(above).0;
        }
        let mut todo: Vec<Box<[u8]>> = components(rest).rev().collect();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if *name == *b".." {
                let up = split(&dir.path).0.to_vec();
                dir = self.reopen(&up)?;
                continue;
            }
            walk.settle(self, &dir, &name)?;
            match self.child(&dir, &name, walk)? {
                Child::Dir(child) => dir = child,
                Child::Symlink(target) => {
                    walk.through(&join(&dir.path, &name));
                    links += 1;
                    if links > MOST_LINKS {
                        // Nothing can be there.
                        if missing == Missing::Stop {
                            return Ok(None);
                        }
                        return Err(Error::bad("too many symlinks on the way to it"));
                    }
                    if target.starts_with(b"/") {
                        dir = self.top.clone();
                    }
                    todo.extend(components(&target).rev());
                }
                Child::Other | Child::Absent if missing == Missing::Stop => return Ok(None),
                Child::Other => {
                    walk.clear(self, &dir, &name)?;
                    dir = self.imply(&dir, &name, walk)?;
                }
                Child::Absent => dir = self.imply(&dir, &name, walk)?,
            }
        }
        Ok(Some(dir))
    }

    /// The directory with this real path, which has no symlinks and exists.
    fn reopen(&mut self, real: &[u8]) -> Result<Arc<Dir>> {
        if let Some(dir) = self.cached(real) {
            return Ok(dir.clone());
        }
        let (above, name) = split(real);
        // Recursion is as deep as the path is long; a loop keeps the stack flat.
        let mut dir = self.top.clone();
        for part in components(above).chain([name.into()]) {
            dir = match self.open_child(&dir, &part)? {
                Child::Dir(child) => child,
                _ => return Err(Error::host(format!("open `{}`", show(real)), Errno::NOENT)),
            };
        }
        Ok(dir)
    }

    /// The directory that `dir` is in, by way of `..`; `None` if that is not where it should be.
    /// Keeps nothing in the cache.
    pub(crate) fn above(&mut self, dir: &Dir) -> Result<Option<Arc<Dir>>> {
        let (above, name) = split(&dir.path);
        let up = if above.is_empty() {
            return Ok((!name.is_empty()).then(|| self.top.clone()));
        } else if let Some(open) = self.cache.get(above) {
            return Ok(Some(open.clone()));
        } else {
            match fs::openat(dir, "..", DIR_FLAGS, Mode::empty()) {
                Ok(up) => up,
                Err(_) => return Ok(None),
            }
        };
        let host = |e| Error::host(format!("look at `{}`", show(&dir.path)), e);
        let (own, there) = match fs::statat(&up, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => (fs::fstat(dir).map_err(host)?, there),
            Err(_) => return Ok(None),
        };
        if (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino) {
            return Ok(None);
        }
        self.keep(up, above.into(), nothing(), None, None).map(Some)
    }

    /// Opens a directory by its real path, to set its attributes; `None` if it is gone.
    pub(crate) fn open_real(&mut self, real: &[u8]) -> Result<Option<Arc<Dir>>> {
        match self.reopen(real) {
            Ok(dir) => Ok(Some(dir)),
            Err(e) if e.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What `name` in `dir` is. A directory that only lower layers have is copied up.
    fn child(&mut self, dir: &Arc<Dir>, name: &[u8], walk: &mut dyn Walk) -> Result<Child> {
        let child = self.open_child(dir, name)?;
        if !matches!(child, Child::Absent) || self.shown(dir)?.is_empty() {
            return Ok(child);
        }
        match self.lower_child(dir, name)? {
            Lower::Dir(layers) => {
                let below = self.lower_attrs(layers[0], &join(&dir.path, name))?;
                let copy = self.make(dir, name, OnceLock::from(layers))?;
                walk.implied(dir, &copy, Some(below))?;
                Ok(Child::Dir(copy))
            }
            Lower::Symlink(target) => Ok(Child::Symlink(target)),
            // A directory put here hides it.
            Lower::Other | Lower::Absent => Ok(Child::Absent),
        }
    }

    /// What `name` in `dir` is in this tree alone.
    pub(crate) fn open_child(&mut self, dir: &Arc<Dir>, name: &[u8]) -> Result<Child> {
        let real = join(&dir.path, name);
        if let Some(open) = self.cache.get(&*real) {
            return Ok(Child::Dir(open.clone()));
        }
        let mut locked = None;
        let fd = match self.open_at(dir.as_fd(), name, DIR_FLAGS) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Child::Absent),
            Err(Errno::NOTDIR | Errno::LOOP) => return self.not_a_dir(dir, name),
            Err(Errno::ACCESS) => {
                let (fd, mode) = self.force_open(dir, name)?;
                locked = Some(mode);
                fd
            }
            Err(e) => return Err(Error::host(format!("open `{}`", show(&real)), e)),
        };
        let lowers = match self.overlay_xattr {
            Some(opaque) if !dir.hides() && !is_opaque(fd.as_fd(), opaque) => OnceLock::new(),
            _ => nothing(),
        };
        self.keep(fd, real, lowers, None, locked).map(Child::Dir)
    }

    fn not_a_dir(&self, dir: &Dir, name: &[u8]) -> Result<Child> {
        match fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => Ok(Child::Symlink(target.into_bytes())),
            Err(Errno::INVAL) => Ok(Child::Other),
            Err(Errno::NOENT) => Ok(Child::Absent),
            Err(e) => Err(Error::host(
                format!("read `{}`", show(&join(&dir.path, name))),
                e,
            )),
        }
    }

    /// Opens one component, never through a symlink and never out of `dir`.
    fn open_at(&self, dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        fault::point("open").map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        if self.openat2.load(Ordering::Relaxed) {
            let resolve =
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match fs::openat2(dir, name, flags, Mode::empty(), resolve) {
                Err(Errno::NOSYS | Errno::PERM) => self.openat2.store(false, Ordering::Relaxed),
                Err(Errno::AGAIN) => {}
                done => return done,
            }
        }
        // One component without a slash and O_NOFOLLOW cannot leave `dir` either.
        fs::openat(dir, name, flags, Mode::empty())
    }

    /// Creates a directory that the layer only implies, where nothing shows through.
    fn imply(&mut self, dir: &Arc<Dir>, name: &[u8], walk: &mut dyn Walk) -> Result<Arc<Dir>> {
        let new = self.create_hiding(dir, name)?;
        walk.implied(dir, &new, None)?;
        Ok(new)
    }

    /// Creates a directory that the layer has an entry for; `None` if something is there. In an
    /// overlay layer the lower directories of the same name show through it.
    pub(crate) fn create(&mut self, dir: &Arc<Dir>, name: &[u8]) -> Result<Option<Arc<Dir>>> {
        let lowers = if dir.hides() {
            nothing()
        } else {
            OnceLock::new()
        };
        match self.make(dir, name, lowers) {
            Err(e) if e.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => Ok(None),
            done => done.map(Some),
        }
    }

    /// Creates a directory that hides what lower layers have of the same name.
    pub(crate) fn create_hiding(&mut self, dir: &Arc<Dir>, name: &[u8]) -> Result<Arc<Dir>> {
        // Where the layers below are not known yet, the mark is right whatever they have.
        let hides = match self.overlay_xattr {
            Some(opaque) if !dir.hides() => {
                let there =
                    !self.lowers.at_hand() || matches!(self.lower_child(dir, name)?, Lower::Dir(_));
                there.then_some(opaque)
            }
            _ => None,
        };
        let new = self.make(dir, name, nothing())?;
        if let Some(opaque) = hides {
            crate::attrs::mark_opaque(new.as_fd(), opaque)?;
        }
        Ok(new)
    }

    fn make(
        &mut self,
        dir: &Arc<Dir>,
        name: &[u8],
        lowers: OnceLock<Box<[u16]>>,
    ) -> Result<Arc<Dir>> {
        let real = join(&dir.path, name);
        let host = |e| Error::host(format!("create the directory `{}`", show(&real)), e);
        fault::point("mkdir").map_err(|e| Error::host("create a directory", e))?;
        // Opened up to the owner until its mode is set, with all else, at the end.
        match fs::mkdirat(dir, name, Mode::RWXU) {
            Err(e) => Err(host(e)),
            Ok(()) => {
                let fd = self.open_at(dir.as_fd(), name, DIR_FLAGS).map_err(host)?;
                self.keep(fd, real, lowers, Some(dir), None)
            }
        }
    }

    fn keep(
        &mut self,
        fd: OwnedFd,
        real: Box<[u8]>,
        lowers: OnceLock<Box<[u16]>>,
        created_in: Option<&Dir>,
        locked: Option<u32>,
    ) -> Result<Arc<Dir>> {
        let created = created_in.is_some();
        if created_in.is_some_and(|above| above.default_acl) {
            crate::attrs::drop_acls(fd.as_fd());
        }
        let default_acl = !created && has_default_acl(fd.as_fd());
        let st = fs::fstat(&fd).map_err(|e| Error::host("look at a directory", e))?;
        let (before, unlocked) = if created {
            (Attrs::of(&st), false)
        } else {
            self.unlock(fd.as_fd(), &real, Attrs::of(&st), locked)
        };
        let dir = Arc::new(Dir {
            fd,
            id: self.next_id,
            path: real.clone(),
            before,
            setgid: st.st_mode & 0o2000 != 0,
            default_acl,
            created,
            unlocked,
            lowers,
            _open: self.open.clone(),
        });
        self.next_id += 1;
        if self.cache.len() >= self.most_cached {
            self.forget_all();
        }
        // Never without the directories above: whoever replaces one of those looks for it here.
        let above = split(&real).0;
        if above.is_empty() || self.cache.contains_key(above) {
            self.cache.insert(real, dir.clone());
        }
        Ok(dir)
    }
}

/// Sets the mode of what an `O_PATH` descriptor stands for.
pub(crate) fn chmod_handle(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    fs::chmodat(fs::CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
}

fn has_default_acl(fd: BorrowedFd<'_>) -> bool {
    fs::fgetxattr(fd, crate::attrs::ACL_DEFAULT, &mut [0_u8; 0][..]).is_ok_and(|n| n > 0)
}

/// `dir/name`, without a slash for the root.
pub(crate) fn join(dir: &[u8], name: &[u8]) -> Box<[u8]> {
    if dir.is_empty() {
        name.into()
    } else {
        [dir, b"/", name].concat().into()
    }
}

/// Whether `path` is `dir` or lies in it.
fn is_under(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty()
        || path
            .strip_prefix(dir)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Components of a path or symlink target; `.` and empty ones are passed over.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Box<[u8]>> + '_ {
    path.split(|&b| b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(Box::from)
}
