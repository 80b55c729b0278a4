//! What every driver must do, on every file system that it works on. Needs root.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

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
    snapshots
    random_changes
    chains
    life_and_death
    damage
    corpus
}

/// Whether a hard link to a lower file leaves its other names behind.
fn splits_links(kind: DriverKind) -> bool {
    kind == DriverKind::Overlay
}

/// Compares with the tree that the unpacker makes of the same layers in one directory; `false` if
/// both refuse them.
fn compare(fs: &Fs, kind: DriverKind, driver: &Arc<dyn Driver>, tars: &[Vec<u8>]) -> bool {
    // What an image holds does not depend on the file system that it is on.
    let base = match kind {
        DriverKind::Erofs => PathBuf::from("/dev/shm"),
        _ => fs.path(),
    };
    let reference = tempfile::tempdir_in(base).unwrap();
    let want = applied(reference.path(), tars);
    let got = apply(&**driver, tars);
    let (got, want) = match (got, want) {
        (Ok(ids), Ok(())) => (mount_layers(&**driver, &ids), tree::at(reference.path())),
        (Err(_), Err(_)) => return false,
        (got, want) => panic!("driver: {got:?}, unpacker: {want:?}"),
    };
    let differences = Tree::read(got).differences(&want, splits_links(kind));
    assert!(differences.is_empty(), "{differences:#?}");
    true
}

/// Images: the layers' blobs of every case of the corpus that is to be accepted.
fn corpus() -> Option<Vec<(String, Vec<Vec<u8>>)>> {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/cases.tar.zst");
    let mut unpack = Command::new("tar");
    unpack
        .args(["--zstd", "-xf"])
        .arg(packed)
        .arg("-C")
        .arg(dir.path());
    match unpack.status() {
        Ok(status) if status.success() => {}
        other => {
            eprintln!("skipped: tar and zstd unpack the corpus: {other:?}");
            return None;
        }
    }
    let mut cases = Vec::new();
    for case in std::fs::read_dir(dir.path().join("cases")).unwrap() {
        let case = case.unwrap().path();
        let text = std::fs::read(case.join("expect.json")).unwrap();
        let expect: serde_json::Value = serde_json::from_slice(&text).unwrap();
        if expect["verdict"] != "ok" || expect.get("limits").is_some() {
            continue;
        }
        let blobs = expect["layers"].as_array().unwrap().iter();
        let blobs = blobs.map(|l| std::fs::read(case.join(l["file"].as_str().unwrap())).unwrap());
        let name = case.file_name().unwrap().to_str().unwrap().to_owned();
        cases.push((name, blobs.collect()));
    }
    assert!(cases.len() > 100, "{}", cases.len());
    cases.sort();
    Some(cases)
}

/// What `changes` must say, from all that can be seen of both trees.
fn expected_changes(before: &Tree, after: &Tree) -> Vec<Change> {
    let above = |path: &[u8]| {
        let end = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
        path[..end].to_vec()
    };
    let is_dir = |tree: &Tree, path: &[u8]| {
        tree.facts
            .get(path)
            .is_some_and(|f| f.kind == FileType::Directory)
    };
    let mut out = BTreeMap::new();
    for (path, facts) in after.facts.iter().filter(|(path, _)| !path.is_empty()) {
        match before.facts.get(path) {
            Some(then) if then == facts => {}
            Some(_) => drop(out.insert(path.clone(), ChangeKind::Modified)),
            None => drop(out.insert(path.clone(), ChangeKind::Added)),
        }
    }
    for path in before
        .facts
        .keys()
        .filter(|p| !after.facts.contains_key(*p))
    {
        if is_dir(after, &above(path)) {
            out.insert(path.clone(), ChangeKind::Deleted);
        }
    }
    for (path, kind) in out.clone() {
        let above = above(&path);
        if kind != ChangeKind::Modified && !above.is_empty() && is_dir(before, &above) {
            out.entry(above).or_insert(ChangeKind::Modified);
        }
    }
    out.into_iter()
        .map(|(path, kind)| Change { path, kind })
        .collect()
}

/// A file below `dir` that holds `text`.
fn find_text(dir: &Path, text: &[u8]) -> Option<(PathBuf, usize)> {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            if let Some(found) = find_text(&entry.path(), text) {
                return Some(found);
            }
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            if let Some(at) = bytes.windows(text.len()).position(|w| w == text) {
                return Some((entry.path(), at));
            }
        }
    }
    None
}

/// Makes a published layer writable, against all rules, where the driver makes that hard.
fn force_writable(tree: &Path) {
    // Only subvolumes have the property.
    let mut btrfs = Command::new("btrfs");
    let args = ["property", "set", "-f", "-ts"];
    let _ = btrfs.args(args).arg(tree).args(["ro", "false"]).output();
}

