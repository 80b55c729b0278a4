//! A tree on disk: [`DirSink`] applies entries under a directory descriptor.

use std::{
    mem,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use rustix::{
    fs::{self, AtFlags, FileType, Mode},
    io::Errno,
};

use super::{Applied, Sink, Want, check, copy_up, count, remove};
use crate::{
    attrs,
    cancel::Cancel,
    entry::{Entry, EntryKind, Meta, Role, Time, Xattrs, split},
    error::{Error, Kind, Result, show},
    fault,
    io::{
        Batch, FileJob, FileMeta, Notes as WriterNotes, Stream, Work, Writers, owner, timestamps,
        unlink,
    },
    plan::{Fixup, Fixups, Seen, Unsettled},
    report::{Counts, Notes},
    root::{Attrs, Child, Dir, Missing, Root, Walk, join},
};

/// Files with at least this many stored bytes are written while they arrive.
const STREAM_FROM: u64 = 1 << 20;
/// Small files handed to a writer at once: at most this many, or this many bytes.
const JOBS: usize = 32;
const JOB_BYTES: u64 = 256 << 10;
/// Bytes of tar stream after which they are handed over however few: each may hold a block of its
/// own, and the decoder waits for blocks.
const JOB_SPAN: u64 = 512 << 10;

/// Whose the files are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Owners {
    /// As the archive says. An ordinary user keeps all; the report counts them.
    #[default]
    Archive,
    /// The caller's.
    Caller,
    /// As the archive says, shifted by a map. Owners outside the map are an error.
    Mapped(IdMap),
}

/// Maps owners and groups of the image to those of the host, as a user namespace does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMap {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
}

/// `count` ids from `inside` become those from `outside`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the image.
    pub inside: u32,
    /// First id on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdMap {
    /// A map of owners and one of groups.
    pub fn new(uids: Vec<IdRange>, gids: Vec<IdRange>) -> Self {
        Self { uids, gids }
    }

    fn map(ranges: &[IdRange], id: u32) -> Option<u32> {
        let range = ranges
            .iter()
            .find(|r| id >= r.inside && id - r.inside < r.count)?;
        range.outside.checked_add(id - range.inside)
    }
}

/// What becomes of whiteouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Whiteouts {
    /// They remove what lower layers put into the same tree.
    #[default]
    Apply,
    /// They become overlayfs's own: character devices 0:0 and `trusted.overlay.opaque`. The tree
    /// is one layer's directory, to be mounted over those in [`DirOptions::lowers`].
    Overlay,
    /// The same with `user.overlay.opaque`, for mounts with the option `userxattr`.
    OverlayUserXattr,
    /// They are kept as the files they are in the archive.
    Keep,
}

/// How a [`DirSink`] builds its tree.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DirOptions {
    /// Whose the files are.
    pub owners: Owners,
    /// What becomes of whiteouts.
    pub whiteouts: Whiteouts,
    /// With `Overlay`: the root directories of the layers below, topmost first.
    pub lowers: Vec<Arc<OwnedFd>>,
}

/// Applies layers to a directory. Made by [`Unpacker::dir_sink`](crate::Unpacker::dir_sink).
///
/// With [`Whiteouts::Apply`] and `Keep` one sink takes all layers of an image in order; with
/// `Overlay` every layer has a directory and a sink of its own. Everything happens below the
/// directory's descriptor; nothing in a layer can reach outside. The caller makes the directory,
/// keeps others out of it while a layer is applied, and removes it if a layer fails.
#[derive(Debug)]
pub struct DirSink {
    pub(super) root: Root,
    pub(super) work: Builder,
    current: Current,
    layers: u64,
}

/// The file whose payload arrives.
#[derive(Debug)]
enum Current {
    None,
    Small(FileJob),
    Large(Arc<Stream>),
}

