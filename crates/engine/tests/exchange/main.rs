//! `cp`, `diff`, `export` and `commit`, as a user calls them: on containers that never ran, that
//! ran and that run, over layers of two drivers, with what hostile images and containers hold
//! against them.
#![allow(missing_docs, clippy::unwrap_used)]

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod copies;
mod hostile;
mod trees;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    path::Path,
    process::{Output, Stdio},
};

use common::{skip_unless_root, store::Store, text};
use trees::{listed, made};

impl Store {
    /// Gives a command a tar.
    fn feed(&self, args: &[&str], tar: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that refuses may not read it.
        let _ = child.stdin.take().unwrap().write_all(tar);
        child.wait_with_output().unwrap()
    }

    fn create(&self, name: &str, more: &[&str]) {
        let args = [
            &["create", "--name", name, "--network", "none"],
            more,
            &["base"],
        ]
        .concat();
        self.ok(&args);
    }

    /// A container that runs until it is removed.
    fn start(&self, name: &str, more: &[&str]) {
        let args = [&["run", "-d", "--name", name, "--network", "none"], more].concat();
        self.ok(&[&args[..], &["base", "sleep", "600"]].concat());
    }

    /// What is in a file of a container.
    fn read(&self, of: &str) -> String {
        let tar = self.run(&["cp", of, "-"]);
        assert!(tar.status.success(), "{of}: {}", text(&tar.stderr));
        let mut archive = tar::Archive::new(&tar.stdout[..]);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        content
    }

    /// What a container's own files are.
    fn exported(&self, name: &str) -> BTreeMap<String, String> {
        let tar = self.run(&["export", name]);
        assert!(tar.status.success(), "{}", text(&tar.stderr));
        listed(&tar.stdout)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let names = self.run(&["ps", "-aq"]);
        for name in text(&names.stdout).lines() {
            self.run(&["rm", "-f", "-v", name]);
        }
    }
}

/// What is in the host's file that links lead to.
const OUTSIDE: &str = "unlade: this is outside";
const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;
const LINK: tar::EntryType = tar::EntryType::Symlink;
const HARD: tar::EntryType = tar::EntryType::Link;

/// Runs `body` over stores of two drivers; `host` is a directory of the host whose files must stay
/// as they are, and that links in the image lead to.
fn stores(test: &str, body: impl Fn(&Store, &Path)) {
    if skip_unless_root(test) {
        return;
    }
    for driver in ["overlay", "erofs"] {
        let config = if driver == "erofs" {
            "keep-blobs = \"never\""
        } else {
            ""
        };
        let store = Store::new("/var/tmp", driver, config, &[]);
        let host = store.path("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("secret"), OUTSIDE).unwrap();
        let busybox = fs::read("/bin/busybox").unwrap();
        let outside = host.display().to_string();
        let up = format!("../../../../../../../..{outside}");
        let mut out = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_path("bin/busybox").unwrap();
        header.set_mode(0o755);
        header.set_size(busybox.len() as u64);
        header.set_cksum();
        out.append(&header, &busybox[..]).unwrap();
        let mut tar = out.into_inner().unwrap();
        tar.truncate(tar.len() - 1024);
        tar.extend(made(&[
            ("bin/sh", LINK, "busybox"),
            ("bin/sleep", LINK, "busybox"),
            ("out", LINK, &outside),
            ("rel", LINK, &up),
            ("etc/", DIR, ""),
            (
                "etc/passwd",
                FILE,
                "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n",
            ),
            ("etc/group", FILE, "root:x:0:\napp:x:1001:\n"),
            ("opt/", DIR, ""),
            ("opt/kept", FILE, "kept"),
            ("opt/gone", FILE, "gone"),
            ("opt/dir/", DIR, ""),
            ("opt/dir/old", FILE, "old"),
            ("opt/twin", HARD, "opt/kept"),
            ("alias", LINK, "opt"),
        ]));
        let file = store.path("base.tar");
        fs::write(&file, tar).unwrap();
        store.ok(&[
            "import",
            "-c",
            "CMD [\"sleep\", \"600\"]",
            "-c",
            "ENV A=b",
            &store.arg("base.tar"),
            "base",
        ]);
        body(&store, &host);
        assert_eq!(fs::read_to_string(host.join("secret")).unwrap(), OUTSIDE);
        assert_eq!(common::names(&host), ["secret"]);
    }
}