fn snapshot_id(text: &str) -> SnapshotId {
    SnapshotId::parse(text).unwrap()
}

mod bodies {
    use super::*;

    pub fn snapshots(fs: &Fs, _: DriverKind, driver: Arc<dyn Driver>) {
        let tars = [
            tar(
                &[
                    Op::new("./", EntryType::Directory, b"", 0o751),
                    dir("etc"),
                    file("etc/conf", "old"),
                    file("etc/gone", "x"),
                    dir("data"),
                    dir("data/sub"),
                    file("data/sub/f", "f"),
                    file("same", "same"),
                    file("big", &"b".repeat(1 << 20)),
                ],
                0,
            ),
            tar(&[file("etc/more", "m")], 50),
        ];
        let layers = apply(&*driver, &tars).unwrap();
        let before = Tree::read(mount_layers(&*driver, &layers));
        let (id, other) = (snapshot_id("one"), snapshot_id("two"));
        for id in [&id, &other] {
            driver
                .create_rw(id, &layers, &RwOptions::default())
                .unwrap();
            let e = driver.create_rw(id, &layers, &RwOptions::default());
            assert!(e.unwrap_err().message().contains("exists"));
        }
        assert_eq!(driver.changes(&id).unwrap(), []);
        let root = driver.mount(MountOf::Snapshot(&id)).unwrap();
        let differences = Tree::read(&root).differences(&before, false);
        assert_eq!(differences, [] as [String; 0], "as its layers");

        let at = |path: &str| PathBuf::from(format!("/proc/self/fd/{}/{path}", root.as_raw_fd()));
        std::fs::write(at("etc/conf"), "new").unwrap();
        std::fs::remove_file(at("etc/gone")).unwrap();
        std::fs::remove_dir_all(at("data")).unwrap();
        std::fs::create_dir(at("data")).unwrap();
        std::fs::write(at("data/n"), "n").unwrap();
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/c"), "c").unwrap();
        std::fs::write(at("etc.d"), "").unwrap();
        // Opened for writing, and left as it was.
        drop(
            std::fs::File::options()
                .append(true)
                .open(at("same"))
                .unwrap(),
        );
        std::fs::hard_link(at("etc/more"), at("etc/link")).unwrap();
        let after = Tree::read(&root);
        let changes = driver.changes(&id).unwrap();
        let seen = |path: &str| {
            let found = changes.iter().find(|c| c.path == path.as_bytes());
            found.map(|c| c.kind)
        };
        assert_eq!(changes, expected_changes(&before, &after));
        for (path, kind) in [
            ("a", ChangeKind::Added),
            ("a/b/c", ChangeKind::Added),
            ("data", ChangeKind::Modified),
            ("data/n", ChangeKind::Added),
            ("data/sub", ChangeKind::Deleted),
            ("etc", ChangeKind::Modified),
            ("etc/conf", ChangeKind::Modified),
            ("etc/gone", ChangeKind::Deleted),
            ("etc/link", ChangeKind::Added),
        ] {
            assert_eq!(seen(path), Some(kind), "{path}");
        }
        assert_eq!(
            (seen("same"), seen("data/sub/f"), seen("big")),
            (None, None, None)
        );
        assert!(changes.is_sorted_by(|a, b| a.path < b.path));

        // A second mount of it later, and the other one and the layers untouched.
        drop(root);
        let root = driver.mount(MountOf::Snapshot(&id)).unwrap();
        assert_eq!(Tree::read(&root).facts, after.facts);
        drop(root);
        assert_eq!(driver.changes(&other).unwrap(), []);
        assert_eq!(
            Tree::read(mount_layers(&*driver, &layers)).facts,
            before.facts
        );

        let usage = driver.usage(&NodeId::Snapshot(id.clone())).unwrap();
        assert!(usage.bytes > 0 && usage.inodes >= 5, "{usage:?}");
        if driver.kind() != DriverKind::Copy {
            assert!(
                usage.bytes < 1 << 20,
                "shared bytes are not its own: {usage:?}"
            );
        }

        // Mounted, it stays.
        let there = fs.at("mnt");
        let root = driver.mount(MountOf::Snapshot(&id)).unwrap();
        mount::attach(root.as_fd(), &there).unwrap();
        drop(root);
        assert_eq!(std::fs::read(there.join("etc/conf")).unwrap(), b"new");
        let e = driver.remove(&NodeId::Snapshot(id.clone())).unwrap_err();
        assert!(e.message().contains("mounted"), "{e}");
        mount::unmount(&there).unwrap();
        assert!(mount::unmount(&there).is_err());
        for id in [id, other] {
            driver.remove(&NodeId::Snapshot(id.clone())).unwrap();
            driver.remove(&NodeId::Snapshot(id.clone())).unwrap();
            assert!(driver.mount(MountOf::Snapshot(&id)).is_err());
        }
        assert_eq!(driver.list().unwrap().len(), layers.len());

        // Of nothing at all.
        let empty = snapshot_id("empty");
        driver
            .create_rw(&empty, &[], &RwOptions::default())
            .unwrap();
        let root = driver.mount(MountOf::Snapshot(&empty)).unwrap();
        let nothing = Tree::read(mount_layers(&*driver, &[]));
        assert_eq!(Tree::read(&root).facts, nothing.facts);
        rustix::fs::mkdirat(&root, "d", rustix::fs::Mode::RWXU).unwrap();
        assert_eq!(driver.changes(&empty).unwrap().len(), 1);
    }