/// All of a [`DirSink`] but the tree itself.
#[derive(Debug)]
pub(super) struct Builder {
    pub options: DirOptions,
    me: (u32, u32),
    privileged: bool,
    writers: Writers,
    cancel: Cancel,
    /// Bytes that [`Seen`] and [`Fixups`] may use, each.
    memory: usize,
    batch: Arc<Batch>,
    jobs: Vec<FileJob>,
    jobs_bytes: u64,
    /// Offset of the first one's entry in the tar stream.
    jobs_from: u64,
    unsettled: Unsettled,
    pub seen: Seen,
    pub fixups: Fixups,
    /// The tree had something in it, or lies over something, before this layer.
    pub over: bool,
    pub root_opaque: bool,
    last_touched: u64,
    counts: Counts,
    notes: Arc<SharedNotes>,
}

#[derive(Debug, Default)]
struct SharedNotes(Mutex<Notes>);

impl SharedNotes {
    fn add(&self, what: &str, why: &'static str, path: &[u8]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(what, why, path);
    }
}

impl WriterNotes for SharedNotes {
    fn xattr(&self, path: &[u8], name: &[u8], why: &'static str) {
        self.add(&show(name), why, path);
    }
}

impl DirSink {
    pub(crate) fn new(
        fd: OwnedFd,
        options: DirOptions,
        writers: Writers,
        cancel: Cancel,
        memory: usize,
    ) -> Result<Self> {
        let mut root = Root::new(fd)?;
        if let Some(opaque) = opaque_xattr(options.whiteouts) {
            root = root.with_lowers(options.lowers.clone(), opaque);
        }
        let uid = rustix::process::geteuid();
        let work = Builder {
            over: !options.lowers.is_empty() || !is_empty(root.top())?,
            options,
            me: (uid.as_raw(), rustix::process::getegid().as_raw()),
            privileged: uid.is_root(),
            writers,
            cancel,
            memory,
            batch: Arc::default(),
            jobs: Vec::new(),
            jobs_bytes: 0,
            jobs_from: 0,
            unsettled: Unsettled::default(),
            seen: Seen::default(),
            fixups: Fixups::default(),
            root_opaque: false,
            last_touched: u64::MAX,
            counts: Counts::default(),
            notes: Arc::default(),
        };
        Ok(Self {
            root,
            work,
            current: Current::None,
            layers: 0,
        })
    }

    fn apply(&mut self, entry: Entry) -> Result<Want> {
        check(&entry)?;
        if self.work.options.whiteouts != Whiteouts::Keep {
            count(&mut self.work.counts, &entry)?;
            let (dir, _) = split(&entry.path);
            match entry.role()? {
                Role::Plain => {}
                Role::Whiteout { name } => {
                    self.whiteout(dir, name)?;
                    return Ok(Want::Skip);
                }
                Role::Opaque => {
                    self.opaque(dir)?;
                    return Ok(Want::Skip);
                }
                Role::AufsResidue => {
                    let why = "bookkeeping of AUFS without content";
                    self.work.notes.add("aufs", why, &entry.path);
                    return Ok(Want::Skip);
                }
            }
        }
        if entry.path.is_empty() {
            let top = self.root.top().clone();
            self.work.listed_dir(&top, &entry.meta)?;
            return Ok(Want::Skip);
        }
        let Self { root, work, .. } = self;
        let (above, name) = split(&entry.path);
        let Some(dir) = root.resolve(above, Missing::Create, work)? else {
            return Err(Error::new(Kind::Bug, "a directory could not be made"));
        };
        work.touch(&dir);
        work.settle(root, &dir, name)?;
        let real = join(&dir.path, name);
        if work.over {
            work.note_above(&dir);
            if work.seen.note(&real, true) {
                work.counts.duplicates += 1;
            }
        }
        match &entry.kind {
            EntryKind::Dir => self.directory(&dir, name, &entry.meta)?,
            EntryKind::File { size, .. } => {
                let size = *size;
                return self.file(dir, &real, size, entry).map(|()| Want::Payload);
            }
            EntryKind::HardLink { target } => self.hard_link(&dir, name, target)?,
            EntryKind::Symlink { target } => {
                work.replacing(root, &dir, name, |dir| fs::symlinkat(&**target, dir, name))?;
                work.by_name(&dir, name, &entry, false)?;
            }
            EntryKind::Fifo => self.special(&dir, name, &entry, FileType::Fifo, 0)?,
            EntryKind::Char { major, minor } => {
                let device = fs::makedev(*major, *minor);
                self.special(&dir, name, &entry, FileType::CharacterDevice, device)?;
            }
            EntryKind::Block { major, minor } => {
                let device = fs::makedev(*major, *minor);
                self.special(&dir, name, &entry, FileType::BlockDevice, device)?;
            }
        }
        Ok(Want::Skip)
    }

