//! The store through its interface: images come, are named, found, removed and swept.
#![allow(missing_docs, clippy::unwrap_used)]

mod support {
    #![allow(dead_code, unreachable_pub, reason = "every test binary uses a part")]
    pub mod driver;
    pub mod store;
}

use std::fs;

use support::store::{open_in, recipe, sha};
use unlade_engine::{
    error::Kind,
    image::Reference,
    store::{GcOptions, NewContainer, Prune, RemoveOptions, Removed, Stage},
};
use unlade_unpack::Cancel;

const A: &str = "docker.io/library/a";

#[test]
fn an_image_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), "boot").unwrap();
    let (a, b) = (
        recipe("a", &["base", "top a"]),
        recipe("b", &["base", "top b"]),
    );
    home.pull(&a, &["a"], &[A]).unwrap();
    home.pull(&b, &["b:1"], &[]).unwrap();
    home.assert_clean();
    assert_eq!(
        home.names(),
        ["docker.io/library/a:latest", "docker.io/library/b:1"]
    );
    let image = home.store.resolve("a").unwrap();
    assert_eq!((image.id, image.manifest), (a.id(), a.manifest_digest()));
    assert_eq!(home.store.image_layers(&image).unwrap().len(), 2);
    assert_eq!(home.store.document(&a.id(), 1 << 20).unwrap(), a.config);
    // Three layers, their blobs, two documents an image.
    assert_eq!((home.layers_on_disk(), home.blobs_on_disk()), (3, 7));
    assert_eq!(home.gc().layers, Vec::<String>::new());
    let removed = home
        .store
        .remove_image("a", RemoveOptions::default())
        .unwrap();
    let top = Removed::Deleted(sha(format!("{} {}", sha(b"base"), sha(b"top a")).as_bytes()));
    let digest = format!("{A}@{}", a.manifest_digest());
    assert_eq!(
        removed,
        [
            Removed::Untagged(format!("{A}:latest")),
            Removed::Untagged(digest),
            Removed::Deleted(a.id()),
            top
        ]
    );
    let mut dry = GcOptions::default();
    dry.dry_run = true;
    let would = home.store.gc(&home.driver, &dry).unwrap();
    assert_eq!(home.layers_on_disk(), 3);
    let did = home.gc();
    assert_eq!(
        (would.layers, would.blobs, would.bytes),
        (did.layers.clone(), did.blobs.clone(), did.bytes)
    );
    assert_eq!((did.layers.len(), did.blobs.len(), did.strays), (1, 3, 0));
    assert_eq!((home.layers_on_disk(), home.blobs_on_disk()), (2, 4));
    home.assert_clean();
    assert_eq!(home.store.resolve("a").unwrap_err().kind(), Kind::NotFound);
    // And again, with the half that is there.
    home.pull(&a, &["a"], &[A]).unwrap();
    home.assert_clean();
    assert_eq!(home.layers_on_disk(), 3);
}

#[test]
fn another_process_sees_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (
        open_in(dir.path(), "boot").unwrap(),
        open_in(dir.path(), "boot").unwrap(),
    );
    let a = recipe("a", &["x"]);
    one.pull(&a, &["a"], &[]).unwrap();
    assert_eq!(other.names(), one.names());
    drop(one);
    let again = open_in(dir.path(), "boot").unwrap();
    assert_eq!(again.names(), other.names());
    assert!(again.store.blob(&a.id()).unwrap().is_some());
    assert!(again.store.blob(&sha(b"nothing")).unwrap().is_none());
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(dir.path()).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o700);
}

