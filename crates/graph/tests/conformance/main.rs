//! What every driver must do, on every file system that it works on. Needs root.
#![allow(missing_docs, clippy::unwrap_used)]

mod containers;
#[path = "../support/mod.rs"]
mod support;
mod trees;
mod upkeep;

use std::{
    collections::BTreeMap,
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use rustix::fs::FileType;

use support::{
    apply, apply_at_once,
    fs::{Fs, count},
    layers::{self, Op, applied, dir, file, link, symlink, tar},
    mount_layers,
    tree::{self, Tree},
};
use tar::EntryType;
use unlade_graph::{
    driver::{
        Change, ChangeKind, Driver, DriverKind, LayerId, LayerRequest, MountOf, NodeId, Parents,
        RwOptions, SnapshotId,
    },
    erofs_driver::{ErofsDriver, Way},
    mount,
    overlay::Overlay,
    trees::Trees,
};
use unlade_unpack::{Cancel, Unpacker};

/// The drivers, and the file systems that each works on.
const DRIVERS: &[(DriverKind, &[&str])] = &[
    (DriverKind::Overlay, &["ext4", "xfs", "btrfs"]),
    (DriverKind::Erofs, &["ext4", "xfs", "btrfs"]),
    (DriverKind::Btrfs, &["btrfs"]),
    (DriverKind::Reflink, &["xfs", "btrfs"]),
    (DriverKind::Copy, &["ext4", "xfs", "btrfs"]),
];

fn open(kind: DriverKind, root: &Path) -> Arc<dyn Driver> {
    match kind {
        DriverKind::Overlay => Arc::new(Overlay::open(root).unwrap()),
        DriverKind::Erofs => Arc::new(ErofsDriver::open(root, None).unwrap()),
        kind => Arc::new(Trees::open(kind, root).unwrap()),
    }
}

/// Runs `body` with every driver that works on `fs`.
fn on(fs: &str, body: impl Fn(&Fs, DriverKind, Arc<dyn Driver>)) {
    // UNLADE_TEST_DRIVER=NAME runs one driver alone.
    let only = std::env::var("UNLADE_TEST_DRIVER").ok();
    let wanted = |kind: DriverKind| only.as_ref().is_none_or(|name| name == kind.name());
    let those = DRIVERS.iter().filter(|(_, on)| on.contains(&fs));
    for (kind, _) in those.filter(|(kind, _)| wanted(*kind)) {
        let Some(here) = Fs::new(fs) else { return };
        eprintln!("{kind} on {fs}");
        body(&here, *kind, open(*kind, &here.path().join("graph")));
    }
}

macro_rules! everywhere {
    ($($room:ident $test:ident)*) => {$(
        mod $test {
            #[test]
            fn on_ext4() {
                super::on("ext4", super::$room::$test);
            }
            #[test]
            fn on_xfs() {
                super::on("xfs", super::$room::$test);
            }
            #[test]
            fn on_btrfs() {
                super::on("btrfs", super::$room::$test);
            }
        }
    )*};
}

everywhere! {
    trees whiteouts_and_opaque
    trees random_layers
    trees chains
    trees corpus
    containers snapshots
    containers random_changes
    containers what_is_ephemeral
    upkeep life_and_death
    upkeep damage
}

fn snapshot_id(text: &str) -> SnapshotId {
    SnapshotId::parse(text).unwrap()
}

/// What the erofs driver does on kernels that cannot mount an index over tars.
mod erofs_where_kernels_are_older {
    use super::*;

    fn on(way: Way) {
        for body in [
            trees::whiteouts_and_opaque,
            containers::snapshots,
            upkeep::life_and_death,
            upkeep::damage,
        ] {
            let Some(fs) = Fs::new("ext4") else { return };
            let driver = ErofsDriver::open(&fs.path().join("graph"), Some(way)).unwrap();
            assert!(driver.notes()[0].contains("as asked for"));
            body(&fs, DriverKind::Erofs, Arc::new(driver));
        }
    }

    #[test]
    fn full_images() {
        on(Way::Full);
    }

    #[test]
    fn full_images_on_loop_devices() {
        on(Way::Loop);
    }
}

/// Not a test of its own: see `life_and_death`.
#[test]
fn a_process_that_dies() {
    let var = |name: &str| std::env::var(name);
    let Ok(root) = var("UNLADE_TEST_DIE") else {
        return;
    };
    let kind = DriverKind::from_name(&var("UNLADE_TEST_KIND").unwrap()).unwrap();
    let layer = LayerId::parse(&var("UNLADE_TEST_LAYER").unwrap()).unwrap();
    let driver = open(kind, Path::new(&root));
    let request = LayerRequest {
        parents: Parents::known(vec![layer]),
        unpacker: Unpacker::new(),
        cancel: Cancel::new(),
    };
    let _txn = driver.begin_layer(request).unwrap();
    std::process::abort();
}

#[test]
fn names_are_checked() {
    assert!(LayerId::parse("sha256-../x").is_none());
    let id = LayerId::chained(&support::sha(b""));
    assert_eq!(LayerId::parse(id.as_str()), Some(id));
}

/// Root of a user namespace has no `trusted.*` attributes; overlayfs has others for it.
#[test]
fn root_of_a_user_namespace() {
    if std::env::var_os("UNLADE_TEST_INSIDE").is_none() {
        let mut inside = Command::new("unshare");
        inside.args(["--user", "--map-root-user", "--mount"]);
        inside.arg(std::env::current_exe().unwrap());
        inside.args(["--exact", "root_of_a_user_namespace", "--nocapture"]);
        let out = inside.env("UNLADE_TEST_INSIDE", "1").output();
        match out {
            Ok(out) if String::from_utf8_lossy(&out.stderr).contains("unshare failed") => {
                eprintln!("skipped: {}", String::from_utf8_lossy(&out.stderr));
            }
            Err(e) => eprintln!("skipped: unshare: {e}"),
            Ok(out) => assert!(out.status.success(), "{out:?}"),
        }
        return;
    }
    let here = tempfile::tempdir_in("/var/tmp").unwrap();
    let driver = unlade_graph::probe::open(None, here.path()).unwrap().0;
    assert_eq!(driver.kind(), DriverKind::Overlay);
    let notes = driver.notes().join(" ");
    assert!(notes.contains("user.overlay.opaque"), "{notes}");
    let root = |ops: &[Op]| layers::tar_of(ops, 0, |_| (0, 0));
    let tars = [
        root(&[
            dir("d"),
            file("d/old", "1"),
            file("gone", "2"),
            Op::new("null", EntryType::Char, b"", 0o666),
        ]),
        root(&[
            dir("d"),
            file("d/.wh..wh..opq", ""),
            file("d/new", "3"),
            file(".wh.gone", ""),
        ]),
    ];
    let layers = apply(&*driver, &tars).unwrap();
    let names = |tree: &Tree| {
        let names = tree.facts.keys().map(|p| p.escape_ascii().to_string());
        names.collect::<Vec<_>>()
    };
    let tree = Tree::read(mount_layers(&*driver, &layers));
    assert_eq!(names(&tree), ["", "d", "d/new"]);
    for id in &layers {
        assert_eq!(driver.verify(id).unwrap(), []);
    }
    let id = snapshot_id("one");
    driver
        .create_rw(&id, &layers, &RwOptions::default())
        .unwrap();
    let root = driver.mount(MountOf::Snapshot(&id)).unwrap();
    let at = format!("/proc/self/fd/{}/d", root.as_raw_fd());
    std::fs::remove_dir_all(&at).unwrap();
    std::fs::create_dir(&at).unwrap();
    let changes = driver.changes(&id).unwrap();
    let kinds: Vec<_> = changes.iter().map(|c| (&*c.path, c.kind)).collect();
    let want = [
        (&b"d"[..], ChangeKind::Modified),
        (b"d/new", ChangeKind::Deleted),
    ];
    assert_eq!(kinds, want);
}
