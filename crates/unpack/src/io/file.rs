//! One file with plain system calls: create, write, attributes, close.

use std::{
    collections::VecDeque,
    mem,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use rustix::{
    fs::{self, AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid},
    io::Errno,
};

use super::{Batch, FileJob, Work, Writers, guarded};
use crate::{
    attrs,
    entry::{Time, Xattrs},
    error::{Error, Result, show},
    fault,
    root::Dir,
};

/// Attributes of a file to be created.
#[derive(Debug)]
pub(crate) struct FileMeta {
    pub mode: u32,
    /// `None` leaves it with the caller.
    pub owner: Option<(u32, u32)>,
    pub mtime: Time,
    /// Already filtered; `None` is the usual case.
    pub xattrs: Option<Box<Xattrs>>,
    pub notes: Arc<dyn Notes>,
    /// Entry and path for error messages.
    pub entry: u64,
    pub path: Box<[u8]>,
}

/// Takes notes from writers of what was left out.
pub(crate) trait Notes: Send + Sync + std::fmt::Debug {
    fn xattr(&self, path: &[u8], name: &[u8], why: &'static str);
}

pub(crate) const CREATE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

pub(crate) fn timestamps(t: Time) -> Timestamps {
    let t = Timespec {
        tv_sec: t.secs,
        tv_nsec: i64::from(t.nanos),
    };
    Timestamps {
        last_access: t,
        last_modification: t,
    }
}

pub(crate) fn owner(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

impl FileMeta {
    fn host(&self, doing: &str, e: impl Into<std::io::Error>) -> Error {
        self.place(Error::host(format!("{doing} `{}`", show(&self.path)), e))
    }

    pub(super) fn place(&self, e: Error) -> Error {
        e.at_entry(self.entry, &self.path)
    }

    /// Whether all but size and time comes with the creation itself, given a umask of 0.
    ///
    /// Never with a set-id bit: without `CAP_FSETID` the first write takes it away again.
    pub(super) fn is_plain(&self, dir: &Dir) -> bool {
        self.owner.is_none() && self.xattrs.is_none() && !dir.default_acl && self.mode & 0o6000 == 0
    }

    /// The mode to create with: no more than the owner's until an owner or attributes are set.
    pub(super) fn create_mode(&self, dir: &Dir) -> Mode {
        Mode::from_raw_mode(if self.is_plain(dir) { self.mode } else { 0o600 })
    }

    /// Owner, attributes and mode, in the order in which none undoes another.
    fn apply(&self, fd: &OwnedFd, dir: &Dir, mode_is_set: bool) -> Result<()> {
        if let Some((uid, gid)) = self.owner {
            let (uid, gid) = owner(uid, gid);
            fs::fchown(fd, uid, gid).map_err(|e| self.host("set the owner of", e))?;
        }
        if dir.default_acl {
            attrs::drop_acls(fd.as_fd());
        }
        if let Some(xattrs) = &self.xattrs {
            let mut note = |name: &[u8], why| self.notes.xattr(&self.path, name, why);
            attrs::apply_xattrs(fd.as_fd(), xattrs, &mut note).map_err(|e| self.place(e))?;
        }
        if !mode_is_set || !self.is_plain(dir) {
            fault::point("chmod").map_err(|e| self.host("set the mode of", e))?;
            let mode = Mode::from_raw_mode(self.mode);
            fs::fchmod(fd, mode).map_err(|e| self.host("set the mode of", e))?;
        }
        Ok(())
    }

    /// The time, once nothing more is written.
    fn apply_time(&self, fd: &OwnedFd) -> Result<()> {
        fault::point("utimens").map_err(|e| self.host("set the time of", e))?;
        fs::futimens(fd, &timestamps(self.mtime)).map_err(|e| self.host("set the time of", e))
    }
}

/// What creating a name found.
pub(super) enum Created {
    File(OwnedFd),
    /// A directory is in the way.
    DirInTheWay,
}

/// Creates `name`, replacing whatever is there unless it is a directory.
pub(super) fn create(dir: &Dir, name: &[u8], meta: &FileMeta, batch: &Batch) -> Result<Created> {
    loop {
        fault::point("create").map_err(|e| meta.host("create", e))?;
        match fs::openat(dir, name, CREATE, meta.create_mode(dir)) {
            Ok(fd) => return Ok(Created::File(fd)),
            Err(Errno::EXIST) => match unlink(dir, name) {
                Ok(true) => batch.replace(),
                Ok(false) => return Ok(Created::DirInTheWay),
                Err(e) => return Err(meta.host("replace", e)),
            },
            Err(e) => return Err(meta.host("create", e)),
        }
    }
}

/// Removes what is not a directory; false if it is one.
pub(crate) fn unlink(dir: &Dir, name: &[u8]) -> Result<bool, Errno> {
    fault::point("unlink").map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        // POSIX's errno for directories, which some file systems give.
        Err(Errno::PERM) => match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(st) if fs::FileType::from_raw_mode(st.st_mode) == fs::FileType::Directory => {
                Ok(false)
            }
            _ => Err(Errno::PERM),
        },
        Err(e) => Err(e),
    }
}

fn write_at(fd: &OwnedFd, mut at: u64, mut bytes: &[u8], meta: &FileMeta) -> Result<()> {
    while !bytes.is_empty() {
        fault::point("write").map_err(|e| meta.host("write", e))?;
        match rustix::io::pwrite(fd, bytes, at) {
            Ok(0) => return Err(meta.host("write", Errno::IO)),
            Ok(n) => {
                at += n as u64;
                bytes = &bytes[n..];
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(meta.host("write", e)),
        }
    }
    Ok(())
}

/// Writes a whole small file. `Err` with the job if a directory is in its way.
pub(super) fn write_file(job: FileJob, mode_is_set: bool) -> Result<Result<u64, FileJob>> {
    let FileJob {
        dir,
        name,
        meta,
        size,
        body,
        ..
    } = &job;
    let fd = match create(dir, name, meta, &job.batch)? {
        Created::File(fd) => fd,
        Created::DirInTheWay => return Ok(Err(job)),
    };
    let mut end = 0;
    for (at, bytes) in body {
        write_at(&fd, *at, bytes, meta)?;
        end = at + bytes.len() as u64;
    }
    if end < *size {
        fs::ftruncate(&fd, *size).map_err(|e| meta.host("set the size of", e))?;
    }
    // After the writes: writing clears capabilities and setuid bits.
    meta.apply(&fd, dir, mode_is_set)?;
    meta.apply_time(&fd)?;
    Ok(Ok(end))
}

/// A large file that is written while its bytes arrive, by one writer at a time.
#[derive(Debug)]
pub(crate) struct Stream {
    fd: OwnedFd,
    dir: Arc<Dir>,
    meta: FileMeta,
    size: u64,
    state: Mutex<StreamState>,
    batch: Arc<Batch>,
}

#[derive(Debug, Default)]
struct StreamState {
    chunks: VecDeque<(u64, Bytes)>,
    /// A writer has it, or it is in the queue.
    scheduled: bool,
    ended: bool,
}

impl Stream {
    /// Creates the file. `None` if a directory is in its way.
    pub(crate) fn create(
        dir: &Arc<Dir>,
        name: &[u8],
        meta: FileMeta,
        size: u64,
        batch: &Arc<Batch>,
    ) -> Result<Result<Arc<Self>, FileMeta>> {
        let fd = match create(dir, name, &meta, batch)? {
            Created::File(fd) => fd,
            Created::DirInTheWay => return Ok(Err(meta)),
        };
        batch.begin(1);
        Ok(Ok(Arc::new(Self {
            fd,
            dir: dir.clone(),
            meta,
            size,
            state: Mutex::default(),
            batch: batch.clone(),
        })))
    }

    /// Adds bytes to be written at `at`.
    pub(crate) fn push(self: &Arc<Self>, at: u64, bytes: Bytes, writers: &Writers) -> Result<()> {
        self.change(writers, |state| state.chunks.push_back((at, bytes)))
    }

    /// No more bytes come: the file is completed by whoever writes the last ones.
    pub(crate) fn end(self: &Arc<Self>, writers: &Writers) -> Result<()> {
        self.change(writers, |state| state.ended = true)
    }

    fn change(
        self: &Arc<Self>,
        writers: &Writers,
        change: impl FnOnce(&mut StreamState),
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let idle = !mem::replace(&mut state.scheduled, true);
        drop(state);
        if idle {
            writers.submit(Work::Stream(self.clone()))
        } else {
            Ok(())
        }
    }

    /// Writes what waits, and completes the file at its end. Returns the bytes written.
    pub(super) fn run(&self) -> u64 {
        let mut bytes = 0;
        loop {
            while let Some((at, chunk)) = self.next_chunk() {
                bytes += self.write(at, &chunk);
            }
            if self.settle() {
                return bytes;
            }
        }
    }

    /// Takes the next bytes to write. Only for the writer that has the stream.
    pub(super) fn next_chunk(&self) -> Option<(u64, Bytes)> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .chunks
            .pop_front()
    }

    /// Gives the stream up when nothing waits, and completes the file if it has ended. False if
    /// bytes came meanwhile.
    pub(super) fn settle(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.chunks.is_empty() {
            return false;
        }
        state.scheduled = false;
        let ended = state.ended;
        drop(state);
        if ended {
            if !self.failed()
                && let Err(e) = guarded(|| self.complete())
            {
                self.batch.fail(e);
            }
            self.batch.done(1);
        }
        true
    }

    /// Writes `bytes` unless the layer has failed. Returns how many were written.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> u64 {
        if self.failed() {
            return 0;
        }
        match guarded(|| write_at(&self.fd, at, bytes, &self.meta)) {
            Ok(()) => bytes.len() as u64,
            Err(e) => {
                self.batch.fail(e);
                0
            }
        }
    }

    pub(super) fn failed(&self) -> bool {
        self.batch.failed()
    }

    pub(super) fn raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.fd)
    }

    fn complete(&self) -> Result<()> {
        if self.size > 0 {
            // Also where the last segment is a hole.
            fs::ftruncate(&self.fd, self.size).map_err(|e| self.meta.host("set the size of", e))?;
        }
        // Created by the layer's thread, whose umask is not known.
        self.meta.apply(&self.fd, &self.dir, false)?;
        self.meta.apply_time(&self.fd)
    }
}
