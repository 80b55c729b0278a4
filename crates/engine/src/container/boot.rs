//! After a boot of the machine: what the one before has left, and what is to run again.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::mount::{UnmountFlags, unmount};

use super::{
    Containers,
    finish::remove_cgroup,
    place::{ASIDE, Place, delete, delete_if_left, failed},
    record::{Record, Run, text},
};
use crate::{
    error::{Kind, Result},
    shim::State,
    store::Stage,
};

/// Where below the run root something of ours may be mounted.
const MOUNTED: [&str; 3] = ["containers", "netns", "subpaths"];

impl Containers<'_> {
    /// Takes up what an earlier boot has left, or, unless the machine was `rebooted`, whatever ran
    /// under another graph driver: containers that were to go with their end go, how others ended
    /// is recorded, and what belongs to no record is removed.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn recover_boot(&self, rebooted: bool) -> Result<()> {
        if rebooted {
            // Where the run root is on a disk it is as the machine went down. Nothing that it
            // tells of is there any more: no number in it is looked for, and no program told.
            self.unmount_leftovers()?;
            self.networks.forget_boot()?;
            self.forget_runtimes()?;
        }
        let records = self.all()?;
        for record in &records {
            if let Err(e) = self.settle(&record.id, rebooted) {
                tracing::warn!(error = %e, id = record.id, "what a run has left stays");
            }
        }
        let live = |id: &str| {
            if !self.store.container_exists(id)? {
                return Ok(false);
            }
            // One that is being started holds its lock, and has no shim yet.
            let busy = self.place(id)?.lock_now()?.is_none();
            Ok(busy || self.seen(id)?.is_some_and(|s| s.shim || s.init))
        };
        self.networks.sweep(&live)?;
        self.volumes.sweep(&live)?;
        self.stray_runs(&records)
    }

    fn settle(&self, id: &str, rebooted: bool) -> Result<()> {
        let place = self.place(id)?;
        let Some(_locked) = place.lock_now()? else {
            return Ok(());
        };
        let record = match self.find(id) {
            Err(e) if e.kind() == Kind::NotFound => return place.remove_run(),
            found => found?,
        };
        match self.seen(id) {
            // Cut off while it was written: it goes, as if it had never been.
            Err(e) if rebooted && e.kind() == Kind::Integrity => {
                remove_cgroup(&record);
                place.remove_run()?;
            }
            seen => drop(seen?),
        }
        // What a process makes or removes is for that one, or for whoever finds that it has gone.
        if record.request.host_config.auto_remove && record.stage != Stage::Created {
            return self.end_if_over(&record, &place);
        }
        self.conclude(&record, &place)
    }

    /// Takes away what killed processes have left of runs: what starts have set up whose commands
    /// were killed before they told a shim, and what ended without anybody who cleaned up. Their
    /// directories say which those are: while one is started it is locked, and later there is its
    /// shim's state.
    pub(super) fn recover_runs(&self) -> Result<()> {
        for path in entries(&self.config.run_root.join("containers"))? {
            let Some(id) = path.file_name().and_then(|n| n.to_str()) else {
                continue;
            };
            if id.contains(ASIDE) {
                delete_if_left(&path)?;
                continue;
            }
            // Who cleans up is the shim still, by its number.
            let ended = match State::read(&path) {
                Ok(state) => state.as_ref().is_none_or(State::is_over),
                // It is for `rm -f`.
                Err(_) => false,
            };
            if !super::names::is_id(id) || !ended {
                continue;
            }
            let place = self.place(id)?;
            let Some(_locked) = place.lock_now()? else {
                continue;
            };
            let record = match self.store.container(id) {
                // Another graph driver's, or one that somebody removes.
                Err(e) if e.kind() == Kind::NotFound => {
                    if !self.store.container_exists(id)? {
                        place.remove_run()?;
                    }
                    continue;
                }
                row => Record::parse(row?)?,
            };
            if record.stage != Stage::Created {
                continue;
            }
            if State::is_in(&path) {
                tracing::info!(id, "what a run has left is taken away");
                if let Err(e) = self.conclude(&record, &place) {
                    tracing::warn!(error = %e, id, "what a run has left stays");
                }
            } else {
                tracing::info!(id, "a start that was cut off is undone");
                self.stop_remains(&record, &place)?;
                self.networks.detach(id)?;
                self.end_unseen(&record, &place)?;
            }
        }
        Ok(())
    }

    /// Records the end of a run of which nothing is left.
    pub(super) fn end_unseen(&self, record: &Record, place: &Place) -> Result<()> {
        if let Some(run) = record.run.as_ref().filter(|r| r.exit_code.is_none()) {
            let view = self.view(record)?;
            let run = Run {
                exit_code: Some(view.exit_code),
                error: view.error,
                finished: Some(super::now()),
                ..run.clone()
            };
            self.store.set_container_run(&record.id, &text(&run)?)?;
        }
        self.volumes.take_away(&record.id)?;
        place.remove_run()
    }

    /// Detaches what is mounted in our places below the run root, and nothing else.
    fn unmount_leftovers(&self) -> Result<()> {
        let mounts = Path::new("/proc/self/mountinfo");
        let text = fs::read(mounts).map_err(failed("read", mounts))?;
        let run_root = &self.config.run_root;
        let run_root = run_root.canonicalize().map_err(failed("find", run_root))?;
        let places = MOUNTED.map(|dir| run_root.join(dir));
        let all = text.split(|b| *b == b'\n').filter_map(mount_point);
        let mut ours: Vec<PathBuf> = all
            .filter(|at| places.iter().any(|dir| at.starts_with(dir) && at != dir))
            .collect();
        // What was mounted last is on top.
        ours.reverse();
        for at in ours {
            match unmount(&at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // It went with one below which it was.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                Err(e) => return Err(failed("unmount", &at)(e.into())),
            }
        }
        Ok(())
    }

    /// Removes what runtimes keep of containers.
    fn forget_runtimes(&self) -> Result<()> {
        for runtime in entries(&self.config.run_root.join("runtime"))? {
            // Beside them are files that say what a program is.
            if runtime.is_dir() {
                for container in entries(&runtime)? {
                    fs::remove_dir_all(&container).map_err(failed("remove", &container))?;
                }
            }
        }
        Ok(())
    }

    /// Directories of runs whose records are gone.
    fn stray_runs(&self, records: &[Record]) -> Result<()> {
        for path in entries(&self.config.run_root.join("containers"))? {
            // `<id>`, or `<id>.removed-<pid>` of a removal that was killed.
            let Some((id, aside)) = path
                .file_name()
                .and_then(|n| n.to_str())
                .map(|n| n.split_once('.').map_or((n, false), |(id, _)| (id, true)))
            else {
                continue;
            };
            if !super::names::is_id(id) || records.iter().any(|r| r.id == id) {
                continue;
            }
            // Another graph driver's, or one that was made just now.
            if self.store.container_exists(id)? {
                continue;
            }
            let place = self.place(id)?;
            if self
                .seen(id)
                .is_ok_and(|s| s.is_some_and(|s| s.shim || s.init))
            {
                continue;
            }
            if aside {
                delete(&path)?;
                continue;
            }
            if let Some(_locked) = place.lock_now()? {
                place.remove_run()?;
            }
        }
        Ok(())
    }

    /// Containers whose restart policies ask for a start after the boot, the oldest first, but
    /// none before one whose namespaces it joins. One that has run since the boot is none of them,
    /// whatever became of it: so each is started once.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn due(&self) -> Result<Vec<Record>> {
        let mut waiting: Vec<Record> = self.all()?;
        waiting.retain(|record| is_due(record, self.boot()));
        waiting.reverse();
        let mut ordered = Vec::new();
        while !waiting.is_empty() {
            let ids: Vec<String> = waiting.iter().map(|r| r.id.clone()).collect();
            let joins = |r: &Record| {
                r.facts
                    .others
                    .values()
                    .any(|o| *o != r.id && ids.contains(o))
            };
            let (later, now): (Vec<_>, Vec<_>) = waiting.into_iter().partition(joins);
            if now.is_empty() {
                // They wait for each other: each start tells why it cannot be.
                ordered.extend(later);
                break;
            }
            ordered.extend(now);
            waiting = later;
        }
        Ok(ordered)
    }

    /// Whether one that was found [due] still is.
    ///
    /// # Errors
    /// If the store cannot be read.
    ///
    /// [due]: Containers::due
    pub fn still_due(&self, record: &Record) -> Result<bool> {
        match self.find(&record.id) {
            Err(e) if e.kind() == Kind::NotFound => Ok(false),
            found => Ok(is_due(&found?, self.boot())),
        }
    }
}

