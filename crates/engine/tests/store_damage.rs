//! The store when its files are not what they were: what is refused, found and put right.
#![allow(missing_docs, clippy::unwrap_used)]

mod support {
    #![allow(dead_code, unreachable_pub, reason = "every test binary uses a part")]
    pub mod driver;
    pub mod store;
}

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use support::{
    driver::FakeDriver,
    store::{Home, open_in, recipe, sha},
};
use unlade_engine::{
    error::{Error, Kind},
    store::{Object, Problem, Prune, Remedy, RemoveOptions, Store, StoreOptions},
};
use unlade_graph::driver::LayerId;
use unlade_unpack::Cancel;

const BOOT: &str = "boot";

fn refused(root: &Path) -> Error {
    let e = open_in(root, BOOT).map(|_| ()).unwrap_err();
    assert!(e.hint().is_some(), "{e}");
    e
}

/// A store with two images, closed and with all in its database.
fn filled(root: &Path) {
    let home = open_in(root, BOOT).unwrap();
    home.pull(
        &recipe("a", &["base", "a"]),
        &["a"],
        &["docker.io/library/a"],
    )
    .unwrap();
    home.pull(&recipe("b", &["base", "b"]), &["b"], &[])
        .unwrap();
    home.store.flush(&home.driver).unwrap();
    drop(home);
    let done = rusqlite::Connection::open(root.join("unlade.db"))
        .unwrap()
        .pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()));
    done.unwrap();
}

fn rebuild(root: &Path) -> (Home, unlade_engine::store::Rebuilt) {
    let mut options = StoreOptions::new(root, "copy");
    options.boot_id = Some(BOOT.to_owned());
    let driver = FakeDriver::new(root);
    let (store, rebuilt) = Store::rebuild(&options, &driver, &Cancel::new()).unwrap();
    (
        Home {
            options,
            store,
            driver,
        },
        rebuilt,
    )
}

#[test]
fn a_newer_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let db = rusqlite::Connection::open(dir.path().join("unlade.db")).unwrap();
    let version: u32 = db
        .pragma_query_value(None, "user_version", |r| r.get(0))
        .unwrap();
    db.pragma_update(None, "user_version", version + 1).unwrap();
    let e = refused(dir.path());
    assert!(
        e.kind() == Kind::Unsupported && e.hint().unwrap().contains("newer unlade"),
        "{e:?}"
    );
    db.pragma_update(None, "user_version", version).unwrap();
    drop(db);
    open_in(dir.path(), BOOT).unwrap().assert_clean();
}

#[test]
fn a_lost_database_is_never_an_empty_store() {
    type Break = fn(&Path);
    let cases: [(&str, Break); 5] = [
        ("is gone", |db| fs::remove_file(db).unwrap()),
        ("is empty", |db| fs::write(db, "").unwrap()),
        ("is not a database", |db| {
            fs::write(db, vec![b'x'; 8192]).unwrap()
        }),
        ("is cut short", |db| {
            let length = fs::metadata(db).unwrap().len();
            OpenOptions::new()
                .write(true)
                .open(db)
                .unwrap()
                .set_len(length / 2)
                .unwrap();
        }),
        ("is cut short", |db| {
            OpenOptions::new()
                .write(true)
                .open(db)
                .unwrap()
                .set_len(50)
                .unwrap();
        }),
    ];
    for (what, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        for log in ["unlade.db-wal", "unlade.db-shm"] {
            let _ = fs::remove_file(dir.path().join(log));
        }
        damage(&dir.path().join("unlade.db"));
        let e = refused(dir.path());
        assert!(
            e.kind() == Kind::Integrity && e.message().contains(what),
            "{what}: {e:?}"
        );
        assert!(e.hint().unwrap().contains("--repair"), "{e:?}");
        let (home, rebuilt) = rebuild(dir.path());
        assert_eq!(
            (rebuilt.images, home.store.images().unwrap().len()),
            (2, 2),
            "{what}"
        );
        home.assert_clean();
        drop(home);
        let home = open_in(dir.path(), BOOT).unwrap();
        assert_eq!(
            (home.layers_on_disk(), home.blobs_on_disk()),
            (3, 7),
            "{what}"
        );
        let image = home
            .store
            .image(&recipe("a", &["base", "a"]).id())
            .unwrap()
            .unwrap();
        assert_eq!((image.created, image.size), (Some(1_714_979_289), 5));
    }
}

