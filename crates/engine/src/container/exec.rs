//! Further processes in a container that runs.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::Stdio,
};

use oci_spec::runtime::{Process, Spec};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
};

use super::{
    Containers, Record, Refusal, Status, names,
    place::{Locked, failed, lock_dir, lock_dir_now},
    refusal::Wanted,
};
pub use crate::spec::ExecRequest;
use crate::{
    error::{Error, Kind, Result},
    runtime::last_error_in,
    shim::{self, Connection, Exec, Fds, Io, Outcome, Size, Stdin, Streams},
    spec,
};

/// Where a process's streams go.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExecWays {
    /// Nobody waits for it.
    pub detach: bool,
    /// It gets the caller's standard input.
    pub interactive: bool,
    /// Size of the terminal, if it gets one.
    pub size: Size,
}

/// What became of a further process.
#[derive(Debug)]
pub enum ExecEnd {
    /// It ended so.
    Exited(u8),
    /// It goes on by itself.
    Detached,
    /// It runs on a terminal, which this leads to.
    Terminal(Connection),
    /// It could not be started.
    Refused(Refusal),
    /// It could not be started, and the runtime has said so on standard error.
    Told(Refusal),
}

impl Containers<'_> {
    /// Runs a further process in a container. Without a terminal it has this process's own
    /// standard streams.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if the container does not run or is frozen.
    pub fn exec(&self, record: &Record, request: &ExecRequest, ways: ExecWays) -> Result<ExecEnd> {
        let view = self.view(record)?;
        match view.status {
            Status::Running => {}
            Status::Paused => {
                let m = format!(
                    "Container {} is paused, unpause the container before exec",
                    record.name
                );
                return Err(Error::new(Kind::Conflict, m)
                    .with_hint(format!("`unlade unpause {}`", record.name)));
            }
            Status::Restarting => {
                let m = format!(
                    "Container {} is restarting, wait until the container is running",
                    record.id
                );
                return Err(Error::new(Kind::Conflict, m).with_hint("`unlade ps` shows its state"));
            }
            _ => return Err(Self::not_running(record)),
        }
        let place = self.place(&record.id)?;
        let spec = Spec::load(place.spec()).map_err(|e| {
            Error::new(
                Kind::Integrity,
                format!("read `{}`: {e}", place.spec().display()),
            )
            .with_hint("restart the container")
        })?;
        let init = self.seen(&record.id)?.and_then(|seen| seen.state.init);
        let root = init.map(root_of).transpose()?.flatten();
        let root = root.ok_or_else(|| Self::not_running(record))?;
        let user = match &*request.user {
            "" => None,
            user => Some(spec::user::resolve(root.as_fd(), user, &[])?),
        };
        let process = spec::exec(&spec, &record.request, request, user.as_ref(), self.host())?;
        if let Some(refusal) = lacking(root.as_fd(), &process) {
            return Ok(ExecEnd::Refused(refusal));
        }
        let cwd = process.cwd().display().to_string();
        let wanted = Wanted {
            program: request.cmd.first().map_or("", String::as_str),
            dir: &cwd,
        };
        let process = serde_json::to_value(&process)
            .map_err(|e| Error::new(Kind::Bug, format!("write JSON: {e}")))?;
        let exec_id = names::new_id()?;
        let command = request.cmd.join(" ");
        let more = [("execID", &*exec_id)];
        self.tell(&format!("exec_create: {command}"), record, &more);
        self.tell(&format!("exec_start: {command}"), record, &more);
        let run = place.run.join("exec").join(&exec_id);
        sweep(&place.run.join("exec"));
        // As long as it is locked, or a shim is at work there, nobody sweeps it.
        let locked: Locked = lock_dir(&run)?;
        if !request.tty && !ways.detach {
            let done = self.here(record, &process, wanted, &run, ways.interactive);
            let _ = fs::remove_dir_all(&run);
            if let Ok(ExecEnd::Exited(code)) = &done {
                let more = [("execID", &*exec_id), ("exitCode", &code.to_string())];
                self.tell("exec_die", record, &more);
            }
            return done;
        }
        let stdin = if ways.interactive && !ways.detach {
            Stdin::Once
        } else {
            Stdin::Closed
        };
        let streams = Streams {
            stdin: ways.interactive,
            stdout: true,
            stderr: true,
        };
        let exec = Exec {
            container: record.id.clone(),
            id: exec_id,
            run: run.clone(),
            runtime: self.runtime(&record.request.host_config.runtime)?,
            process,
            io: if request.tty {
                Io::Terminal {
                    size: ways.size,
                    stdin,
                }
            } else {
                Io::Pipes { stdin }
            },
            foreground: (!ways.detach).then_some(streams),
            cleanup: Vec::new(),
            events: Some(self.journal().path().to_owned()),
            timeout_ms: 0,
        };
        let fds = Fds {
            lock: Some(locked.as_fd()),
            ..Fds::default()
        };
        let outcome = shim::exec(self.config, &exec, &fds)?;
        match outcome {
            Outcome::Started(_) if ways.detach => Ok(ExecEnd::Detached),
            Outcome::Started(started) => Ok(ExecEnd::Terminal(started.connection)),
            Outcome::Refused(refused) => {
                let _ = fs::remove_dir_all(&run);
                let code = code_of(&refused.message);
                let refusal = Refusal::new(code, &refused.message, wanted);
                Ok(ExecEnd::Refused(refusal))
            }
        }
    }

    /// Runs it as a child of this process, with its streams.
    fn here(
        &self,
        record: &Record,
        process: &serde_json::Value,
        wanted: Wanted<'_>,
        run: &Path,
        interactive: bool,
    ) -> Result<ExecEnd> {
        let (file, log) = (run.join("process.json"), run.join("log"));
        fs::write(&file, process.to_string()).map_err(failed("write", &file))?;
        let runtime = self.runtime(&record.request.host_config.runtime)?;
        let mut command = runtime.command();
        command
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json"]);
        command
            .args(["exec", "--process"])
            .arg(&file)
            .arg(&record.id);
        if !interactive {
            command.stdin(Stdio::null());
        }
        shim::seal_descriptors().map_err(|e| Error::host("keep descriptors from it", e))?;
        let ended = command
            .status()
            .map_err(|e| Error::host("run the runtime", e))?;
        let code = ended.code().unwrap_or(255);
        if code != 0
            && let Some(message) = last_error_in(&log)
        {
            let refusal = Refusal::new(code_of(&message), &message, wanted);
            return Ok(ExecEnd::Told(refusal));
        }
        Ok(ExecEnd::Exited(u8::try_from(code).unwrap_or(255)))
    }
}

