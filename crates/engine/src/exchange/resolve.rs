//! Source and destination of a copy, found and opened.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat, openat2, readlinkat},
    io::Errno,
};
use unlade_graph::walk::{DIRECTORY, show};

use super::words::{Asked, There, clean};
use crate::{
    error::{Error, Kind, Result},
    tarball::HANDLE,
};

/// Links that are followed to a destination which is not there.
const MOST_LINKS: usize = 10;
/// How often a walk is tried again that somebody's renames have disturbed.
const TRIES: usize = 64;

/// What is copied.
#[derive(Debug)]
pub(crate) struct Source {
    /// It, opened without any effect; a link is itself, unless it was to be followed.
    pub(crate) handle: OwnedFd,
    /// How it was asked for.
    pub(crate) asked: Asked,
    pub(crate) is_dir: bool,
}

/// What is copied to.
#[derive(Debug)]
pub(crate) struct Dest {
    /// Where it is, links at its end followed.
    pub(crate) asked: Asked,
    /// What is there.
    pub(crate) there: There,
    /// The directory that it is, or else the one that it is in.
    pub(crate) dir: OwnedFd,
}

impl Dest {
    /// Whether a directory is there.
    pub(crate) fn is_dir(&self) -> bool {
        self.there == There::Dir
    }

    /// Its path for a message.
    pub(crate) fn shown(&self) -> String {
        show(&self.asked.path)
    }
}

/// Opens `path` inside `root`: no link, and no `..`, leads out of it, and the links of procfs lead
/// nowhere.
pub(crate) fn open_in(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let below = path
        .iter()
        .position(|b| *b != b'/')
        .map_or(&b"."[..], |at| &path[at..]);
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(root, below, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < TRIES => tries += 1,
            opened => return opened,
        }
    }
}

/// File systems that the kernel makes as they are read: proc, sysfs, cgroup v1 and v2.
const MADE: [i64; 4] = [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270];
/// Those in memory: tmpfs, ramfs, devpts, mqueue, bpf, debugfs, tracefs, securityfs.
const MEMORY: [i64; 8] = [
    0x0102_1994,
    0x8584_58f6,
    0x1cd1,
    0x1980_0202,
    0xcafe_4a11,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
];

#[allow(
    clippy::useless_conversion,
    reason = "the type of the number differs between architectures"
)]
fn is_one_of(handle: BorrowedFd<'_>, kinds: &[i64]) -> bool {
    fstatfs(handle).is_ok_and(|fs| i64::try_from(fs.f_type).is_ok_and(|t| kinds.contains(&t)))
}

/// Whether it is made by the kernel as it is read, so that there is nothing to copy.
pub(crate) fn is_kernel_made(handle: BorrowedFd<'_>) -> bool {
    is_one_of(handle, &MADE)
}

/// Whether it is in a file system of the kernel's or in memory, and not in that of `top`.
pub(crate) fn is_of_memory(handle: BorrowedFd<'_>, top: BorrowedFd<'_>) -> bool {
    (is_one_of(handle, &MADE) || is_one_of(handle, &MEMORY))
        && match (fstat(handle), fstat(top)) {
            (Ok(a), Ok(b)) => a.st_dev != b.st_dev,
            _ => true,
        }
}

/// How the source is opened: a link at its end is followed only where that was asked for.
fn flags(asked: &Asked, follow: bool) -> OFlags {
    if follow || asked.dir {
        HANDLE.difference(OFlags::NOFOLLOW)
    } else {
        HANDLE
    }
}

fn source(asked: Asked, opened: Result<OwnedFd, Errno>, missing: Error) -> Result<Source> {
    let handle = match opened {
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing),
        opened => opened.map_err(|e| failed(&asked.path, e))?,
    };
    let is_dir = is_dir(&handle, &asked.path)?;
    if asked.dir && !is_dir {
        let m = format!("stat {}/: not a directory", show(&asked.path));
        return Err(Error::new(Kind::BadInput, m).with_hint("leave the slash at its end away"));
    }
    Ok(Source {
        handle,
        asked,
        is_dir,
    })
}

/// What is copied out of a root; `name` is the container's.
pub(crate) fn source_in_root(
    root: BorrowedFd<'_>,
    path: &[u8],
    follow: bool,
    name: &str,
) -> Result<Source> {
    let asked = Asked::new(path, b"");
    let missing = no_file(&asked.path, name);
    let opened = open_in(root, &asked.path, flags(&asked, follow));
    if opened.as_ref().is_ok_and(|h| is_kernel_made(h.as_fd())) {
        return Err(missing.with_hint("the kernel makes it as it is read: nothing can be copied"));
    }
    source(asked, opened, missing)
}

