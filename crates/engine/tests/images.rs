//! The commands on images and the store, as a user calls them. Registries: `tests/registry.rs` and
//! `scripts/peers.py`.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{store::Store, *};
use serde_json::Value;

/// A store whose commands leave flushing to later ones.
fn new(driver: &'static str, config: &str) -> Store {
    let above = if driver == "overlay" {
        "/var/tmp"
    } else {
        "/tmp"
    };
    Store::new(
        above,
        driver,
        config,
        &[("TZ", "UTC"), ("UNLADE_FLUSH", "later")],
    )
}

impl Store {
    /// Loads an image of two layers under a name.
    fn load(&self, name: &str) -> String {
        let layout = Layout::new();
        let image = named(layout.image(&two_layers()), name);
        layout.index(&[image]);
        let file = self.arg("image.tar");
        fs::write(&file, layout.archive()).unwrap();
        self.ok(&["load", "-i", &file])
    }

    fn check(&self) {
        let said = self.ok(&["system", "check"]);
        assert!(said.contains("all sound"), "{said}");
    }
}

#[test]
fn a_tree_of_images() {
    if skip_unless_root("a_tree_of_images") {
        return;
    }
    let store = new("overlay", "");
    store.load("one:1");
    store.ok(&["tag", "one:1", "two:2"]);
    let text = store.ok(&["images", "--tree"]);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let image: Value = serde_json::from_str(&store.ok(&["inspect", "one:1"])).unwrap();
    let short = |text: &Value| text.as_str().unwrap()[7..19].to_owned();
    assert_eq!(
        lines[0],
        [
            "IMAGE", "ID", "DISK", "USAGE", "CONTENT", "SIZE", "IN", "USE"
        ]
    );
    assert_eq!(lines[1], ["one:1"]);
    assert_eq!(lines[2][..2], ["two:2", &*short(&image[0]["Id"])]);
    assert_eq!(lines[3][..2], ["└─", "linux/amd64"]);
    assert_eq!(lines[3][2], short(&image[0]["Descriptor"]["digest"]));
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(store.ok(&["images", "--tree", "none"]).lines().count(), 1);
    for (flag, said) in [
        ("-q", "--quiet"),
        ("--no-trunc", "--no-trunc"),
        ("--digests", "--show-digest"),
        ("--format=json", "--format"),
    ] {
        let want = format!("{said} is not yet supported with --tree");
        let said = store.fails(&["images", "--tree", flag]);
        assert!(said.contains(&want), "{said}");
    }
}

/// Runs `body` over stores of two kinds.
fn stores(test: &str, body: impl Fn(&Store)) {
    if skip_unless_root(test) {
        return;
    }
    for driver in ["overlay", "erofs", "copy"] {
        let store = new(driver, "");
        body(&store);
        store.check();
    }
}

#[test]
fn an_image_comes_is_seen_and_goes() {
    stores("an_image_comes_is_seen_and_goes", |store| {
        assert_eq!(
            store.load("docker.io/library/two:1"),
            "Loaded image: two:1\n"
        );
        let list = store.ok(&["images"]);
        assert!(list.starts_with("REPOSITORY   TAG"), "{list}");
        assert_eq!(list.lines().count(), 2);
        let id = store.ok(&["images", "-q", "--no-trunc"]);
        assert!(id.starts_with("sha256:") && id.lines().count() == 1, "{id}");
        let id = id.trim();
        let document: Value = serde_json::from_str(&store.ok(&["inspect", "two:1"])).unwrap();
        assert_eq!(document[0]["Id"], id);
        assert_eq!(document[0]["RepoTags"][0], "two:1");
        assert_eq!(document[0]["GraphDriver"]["Name"], store.driver);
        assert_eq!(document[0]["RootFS"]["Layers"].as_array().unwrap().len(), 2);
        assert_eq!(
            store.ok(&["inspect", "-f", "{{.Id}}", &id[7..15]]).trim(),
            id
        );

        store.ok(&["tag", "two:1", "localhost:5000/other"]);
        assert_eq!(store.ok(&["images", "-q"]).lines().count(), 1);
        let names = store.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        let mut names: Vec<&str> = names.lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["localhost:5000/other:latest", "two:1"]);
        let some = store.ok(&[
            "images",
            "--filter",
            "reference=two",
            "--format",
            "{{.Tag}}",
        ]);
        assert_eq!(some, "1\n");

        assert!(store.fails(&["rmi", id]).contains("several repositories"));
        assert_eq!(store.ok(&["rmi", "two:1"]), "Untagged: two:1\n");
        let gone = store.ok(&["rmi", "localhost:5000/other"]);
        assert!(gone.contains(&format!("Deleted: {id}")), "{gone}");
        assert_eq!(store.ok(&["images", "-q"]), "");
        assert!(store.fails(&["inspect", "two:1"]).contains("two:1"));
        let layers = fs::read_dir(store.path(&format!("store/graph/{}/layers", store.driver)));
        assert_eq!(layers.unwrap().count(), 0);
    });
}

