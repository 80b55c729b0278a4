//! Every driver gives the tree that the unpacker gives.

use super::*;

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

pub(crate) fn whiteouts_and_opaque(fs: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
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

pub(crate) fn random_layers(fs: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
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

pub(crate) fn chains(fs: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
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

/// Images: the layers' blobs of every case of the corpus that is to be accepted.
fn cases() -> Option<Vec<(String, Vec<Vec<u8>>)>> {
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

pub(crate) fn corpus(fs: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
    let Some(cases) = cases() else { return };
    let mut same = 0;
    for (name, blobs) in &cases {
        same += usize::from(compare(fs, kind, &driver, blobs));
        eprintln!("{name}: done");
    }
    // XFS cannot hold every device number; what is in no layer is refused elsewhere.
    assert!(same + 20 > cases.len(), "{same} of {}", cases.len());
}
