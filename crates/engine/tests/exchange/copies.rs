//! Copies land where docker puts them, and keep what they had.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
};

use crate::{
    common::text,
    stores,
    trees::{everything, listed, seen},
};

#[test]
fn what_is_copied_in_comes_out() {
    stores("what_is_copied_in_comes_out", |store, _| {
        store.create("cc", &[]);
        let from = store.path("from");
        everything(&from);
        let said = store.run(&["cp", &store.arg("from/d"), "cc:/new"]);
        assert!(said.status.success(), "{}", text(&said.stderr));
        assert!(
            text(&said.stderr).starts_with("Successfully copied "),
            "{}",
            text(&said.stderr)
        );
        assert!(
            text(&said.stderr).ends_with(" to cc:/new\n"),
            "{}",
            text(&said.stderr)
        );
        let quiet = store.run(&["cp", "-q", "-a", "cc:/new", &store.arg("out")]);
        assert!(
            quiet.status.success() && quiet.stderr.is_empty(),
            "{}",
            text(&quiet.stderr)
        );
        assert_eq!(seen(&store.path("out")), seen(&from.join("d")));
        let meta = |path: &str| fs::metadata(store.path(path)).unwrap();
        assert!(
            meta("out/sparse").blocks() * 512 < 1 << 20,
            "holes are kept"
        );
        let owner = |path: &str| {
            let m = meta(&format!("{path}/{}", "n".repeat(200)));
            (m.uid(), m.gid())
        };
        assert_eq!(owner("out"), (3_000_000, 7));
        let mut value = [0; 8];
        let n = rustix::fs::getxattr(store.path("out/file"), "user.a", &mut value[..]).unwrap();
        assert_eq!(&value[..n], b"\0v");
        // Without -a what comes out is the caller's.
        store.ok(&["container", "cp", "cc:/new/.", &store.arg("mine")]);
        assert_eq!(owner("mine"), (0, 0));
        // The other way through a tar.
        let tar = store.run(&["cp", "cc:/new", "-"]).stdout;
        store.create("other", &[]);
        let fed = store.feed(&["cp", "-", "other:/opt"], &tar);
        assert!(fed.status.success(), "{}", text(&fed.stderr));
        store.ok(&["cp", "-q", "-a", "other:/opt/new", &store.arg("again")]);
        assert_eq!(seen(&store.path("again")), seen(&from.join("d")));
    });
}