#[test]
fn a_rebuild_that_was_cut_off_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let db = dir.path().join("unlade.db");
    // As after a kill in the middle: put aside, and the new one not yet in place.
    fs::rename(&db, dir.path().join("unlade.db.damaged-1")).unwrap();
    fs::write(dir.path().join("unlade.db.new"), "half").unwrap();
    assert_eq!(refused(dir.path()).kind(), Kind::Integrity);
    let (home, rebuilt) = rebuild(dir.path());
    assert_eq!((rebuilt.images, rebuilt.names), (2, 2));
    assert_eq!(home.names().len(), 2);
    assert_eq!(home.store.resolve("a").unwrap().repo_digests.len(), 1);
    home.assert_clean();
    assert!(!dir.path().join("unlade.db.new").exists());
    // A newer one is not touched.
    drop(home);
    let c = rusqlite::Connection::open(&db).unwrap();
    c.pragma_update(None, "user_version", 99).unwrap();
    let options = StoreOptions::new(dir.path(), "copy");
    let driver = FakeDriver::new(dir.path());
    let e = Store::rebuild(&options, &driver, &Cancel::new()).unwrap_err();
    assert_eq!(e.kind(), Kind::Unsupported);
    assert!(db.exists());
}

#[test]
fn every_damaged_page_is_found_and_names_are_saved() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let db = dir.path().join("unlade.db");
    let whole = fs::read(&db).unwrap();
    let pages = whole.len() / 4096;
    assert!(pages > 10);
    let (mut found, mut saved) = (0, 0);
    for page in 1..pages {
        let mut bytes = whole.clone();
        bytes[page * 4096..][..4096].fill(0);
        for log in ["unlade.db-wal", "unlade.db-shm"] {
            let _ = fs::remove_file(dir.path().join(log));
        }
        fs::write(&db, &bytes).unwrap();
        match open_in(dir.path(), BOOT) {
            Err(e) => {
                assert!(
                    e.kind() == Kind::Integrity && e.hint().is_some(),
                    "page {page}: {e:?}"
                );
                found += 1;
            }
            Ok(home) => {
                let report = home.check();
                let object = report.findings.first().map(|f| f.object.clone());
                assert_eq!(object, Some(Object::Database), "page {page}");
                assert_eq!(report.findings[0].remedy, Remedy::Rebuild);
                found += 1;
            }
        }
        if page % 5 == 0 {
            let (home, rebuilt) = rebuild(dir.path());
            assert_eq!(rebuilt.images, 2, "page {page}");
            home.assert_clean();
            saved += rebuilt.names;
            fs::remove_file(rebuilt.old.unwrap()).unwrap();
        }
    }
    assert_eq!(found, pages - 1);
    assert!(saved > 0);
}

#[test]
fn what_is_not_a_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "x").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let e = refused(dir.path());
    assert!(
        e.kind() == Kind::Conflict && e.message().contains("thesis.txt"),
        "{e:?}"
    );
    assert_eq!(
        fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let other = tempfile::tempdir().unwrap();
    let db = rusqlite::Connection::open(other.path().join("unlade.db")).unwrap();
    db.execute_batch("CREATE TABLE x (y); PRAGMA user_version = 1")
        .unwrap();
    let e = refused(other.path());
    assert!(
        e.kind() == Kind::Integrity && e.message().contains("another program"),
        "{e:?}"
    );
}

fn blob_path(root: &Path, bytes: &[u8]) -> PathBuf {
    root.join("blobs/sha256").join(sha(bytes).hex())
}

fn flip(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 0).unwrap();
}