    fn directory(&mut self, dir: &Arc<Dir>, name: &[u8], meta: &Meta) -> Result<()> {
        let Self { root, work, .. } = self;
        let known = root.cached(&join(&dir.path, name)).cloned();
        let made = match known {
            Some(known) => known,
            None => match root.create(dir, name)? {
                Some(new) => new,
                None => match root.open_child(dir, name)? {
                    Child::Dir(old) => old,
                    _ => {
                        work.clear(root, dir, name)?;
                        root.create_hiding(dir, name)?
                    }
                },
            },
        };
        if !made.created && !work.over {
            work.counts.duplicates += 1;
        }
        work.listed_dir(&made, meta)
    }

    fn file(&mut self, dir: Arc<Dir>, real: &[u8], size: u64, entry: Entry) -> Result<()> {
        let Self { root, work, .. } = self;
        let name = split(real).1;
        if root.cached(real).is_some() {
            work.clear(root, &dir, name)?;
        }
        let stored = entry.stored_bytes();
        let mut meta = work.file_meta(&dir, entry)?;
        if stored < STREAM_FROM {
            let batch = work.batch.clone();
            let name = name.into();
            self.current = Current::Small(FileJob {
                dir,
                name,
                meta,
                size,
                body: vec![],
                batch,
            });
            return Ok(());
        }
        loop {
            match Stream::create(&dir, name, meta, size, &work.batch)? {
                Ok(stream) => {
                    work.unsettled.add(dir.id, name);
                    self.current = Current::Large(stream);
                    return Ok(());
                }
                Err(back) => {
                    meta = back;
                    work.clear(root, &dir, name)?;
                }
            }
        }
    }

    fn hard_link(&mut self, dir: &Arc<Dir>, name: &[u8], target: &[u8]) -> Result<()> {
        let Self { root, work, .. } = self;
        let missing = || {
            Error::bad(format!(
                "hard link to `{}`, which does not exist",
                show(target)
            ))
            .with_hint("the layer is broken, or lower layers are missing")
        };
        let (above, last) = split(target);
        let from = root
            .resolve(above, Missing::Stop, work)?
            .ok_or_else(missing)?;
        work.settle(root, &from, last)?;
        if from.path == dir.path && last == name {
            // A link to itself: fine if it is there.
            let there = copy_up::merged_has(root, &from, last)?;
            return if there { Ok(()) } else { Err(missing()) };
        }
        if work.overlay() && !copy_up::copy_up(root, work, &from, last)? {
            return Err(missing());
        }
        work.replacing(root, dir, name, |dir| {
            fs::linkat(&from, last, dir, name, AtFlags::empty())
        })
        .map_err(|e| match e.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => missing(),
            Some(Errno::PERM) => Error::bad("hard link to a directory"),
            _ => e,
        })
    }

    fn special(
        &mut self,
        dir: &Arc<Dir>,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<()> {
        let Self { root, work, .. } = self;
        let mode = Mode::from_raw_mode(entry.meta.mode);
        let made = work.replacing(root, dir, name, |dir| {
            fs::mknodat(dir, name, kind, mode, device)
        });
        match made {
            // An ordinary user, or root in a user namespace.
            Err(e)
                if kind != FileType::Fifo
                    && e.raw_os_error() == Some(Errno::PERM.raw_os_error()) =>
            {
                work.notes
                    .add("device", "this user may not make devices", &entry.path);
                Ok(())
            }
            Err(e) if e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                let (major, minor) = (fs::major(device), fs::minor(device));
                let message =
                    format!("device number {major}:{minor} does not fit this file system");
                Err(Error::new(Kind::Host, message)
                    .with_hint("XFS takes minor numbers up to 262143: unpack onto ext4 or btrfs"))
            }
            Err(e) => Err(e),
            Ok(()) => work.by_name(dir, name, entry, true),
        }
    }

    fn end_file(&mut self) -> Result<()> {
        let work = &mut self.work;
        match mem::replace(&mut self.current, Current::None) {
            Current::None => {}
            Current::Small(job) => {
                work.unsettled.add(job.dir.id, &job.name);
                work.jobs_bytes += job.size;
                work.jobs.push(job);
                if work.jobs.len() >= JOBS || work.jobs_bytes >= JOB_BYTES {
                    work.flush()?;
                }
            }
            Current::Large(stream) => stream.end(&work.writers)?,
        }
        Ok(())
    }
}

