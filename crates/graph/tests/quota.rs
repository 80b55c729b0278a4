//! What a snapshot may take of the disk, on file systems that hold it to that. Needs root, and a
//! kernel with quotas: `scripts/uml` runs it on one where the machine's has none.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;
use support::{
    apply,
    fs::{Fs, count},
    layers::{file, tar},
};
use unlade_graph::{
    driver::{Driver, DriverKind, LayerId, MountOf, NodeId, RwOptions, SnapshotId},
    probe,
};
use unlade_unpack::Kind;

const MIB: usize = 1 << 20;

fn open(kind: DriverKind, fs: &Fs) -> Arc<dyn Driver> {
    probe::open(Some(kind), &fs.path().join("graph")).unwrap().0
}

fn limited(bytes: usize) -> RwOptions {
    let mut options = RwOptions::default();
    options.size = Some(bytes.try_into().unwrap());
    options
}

struct Mounted {
    id: SnapshotId,
    root: OwnedFd,
}

impl Mounted {
    fn new(driver: &dyn Driver, name: &str, layers: &[LayerId], options: &RwOptions) -> Self {
        let id = SnapshotId::parse(name).unwrap();
        driver.create_rw(&id, layers, options).unwrap();
        let root = driver.mount(MountOf::Snapshot(&id)).unwrap();
        Self { id, root }
    }

    fn at(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.root.as_raw_fd()))
    }

    /// Writes a file that no file system can make smaller, down to the disk.
    fn write(&self, name: &str, bytes: usize) -> std::io::Result<()> {
        let mut state = 1_u64;
        let mut file = fs::File::create(self.at(name))?;
        for _ in 0..bytes / MIB {
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_be_bytes()
            })
            .take(MIB / 8)
            .flatten()
            .collect();
            std::io::Write::write_all(&mut file, &noise)?;
            file.sync_all()?;
        }
        Ok(())
    }

    fn gone(self, driver: &dyn Driver) {
        drop(self.root);
        driver.remove(&NodeId::Snapshot(self.id)).unwrap();
    }
}

fn full(outcome: std::io::Result<()>) {
    let e = outcome.unwrap_err();
    let errno = Errno::from_io_error(&e);
    assert!(matches!(errno, Some(Errno::NOSPC | Errno::DQUOT)), "{e}");
}

fn on(kind: DriverKind, name: &str) {
    let Some(fs) = Fs::with_quotas(name) else {
        return;
    };
    eprintln!("{kind} on {name}");
    let driver = open(kind, &fs);
    let text = "x".repeat(6 * MIB);
    let layers = apply(&*driver, &[tar(&[file("of-the-image", &text)], 0)]).unwrap();
    let one = Mounted::new(&*driver, "one", &layers, &limited(8 * MIB));
    let two = Mounted::new(&*driver, "two", &layers, &limited(32 * MIB));
    let free = Mounted::new(&*driver, "free", &layers, &RwOptions::default());
    let projects = kind != DriverKind::Btrfs;
    if projects {
        assert_eq!(fs.projects().len(), 2);
        assert!(fs.projects().iter().all(|n| (1 << 30..1 << 31).contains(n)));
    }

    // The image's own files do not count; what is written over them does.
    one.write("a", 4 * MIB).unwrap();
    full(one.write("b", 8 * MIB));
    full(one.write("c", 2 * MIB));
    two.write("a", 16 * MIB).unwrap();
    full(two.write("b", 32 * MIB));
    free.write("a", 64 * MIB).unwrap();
    // What is deleted makes room, and changes are seen as ever.
    for name in ["b", "c"] {
        let _ = fs::remove_file(one.at(name));
    }
    sync(&fs);
    one.write("d", 2 * MIB).unwrap();
    let changes = driver.changes(&one.id).unwrap();
    let changed: Vec<&[u8]> = changes.iter().map(|c| &*c.path).collect();
    assert!(changed.contains(&&b"d"[..]), "{changes:?}");
    full(one.write("of-the-image", 16 * MIB));

    // Killed between the removal and the sweep: the next one frees the number.
    one.gone(&*driver);
    two.gone(&*driver);
    drop(driver);
    let driver = open(kind, &fs);
    driver.sweep().unwrap();
    assert_eq!(count(&driver.root().join("trash")), 0);
    if projects {
        assert_eq!(fs.projects(), []);
    }
    // A name that is taken leaves none.
    let id = free.id.clone();
    driver.create_rw(&id, &layers, &limited(MIB)).unwrap_err();
    let again = Mounted::new(&*driver, "one", &layers, &limited(8 * MIB));
    full(again.write("a", 16 * MIB));
    again.gone(&*driver);
    free.write("b", 64 * MIB).unwrap();
    free.gone(&*driver);
    driver.sweep().unwrap();
    if projects {
        assert_eq!(fs.projects(), []);
    }
}

fn sync(fs: &Fs) {
    rustix::fs::syncfs(fs::File::open(fs.path()).unwrap()).unwrap();
}

#[test]
fn overlay_on_xfs() {
    on(DriverKind::Overlay, "xfs");
}

#[test]
fn overlay_on_ext4() {
    on(DriverKind::Overlay, "ext4");
}

#[test]
fn erofs_on_xfs() {
    on(DriverKind::Erofs, "xfs");
}

#[test]
fn btrfs() {
    on(DriverKind::Btrfs, "btrfs");
}

/// Numbers of others, in use or with a limit alone, are never taken, by however many at once.
#[test]
fn numbers_are_of_one_snapshot_each() {
    let Some(fs) = Fs::with_quotas("xfs") else {
        return;
    };
    let drivers = [0, 1].map(|n| {
        let root = fs.path().join(n.to_string());
        probe::open(Some(DriverKind::Overlay), &root).unwrap().0
    });
    std::thread::scope(|scope| {
        for n in 0..4 {
            let driver = &drivers[n % 2];
            scope.spawn(move || {
                for i in 0..25 {
                    let id = SnapshotId::parse(&format!("s-{n}-{i}")).unwrap();
                    driver.create_rw(&id, &[], &limited(MIB)).unwrap();
                }
            });
        }
    });
    let mut taken = fs.projects();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 100);
}

/// Where a limit would not hold it is refused, and nothing is left.
#[test]
fn what_cannot_be_limited() {
    for (kind, fs, part) in [
        (DriverKind::Overlay, "ext4", "pquota"),
        (DriverKind::Overlay, "btrfs", "pquota"),
        (DriverKind::Btrfs, "btrfs", "btrfs quota enable"),
        (DriverKind::Reflink, "xfs", "overlay or erofs"),
        (DriverKind::Copy, "ext4", "overlay or erofs"),
    ] {
        let Some(fs) = Fs::new(fs) else { return };
        let driver = open(kind, &fs);
        let id = SnapshotId::parse("one").unwrap();
        let e = driver.create_rw(&id, &[], &limited(MIB)).unwrap_err();
        assert_eq!(e.kind(), Kind::Unsupported, "{kind}: {e}");
        assert!(e.hint().unwrap().contains(part), "{kind}: {:?}", e.hint());
        assert_eq!(driver.list().unwrap(), []);
        let left = |dir: &str| count(&Path::new(&driver.root()).join(dir));
        assert_eq!((left("staging"), left("trash")), (0, 0));
    }
}
