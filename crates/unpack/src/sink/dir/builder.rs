//! What a [`DirSink`](super::DirSink) has beside the tree: files on their way to the writers, what
//! was seen of the layer, and what is to be set at its end.

use std::{
    mem,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::io::Errno;

use super::{
    super::{Passed, remove},
    options::{DirOptions, opaque_xattr},
};
use crate::{
    attrs,
    cancel::Cancel,
    entry::{Xattrs, split},
    error::{Error, Kind, Result, show},
    fault,
    io::{Batch, FileJob, Notes as WriterNotes, Work, Writers, unlink},
    plan::{Fixup, Fixups, Seen, Unsettled},
    record::Recorder,
    report::{Counts, Notes, Skipped},
    root::{Attrs, Dir, Root, Walk, join},
};

/// A directory and a name in it.
type Name = (Box<[u8]>, Box<[u8]>);

/// All of a [`DirSink`] but the tree itself.
#[derive(Debug)]
pub(in crate::sink) struct Builder {
    pub(in crate::sink) options: DirOptions,
    pub(super) me: (u32, u32),
    pub(super) privileged: bool,
    pub(super) writers: Writers,
    pub(super) cancel: Cancel,
    /// Bytes that [`Seen`] and [`Fixups`] may use, each.
    pub(super) memory: usize,
    pub(super) batch: Arc<Batch>,
    pub(super) jobs: Vec<FileJob>,
    pub(super) jobs_bytes: u64,
    /// Offset of the first one's entry in the tar stream.
    pub(super) jobs_from: u64,
    pub(super) unsettled: Unsettled,
    pub(in crate::sink) seen: Seen,
    pub(in crate::sink) passed: Passed,
    pub(in crate::sink) fixups: Fixups,
    /// The tree had something in it, or lies over something, before this layer.
    pub(in crate::sink) over: bool,
    pub(in crate::sink) root_opaque: bool,
    pub(super) lists_root: bool,
    /// Whiteouts made while the lower layers were not known: (directory, name).
    pub(in crate::sink) blind_whiteouts: Vec<Name>,
    pub(super) record: Option<Recorder>,
    pub(super) last_touched: u64,
    pub(super) counts: Counts,
    pub(super) notes: Arc<SharedNotes>,
}

#[derive(Debug, Default)]
pub(super) struct SharedNotes(Mutex<Notes>);

impl SharedNotes {
    pub(super) fn add(&self, what: &str, why: &'static str, path: &[u8]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(what, why, path);
    }

    pub(super) fn take(&self) -> Vec<Skipped> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl WriterNotes for SharedNotes {
    fn xattr(&self, path: &[u8], name: &[u8], why: &'static str) {
        self.add(&show(name), why, path);
    }
}

impl Builder {
    pub(in crate::sink) fn overlay(&self) -> bool {
        opaque_xattr(self.options.whiteouts).is_some()
    }

    pub(in crate::sink) fn opaque_xattr(&self) -> &'static str {
        opaque_xattr(self.options.whiteouts).unwrap_or(attrs::TRUSTED_OPAQUE)
    }

    pub(in crate::sink) fn check_cancelled(&self) -> Result<()> {
        self.cancel.check()
    }

    pub(in crate::sink) fn may_chown(&self) -> bool {
        self.privileged
    }

    /// Hands the collected small files over.
    pub(super) fn flush(&mut self) -> Result<()> {
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
    pub(in crate::sink) fn barrier(&mut self, root: &mut Root) -> Result<()> {
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
    pub(super) fn bound_use(&mut self, root: &mut Root) -> Result<()> {
        if self.seen.bytes() + self.passed.bytes() > self.memory {
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
    pub(in crate::sink) fn touch(&mut self, dir: &Dir) {
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
    pub(super) fn note_above(&mut self, dir: &Dir) {
        let mut path = &*dir.path;
        while !path.is_empty() && self.seen.get(path).is_none() {
            self.seen.note(path, false);
            path = split(path).0;
        }
    }

    /// Makes a name with `make`, replacing what is there.
    pub(in crate::sink) fn replacing(
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
        if self.unsettled.may_hold(&dir.path, name) {
            self.barrier(root)
        } else {
            Ok(())
        }
    }

    fn clear(&mut self, root: &mut Root, dir: &Arc<Dir>, name: &[u8]) -> Result<()> {
        let host = |e| Error::host(format!("replace `{}`", show(&join(&dir.path, name))), e);
        if let Some(record) = &mut self.record {
            record.gone(&join(&dir.path, name))?;
        }
        if !unlink(dir, name).map_err(host)? {
            self.barrier(root)?;
            self.remove_dir(root, dir, name)?;
        }
        Ok(())
    }

    fn through(&mut self, real: &[u8]) {
        if self.over && self.seen.get(real) != Some(true) {
            self.passed.note(real);
        }
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