/// The root of a container, as its first process has it; `None` if that has ended.
fn root_of(init: shim::Process) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(format!("/proc/{}/root", init.pid), flags, Mode::empty());
    // As long as the process lived until now, what was opened is its own.
    if !init.lives() {
        return Ok(None);
    }
    let root = opened.map_err(|e| Error::host("open the container's root", e))?;
    Ok(Some(root))
}

/// What a process needs and the container has not, told before a runtime tells it in its own way.
/// What cannot be made out is left to the runtime.
fn lacking(root: BorrowedFd<'_>, process: &Process) -> Option<Refusal> {
    let open = |path: &Path, more: ResolveFlags| {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(root, path, flags, Mode::empty(), resolve).and_then(fstat)
    };
    let find = |path: &Path| match open(path, ResolveFlags::empty()) {
        // What is mounted there may be other to who is inside, as `/proc/self` is.
        Err(Errno::NOENT) => Err(match open(path, ResolveFlags::NO_XDEV) {
            Err(Errno::XDEV) => Errno::XDEV,
            _ => Errno::NOENT,
        }),
        found => found,
    };
    let kind = |mode| FileType::from_raw_mode(mode);
    let program = process.args().as_ref()?.first()?;
    let cwd = process.cwd();
    let dir = cwd.display().to_string();
    let refuse = |code, said: &str| {
        let wanted = Wanted { program, dir: &dir };
        Some(Refusal::new(code, said, wanted))
    };
    match find(cwd) {
        Ok(stat) if kind(stat.st_mode) == FileType::Directory => {}
        Ok(_) | Err(Errno::NOTDIR) => return refuse(126, &format!("chdir {dir}: not a directory")),
        Err(Errno::NOENT) => {
            return refuse(127, &format!("chdir {dir}: no such file or directory"));
        }
        Err(_) => return None,
    }
    let variables = process.env().iter().flatten();
    let path = variables
        .filter_map(|v| v.strip_prefix("PATH="))
        .next_back();
    let candidates: Vec<PathBuf> = match program.contains('/') {
        true => vec![cwd.join(program)],
        false => {
            let dirs = path?.split(':');
            dirs.map(|dir| cwd.join(dir).join(program)).collect()
        }
    };
    let mut denied = false;
    for candidate in &candidates {
        match find(candidate) {
            Ok(stat)
                if kind(stat.st_mode) != FileType::RegularFile || stat.st_mode & 0o111 == 0 =>
            {
                denied = true;
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            _ => return None,
        }
    }
    match (denied, program.contains('/')) {
        (true, true) => refuse(126, "exec: permission denied"),
        (false, true) => refuse(127, "exec: no such file or directory"),
        (false, false) => refuse(127, "executable file not found in $PATH"),
        // Runtimes differ in what they make of it.
        (true, false) => None,
    }
}

/// Removes what processes that have ended left: of one that is detached, and of one whose command
/// was killed, nobody else does.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let run = entry.path();
        let Ok(Some(_locked)) = lock_dir_now(&run) else {
            continue;
        };
        if shim::State::look(&run).is_ok_and(|seen| seen.is_none_or(|s| !s.shim)) {
            let _ = fs::remove_dir_all(&run);
        }
    }
}

/// Docker's code for why a process could not be started.
fn code_of(message: &str) -> u8 {
    let message = message.to_lowercase();
    let says = |parts: &[&str]| parts.iter().any(|p| message.contains(p));
    if says(&["executable file not found", "no such file or directory"]) {
        127
    } else {
        126
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        for (message, want) in [
            ("exec: \"x\": executable file not found in $PATH", 127),
            ("exec: \"/x\": stat /x: no such file or directory", 127),
            ("exec: \"/etc\": permission denied", 126),
            ("exec: \"/etc\": is a directory", 126),
        ] {
            assert_eq!(code_of(message), want, "{message}");
        }
    }
}