/// What is copied from this machine.
pub(crate) fn source_on_host(path: &[u8], follow: bool) -> Result<Source> {
    let asked = Asked::new(path, &cwd()?);
    let missing = Error::new(
        Kind::NotFound,
        format!("lstat {}: no such file or directory", show(&asked.path)),
    );
    let opened = openat(CWD, &*asked.path, flags(&asked, follow), Mode::empty());
    source(
        asked,
        opened,
        missing.with_hint("name a file that is there"),
    )
}

fn no_file(path: &[u8], name: &str) -> Error {
    let m = format!("Could not find the file {} in container {name}", show(path));
    Error::new(Kind::NotFound, m).with_hint("paths in a container begin at its root")
}

/// What is copied to in a root.
pub(crate) fn dest_in_root(root: BorrowedFd<'_>, path: &[u8], name: &str) -> Result<Dest> {
    let find = |path: &[u8], flags| open_in(root, path, flags);
    let asked = Asked::new(path, b"");
    let dest = dest(asked, &find, &|path| no_file(path, name), &|path| {
        format!("destination \"{name}:{}\"", show(path))
    })?;
    if is_kernel_made(dest.dir.as_fd()) {
        return Err(no_file(&dest.asked.path, name).with_hint("the kernel makes what is there"));
    }
    Ok(dest)
}

/// What is copied to on this machine.
pub(crate) fn dest_on_host(path: &[u8]) -> Result<Dest> {
    let asked = Asked::new(path, &cwd()?);
    let find = |path: &[u8], flags| openat(CWD, path, flags, Mode::empty());
    let missing = |path: &[u8]| {
        let above = Asked::new(path, b"");
        let m = format!(
            "invalid output path: directory \"{}\" does not exist",
            show(above.parent())
        );
        Error::new(Kind::NotFound, m).with_hint("make it first: mkdir")
    };
    dest(asked, &find, &missing, &|path| {
        format!("invalid output path: \"{}\"", show(path))
    })
}

/// Opens a path; the flags say how.
type Find<'a> = &'a dyn Fn(&[u8], OFlags) -> Result<OwnedFd, Errno>;

fn dest(
    mut asked: Asked,
    find: Find<'_>,
    missing: &dyn Fn(&[u8]) -> Error,
    named: &dyn Fn(&[u8]) -> String,
) -> Result<Dest> {
    let host = |path: &[u8]| {
        let path = path.to_vec();
        move |e: Errno| failed(&path, e)
    };
    for _ in 0..=MOST_LINKS {
        let handle = match find(&asked.path, HANDLE) {
            Err(Errno::NOENT) => {
                let dir = above(&asked, find, missing)?;
                return Ok(Dest {
                    asked,
                    there: There::Nothing,
                    dir,
                });
            }
            Err(Errno::NOTDIR) => return Err(missing(&asked.path)),
            opened => opened.map_err(host(&asked.path))?,
        };
        let stat = fstat(&handle).map_err(host(&asked.path))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let dir = openat(&handle, c".", DIRECTORY, Mode::empty());
                let dir = dir.map_err(host(&asked.path))?;
                return Ok(Dest {
                    asked,
                    there: There::Dir,
                    dir,
                });
            }
            FileType::Symlink => {
                let target = readlinkat(&handle, c"", Vec::new()).map_err(host(&asked.path))?;
                let target = target.as_bytes();
                let path = if target.starts_with(b"/") {
                    clean(target)
                } else {
                    clean(&[asked.parent(), b"/", target].concat())
                };
                asked.path = path;
            }
            FileType::RegularFile if !asked.dir => {
                let dir = above(&asked, find, missing)?;
                return Ok(Dest {
                    asked,
                    there: There::Other,
                    dir,
                });
            }
            FileType::RegularFile => return Err(not_a_directory(&asked)),
            kind => {
                let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
                let m = format!(
                    "{} must be a directory or a regular file{}",
                    named(&asked.path),
                    if device { ": got a device" } else { "" }
                );
                return Err(Error::new(Kind::BadInput, m).with_hint("nothing is written into it"));
            }
        }
    }
    let m = format!("too many symlinks in {}", show(&asked.path));
    Err(Error::new(Kind::BadInput, m).with_hint("name what they lead to"))
}