/// As docker decides when its daemon starts.
fn is_due(record: &Record, boot: &str) -> bool {
    let Some(run) = record.run.as_ref().filter(|r| r.started.is_some()) else {
        return false;
    };
    if run.boot == boot || record.stage != Stage::Created {
        return false;
    }
    let policy = &record.request.host_config.restart_policy;
    match &*policy.name {
        "always" => true,
        "unless-stopped" => !run.stopped,
        "on-failure" => {
            let most = u32::try_from(policy.maximum_retry_count).unwrap_or(0);
            !run.stopped && run.exit_code != Some(0) && (most == 0 || run.restarts < most)
        }
        _ => false,
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        list => list.map_err(failed("list", dir))?,
    };
    list.map(|entry| Ok(entry.map_err(failed("list", dir))?.path()))
        .collect()
}

/// The fifth field of a line of `mountinfo`, in which spaces and the like are octal numbers.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|b| *b == b' ').nth(4)?;
    let (mut path, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let digits = (*byte == b'\\').then(|| after.get(..3)).flatten();
        let octal = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal {
            Some(meant) => {
                path.push(meant);
                rest = &after[3..];
            }
            None => path.push(*byte),
        }
    }
    Some(OsString::from_vec(path).into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn mount_points() {
        let at =
            |line: &str| mount_point(line.as_bytes()).map(|p| p.as_os_str().as_bytes().to_vec());
        let line = r"36 35 98:0 /mnt1 /a\040b\134c\x rw - ext3 /dev/root rw";
        assert_eq!(at(line).unwrap(), br"/a b\c\x");
        assert_eq!(at("36 35"), None);
    }

    #[test]
    fn what_policies_ask_for() {
        let ran = Run {
            boot: "before".into(),
            started: Some("2026-01-01T00:00:00Z".into()),
            exit_code: Some(255),
            ..Run::default()
        };
        let due = |policy: &str, most: i64, run: Option<&Run>| {
            let mut record = Record::sample(run.cloned());
            let wanted = &mut record.request.host_config.restart_policy;
            (wanted.name, wanted.maximum_retry_count) = (policy.to_owned(), most);
            is_due(&record, "now")
        };
        let stopped = Run {
            stopped: true,
            ..ran.clone()
        };
        let well = Run {
            exit_code: Some(0),
            ..ran.clone()
        };
        let tried = Run {
            restarts: 3,
            ..ran.clone()
        };
        let since = Run {
            boot: "now".into(),
            ..ran.clone()
        };
        let never = Run {
            started: None,
            ..ran.clone()
        };
        for (policy, most, want) in [
            ("always", 0, [true, true, true, true]),
            ("unless-stopped", 0, [true, false, true, true]),
            ("on-failure", 0, [true, false, false, true]),
            ("on-failure", 3, [true, false, false, false]),
            ("no", 0, [false; 4]),
            ("", 0, [false; 4]),
        ] {
            let got = [&ran, &stopped, &well, &tried].map(|run| due(policy, most, Some(run)));
            assert_eq!(got, want, "{policy}:{most}");
            let none = [Some(&since), Some(&never), None].map(|run| due(policy, most, run));
            assert_eq!(none, [false; 3], "{policy}:{most}");
        }
    }
}