#[test]
fn images_are_found_by_dockers_rules() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), "boot").unwrap();
    let images: Vec<_> = (0..40).map(|n| recipe(&n.to_string(), &["x"])).collect();
    for (n, image) in images.iter().enumerate() {
        home.pull(image, &[&format!("r/{n}:t")], &["docker.io/r/all"])
            .unwrap();
    }
    let found = |text: &str| home.store.resolve(text).map(|i| i.id).map_err(|e| e.kind());
    let one = &images[7];
    let id = one.id().to_string();
    for text in [
        "r/7:t".to_owned(),
        "docker.io/r/7:t".to_owned(),
        id.clone(),
        id[7..].to_owned(),
        id[..30].to_owned(),
        id[7..30].to_owned(),
        format!("r/all@{}", one.manifest_digest()),
        format!("r/all:whatever@{}", one.manifest_digest()),
    ] {
        assert_eq!(found(&text), Ok(one.id()), "{text}");
    }
    for (text, kind) in [
        ("r/7", Kind::NotFound),
        ("r/7:u", Kind::NotFound),
        (&format!("r/7@{}", one.manifest_digest()), Kind::NotFound),
        (&format!("sha256:{}", "0".repeat(64)), Kind::NotFound),
        ("A b", Kind::BadInput),
        ("sha256:zz zz", Kind::BadInput),
        ("", Kind::BadInput),
    ] {
        assert_eq!(found(text), Err(kind), "{text}");
    }
    // Of 40 ids two begin alike (pigeonhole), and a name wins over the beginning of an id.
    let first = |i: &support::store::Recipe| i.id().hex()[..1].to_owned();
    let shared = images
        .iter()
        .map(first)
        .find(|c| images.iter().filter(|i| first(i) == *c).count() > 1);
    let shared = shared.unwrap();
    assert_eq!(found(&shared), Err(Kind::Conflict));
    home.store
        .tag("r/7:t", &Reference::parse(&shared).unwrap())
        .unwrap();
    assert_eq!(found(&shared), Ok(one.id()));
    let prefix = &images[8].id().hex()[..12];
    home.store
        .tag("r/7:t", &Reference::parse(prefix).unwrap())
        .unwrap();
    assert_eq!(found(prefix), Ok(one.id()));
    assert_eq!(found(&format!("sha256:{prefix}")), Ok(images[8].id()));
    let digested = Reference::parse(&format!("x@{id}")).unwrap();
    assert_eq!(
        home.store.tag("r/7:t", &digested).unwrap_err().kind(),
        Kind::BadInput
    );
    assert_eq!(
        home.store
            .tag("nope", &Reference::parse("x").unwrap())
            .unwrap_err()
            .kind(),
        Kind::NotFound
    );
}

