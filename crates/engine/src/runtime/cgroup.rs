//! The control group of a container, of either version.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, statfs},
    io::Errno,
    process::{Pid, Signal, getpid, kill_process},
};

const ROOT: &str = "/sys/fs/cgroup";
/// Where the second version's groups are in a hybrid layout.
pub(crate) const UNIFIED: &str = "/sys/fs/cgroup/unified";
/// What `statfs` says of the second version's file system.
const CGROUP2: u64 = 0x6367_7270;
/// Deepest tree of groups that is removed.
const MAX_DEPTH: u32 = 32;
/// How long is waited for processes that were killed.
const KILLED: Duration = Duration::from_secs(1);

/// A container's control group, or those in every hierarchy of the first version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: String,
    v2: bool,
}

/// Whether the host has the second version alone.
pub fn v2() -> bool {
    is_v2(ROOT)
}

/// Whether the host has the first version with the second one mounted at `unified`, which crun
/// refuses.
pub fn hybrid() -> bool {
    !v2() && is_v2(UNIFIED)
}

fn is_v2(path: &str) -> bool {
    // The type's sign differs between architectures.
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
    statfs(path).is_ok_and(|s| s.f_type as u64 == CGROUP2)
}

impl Cgroup {
    /// The group at `path`, as a spec's `cgroupsPath` says it: `/unlade/<id>`. `None` for a path
    /// that is not absolute or has `..` in it: a runtime reads it in its own way.
    pub fn at(path: &str) -> Option<Self> {
        let inner = path.strip_prefix('/')?;
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        inner.split('/').all(plain).then(|| Self {
            path: inner.to_owned(),
            v2: v2(),
        })
    }

