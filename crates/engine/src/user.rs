//! Who runs this program: root, or an ordinary user, who has other directories.
//!
//! An ordinary user's commands work in namespaces of his own (see the module `rootless`) and are root
//! there: what counts is who he is outside.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::process::geteuid;

use crate::error::{Error, Kind, Result};

/// The file that says which process holds the user's namespaces, in his run directory.
pub(crate) const HOLDER: &str = "holder";

/// A user who is not root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordinary {
    /// His id on the host.
    pub uid: u32,
    /// Whether this process was started in his namespaces.
    pub inside: bool,
}

/// The user, unless it is root, as this process was started.
pub fn ordinary() -> Option<Ordinary> {
    static WHO: OnceLock<Option<Ordinary>> = OnceLock::new();
    *WHO.get_or_init(|| {
        let uid = geteuid().as_raw();
        if uid != 0 {
            return Some(Ordinary { uid, inside: false });
        }
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let outside = outside(&map).filter(|uid| *uid != 0)?;
        // Root of a namespace that somebody else has made is root.
        let dir = run_path(outside, |name| std::env::var_os(name)).ok()?;
        trusted(&dir).ok()?;
        let (_, namespace) = holder(&dir)?;
        (inode(Path::new("/proc/self/ns/user")) == Some(namespace)).then_some(Ordinary {
            uid: outside,
            inside: true,
        })
    })
}

/// What id 0 is outside.
fn outside(map: &str) -> Option<u32> {
    let first = map.lines().next()?;
    let mut words = first.split_whitespace();
    (words.next()? == "0").then(|| words.next()?.parse().ok())?
}

/// The process that holds the user's namespaces, and the number of the user namespace.
pub(crate) fn holder(dir: &Path) -> Option<(i32, u64)> {
    let text = fs::read_to_string(dir.join(HOLDER)).ok()?;
    let (pid, namespace) = text.trim().split_once(' ')?;
    Some((pid.parse().ok()?, namespace.parse().ok()?))
}

/// The number of a namespace, or of any file.
pub(crate) fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|m| m.ino())
}

/// Where an ordinary user's things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Images, layers, blobs: `$XDG_DATA_HOME/unlade`.
    pub root: PathBuf,
    /// What need not survive a reboot: `$XDG_RUNTIME_DIR/unlade`. It is his alone.
    pub run_root: PathBuf,
    /// His configuration: `$XDG_CONFIG_HOME/unlade/config.toml`.
    pub config: PathBuf,
}

impl Directories {
    /// Those of the user; the run directory is made.
    ///
    /// # Errors
    /// If `HOME` is not set, or the run directory is somebody else's.
    pub fn of(user: Ordinary, environment: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let below = |variable: &str, otherwise: &str| {
            let set = environment(variable)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute());
            let home = || {
                let home = environment("HOME")
                    .map(PathBuf::from)
                    .filter(|p| p.is_absolute());
                home.map(|home| home.join(otherwise)).ok_or_else(|| {
                    Error::new(Kind::BadInput, "HOME is not set to a whole path")
                        .with_hint(format!("set it, or {variable}"))
                })
            };
            set.map_or_else(home, Ok)
        };
        Ok(Self {
            root: below("XDG_DATA_HOME", ".local/share")?.join("unlade"),
            config: below("XDG_CONFIG_HOME", ".config")?.join("unlade/config.toml"),
            run_root: run_dir(user.uid, environment)?,
        })
    }
}

/// The user's directory for what need not survive a reboot. It is made, and refused if anybody
/// else could have made it or could write there: sockets and locks are trusted by their place.
pub(crate) fn run_dir(uid: u32, environment: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let dir = run_path(uid, environment)?;
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::host(format!("make `{}`", dir.display()), e)
                .with_hint("set XDG_RUNTIME_DIR to a directory of your own"));
        }
        _ => {}
    }
    trusted(&dir)?;
    Ok(dir)
}

