//! Snapshots, and how they differ from their layers.

use super::*;

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

pub(crate) fn snapshots(fs: &Fs, _: DriverKind, driver: Arc<dyn Driver>) {
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

/// Mounted again and again, as any other, but no mount of it waits for the disk.
pub(crate) fn what_is_ephemeral(fs: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
    let id = snapshot_id("ephemeral");
    let mut options = RwOptions::default();
    options.ephemeral = true;
    driver.create_rw(&id, &[], &options).unwrap();
    let there = fs.at("mnt");
    for n in 0..3 {
        let root = driver.mount(MountOf::Snapshot(&id)).unwrap();
        rustix::fs::mkdirat(&root, format!("d{n}"), rustix::fs::Mode::RWXU).unwrap();
        mount::attach(root.as_fd(), &there).unwrap();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = table.lines().find(|l| l.contains(there.to_str().unwrap()));
        let overlay = matches!(kind, DriverKind::Overlay | DriverKind::Erofs);
        assert_eq!(ours.unwrap().contains("volatile"), overlay, "{ours:?}");
        drop(root);
        // A process of another test may have a copy of the mount for a moment.
        rustix::mount::unmount(&there, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(driver.changes(&id).unwrap().len(), n + 1);
    }
    driver.remove(&NodeId::Snapshot(id)).unwrap();
}

pub(crate) fn random_changes(_: &Fs, _: DriverKind, driver: Arc<dyn Driver>) {
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
