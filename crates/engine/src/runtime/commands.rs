//! The command lines of the runtimes.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::DirBuilderExt,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::SigSet;
use serde_json::Value;

use super::{
    Runtime,
    bounded::{self, Output},
};
use crate::{
    error::{Error, Kind, Result},
    sys,
};

/// How long a runtime may take for what is done to a container that runs.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How much of the end of a runtime's log is read, in bytes.
const MAX_LOG: u64 = 64 << 10;
/// Variables that a runtime is given; what else is in ours, such as `LISTEN_FDS` or
/// `NOTIFY_SOCKET`, would change what it does.
const ENVIRONMENT: [&str; 4] = [
    "PATH",
    "HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
];

impl Runtime {
    /// The program with its root; the verb and what follows is to be added.
    pub fn command(&self) -> Command {
        let mut command = match &self.through {
            Some(shim) => {
                let mut command = Command::new(shim);
                command.arg(crate::runtime::WITHOUT_UNIFIED).arg(&self.path);
                command
            }
            None => Command::new(&self.path),
        };
        command.env_clear();
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.arg("--root").arg(&self.root);
        command
    }

    /// The same runtime where the host's control groups need no help any more.
    pub(crate) fn unaided(&self) -> Self {
        Self {
            through: None,
            ..self.clone()
        }
    }

    /// Makes its root.
    ///
    /// # Errors
    /// Those of the host.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        let mut dirs = fs::DirBuilder::new();
        dirs.recursive(true).mode(0o700).create(&self.root)
    }

    /// `exec` of a process, described in a file, with the caller's own standard streams.
    pub fn exec_command(&self, id: &str, process: &Path) -> Command {
        let mut command = self.command();
        command.arg("exec").arg("--process").arg(process).arg(id);
        command
    }

    /// Becomes [`Runtime::exec_command`]; returns only if that fails. No descriptor but the
    /// standard streams goes along, and no blocked signal.
    pub fn exec_here(&self, id: &str, process: &Path) -> Error {
        let name = self.path.display();
        if let Err(e) = sys::close_on_exec_from(3) {
            return Error::host("keep descriptors from the container", e);
        }
        if let Err(e) = SigSet::empty().thread_set_mask() {
            return Error::host("unblock signals", io::Error::from(e));
        }
        let e = self.exec_command(id, process).exec();
        Error::host(format!("run `{name}`"), e)
    }

    /// Sends a signal to the first process, or to all. `shim` does so without the runtime.
    ///
    /// # Errors
    /// [`Kind::Host`] with the runtime's words.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let signal = signal.to_string();
        let mut args = vec!["kill"];
        if all {
            args.push("--all");
        }
        args.extend([id, &signal]);
        self.done(&args).map(drop)
    }

    /// Forgets a container that has ended; with `force` one that runs is killed, and one that is
    /// not known is fine.
    ///
    /// # Errors
    /// [`Kind::Host`] with the runtime's words.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        self.delete_within(id, force, TIMEOUT)
    }

    pub(crate) fn delete_within(&self, id: &str, force: bool, timeout: Duration) -> Result<()> {
        let mut args = vec!["delete"];
        if force {
            args.push("--force");
        }
        args.push(id);
        let out = self.run(&args, None, timeout)?;
        if out.ok() || (force && !self.root.join(id).exists()) {
            return Ok(());
        }
        Err(self.failed("delete", &out))
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// [`Kind::Host`] with the runtime's words.
    pub fn pause(&self, id: &str) -> Result<()> {
        self.done(&["pause", id]).map(drop)
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// [`Kind::Host`] with the runtime's words.
    pub fn resume(&self, id: &str) -> Result<()> {
        self.done(&["resume", id]).map(drop)
    }

    /// Changes the limits: `resources` as in a spec's `linux.resources`.
    ///
    /// # Errors
    /// [`Kind::Host`] with the runtime's words.
    pub fn update(&self, id: &str, resources: &Value) -> Result<()> {
        let text = resources.to_string();
        let out = self.run(
            &["update", "--resources", "-", id],
            Some(text.as_bytes()),
            TIMEOUT,
        )?;
        if out.ok() {
            Ok(())
        } else {
            Err(self.failed("update", &out))
        }
    }

    /// What it says of a container; `None` if it knows none of that name.
    ///
    /// # Errors
    /// [`Kind::Host`] with the runtime's words.
    pub fn state(&self, id: &str) -> Result<Option<Value>> {
        if !self.root.join(id).exists() {
            return Ok(None);
        }
        let out = self.done(&["state", id])?;
        serde_json::from_slice(&out.stdout).map(Some).map_err(|e| {
            let m = format!("the runtime's state of `{id}` is not JSON: {e}");
            Error::new(Kind::Host, m)
        })
    }

    /// What it can do, in the OCI form; `None` if it cannot say.
    ///
    /// # Errors
    /// [`Kind::Host`] if it cannot be run.
    pub fn features(&self) -> Result<Option<Value>> {
        let out = self.run(&["features"], None, TIMEOUT)?;
        Ok(serde_json::from_slice(&out.stdout)
            .ok()
            .filter(|_| out.ok()))
    }

    /// The containers that it knows, without asking it.
    ///
    /// # Errors
    /// [`Kind::Host`] if its root cannot be read.
    pub fn ids(&self) -> Result<Vec<String>> {
        let failed = |e| Error::host(format!("read `{}`", self.root.display()), e);
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                ids.extend(entry.file_name().into_string());
            }
        }
        Ok(ids)
    }

    fn done(&self, args: &[&str]) -> Result<Output> {
        let out = self.run(args, None, TIMEOUT)?;
        if out.ok() {
            Ok(out)
        } else {
            Err(self.failed(args.first().unwrap_or(&""), &out))
        }
    }

    fn run(&self, args: &[&str], input: Option<&[u8]>, timeout: Duration) -> Result<Output> {
        let mut command = self.command();
        command.args(args.iter().map(OsStr::new));
        match input {
            Some(bytes) => command.stdin(sheet(bytes)?),
            None => command.stdin(Stdio::null()),
        };
        bounded::run(&mut command, timeout)
    }

    fn failed(&self, verb: &str, out: &Output) -> Error {
        let said = out.said();
        let m = format!("{} {verb}: {}", self.flavor.name(), plain(&said));
        Error::new(Kind::Host, m)
    }
}