/// Where that directory is, whether it is there or not.
fn run_path(uid: u32, environment: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let set = environment("XDG_RUNTIME_DIR").filter(|v| !v.is_empty());
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    match set.map(PathBuf::from) {
        Some(dir) => {
            private(&dir, 0o022).map_err(|e| {
                e.with_hint("set XDG_RUNTIME_DIR to a directory of your own, or unset it")
            })?;
            Ok(dir.join("unlade"))
        }
        None if private(&usual, 0o022).is_ok() => Ok(usual.join("unlade")),
        None => Ok(PathBuf::from(format!("/tmp/unlade-{uid}"))),
    }
}

/// Refuses a run directory that others could write to.
fn trusted(dir: &Path) -> Result<()> {
    private(dir, 0o077).map_err(|e| {
        e.with_hint(
            "somebody else may have made it: set XDG_RUNTIME_DIR to a directory of your own",
        )
    })
}

/// Refuses what is no directory of ours, or has any of these bits.
fn private(dir: &Path, bits: u32) -> Result<()> {
    let shown = dir.display();
    let meta = fs::symlink_metadata(dir)
        .map_err(|e| Error::host(format!("look at the run directory `{shown}`"), e))?;
    let what = if !dir.is_absolute() || !meta.is_dir() {
        "is no directory"
    } else if meta.uid() != geteuid().as_raw() {
        "belongs to another user"
    } else if meta.mode() & bits != 0 {
        "is open to others"
    } else {
        return Ok(());
    };
    let m = format!("the run directory `{shown}` {what}");
    Err(Error::new(Kind::Denied, m))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn what_root_is_outside() {
        assert_eq!(
            outside("         0       1000          1\n         1     100000      65536\n"),
            Some(1000)
        );
        assert_eq!((outside("5 1000 1"), outside("")), (None, None));
    }

    #[test]
    fn directories_that_are_not_the_users_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let run = |runtime: &Path| run_dir(4_000_000, |_| Some(runtime.as_os_str().to_owned()));
        fs::create_dir(at("mine")).unwrap();
        fs::set_permissions(at("mine"), fs::Permissions::from_mode(0o700)).unwrap();
        let made = run(&at("mine")).unwrap();
        assert_eq!(made, at("mine/unlade"));
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&made, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(
            run(&at("mine"))
                .unwrap_err()
                .message()
                .contains("open to others")
        );
        symlink(at("mine"), at("link")).unwrap();
        assert!(
            run(&at("link"))
                .unwrap_err()
                .message()
                .contains("no directory")
        );
        fs::set_permissions(at("mine"), fs::Permissions::from_mode(0o777)).unwrap();
        let e = run(&at("mine")).unwrap_err();
        assert_eq!((e.kind(), e.hint().is_some()), (Kind::Denied, true));
        if !geteuid().is_root() {
            assert!(
                private(Path::new("/"), 0)
                    .unwrap_err()
                    .message()
                    .contains("another user")
            );
        }
    }

    #[test]
    fn directories_by_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let user = Ordinary {
            uid: 7,
            inside: false,
        };
        let of = |pairs: &[(&str, &str)]| {
            Directories::of(user, |name| {
                let found = pairs.iter().find(|(n, _)| *n == name);
                found.map(|(_, v)| v.into())
            })
        };
        let run = dir.path().to_str().unwrap();
        let all = of(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", run)]).unwrap();
        assert_eq!(all.root, Path::new("/h/.local/share/unlade"));
        assert_eq!(all.config, Path::new("/h/.config/unlade/config.toml"));
        let all = of(&[
            ("XDG_DATA_HOME", "/d"),
            ("XDG_CONFIG_HOME", "/c"),
            ("XDG_RUNTIME_DIR", run),
        ]);
        assert_eq!(all.unwrap().root, Path::new("/d/unlade"));
        assert!(
            of(&[("XDG_RUNTIME_DIR", run)])
                .unwrap_err()
                .message()
                .contains("HOME")
        );
    }
}