#[test]
fn images_are_removed_by_dockers_rules() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), "boot").unwrap();
    let a = recipe("a", &["x"]);
    let remove = |text: &str, force: bool| {
        let mut options = RemoveOptions::default();
        options.force = force;
        home.store.remove_image(text, options).map_err(|e| e.kind())
    };
    let untagged = |name: &str| Removed::Untagged(name.to_owned());
    let gone = [Removed::Deleted(a.id()), Removed::Deleted(sha(b"x"))];
    let digest = |repo: &str| untagged(&format!("docker.io/{repo}@{}", a.manifest_digest()));
    let id = a.id().hex();
    // One of several names; the last one of a repository takes its digests along.
    home.pull(
        &a,
        &["u/a:1", "u/a:2", "u/b:1"],
        &["docker.io/u/a", "docker.io/u/b"],
    )
    .unwrap();
    assert_eq!(
        remove("u/a:1", false).unwrap(),
        [untagged("docker.io/u/a:1")]
    );
    assert_eq!(
        remove("u/a:2", false).unwrap(),
        [untagged("docker.io/u/a:2"), digest("u/a")]
    );
    let last = remove("u/b:1", false).unwrap();
    assert_eq!(
        last,
        [&[untagged("docker.io/u/b:1"), digest("u/b")], &gone[..]].concat()
    );
    // By id: one name or one repository only, unless forced.
    home.pull(&a, &["u/a:1"], &["docker.io/u/a"]).unwrap();
    let by_id = remove(&id[..12], false).unwrap();
    assert_eq!(
        by_id,
        [&[untagged("docker.io/u/a:1"), digest("u/a")], &gone[..]].concat()
    );
    for names in [&["u/a:1", "u/b:1"], &["u/a:1", "u/a:2"]] {
        home.pull(&a, names, &[]).unwrap();
        assert_eq!(remove(&id, false), Err(Kind::Conflict));
        let forced = remove(&id, true).unwrap();
        assert_eq!((forced.len(), &forced[2..]), (4, &gone[..]));
    }
    // By digest.
    home.pull(&a, &["u/a:1"], &["docker.io/u/a"]).unwrap();
    let by = format!("u/a@{}", a.manifest_digest());
    assert_eq!(remove(&by, false).unwrap(), [digest("u/a")]);
    home.pull(&a, &[], &["docker.io/u/a"]).unwrap();
    remove("u/a:1", false).unwrap();
    assert_eq!(home.store.images().unwrap().len(), 0);
    home.pull(&a, &[], &["docker.io/u/a"]).unwrap();
    assert_eq!(
        remove(&by, false).unwrap(),
        [&[digest("u/a")], &gone[..]].concat()
    );
    assert_eq!(remove("u/a:1", false), Err(Kind::NotFound));
    // In use.
    home.pull(&a, &["u/a:1", "u/b:1"], &[]).unwrap();
    home.store.pin("container c", &a.id()).unwrap();
    assert_eq!(remove("u/a:1", false).unwrap().len(), 1);
    for text in ["u/b:1", &id] {
        assert_eq!(remove(text, false), Err(Kind::Conflict));
    }
    assert_eq!(
        remove("u/b:1", true).unwrap(),
        [untagged("docker.io/u/b:1"), gone[0].clone()]
    );
    assert_eq!(home.gc().layers.len(), 0);
    assert_eq!(
        home.store.pins().unwrap(),
        [("container c".to_owned(), a.id())]
    );
    home.store.unpin("container c").unwrap();
    assert_eq!(home.gc().layers.len(), 1);
    assert_eq!(
        home.store.pin("d", &a.id()).unwrap_err().kind(),
        Kind::NotFound
    );
    home.assert_clean();
    assert_eq!((home.layers_on_disk(), home.blobs_on_disk()), (0, 0));
}

#[test]
fn a_moved_name_leaves_a_dangling_image_and_prune_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), "boot").unwrap();
    let images: Vec<_> = ["1", "2", "3"].map(|n| recipe(n, &["base", n])).into();
    for image in &images {
        home.pull(image, &["a"], &[A]).unwrap();
    }
    let all = home.store.images().unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!(all.iter().filter(|i| i.names.is_empty()).count(), 2);
    assert!(all.iter().all(|i| i.repo_digests.len() == 1));
    // One is held by a running operation.
    let lease = home.store.lease("run").unwrap();
    home.store.hold_image(&lease, &images[0].id()).unwrap();
    let none = home
        .store
        .prune_images(Prune::default(), &|_| false)
        .unwrap();
    assert!(none.is_empty());
    let pruned = home
        .store
        .prune_images(Prune::default(), &|_| true)
        .unwrap();
    assert!(
        pruned.contains(&Removed::Deleted(images[1].id())) && pruned.len() == 3,
        "{pruned:?}"
    );
    // Removed from under it, it still has its layers.
    home.store
        .remove_image(&images[0].id().to_string(), RemoveOptions::default())
        .unwrap();
    assert_eq!(home.gc().layers.len(), 1);
    drop(lease);
    assert_eq!(home.gc().layers.len(), 1);
    let mut all = Prune::default();
    all.all = true;
    assert_eq!(
        home.store
            .prune_images(all, &|i| i.id == images[2].id())
            .unwrap()
            .len(),
        5
    );
    home.gc();
    assert_eq!((home.layers_on_disk(), home.blobs_on_disk()), (0, 0));
    home.assert_clean();
}