/// A nameless file with that text, to be read from its start.
fn sheet(bytes: &[u8]) -> Result<fs::File> {
    let make = || -> io::Result<fs::File> {
        let fd = rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = fs::File::from(fd);
        file.write_all(bytes)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    };
    make().map_err(|e| Error::host("make a file in memory", e))
}

/// The words of a line that runc's logger wrote: `time="…" level=error msg="…"`.
fn plain(line: &str) -> &str {
    match line.split_once("msg=\"") {
        Some((_, rest)) => rest.trim_end_matches('"'),
        None => line,
    }
}

/// The last error in a runtime's log, if it can be read.
pub(crate) fn last_error_in(log: &Path) -> Option<String> {
    let mut file = fs::File::open(log).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(MAX_LOG)))
        .ok()?;
    let mut end = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut end).ok()?;
    last_error(&end)
}

/// The last error in a runtime's log of JSON lines.
fn last_error(log: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(log);
    text.lines().rev().find_map(|line| {
        let value: Value = serde_json::from_str(line).ok()?;
        let level = value.get("level")?.as_str()?;
        let message = value.get("msg")?.as_str()?;
        matches!(level, "error" | "fatal" | "panic").then(|| message.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::runtime::Flavor;

    fn runtime(through: Option<&str>) -> Runtime {
        Runtime {
            path: "/r/runc".into(),
            flavor: Flavor::Runc,
            version: "1.1.5".into(),
            root: "/run/x".into(),
            through: through.map(PathBuf::from),
        }
    }

    #[test]
    fn command_lines() {
        let words = |c: &Command| {
            let all = std::iter::once(c.get_program()).chain(c.get_args());
            all.map(|w| w.to_str().unwrap())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let exec = |r: Runtime| words(&r.exec_command("id", Path::new("/p")));
        assert_eq!(
            exec(runtime(None)),
            "/r/runc --root /run/x exec --process /p id"
        );
        assert_eq!(
            exec(runtime(Some("/s"))),
            "/s without-unified /r/runc --root /run/x exec --process /p id"
        );
        assert_eq!(exec(runtime(Some("/s")).unaided()), exec(runtime(None)));
    }

    #[test]
    fn errors_of_logs() {
        let log = br#"{"level":"error","msg":"first","time":"x"}
{"level":"error","msg":"exec: \"x\": executable file not found in $PATH","time":"x"}
{"level":"warning","msg":"later"}
not json"#;
        let want = r#"exec: "x": executable file not found in $PATH"#;
        assert_eq!(last_error(log).as_deref(), Some(want));
        assert_eq!(last_error(b""), None);
        assert_eq!(plain(r#"time="x" level=error msg="why""#), "why");
    }

    #[test]
    fn a_runtime_that_knows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let r = Runtime {
            path: "/bin/false".into(),
            root: dir.path().join("root"),
            ..runtime(None)
        };
        assert_eq!(r.ids().unwrap(), [""; 0]);
        assert_eq!(r.state("x").unwrap(), None);
        r.delete("x", true).unwrap();
        let e = r.delete("x", false).unwrap_err();
        assert_eq!(e.message(), "runc delete: exit code 1");
        r.prepare().unwrap();
        fs::create_dir(r.root.join("a")).unwrap();
        assert_eq!(r.ids().unwrap(), ["a"]);
        assert!(r.delete("a", true).is_err());
    }
}
