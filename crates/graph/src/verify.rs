//! Compares a tree with the records that were kept when it was made, so that damage is found
//! years later without the blobs that it came from.

use std::{collections::BTreeMap, io::Read, os::fd::BorrowedFd};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat, fstat, openat, readlinkat},
    io::Errno,
};
use unlade_unpack::{
    Error, Kind, Result,
    record::{Recorded, RecordedKind, read_over},
};

use crate::{
    driver::Finding,
    walk::{self, Found, show},
};

/// Paths of a tree as they were recorded.
pub(crate) type Paths = BTreeMap<Box<[u8]>, Recorded>;

/// Reads the record `name` in `dir` over `paths`; the finding if it is of no use.
///
/// # Errors
/// If the host refuses.
pub(crate) fn read(dir: BorrowedFd<'_>, name: &str, paths: &mut Paths) -> Result<Option<Finding>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => std::fs::File::from(fd),
        Err(Errno::NOENT) => return Ok(Some(of_layer("its record of files is gone"))),
        Err(e) => return Err(Error::host("open a layer's record", e)),
    };
    match read_over(paths, file) {
        Ok(()) => Ok(None),
        Err(e) if e.kind() == Kind::Integrity || is_damage(&e) => {
            Ok(Some(of_layer("its record of files is damaged")))
        }
        Err(e) => Err(e),
    }
}

/// A finding that is of the layer itself.
pub(crate) fn of_layer(what: &str) -> Finding {
    Finding {
        path: Vec::new(),
        what: what.to_owned(),
    }
}

/// Compares a tree with what was recorded of it. With `also_others` it may have files that no
/// record knows of: those that a layer copied from others.
///
/// # Errors
/// If the host refuses; what cannot be read for damage is a finding.
pub(crate) fn compare(
    root: BorrowedFd<'_>,
    mut want: Paths,
    also_others: bool,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let owners = rustix::process::geteuid().is_root() && !unlade_unpack::only_own_id();
    let top = fstat(root).map_err(|e| Error::host("look at a layer", e))?;
    if let Some(then) = want.remove(b"".as_slice())
        && let Some(what) = differs(&then, &top, owners)
    {
        findings.push(of_layer(what));
    }
    walk::walk(root, |found| {
        let what = match want.remove(found.path) {
            Some(then) if then.kind == RecordedKind::LowerLink => None,
            Some(then) => match differs(&then, found.stat, owners) {
                Some(what) => Some(what.to_owned()),
                None => content_differs(&then, found)?,
            },
            // Directories on the way to a listed path, and overlayfs's whiteouts.
            None if also_others
                || found.kind() == FileType::Directory
                || walk::is_whiteout(found.stat) =>
            {
                None
            }
            None => Some("it was not there when the layer was made".to_owned()),
        };
        if let Some(what) = what {
            findings.push(Finding {
                path: found.path.to_vec(),
                what,
            });
        }
        Ok(())
    })?;
    let is_device = |then: &Recorded| matches!(then.kind, RecordedKind::Char | RecordedKind::Block);
    let devices = may_make_devices();
    let gone = want
        .into_iter()
        .filter(|(_, then)| devices || !is_device(then));
    findings.extend(gone.map(|(path, _)| Finding {
        path: path.into(),
        what: "it is gone".to_owned(),
    }));
    Ok(findings)
}

/// Whether the devices of layers are made, or left out: for ordinary users, and for root of a user
/// namespace.
fn may_make_devices() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial = map.split_whitespace().eq(["0", "0", "4294967295"]);
    initial && rustix::process::geteuid().is_root()
}

/// How what is there now differs in its attributes.
fn differs(then: &Recorded, now: &Stat, owners: bool) -> Option<&'static str> {
    let kind = match then.kind {
        RecordedKind::File => FileType::RegularFile,
        RecordedKind::Dir => FileType::Directory,
        RecordedKind::Symlink => FileType::Symlink,
        RecordedKind::Char => FileType::CharacterDevice,
        RecordedKind::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let size = u64::try_from(now.st_size).unwrap_or(0);
    let sized = matches!(then.kind, RecordedKind::File | RecordedKind::Symlink);
    // Links have no mode of their own.
    let moded = then.kind != RecordedKind::Symlink;
    let nanos = u32::try_from(now.st_mtime_nsec).unwrap_or(0);
    // A time that no file system of ours holds exactly was set as near as it could be.
    let timed = i32::try_from(then.mtime.secs).is_ok();
    let checks = [
        (
            FileType::from_raw_mode(now.st_mode) != kind,
            "its type has changed",
        ),
        (sized && size != then.size, "its size has changed"),
        (
            moded && now.st_mode & 0o7777 != then.mode & 0o7777,
            "its mode has changed",
        ),
        (
            owners && (now.st_uid, now.st_gid) != (then.uid, then.gid),
            "its owner has changed",
        ),
        (
            timed && (now.st_mtime, nanos) != (then.mtime.secs, then.mtime.nanos),
            "its time has changed",
        ),
    ];
    checks.into_iter().find(|(wrong, _)| *wrong).map(|c| c.1)
}

fn content_differs(then: &Recorded, found: &Found<'_>) -> Result<Option<String>> {
    match content(then, found) {
        Ok(hash) if hash == then.blake3 => Ok(None),
        Ok(_) => Ok(Some("its content has changed".to_owned())),
        // Bad sectors and failed checksums.
        Err(e) if is_damage(&e) => Ok(Some("it cannot be read".to_owned())),
        Err(e) => Err(e),
    }
}

fn is_damage(e: &Error) -> bool {
    [Errno::IO, Errno::BADMSG, Errno::UCLEAN]
        .iter()
        .any(|errno| e.raw_os_error() == Some(errno.raw_os_error()))
}

/// Digest of what a name holds, as records have it.
fn content(then: &Recorded, found: &Found<'_>) -> Result<[u8; 32]> {
    let host = |e: std::io::Error| Error::host(format!("read `{}`", show(found.path)), e);
    match then.kind {
        RecordedKind::File => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd =
                openat(found.dir, found.name, flags, Mode::empty()).map_err(|e| host(e.into()))?;
            let mut hasher = blake3::Hasher::new();
            let mut file = std::fs::File::from(fd);
            let size = usize::try_from(then.size).unwrap_or(usize::MAX);
            let mut buffer = vec![0; size.clamp(1, 256 << 10)];
            loop {
                match file.read(&mut buffer).map_err(host)? {
                    0 => return Ok(*hasher.finalize().as_bytes()),
                    n => hasher.update(&buffer[..n]),
                };
            }
        }
        RecordedKind::Symlink => {
            let target =
                readlinkat(found.dir, found.name, Vec::new()).map_err(|e| host(e.into()))?;
            Ok(*blake3::hash(target.as_bytes()).as_bytes())
        }
        _ => Ok([0; 32]),
    }
}