impl Sink for DirSink {
    fn begin(&mut self) -> Result<()> {
        let Self { root, work, .. } = self;
        root.renew()?;
        work.over |= self.layers > 0;
        work.last_touched = u64::MAX;
        work.root_opaque = false;
        work.seen.clear();
        self.layers += 1;
        let top = root.top().clone();
        if work.overlay() {
            let below = root.lower_root()?;
            work.implied_attrs(&top, below)?;
        } else if !work.over {
            work.implied_attrs(&top, None)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<Want> {
        if self.work.batch.wants_attention() {
            self.work.barrier(&mut self.root)?;
        }
        self.work.bound_use(&mut self.root)?;
        let work = &mut self.work;
        if work.jobs.is_empty() {
            work.jobs_from = entry.offset;
        } else if entry.offset.abs_diff(work.jobs_from) > JOB_SPAN {
            work.flush()?;
            work.jobs_from = entry.offset;
        }
        let (index, path) = (entry.index, entry.path.clone());
        self.apply(entry).map_err(|e| e.at_entry(index, &path))
    }

    fn payload(&mut self, at: u64, bytes: Bytes) -> Result<()> {
        match &mut self.current {
            Current::Small(job) => job.body.push((at, bytes)),
            Current::Large(stream) => stream.push(at, bytes, &self.work.writers)?,
            Current::None => {}
        }
        Ok(())
    }

    fn end_entry(&mut self) -> Result<()> {
        self.end_file()
    }

    fn finish(&mut self) -> Result<Applied> {
        let Self { root, work, .. } = self;
        work.barrier(root)?;
        if work.root_opaque {
            super::whiteout::hide_root(root, work)?;
        }
        work.apply_fixups(root)?;
        if !work.over {
            work.counts.duplicates += work.batch.replaced();
        }
        work.batch = Arc::default();
        let notes = mem::take(&mut work.notes);
        let skipped = notes
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Ok(Applied {
            counts: mem::take(&mut work.counts),
            skipped,
        })
    }

    fn abort(&mut self) {
        let work = &mut self.work;
        work.batch.fail(Error::cancelled());
        work.jobs.clear();
        if let Current::Large(stream) = mem::replace(&mut self.current, Current::None) {
            let _ = stream.end(&work.writers);
        }
        work.batch.drain();
        work.batch = Arc::default();
        work.unsettled.clear();
        self.root.forget_all();
    }
}

impl Drop for DirSink {
    fn drop(&mut self) {
        self.abort();
    }
}

impl Builder {
    pub(super) fn overlay(&self) -> bool {
        opaque_xattr(self.options.whiteouts).is_some()
    }

    pub(super) fn opaque_xattr(&self) -> &'static str {
        opaque_xattr(self.options.whiteouts).unwrap_or(attrs::TRUSTED_OPAQUE)
    }

    pub(super) fn may_chown(&self) -> bool {
        self.privileged
    }

    /// Hands the collected small files over.
    fn flush(&mut self) -> Result<()> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let jobs = mem::take(&mut self.jobs);
        self.jobs_bytes = 0;
        let n = jobs.len() as u64;
        self.batch.begin(n);
        self.writers
            .submit(Work::Files(jobs))
            .inspect_err(|_| self.batch.done(n))
    }

    /// Waits for all writers, and does what they gave back.
    pub(super) fn barrier(&mut self, root: &mut Root) -> Result<()> {
        loop {
            self.flush()?;
            self.batch.wait(&self.cancel)?;
            let returned = self.batch.take_returned()?;
            if returned.is_empty() {
                self.unsettled.clear();
                return Ok(());
            }
            for job in returned {
                self.remove_dir(root, &job.dir, &job.name)?;
                self.jobs.push(job);
            }
        }
    }