#[test]
fn one_image_by_two_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), "boot").unwrap();
    let gzip = recipe("a", &["x"]);
    let mut zstd = recipe("a", &["x"]);
    zstd.manifest = String::from_utf8(zstd.manifest)
        .unwrap()
        .replace("\"size\"", " \"size\"")
        .into();
    assert!(gzip.id() == zstd.id() && gzip.manifest != zstd.manifest);
    home.pull(&gzip, &["a:gzip"], &[]).unwrap();
    home.pull(&zstd, &["a:zstd"], &[]).unwrap();
    assert_eq!(home.store.images().unwrap().len(), 1);
    for (name, recipe) in [("a:gzip", &gzip), ("a:zstd", &zstd)] {
        let image = home.store.resolve(name).unwrap();
        assert_eq!(image.manifest, recipe.manifest_digest());
        assert_eq!(home.store.image_layers(&image).unwrap().len(), 1);
        let by = home
            .store
            .image_by_manifest(&recipe.manifest_digest())
            .unwrap()
            .unwrap();
        assert_eq!(by.id, gzip.id());
    }
    // Swept when the last name that it came by is gone.
    assert!(home.gc().blobs.is_empty());
    home.store
        .remove_image("a:gzip", RemoveOptions::default())
        .unwrap();
    assert_eq!(home.gc().blobs, [gzip.manifest_digest().to_string()]);
    home.assert_clean();
}

#[test]
fn an_image_needs_all_its_parts() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), "boot").unwrap();
    let a = recipe("a", &["x", "y"]);
    let lease = home.store.lease("pull").unwrap();
    let refuse = || {
        let e = home
            .store
            .add_image(&lease, &a.image(&["a"], &[]))
            .unwrap_err();
        assert!(e.kind() == Kind::Conflict && e.hint().is_some(), "{e}");
        assert!(home.store.images().unwrap().is_empty());
    };
    refuse();
    home.store.put_blob(&lease, &a.id(), &a.config).unwrap();
    home.store
        .put_blob(&lease, &a.manifest_digest(), &a.manifest)
        .unwrap();
    home.add_layer(&lease, b"x").unwrap();
    refuse();
    home.add_layer(&lease, b"y").unwrap();
    for bad in ["A", "a@sha256:00", &format!("a@{}", a.id())] {
        assert!(
            home.store.add_image(&lease, &a.image(&[bad], &[])).is_err(),
            "{bad}"
        );
    }
    home.store.add_image(&lease, &a.image(&["a"], &[])).unwrap();
    home.assert_clean();
    let e = home.store.put_blob(&lease, &a.id(), b"other").unwrap_err();
    assert_eq!(e.kind(), Kind::Integrity);
    // Compressed blobs were never there, and are not missed.
    assert_eq!(home.blobs_on_disk(), 2);
}

#[test]
fn blobs_of_layers_can_be_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), "boot").unwrap();
    home.pull(&recipe("a", &["x", "y"]), &["a"], &[]).unwrap();
    let df = home.store.df().unwrap();
    assert_eq!(
        (df.images.count, df.layers.count, df.blobs.count),
        (1, 2, 4)
    );
    assert_eq!(
        (
            df.layers.bytes,
            df.layers.reclaimable,
            df.images.reclaimable
        ),
        (2, 0, 2)
    );
    let mut options = GcOptions::default();
    options.keep_layer_blobs = false;
    assert_eq!(
        home.store.gc(&home.driver, &options).unwrap().blobs.len(),
        2
    );
    home.assert_clean();
    let report = serde_json::to_value(home.check()).unwrap();
    assert_eq!(report["layers"], 2);
    assert!(home.store.recover(&home.driver, &Cancel::new()).unwrap() == Default::default());
}

