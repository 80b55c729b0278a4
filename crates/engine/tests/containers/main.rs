//! Containers as a user runs them, through a real runtime as root: what a flag says is looked at
//! from inside. The image is one static busybox.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod conventions;
mod devices;
mod explain;
mod faults;
mod flags;
mod life;
mod logs;
mod many;
mod pushed;
mod quota;
mod streams;
mod terminal;
mod usage;
mod watch;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{binary, skip_unless_root, text};
use serde_json::Value;
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";
const TOOLS: &[&str] = &[
    "cat", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls", "mkdir",
    "mount", "ps", "sh", "sleep", "stat", "stty", "touch", "tr", "true", "wc", "nproc", "pwd",
    "ip",
];

/// A store with the image `box` in it.
struct Host {
    dir: TempDir,
    run: TempDir,
    driver: &'static str,
}

impl Host {
    fn new(driver: &'static str) -> Self {
        Self::new_in(driver, Path::new("/var/tmp"))
    }

    fn new_in(driver: &'static str, above: &Path) -> Self {
        let host = Self {
            dir: tempfile::tempdir_in(above).unwrap(),
            run: tempfile::tempdir_in("/run").unwrap(),
            driver,
        };
        let tree = host.dir.path().join("tree");
        for dir in ["bin", "etc", "tmp", "data/sub"] {
            fs::create_dir_all(tree.join(dir)).unwrap();
        }
        fs::copy(BUSYBOX, tree.join("bin/busybox")).unwrap();
        for tool in TOOLS {
            symlink("busybox", tree.join("bin").join(tool)).unwrap();
        }
        fs::write(
            tree.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nann:x:7:8::/home/ann:\n",
        )
        .unwrap();
        fs::write(
            tree.join("etc/group"),
            "root:x:0:\nann:x:8:\nmore:x:9:ann\n",
        )
        .unwrap();
        fs::write(tree.join("data/file"), "kept").unwrap();
        let tar = host.path("box.tar");
        let packed = Command::new("tar")
            .args(["-C"])
            .arg(&tree)
            .args(["-cf", &tar, "."])
            .status();
        assert!(packed.unwrap().success());
        host.ok(&["import", &tar, "box", "-c", "CMD [\"true\"]"]);
        host
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        let run = self.run.path().display().to_string();
        command
            .args(["--root", &self.path("store"), "--run-root", &run])
            .args(["--graph-driver", self.driver])
            .args(args)
            .env("UNLADE_CONFIG", self.config())
            .env("UNLADE_FLUSH", "later")
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    fn config(&self) -> PathBuf {
        let path = self.dir.path().join("config.toml");
        if !path.exists() {
            fs::write(&path, "").unwrap();
        }
        path
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.output(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    /// What a command that fails with `code` says.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let out = self.output(args);
        let said = text(&out.stderr);
        assert_eq!(
            out.status.code(),
            Some(code),
            "{args:?}: {said}{}",
            text(&out.stdout)
        );
        said
    }

    /// What `sh -c script` prints in a container with these flags.
    fn sh(&self, flags: &[&str], script: &str) -> String {
        let mut args = vec!["run", "--rm", "--network", "none"];
        args.extend(flags);
        // What a tool returns is looked at elsewhere.
        let script = format!("{script}\ntrue");
        args.extend(["box", "sh", "-c", &script]);
        self.ok(&args).trim_end().to_owned()
    }

    fn inspect(&self, name: &str) -> Value {
        serde_json::from_str::<Value>(&self.ok(&["inspect", "--type", "container", name])).unwrap()
            [0]
        .clone()
    }

    fn status(&self, name: &str) -> String {
        self.inspect(name)["State"]["Status"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(30));
        }
    }

    /// Nothing of any container is left.
    fn assert_empty(&self) {
        assert_eq!(self.ok(&["ps", "-aq"]), "");
        let count = |dir: PathBuf| fs::read_dir(&dir).map_or(0, Iterator::count);
        self.until("run directories", || {
            count(self.run.path().join("containers")) == 0
        });
        let store = self.dir.path().join("store");
        assert_eq!(
            count(store.join("graph").join(self.driver).join("snapshots")),
            0
        );
        assert_eq!(count(store.join("containers")), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(&*self.run.path().to_string_lossy()),
            "{mounts}"
        );
        let pins = self.ok(&["info"]);
        assert!(!pins.contains("container:"), "{pins}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Ok(out) = self.command(&["ps", "-aq"]).output() {
            for id in text(&out.stdout).lines() {
                let _ = self.command(&["rm", "-f", id]).output();
            }
        }
    }
}

fn hosts(test: &str, body: impl Fn(&Host)) {
    if skip_unless_root(test) {
        return;
    }
    if !Path::new(BUSYBOX).exists() || !Path::new("/usr/sbin/runc").exists() {
        eprintln!("skipped {test}: busybox-static or runc is not installed");
        return;
    }
    for driver in ["overlay", "erofs"] {
        let host = Host::new(driver);
        body(&host);
        host.assert_empty();
    }
}