fn is_empty(dir: &str) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn names_that_are_not_there_fit_no_pattern() {
    stores("names_that_are_not_there_fit_no_pattern", |store| {
        store.load("docker.io/library/two:1");
        store.ok(&["tag", "two:1", "other"]);
        let e = store.fails(&["tag", "two:1", "sha256:abc"]);
        assert!(e.contains("ambiguous"), "{e}");
        assert!(store.fails(&["pull", "scratch"]).contains("reserved"));
        for (pattern, rows) in [("*", 2), ("t*", 1), ("*:latest", 1), ("no", 0)] {
            let listed = store.ok(&["images", "-q", "--filter", &format!("reference={pattern}")]);
            let full = store.ok(&["images", pattern, "--format", "{{.Repository}}"]);
            assert_eq!(listed.lines().count(), rows.min(1), "{pattern}");
            assert_eq!(full.lines().count(), rows, "{pattern}: {full}");
            assert!(!full.contains("<none>"), "{full}");
        }
    });
}

#[test]
fn images_are_mounted_and_pinned() {
    stores("images_are_mounted_and_pinned", |store| {
        store.load("docker.io/library/two:1");
        let at = store.arg("mnt");
        assert!(
            store
                .fails(&["image", "mount", "two:1", &at])
                .contains("mnt")
        );
        fs::create_dir(&at).unwrap();
        store.ok(&["image", "mount", "two:1", &at]);
        assert_eq!(tree(Path::new(&at)), two_layers_tree());
        assert!(fs::write(format!("{at}/new"), "x").is_err());
        let e = store.fails(&["image", "mount", "two:1", &at]);
        assert!(e.contains("already"), "{e}");
        let e = store.fails(&["image", "mount", "two:1", &store.arg("config.toml")]);
        assert!(e.contains("not a directory"), "{e}");
        assert!(store.fails(&["rmi", "two:1"]).contains("in use"));
        store.ok(&["image", "prune", "-a", "-f"]);
        assert!(store.ok(&["info"]).contains(&format!("at {at}")));
        let format = "{{.OSType}} {{.NCPU}} {{.ServerVersion}} {{.DockerRootDir}}";
        let info = store.ok(&["info", "-f", format]);
        let (version, root) = (env!("CARGO_PKG_VERSION"), store.arg("store"));
        let cpus = std::thread::available_parallelism().unwrap();
        assert_eq!(info, format!("linux {cpus} {version} {root}\n"));
        store.ok(&["image", "unmount", &at]);
        assert!(is_empty(&at));
        assert!(
            store
                .fails(&["image", "unmount", &at])
                .contains("no image is mounted")
        );

        store.ok(&["image", "mount", "--rw", "two:1", &at]);
        fs::write(format!("{at}/new"), "x").unwrap();
        store.ok(&["image", "unmount", &at]);
        store.ok(&["image", "mount", "two:1", &at]);
        assert_eq!(tree(Path::new(&at)), two_layers_tree());
        // A plain umount leaves a pin that prune drops.
        assert!(Command::new("umount").arg(&at).status().unwrap().success());
        store.ok(&["system", "prune", "-a", "-f"]);
        assert_eq!(store.ok(&["images", "-q"]), "");
    });
}

