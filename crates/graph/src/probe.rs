//! Which driver works under a directory, found out by trying, and why the others do not.

use std::{os::fd::AsFd, path::Path, sync::Arc};

use rustix::{
    fs::{AtFlags, FileType, Mode, XattrFlags, fsetxattr, mkdirat, mknodat, statat},
    io::Errno,
};
use unlade_unpack::{Error, Kind, Result};

use crate::{
    btrfs, copy,
    driver::{Driver, DriverKind},
    erofs_driver::{self, ErofsDriver, Way as ErofsWay},
    layout::Layout,
    mount,
    overlay::Overlay,
    snapshot::Marks,
    trees::Trees,
};

/// The order in which drivers are tried if none is asked for. overlay is fastest to unpack to
/// where it works, and all tools know its layers; btrfs and reflink are for where it does not.
/// erofs is taken when asked for: it needs overlayfs as well.
const ORDER: &[DriverKind] = &[
    DriverKind::Overlay,
    DriverKind::Btrfs,
    DriverKind::Reflink,
    DriverKind::Copy,
];

/// A driver that this crate has.
struct Way {
    kind: DriverKind,
    /// Does what the driver will do, in a place under its root.
    works: fn(&Layout) -> Result<()>,
    open: fn(&Path) -> Result<Arc<dyn Driver>>,
}

const WAYS: &[Way] = &[
    Way {
        kind: DriverKind::Overlay,
        works: overlay_works,
        open: |root| Ok(Arc::new(Overlay::open(root)?)),
    },
    Way {
        kind: DriverKind::Erofs,
        works: erofs_driver::works,
        open: |root| {
            Ok(Arc::new(ErofsDriver::open(
                root,
                ErofsWay::from_environment()?,
            )?))
        },
    },
    Way {
        kind: DriverKind::Btrfs,
        works: |layout| btrfs::works(&layout.stage()?),
        open: |root| Ok(Arc::new(Trees::open(DriverKind::Btrfs, root)?)),
    },
    Way {
        kind: DriverKind::Reflink,
        works: |layout| copy::shares_extents(&layout.stage()?),
        open: |root| Ok(Arc::new(Trees::open(DriverKind::Reflink, root)?)),
    },
    Way {
        kind: DriverKind::Copy,
        works: |layout| layout.stage()?.directory("tree").map(drop),
        open: |root| Ok(Arc::new(Trees::open(DriverKind::Copy, root)?)),
    },
];

/// What was found out about a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Which.
    pub kind: DriverKind,
    /// Whether it can be used.
    pub works: bool,
    /// Why, or why not, as part of a sentence.
    pub why: String,
}

/// Opens the driver `kind` on `root`/`NAME`, or the best that works there: one that holds layers
/// already before all others. Says of each that was tried how it went, the one chosen last. A
/// driver that holds layers has worked and is opened without a trial, which a full disk would fail.
///
/// # Errors
/// If the one asked for does not work, or none does.
pub fn open(kind: Option<DriverKind>, root: &Path) -> Result<(Arc<dyn Driver>, Vec<Reason>)> {
    let mut reasons = Vec::new();
    let mut failed = None;
    let order = match kind {
        Some(kind) => vec![kind],
        None => order(root),
    };
    for kind in order {
        let trusted = holds_layers(kind, root);
        match attempt(kind, root, !trusted) {
            Ok(driver) => {
                let why = if trusted {
                    "it holds layers"
                } else {
                    "it works"
                };
                reasons.push(Reason {
                    kind,
                    works: true,
                    why: why.to_owned(),
                });
                return Ok((driver, reasons));
            }
            Err(e) => {
                reasons.push(Reason {
                    kind,
                    works: false,
                    why: e.to_string(),
                });
                failed = Some(e);
            }
        }
    }
    let why: Vec<String> = reasons
        .iter()
        .map(|r| format!("{}: {}", r.kind, r.why))
        .collect();
    let message = format!(
        "no usable graph driver under `{}`: {}",
        root.display(),
        why.join("; ")
    );
    let hint = match (kind, &failed) {
        // No other driver would do better, and trying them would leave more behind.
        (Some(_), Some(e)) if e.raw_os_error().is_some_and(out_of_resources) => e
            .hint()
            .unwrap_or("look for errors of the disk in the kernel's log")
            .to_owned(),
        (Some(kind), _) => {
            let others = others(kind, root);
            format!("drivers that work there (--graph-driver): {others}")
        }
        (None, _) => "use a directory on ext4, xfs or btrfs that this user may write to".to_owned(),
    };
    Err(Error::new(Kind::Host, message).with_hint(hint))
}

/// Tries every driver there is under `root`.
pub fn all(root: &Path) -> Vec<Reason> {
    let reason = |way: &Way| {
        let (works, why) = match attempt(way.kind, root, true) {
            Ok(_) => (true, "it works".to_owned()),
            Err(e) => (false, e.to_string()),
        };
        let kind = way.kind;
        Reason { kind, works, why }
    };
    WAYS.iter().map(reason).collect()
}

fn order(root: &Path) -> Vec<DriverKind> {
    let (mut order, rest): (Vec<_>, Vec<_>) = DriverKind::ALL
        .into_iter()
        .partition(|kind| holds_layers(*kind, root));
    order.extend(ORDER.iter().filter(|kind| rest.contains(kind)));
    order
}