#[test]
fn what_is_broken_is_found_and_only_that_is_fetched() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let home = open_in(dir.path(), BOOT).unwrap();
    let (a, b) = (recipe("a", &["base", "a"]), recipe("b", &["base", "b"]));
    let layer = |content: &[u8]| home.driver.layer(&LayerId::of(&sha(content))).join("data");
    // A layer's tree, a layer's blob, a config; and things that do not belong there.
    flip(&layer(b"a"));
    flip(&blob_path(dir.path(), b"b"));
    fs::remove_file(blob_path(dir.path(), &b.config)).unwrap();
    home.driver
        .publish(&LayerId::of(&sha(b"stray")), b"stray")
        .unwrap();
    fs::write(blob_path(dir.path(), b"stray"), "stray").unwrap();
    fs::write(dir.path().join("blobs/sha256/README"), "stray").unwrap();
    let report = home.check();
    let has = |object: Object, problem: Problem| {
        assert!(
            report
                .findings
                .iter()
                .any(|f| f.object == object && f.problem == problem),
            "{object:?} {problem:?}: {:#?}",
            report.findings
        );
    };
    has(
        Object::Layer(LayerId::of(&sha(b"a")).to_string()),
        Problem::Damaged,
    );
    has(Object::Blob(sha(b"b").to_string()), Problem::Damaged);
    has(Object::Blob(b.id().to_string()), Problem::Missing);
    has(
        Object::Layer(LayerId::of(&sha(b"stray")).to_string()),
        Problem::Stray,
    );
    has(Object::File("blobs/sha256/README".into()), Problem::Stray);
    has(Object::Image(a.id().to_string()), Problem::Incomplete);
    has(Object::Image(b.id().to_string()), Problem::Incomplete);
    assert_eq!(report.findings.len(), 8, "{:#?}", report.findings);
    assert_eq!(
        home.store.document(&b.id(), 1 << 20).unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        home.store.document(&sha(b"b"), 1 << 20).unwrap_err().kind(),
        Kind::Integrity
    );
    let text = serde_json::to_string(&report).unwrap();
    assert!(
        text.contains(r#"{"kind":"layer","name":"sha256-"#),
        "{text}"
    );

    let repaired = home
        .store
        .repair(&home.driver, &report, &Cancel::new())
        .unwrap();
    assert_eq!((repaired.dropped, repaired.images.len()), (3, 2));
    assert!(home.store.images().unwrap().is_empty());
    let lease = home.store.lease("repair").unwrap();
    for broken in &repaired.images {
        let recipe = if broken.image.id == a.id() { &a } else { &b };
        for layer in &broken.layers {
            assert_eq!(layer.diff_id, sha(b"a"));
            home.add_layer(&lease, b"a").unwrap();
        }
        for (digest, _) in &broken.documents {
            assert_eq!(*digest, b.id());
            home.store.put_blob(&lease, digest, &b.config).unwrap();
        }
        for (digest, _) in &broken.blobs {
            assert_eq!(*digest, sha(b"b"));
            assert!(home.fetch(&lease, b"b").unwrap());
        }
        home.store.mend(&lease, &broken.image).unwrap();
        assert_eq!(
            home.store.resolve(&broken.image.names[0]).unwrap().id,
            recipe.id()
        );
    }
    drop(lease);
    home.assert_clean();
    assert_eq!((home.layers_on_disk(), home.blobs_on_disk()), (3, 7));
}

#[test]
fn where_an_image_came_from_is_known_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let a = recipe("a", &["base", "a"]);
    let origin = ("docker.io/library/a".to_owned(), a.manifest_digest());
    let home = open_in(dir.path(), BOOT).unwrap();
    let other = "localhost/other:1".parse().unwrap();
    home.store.tag("a", &other).unwrap();
    let rmi = |home: &Home, name: &str| {
        let options = RemoveOptions::default();
        home.store.remove_image(name, options).unwrap();
    };
    rmi(&home, "a");
    assert_eq!(
        home.store
            .resolve("localhost/other:1")
            .unwrap()
            .repo_digests,
        []
    );
    drop(home);
    // Also by whoever builds the database anew.
    let (home, _) = rebuild(dir.path());
    home.store.tag(&a.id().to_string(), &other).unwrap();
    flip(&home.driver.layer(&LayerId::of(&sha(b"a"))).join("data"));
    let repair = || {
        let report = home.check();
        let done = home.store.repair(&home.driver, &report, &Cancel::new());
        done.unwrap().images
    };
    assert_eq!(repair()[0].origins, [origin]);
    rmi(&home, "localhost/other:1");
    let db = rusqlite::Connection::open(dir.path().join("unlade.db")).unwrap();
    let count = "SELECT count(*) FROM origins";
    let left: u64 = db.query_row(count, [], |r| r.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn records_that_contradict_the_documents_are_found() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let db = rusqlite::Connection::open(dir.path().join("unlade.db")).unwrap();
    for (update, part) in [
        (
            "UPDATE image_layers SET diff_id = replace(diff_id, '4', '5')",
            "other layers",
        ),
        (
            "UPDATE manifest_layers SET size = size + 1",
            "says otherwise",
        ),
        ("UPDATE images SET manifest = digest", "its manifest"),
        (
            "UPDATE layers SET id = replace(id, 'sha', 'hsa')",
            "is not the name",
        ),
        ("UPDATE blobs SET digest = upper(digest)", "digest"),
        (
            "UPDATE names SET name = replace(name, 'b', 'c')",
            "tag the image again",
        ),
        (
            "UPDATE names SET manifest = replace(manifest, '4', '5')",
            "tag the image again",
        ),
    ] {
        assert!(db.execute(update, []).unwrap() > 0);
        let home = open_in(dir.path(), BOOT).unwrap();
        let report = home.check();
        let found = report.findings.iter().any(|f| f.detail.contains(part));
        assert!(found, "{update}: {report:#?}");
        put_back(dir.path(), &db).unwrap();
    }
}