#[test]
fn where_copies_land() {
    stores("where_copies_land", |store, _| {
        store.create("cc", &[]);
        fs::create_dir_all(store.path("dir/sub")).unwrap();
        fs::write(store.path("dir/f"), "one").unwrap();
        fs::write(store.path("f"), "two").unwrap();
        symlink("f", store.path("l")).unwrap();
        let (dir, f, l) = (store.arg("dir"), store.arg("f"), store.arg("l"));
        let cp = |from: &str, to: &str| store.ok(&["cp", "-q", from, to]);
        cp(&f, "cc:/opt");
        assert_eq!(store.read("cc:/opt/f"), "two");
        cp(&f, "cc:opt/name");
        assert_eq!(store.read("cc:/opt/name"), "two");
        cp(&dir, "cc:/opt");
        assert_eq!(store.read("cc:/opt/dir/f"), "one");
        assert_eq!(store.read("cc:/opt/dir/old"), "old");
        cp(&format!("{dir}/."), "cc:/alias/");
        assert_eq!(store.read("cc:/opt/f"), "one");
        cp(&dir, "cc:/fresh");
        assert_eq!(store.read("cc:/fresh/f"), "one");
        // Links: as they are, or followed.
        cp(&l, "cc:/opt/l");
        let tar = store.run(&["cp", "cc:/opt/l", "-"]).stdout;
        assert!(
            listed(&tar)["l"].starts_with("Symlink"),
            "{:?}",
            listed(&tar)
        );
        store.ok(&["cp", "-q", "-L", &l, "cc:/opt/m"]);
        assert_eq!(store.read("cc:/opt/m"), "two");
        let tar = store.run(&["cp", "-L", "cc:/alias", "-"]).stdout;
        assert!(
            listed(&tar).contains_key("alias/kept"),
            "{:?}",
            listed(&tar).keys()
        );
        // A file is replaced: another name of it keeps what it had.
        cp(&f, "cc:/opt/kept");
        assert_eq!(store.read("cc:/opt/kept"), "two");
        assert_eq!(store.read("cc:/opt/twin"), "kept");
        for (from, to, words) in [
            (&*dir, "cc:/opt/twin", "cannot copy directory"),
            (&f, "cc:/nowhere/", "no such directory"),
            (
                &f,
                "cc:/no/where",
                "Could not find the file /no/where in container cc",
            ),
            (&f, "cc:/proc/x/y", "Could not find the file"),
            (
                "cc:/none",
                &f,
                "Could not find the file /none in container cc",
            ),
            ("cc:/opt/twin/", &f, "not a directory"),
            (
                "cc:/opt/twin",
                "/var/tmp/no/where",
                "directory \"/var/tmp/no\" does not exist",
            ),
            (
                "cc:/opt/twin",
                "/dev/null",
                "must be a directory or a regular file: got a device",
            ),
            ("cc:/opt", &f, "cannot copy directory"),
            (&store.arg("none"), "cc:/opt", "no such file or directory"),
            (
                "cc:/opt",
                "cc:/x",
                "copying between containers is not supported",
            ),
            (&f, &dir, "must specify at least one container source"),
            (&f, "nobody:/", "No such container: nobody"),
            ("", "cc:/", "source can not be empty"),
        ] {
            let said = store.fails(&["cp", from, to]);
            assert!(said.contains(words), "{from} {to}: {said}");
        }
        // Directories and files never take each other's places.
        fs::create_dir_all(store.path("mixed/kept")).unwrap();
        fs::write(store.path("mixed/dir"), "").unwrap();
        let said = store.fails(&["cp", &format!("{}/.", store.arg("mixed")), "cc:/opt"]);
        assert!(said.contains("cannot overwrite "), "{said}");
        assert_eq!(store.read("cc:/opt/dir/old"), "old");
        assert_eq!(store.read("cc:/opt/kept"), "two");
    });
}

#[test]
fn owners_and_what_is_read_only() {
    stores("owners_and_what_is_read_only", |store, _| {
        fs::write(store.path("f"), "f").unwrap();
        let f = store.arg("f");
        rustix::fs::chown(&f, Some(rustix::fs::Uid::from_raw(77)), None).unwrap();
        store.create("uu", &["-u", "app"]);
        let owner = |name: &str| listed(&store.run(&["cp", name, "-"]).stdout)["f"].clone();
        store.ok(&["cp", "-q", &f, "uu:/opt/"]);
        assert!(
            owner("uu:/opt/f").contains(" 77:0 "),
            "{}",
            owner("uu:/opt/f")
        );
        store.ok(&["cp", "-q", "-a", &f, "uu:/opt/"]);
        assert!(
            owner("uu:/opt/f").contains(" 1000:1001 "),
            "{}",
            owner("uu:/opt/f")
        );
        store.create(
            "ro",
            &["--read-only", "-v", "rw:/data", "-v", "other:/fixed:ro"],
        );
        let refused = |name: &str| {
            let said = store.fails(&["cp", &f, &format!("{name}:/opt/f")]);
            assert!(
                said.contains("container rootfs is marked read-only"),
                "{said}"
            );
            let said = store.fails(&["cp", &f, &format!("{name}:/fixed/f")]);
            assert!(
                said.contains("mounted volume is marked read-only"),
                "{said}"
            );
            store.ok(&["cp", "-q", &f, &format!("{name}:/data/f")]);
        };
        refused("ro");
        store.ok(&["start", "ro"]);
        refused("ro");
        let mut value = String::new();
        File::open(store.path("store/volumes/rw/_data/f"))
            .unwrap()
            .read_to_string(&mut value)
            .unwrap();
        assert_eq!(value, "f");
        let kind = fs::symlink_metadata(store.path("store/volumes/rw/_data/f"))
            .unwrap()
            .file_type();
        assert!(!kind.is_fifo() && kind.is_file());
    });
}
