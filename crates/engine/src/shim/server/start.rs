//! Starting the container through the runtime.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::OwnedFd,
    os::unix::net::{UnixListener, UnixStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process_group, pidfd_open, waitpid,
    },
};

use super::{Console, Output, Phase, Server, Starting, end::describe, input::pipe, job::What};
use crate::{
    error::Error,
    runtime::last_error_in,
    shim::{Io, Process, Status, Stdin, Stream, clock, wire, wire::Reply},
};

/// Most of a runtime's words that are read, in bytes.
const WORDS: u64 = 64 << 10;

/// Where a terminal's other side arrives.
const CONSOLE: &str = "console.sock";

impl Server {
    /// Starts it for the first time. Until others can see this shim, they are kept off by `lock`.
    pub(super) fn begin(&mut self, lock: Option<OwnedFd>) {
        self.save();
        drop(lock);
        if let Err(e) = self.start() {
            self.refuse(125, e.to_string());
        }
    }

    /// Runs the runtime.
    pub(super) fn start(&mut self) -> Result<(), Error> {
        let run = &self.job.run;
        let (log, pid_file) = (run.join("runtime.log"), run.join("pid"));
        for file in [&log, &pid_file] {
            match fs::remove_file(file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::host(format!("remove `{}`", file.display()), e));
                }
                _ => {}
            }
        }
        let mut command = self.job.runtime.command();
        command
            .arg("--log")
            .arg(&log)
            .args(["--log-format", "json"]);
        match &self.job.what {
            What::Container(container) => {
                command.args(["run", "--detach", "--bundle"]);
                command.arg(&container.bundle);
            }
            What::Process { process, .. } => {
                let file = run.join("process.json");
                fs::write(&file, process.to_string())
                    .map_err(|e| Error::host(format!("write `{}`", file.display()), e))?;
                command.args(["exec", "--detach", "--process"]).arg(file);
            }
        }
        command.arg("--pid-file").arg(&pid_file);
        let failed = |e: io::Error| Error::host("prepare the streams", e);
        let (words, console) = self.streams(&mut command).map_err(failed)?;
        match &self.job.what {
            What::Container(_) => command.arg(&self.job.id),
            What::Process { container, .. } => command.arg(container),
        };
        let name = self.job.runtime.path.display();
        let child = command
            .process_group(0)
            .spawn()
            .map_err(|e| Error::host(format!("run `{name}`"), e))?;
        let runtime = Pid::from_raw(child.id().cast_signed())
            .ok_or_else(|| Error::host(format!("run `{name}`"), io::Error::other("no process")))?;
        self.phase = Phase::Starting(Starting {
            runtime,
            deadline: Instant::now() + self.job.timeout,
            words,
            console,
            log,
            pid_file,
        });
        Ok(())
    }

    /// Makes the streams. Gives where the runtime's own words and a terminal come from.
    fn streams(&mut self, command: &mut Command) -> io::Result<(Option<OwnedFd>, Option<Console>)> {
        self.outputs.clear();
        self.terminal = None;
        self.input.close();
        match self.job.io {
            Io::Pipes { stdin } => {
                if stdin == Stdin::Closed {
                    command.stdin(Stdio::null());
                } else {
                    let (theirs, ours) = pipe(false)?;
                    command.stdin(theirs);
                    self.input.open(Some(ours));
                }
                let (theirs, out) = pipe(true)?;
                command.stdout(theirs);
                let (theirs, err) = pipe(true)?;
                command.stderr(theirs);
                self.outputs = vec![
                    Output {
                        stream: Stream::Stdout,
                        from: out,
                    },
                    Output {
                        stream: Stream::Stderr,
                        from: err,
                    },
                ];
                Ok((None, None))
            }
            Io::Terminal { .. } => {
                let run = &self.job.run;
                let _ = fs::remove_file(run.join(CONSOLE));
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let dir = rustix::fs::open(run, flags, Mode::empty())?;
                let path = socket_for_others(&dir);
                let listener = UnixListener::bind(&path)?;
                listener.set_nonblocking(true)?;
                command.arg("--console-socket").arg(path);
                let (theirs, words) = pipe(true)?;
                command.stdin(Stdio::null());
                command.stdout(Stdio::null());
                command.stderr(theirs);
                Ok((
                    Some(words),
                    Some(Console {
                        listener,
                        _dir: dir,
                    }),
                ))
            }
            Io::Passed => {
                let Some([a, b, c]) = &self.stdio else {
                    return Err(io::Error::other("no streams were handed over"));
                };
                command.stdin(a.try_clone()?);
                command.stdout(b.try_clone()?);
                command.stderr(c.try_clone()?);
                Ok((None, None))
            }
        }
    }

    /// The runtime has ended: either the container runs now, or it said why not.
    pub(super) fn runtime_ended(&mut self, starting: &Starting, status: WaitStatus) {
        if status.exit_status() != Some(0) {
            let said = self.words(starting);
            let name = self.job.runtime.flavor.name();
            let message = match said {
                Some(said) => said,
                None => format!("{name} {}", describe(status)),
            };
            return self.refuse(code(&message), message);
        }
        match self.adopt(starting) {
            Ok(init) => self.runs(init),
            Err(m) => self.refuse(125, m),
        }
    }

    /// Gets hold of the first process, and of its terminal.
    fn adopt(&mut self, starting: &Starting) -> Result<Process, String> {
        let name = self.job.runtime.flavor.name();
        let text = head(&starting.pid_file).unwrap_or_default();
        let pid = String::from_utf8_lossy(&text).trim().parse().ok();
        let pid = pid.and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|p| p.as_raw_pid() > 1) else {
            return Err(format!("{name} did not say which process it started"));
        };
        // crun leaves a child of its own behind, which is the parent for some moments still.
        let found = Process::with_state(pid.as_raw_pid());
        let ours = Process::descends(pid.as_raw_pid());
        let Some((process, _)) = found.filter(|_| ours) else {
            return Err(format!(
                "{name} says that it started process {}, which it did not",
                pid.as_raw_pid()
            ));
        };
        let handle = pidfd_open(pid, PidfdFlags::empty());
        self.init = Some(handle.map_err(|e| format!("open process {pid}: {e}"))?);
        if let Some(console) = &starting.console {
            let terminal = receive_terminal(&console.listener)
                .map_err(|e| format!("{name} did not hand over the terminal: {e}"))?;
            let failed = |e: io::Error| format!("open the terminal: {e}");
            let clone = || terminal.try_clone().map_err(failed);
            self.outputs = vec![Output {
                stream: Stream::Stdout,
                from: clone()?,
            }];
            if self.job.stdin() != Stdin::Closed {
                self.input.open(Some(clone()?));
            }
            self.terminal = Some(terminal);
            if let Io::Terminal { size, .. } = self.job.io
                && size != Default::default()
            {
                self.resize(size)?;
            }
        }
        Ok(process)
    }

    fn runs(&mut self, init: Process) {
        self.phase = Phase::Running {
            since: Instant::now(),
        };
        self.state.status = Status::Running;
        self.state.init = Some(init);
        self.state.started = Some(clock::now());
        self.state.paused = false;
        self.state.error.clear();
        self.save();
        if self.job.container().is_some() {
            // Before anyone hears of it: what comes after is journalled after.
            self.event("start", None);
        }
        if !std::mem::replace(&mut self.started_once, true) {
            let started = Reply::Started { pid: init.pid };
            for client in self.clients.iter_mut().filter(|c| c.starter) {
                client.tell(&started);
            }
        }
        self.watch_memory();
        self.begin_checks();
        if let Some(signal) = self.stop_with {
            let _ = self.signal(signal);
        }
    }

    /// It cannot be started. Nothing of it stays.
    pub(super) fn refuse(&mut self, exit_code: u8, message: String) {
        self.outputs.clear();
        self.input.close();
        self.held = Vec::new();
        self.clear();
        self.state.status = Status::Failed;
        self.state.error.clone_from(&message);
        self.state.exit_code = Some(exit_code.into());
        if self.started_once {
            self.state.finished = Some(clock::now());
            return self.last();
        }
        self.namespaces.leave();
        self.save();
        let refused = Reply::Refused { exit_code, message };
        for client in self.clients.iter_mut().filter(|c| c.starter) {
            client.tell(&refused);
            self.cleaned = !client.gone;
        }
        self.flush_and_go();
    }

    /// The runtime takes too long: it and what it started are killed.
    pub(super) fn runtime_hangs(&mut self, runtime: Pid) {
        let _ = kill_process_group(runtime, Signal::KILL);
        let _ = waitpid(Some(runtime), WaitOptions::empty());
        let m = format!(
            "{} did not start it within {:?}, and was killed",
            self.job.runtime.flavor.name(),
            self.job.timeout
        );
        self.refuse(125, m);
    }

    /// What the runtime said of its failure.
    fn words(&self, starting: &Starting) -> Option<String> {
        if let Some(message) = last_error_in(&starting.log) {
            return Some(message);
        }
        let from = starting.words.as_ref();
        let streams = self.outputs.iter();
        let from = from.or_else(|| streams.last().map(|o| &o.from))?;
        let mut text = Vec::new();
        let mut buffer = vec![0; wire::CHUNK];
        while let Ok(n @ 1..) = rustix::io::read(from, &mut buffer) {
            text.extend_from_slice(&buffer[..n]);
            if text.len() as u64 > WORDS {
                break;
            }
        }
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rev().find(|l| !l.trim().is_empty())?;
        Some(line.trim().chars().take(1000).collect())
    }
}

