//! `state.json`: what a shim knows of its container, for everyone else to read.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    sync::OnceLock,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Name of the file in the directory of a run.
pub(super) const FILE: &str = "state.json";
/// Longest file that is read, in bytes: a health log has five outputs of 4 KiB, escaped.
const MAX_BYTES: u64 = 1 << 20;

/// What a shim knows of its container, or of a process in one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Id of the container or of the process.
    pub id: String,
    /// The boot in which this was written.
    pub boot: String,
    /// The shim.
    pub shim: Process,
    /// What it is at.
    pub status: Status,
    /// The first process; kept after its end.
    pub init: Option<Process>,
    /// When it last started, RFC 3339 in UTC.
    pub started: Option<String>,
    /// When it last ended.
    pub finished: Option<String>,
    /// How it last ended: its code, or 128 and the signal.
    pub exit_code: Option<i32>,
    /// Whether the kernel killed a process of this run for want of memory.
    pub oom: bool,
    /// Whether someone asked it to stop, so that it is not started again.
    pub stopping: bool,
    /// Whether someone said that it is paused.
    pub paused: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it could not be started.
    pub error: String,
    /// How it feels, where that is looked at.
    pub health: Option<Feels>,
}

/// What a shim is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// The runtime is at work.
    #[default]
    Starting,
    /// The first process runs.
    Running,
    /// It ended and will be started again.
    Restarting,
    /// It ended for good.
    Exited,
    /// It could not be started.
    Failed,
}

/// A process that cannot be taken for another one which got its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start: u64,
}

/// Health, in Docker's words and shape.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Feels {
    /// `starting`, `healthy` or `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five checks.
    pub log: Vec<Check>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Check {
    /// When it began, RFC 3339 in UTC.
    pub start: String,
    /// When it ended.
    pub end: String,
    /// 0 is healthy; -1 if it took too long or could not be run.
    pub exit_code: i32,
    /// What it wrote, at most 4096 bytes.
    pub output: String,
}

/// A state, and whether it still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What the shim wrote last.
    pub state: State,
    /// Whether this is the boot in which it was written.
    pub same_boot: bool,
    /// Whether the shim lives.
    pub shim: bool,
    /// Whether the first process lives.
    pub init: bool,
}

impl Seen {
    /// Whether the shim should be there, and is not: it was killed, or there was a reboot.
    pub fn deserted(&self) -> bool {
        !self.shim && !matches!(self.state.status, Status::Exited | Status::Failed)
    }
}

impl State {
    /// What the directory of a run says; `None` if nothing was started there.
    ///
    /// # Errors
    /// [`Kind::Host`] if it cannot be read, [`Kind::Integrity`] if it is no state.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join(FILE);
        let failed = |e: io::Error| Error::host(format!("read `{}`", path.display()), e);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            let m = format!("`{}` is not a shim's state: {e}", path.display());
            Error::new(Kind::Integrity, m)
                .with_hint("the container can be removed with `unlade rm -f`")
        })
    }

    /// What the directory of a run says, and whether it still holds.
    ///
    /// # Errors
    /// As [`State::read`].
    pub fn look(run: &Path) -> Result<Option<Seen>> {
        let Some(state) = Self::read(run)? else {
            return Ok(None);
        };
        let same_boot = state.boot == boot_id();
        let lives = |p: &Process| same_boot && p.lives();
        Ok(Some(Seen {
            same_boot,
            shim: lives(&state.shim),
            init: state.init.as_ref().is_some_and(lives),
            state,
        }))
    }

    /// Whether nobody of that run is there any more, neither its shim nor its first process.
    pub fn is_over(&self) -> bool {
        let lives = || self.shim.lives() || self.init.as_ref().is_some_and(Process::lives);
        self.boot != boot_id() || !lives()
    }

    /// Takes the state away.
    ///
    /// # Errors
    /// [`Kind::Host`] if that fails.
    pub fn forget(run: &Path) -> Result<()> {
        let path = run.join(FILE);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::host(format!("remove `{}`", path.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// Whether a shim was there, in the directory of a run.
    pub fn is_in(run: &Path) -> bool {
        run.join(FILE).exists()
    }

    /// Puts it in its place at once. An older one is exchanged, not replaced: ext4 waits for the
    /// disk when a file is renamed over another one, and not every `/run` is in memory.
    pub(super) fn write(&self, run: &Path) -> io::Result<()> {
        let (new, place) = (run.join("state.new"), run.join(FILE));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        drop(file);
        match renameat_with(CWD, &new, CWD, &place, RenameFlags::EXCHANGE) {
            Ok(()) => fs::remove_file(&new),
            // The first one, or a file system that cannot.
            Err(_) => fs::rename(&new, &place),
        }
    }
}

impl Process {
    /// The process that has this number now; `None` if there is none.
    pub fn of(pid: i32) -> Option<Self> {
        Self::with_state(pid)
            .filter(|(_, dead)| !dead)
            .map(|(p, _)| p)
    }

    /// The process, and whether it is dead, but not waited for.
    pub(super) fn with_state(pid: i32) -> Option<(Self, bool)> {
        let fields = fields(pid)?;
        let mut fields = fields.split(' ');
        let dead = matches!(fields.next()?, "Z" | "X");
        let start = fields.nth(18)?.parse().ok()?;
        Some((Self { pid, start }, dead))
    }

    /// Whether the process of that number descends from this one. Its parents may end meanwhile,
    /// so that it comes nearer.
    pub(super) fn descends(pid: i32) -> bool {
        let own = std::process::id().cast_signed();
        let mut at = pid;
        for _ in 0..64 {
            match parent(at) {
                Some(up) if up == own => return true,
                Some(up) if up > 1 => at = up,
                // Of one that is just being reaped the kernel says that its parent is 0.
                None | Some(0) if at != pid => at = pid,
                _ => return false,
            }
        }
        false
    }

    /// Whether it lives.
    pub fn lives(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// A handle that means this process and no other, ever; `None` if it has ended.
    pub fn open(&self) -> Option<rustix::fd::OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Now that the number cannot go to another one unnoticed.
        self.lives().then_some(fd)
    }
}

/// What the kernel says of a process, from its state on.
fn fields(pid: i32) -> Option<String> {
    let mut stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, with any bytes in it.
    let after = stat.iter().rposition(|b| *b == b')')? + 2;
    String::from_utf8(stat.split_off(after.min(stat.len()))).ok()
}

fn parent(pid: i32) -> Option<i32> {
    fields(pid)?.split(' ').nth(1)?.parse().ok()
}

/// The kernel's name for this boot; empty if it says none.
pub fn boot_id() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        text.unwrap_or_default().trim().to_owned()
    };
    BOOT.get_or_init(read).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_read_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), None);
        let mut state = State::default();
        for n in 0..3 {
            state.restarts = n;
            state.write(dir.path()).unwrap();
            assert_eq!(State::read(dir.path()).unwrap(), Some(state.clone()));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn descent() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = child.id().cast_signed();
        assert!(Process::descends(pid));
        assert!(!Process::descends(1) && !Process::descends(i32::MAX));
        let process = Process::of(pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.lives() && process.open().is_none());
    }
}
