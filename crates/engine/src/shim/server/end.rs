//! The end of a container: what is told, what is removed, and whether it starts again.

use std::{
    fs, io, mem,
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    io::FdFlags,
    process::{Signal, WaitStatus},
};

use super::{Phase, Server, job::What};
use crate::{
    journal::{Event, Journal},
    shim::{Exit, Restart, Status, clock, wire::Reply},
};

/// How long is waited before it is started again for the first time; then twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// How long at most.
const LONGEST: Duration = Duration::from_secs(60);
/// A run of this length was a good one: the next wait is the first again.
const GOOD: Duration = Duration::from_secs(10);
/// How long a runtime may take to remove what is left of a failed start.
const REMOVAL: Duration = Duration::from_secs(10);

impl Server {
    /// It has ended, and all its output is passed on.
    pub(super) fn ended(&mut self, code: i32, ran: Duration) {
        self.outputs.clear();
        self.input.close();
        self.terminal = None;
        self.init = None;
        self.kill_at = None;
        self.end_checks();
        self.count_kills();
        self.oom = None;
        self.kills = 0;
        self.erase();
        self.state.exit_code = Some(code);
        self.state.finished = Some(clock::now());
        self.state.paused = false;
        let ended = match self.job.what {
            What::Container(_) => "die",
            What::Process { .. } => "exec_die",
        };
        self.event(ended, Some(code));
        if !self.starts_again(code) {
            return self.last();
        }
        if ran >= GOOD {
            self.backoff = None;
        }
        let wait = self.backoff.map_or(FIRST, |b| (b * 2).min(LONGEST));
        self.backoff = Some(wait);
        self.phase = Phase::Waiting {
            until: Instant::now() + wait,
        };
        self.state.status = Status::Restarting;
        self.save();
        let exit = self.exit_now(true);
        self.tell_all(&exit);
    }

    fn starts_again(&self, code: i32) -> bool {
        !self.state.stopping
            && match self.job.restart() {
                Restart::No => false,
                Restart::Always | Restart::UnlessStopped => true,
                Restart::OnFailure { most } => {
                    code != 0 && (most == 0 || self.state.restarts < most)
                }
            }
    }

    /// The wait is over.
    pub(super) fn again(&mut self) {
        self.state.restarts += 1;
        self.state.oom = false;
        self.state.health = self.job.container().and_then(|c| c.first_feeling());
        self.state.status = Status::Starting;
        self.save();
        if let Err(e) = self.start() {
            self.refuse(125, e.to_string());
        }
    }

    /// It has ended for good.
    pub(super) fn last(&mut self) {
        // Whoever is told that it is over can have its ports.
        self.held = Vec::new();
        self.log.close();
        self.namespaces.leave();
        if self.state.status != Status::Failed {
            self.state.status = Status::Exited;
        }
        self.save();
        let exit = self.exit_now(false);
        self.tell_all(&exit);
        self.exit = Some(exit);
        self.flush_and_go();
    }

    /// Nobody new is heard; who is there gets what is theirs.
    pub(super) fn flush_and_go(&mut self) {
        self.listener = None;
        let _ = fs::remove_file(self.job.run.join(super::SOCKET));
        self.phase = Phase::Flushing {
            since: Instant::now(),
        };
    }

    fn exit_now(&self, again: bool) -> Exit {
        Exit {
            code: self.state.exit_code.unwrap_or(125),
            oom: self.state.oom,
            again,
            finished: self.state.finished.clone().unwrap_or_default(),
            error: self.state.error.clone(),
        }
    }

    fn tell_all(&mut self, exit: &Exit) {
        for client in &mut self.clients {
            if client.streams.is_some() {
                client.tell(&Reply::Exited(exit.clone()));
            }
        }
    }

    /// Removes what the runtime keeps of a container that has ended. That is a directory and empty
    /// control groups: removing them takes less than a millisecond, the runtime ten or more.
    fn erase(&self) {
        let Some(container) = self.job.container() else {
            return;
        };
        let dir = self.job.runtime.root.join(&self.job.id);
        if let Some(cgroup) = &container.cgroup
            && !container.hooks
            && cgroup.remove().is_ok()
            && gone(fs::remove_dir_all(&dir))
        {
            return;
        }
        self.delete();
    }

    /// Has the runtime remove it, by force, and then removes what is left.
    fn delete(&self) {
        let dir = self.job.runtime.root.join(&self.job.id);
        let limit = self.job.timeout.min(REMOVAL);
        if dir.exists() {
            let _ = self.job.runtime.delete_within(&self.job.id, true, limit);
        }
        if let Some(cgroup) = self.job.container().and_then(|c| c.cgroup.as_ref()) {
            let _ = cgroup.clear();
            self.reap();
        }
        let _ = fs::remove_dir_all(&dir);
    }

    /// Removes what a start that failed has left.
    pub(super) fn clear(&mut self) {
        if self.job.container().is_some() {
            self.delete();
        } else if let Some(init) = self.init.take() {
            use std::os::fd::AsFd;
            let _ = rustix::process::pidfd_send_signal(init.as_fd(), Signal::KILL);
        }
        self.init = None;
    }

    /// Writes `state.json`. On a file system in memory that does not fail but for want of it.
    pub(super) fn save(&self) {
        let _ = self.state.write(&self.job.run);
    }

    /// Tells the journal what happens to the container.
    pub(super) fn event(&mut self, action: &str, exit_code: Option<i32>) {
        let Some(path) = self.job.events.as_deref() else {
            return;
        };
        let (id, exec) = match &self.job.what {
            What::Container(_) => (self.job.id.clone(), None),
            What::Process { container, .. } => (container.clone(), Some(self.job.id.clone())),
        };
        Journal::at(path).tell(&Event {
            id,
            time: clock::now(),
            action: action.to_owned(),
            exit_code,
            exec,
            attributes: mem::take(&mut self.job.attributes),
            ..Event::default()
        });
    }

    /// Ends, or becomes the command that cleans up.
    pub(super) fn finish(self) -> ExitCode {
        let Some((program, args)) = self.job.cleanup.split_first().filter(|_| !self.cleaned) else {
            return ExitCode::SUCCESS;
        };
        // Without it the namespaces might end meanwhile, and be made a second time.
        if let Some(users) = &self.users {
            let _ = rustix::io::fcntl_setfd(users, FdFlags::empty());
        }
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        if !self.log.settled() {
            // A thread that a disk holds would hold up what this process becomes.
            let began = command.spawn();
            return began.map_or(ExitCode::FAILURE, |_| ExitCode::SUCCESS);
        }
        // Only if that fails is there anything after it.
        let _ = command.exec();
        ExitCode::FAILURE
    }
}

fn gone(done: io::Result<()>) -> bool {
    match done {
        Ok(()) => true,
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

/// How a program ended, in words.
pub(super) fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("ended with code {code} and without a word"),
        (_, Some(signal)) => format!("was killed by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

/// The exit code as shells and Docker count it.
pub(super) fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (_, Some(signal)) => 128 + signal,
        _ => 255,
    }
}
