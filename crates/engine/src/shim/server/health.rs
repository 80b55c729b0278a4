//! Health checks: a command that is run in the container now and then.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::process::CommandExt,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitStatus, kill_process, kill_process_group};

use super::{Phase, Server, end::exit_code, input::pipe};
use crate::shim::{Check, Health, clock};

/// Results that are kept.
const KEPT: usize = 5;
/// Most of a check's output that is kept, in bytes.
const OUTPUT: usize = 4096;
/// Failures in a row that make it unhealthy, if nothing else was said.
const RETRIES: u32 = 3;
/// Where the runtime writes which process a check is.
const PID_FILE: &str = "check.pid";

const STARTING: &str = "starting";
const HEALTHY: &str = "healthy";
const UNHEALTHY: &str = "unhealthy";

/// When the next check is, or the one that runs.
pub(super) struct Checks {
    health: Health,
    began: Instant,
    next: Instant,
    running: Option<Running>,
}

struct Running {
    runtime: Pid,
    from: Option<OwnedFd>,
    output: Vec<u8>,
    start: String,
    began: Instant,
    deadline: Instant,
    late: bool,
}

fn or(ms: u64, default: u64) -> Duration {
    Duration::from_millis(if ms == 0 { default } else { ms })
}

impl Checks {
    fn new(health: &Health) -> Self {
        let now = Instant::now();
        let mut checks = Self {
            health: health.clone(),
            began: now,
            next: now,
            running: None,
        };
        checks.next = now + checks.interval(true);
        checks
    }

    fn interval(&self, starting: bool) -> Duration {
        if starting && self.health.start_period_ms > 0 {
            or(self.health.start_interval_ms, 5_000)
        } else {
            or(self.health.interval_ms, 30_000)
        }
    }

    /// When something has to be done.
    pub(super) fn due(&self) -> Instant {
        match &self.running {
            Some(running) if running.late => self.next.max(running.deadline),
            Some(running) => running.deadline,
            None => self.next,
        }
    }

    pub(super) fn output(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref()?.from.as_ref().map(AsFd::as_fd)
    }
}

impl Running {
    /// Reads what there is; what is too much is forgotten.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(from) = &self.from {
            match rustix::io::read(from, &mut buffer) {
                Ok(n @ 1..) => {
                    let room = OUTPUT - self.output.len();
                    self.output.extend_from_slice(&buffer[..n.min(room)]);
                    if room == 0 {
                        return;
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
                Ok(0) | Err(_) => self.from = None,
            }
        }
    }
}

impl Server {
    /// The container runs from now on.
    pub(super) fn begin_checks(&mut self) {
        let health = self.job.container().and_then(|c| c.health.as_ref());
        self.checks = health.map(Checks::new);
    }

    /// The container has ended: so does a check.
    pub(super) fn end_checks(&mut self) {
        if let Some(running) = self.checks.take().and_then(|c| c.running) {
            self.kill_check(running.runtime);
        }
    }

    /// Does what is due.
    pub(super) fn advance_checks(&mut self, now: Instant) {
        let Some(checks) = &mut self.checks else {
            return;
        };
        if checks.due() > now || !matches!(self.phase, Phase::Running { .. }) {
            return;
        }
        let Some(running) = &mut checks.running else {
            if self.state.paused {
                let starting = self.starting();
                if let Some(checks) = &mut self.checks {
                    checks.next = now + checks.interval(starting);
                }
            } else {
                self.begin_check();
            }
            return;
        };
        // It has its time; when it is gone the result is taken.
        running.late = true;
        running.deadline = now + Duration::from_secs(1);
        let runtime = running.runtime;
        self.kill_check(runtime);
    }

    fn starting(&self) -> bool {
        let health = self.state.health.as_ref();
        health.is_some_and(|h| h.status == STARTING)
    }