#[test]
fn a_signal_ends_a_question() {
    stores("a_signal_ends_a_question", |store| {
        store.load("docker.io/library/two:1");
        let mut child = store
            .command(&["image", "prune", "-a"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut asked = Vec::new();
        let mut stderr = child.stderr.take().unwrap();
        while !asked.ends_with(b"[y/N] ") {
            let mut byte = [0];
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{asked:?}");
            asked.push(byte[0]);
        }
        let stdin = child.stdin.take();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        // Its standard input stays open: nothing but the signal can end it.
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(130));
        drop(stdin);
        assert_eq!(store.ok(&["images", "-q"]).lines().count(), 1);
    });
}

#[test]
fn archives_come_back_as_they_were() {
    stores("archives_come_back_as_they_were", |store| {
        store.load("docker.io/library/two:1");
        let id = store.ok(&["images", "-q", "--no-trunc"]);
        let file = store.arg("saved.tar");
        store.ok(&["save", "-o", &file, "two:1"]);
        let dir = store.arg("layout");
        store.ok(&["save", "-o", &dir, "--format", "oci-dir", "two:1"]);
        // Also where no directory can be replaced, and there whole or not at all too.
        let small = store.arg("small");
        fs::create_dir(&small).unwrap();
        let mount = |what: &str| {
            let args = ["-t", "tmpfs", "-o", what, "tmpfs", &small];
            let done = Command::new("mount").args(args).status().unwrap();
            assert!(done.success());
        };
        let save = ["save", "-o", ".", "--format", "oci-dir", "two:1"];
        let here = |args: &[&str]| store.command(args).current_dir(&small).output().unwrap();
        mount("size=12k");
        let said = text(&here(&save).stderr);
        let left = fs::read_dir(&small).unwrap().count();
        mount("remount,size=10m");
        let out = here(&save);
        let loaded = here(&["load", "-i", "."]);
        let again = text(&here(&save).stderr);
        let done = Command::new("umount").arg(&small).status().unwrap();
        assert!(done.success());
        assert!(
            said.contains("No space left") && left == 0,
            "{left}: {said}"
        );
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert_eq!(text(&loaded.stdout), "Loaded image: two:1\n");
        assert!(again.contains("`.` is not empty"), "{again}");
        store.ok(&["rmi", "two:1"]);
        assert_eq!(store.ok(&["load", "-i", &file]), "Loaded image: two:1\n");
        assert_eq!(store.ok(&["images", "-q", "--no-trunc"]), id);
        let again = store.arg("again.tar");
        store.ok(&["save", "-o", &again, "two:1"]);
        assert!(fs::read(&file).unwrap() == fs::read(&again).unwrap());
        store.ok(&["load", "-i", &dir]);
        assert_eq!(store.ok(&["images", "-q", "--no-trunc"]), id);
        let e = store.fails(&["load", "--platform", "linux/s390x", "-i", &file]);
        assert!(e.contains("no image for linux/s390x"), "{e}");
        // A bare name stands for all tags of its repository.
        store.ok(&["tag", "two:1", "two:2"]);
        let both = store.arg("both.tar");
        store.ok(&["save", "-o", &both, "two"]);
        store.ok(&["rmi", "-f", "two:1", "two:2"]);
        let loaded = store.ok(&["load", "-i", &both]);
        assert_eq!(loaded, "Loaded image: two:1\nLoaded image: two:2\n");
        assert!(
            store
                .fails(&["save", "-o", &again, "three"])
                .contains("three")
        );
        assert!(fs::read(&file).unwrap() == fs::read(&again).unwrap());
    });
}

#[test]
fn a_tar_becomes_an_image() {
    stores("a_tar_becomes_an_image", |store| {
        let file = store.arg("root.tar");
        fs::write(&file, tar(&[("bin/", ""), ("bin/sh", "#!")])).unwrap();
        let change = ["-c", "CMD [\"sh\"]", "-c", "ENV A=b"];
        let id = store.ok(&[&["import"], &change[..], &[&file, "made:2"]].concat());
        assert_eq!(store.ok(&["images", "-q", "--no-trunc"]), id);
        let cmd = store.ok(&["inspect", "-f", "{{.Config.Cmd}} {{.Config.Env}}", "made:2"]);
        assert_eq!(cmd, "[sh] [A=b]\n");
        assert_eq!(store.ok(&["history", "-q", "made:2"]).lines().count(), 1);
        assert!(
            store
                .fails(&["import", "-c", "RUN x", &file])
                .contains("RUN")
        );
    });
}

#[test]
fn damage_is_found() {
    stores("damage_is_found", |store| {
        store.load("docker.io/library/two:1");
        store.check();
        let blobs = store.path("store/blobs/sha256");
        let largest = fs::read_dir(&blobs)
            .unwrap()
            .map(|e| e.unwrap().path())
            .max_by_key(|p| fs::metadata(p).unwrap().len())
            .unwrap();
        let mut bytes = fs::read(&largest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        open_up(&largest);
        fs::write(&largest, bytes).unwrap();
        let said = store.fails(&["system", "check"]);
        assert!(said.contains("not sound"), "{said}");
        let name = largest.file_name().unwrap().to_str().unwrap();
        let found = text(&store.run(&["system", "check"]).stdout);
        assert!(found.contains(name), "{found}");
        // There is no registry to fetch it from: what is lost is said, and can be removed.
        store.fails(&["system", "check", "--repair"]);
        store.run(&["rmi", "-f", "two:1"]);
        store.ok(&["system", "prune", "-a", "-f"]);
    });
}

#[test]
fn what_came_is_flushed_without_another_command() {
    let store = new("copy", "");
    let layout = Layout::new();
    layout.index(&[named(
        layout.image(&two_layers()),
        "docker.io/library/two:1",
    )]);
    let file = store.arg("image.tar");
    fs::write(&file, layout.archive()).unwrap();
    let marked = |store: &Store| -> u64 {
        let db = rusqlite::Connection::open(store.arg("store/unlade.db")).unwrap();
        let count = "SELECT count(*) FROM blobs WHERE boot IS NOT NULL";
        db.query_row(count, [], |r| r.get(0)).unwrap()
    };
    store.ok(&["load", "-i", &file]);
    assert!(marked(&store) > 0);
    store.ok(&["system", "flush"]);
    assert_eq!(marked(&store), 0);

    let store = new("copy", "");
    let mut command = store.command(&["load", "-i", &file]);
    // Its output ends though the other process goes on.
    let out = command.env("UNLADE_FLUSH", "soon").output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    // The whole file system is written out, and others write to it.
    for _ in 0..6000 {
        if marked(&store) == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(marked(&store), 0);
    // It is not to meet the removal of its store.
    let lock = fs::File::open(store.arg("store/lock.flush")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut command = store.command(&["images"]);
    let out = command.env("UNLADE_FLUSH", "never").output().unwrap();
    assert!(text(&out.stderr).contains("UNLADE_FLUSH"));
}

#[test]
fn a_lost_database_is_built_anew() {
    stores("a_lost_database_is_built_anew", |store| {
        store.load("docker.io/library/two:1");
        let id = store.ok(&["images", "-q", "--no-trunc"]);
        let database = store.arg("store/unlade.db");
        for damage in ["gone", "overwritten"] {
            fs::remove_file(&database).unwrap();
            for log in ["-wal", "-shm"] {
                let _ = fs::remove_file(format!("{database}{log}"));
            }
            if damage == "overwritten" {
                fs::write(&database, [b'x'; 8192]).unwrap();
            }
            let e = store.fails(&["images"]);
            assert!(e.contains("system check --repair"), "{damage}: {e}");
            let said = store.ok(&["system", "check", "--repair"]);
            assert!(said.contains("Rebuilt the database: 1 images"), "{said}");
            assert_eq!(store.ok(&["images", "-q", "--no-trunc"]), id);
            store.ok(&["system", "check"]);
        }
    });
}

#[test]
fn a_merged_index_that_is_damaged_is_made_anew() {
    if skip_unless_root("a_merged_index_that_is_damaged_is_made_anew") {
        return;
    }
    let store = new("erofs", "");
    store.load("docker.io/library/two:1");
    let images = PathBuf::from(store.arg("store/graph/erofs/images"));
    let of_image = fs::read_dir(images).unwrap().map(|e| e.unwrap().path());
    let of_image: Vec<PathBuf> = of_image.collect();
    assert_eq!(of_image.len(), 1);
    let files = fs::read_dir(&of_image[0]).unwrap();
    let files = files.map(|e| e.unwrap().path());
    let index = files.into_iter().find(|p| p.extension().is_some()).unwrap();
    let good = fs::read(&index).unwrap();
    let mut bytes = good.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&index, bytes).unwrap();
    let found = text(&store.run(&["system", "check"]).stdout);
    assert!(found.contains("merged layers of image"), "{found}");
    let said = store.ok(&["system", "check", "--repair"]);
    assert!(said.contains("1 images merged anew"), "{said}");
    assert_eq!(fs::read(&index).unwrap(), good);
    store.check();
}

#[test]
fn without_blobs() {
    if skip_unless_root("without_blobs") {
        return;
    }
    for (driver, can_save) in [("overlay", false), ("erofs", true)] {
        let store = new(driver, "keep-blobs = \"never\"\n");
        store.load("docker.io/library/two:1");
        let file = store.arg("saved.tar");
        if can_save {
            store.ok(&["save", "-o", &file, "two:1"]);
            store.ok(&["rmi", "two:1"]);
            assert_eq!(store.ok(&["load", "-i", &file]), "Loaded image: two:1\n");
        } else {
            let said = store.fails(&["save", "-o", &file, "two:1"]);
            assert!(
                said.contains("keep-blobs") && !Path::new(&file).exists(),
                "{said}"
            );
        }
        assert!(
            store
                .fails(&["push", "localhost:1/two:1"])
                .contains("localhost:1/two")
        );
        store.check();
    }
}

#[test]
fn wrong_use() {
    let store = new("copy", "");
    for (args, part) in [
        (&["pull", "UPPER"][..], "lower"),
        (&["pull", "-a", "x:1"], "--all-tags"),
        (&["images", "--filter", "no=1"], "filter"),
        (&["tag", "nothing", "x"], "nothing"),
        (&["load", "-i", "/nonexistent"], "/nonexistent"),
        (&["image", "unmount", "/"], "no image is mounted"),
    ] {
        let said = store.fails(args);
        assert!(said.contains(part), "{args:?}: {said}");
    }
    let bad = new("copy", "rot = 1\n");
    assert!(bad.fails(&["images"]).contains("rot"));
    let none = new("zfs", "");
    assert!(none.fails(&["images"]).contains("zfs"));
    let wrong = store.run(&["images", "--nonsense"]);
    assert_eq!(wrong.status.code(), Some(125));
}
