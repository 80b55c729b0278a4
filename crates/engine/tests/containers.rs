//! Containers as a user runs them, through a real runtime as root: what a flag says is looked at
//! from inside. The image is one static busybox.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

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
        let host = Self {
            dir: tempfile::tempdir_in("/var/tmp").unwrap(),
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

#[test]
fn run_gives_output_and_exit_codes() {
    hosts("run_gives_output_and_exit_codes", |h| {
        let run = |words: &[&str]| {
            let mut args = vec!["run", "--rm", "--network", "none", "box"];
            args.extend(words);
            h.output(&args)
        };
        let out = run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(
            (text(&out.stdout), text(&out.stderr)),
            ("out\n".into(), "err\n".into())
        );
        assert_eq!(out.status.code(), Some(7));
        assert_eq!(
            run(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"])
                .status
                .code(),
            Some(137)
        );
        assert_eq!(run(&["nosuch"]).status.code(), Some(127));
        assert_eq!(run(&["/etc"]).status.code(), Some(126));
        assert!(
            h.fails(125, &["run", "--rm", "--nonsense", "box"])
                .contains("--nonsense")
        );
        let said = h.fails(125, &["run", "--rm", "--pull", "never", "nosuch:1"]);
        assert!(said.to_lowercase().contains("no such image"), "{said}");
        // Input goes in, all of it.
        let mut command = h.command(&["run", "--rm", "-i", "--network", "none", "box", "wc", "-c"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        thread::spawn(move || std::io::Write::write_all(&mut stdin, &vec![b'x'; 3 << 20]).unwrap());
        let out = child.wait_with_output().unwrap();
        assert_eq!(text(&out.stdout).trim(), (3 << 20).to_string());
    });
}

#[test]
fn flags_are_seen_inside() {
    hosts("flags_are_seen_inside", |h| {
        let file = h.path("env");
        fs::write(&file, "# no\nF=file\nE=lost\n").unwrap();
        let env = h.sh(
            &["--env-file", &file, "-e", "E=1", "-w", "/tmp"],
            "echo $F $E $PATH; pwd",
        );
        let want = "file 1 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/tmp";
        assert_eq!(env, want);
        assert_eq!(h.sh(&["-w", "/made/for/it"], "pwd"), "/made/for/it");
        assert_eq!(
            h.sh(&["-u", "ann"], "id -u; id -g; id -G; echo $HOME"),
            "7\n8\n8 9\n/home/ann"
        );
        assert_eq!(
            h.sh(&["-u", "5:6", "--group-add", "more"], "id -u; id -g; id -G"),
            "5\n6\n6 9"
        );
        assert!(
            h.fails(
                125,
                &["run", "--rm", "--network", "none", "-u", "nobody9", "box"]
            )
            .contains("nobody9")
        );
        assert_eq!(
            h.sh(&["-h", "here"], "hostname; cat /etc/hostname"),
            "here\nhere"
        );
        assert_eq!(h.sh(&["--entrypoint", "echo"], "x"), "sh -c x\ntrue");
        assert_eq!(
            h.sh(
                &["--add-host", "far:1.2.3.4"],
                "grep far /etc/hosts | tr '\\t' ' '"
            ),
            "1.2.3.4 far"
        );
        assert_eq!(
            h.sh(&["--read-only"], "touch /x 2>/dev/null || echo no"),
            "no"
        );
        assert_eq!(
            h.sh(&["--tmpfs", "/t:size=1m"], "mount | grep -c ' /t '"),
            "1"
        );
        assert_eq!(
            h.sh(
                &["--shm-size", "1m"],
                "mount | grep -c ' /dev/shm .*size=1024k'"
            ),
            "1"
        );
        assert_eq!(
            h.sh(&["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn"),
            "100\n200"
        );
        let caps = "grep CapEff /proc/self/status";
        assert_eq!(
            h.sh(&["--cap-drop", "ALL"], caps),
            "CapEff:\t0000000000000000"
        );
        assert_eq!(
            h.sh(&["--cap-drop", "ALL", "--cap-add", "CHOWN"], caps),
            "CapEff:\t0000000000000001"
        );
        assert_eq!(
            h.sh(
                &["--security-opt", "no-new-privileges"],
                "grep NoNewPrivs /proc/self/status"
            ),
            "NoNewPrivs:\t1"
        );
        assert_eq!(
            h.sh(
                &["--security-opt", "seccomp=unconfined"],
                "grep Seccomp: /proc/self/status"
            ),
            "Seccomp:\t0"
        );
        assert_eq!(h.sh(&[], "grep Seccomp: /proc/self/status"), "Seccomp:\t2");
        assert_eq!(
            h.sh(
                &["--pids-limit", "20"],
                "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null"
            ),
            "20"
        );
        assert_eq!(h.sh(&["-m", "64m"], "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"), (64 << 20).to_string());
        assert_eq!(h.sh(&["--cpuset-cpus", "0"], "nproc"), "1");
        assert_eq!(
            h.sh(&["--oom-score-adj", "100"], "cat /proc/self/oom_score_adj"),
            "100"
        );
        assert_eq!(
            h.sh(
                &["--sysctl", "net.ipv4.ip_forward=1"],
                "cat /proc/sys/net/ipv4/ip_forward"
            ),
            "1"
        );
        assert_ne!(h.sh(&["--init"], "cat /proc/1/comm"), "sh");
        let pid = h
            .sh(&["--pid", "host"], "ls -d /proc/[0-9]* | wc -l")
            .parse::<u32>()
            .unwrap();
        assert!(pid > 5, "{pid}");
        assert_eq!(
            h.sh(&["--uts", "host"], "hostname"),
            text(&fs::read("/proc/sys/kernel/hostname").unwrap()).trim()
        );
        assert_eq!(
            h.sh(
                &["-v", &format!("{}:/m:ro", h.path("tree/data"))],
                "cat /m/file; touch /m/x 2>/dev/null || echo ro"
            ),
            "keptro"
        );
        assert_eq!(
            h.sh(
                &["--mount", "type=tmpfs,target=/q"],
                "mount | grep -c ' /q '"
            ),
            "1"
        );
        assert_eq!(
            h.sh(&["--device", "/dev/null:/dev/mine"], "ls /dev/mine"),
            "/dev/mine"
        );
        assert_eq!(
            h.sh(&["--privileged"], "ls /dev/loop-control"),
            "/dev/loop-control"
        );
        assert_eq!(h.sh(&["--ipc", "none"], "mount | grep -c /dev/shm"), "0");
        let id = h.path("cid");
        h.sh(&["--cidfile", &id], "true");
        assert_eq!(fs::read_to_string(&id).unwrap().len(), 64);
        assert!(
            h.fails(125, &["run", "--rm", "--cidfile", &id, "box"])
                .contains("container ID file found")
        );
        // Nothing of the host's is open in it.
        assert_eq!(h.sh(&[], "ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3");
    });
}

#[test]
fn a_container_lives_and_is_seen() {
    hosts("a_container_lives_and_is_seen", |h| {
        let script = "trap 'exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.05; done";
        let id = h.ok(&[
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "one",
            "-e",
            "A=b",
            "-l",
            "k=v",
            "--stop-signal",
            "TERM",
            "box",
            "sh",
            "-c",
            script,
        ]);
        let id = id.trim();
        assert_eq!(id.len(), 64);
        let said = h.fails(125, &["run", "--name", "one", "box"]);
        assert!(
            said.contains("The container name \"/one\" is already in use"),
            "{said}"
        );
        let doc = h.inspect("one");
        assert_eq!(
            (doc["Id"].as_str(), doc["Name"].as_str()),
            (Some(id), Some("/one"))
        );
        assert_eq!(doc["State"]["Running"], true);
        assert_eq!(doc["Config"]["Labels"]["k"], "v");
        assert_eq!(doc["HostConfig"]["NetworkMode"], "none");
        let pid = doc["State"]["Pid"].as_i64().unwrap();
        assert!(
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .unwrap()
                .contains("trap")
        );
        assert_eq!(
            h.ok(&[
                "ps",
                "--format",
                "{{.Names}} {{.Image}} {{.State}} {{.Labels}}"
            ])
            .trim(),
            "one box running k=v"
        );
        for (filter, lines) in [
            ("name=on", 1),
            ("name=two", 0),
            ("label=k=v", 1),
            ("status=exited", 0),
            ("ancestor=box", 1),
        ] {
            assert_eq!(
                h.ok(&["ps", "-q", "-f", filter]).lines().count(),
                lines,
                "{filter}"
            );
        }
        h.until("the log", || h.ok(&["logs", "one"]).contains("out"));
        let out = h.output(&["logs", "one"]);
        assert_eq!(
            (text(&out.stdout), text(&out.stderr)),
            ("out\n".into(), "err\n".into())
        );
        assert_eq!(h.ok(&["logs", "--tail", "0", "one"]), "");
        assert!(h.ok(&["logs", "-t", "one"]).contains("Z out"));

        assert_eq!(
            h.ok(&[
                "exec",
                "-e",
                "B=c",
                "-w",
                "/tmp",
                "one",
                "sh",
                "-c",
                "echo $A$B; pwd"
            ]),
            "bc\n/tmp\n"
        );
        assert_eq!(h.ok(&["exec", "-u", "ann", "one", "id", "-u"]), "7\n");
        assert_eq!(
            h.output(&["exec", "one", "sh", "-c", "exit 9"])
                .status
                .code(),
            Some(9)
        );
        h.fails(127, &["exec", "one", "nosuch"]);
        h.ok(&["exec", "-d", "one", "touch", "/tmp/there"]);
        h.until("a detached process", || {
            h.output(&["exec", "one", "ls", "/tmp/there"])
                .status
                .success()
        });
        let execs = h.run.path().join("containers").join(id).join("exec");
        h.until("those before it are gone", || {
            h.ok(&["exec", "-d", "one", "true"]);
            fs::read_dir(&execs).unwrap().count() == 1
        });
        assert!(h.ok(&["top", "one"]).contains("trap"));
        let stats = h.ok(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]);
        assert!(
            stats.starts_with("one ") && !stats.contains("--"),
            "{stats}"
        );

        h.ok(&["pause", "one"]);
        assert_eq!(h.status("one"), "paused");
        assert!(h.fails(1, &["exec", "one", "true"]).contains("is paused"));
        assert!(h.fails(1, &["pause", "one"]).contains("already paused"));
        h.ok(&["unpause", "one"]);
        h.ok(&["update", "--pids-limit", "50", "one"]);
        assert_eq!(h.inspect("one")["HostConfig"]["PidsLimit"], 50);
        h.ok(&["rename", "one", "uno"]);
        assert!(h.fails(1, &["rm", "uno"]).contains("container is running"));
        assert!(
            h.fails(1, &["rmi", "box"])
                .contains("is using its referenced image")
        );
        let image = h.ok(&["images", "-q", "box"]).trim().to_owned();
        assert!(
            h.fails(1, &["rmi", "-f", &image])
                .contains("(cannot be forced) - image is being used by running container")
        );
        assert_eq!(h.ok(&["rmi", "-f", "box"]), "Untagged: box:latest\n");
        // Nor does it go with what nobody needs, though it has no name now.
        for prune in [
            &["image", "prune", "-f"][..],
            &["image", "prune", "-a", "-f"],
        ] {
            h.ok(prune);
        }
        h.ok(&["system", "prune", "-a", "-f"]);
        h.ok(&["tag", &image, "box"]);
        assert_eq!(h.ok(&["stop", "-t", "5", "uno"]), "uno\n");
        assert_eq!(h.inspect("uno")["State"]["ExitCode"], 3);
        assert_eq!(h.ok(&["wait", "uno"]), "3\n");
        h.ok(&["restart", "uno"]);
        assert_eq!(h.status("uno"), "running");
        h.ok(&["kill", "uno"]);
        assert_eq!(h.ok(&["wait", "uno"]), "137\n");
        h.until("the end", || h.status("uno") == "exited");
        assert!(
            h.ok(&["ps", "-a", "--format", "{{.Status}}"])
                .starts_with("Exited (137)")
        );
        let events = h.ok(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--format",
            "{{.Action}}",
        ]);
        for action in [
            "create", "start", "pause", "unpause", "update", "rename", "kill", "die", "stop",
            "restart",
        ] {
            assert!(events.lines().any(|l| l == action), "{action}: {events}");
        }
        assert_eq!(h.ok(&["rm", "uno"]), "uno\n");
        assert!(
            h.fails(1, &["inspect", "uno"])
                .contains("No such object: uno")
        );
    });
}

#[test]
fn namespaces_of_another_are_joined() {
    hosts("namespaces_of_another_are_joined", |host| {
        let other = ["run", "-d", "--network", "none", "--hostname", "first"];
        let more = ["--name", "first", "--ipc", "shareable", "box"];
        let script = "echo seen > /dev/shm/note; exec sleep 1000";
        host.ok(&[&other[..], &more, &["sh", "-c", script]].concat());
        host.until("its note", || {
            let looked = host.output(&["exec", "first", "cat", "/dev/shm/note"]);
            text(&looked.stdout) == "seen\n"
        });
        let joined = host.sh(&["--ipc", "container:first"], "cat /dev/shm/note");
        assert_eq!(joined, "seen");
        let joined = host.sh(&["--pid", "container:first"], "ps");
        assert!(joined.contains("sleep 1000"), "{joined}");
        let run = ["run", "--rm", "--network", "container:first", "box"];
        assert_eq!(host.ok(&[&run[..], &["hostname"]].concat()), "first\n");
        host.ok(&["rm", "-f", "first"]);
        let run = ["run", "--rm", "--ipc", "container:first", "box", "true"];
        assert!(host.fails(125, &run).contains("first"));
        host.assert_empty();
    });
}

#[test]
fn create_start_attach_and_prune() {
    hosts("create_start_attach_and_prune", |h| {
        h.ok(&[
            "create",
            "--name",
            "c1",
            "--network",
            "none",
            "box",
            "sh",
            "-c",
            "echo ran; exit 4",
        ]);
        assert_eq!(h.status("c1"), "created");
        let out = h.output(&["start", "-a", "c1"]);
        assert_eq!(
            (text(&out.stdout), out.status.code()),
            ("ran\n".into(), Some(4))
        );
        assert_eq!(h.inspect("c1")["State"]["ExitCode"], 4);
        // Changes stay from one start to the next.
        h.ok(&[
            "create",
            "--name",
            "c2",
            "--network",
            "none",
            "box",
            "sh",
            "-c",
            "ls /mark 2>/dev/null; touch /mark",
        ]);
        assert_eq!(h.ok(&["start", "-a", "c2"]), "");
        assert_eq!(h.ok(&["start", "-a", "c2"]), "/mark\n");
        assert_eq!(h.ok(&["ps", "-aq"]).lines().count(), 2);
        assert_eq!(
            h.ok(&["ps", "-q", "-n", "1", "--format", "{{.Names}}"]),
            "c2\n"
        );
        // Without its image a container that does not run keeps the layers that it needs.
        h.ok(&["rmi", "-f", "box"]);
        h.ok(&["system", "prune", "-a", "-f"]);
        assert_eq!(h.ok(&["start", "-a", "c2"]), "/mark\n");
        h.ok(&["import", &h.path("box.tar"), "box", "-c", "CMD [\"true\"]"]);
        let pruned = h.ok(&["container", "prune", "-f"]);
        assert!(pruned.starts_with("Deleted Containers:\n"), "{pruned}");
        // One that goes by itself.
        h.ok(&[
            "run",
            "-d",
            "--rm",
            "--network",
            "none",
            "box",
            "sleep",
            "0.3",
        ]);
        h.until("a removal", || h.ok(&["ps", "-aq"]).is_empty());
        let explained = h.ok(&["create", "--explain", "--read-only", "box", "true"]);
        assert!(
            explained
                .lines()
                .any(|l| l.starts_with("root.readonly") && l.contains("user")),
            "{explained}"
        );
    });
}

#[test]
fn a_killed_run_leaves_nothing() {
    hosts("a_killed_run_leaves_nothing", |h| {
        for ms in [0, 10, 20, 40, 60, 80, 120, 160, 240] {
            let mut child = h
                .command(&["run", "--rm", "--network", "none", "box", "sleep", "0.1"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            thread::sleep(Duration::from_millis(ms));
            child.kill().unwrap();
            child.wait().unwrap();
            // Whatever had run by then ends, and goes.
            h.until("nothing is left", || h.ok(&["ps", "-aq"]).is_empty());
        }
    });
}

#[test]
fn a_killed_shim_is_noticed() {
    hosts("a_killed_shim_is_noticed", |h| {
        let id = h.ok(&[
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "lost",
            "box",
            "sleep",
            "60",
        ]);
        let state = h
            .run
            .path()
            .join("containers")
            .join(id.trim())
            .join("state.json");
        let state: Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
        let shim = state["shim"]["pid"].as_i64().unwrap();
        assert!(
            Command::new("kill")
                .args(["-9", &shim.to_string()])
                .status()
                .unwrap()
                .success()
        );
        h.until("the death of the shim", || {
            h.status("lost") == "dead" || h.status("lost") == "exited"
        });
        assert!(
            h.inspect("lost")["State"]["Error"]
                .as_str()
                .unwrap()
                .contains("shim")
        );
        h.ok(&["rm", "-f", "lost"]);
        let pid = state["init"]["pid"].as_i64().unwrap();
        h.until("its process", || {
            !Path::new(&format!("/proc/{pid}")).exists()
        });
    });
}