    /// Kills the runtime of a check, and what it started in the container.
    fn kill_check(&self, runtime: Pid) {
        let text = std::fs::read_to_string(self.job.run.join(PID_FILE));
        let inner = text.ok().and_then(|t| t.trim().parse().ok());
        // It is a child of the runtime's or ours, so that its number is its own until we wait.
        if let Some(inner) = inner.and_then(Pid::from_raw).filter(|p| p.as_raw_pid() > 1)
            && Some(inner.as_raw_pid()) != self.state.init.map(|p| p.pid)
        {
            let _ = kill_process(inner, Signal::KILL);
        }
        let _ = kill_process_group(runtime, Signal::KILL);
    }

    fn begin_check(&mut self) {
        let Some(checks) = &self.checks else {
            return;
        };
        let file = self.job.run.join(PID_FILE);
        let _ = std::fs::remove_file(&file);
        let mut command = self.job.runtime.command();
        command.arg("exec").arg("--pid-file").arg(file);
        command.arg(&self.job.id).args(&checks.health.argv);
        let timeout = or(checks.health.timeout_ms, 30_000);
        let start = clock::now();
        let spawned = pipe(true).and_then(|(theirs, ours)| {
            command.stdin(Stdio::null());
            command.stdout(theirs.try_clone()?);
            command.stderr(theirs);
            let child = command.process_group(0).spawn()?;
            let pid = Pid::from_raw(child.id().cast_signed());
            Ok((pid.ok_or(std::io::ErrorKind::Other)?, ours))
        });
        match spawned {
            Ok((runtime, from)) => {
                let now = Instant::now();
                let running = Running {
                    runtime,
                    from: Some(from),
                    output: Vec::new(),
                    start,
                    began: now,
                    deadline: now + timeout,
                    late: false,
                };
                if let Some(checks) = &mut self.checks {
                    checks.running = Some(running);
                }
            }
            Err(e) => self.checked(
                Check {
                    end: clock::now(),
                    start,
                    exit_code: -1,
                    output: e.to_string(),
                },
                Instant::now(),
            ),
        }
    }

    /// Reads what a check writes.
    pub(super) fn read_check(&mut self) {
        if let Some(running) = self.checks.as_mut().and_then(|c| c.running.as_mut()) {
            running.read();
        }
    }

    /// A child has ended; whether it was the check's.
    pub(super) fn check_ended(&mut self, pid: Pid, status: WaitStatus) -> bool {
        let Some(checks) = &mut self.checks else {
            return false;
        };
        let Some(mut running) = checks.running.take_if(|r| r.runtime == pid) else {
            return false;
        };
        running.read();
        let check = if running.late {
            let timeout = or(checks.health.timeout_ms, 30_000);
            Check {
                start: running.start,
                end: clock::now(),
                exit_code: -1,
                output: format!("Health check exceeded timeout ({timeout:?})"),
            }
        } else {
            Check {
                start: running.start,
                end: clock::now(),
                exit_code: exit_code(status),
                output: String::from_utf8_lossy(&running.output).into_owned(),
            }
        };
        self.checked(check, running.began);
        true
    }

    /// Draws the conclusion from a check.
    fn checked(&mut self, check: Check, began: Instant) {
        let (Some(checks), Some(feels)) = (&mut self.checks, &mut self.state.health) else {
            return;
        };
        let before = feels.status.clone();
        if check.exit_code == 0 {
            feels.failing_streak = 0;
            feels.status = HEALTHY.into();
        } else {
            let period = Duration::from_millis(checks.health.start_period_ms);
            let counts = feels.status != STARTING || began - checks.began >= period;
            if counts {
                feels.failing_streak = feels.failing_streak.saturating_add(1);
                let retries = match checks.health.retries {
                    0 => RETRIES,
                    retries => retries,
                };
                if feels.failing_streak >= retries {
                    feels.status = UNHEALTHY.into();
                }
            }
        }
        feels.log.push(check);
        if feels.log.len() > KEPT {
            feels.log.remove(0);
        }
        let after = feels.status.clone();
        checks.next = Instant::now() + checks.interval(after == STARTING);
        self.save();
        if before != after {
            self.event(&format!("health_status: {after}"), None);
        }
    }
}
