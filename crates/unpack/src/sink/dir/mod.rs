//! A tree on disk: [`DirSink`] applies entries under a directory descriptor.

mod attributes;
mod builder;
mod options;

use std::{mem, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use rustix::{
    fs::{self, AtFlags, FileType, Mode},
    io::Errno,
};

pub(super) use builder::Builder;
use options::opaque_xattr;
pub use options::{DirOptions, IdMap, IdRange, Owners, Whiteouts, only_own_id};

use super::{Applied, Passed, Sink, Want, check, copy_up, count, count_kind};
use crate::{
    cancel::Cancel,
    entry::{Entry, EntryKind, Meta, Role, split},
    error::{Error, Kind, Result, show},
    io::{FileJob, Stream, Writers},
    plan::{Fixups, Seen, Unsettled},
    record::Recorder,
    report::Counts,
    root::{Child, Dir, Layers, Missing, Root, Walk, join},
};

/// Files with at least this many stored bytes are written while they arrive.
const STREAM_FROM: u64 = 1 << 20;
/// Small files handed to a writer at once: at most this many, or this many bytes.
const JOBS: usize = 32;
const JOB_BYTES: u64 = 256 << 10;
/// Bytes of tar stream after which they are handed over however few: each may hold a block of its
/// own, and the decoder waits for blocks.
const JOB_SPAN: u64 = 512 << 10;

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
            let layers = match &options.later {
                Some(later) => Layers::later(later.clone()),
                None => Layers::now(options.lowers.clone()),
            };
            root = root.with_lowers(layers, opaque);
        }
        let uid = rustix::process::geteuid();
        let work = Builder {
            over: options.over_layers
                || options.later.is_some()
                || !options.lowers.is_empty()
                || !is_empty(root.top())?,
            options,
            me: (uid.as_raw(), rustix::process::getegid().as_raw()),
            privileged: uid.is_root() && !only_own_id(),
            writers,
            cancel,
            memory,
            batch: Arc::default(),
            jobs: Vec::new(),
            jobs_bytes: 0,
            jobs_from: 0,
            unsettled: Unsettled::default(),
            seen: Seen::default(),
            passed: Passed::default(),
            fixups: Fixups::default(),
            root_opaque: false,
            lists_root: false,
            blind_whiteouts: Vec::new(),
            record: None,
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

    /// After a layer with [`DirOptions::later`]: whether its tree was made to fit the layers below
    /// it, and is right over those alone. It is where the layer has an entry in a directory that
    /// it does not list, a whiteout, a hard link to a lower file, or an opaque root.
    pub fn depends_on_lowers(&self) -> bool {
        self.root.lowers_were_needed()
    }

    /// After a layer with [`DirOptions::later`]: whether it has an entry for the root directory.
    /// If not, the merged root has the attributes of the next layer below that lists it.
    pub fn lists_root(&self) -> bool {
        self.work.lists_root
    }

    /// Writes a [record](crate::record) of the next layer to `to`.
    ///
    /// # Errors
    /// If writing fails.
    pub fn record_to(&mut self, to: Box<dyn std::io::Write + Send>) -> Result<()> {
        self.work.record = Some(Recorder::new(to)?);
        Ok(())
    }

    fn apply(&mut self, entry: Entry) -> Result<Want> {
        check(&entry)?;
        if self.work.options.whiteouts == Whiteouts::Keep {
            count_kind(&mut self.work.counts, &entry);
        } else {
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
            self.work.lists_root = true;
            if let Some(record) = &mut self.work.record {
                record.entry(b"", &entry.kind, &entry.meta)?;
            }
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
        if let Some(record) = &mut work.record
            && matches!(entry.kind, EntryKind::File { .. })
        {
            record.entry(&real, &entry.kind, &entry.meta)?;
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
        if let Some(record) = &mut self.work.record {
            record.entry(&real, &entry.kind, &entry.meta)?;
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
                    work.unsettled.add(&dir.path, name);
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
        let (real, target) = (join(&dir.path, name), join(&from.path, last));
        work.replacing(root, dir, name, |dir| {
            fs::linkat(&from, last, dir, name, AtFlags::empty())
        })
        .map_err(|e| match e.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => missing(),
            Some(Errno::PERM) => Error::bad("hard link to a directory"),
            _ => e,
        })?;
        match &mut work.record {
            Some(record) => record.link(&real, &target),
            None => Ok(()),
        }
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
                work.unsettled.add(&job.dir.path, &job.name);
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
        work.passed.clear();
        self.layers += 1;
        let top = root.top().clone();
        work.lists_root = false;
        work.blind_whiteouts.clear();
        if work.overlay() && root.lowers_are_open() {
            work.implied_attrs(&top, None)?;
        } else if work.overlay() {
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
        if let Some(record) = &mut self.work.record {
            record.payload(at, &bytes);
        }
        match &mut self.current {
            Current::Small(job) => job.body.push((at, bytes)),
            Current::Large(stream) => stream.push(at, bytes, &self.work.writers)?,
            Current::None => {}
        }
        Ok(())
    }

    fn end_entry(&mut self) -> Result<()> {
        if let Some(record) = &mut self.work.record {
            record.end_file()?;
        }
        self.end_file()
    }

    fn finish(&mut self) -> Result<Applied> {
        let Self { root, work, .. } = self;
        work.barrier(root)?;
        super::whiteout::settle_blind(root, work)?;
        if work.root_opaque {
            super::whiteout::hide_root(root, work)?;
        }
        work.apply_fixups(root)?;
        if !work.over {
            work.counts.duplicates += work.batch.replaced();
        }
        work.batch = Arc::default();
        if let Some(record) = work.record.take() {
            record.finish()?;
        }
        let notes = mem::take(&mut work.notes);
        let skipped = notes.take();
        Ok(Applied {
            counts: mem::take(&mut work.counts),
            skipped,
        })
    }

    fn abort(&mut self) {
        let work = &mut self.work;
        work.record = None;
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