/// Whether there is any published layer of that driver.
fn holds_layers(kind: DriverKind, root: &Path) -> bool {
    let layers = root.join(kind.name()).join("layers");
    std::fs::read_dir(layers).is_ok_and(|mut names| names.next().is_some())
}

/// Whether the host, and not the driver, is what fails.
fn out_of_resources(errno: i32) -> bool {
    [
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::IO,
    ]
    .contains(&Errno::from_raw_os_error(errno))
}

fn others(not: DriverKind, root: &Path) -> String {
    let working: Vec<&str> = all(root)
        .iter()
        .filter(|r| r.works && r.kind != not)
        .map(|r| r.kind.name())
        .collect();
    match &working[..] {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

/// Opens a driver, after a trial if it has yet to prove itself.
fn attempt(kind: DriverKind, root: &Path, trial: bool) -> Result<Arc<dyn Driver>> {
    let way = WAYS.iter().find(|way| way.kind == kind).ok_or_else(|| {
        let message = format!("this build has no driver {kind}");
        Error::new(Kind::Unsupported, message)
    })?;
    let at = root.join(kind.name());
    let there = at.join("layers").is_dir();
    let layout = Layout::open(&at)?;
    if trial && let Err(e) = (way.works)(&layout) {
        // What was there before the disk was full is enough to free some of it.
        let full = [Errno::NOSPC, Errno::DQUOT].map(|e| Some(e.raw_os_error()));
        if !(there && full.contains(&e.raw_os_error())) {
            layout.remove_if_empty();
            return Err(e);
        }
    }
    (way.open)(&at)
}

/// Mounts an overlay over two layers and looks whether whiteouts, opaque directories and writing
/// do what they must.
fn overlay_works(layout: &Layout) -> Result<()> {
    let host = |doing: &str, e| Error::host(format!("{doing} as overlayfs needs it"), e);
    let place = layout.stage()?;
    let [low, high, upper, work] = ["low", "high", "upper", "work"].map(|n| place.directory(n));
    let (low, high, upper, work) = (low?, high?, upper?, work?);
    for path in ["gone", "hidden", "hidden/gone"] {
        mkdirat(&low, path, Mode::RWXU).map_err(|e| host("make a directory", e))?;
    }
    mknodat(&high, "gone", FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(|e| host("make a whiteout", e))?;
    mkdirat(&high, "hidden", Mode::RWXU).map_err(|e| host("make a directory", e))?;
    let hidden = crate::walk::open(high.as_fd(), b"hidden").map_err(|e| host("open it", e))?;
    let marks = Marks::of(layout)?;
    fsetxattr(&hidden, marks.opaque(), b"y", XattrFlags::empty())
        .map_err(|e| host("mark an opaque directory", e))?;
    let lowers = [&high, &low];
    let lower = |n: usize| {
        let clone = lowers[n].try_clone();
        clone.map_err(|e| Error::host("duplicate a descriptor", e))
    };
    let mount = mount::overlay(
        layout,
        &mount::Overlay {
            count: 2,
            lower: &lower,
            upper: Some((upper.as_fd(), work.as_fd())),
            userxattr: marks == Marks::User,
            label: None,
            volatile: false,
            source: "unlade",
        },
    )?;
    let there = |path: &str| statat(&mount, path, AtFlags::SYMLINK_NOFOLLOW);
    let right = there("hidden").is_ok()
        && there("gone").is_err_and(|e| e == Errno::NOENT)
        && there("hidden/gone").is_err_and(|e| e == Errno::NOENT)
        && mkdirat(&mount, "gone", Mode::RWXU).is_ok()
        && statat(&upper, "gone", AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if right {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        "overlayfs does not merge layers here as it should",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_that_works_and_why() {
        let dir = tempfile::tempdir().unwrap();
        let (driver, reasons) = open(None, dir.path()).unwrap();
        let last = reasons.last().unwrap();
        assert!(last.works && last.kind == driver.kind(), "{reasons:?}");
        if rustix::process::geteuid().is_root() {
            assert_eq!(driver.kind(), DriverKind::Overlay, "{reasons:?}");
        }
        let all = all(dir.path());
        let of = |kind| all.iter().find(|r| r.kind == kind).unwrap();
        assert!(of(DriverKind::Copy).works);
        let layout = Layout::open(&dir.path().join("probe")).unwrap();
        if !crate::sys::is_btrfs(layout.root()) {
            assert_eq!(of(DriverKind::Btrfs).why, "the file system is not btrfs");
            assert!(!dir.path().join("btrfs").exists());
            let e = open(Some(DriverKind::Btrfs), dir.path()).unwrap_err();
            assert!(e.hint().unwrap().contains("copy"), "{e}");
        }
        // What holds layers is used on.
        std::fs::create_dir_all(dir.path().join("copy/layers/x")).unwrap();
        let (driver, reasons) = open(None, dir.path()).unwrap();
        assert_eq!(driver.kind(), DriverKind::Copy);
        assert_eq!(reasons[0].why, "it holds layers");
    }

    #[test]
    fn a_directory_that_cannot_be() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let e = open(None, file.path()).unwrap_err();
        assert_eq!(e.kind(), Kind::Host);
        assert!(e.message().contains("copy: "), "{e}");
    }
}
