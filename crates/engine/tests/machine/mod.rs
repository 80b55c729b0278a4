//! A machine that can be booted: for tests of what outlives a boot, and of its networks.
//!
//! A boot is a mount namespace with a boot id of its own, and a network namespace. When it ends,
//! every process of it is killed, and what is on the disk stays: the store, and here the run root
//! too, as on a machine whose `/run` is not in memory.
#![allow(
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "every test binary uses a part"
)]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{binary, skip_unless_root, text};

const BUSYBOX: &str = "/bin/busybox";

pub struct Machine {
    pub dir: TempDir,
    /// Holds the namespaces of this boot.
    boot: Option<Child>,
    boots: u32,
    /// Programs that are none of ours.
    others: Vec<Child>,
}

pub fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub fn kill(pid: i64) {
    assert!(pid > 1);
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).output();
}

/// Whether it lives, and is not only waited for.
pub fn lives(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with('Z')
}

pub fn start_time(pid: i64) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit(") ").next().unwrap();
    after.split(' ').nth(19).unwrap().parse().unwrap()
}

impl Machine {
    pub fn new() -> Self {
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
        for tool in ["sh", "sleep", "true", "ls", "grep", "cat"] {
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

    pub fn boot(&mut self) {
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

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Whether there is a run of a container that nobody has cleaned up after.
    pub fn has_run(&self, name: &str) -> bool {
        self.run_root()
            .join("containers")
            .join(self.id(name))
            .exists()
    }

    pub fn run_root(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// A program in this boot.
    pub fn inside(&self, program: &str) -> Command {
        let pid = self.boot.as_ref().unwrap().id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--mount", "--net", program]);
        command.stdin(Stdio::null());
        command
    }

    pub fn command(&self, args: &[&str]) -> Command {
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

    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    /// Lines in order.
    pub fn lines(&self, args: &[&str]) -> Vec<String> {
        let mut lines: Vec<String> = self.ok(args).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    pub fn inspect(&self, name: &str) -> Value {
        serde_json::from_str::<Value>(&self.ok(&["container", "inspect", name])).unwrap()[0].clone()
    }

    pub fn id(&self, name: &str) -> String {
        self.inspect(name)["Id"].as_str().unwrap().to_owned()
    }

    /// State files of all runs, with what is in them.
    pub fn states(&self) -> Vec<(PathBuf, Value)> {
        let dirs = fs::read_dir(self.run_root().join("containers"));
        let files = dirs
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().path().join("state.json"));
        files
            .filter_map(|f| Some((f.clone(), serde_json::from_slice(&fs::read(f).ok()?).ok()?)))
            .collect()
    }

    pub fn resolver(&self) -> PathBuf {
        self.run_root().join("netavark/aardvark-dns/aardvark.pid")
    }

    /// The power goes.
    pub fn crash(&mut self) {
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
    pub fn other(&mut self) -> i64 {
        let child = Command::new("sleep").arg("100000").spawn().unwrap();
        let pid = i64::from(child.id());
        self.others.push(child);
        pid
    }

    /// Everything that a run has left names a process that is another one now, even with the time
    /// of its start.
    pub fn reuse_pids(&mut self) {
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

    pub fn assert_others_live(&mut self) {
        for other in &mut self.others {
            assert_eq!(other.try_wait().unwrap(), None, "it was killed");
        }
    }

    pub fn mount_points(&self) -> Vec<String> {
        let pid = self.boot.as_ref().unwrap().id();
        let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        let points = text.lines().filter_map(|l| l.split(' ').nth(4));
        points.map(str::to_owned).collect()
    }

    pub fn mount_tmpfs(&self, at: &Path) {
        let done = self
            .inside("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(at)
            .status();
        assert!(done.unwrap().success(), "{}", at.display());
        fs::metadata(at).unwrap();
    }

    /// Whether a program of this boot can have a port of the machine.
    pub fn is_free(&self, port: u16) -> bool {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        let pid = self.boot.as_ref().unwrap().id();
        let network = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        let bound = thread::spawn(move || {
            use std::os::fd::AsFd;
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), kind).unwrap();
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        });
        bound.join().unwrap()
    }

    /// All containers go, and nothing of them stays.
    pub fn end(mut self) {
        let groups = |id: &str| {
            let root = PathBuf::from("/sys/fs/cgroup");
            let all = fs::read_dir(&root).unwrap().flatten().map(|e| e.path());
            all.chain([root])
                .any(|dir| dir.join("unlade").join(id).exists())
        };
        for id in self.lines(&["ps", "-aq", "--no-trunc"]) {
            self.ok(&["rm", "-f", &id]);
            assert!(!groups(&id), "the control group of {id}");
        }
        let count = |dir: &Path| fs::read_dir(dir).map_or(0, Iterator::count);
        // The shim's own clean-up finds it gone, and looks at a directory that it makes for that.
        for dir in ["containers", "netns", "runtime/runc"] {
            until(dir, || count(&self.run_root().join(dir)) == 0);
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

/// What containers on a network of their own need.
pub const NETWORKED: [&str; 6] = [
    "busybox",
    "runc",
    "ip",
    "iptables",
    "netavark",
    "aardvark-dns",
];

pub fn can_run(test: &str, programs: &[&str]) -> bool {
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
