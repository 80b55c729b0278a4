//! Bundles for real runtimes, and shims that start them.
#![allow(
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "every test binary uses a part"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use unlade_engine::{
    config::Config,
    journal::Event,
    runtime::{Runtime, cgroup::Cgroup},
    shim::{self, *},
};

/// The runtimes that are there; every test that needs one runs with each.
pub fn runtimes() -> Vec<&'static str> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: containers need root");
        return Vec::new();
    }
    if tool().is_none() {
        eprintln!("skipped: no C compiler that links statically");
        return Vec::new();
    }
    let config = Config::default();
    let there = |name: &&str| match Runtime::find(
        Some(name),
        &Config {
            run_root: "/tmp".into(),
            shim: Some(env!("CARGO_BIN_EXE_unlade-shim").into()),
            ..config.clone()
        },
    ) {
        Ok(_) => true,
        Err(e) => {
            eprintln!("skipped: {e}");
            false
        }
    };
    ["runc", "crun"].into_iter().filter(there).collect()
}

/// The program in the containers' root.
fn tool() -> Option<&'static Path> {
    static TOOL: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        let name = format!("unlade-test-tool-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/container/tool.c");
        let mut cc = Command::new("cc");
        cc.args(["-static", "-Os", "-o"]).arg(&path).arg(source);
        cc.status().ok()?.success().then_some(path)
    };
    TOOL.get_or_init(make).as_deref()
}

/// A bundle, a run directory, and what starts a container there. Dropped, nothing is left.
pub struct Box {
    pub dir: TempDir,
    pub config: Config,
    pub launch: Launch,
    pub spec: Value,
}

