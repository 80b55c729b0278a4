//! A tar put into a tree that is there already.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use rustix::{
    fs::{AtFlags, FileType, OFlags, statat},
    io::Errno,
};
use unlade_graph::walk::{join, show};
use unlade_unpack::{
    Applied, DirOptions, DirSink, Error, Kind, Owners, Result, Sink, Unpacker, Want, Whiteouts,
    entry::{Entry, EntryKind, split},
};

use super::resolve::open_in;

/// Whose the files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// As the tar says.
    Archive,
    /// The caller's.
    Caller,
    /// This user's and this group's.
    Of(u32, u32),
}

/// Puts the entries of a tar below a directory of a root. Links of directories are followed inside
/// the root; files are replaced, never written through. As in docker, a directory never takes the
/// place of something else, nor the other way round, and the directory itself stays as it is.
#[derive(Debug)]
pub(crate) struct Extract {
    sink: DirSink,
    root: OwnedFd,
    /// The directory's path, without a slash at either end.
    below: Vec<u8>,
    owner: Owner,
    /// The directory that was looked into last; `None` if it is not there.
    last: Option<(Vec<u8>, Option<OwnedFd>)>,
}

impl Extract {
    /// Into the directory `below` of `root`, which is open for reading.
    pub(crate) fn new(
        unpacker: &Unpacker,
        root: OwnedFd,
        below: &[u8],
        owner: Owner,
    ) -> Result<Self> {
        let host = |e| Error::host("open the root to copy into", e);
        let again = root.try_clone().map_err(host)?;
        let mut options = DirOptions::default();
        options.whiteouts = Whiteouts::Keep;
        options.over_layers = true;
        options.owners = match owner {
            Owner::Caller => Owners::Caller,
            Owner::Archive | Owner::Of(..) => Owners::Archive,
        };
        Ok(Self {
            sink: unpacker.dir_sink(again, options)?,
            root,
            below: below.strip_prefix(b"/").unwrap_or(below).to_vec(),
            owner,
            last: None,
        })
    }

    /// What is at `path` now: whether it is a directory; `None` if nothing is.
    fn there(&mut self, path: &[u8]) -> Result<Option<bool>> {
        let (dir, name) = split(path);
        if self.last.as_ref().is_none_or(|(known, _)| known != dir) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = match open_in(self.root.as_fd(), dir, flags) {
                Ok(fd) => Some(fd),
                Err(Errno::NOENT | Errno::NOTDIR) => None,
                Err(e) => return Err(Error::host(format!("open `{}`", show(dir)), e)),
            };
            self.last = Some((dir.to_vec(), opened));
        }
        let Some((_, Some(dir))) = &self.last else {
            return Ok(None);
        };
        kind_at(dir.as_fd(), name).map_err(|e| Error::host(format!("look at `{}`", show(path)), e))
    }
}

fn kind_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<bool>, Errno> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(st) => Ok(Some(
            FileType::from_raw_mode(st.st_mode) == FileType::Directory,
        )),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Sink for Extract {
    fn begin(&mut self) -> Result<()> {
        self.sink.begin()
    }

    fn entry(&mut self, mut entry: Entry) -> Result<Want> {
        let dir = entry.kind == EntryKind::Dir;
        if entry.path.is_empty() && dir {
            return Ok(Want::Skip);
        }
        let at = show(&entry.path);
        entry.path = join(&self.below, &entry.path).into();
        let words = match self.there(&entry.path)? {
            Some(true) if !dir => Some(("directory", "non-directory")),
            Some(false) if dir => Some(("non-directory", "directory")),
            _ => None,
        };
        if let Some((old, new)) = words {
            let full = show(&entry.path);
            let m = format!("cannot overwrite {old} \"/{full}\" with {new} \"{at}\"");
            return Err(
                Error::new(Kind::BadInput, m).with_hint("remove it first, or copy elsewhere")
            );
        }
        if let EntryKind::HardLink { target } = &mut entry.kind {
            *target = join(&self.below, target).into();
        }
        if let Owner::Of(uid, gid) = self.owner {
            (entry.meta.uid, entry.meta.gid) = (uid, gid);
        }
        self.sink.entry(entry)
    }

    fn payload(&mut self, at: u64, bytes: Bytes) -> Result<()> {
        self.sink.payload(at, bytes)
    }

    fn end_entry(&mut self) -> Result<()> {
        self.sink.end_entry()
    }

    fn finish(&mut self) -> Result<Applied> {
        self.sink.finish()
    }

    fn abort(&mut self) {
        self.sink.abort();
    }
}