    /// Its directories.
    fn dirs(&self) -> io::Result<Vec<PathBuf>> {
        if self.v2 {
            return Ok(vec![Path::new(ROOT).join(&self.path)]);
        }
        let mut dirs = Vec::new();
        for entry in fs::read_dir(ROOT)? {
            let entry = entry?;
            // `cpu -> cpu,cpuacct`: once is enough.
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path().join(&self.path));
            }
        }
        Ok(dirs)
    }

    /// Its directory, in the first version that of the controller.
    pub fn dir(&self, controller: &str) -> PathBuf {
        let root = Path::new(ROOT);
        if self.v2 {
            root.join(&self.path)
        } else {
            root.join(controller).join(&self.path)
        }
    }

    /// One of its files, such as `memory` and `memory.stat`; the second version does not need the
    /// controller.
    ///
    /// # Errors
    /// Those of the host.
    pub fn read(&self, controller: &str, file: &str) -> io::Result<String> {
        fs::read_to_string(self.dir(controller).join(file))
    }

    /// Its processes, without those of groups below.
    ///
    /// # Errors
    /// Those of the host.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        let text = self.read("pids", "cgroup.procs")?;
        Ok(text.lines().filter_map(|l| l.parse().ok()).collect())
    }

    /// How many of its processes the kernel has killed for want of memory; `None` if it cannot be
    /// known.
    pub fn oom_kills(&self) -> Option<u64> {
        let text = self.read("memory", self.oom_file()).ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "))?;
        line.trim().parse().ok()
    }

    pub(crate) fn oom_file(&self) -> &'static str {
        if self.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        }
    }

    /// Whether it is of the second version.
    pub fn is_v2(&self) -> bool {
        self.v2
    }

    /// Removes it, with the groups below that have no processes. What is not there is fine. So is
    /// a plain directory: crun makes one where a hierarchy is not mounted.
    ///
    /// # Errors
    /// `EBUSY` if it has processes.
    pub fn remove(&self) -> io::Result<()> {
        let mut failed = None;
        for dir in self.dirs()? {
            if let Err(e) = remove(&dir, MAX_DEPTH) {
                failed.get_or_insert(e);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Removes it with all that is in it: processes are killed, and waited for. A runtime that was
    /// killed may have put them into some of the hierarchies only.
    ///
    /// # Errors
    /// `EBUSY` if they do not go.
    pub fn clear(&self) -> io::Result<()> {
        let end = Instant::now() + KILLED;
        loop {
            match self.remove() {
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {}
                done => return done,
            }
            for dir in self.dirs()? {
                kill(&dir, MAX_DEPTH);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Kills the processes of a group and of those below.
fn kill(dir: &Path, depth: u32) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // The number of one of another namespace is 0.
    let numbers = text.lines().filter_map(|l| l.parse().ok());
    for pid in numbers.filter_map(Pid::from_raw) {
        if pid != getpid() && !pid.is_init() {
            // It may have ended.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let Some(depth) = depth.checked_sub(1) else {
        return;
    };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            kill(&entry.path(), depth);
        }
    }
}

fn remove(dir: &Path, depth: u32) -> io::Result<()> {
    let plain = match rustix::fs::unlinkat(CWD, dir, rustix::fs::AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY) if depth > 0 => false,
        // Never of a control group, whose files go with it.
        Err(Errno::NOTEMPTY) if depth > 0 => true,
        Err(e) => return Err(e.into()),
    };
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path(), depth - 1)?;
        } else if plain {
            fs::remove_file(entry.path())?;
        }
    }
    match rustix::fs::unlinkat(CWD, dir, rustix::fs::AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for bad in ["", "/", "a/b", "/a/../b", "/a//b", "/a/", "slice:x:y"] {
            assert_eq!(Cgroup::at(bad), None, "{bad}");
        }
        let group = Cgroup::at("/unlade/x").unwrap();
        assert!(group.dir("memory").ends_with("unlade/x"));
        assert_eq!(group.oom_kills(), None);
    }

    #[test]
    fn a_plain_directory() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("id");
        fs::create_dir_all(group.join("below")).unwrap();
        fs::write(group.join("cgroup.procs"), "1").unwrap();
        fs::write(group.join("below/cgroup.procs"), "").unwrap();
        remove(&group, MAX_DEPTH).unwrap();
        assert!(!group.exists() && dir.path().exists());
    }

    /// As root on a host that lets it.
    #[test]
    fn removed_with_what_is_below() {
        let name = format!("/unlade-test-{}", std::process::id());
        let group = Cgroup::at(&name).unwrap();
        let Ok(dirs) = group.dirs() else {
            return eprintln!("skipped: no control groups");
        };
        for dir in &dirs {
            if let Err(e) = fs::create_dir_all(dir.join("a/b")) {
                return eprintln!("skipped: {}: {e}", dir.display());
            }
        }
        assert_eq!(group.pids().ok(), Some(vec![]));
        group.remove().unwrap();
        assert!(dirs.iter().all(|d| !d.exists()));
        group.remove().unwrap();
    }

    /// In one hierarchy after the other, as a runtime leaves it that is killed at its work.
    #[test]
    fn cleared_of_processes() {
        let name = format!("/unlade-test-busy-{}", std::process::id());
        let group = Cgroup::at(&name).unwrap();
        let dirs = group.dirs().unwrap_or_default();
        for dir in &dirs {
            for dir in &dirs {
                if let Err(e) = fs::create_dir_all(dir.join("a")) {
                    return eprintln!("skipped: {}: {e}", dir.display());
                }
            }
            let mut child = std::process::Command::new("sleep")
                .arg("1000")
                .spawn()
                .unwrap();
            let moved = fs::write(dir.join("a/cgroup.procs"), child.id().to_string());
            if moved.is_ok() {
                let busy = group.remove().unwrap_err();
                assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
            } else {
                // A group of processors has none before it is told which.
                child.kill().unwrap();
            }
            group.clear().unwrap();
            assert!(dirs.iter().all(|d| !d.exists()), "{}", dir.display());
            assert!(!child.wait().unwrap().success());
        }
    }
}
