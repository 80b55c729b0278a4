//! Runs a program with bounds: on its time, and on what of its output is kept.

use std::{
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
    time::Timespec,
};

use crate::error::{Error, Kind, Result};

/// What is kept of each stream, in bytes; the rest is read and forgotten.
const KEEP: usize = 256 << 10;

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Output {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// The beginning of its standard output.
    pub(crate) stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub(crate) stderr: Vec<u8>,
}

impl Output {
    /// Whether it ended well.
    pub(crate) fn ok(&self) -> bool {
        self.status.success()
    }

    /// What it said of its failure, on one line.
    pub(crate) fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        let line = text.lines().rev().find(|l| !l.trim().is_empty());
        match (line, self.status.code(), self.status.signal()) {
            (Some(line), ..) => line.trim().chars().take(1000).collect(),
            (None, Some(code), _) => format!("exit code {code}"),
            (None, None, signal) => format!("signal {}", signal.unwrap_or(0)),
        }
    }
}

/// Runs the command, which sets standard input itself, and waits for its end, or kills it and its
/// process group.
///
/// # Errors
/// [`Kind::Host`] if it cannot be run, or does not end in time.
pub(crate) fn run(command: &mut Command, timeout: Duration) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |e: io::Error| Error::host(format!("run `{name}`"), e);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    match watch(&mut child, timeout) {
        Ok(Some(out)) => Ok(out),
        Ok(None) => {
            end(&mut child);
            let m = format!("`{name}` did not end within {} s", timeout.as_secs());
            Err(Error::new(Kind::Host, m).with_hint("it was killed; is the host overloaded?"))
        }
        Err(e) => {
            end(&mut child);
            Err(failed(e))
        }
    }
}

fn end(child: &mut Child) {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let _ = child.wait();
}

/// Reads until the child has ended; `None` if that takes too long. Whoever else holds its streams
/// open does not matter.
fn watch(child: &mut Child, timeout: Duration) -> io::Result<Option<Output>> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(Errno::SRCH)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + timeout;
    let mut pipes: [Option<OwnedFd>; 2] = [
        child.stdout.take().map(OwnedFd::from),
        child.stderr.take().map(OwnedFd::from),
    ];
    for pipe in pipes.iter().flatten() {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    let mut kept = [Vec::new(), Vec::new()];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(
            pipes
                .iter()
                .flatten()
                .map(|p| PollFd::new(p, PollFlags::IN)),
        );
        let wait = Timespec::try_from(left).ok();
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ended = !fds[0].revents().is_empty();
        drop(fds);
        for (pipe, kept) in pipes.iter_mut().zip(&mut kept) {
            if let Some(fd) = pipe
                && !drain(fd, kept, ended)?
            {
                *pipe = None;
            }
        }
        if ended {
            let [stdout, stderr] = kept;
            return Ok(Some(Output {
                status: child.wait()?,
                stdout,
                stderr,
            }));
        }
    }
}

/// Reads what is there, all of it at the end; whether there may be more.
fn drain(pipe: &OwnedFd, kept: &mut Vec<u8>, all: bool) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    // A grandchild may write for ever: what a full pipe holds is enough at the end.
    for _ in 0..if all { 64 } else { 4 } {
        match rustix::io::read(pipe.as_fd(), &mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => {
                let room = KEEP - kept.len();
                (&buffer[..n.min(room)]).read_to_end(kept)?;
            }
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, timeout: u64) -> Result<Output> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        run(&mut command, Duration::from_millis(timeout))
    }

    #[test]
    fn output_and_end() {
        let out = sh("echo a; echo b >&2; exit 3", 20_000).unwrap();
        assert_eq!((&*out.stdout, out.status.code()), (&b"a\n"[..], Some(3)));
        assert_eq!(out.said(), "b");
        assert_eq!(sh("kill -SEGV $$", 20_000).unwrap().said(), "signal 11");
        assert_eq!(sh("exit 7", 20_000).unwrap().said(), "exit code 7");
    }

    #[test]
    fn a_flood_is_read_and_forgotten() {
        let out = sh("head -c 20000000 /dev/zero", 60_000).unwrap();
        assert_eq!((out.ok(), out.stdout.len()), (true, KEEP));
    }

    #[test]
    fn what_hangs_is_killed_with_its_children() {
        let began = Instant::now();
        let e = sh("sleep 61 & sleep 62", 300).unwrap_err();
        assert!(e.message().contains("did not end"), "{e}");
        assert!(began.elapsed() < Duration::from_secs(20));
        // One that leaves a child behind with its streams has ended all the same.
        let began = Instant::now();
        assert!(sh("sleep 5 & exit 0", 60_000).unwrap().ok());
        assert!(began.elapsed() < Duration::from_secs(4));
    }
}