    /// Changes to snapshots are other random layers, applied to the mounted tree.
    pub fn random_changes(_: &Fs, _: DriverKind, driver: Arc<dyn Driver>) {
        let mut compared = 0;
        for seed in 1000..1060 {
            let layers = layers::random(seed);
            let tars: Vec<_> = layers.iter().map(|ops| tar(ops, 0)).collect();
            let (below, above) = tars.split_at(tars.len() / 2);
            let Ok(ids) = apply(&*driver, below) else {
                continue;
            };
            let id = snapshot_id(&format!("s{seed}"));
            driver.create_rw(&id, &ids, &RwOptions::default()).unwrap();
            let root = driver.mount(MountOf::Snapshot(&id)).unwrap();
            let before = Tree::read(&root);
            let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
            if applied(&path, above).is_err() {
                continue;
            }
            let after = Tree::read(&root);
            let want = expected_changes(&before, &after);
            assert_eq!(
                driver.changes(&id).unwrap(),
                want,
                "seed {seed}: {layers:#?}"
            );
            compared += 1;
        }
        assert!(compared > 15, "{compared}");
    }

    pub fn chains(fs: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
        const MOST: usize = 500;
        let tars: Vec<_> = (0..MOST)
            .map(|n| {
                let mut ops = vec![dir("d"), file("top", &n.to_string())];
                ops.push(file(&format!("d/f{n}"), "f"));
                if n >= 3 {
                    ops.push(file(&format!("d/.wh.f{}", n - 3), ""));
                }
                tar(&ops, n as u64)
            })
            .collect();
        let layers = apply(&*driver, &tars).unwrap();
        for count in [1, 2, 60, MOST] {
            let layers = &layers[..count];
            driver.prepare(layers).unwrap();
            let tree = Tree::read(mount_layers(&*driver, layers));
            let names: Vec<_> = tree
                .facts
                .keys()
                .map(|p| p.escape_ascii().to_string())
                .collect();
            let mut want = vec![String::new(), "d".into(), "top".into()];
            want.extend((count.saturating_sub(3)..count).map(|n| format!("d/f{n}")));
            want.sort();
            assert_eq!(names, want, "{count} layers");
            let id = snapshot_id(&format!("of-{count}"));
            driver
                .create_rw(&id, layers, &RwOptions::default())
                .unwrap();
            let root = driver.mount(MountOf::Snapshot(&id)).unwrap();
            assert_eq!(Tree::read(&root).facts, tree.facts, "{count} layers");
            rustix::fs::mkdirat(&root, "new", rustix::fs::Mode::RWXU).unwrap();
            assert_eq!(driver.changes(&id).unwrap().len(), 1);
        }
        let reference = tempfile::tempdir_in(fs.path()).unwrap();
        applied(reference.path(), &tars).unwrap();
        let got = Tree::read(mount_layers(&*driver, &layers));
        let differences = got.differences(&tree::at(reference.path()), splits_links(kind));
        assert_eq!(differences, [] as [String; 0]);
    }