impl Box {
    /// A container that runs the tool with these words.
    pub fn new(runtime: &str, words: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new()
            .prefix("unlade-shim")
            .tempdir()
            .unwrap();
        let id = format!(
            "t{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let config = Config {
            run_root: dir.path().join("run"),
            shim: Some(env!("CARGO_BIN_EXE_unlade-shim").into()),
            ..Config::default()
        };
        let bundle = dir.path().join("bundle");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        for sub in ["proc", "dev", "tmp"] {
            fs::create_dir(bundle.join("rootfs").join(sub)).unwrap();
        }
        fs::copy(tool().unwrap(), bundle.join("rootfs/t")).unwrap();
        let args: Vec<&str> = std::iter::once("/t").chain(words.iter().copied()).collect();
        let launch = Launch {
            cgroup: Some(format!("/unlade-tests/{id}")),
            id,
            run: bundle.clone(),
            bundle,
            runtime: Runtime::find(Some(runtime), &config).unwrap(),
            io: Io::Pipes {
                stdin: Stdin::Closed,
            },
            foreground: Some(OUTPUT),
            log: Log::JsonFile(LogFile::at(dir.path().join("log/json"))),
            hooks: false,
            mounts: Mounts::Own,
            restart: Restart::No,
            restarts: 0,
            health: None,
            cleanup: Vec::new(),
            client_cleans: false,
            events: Some(dir.path().join("events")),
            attributes: [("name".to_owned(), "box".to_owned())].into(),
            timeout_ms: 0,
        };
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/"],
                "cwd": "/",
                "capabilities": {}
            },
            "root": {"path": "rootfs"},
            "hostname": "box",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": launch.cgroup,
                "resources": {},
                "namespaces": [
                    {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                    {"type": "network"}
                ],
            }
        });
        Self {
            dir,
            config,
            launch,
            spec,
        }
    }

    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.spec["process"]["terminal"] = true.into();
        self.launch.io = Io::Terminal {
            size: Size { rows, columns },
            stdin: Stdin::Open,
        };
        self.launch.foreground = Some(Streams {
            stdin: true,
            ..OUTPUT
        });
        self
    }

    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.launch.io = Io::Pipes { stdin };
        self.launch.foreground = Some(Streams {
            stdin: true,
            ..OUTPUT
        });
        self
    }

    pub fn write_spec(&self) {
        let path = self.launch.bundle.join("config.json");
        fs::write(path, self.spec.to_string()).unwrap();
    }

    pub fn outcome(&self, fds: &Fds<'_>) -> Outcome {
        self.write_spec();
        shim::start(&self.config, &self.launch, fds).unwrap()
    }

    pub fn start(&self) -> Started {
        started(self.outcome(&Fds::default()))
    }

    pub fn refused(&self) -> Refused {
        match self.outcome(&Fds::default()) {
            Outcome::Refused(refused) => refused,
            Outcome::Started(started) => panic!("{started:?}"),
        }
    }

    /// A process in the container that runs.
    pub fn exec(&self, words: &[&str], io: Io) -> Exec {
        let args: Vec<&str> = std::iter::once("/t").chain(words.iter().copied()).collect();
        let id = format!("e{}", words.join("-").replace(['/', ' '], "_"));
        let run = self.run().join("exec").join(&id);
        fs::create_dir_all(&run).unwrap();
        Exec {
            container: self.launch.id.clone(),
            id,
            run,
            runtime: self.launch.runtime.clone(),
            process: json!({
                "terminal": matches!(io, Io::Terminal { .. }),
                "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/"], "cwd": "/",
            }),
            io,
            foreground: Some(Streams {
                stdin: true,
                ..OUTPUT
            }),
            cleanup: Vec::new(),
            events: self.launch.events.clone(),
            timeout_ms: 0,
        }
    }

    pub fn run(&self) -> &Path {
        &self.launch.run
    }

    pub fn state(&self) -> State {
        State::read(self.run()).unwrap().unwrap()
    }

    /// The lines of the log file, as (stream, text).
    pub fn log(&self) -> Vec<(String, String)> {
        let (Log::JsonFile(file) | Log::K8sFile(file) | Log::Local(file)) = &self.launch.log else {
            return Vec::new();
        };
        let text = fs::read_to_string(&file.path).unwrap_or_default();
        let line = |l: &str| {
            let value: Value = serde_json::from_str(l).unwrap();
            let word = |key: &str| value[key].as_str().unwrap().to_owned();
            (word("stream"), word("log"))
        };
        text.lines().map(line).collect()
    }

    pub fn events(&self) -> Vec<String> {
        let path = self.launch.events.as_ref().unwrap();
        let text = fs::read_to_string(path).unwrap_or_default();
        let action = |l: &str| serde_json::from_str::<Event>(l).unwrap().action;
        text.lines().map(action).collect()
    }

    /// Waits until the shim has gone, and sees that nothing is left of the container.
    pub fn nothing_is_left(&self) {
        let state = self.state();
        until("the shim goes", || !state.shim.lives());
        if let Some(init) = state.init {
            until("the container goes", || !init.lives());
        }
        assert_eq!(self.launch.runtime.ids().unwrap(), [""; 0]);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.dir.path().to_str().unwrap()),
            "{mounts}"
        );
        let group = Cgroup::at(self.launch.cgroup.as_ref().unwrap()).unwrap();
        for controller in ["memory", "pids", "cpu", "systemd", "freezer"] {
            assert!(!group.dir(controller).exists(), "{controller}");
        }
        assert!(!self.run().join(shim::SOCKET).exists());
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        // A test that failed must not leave a container behind.
        if let Ok(Some(seen)) = State::look(self.run()) {
            for process in [Some(seen.state.shim), seen.state.init]
                .into_iter()
                .flatten()
            {
                if let Some(fd) = process.open() {
                    let kill = rustix::process::Signal::KILL;
                    let _ = rustix::process::pidfd_send_signal(fd, kill);
                }
            }
            if seen.shim || seen.init {
                let _ = self.launch.runtime.delete(&self.launch.id, true);
            }
        }
    }
}

/// Both streams of output.
pub const OUTPUT: Streams = Streams {
    stdin: false,
    stdout: true,
    stderr: true,
};

pub fn started(outcome: Outcome) -> Started {
    match outcome {
        Outcome::Started(started) => started,
        Outcome::Refused(refused) => panic!("{refused:?}"),
    }
}

/// All output up to the exit, and the exit.
pub fn all(connection: &mut Connection) -> (String, String, Exit) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match connection.recv().unwrap() {
            Message::Output(Stream::Stdout, bytes) => out.extend_from_slice(bytes),
            Message::Output(Stream::Stderr, bytes) => err.extend_from_slice(bytes),
            Message::Exited(exit) => {
                let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
                return (text(out), text(err), exit);
            }
            Message::Closed => panic!("the shim has gone"),
        }
    }
}

/// Standard output until it ends with that.
pub fn out_until(connection: &mut Connection, end: &str) -> String {
    let mut out = String::new();
    while !out.ends_with(end) {
        match connection.recv().unwrap() {
            Message::Output(_, bytes) => out.push_str(std::str::from_utf8(bytes).unwrap()),
            other => panic!("{other:?} after {out:?}"),
        }
    }
    out
}

/// Waits, but not for ever, for something that has no file descriptor.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: never");
        std::thread::sleep(Duration::from_millis(5));
    }
}