/// Rows as they were before they were spoiled.
fn put_back(root: &Path, db: &rusqlite::Connection) -> rusqlite::Result<()> {
    let fresh = tempfile::tempdir().unwrap();
    filled(fresh.path());
    let other = fresh.path().join("unlade.db");
    db.execute("ATTACH ?1 AS fresh", [other.to_str().unwrap()])?;
    let tables = [
        "layers",
        "blobs",
        "images",
        "image_layers",
        "manifests",
        "manifest_layers",
        "names",
    ];
    db.pragma_update(None, "foreign_keys", false)?;
    for table in tables {
        db.execute_batch(&format!(
            "DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM fresh.{table};"
        ))?;
    }
    db.execute_batch("DETACH fresh")?;
    open_in(root, BOOT).unwrap().assert_clean();
    Ok(())
}

#[test]
fn a_full_disk_is_said_and_can_be_emptied() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped a_full_disk_is_said_and_can_be_emptied: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(root)
        .status();
    if !mount.is_ok_and(|s| s.success()) {
        eprintln!("skipped a_full_disk_is_said_and_can_be_emptied: no tmpfs can be mounted");
        return;
    }
    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _mounted = Mounted(root);
    let home = open_in(root, BOOT).unwrap();
    let big = "x".repeat(400 << 10);
    home.pull(&recipe("big", &[&big]), &["big"], &[]).unwrap();
    // A blob that does not fit: said, and nothing but the resumable part is left.
    let lease = home.store.lease("pull").unwrap();
    let huge = vec![b'y'; 8 << 20];
    let e = home.fetch(&lease, &huge).unwrap_err();
    assert!(
        e.raw_os_error() == Some(libc::ENOSPC) && e.hint().is_some(),
        "{e:?}"
    );
    drop(lease);
    drop(home);
    assert_eq!(fs::read_dir(root.join("blobs/ingest")).unwrap().count(), 0);
    let filler = fs::File::create(root.join("filler")).unwrap();
    let mut at = 0;
    while filler.write_at(&[1; 4096], at).is_ok() {
        at += 4096;
    }
    assert_eq!(rustix::fs::statvfs(root).unwrap().f_bavail, 0);
    // Full at the start: opened, listed, and made less full.
    let home = open_in(root, BOOT).unwrap();
    assert_eq!(home.names(), ["docker.io/library/big:latest"]);
    home.store
        .remove_image("big", RemoveOptions::default())
        .unwrap();
    home.store
        .prune_images(Prune::default(), &|_| true)
        .unwrap();
    home.gc();
    assert_eq!((home.layers_on_disk(), home.blobs_on_disk()), (0, 0));
    assert!(rustix::fs::statvfs(root).unwrap().f_bavail > 50);
    home.assert_clean();
    home.pull(&recipe("small", &["small"]), &["small"], &[])
        .unwrap();
    home.assert_clean();
}

#[test]
fn ten_thousand_layers_are_listed_swept_and_looked_up() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), BOOT).unwrap();
    support::store::fill(dir.path(), 2_000, 5);
    let images = home.store.images().unwrap();
    assert_eq!(
        (images.len(), home.store.df().unwrap().layers.count),
        (2_000, 10_000)
    );
    assert!(
        images
            .iter()
            .all(|i| i.names.len() == 1 && i.repo_digests.len() == 1)
    );
    let one = home
        .store
        .resolve("registry.example/r7/image:v1007")
        .unwrap();
    assert_eq!(home.store.image_layers(&one).unwrap().len(), 5);
    assert_eq!(
        home.store
            .image_by_manifest(&one.manifest)
            .unwrap()
            .unwrap()
            .id,
        one.id
    );
    let removed = home
        .store
        .remove_image(&one.id.to_string(), RemoveOptions::default())
        .unwrap();
    assert_eq!(removed.len(), 8);
    assert_eq!(home.gc().layers.len(), 5);
}
