//! Compresses a log's full file, by a process of its own: a shim has no memory for it, and must not
//! wait. That process gets an empty file without a name to write to, and says when all is on the
//! disk; then the shim gives it its name and removes the plain one. So whoever is killed, there is
//! the plain file, or the compressed one, or for a moment both, which readers know for one.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileExt, MetadataExt},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, ExitCode},
};

use flate2::{Compression, GzBuilder};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, futimens, linkat},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

use crate::sys;

/// The word by which the shim's program does this.
pub(in crate::shim) const WORD: &str = "compress-log";
/// What it says when it is done.
const DONE: &[u8] = b".";
/// How much less it is worth than other work, as nice(1) counts.
const NICE: i32 = 19;

/// Which file was compressed: it stands in the header of the compressed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    ino: u64,
    len: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Origin {
    /// Bytes of the header up to the origin's own: gzip's, the length of what is extra, a tag and
    /// its length.
    const BEFORE: usize = 16;
    const LEN: u8 = 32;

    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            ino: meta.ino(),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }

    fn extra(self) -> Vec<u8> {
        let mut out = b"UL".to_vec();
        out.extend([Self::LEN, 0]);
        for n in [self.ino, self.len] {
            out.extend(n.to_le_bytes());
        }
        for n in [self.modified.0, self.modified.1] {
            out.extend(n.to_le_bytes());
        }
        out
    }

    /// The one that a compressed file names; `None` for one that is not ours.
    pub(super) fn named_in(file: &File) -> Option<Self> {
        let mut head = [0; Self::BEFORE + Self::LEN as usize];
        file.read_exact_at(&mut head, 0).ok()?;
        let number = |n: usize| -> Option<[u8; 8]> {
            let at = Self::BEFORE + 8 * n;
            head[at..at + 8].try_into().ok()
        };
        let ours = head[..3] == [0x1f, 0x8b, 8] && head[3] & 4 != 0 && head[12..14] == *b"UL";
        ours.then_some(Self {
            ino: u64::from_le_bytes(number(0)?),
            len: u64::from_le_bytes(number(1)?),
            modified: (
                i64::from_le_bytes(number(2)?),
                i64::from_le_bytes(number(3)?),
            ),
        })
    }
}

/// A file that is being compressed.
#[derive(Debug)]
pub(super) struct Packing {
    /// Which one before the newest it is by now.
    pub(super) number: u32,
    origin: Origin,
    out: OwnedFd,
    says: OwnedFd,
}

impl Packing {
    pub(super) fn start(plain: &Path, number: u32) -> io::Result<Self> {
        let input = File::open(plain)?;
        let origin = Origin::of(&input.metadata()?);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let dir = plain.parent().unwrap_or(Path::new("."));
        let out = rustix::fs::open(dir, flags, Mode::from(0o640))?;
        let (says, words) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("unlade-shim").arg(WORD);
        command.stdin(input).stdout(out.try_clone()?).stderr(words);
        sys::die_with_parent(&mut command);
        // The shim's loop reaps it.
        command.spawn()?;
        Ok(Self {
            number,
            origin,
            out,
            says,
        })
    }

    pub(super) fn waits_for(&self) -> BorrowedFd<'_> {
        self.says.as_fd()
    }

    /// Whether all is written; `None` if it is still at it.
    pub(super) fn done(&self) -> Option<bool> {
        let mut word = [0; 2];
        match rustix::io::read(&self.says, &mut word) {
            Ok(n) => Some(word[..n] == *DONE),
            Err(Errno::AGAIN | Errno::INTR) => None,
            Err(_) => Some(false),
        }
    }

    /// Puts it in the place of the plain file, unless that is another one by now.
    pub(super) fn put(&self, plain: &Path, packed: &Path) -> io::Result<()> {
        if Origin::of(&fs::metadata(plain)?) != self.origin {
            return Err(Errno::STALE.into());
        }
        let from = format!("/proc/self/fd/{}", self.out.as_raw_fd());
        let link = || linkat(CWD, &*from, CWD, packed, AtFlags::SYMLINK_FOLLOW);
        match link() {
            // Left by a shim that was killed before it had removed the plain one.
            Err(Errno::EXIST) => {
                fs::remove_file(packed)?;
                link()?;
            }
            done => done?,
        }
        fs::remove_file(plain)
    }
}

/// The process that compresses standard input to standard output, both files.
pub(in crate::shim) fn main() -> ExitCode {
    sys::close_inherited();
    let _ = rustix::process::nice(NICE);
    let file = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from);
    let done = file(io::stdin().as_fd())
        .and_then(|input| pack(&input, &file(io::stdout().as_fd())?))
        .and_then(|()| io::stderr().write_all(DONE));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

pub(super) fn pack(input: &File, out: &File) -> io::Result<()> {
    let meta = input.metadata()?;
    if !meta.is_file() || !out.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut encoder = GzBuilder::new()
        .mtime(u32::try_from(meta.mtime()).unwrap_or(0))
        .extra(Origin::of(&meta).extra())
        .write(out, Compression::default());
    io::copy(&mut input.take(meta.len()), &mut encoder)?;
    encoder.finish()?;
    let time = Timespec {
        tv_sec: meta.mtime(),
        tv_nsec: meta.mtime_nsec(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    futimens(out, &times)?;
    out.sync_all()
}