fn container(id: char, name: &str, image: unlade_unpack::Digest) -> NewContainer {
    NewContainer {
        id: id.to_string().repeat(64),
        name: name.to_owned(),
        created: 7,
        image,
        request: "{}".to_owned(),
        facts: "[]".to_owned(),
        transient: false,
    }
}

#[test]
fn containers_are_found_and_keep_their_image() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), "boot").unwrap();
    let a = recipe("a", &["base"]);
    home.pull(&a, &["a"], &[]).unwrap();
    let store = &home.store;
    let e = store.add_container(&container('a', "one", sha(b"none")));
    assert_eq!(e.unwrap_err().kind(), Kind::NotFound);
    store.add_container(&container('a', "one", a.id())).unwrap();
    let e = store.add_container(&container('b', "one", a.id()));
    let e = e.unwrap_err();
    assert!(e.kind() == Kind::Conflict && e.message().contains("name \"/one\" is already in use"));
    store.add_container(&container('b', "bee", a.id())).unwrap();

    // The id, the name, the start of the id.
    for text in ["aaaa", "one", "/one", &"a".repeat(64)] {
        assert_eq!(store.container(text).unwrap().name, "one", "{text}");
    }
    // A name wins over the beginning of an id.
    store.rename_container(&"a".repeat(64), "bb").unwrap();
    assert_eq!(store.container("bb").unwrap().id, "a".repeat(64));
    assert_eq!(store.container("bbb").unwrap().name, "bee");
    let taken = store.rename_container(&"b".repeat(64), "bb").unwrap_err();
    assert_eq!(taken.kind(), Kind::Conflict);
    for text in ["", "one", "c", "aB"] {
        let e = store.container(text).unwrap_err();
        assert_eq!(e.message(), format!("No such container: {text}"));
    }

    let row = store.container("bee").unwrap();
    assert_eq!(
        (row.stage, row.run, row.abandoned),
        (Stage::Creating, None, false)
    );
    store.set_container_run(&row.id, "{1}").unwrap();
    let row = store.container("bee").unwrap();
    assert_eq!(
        (row.stage, row.run.as_deref()),
        (Stage::Created, Some("{1}"))
    );

    let said = |text: &str| {
        let e = store
            .remove_image(text, RemoveOptions::default())
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        e.message().to_owned()
    };
    let short = &a.id().hex()[..12];
    assert_eq!(
        said("a"),
        format!(
            "conflict: unable to remove repository reference \"a\" (must force) - container \
                 aaaaaaaaaaaa is using its referenced image {short}"
        )
    );
    assert!(said(short).starts_with(&format!(
        "conflict: unable to delete {short} (must be forced)"
    )));
    for id in ['a', 'b'] {
        store.remove_container(&id.to_string().repeat(64)).unwrap();
    }
    assert!(store.containers().unwrap().is_empty() && store.pins().unwrap().is_empty());
    store.remove_image("a", RemoveOptions::default()).unwrap();
}

#[test]
fn a_container_of_a_process_that_is_gone_is_abandoned() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), "boot").unwrap();
    let a = recipe("a", &["base"]);
    home.pull(&a, &["a"], &[]).unwrap();
    home.store
        .add_container(&container('a', "one", a.id()))
        .unwrap();
    home.store
        .add_container(&container('b', "two", a.id()))
        .unwrap();
    home.store
        .set_container_stage(&"b".repeat(64), Stage::Created)
        .unwrap();
    assert!(home.store.abandoned_containers().unwrap().is_empty());
    let later = open_in(dir.path(), "another boot").unwrap();
    let left = later.store.abandoned_containers().unwrap();
    assert_eq!(left.iter().map(|c| &*c.name).collect::<Vec<_>>(), ["one"]);
    later
        .store
        .set_container_stage(&"b".repeat(64), Stage::Removing)
        .unwrap();
    assert_eq!(later.store.container("two").unwrap().stage, Stage::Removing);
}
