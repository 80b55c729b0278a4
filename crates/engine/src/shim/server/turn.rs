//! The loop: waits for whatever comes first, and does it.

use std::{
    os::fd::{AsFd, BorrowedFd},
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{WaitOptions, wait, waitpid},
    time::Timespec,
};

use super::{Phase, Server, end::exit_code};
use crate::shim::{Stream, wire};

/// How long a client that takes nothing may hold up an end that was asked for, and a disk any.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was waited for.
#[derive(Clone, Copy)]
enum Source {
    Children,
    Listener,
    Client(usize),
    Output(usize),
    Input,
    Memory,
    Check,
    Log,
}

impl Server {
    /// Runs until there is nothing left to do.
    pub(super) fn run(mut self) -> ExitCode {
        loop {
            self.advance();
            self.clients.retain(|c| !c.gone);
            if self.over() {
                return self.finish();
            }
            for (source, flags) in self.wait() {
                self.handle(source, flags);
            }
        }
    }

    /// Does what is due and needs no waiting.
    fn advance(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            let kill = rustix::process::Signal::KILL;
            match &self.init {
                Some(init) => {
                    let _ = rustix::process::pidfd_send_signal(init.as_fd(), kill);
                }
                // It is still being started: that is what it gets once it runs.
                None => self.stop_with = Some(kill.as_raw()),
            }
        }
        self.advance_checks(now);
        match &self.phase {
            Phase::Starting(starting) if starting.deadline <= now => {
                let runtime = starting.runtime;
                self.runtime_hangs(runtime);
            }
            Phase::Draining { code, since, ran } => {
                let (code, since, ran) = (*code, *since, *ran);
                if self.state.stopping && since + PATIENCE <= now {
                    self.drop_congested();
                }
                self.drain(code, ran);
            }
            Phase::Waiting { until } if *until <= now => self.again(),
            Phase::Flushing { since } if *since + PATIENCE <= now => self.drop_congested(),
            _ => {}
        }
    }

    fn drop_congested(&mut self) {
        for client in &mut self.clients {
            client.gone |= client.congested();
        }
    }

    /// Passes on the rest of the output; when there is none left, and the log has it too, it has
    /// ended.
    fn drain(&mut self, code: i32, ran: Duration) {
        let mut index = 0;
        while index < self.outputs.len() {
            if self.congested(self.outputs[index].stream) {
                return;
            }
            match self.pass_on(index) {
                Passed::Some => {}
                // Whoever else holds it open, what the container wrote is read.
                Passed::Nothing => index += 1,
                Passed::End => {
                    self.outputs.remove(index);
                }
            }
        }
        let now = Instant::now();
        let until = *self.log_until.get_or_insert_with(|| {
            self.log.end();
            now + PATIENCE
        });
        if self.log.settled() || until <= now {
            self.log_until = None;
            self.ended(code, ran);
        }
    }

    fn over(&self) -> bool {
        let Phase::Flushing { .. } = self.phase else {
            return false;
        };
        let waits = self.job.client_cleans && !self.cleaned && self.exit.is_some();
        !self
            .clients
            .iter()
            .any(|c| c.congested() || (waits && c.starter))
    }

    fn congested(&self, stream: Stream) -> bool {
        let mut clients = self.clients.iter();
        clients.any(|c| c.wants(stream) && c.congested())
    }

    /// Waits until something comes or is due.
    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = Vec::with_capacity(8);
        sources.push((Source::Children, self.children.as_fd(), PollFlags::IN));
        if let Some(listener) = &self.listener {
            sources.push((Source::Listener, listener.as_fd(), PollFlags::IN));
        }
        let blocked = self.input.blocked();
        for (n, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            // Of one whose input has to wait nothing is heard meanwhile.
            if !blocked || !client.sends_input() {
                flags |= PollFlags::IN;
            }
            if client.congested() {
                flags |= PollFlags::OUT;
            }
            if !flags.is_empty() {
                sources.push((Source::Client(n), client.as_fd(), flags));
            }
        }
        // While the runtime is at work, what comes may be its own words.
        if matches!(self.phase, Phase::Running { .. }) {
            for (n, output) in self.outputs.iter().enumerate() {
                if !self.congested(output.stream) {
                    sources.push((Source::Output(n), output.from.as_fd(), PollFlags::IN));
                }
            }
        }
        if let Some(fd) = self.input.waits_for() {
            sources.push((Source::Input, fd, PollFlags::OUT));
        }
        if let Some(watch) = &self.oom {
            sources.push((Source::Memory, watch.as_fd(), PollFlags::IN));
        }
        if let Some(fd) = self.checks.as_ref().and_then(|c| c.output()) {
            sources.push((Source::Check, fd, PollFlags::IN));
        }
        if let Some(fd) = self.log.waits_for() {
            sources.push((Source::Log, fd, PollFlags::IN));
        }
        let mut fds: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        let timeout = self.due().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: 3600,
                tv_nsec: 0,
            })
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Vec::new(),
            // Nothing can be waited for: better to end than to spin.
            Err(_) => std::process::abort(),
        }
        let ready = fds.iter().zip(&sources);
        // Outputs come last in what is waited for, and are handled first: their numbers change
        // when one ends, those of clients do not.
        ready
            .map(|(fd, (source, ..))| (*source, fd.revents()))
            .filter(|(_, flags)| !flags.is_empty())
            .rev()
            .collect()
    }

    /// When something has to be done without anything coming.
    fn due(&self) -> Option<Instant> {
        let phase = match &self.phase {
            Phase::Starting(starting) => Some(starting.deadline),
            Phase::Running { .. } => None,
            Phase::Draining { since, .. } => self.log_until.or_else(|| {
                let stopping = self.state.stopping;
                stopping.then(|| *since + PATIENCE)
            }),
            Phase::Waiting { until } => Some(*until),
            Phase::Flushing { since } => Some(*since + PATIENCE),
        };
        let checks = self.checks.as_ref().map(|c| c.due());
        [phase, self.kill_at, checks].into_iter().flatten().min()
    }

    fn handle(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Children => {
                let _ = rustix::io::read(&self.children, &mut [0; 8]);
                self.children_ended();
            }
            Source::Listener => self.accept(),
            Source::Client(n) => {
                if flags.contains(PollFlags::OUT) {
                    self.clients[n].flush();
                }
                if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                    self.hear(n);
                }
            }
            Source::Output(n) => {
                if matches!(self.pass_on(n), Passed::End) {
                    self.outputs.remove(n);
                }
            }
            Source::Memory => self.look_at_memory(),
            Source::Check => self.read_check(),
            Source::Log => self.log.turn(),
            Source::Input => {
                self.input.flush();
                for n in 0..self.clients.len() {
                    self.obey(n);
                }
            }
        }
    }

    /// Passes some output on to the log and to the clients.
    fn pass_on(&mut self, index: usize) -> Passed {
        self.scratch.resize(wire::CHUNK, 0);
        let output = &self.outputs[index];
        let n = match rustix::io::read(&output.from, &mut self.scratch) {
            Ok(0) => return Passed::End,
            Ok(n) => n,
            Err(Errno::INTR) => return Passed::Some,
            Err(Errno::AGAIN) => return Passed::Nothing,
            // What a terminal says when nobody has it open any more.
            Err(_) => return Passed::End,
        };
        let bytes = &self.scratch[..n];
        self.log.write(output.stream, bytes);
        for client in &mut self.clients {
            if client.wants(output.stream) {
                client.output(output.stream, bytes);
            }
        }
        Passed::Some
    }

    fn children_ended(&mut self) {
        if let Phase::Starting(starting) = &self.phase {
            // No other one: the container's own end has to wait until we know which one it is.
            let ended = waitpid(Some(starting.runtime), WaitOptions::NOHANG);
            let Ok(Some((_, status))) = ended else {
                return;
            };
            let phase = Phase::Running {
                since: Instant::now(),
            };
            if let Phase::Starting(starting) = std::mem::replace(&mut self.phase, phase) {
                self.runtime_ended(&starting, status);
            }
            if matches!(self.phase, Phase::Starting(_)) {
                return;
            }
        }
        self.reap_all();
    }

    fn reap_all(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let init = self.state.init.map(|p| p.pid);
            if let Phase::Running { since } = self.phase
                && init == Some(pid.as_raw_pid())
            {
                let code = exit_code(status);
                self.phase = Phase::Draining {
                    code,
                    since: Instant::now(),
                    ran: since.elapsed(),
                };
                self.drain(code, since.elapsed());
                if matches!(self.phase, Phase::Draining { .. }) {
                    // Someone has to take output first; that it has ended can be seen before.
                    self.save();
                }
            } else {
                self.check_ended(pid, status);
            }
        }
    }

    /// Waits for children that have ended and that nobody asks for.
    pub(super) fn reap(&self) {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}

enum Passed {
    Some,
    Nothing,
    End,
}