    /// Keeps what is remembered of this layer within its share of the budget, and what is open
    /// within the limit of the process.
    fn bound_use(&mut self, root: &mut Root) -> Result<()> {
        if self.seen.bytes() > self.memory {
            let message = "the layer has too many entries to remember in the memory budget";
            return Err(Error::new(Kind::Limit, message).with_hint("raise the budget (--memory)"));
        }
        // What is set too early is noticed and set again when the directory is next used.
        if self.fixups.bytes() + root.unlocked_bytes() > self.memory {
            self.barrier(root)?;
            self.apply_fixups(root)?;
            root.renew()?;
        }
        if self.unsettled.is_full() || root.too_many_open() {
            self.barrier(root)?;
        }
        Ok(())
    }

    /// Notes that the content of `dir` changes: its attributes are restored at the end.
    pub(super) fn touch(&mut self, dir: &Dir) {
        if self.last_touched != dir.id {
            self.last_touched = dir.id;
            if self.fixups.get(&dir.path).is_none() {
                let fixup = Fixup {
                    attrs: dir.before,
                    acls: Xattrs::new(),
                };
                self.fixups.set(&dir.path, fixup);
            }
        }
    }

    /// Notes that the layer implies `dir` and the directories above: it has an entry in it.
    fn note_above(&mut self, dir: &Dir) {
        let mut path = &*dir.path;
        while !path.is_empty() && self.seen.get(path).is_none() {
            self.seen.note(path, false);
            path = split(path).0;
        }
    }

    /// The attributes of a directory that exists only because something is in it.
    fn fresh(&self) -> Attrs {
        let (uid, gid) = match &self.options.owners {
            Owners::Archive if self.privileged => (0, 0),
            Owners::Mapped(map) => (
                IdMap::map(&map.uids, 0).unwrap_or(self.me.0),
                IdMap::map(&map.gids, 0).unwrap_or(self.me.1),
            ),
            _ => self.me,
        };
        Attrs {
            mode: 0o755,
            uid,
            gid,
            mtime: Time::default(),
        }
    }

    /// Gives a directory without an entry the attributes that it has below, or fresh ones.
    pub(super) fn implied_attrs(
        &mut self,
        dir: &Dir,
        below: Option<(Attrs, Xattrs)>,
    ) -> Result<()> {
        let (attrs, xattrs) = below.unwrap_or_else(|| (self.fresh(), Xattrs::new()));
        let (uid, gid) = (attrs.uid, attrs.gid);
        if (uid, gid) != (dir.before.uid, dir.before.gid) {
            let (uid, gid) = owner(uid, gid);
            match fs::fchown(dir, uid, gid) {
                Err(Errno::PERM) if !self.privileged => {}
                done => done.map_err(|e| Error::host("set the owner of a directory", e))?,
            }
        }
        self.dir_attrs(dir, attrs, &xattrs)
    }

    /// Gives a directory what its entry says.
    fn listed_dir(&mut self, dir: &Dir, meta: &Meta) -> Result<()> {
        let host = |e| Error::host("set the owner of the directory", e);
        let before = (dir.before.uid, dir.before.gid);
        let wanted = self.owner(meta.uid, meta.gid, &dir.path)?;
        let (uid, gid) = wanted.unwrap_or(before);
        if (uid, gid) != before || !dir.created {
            if wanted.is_some() {
                let (uid, gid) = owner(uid, gid);
                fs::fchown(dir, uid, gid).map_err(host)?;
            }
            attrs::remove_others(dir.as_fd(), &meta.xattrs)?;
        }
        let attrs = Attrs {
            mode: meta.mode,
            uid,
            gid,
            mtime: meta.mtime,
        };
        self.dir_attrs(dir, attrs, &meta.xattrs)
    }

