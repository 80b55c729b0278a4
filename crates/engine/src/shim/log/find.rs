//! The files of a log, found while they are written, rotated and compressed.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use flate2::bufread::GzDecoder;

use super::{
    MAX_FILES,
    files::{older, packed},
    pack::Origin,
};
use crate::shim::LogFile;

/// How often files are looked for again that were rotated while they were looked for.
const TRIES: u32 = 100;

/// A file that is, or will be, read.
pub(super) struct Open {
    pub(super) path: PathBuf,
    pub(super) file: File,
    id: (u64, u64),
    packed: bool,
    /// The plain file that this one was.
    origin: Option<Origin>,
    reader: Option<Box<dyn BufRead>>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Open").field(&self.path).finish()
    }
}

impl Open {
    fn at(path: PathBuf, packed: bool) -> io::Result<Option<Self>> {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let meta = file.metadata()?;
        Ok(Some(Self {
            path,
            id: (meta.dev(), meta.ino()),
            origin: packed.then(|| Origin::named_in(&file)).flatten(),
            packed,
            file,
            reader: None,
        }))
    }

    /// Whether both have the same lines: one may be the other compressed.
    fn is(&self, other: &Self) -> bool {
        let origin = |o: &Self| match o.packed {
            true => o.origin,
            // What is compressed is not written any more.
            false => o.file.metadata().ok().map(|m| Origin::of(&m)),
        };
        self.id == other.id
            || (self.packed || other.packed)
                && origin(self).is_some_and(|own| origin(other) == Some(own))
    }

    pub(super) fn is_packed(&self) -> bool {
        self.packed
    }

    /// What is in it, from the place that `file` is at.
    pub(super) fn reader(&mut self) -> io::Result<&mut dyn BufRead> {
        if self.reader.is_none() {
            let file = BufReader::new(self.file.try_clone()?);
            self.reader = Some(if self.packed {
                Box::new(BufReader::new(GzDecoder::new(file)))
            } else {
                Box::new(file)
            });
        }
        match &mut self.reader {
            Some(reader) => Ok(reader),
            None => Err(io::ErrorKind::Other.into()),
        }
    }

    /// Begins again.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.reader = None;
        self.file.seek(SeekFrom::Start(0)).map(drop)
    }

    /// Reads no more of it.
    pub(super) fn give_up(&mut self) {
        self.reader = Some(Box::new(io::empty()));
    }

    /// Whether that says that it is damaged.
    pub(super) fn damaged(&self, e: &io::Error) -> bool {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        self.packed && matches!(e.kind(), InvalidData | InvalidInput | UnexpectedEof)
    }
}

/// Opens the files that are newer than `known`, the oldest first.
pub(super) fn newer(settings: &LogFile, known: Option<&Open>) -> io::Result<VecDeque<Open>> {
    for _ in 0..TRIES {
        let (new, whole) = look(settings, known)?;
        if whole {
            return Ok(new);
        }
    }
    Ok(look(settings, known)?.0)
}

/// Looks for them from the newest to the oldest. Files only ever go on in that order, so none is
/// missed, and one that is met twice is known by its number. The second result is false if newer
/// ones than that came in between.
fn look(settings: &LogFile, known: Option<&Open>) -> io::Result<(VecDeque<Open>, bool)> {
    let mut new: VecDeque<Open> = VecDeque::new();
    let mut whole = true;
    for n in 0..settings.max_files.clamp(1, MAX_FILES) {
        let Some(open) = at(settings, n)? else {
            // Between a rename and the next line there is no newest file, and a shim that was
            // killed while it renamed may have left a gap.
            continue;
        };
        if known.is_some_and(|k| k.is(&open)) {
            break;
        }
        match new.iter().position(|o| o.is(&open)) {
            None => new.push_front(open),
            Some(place) => whole &= place == 0,
        }
    }
    Ok((new, whole))
}

fn at(settings: &LogFile, n: u32) -> io::Result<Option<Open>> {
    let path: &Path = &settings.path;
    if n == 0 {
        return Open::at(path.to_owned(), false);
    }
    match Open::at(older(path, n), false)? {
        None if settings.compress => Open::at(packed(path, n), true),
        open => Ok(open),
    }
}
