//! What state a container is in: computed from its record and from what its shim wrote, so that
//! neither a killed process nor a reboot leaves a lie.

use std::fmt;

use super::record::{Record, Run};
use crate::{
    shim::{Feels, Seen, Status as At},
    store::Stage,
};

/// Docker's code for a container whose end nobody saw.
const UNKNOWN: i32 = 255;
/// A time that is none, as Go writes it.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// Docker's words for states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It never ran.
    Created,
    /// It runs.
    Running,
    /// It is frozen.
    Paused,
    /// It ended and will be started again.
    Restarting,
    /// It is being removed.
    Removing,
    /// It ended.
    Exited,
    /// It runs without the shim that looked after it.
    Dead,
}

impl Status {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Which.
    pub status: Status,
    /// The first process; 0 for none.
    pub pid: i32,
    /// How it ended last; 0 if it has not.
    pub exit_code: i32,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom: bool,
    /// What went wrong.
    pub error: String,
    /// When it began last, RFC 3339; [`NEVER`] if it has not.
    pub started: String,
    /// When it ended last.
    pub finished: String,
    /// How often its policy started it again.
    pub restarts: u32,
    /// How it feels, where that is looked at.
    pub health: Option<Feels>,
}

impl View {
    /// The state of a container by its record and by what its shim wrote, if there is that.
    pub fn of(record: &Record, seen: Option<&Seen>, boot: &str) -> Self {
        let run = match seen {
            Some(seen) => Some(Run::of(&seen.state)),
            None => record.run.clone(),
        };
        let mut view = Self::ended(run.as_ref());
        match seen {
            Some(seen) => view.running(seen),
            None => {
                let open = record.run.as_ref().filter(|r| r.exit_code.is_none());
                if let Some(run) = open {
                    view.status = Status::Exited;
                    view.exit_code = UNKNOWN;
                    view.error = if run.boot == boot {
                        "nothing is left of its run, and nobody saw its end".to_owned()
                    } else {
                        "the machine was rebooted while it ran".to_owned()
                    };
                }
            }
        }
        if record.stage == Stage::Removing {
            view.status = Status::Removing;
        }
        view
    }

    /// Of a container whose shim's state cannot be read: it is for `rm -f`.
    pub(super) fn unknown(record: &Record, error: String) -> Self {
        Self {
            status: Status::Dead,
            error,
            ..Self::ended(record.run.as_ref())
        }
    }

    fn ended(run: Option<&Run>) -> Self {
        let time = |t: Option<&String>| t.cloned().unwrap_or_else(|| NEVER.to_owned());
        let exit_code = run.and_then(|r| r.exit_code);
        let never_ran = run.is_none_or(|r| r.started.is_none());
        Self {
            status: if never_ran {
                Status::Created
            } else {
                Status::Exited
            },
            pid: 0,
            exit_code: exit_code.unwrap_or(0),
            oom: run.is_some_and(|r| r.oom),
            error: run.map_or_else(String::new, |r| r.error.clone()),
            started: time(run.and_then(|r| r.started.as_ref())),
            finished: time(run.and_then(|r| r.finished.as_ref())),
            restarts: run.map_or(0, |r| r.restarts),
            health: run.and_then(|r| r.health.clone()),
        }
    }

    fn running(&mut self, seen: &Seen) {
        let pid = seen.state.init.as_ref().map_or(0, |p| p.pid);
        let ended = matches!(seen.state.status, At::Exited | At::Failed);
        if ended {
            return;
        }
        if seen.shim {
            match seen.state.status {
                At::Starting if seen.state.restarts == 0 => self.status = Status::Created,
                At::Starting | At::Restarting => self.status = Status::Restarting,
                _ => {
                    self.status = if seen.state.paused {
                        Status::Paused
                    } else {
                        Status::Running
                    };
                    self.pid = pid;
                    self.exit_code = 0;
                    self.finished = seen
                        .state
                        .finished
                        .clone()
                        .unwrap_or_else(|| NEVER.to_owned());
                }
            }
        } else if seen.init {
            self.status = Status::Dead;
            self.pid = pid;
            self.error = format!("its shim (process {}) was killed", seen.state.shim.pid);
        } else {
            self.exit_code = UNKNOWN;
            self.status = Status::Exited;
            self.error = if seen.same_boot {
                format!(
                    "its shim (process {}) was killed, and nobody saw its end",
                    seen.state.shim.pid
                )
            } else {
                "the machine was rebooted while it ran".to_owned()
            };
        }
    }

    /// Whether it has a first process.
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused | Status::Dead)
    }

    /// Whether it runs or will run again by itself.
    pub fn is_active(&self) -> bool {
        self.is_running() || self.status == Status::Restarting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::{Process, State};

    fn seen(status: At, shim: bool, init: bool) -> Seen {
        let process = Process { pid: 7, start: 1 };
        Seen {
            state: State {
                status,
                shim: Process { pid: 6, start: 1 },
                init: Some(process),
                started: Some("2026-01-01T00:00:00Z".into()),
                exit_code: matches!(status, At::Exited).then_some(3),
                ..State::default()
            },
            same_boot: true,
            shim,
            init,
        }
    }

    #[test]
    fn states() {
        let of = |run: Option<Run>, seen: Option<Seen>| {
            let v = View::of(&Record::sample(run), seen.as_ref(), "now");
            (v.status, v.pid, v.exit_code)
        };
        let ran = |boot: &str, code| Run {
            boot: boot.into(),
            started: Some("2026-01-01T00:00:00Z".into()),
            exit_code: code,
            ..Run::default()
        };
        assert_eq!(of(None, None), (Status::Created, 0, 0));
        assert_eq!(of(Some(ran("old", Some(4))), None), (Status::Exited, 0, 4));
        // A reboot, or a run directory that somebody removed.
        assert_eq!(of(Some(ran("old", None)), None), (Status::Exited, 0, 255));
        assert_eq!(of(Some(ran("now", None)), None), (Status::Exited, 0, 255));
        let open = || Some(ran("now", None));
        assert_eq!(
            of(open(), Some(seen(At::Starting, true, false))),
            (Status::Created, 0, 0)
        );
        assert_eq!(
            of(open(), Some(seen(At::Running, true, true))),
            (Status::Running, 7, 0)
        );
        assert_eq!(
            of(open(), Some(seen(At::Restarting, true, false))),
            (Status::Restarting, 0, 0)
        );
        // The runtime is at work for its policy.
        let mut again = seen(At::Starting, true, false);
        again.state.restarts = 1;
        assert_eq!(of(open(), Some(again)), (Status::Restarting, 0, 0));
        assert_eq!(
            of(open(), Some(seen(At::Exited, true, false))),
            (Status::Exited, 0, 3)
        );
        assert_eq!(
            of(open(), Some(seen(At::Running, false, true))),
            (Status::Dead, 7, 0)
        );
        assert_eq!(
            of(open(), Some(seen(At::Running, false, false))),
            (Status::Exited, 0, 255)
        );
        let mut paused = seen(At::Running, true, true);
        paused.state.paused = true;
        assert_eq!(of(open(), Some(paused)), (Status::Paused, 7, 0));
        let removing = Record {
            stage: Stage::Removing,
            ..Record::sample(None)
        };
        assert_eq!(View::of(&removing, None, "now").status, Status::Removing);
        // One that could not be started never ran.
        let failed = Run {
            error: "no".into(),
            exit_code: Some(127),
            ..Run::default()
        };
        assert_eq!(of(Some(failed), None), (Status::Created, 0, 127));
    }
}