    /// Sets attributes now, and leaves mode, time and access lists for the end.
    fn dir_attrs(&mut self, dir: &Dir, attrs: Attrs, xattrs: &Xattrs) -> Result<()> {
        let is_acl = |name: &[u8]| {
            name == attrs::ACL_ACCESS.as_bytes() || name == attrs::ACL_DEFAULT.as_bytes()
        };
        let (acls, now): (Xattrs, Xattrs) =
            xattrs.iter().cloned().partition(|(name, _)| is_acl(name));
        if !now.is_empty() {
            let notes = self.notes.clone();
            let mut note = |name: &[u8], why| notes.xattr(&dir.path, name, why);
            attrs::apply_xattrs(dir.as_fd(), &now, &mut note)?;
        }
        self.fixups.set(&dir.path, Fixup { attrs, acls });
        Ok(())
    }

    pub(super) fn apply_fixups(&mut self, root: &mut Root) -> Result<()> {
        self.last_touched = u64::MAX;
        loop {
            // The way to a directory may unlock those above it, which come later.
            for (path, attrs) in root.take_unlocked() {
                if self.fixups.get(&path).is_none() {
                    let acls = Xattrs::new();
                    self.fixups.set(&path, Fixup { attrs, acls });
                }
            }
            let Some((path, fixup)) = self.fixups.pop() else {
                break;
            };
            let dir = if path.is_empty() {
                Some(root.top().clone())
            } else {
                root.open_real(&path)?
            };
            let Some(dir) = dir else { continue };
            let host = |e| {
                Error::host(
                    format!("set attributes of the directory `{}`", show(&path)),
                    e,
                )
            };
            fault::point("dirattr").map_err(|e| Error::host("set attributes", e))?;
            let Fixup { attrs, acls } = fixup;
            if !acls.is_empty() {
                let notes = self.notes.clone();
                let mut note = |name: &[u8], why| notes.xattr(&path, name, why);
                attrs::apply_xattrs(dir.as_fd(), &acls, &mut note)?;
            }
            let moved = (attrs.uid, attrs.gid) != (dir.before.uid, dir.before.gid);
            if attrs.mode != dir.before.mode || !acls.is_empty() || dir.unlocked || moved {
                fs::fchmod(&*dir, Mode::from_raw_mode(attrs.mode)).map_err(host)?;
            }
            fs::futimens(&*dir, &timestamps(attrs.mtime)).map_err(host)?;
            root.restored(&path);
        }
        root.forget_all();
        Ok(())
    }

    /// The owner to set, in the host's ids. `None` leaves it with the caller.
    fn owner(&self, uid: u32, gid: u32, path: &[u8]) -> Result<Option<(u32, u32)>> {
        match &self.options.owners {
            Owners::Caller => Ok(None),
            Owners::Archive if self.privileged => Ok(Some((uid, gid))),
            Owners::Archive => {
                if (uid, gid) != self.me {
                    self.notes
                        .add("owner", "this user may not give files away", path);
                }
                Ok(None)
            }
            Owners::Mapped(map) => {
                let pair = IdMap::map(&map.uids, uid).zip(IdMap::map(&map.gids, gid));
                pair.map(Some).ok_or_else(|| {
                    Error::bad(format!("owner {uid}:{gid} is not in the map"))
                        .with_hint("widen the map (--owners map:…)")
                })
            }
        }
    }

    /// The owner to set on a new name in `dir`; `None` if it has it already.
    fn new_owner(&self, dir: &Dir, meta: &Meta, path: &[u8]) -> Result<Option<(u32, u32)>> {
        let owner = self.owner(meta.uid, meta.gid, path)?;
        Ok(owner.filter(|owner| *owner != self.me || dir.setgid))
    }

    fn file_meta(&self, dir: &Dir, entry: Entry) -> Result<FileMeta> {
        let owner = self.new_owner(dir, &entry.meta, &entry.path)?;
        let Meta {
            mode,
            mtime,
            xattrs,
            ..
        } = entry.meta;
        let xattrs = (!xattrs.is_empty()).then(|| Box::new(xattrs));
        let notes = self.notes.clone();
        Ok(FileMeta {
            mode,
            owner,
            mtime,
            xattrs,
            notes,
            entry: entry.index,
            path: entry.path,
        })
    }