    pub fn life_and_death(_: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
        let tars = [
            tar(&[dir("d"), file("d/f", "text")], 0),
            tar(&[file("g", "g")], 9),
        ];
        let layers = apply(&*driver, &tars).unwrap();
        let root = mount_layers(&*driver, &layers);
        let made = rustix::fs::mkdirat(&root, "new", rustix::fs::Mode::RWXU);
        assert_eq!(made, Err(rustix::io::Errno::ROFS), "layers never change");
        drop(root);
        driver.flush().unwrap();
        for id in &layers {
            assert_eq!(driver.verify(id).unwrap(), []);
            let usage = driver.usage(&NodeId::Layer(id.clone())).unwrap();
            assert!(usage.bytes > 0 && usage.inodes > 0, "{usage:?}");
            assert_eq!(
                driver.tar(id).unwrap().is_some(),
                driver.features().keeps_tar
            );
        }
        // One that is begun and dropped leaves nothing; one whose process died goes with a sweep,
        // one whose process lives does not.
        let request = || LayerRequest {
            parents: Parents::known(layers.clone()),
            unpacker: Unpacker::new(),
            cancel: Cancel::new(),
        };
        drop(driver.begin_layer(request()).unwrap());
        assert_eq!(count(&driver.root().join("staging")), 0);
        let alive = driver.begin_layer(request()).unwrap();
        let died = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_that_dies", "--nocapture"])
            .env("UNLADE_TEST_DIE", driver.root())
            .env("UNLADE_TEST_KIND", kind.name())
            .env("UNLADE_TEST_LAYER", layers[1].as_str())
            .output()
            .unwrap();
        assert_eq!(died.status.signal(), Some(6), "{died:?}");
        assert_eq!(count(&driver.root().join("staging")), 2);
        driver.sweep().unwrap();
        assert_eq!(count(&driver.root().join("staging")), 1);
        drop(alive);
        assert_eq!(count(&driver.root().join("staging")), 0);

        let all = layers.iter().cloned().map(NodeId::Layer);
        assert_eq!(driver.list().unwrap().len(), layers.len());
        for node in all {
            driver.remove(&node).unwrap();
            driver.remove(&node).unwrap();
        }
        assert_eq!(driver.list().unwrap(), []);
        assert!(driver.mount(MountOf::Layers(&layers)).is_err());
        assert!(driver.prepare(&layers).is_err());
        assert!(!driver.verify(&layers[0]).unwrap().is_empty());
        driver.sweep().unwrap();
        assert_eq!(count(&driver.root().join("trash")), 0);
        // What was removed can be made again.
        assert_eq!(apply(&*driver, &tars).unwrap(), layers);
        assert!(driver.verify(&layers[1]).unwrap().is_empty());
    }

    pub fn damage(_: &Fs, _: DriverKind, driver: Arc<dyn Driver>) {
        let text = format!("the text that is looked for {}", "x".repeat(5000));
        let tars = [
            tar(&[dir("d"), file("d/f", "other"), link("l", "d/f")], 0),
            tar(
                &[file("d/text", &text), symlink("s", "t"), file(".wh.l", "")],
                9,
            ),
        ];
        for how in ["flip", "cut", "record"] {
            let layers = apply(&*driver, &tars).unwrap();
            let id = &layers[1];
            assert_eq!(driver.verify(id).unwrap(), []);
            let dir = driver.root().join("layers").join(id.as_str());
            force_writable(&dir.join("tree"));
            let damaged = if how == "record" {
                let mut records: Vec<_> = find_records(&dir);
                records.pop().unwrap_or_else(|| dir.join("info"))
            } else {
                find_text(&dir, b"the text that is looked for").unwrap().0
            };
            let bytes = std::fs::read(&damaged).unwrap();
            let time = std::fs::metadata(&damaged).unwrap().modified().unwrap();
            let open = std::fs::File::options().write(true).open(&damaged).unwrap();
            if how == "flip" {
                let at = find_text(damaged.parent().unwrap(), b"looked for")
                    .unwrap()
                    .1;
                std::os::unix::fs::FileExt::write_all_at(&open, b"L", at as u64).unwrap();
            } else {
                open.set_len(bytes.len() as u64 - 1).unwrap();
            }
            open.set_modified(time).unwrap();
            let findings = driver.verify(id).unwrap();
            assert!(!findings.is_empty(), "{how}");
            if how == "flip" && !driver.features().keeps_tar {
                assert_eq!(findings[0].path, b"d/text");
                assert_eq!(findings[0].what, "its content has changed");
            }
            for id in layers {
                driver.remove(&NodeId::Layer(id)).unwrap();
            }
            driver.sweep().unwrap();
        }
    }

    fn find_records(dir: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.file_name().unwrap().to_str().unwrap() {
                "record" => found.push(path),
                "records" => {
                    let names = std::fs::read_dir(path).unwrap();
                    found.extend(names.map(|e| e.unwrap().path()));
                }
                _ => {}
            }
        }
        found
    }

    pub fn corpus(fs: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
        let Some(cases) = super::corpus() else { return };
        let mut same = 0;
        for (name, blobs) in &cases {
            same += usize::from(compare(fs, kind, &driver, blobs));
            eprintln!("{name}: done");
        }
        // XFS cannot hold every device number; what is in no layer is refused elsewhere.
        assert!(same + 20 > cases.len(), "{same} of {}", cases.len());
    }

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
            let (a, b) = (mount_layers(&*other, &ids), mount_layers(&*driver, &ids));
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

/// What the erofs driver does on kernels that cannot mount an index over tars.
mod erofs_where_kernels_are_older {
    use super::*;

    fn on(way: Way) {
        for body in [
            bodies::whiteouts_and_opaque,
            bodies::snapshots,
            bodies::life_and_death,
            bodies::damage,
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
