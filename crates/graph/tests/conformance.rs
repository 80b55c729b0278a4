//! What every driver must do, on every file system that it works on. Needs root.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{path::Path, sync::Arc};

use support::{
    apply, apply_at_once,
    fs::{Fs, count},
    layers::{self, Op, applied, dir, file, link, symlink, tar},
    mount,
    tree::{self, Tree},
};
use tar::EntryType;
use unlade_graph::{
    driver::{Driver, DriverKind, LayerId},
    overlay::Overlay,
    trees::Trees,
};

/// The drivers, and the file systems that each works on.
const DRIVERS: &[(DriverKind, &[&str])] = &[
    (DriverKind::Overlay, &["ext4", "xfs", "btrfs"]),
    (DriverKind::Btrfs, &["btrfs"]),
    (DriverKind::Reflink, &["xfs", "btrfs"]),
    (DriverKind::Copy, &["ext4", "xfs", "btrfs"]),
];

fn open(kind: DriverKind, root: &Path) -> Arc<dyn Driver> {
    match kind {
        DriverKind::Overlay => Arc::new(Overlay::open(root).unwrap()),
        kind => Arc::new(Trees::open(kind, root).unwrap()),
    }
}

/// Runs `body` with every driver that works on `fs`.
fn on(fs: &str, body: impl Fn(&Fs, DriverKind, Arc<dyn Driver>)) {
    for (kind, _) in DRIVERS.iter().filter(|(_, on)| on.contains(&fs)) {
        let Some(here) = Fs::new(fs) else { return };
        eprintln!("{kind} on {fs}");
        body(&here, *kind, open(*kind, &here.path().join("graph")));
    }
}

macro_rules! everywhere {
    ($($test:ident)*) => {$(
        mod $test {
            #[test]
            fn on_ext4() {
                super::on("ext4", super::bodies::$test);
            }
            #[test]
            fn on_xfs() {
                super::on("xfs", super::bodies::$test);
            }
            #[test]
            fn on_btrfs() {
                super::on("btrfs", super::bodies::$test);
            }
        }
    )*};
}

everywhere! {
    whiteouts_and_opaque
    random_layers
}

/// Whether a hard link to a lower file leaves its other names behind.
fn splits_links(kind: DriverKind) -> bool {
    matches!(kind, DriverKind::Overlay | DriverKind::Erofs)
}

/// Compares with the tree that the unpacker makes of the same layers in one directory; `false` if
/// both refuse them.
fn compare(fs: &Fs, kind: DriverKind, driver: &Arc<dyn Driver>, tars: &[Vec<u8>]) -> bool {
    let reference = tempfile::tempdir_in(fs.path()).unwrap();
    let want = applied(reference.path(), tars);
    let got = apply(&**driver, tars);
    let (got, want) = match (got, want) {
        (Ok(ids), Ok(())) => (mount(&**driver, &ids), tree::at(reference.path())),
        (Err(_), Err(_)) => return false,
        (got, want) => panic!("driver: {got:?}, unpacker: {want:?}"),
    };
    let differences = Tree::read(got).differences(&want, splits_links(kind));
    assert!(differences.is_empty(), "{differences:#?}");
    true
}

mod bodies {
    use super::*;

    pub fn whiteouts_and_opaque(fs: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
        let layers: &[&[Op]] = &[
            &[
                Op::new("./", EntryType::Directory, b"", 0o711),
                dir("a"),
                file("a/kept", "1"),
                file("a/gone", "2"),
                dir("d"),
                file("d/old", "3"),
                dir("usr"),
                dir("usr/lib"),
                file("usr/lib/l", "4"),
                symlink("lib", "usr/lib"),
                file("top", "5"),
            ],
            &[
                file("a/.wh.gone", ""),
                file("a/new", "6"),
                dir("d"),
                file("d/.wh..wh..opq", ""),
                file("d/n", "7"),
                file("lib/m", "8"),
                link("other", "top"),
            ],
            &[file(".wh.a", ""), dir("a"), file("a/back", "9")],
            &[file(".wh..wh..opq", ""), file("alone", "10")],
        ];
        let tars: Vec<_> = layers.iter().map(|ops| tar(ops, 0)).collect();
        for n in 1..=tars.len() {
            assert!(compare(fs, kind, &driver, &tars[..n]));
        }
        if driver.features().parallel_layers {
            let other = open(kind, &fs.path().join("other"));
            let ids = apply_at_once(&other, &tars);
            assert_eq!(ids, apply(&*driver, &tars).unwrap());
            let (a, b) = (mount(&*other, &ids), mount(&*driver, &ids));
            assert_eq!(Tree::read(a).facts, Tree::read(b).facts);
        }
        assert_eq!(count(&driver.root().join("staging")), 0);
    }

    pub fn random_layers(fs: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
        let mut same = 0;
        const CASES: u64 = 60;
        for seed in 0..CASES {
            let layers = layers::random(seed);
            let tars: Vec<_> = layers
                .iter()
                .enumerate()
                .map(|(n, ops)| tar(ops, 100 * n as u64))
                .collect();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                compare(fs, kind, &driver, &tars)
            }));
            match outcome {
                Ok(compared) => same += u64::from(compared),
                Err(e) => {
                    eprintln!("seed {seed}: {layers:#?}");
                    std::panic::resume_unwind(e);
                }
            }
        }
        assert!(same > CASES / 3, "{same} of {CASES} were not refused");
    }
}

#[test]
fn names_are_checked() {
    assert!(LayerId::parse("sha256-../x").is_none());
    let id = LayerId::chained(&support::sha(b""));
    assert_eq!(LayerId::parse(id.as_str()), Some(id));
}
