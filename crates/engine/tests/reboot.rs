//! Test 30 of reliability.md: what a reboot leaves, and what is started after it.
//!
//! A boot is a mount namespace with a boot id of its own, and a network namespace. When it ends,
//! every process of it is killed, and what is on the disk stays: the store, and here the run root
//! too, as on a machine whose `/run` is not in memory.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{binary, skip_unless_root, text};
use serde_json::Value;
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";

struct Machine {
    dir: TempDir,
    /// Holds the namespaces of this boot.
    boot: Option<Child>,
    boots: u32,
    /// Programs that are none of ours.
    others: Vec<Child>,
}

fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn kill(pid: i64) {
    assert!(pid > 1);
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
}

/// Whether it lives, and is not only waited for.
fn lives(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with('Z')
}

fn start_time(pid: i64) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit(") ").next().unwrap();
    after.split(' ').nth(19).unwrap().parse().unwrap()
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self {
            dir: tempfile::tempdir_in("/var/tmp").unwrap(),
            boot: None,
            boots: 0,
            others: Vec::new(),
        };
        machine.boot();
        let tree = machine.dir.path().join("tree");
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::copy(BUSYBOX, tree.join("bin/busybox")).unwrap();
        for tool in ["sh", "sleep", "true", "false"] {
            symlink("busybox", tree.join("bin").join(tool)).unwrap();
        }
        let tar = machine.dir.path().join("box.tar");
        let packed = Command::new("tar")
            .arg("-C")
            .arg(&tree)
            .arg("-cf")
            .arg(&tar)
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        machine.ok(&["import", tar.to_str().unwrap(), "box"]);
        machine
    }

    fn boot(&mut self) {
        assert!(self.boot.is_none());
        self.boots += 1;
        let id = self.dir.path().join("boot-id");
        fs::write(&id, format!("boot-{}\n", self.boots)).unwrap();
        let script = "mount --bind \"$1\" /proc/sys/kernel/random/boot_id && \
                      ip link set lo up && echo up && exec sleep 100000";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private"])
            .args(["sh", "-c", script, "sh"])
            .arg(&id)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(holder.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        self.boot = Some(holder);
    }

    fn run_root(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// A program in this boot.
    fn inside(&self, program: &str) -> Command {
        let pid = self.boot.as_ref().unwrap().id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--mount", "--net", program]);
        command.stdin(Stdio::null());
        command
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.inside(&binary());
        command
            .arg("--root")
            .arg(self.dir.path().join("store"))
            .arg("--run-root")
            .arg(self.run_root())
            .args(["--graph-driver", "overlay"])
            .args(args)
            .env("UNLADE_CONFIG", "")
            .env("UNLADE_FLUSH", "later");
        command
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    /// Lines in order.
    fn lines(&self, args: &[&str]) -> Vec<String> {
        let mut lines: Vec<String> = self.ok(args).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn inspect(&self, name: &str) -> Value {
        serde_json::from_str::<Value>(&self.ok(&["container", "inspect", name])).unwrap()[0].clone()
    }

    fn id(&self, name: &str) -> String {
        self.inspect(name)["Id"].as_str().unwrap().to_owned()
    }

    /// State files of all runs, with what is in them.
    fn states(&self) -> Vec<(PathBuf, Value)> {
        let dirs = fs::read_dir(self.run_root().join("containers"));
        let files = dirs
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().path().join("state.json"));
        files
            .filter_map(|f| Some((f.clone(), serde_json::from_slice(&fs::read(f).ok()?).ok()?)))
            .collect()
    }

    fn resolver(&self) -> PathBuf {
        self.run_root().join("netavark/aardvark-dns/aardvark.pid")
    }

    /// The power goes.
    fn crash(&mut self) {
        let mut pids = Vec::new();
        // Shims first: they are to clean up nothing.
        for who in ["shim", "init"] {
            for (_, state) in self.states() {
                if state["boot"] == format!("boot-{}", self.boots) {
                    pids.extend(state[who]["pid"].as_i64());
                }
            }
        }
        let resolver = fs::read_to_string(self.resolver()).ok();
        pids.extend(resolver.and_then(|pid| pid.trim().parse::<i64>().ok()));
        pids.retain(|pid| !self.others.iter().any(|o| i64::from(o.id()) == *pid));
        for pid in &pids {
            kill(*pid);
        }
        if let Some(mut holder) = self.boot.take() {
            holder.kill().unwrap();
            holder.wait().unwrap();
        }
        for pid in pids {
            until("a killed process goes", || !lives(pid));
        }
    }

    /// The number of a program that is none of ours, which nobody may signal.
    fn other(&mut self) -> i64 {
        let child = Command::new("sleep").arg("100000").spawn().unwrap();
        let pid = i64::from(child.id());
        self.others.push(child);
        pid
    }

    /// Everything that a run has left names a process that is another one now, even with the time
    /// of its start.
    fn reuse_pids(&mut self) {
        for (file, mut state) in self.states() {
            for who in ["shim", "init"] {
                let pid = self.other();
                state[who] = serde_json::json!({ "pid": pid, "start": start_time(pid) });
            }
            fs::write(file, state.to_string()).unwrap();
        }
        let runtimes = self.run_root().join("runtime/runc");
        for entry in fs::read_dir(runtimes).unwrap() {
            let file = entry.unwrap().path().join("state.json");
            let mut state: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            let pid = self.other();
            assert!(state["init_process_pid"].is_i64());
            state["init_process_pid"] = pid.into();
            state["init_process_start"] = start_time(pid).into();
            fs::write(file, state.to_string()).unwrap();
        }
        if self.resolver().exists() {
            let pid = self.other();
            fs::write(self.resolver(), pid.to_string()).unwrap();
        }
    }

    fn assert_others_live(&mut self) {
        for other in &mut self.others {
            assert_eq!(other.try_wait().unwrap(), None, "it was killed");
        }
    }

    fn mount_points(&self) -> Vec<String> {
        let pid = self.boot.as_ref().unwrap().id();
        let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let points = text.lines().filter_map(|l| l.split(' ').nth(4));
        points.map(str::to_owned).collect()
    }

    fn mount_tmpfs(&self, at: &Path) {
        let done = self
            .inside("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(at)
            .status();
        assert!(done.unwrap().success(), "{}", at.display());
        fs::metadata(at).unwrap();
    }

    /// All containers go, and nothing of them stays.
    fn end(mut self) {
        for id in self.lines(&["ps", "-aq"]) {
            self.ok(&["rm", "-f", &id]);
        }
        let count = |dir: &Path| fs::read_dir(dir).map_or(0, Iterator::count);
        for dir in ["containers", "netns", "runtime/runc"] {
            assert_eq!(count(&self.run_root().join(dir)), 0, "{dir}");
        }
        let snapshots = self.dir.path().join("store/graph/overlay/snapshots");
        assert_eq!(count(&snapshots), 0);
        self.assert_others_live();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.boot.is_some() {
            if let Ok(out) = self.command(&["ps", "-aq"]).output() {
                for id in text(&out.stdout).lines() {
                    let _ = self.command(&["rm", "-f", id]).output();
                }
            }
            self.crash();
        }
        for other in &mut self.others {
            let _ = other.kill();
            let _ = other.wait();
        }
    }
}

fn can_run(test: &str, programs: &[&str]) -> bool {
    if skip_unless_root(test) {
        return false;
    }
    let dirs = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/lib/podman"];
    for program in programs {
        if !dirs.iter().any(|d| Path::new(d).join(program).exists()) {
            eprintln!("skipped {test}: {program} is not installed");
            return false;
        }
    }
    true
}

#[test]
fn policies_run_once_after_a_reboot() {
    if !can_run(
        "policies_run_once_after_a_reboot",
        &["busybox", "runc", "ip"],
    ) {
        return;
    }
    let mut m = Machine::new();
    let run = |m: &Machine, name: &str, flags: &[&str], words: &[&str]| {
        let mut args = vec!["run", "-d", "--runtime", "runc", "--name", name];
        if !flags.contains(&"--network") {
            args.extend(["--network", "none"]);
        }
        args.extend(flags);
        args.push("box");
        args.extend(words);
        m.ok(&args);
    };
    let sleep = ["sleep", "100000"];
    for policy in ["no", "always", "unless-stopped", "on-failure"] {
        run(&m, policy, &["--restart", policy], &sleep);
    }
    run(
        &m,
        "joined",
        &["--restart", "always", "--network", "container:always"],
        &sleep,
    );
    run(&m, "passing", &["--rm"], &sleep);
    run(&m, "done", &["--restart", "on-failure"], &["true"]);
    for policy in ["always", "unless-stopped", "on-failure"] {
        let name = format!("{policy}-stopped");
        run(&m, &name, &["--restart", policy], &sleep);
        m.ok(&["stop", "-t", "0", &name]);
    }
    m.ok(&[
        "create",
        "--name",
        "new",
        "--restart",
        "always",
        "--network",
        "none",
        "box",
        "true",
    ]);
    until("one ends by itself", || {
        m.ok(&["ps", "-q", "-f", "name=done"]).is_empty()
    });
    // In the boot in which they ran there is nothing to be done.
    assert_eq!(m.ok(&["system", "boot"]), "");
    let ids: Vec<String> = ["no", "always"].map(|name| m.id(name)).into();

    m.crash();
    m.reuse_pids();
    let torn = m
        .run_root()
        .join("containers")
        .join(&ids[0])
        .join("state.json");
    fs::write(torn, "{").unwrap();
    m.boot();
    // What mounts of an earlier boot would be, and mounts of others beside the store.
    let orphans = ids
        .iter()
        .map(|id| m.run_root().join("containers").join(id).join("rootfs"));
    let orphans: Vec<PathBuf> = orphans.collect();
    for at in &orphans {
        m.mount_tmpfs(at);
    }
    let (beside, volume) = (
        m.dir.path().join("beside"),
        m.dir.path().join("store/volumes/data/_data"),
    );
    m.ok(&["volume", "create", "data"]);
    fs::create_dir(&beside).unwrap();
    for at in [&beside, &volume] {
        m.mount_tmpfs(at);
    }

    let states = m.lines(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    let want = [
        "always exited",
        "always-stopped exited",
        "done exited",
        "joined exited",
        "new created",
        "no exited",
        "on-failure exited",
        "on-failure-stopped exited",
        "unless-stopped exited",
        "unless-stopped-stopped exited",
    ];
    assert_eq!(states, want);
    for name in ["no", "always", "on-failure"] {
        let state = &m.inspect(name)["State"];
        assert_eq!(
            (&state["ExitCode"], &state["Pid"]),
            (&255.into(), &0.into()),
            "{name}"
        );
        assert!(
            state["Error"].as_str().unwrap().contains("reboot"),
            "{state}"
        );
        assert!(
            !state["FinishedAt"].as_str().unwrap().starts_with("0001"),
            "{state}"
        );
    }
    let mounted = m.mount_points();
    let run_root = m.run_root().display().to_string();
    assert!(
        !mounted.iter().any(|at| at.starts_with(&run_root)),
        "{mounted:?}"
    );
    for at in [&beside, &volume] {
        assert!(
            mounted.iter().any(|p| Path::new(p) == at),
            "{}",
            at.display()
        );
    }
    m.assert_others_live();

    let started = [
        "always",
        "always-stopped",
        "joined",
        "on-failure",
        "unless-stopped",
    ];
    assert_eq!(m.lines(&["system", "boot"]), started);
    assert_eq!(m.lines(&["ps", "--format", "{{.Names}}"]), started);
    // Once: neither those that run, nor one that was stopped since.
    m.ok(&["stop", "-t", "0", "always-stopped"]);
    m.ok(&["stop", "-t", "0", "unless-stopped"]);
    assert_eq!(m.ok(&["system", "boot"]), "");
    m.assert_others_live();

    // Again, on a machine whose /run is in memory.
    m.crash();
    fs::remove_dir_all(m.run_root()).unwrap();
    m.boot();
    assert_eq!(m.ok(&["ps", "-q"]), "");
    assert_eq!(m.inspect("joined")["State"]["ExitCode"], 255);
    let started = ["always", "always-stopped", "joined", "on-failure"];
    assert_eq!(m.lines(&["system", "boot"]), started);
    assert_eq!(m.lines(&["ps", "--format", "{{.Names}}"]), started);
    m.end();
}

/// One that cannot be started is told of, tried once, and no obstacle to the others.
#[test]
fn a_start_that_fails_is_tried_once() {
    if !can_run(
        "a_start_that_fails_is_tried_once",
        &["busybox", "runc", "ip"],
    ) {
        return;
    }
    let mut m = Machine::new();
    let gone = m.dir.path().join("gone");
    fs::create_dir(&gone).unwrap();
    let mount = format!("type=bind,source={},target=/gone", gone.display());
    let common = ["run", "-d", "--network", "none", "--restart", "always"];
    m.ok(&[
        &common[..],
        &["--name", "bad", "--mount", &mount, "box", "sleep", "9999"],
    ]
    .concat());
    m.ok(&[&common[..], &["--name", "good", "box", "sleep", "9999"]].concat());
    m.crash();
    fs::remove_dir(&gone).unwrap();
    m.boot();
    let out = m.command(&["system", "boot"]).output().unwrap();
    let said = text(&out.stderr);
    assert_eq!(
        (out.status.code(), &*text(&out.stdout)),
        (Some(1), "good\n"),
        "{said}"
    );
    assert!(
        said.contains("start bad") && said.contains("gone"),
        "{said}"
    );
    assert_eq!(m.ok(&["system", "boot"]), "");
    m.end();
}

#[test]
fn networks_after_a_reboot() {
    let programs = [
        "busybox",
        "runc",
        "ip",
        "iptables",
        "netavark",
        "aardvark-dns",
    ];
    if !can_run("networks_after_a_reboot", &programs) {
        return;
    }
    let mut m = Machine::new();
    m.ok(&["network", "create", "mine"]);
    m.ok(&["network", "create", "other"]);
    for (name, network, policy) in [("web", "mine", "always"), ("once", "other", "no")] {
        m.ok(&[
            "run",
            "-d",
            "--runtime",
            "runc",
            "--name",
            name,
            "--network",
            network,
            "--restart",
            policy,
            "-p",
            "80",
            "box",
            "sleep",
            "100000",
        ]);
    }
    let port = m.ok(&["port", "web"]);
    assert!(m.resolver().exists());
    m.crash();
    m.reuse_pids();
    let reused = fs::read_to_string(m.resolver()).unwrap();
    // Half made: a file on which no namespace is, and a state that was not finished.
    let half = "c".repeat(64);
    fs::write(m.run_root().join("netns").join(&half), "").unwrap();
    fs::write(m.run_root().join(format!("network/{half}.new")), "{").unwrap();
    m.boot();
    m.mount_tmpfs(&m.dir.path().join("tree"));
    // No command on containers is needed for the records to be true.
    m.ok(&["network", "rm", "other"]);
    let left = |dir: &str| fs::read_dir(m.run_root().join(dir)).unwrap().count();
    assert_eq!((left("netns"), left("network")), (0, 1), "all but the lock");
    assert_eq!(m.ok(&["system", "boot"]), "web\n");
    assert_eq!(
        m.ok(&["port", "web"]).split(':').count(),
        port.split(':').count()
    );
    assert_ne!(
        fs::read_to_string(m.resolver()).unwrap().trim(),
        reused.trim()
    );
    let out = m.inside("ip").args(["-o", "link"]).output().unwrap();
    assert!(text(&out.stdout).contains("veth"), "{}", text(&out.stdout));
    m.assert_others_live();

    // Within a boot too the number may have become another's.
    let resolver = fs::read_to_string(m.resolver())
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill(resolver);
    until("it goes", || !lives(resolver));
    let other = m.other();
    fs::write(m.resolver(), other.to_string()).unwrap();
    m.ok(&["restart", "-t", "0", "web"]);
    assert_ne!(
        fs::read_to_string(m.resolver()).unwrap().trim(),
        other.to_string()
    );
    m.assert_others_live();
    m.end();
}