    /// Makes a name with `make`, replacing what is there.
    pub(super) fn replacing(
        &mut self,
        root: &mut Root,
        dir: &Arc<Dir>,
        name: &[u8],
        make: impl Fn(&Dir) -> Result<(), Errno>,
    ) -> Result<()> {
        if root.cached(&join(&dir.path, name)).is_some() {
            self.clear(root, dir, name)?;
        }
        loop {
            fault::point("link").map_err(|e| Error::host("create", e))?;
            match make(dir) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {
                    if !self.over {
                        self.counts.duplicates += 1;
                    }
                    self.clear(root, dir, name)?;
                }
                Err(e) => return Err(Error::host("create", e)),
            }
        }
    }

    /// Attributes of a symlink or special file, by name and without following it.
    fn by_name(&self, dir: &Dir, name: &[u8], entry: &Entry, has_mode: bool) -> Result<()> {
        let host = |e| Error::host("set attributes", e);
        let Meta { mode, mtime, .. } = entry.meta;
        if let Some((uid, gid)) = self.new_owner(dir, &entry.meta, &entry.path)? {
            let (uid, gid) = owner(uid, gid);
            fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(host)?;
        }
        if has_mode {
            let flags = fs::OFlags::PATH | fs::OFlags::NOFOLLOW | fs::OFlags::CLOEXEC;
            let handle = fs::openat(dir, name, flags, Mode::empty()).map_err(host)?;
            crate::root::chmod_handle(handle.as_fd(), mode).map_err(host)?;
        }
        self.xattrs_by_name(dir, name, entry)?;
        fs::utimensat(dir, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(host)
    }

    fn xattrs_by_name(&self, dir: &Dir, name: &[u8], entry: &Entry) -> Result<()> {
        use std::os::fd::AsRawFd;
        for (key, value) in &entry.meta.xattrs {
            if let Some(why) = attrs::refusal(key, value) {
                self.notes.xattr(&entry.path, key, why);
                continue;
            }
            // The directory is named by descriptor and the last component is not followed.
            let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            let flags = fs::XattrFlags::empty();
            if let Err(e) = fs::lsetxattr(&*path, &**key, value, flags) {
                let mut note = |n: &[u8], why| self.notes.xattr(&entry.path, n, why);
                attrs::failed(key, e, &mut note)?;
            }
        }
        Ok(())
    }

    /// Removes a directory and what is in it. No writer may be at work.
    fn remove_dir(&mut self, root: &mut Root, dir: &Arc<Dir>, name: &[u8]) -> Result<()> {
        let real = join(&dir.path, name);
        root.forget(&real);
        self.fixups.remove_under(&real);
        self.last_touched = u64::MAX;
        remove::tree(dir.as_fd(), name)
            .or_else(|e| if e == Errno::NOENT { Ok(()) } else { Err(e) })
            .map_err(|e| Error::host(format!("remove `{}`", show(&real)), e))
    }
}

impl Walk for Builder {
    fn settle(&mut self, root: &mut Root, dir: &Arc<Dir>, name: &[u8]) -> Result<()> {
        if self.unsettled.may_hold(dir.id, name) {
            self.barrier(root)
        } else {
            Ok(())
        }
    }

    fn clear(&mut self, root: &mut Root, dir: &Arc<Dir>, name: &[u8]) -> Result<()> {
        let host = |e| Error::host(format!("replace `{}`", show(&join(&dir.path, name))), e);
        if !unlink(dir, name).map_err(host)? {
            self.barrier(root)?;
            self.remove_dir(root, dir, name)?;
        }
        Ok(())
    }

    fn implied(
        &mut self,
        parent: &Arc<Dir>,
        dir: &Arc<Dir>,
        below: Option<(Attrs, Xattrs)>,
    ) -> Result<()> {
        self.touch(parent);
        self.implied_attrs(dir, below)
    }
}

fn opaque_xattr(whiteouts: Whiteouts) -> Option<&'static str> {
    match whiteouts {
        Whiteouts::Overlay => Some(attrs::TRUSTED_OPAQUE),
        Whiteouts::OverlayUserXattr => Some(attrs::USER_OPAQUE),
        Whiteouts::Apply | Whiteouts::Keep => None,
    }
}

fn is_empty(dir: &Dir) -> Result<bool> {
    let host = |e| Error::host("read the destination", e);
    for entry in fs::Dir::read_from(dir).map_err(host)? {
        let name = entry.map_err(host)?;
        if !matches!(name.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