/// The path of the console's socket, for another process as long as the directory is open here.
fn socket_for_others(dir: &OwnedFd) -> std::path::PathBuf {
    use std::os::fd::AsRawFd;
    let (pid, fd) = (std::process::id(), dir.as_raw_fd());
    format!("/proc/{pid}/fd/{fd}/{CONSOLE}").into()
}

fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (socket, _): (UnixStream, _) = listener.accept()?;
    socket.set_nonblocking(true)?;
    let mut fds = Vec::new();
    wire::receive(&socket, &mut [0; 4096], &mut fds)?;
    let terminal = fds.into_iter().next();
    let terminal = terminal.ok_or_else(|| io::Error::other("no descriptor came"))?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    Ok(terminal)
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    File::open(path)?.take(64).read_to_end(&mut out)?;
    Ok(out)
}

/// Docker's exit code for a runtime's words.
fn code(message: &str) -> u8 {
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|w| message.contains(w));
    if says(&["executable file not found", "no such file or directory"]) {
        127
    } else if says(&["permission denied", "is a directory", "exec format error"]) {
        126
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::code;

    #[test]
    fn codes_as_dockers() {
        for (message, want) in [
            (
                r#"runc run failed: unable to start container process: exec: "x": executable file not found in $PATH"#,
                127,
            ),
            (
                "executable file `x` not found in $PATH: No such file or directory",
                127,
            ),
            (r#"exec: "/x": stat /x: no such file or directory"#, 127),
            (r#"exec: "/etc": permission denied"#, 126),
            ("open executable: Permission denied", 126),
            ("exec: \"/\": is a directory", 126),
            ("runc create failed: cannot allocate memory", 125),
        ] {
            assert_eq!(code(message), want, "{message}");
        }
    }
}