/// The directory that a destination is in.
fn above(asked: &Asked, find: Find<'_>, missing: &dyn Fn(&[u8]) -> Error) -> Result<OwnedFd> {
    match find(asked.parent(), DIRECTORY.difference(OFlags::NOFOLLOW)) {
        Err(Errno::NOENT | Errno::NOTDIR) => Err(missing(&asked.path)),
        opened => opened.map_err(|e| failed(asked.parent(), e)),
    }
}

fn failed(path: &[u8], e: Errno) -> Error {
    let hint = match e {
        Errno::LOOP => "its links lead in a circle, or to what only the kernel can follow",
        Errno::AGAIN => "somebody keeps renaming what leads there: try again",
        Errno::NAMETOOLONG => "go there by a shorter path",
        _ => "may it be read?",
    };
    Error::host(format!("open `{}`", show(path)), e).with_hint(hint)
}

fn not_a_directory(asked: &Asked) -> Error {
    Error::new(
        Kind::BadInput,
        format!("`{}` is not a directory", show(&asked.path)),
    )
    .with_hint("leave the slash at its end away to replace the file")
}

fn is_dir(handle: &OwnedFd, path: &[u8]) -> Result<bool> {
    let stat = fstat(handle).map_err(|e| Error::host(format!("look at `{}`", show(path)), e))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn cwd() -> Result<Vec<u8>> {
    let dir = std::env::current_dir().map_err(|e| Error::host("find the current directory", e))?;
    let dir: &Path = &dir;
    let text: &OsStr = dir.as_os_str();
    Ok(text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    struct Tree(tempfile::TempDir, OwnedFd);

    fn tree() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/passwd"), b"inside").unwrap();
        fs::write(dir.path().join("secret"), b"outside").unwrap();
        symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
        symlink("../secret", root.join("relative")).unwrap();
        symlink("../../../../../../..", root.join("up")).unwrap();
        symlink("etc", root.join("conf")).unwrap();
        symlink("/etc/new", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = openat(CWD, &root, DIRECTORY, Mode::empty()).unwrap();
        Tree(dir, fd)
    }

    fn text(e: &Error) -> String {
        e.to_string()
    }

    #[test]
    fn sources_stay_in_the_root() {
        let Tree(_dir, root) = tree();
        let find = |path: &str, follow| source_in_root(root.as_fd(), path.as_bytes(), follow, "c");
        assert!(!find("/etc/passwd", false).unwrap().is_dir);
        assert!(find("up/etc", false).unwrap().is_dir);
        assert_eq!(find("conf/", false).unwrap().asked.top(), b"conf");
        // A link is itself; followed, it leads to nothing.
        for name in ["absolute", "relative"] {
            assert!(find(name, false).is_ok());
            let e = find(name, true).unwrap_err();
            assert_eq!(
                text(&e),
                format!("Could not find the file /{name} in container c")
            );
        }
        assert!(find("nothing", false).is_err());
        let e = find("etc/passwd/", false).unwrap_err();
        assert!(text(&e).contains("ot a directory"), "{e}");
        let e = find("loop/x", false).unwrap_err();
        assert!(text(&e).contains("open `/loop/x`"), "{e}");
    }

    #[test]
    fn destinations_stay_in_the_root() {
        let Tree(dir, root) = tree();
        let find = |path: &str| dest_in_root(root.as_fd(), path.as_bytes(), "c");
        let ino = |fd: &OwnedFd| fstat(fd).unwrap().st_ino;
        let of = |path: &str| {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(dir.path().join(path)).unwrap().ino()
        };
        let up = find("up").unwrap();
        assert_eq!((up.there, ino(&up.dir)), (There::Dir, of("root")));
        let file = find("/conf/passwd").unwrap();
        assert_eq!((file.there, ino(&file.dir)), (There::Other, of("root/etc")));
        let new = find("dangling").unwrap();
        assert_eq!((new.there, ino(&new.dir)), (There::Nothing, of("root/etc")));
        assert_eq!(new.asked.base(), b"new");
        // The link's target is not in the root, and neither is the directory that it names.
        assert!(find("absolute").is_err());
        let relative = find("relative").unwrap();
        assert_eq!(
            (relative.there, ino(&relative.dir)),
            (There::Nothing, of("root"))
        );
        assert!(text(&find("a/b").unwrap_err()).contains("Could not find the file /a/b"));
        assert!(find("loop").is_err());
        assert!(find("etc/passwd/").is_err());
        assert!(find("etc/passwd/x").is_err());
    }
}
