//! A process that dies, or a call that fails, at every step of a layer's and a snapshot's life:
//! what is listed afterwards is whole, what is not goes with a sweep, and a retry succeeds.
//! Needs root and the feature `failpoints`.
#![allow(missing_docs, clippy::unwrap_used, clippy::exit)]

mod support;

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use support::{
    apply,
    fs::{Fs, count},
    layers::{dir, file, link, tar},
};
use unlade_graph::{
    driver::{Driver, DriverKind, MountOf, NodeId, RwOptions, SnapshotId},
    probe,
};
use unlade_unpack::Result;

/// Every point in this crate, and those of the unpacker that matter to a layer's tree.
const POINTS: &[&str] = &[
    "stage",
    "write",
    "tar",
    "publish",
    "published",
    "discard",
    "discarded",
    "mount",
    "fork",
    "freeze",
    "mkdir",
    "dirattr",
];

fn tars() -> [Vec<u8>; 2] {
    [
        tar(&[dir("d"), file("d/f", "text"), link("l", "d/f")], 0),
        tar(
            &[file("d/.wh.f", ""), file("d/g", "g"), file("e/h", "h")],
            9,
        ),
    ]
}

/// Makes an image and a container, and takes both away again.
fn scenario(driver: &dyn Driver) -> Result<()> {
    let layers = apply(driver, &tars())?;
    driver.flush()?;
    driver.prepare(&layers)?;
    drop(driver.mount(MountOf::Layers(&layers))?);
    let id = SnapshotId::parse("one").unwrap();
    driver.remove(&NodeId::Snapshot(id.clone()))?;
    let mut options = RwOptions::default();
    options.size = std::env::var("UNLADE_TEST_SIZE")
        .ok()
        .map(|s| s.parse().unwrap());
    driver.create_rw(&id, &layers, &options)?;
    let root = driver.mount(MountOf::Snapshot(&id))?;
    rustix::fs::mkdirat(&root, "new", rustix::fs::Mode::RWXU).unwrap();
    drop(root);
    driver.changes(&id)?;
    driver.remove(&NodeId::Snapshot(id))?;
    driver.remove(&NodeId::Layer(layers[1].clone()))?;
    driver.sweep()?;
    Ok(())
}

fn open(kind: DriverKind, root: &Path) -> Arc<dyn Driver> {
    probe::open(Some(kind), root).unwrap().0
}

/// Runs the scenario in a process of its own.
fn child(kind: DriverKind, root: &Path, failpoint: &str, size: Option<u64>) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_process_that_dies", "--nocapture"])
        .env("UNLADE_TEST_ROOT", root)
        .env("UNLADE_TEST_KIND", kind.name())
        .env("UNLADE_FAILPOINT", failpoint)
        .envs(size.map(|n| ("UNLADE_TEST_SIZE", n.to_string())))
        .output()
        .unwrap()
}

/// Not a test of its own.
#[test]
fn the_process_that_dies() {
    let Ok(root) = std::env::var("UNLADE_TEST_ROOT") else {
        return;
    };
    let kind = DriverKind::from_name(&std::env::var("UNLADE_TEST_KIND").unwrap()).unwrap();
    let outcome =
        probe::open(Some(kind), Path::new(&root)).and_then(|(driver, _)| scenario(&*driver));
    if let Err(e) = outcome {
        eprintln!("{e}");
        std::process::exit(3);
    }
}

fn sweep(kind: DriverKind, fs: &str) {
    let Some(fs) = Fs::new(fs) else { return };
    let mut steps = 0;
    for point in POINTS {
        for action in ["kill", "EIO", "ENOSPC"] {
            for n in 1..200 {
                let root = fs.at(&format!("{point}-{action}-{n}"));
                let died = child(kind, &root, &format!("{point}:{n}:{action}"), None);
                let (code, signal) = (died.status.code(), died.status.signal());
                if code == Some(0) {
                    break;
                }
                let want = if action == "kill" {
                    (None, Some(9))
                } else {
                    (Some(3), None)
                };
                assert_eq!(
                    (code, signal),
                    want,
                    "{kind} {point}:{n}:{action}: {died:?}"
                );
                steps += 1;

                let driver = open(kind, &root);
                driver.sweep().unwrap();
                for dir in ["staging", "trash"] {
                    assert_eq!(count(&driver.root().join(dir)), 0, "{point}:{n}:{action}");
                }
                for node in driver.list().unwrap() {
                    match node {
                        NodeId::Layer(id) => assert_eq!(driver.verify(&id).unwrap(), []),
                        NodeId::Snapshot(id) => {
                            driver.mount(MountOf::Snapshot(&id)).unwrap();
                            driver.changes(&id).unwrap();
                        }
                    }
                }
                scenario(&*driver).unwrap();
                // Detached mounts are of no path, so of nobody.
                let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
                assert!(!table.contains(root.to_str().unwrap()), "{table}");
            }
        }
    }
    eprintln!("{kind}: {steps} steps");
    assert!(steps > 40, "{steps}");
}

#[test]
fn overlay() {
    sweep(DriverKind::Overlay, "ext4");
}

#[test]
fn erofs() {
    sweep(DriverKind::Erofs, "ext4");
}

#[test]
fn btrfs() {
    sweep(DriverKind::Btrfs, "btrfs");
}

#[test]
fn reflink() {
    sweep(DriverKind::Reflink, "xfs");
}

#[test]
fn copy() {
    sweep(DriverKind::Copy, "ext4");
}

/// No number stays taken, wherever one dies that makes or removes a snapshot with a limit. As what
/// else is killed at is the same as ever, not at every point.
#[test]
fn limits() {
    for kind in ["xfs", "ext4"] {
        let Some(fs) = Fs::with_quotas(kind) else {
            return;
        };
        let overlay = DriverKind::Overlay;
        let mut steps = 0;
        for point in [
            "numbered",
            "limited",
            "publish",
            "published",
            "discard",
            "discarded",
        ] {
            for action in ["kill", "EIO"] {
                for n in 1..20 {
                    let root = fs.at(&format!("{point}-{action}-{n}"));
                    let failpoint = format!("{point}:{n}:{action}");
                    if child(overlay, &root, &failpoint, Some(1 << 20))
                        .status
                        .success()
                    {
                        break;
                    }
                    steps += 1;
                    let driver = open(overlay, &root);
                    let id = SnapshotId::parse("one").unwrap();
                    driver.remove(&NodeId::Snapshot(id)).unwrap();
                    driver.sweep().unwrap();
                    assert_eq!(fs.projects(), [], "{failpoint}");
                }
            }
        }
        assert!(steps > 12, "{steps}");
    }
}

#[test]
fn a_failed_flush_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let out = child(DriverKind::Copy, dir.path(), "syncfs:1:EIO", None);
    assert_eq!(out.status.code(), Some(3), "{out:?}");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("flush"), "{said}");
}
