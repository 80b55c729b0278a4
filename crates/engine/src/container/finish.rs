//! The end of a container: of its run, of itself, and of what killed processes have left.

use std::{io, time::Duration};

use unlade_graph::driver::NodeId;

use super::{
    Containers, Status,
    control::last_exit,
    place::Place,
    record::{Record, Run, text},
    start::cgroup,
};
use crate::{
    error::{Error, Kind, Result},
    runtime::cgroup::Cgroup,
    shim,
    store::Stage,
};

/// How long is waited for a container that was killed.
const KILLED: Duration = Duration::from_secs(10);

/// How a container is to be removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Removal {
    /// Also while it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
}

/// What a removal has taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Volumes without a name.
    pub volumes: Vec<String>,
}

impl Containers<'_> {
    /// What has to be done when a container has ended: its network goes, how it ended is
    /// recorded, and with `--rm` it is removed. Done twice, it is done once.
    ///
    /// # Errors
    /// If the host refuses; the next command tries again.
    pub fn clean_up(&self, id: &str) -> Result<()> {
        let place = self.place(id)?;
        // One that was removed by hand has no directory, and gets none.
        if !place.run.exists() && !self.store.container_exists(id)? {
            return Ok(());
        }
        let (locked, record) = match self.hold(id) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            held => held?,
        };
        self.conclude(&record, &place)?;
        drop(locked);
        Ok(())
    }

    /// Does what the end of a run asks for, if it has ended. The caller holds the lock.
    pub(super) fn conclude(&self, record: &Record, place: &Place) -> Result<()> {
        if self.view(record)?.is_active() {
            return Ok(());
        }
        if record.request.host_config.auto_remove {
            if record.stage == Stage::Created {
                // Should this process be killed, the next command goes on.
                self.store
                    .set_container_stage(&record.id, Stage::Removing)?;
            }
            self.remove_parts(record, true)?;
            return Ok(());
        }
        self.end_if_over(record, place)
    }

    /// Ends a run, if it has ended, and leaves the container. The caller holds the lock.
    pub(super) fn end_if_over(&self, record: &Record, place: &Place) -> Result<()> {
        if self.view(record)?.is_active() {
            Ok(())
        } else if self.seen(&record.id)?.is_some() {
            self.end_run(record, place)
        } else {
            // Whoever removes it may have taken the directory away already, and the lock made another.
            self.end_unseen(record, place)
        }
    }

    /// Records how a run ended and takes away what lived with it. The caller holds the lock.
    pub(super) fn end_run(&self, record: &Record, place: &Place) -> Result<()> {
        let seen = self.seen(&record.id)?;
        self.stop_remains(record, place)?;
        self.networks.detach(&record.id)?;
        if let Some(seen) = seen {
            let view = self.view(record)?;
            let run = Run {
                exit_code: Some(view.exit_code),
                error: view.error,
                finished: seen.state.finished.clone().or_else(|| Some(super::now())),
                ..Run::of(&seen.state)
            };
            self.store.set_container_run(&record.id, &text(&run)?)?;
            self.store.copy_container(&record.id);
        }
        self.volumes.take_away(&record.id)?;
        place.remove_run()
    }

    /// Ends what a killed shim may have left running, and what the runtime keeps of it.
    pub(super) fn stop_remains(&self, record: &Record, place: &Place) -> Result<()> {
        let seen = shim::State::look(&place.run)?;
        let ran = seen
            .as_ref()
            .is_some_and(|seen| seen.state.status == shim::Status::Running);
        let (orderly, same_boot) = match seen {
            None => (!place.spec().exists(), true),
            Some(seen) => {
                self.volumes
                    .tell_unmounted(&record.id, &record.facts.mounts);
                (
                    matches!(
                        seen.state.status,
                        shim::Status::Exited | shim::Status::Failed
                    ),
                    seen.same_boot,
                )
            }
        };
        if orderly {
            return Ok(());
        }
        // Of an earlier boot nothing runs, and its numbers are other processes' now.
        if same_boot {
            self.kill_remains(record)?;
        }
        if ran {
            let code = self.view(record)?.exit_code.to_string();
            self.tell("die", record, &[("exitCode", &code)]);
        }
        remove_cgroup(record);
        Ok(())
    }

    /// Has the runtime kill what runs of a container, and forget it.
    fn kill_remains(&self, record: &Record) -> Result<()> {
        match self.runtime(&record.request.host_config.runtime) {
            Ok(runtime) => runtime.delete(&record.id, true),
            // Without a runtime nothing of it can be left but processes.
            Err(e) => {
                tracing::warn!(error = %e, "no runtime to clean up with");
                Ok(())
            }
        }
    }

    /// Takes away all of a container, its record last, and with `anonymous` its volumes without a
    /// name. The caller holds its lock, or has just made it.
    pub(super) fn remove_parts(&self, record: &Record, anonymous: bool) -> Result<Removed> {
        let place = self.place(&record.id)?;
        self.stop_remains(record, &place)?;
        self.networks.detach(&record.id)?;
        self.volumes.take_away(&record.id)?;
        let volumes = self.volumes.release(&record.id, anonymous)?;
        place.remove_log()?;
        let snapshot = Self::snapshot(&record.id)?;
        self.driver.remove(&NodeId::Snapshot(snapshot))?;
        place.remove_run()?;
        self.tell("destroy", record, &[]);
        self.store.remove_container(&record.id)?;
        if let Err(e) = self.driver.sweep() {
            tracing::debug!(error = %e, "what was removed is swept later");
        }
        Ok(Removed { volumes })
    }

    /// Removes a container.
    ///
    /// # Errors
    /// [`Kind::Conflict`] with docker's words if it runs and that is not forced.
    pub fn remove(&self, record: &Record, removal: Removal) -> Result<Removed> {
        let (locked, record) = loop {
            let view = match self.view(record) {
                Err(e) if e.kind() == Kind::Integrity && removal.force => {
                    self.end_unknown(record)?;
                    continue;
                }
                view => view?,
            };
            if view.is_active() {
                if !removal.force {
                    return Err(busy(record, view.status));
                }
                self.end(record)?;
            }
            let (locked, record) = match self.hold(&record.id) {
                Err(e) if e.kind() == Kind::NotFound => return Ok(Removed::default()),
                held => held?,
            };
            // It may have been started while the lock was waited for.
            let view = self.view(&record)?;
            if !view.is_active() || view.status == Status::Dead {
                break (locked, record);
            }
        };
        self.store
            .set_container_stage(&record.id, Stage::Removing)?;
        let removed = self.remove_parts(&record, removal.volumes)?;
        drop(locked);
        Ok(removed)
    }

    /// Removes what containers that are recorded nowhere have written, and their logs; their ids.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn remove_strays(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for snapshot in self.store.stray_snapshots(self.driver)? {
            let id = snapshot.to_string();
            if let Err(e) = self.driver.remove(&NodeId::Snapshot(snapshot)) {
                // It may be mounted.
                tracing::warn!(error = %e, id, "a snapshot without a record stays");
                continue;
            }
            if super::names::is_id(&id) {
                self.place(&id)?.remove_log()?;
            }
            removed.push(id);
        }
        if !removed.is_empty() {
            self.driver.sweep()?;
        }
        Ok(removed)
    }

    /// Ends a container whose shim's state cannot be read, and forgets that.
    fn end_unknown(&self, record: &Record) -> Result<()> {
        let place = self.place(&record.id)?;
        let _locked = place.lock()?;
        self.runtime(&record.request.host_config.runtime)?
            .delete(&record.id, true)?;
        remove_cgroup(record);
        shim::State::forget(&place.run)
    }

    /// Kills a container and waits for its end.
    fn end(&self, record: &Record) -> Result<()> {
        let run = self.place(&record.id)?.run;
        let kill = crate::spec::signal::parse("KILL")?;
        match shim::wait(&run) {
            Ok(mut connection) => {
                if self.view(record)?.status == Status::Paused {
                    self.runtime(&record.request.host_config.runtime)?
                        .resume(&record.id)?;
                }
                match shim::stop(&run, kill, None) {
                    Err(e) if e.kind() == Kind::NotFound => {}
                    done => done?,
                }
                let ended = Waiter::spawn(move || last_exit(&mut connection).map(drop));
                match ended.within(KILLED) {
                    // It has ended by itself, and was not there to tell.
                    Err(_) if !self.view(record)?.is_active() => Ok(()),
                    done => done,
                }
            }
            // Its shim is gone: the runtime does it.
            Err(e) if e.kind() == Kind::NotFound => {
                let _locked = self.place(&record.id)?.lock()?;
                self.kill_remains(record)
            }
            Err(e) => Err(e),
        }
    }

    /// Takes up what killed processes and earlier boots have left. Costs a read where there is
    /// nothing, and a look at the directory of each run.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn recover(&self) -> Result<()> {
        for row in self.store.abandoned_containers()? {
            let record = Record::parse(row)?;
            let place = self.place(&record.id)?;
            // Somebody is at it already.
            let Some(_locked) = place.lock_now()? else {
                continue;
            };
            let record = match self.store.container(&record.id) {
                Ok(row) if row.abandoned => Record::parse(row)?,
                Ok(_) => continue,
                Err(e) if e.kind() == Kind::NotFound => {
                    place.remove_run()?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let seen = self.seen(&record.id)?;
            let lives = seen.as_ref().is_some_and(|s| s.shim);
            if record.stage == Stage::Creating && lives {
                // The client that started it was killed; it goes on.
                let run = seen.map(|s| Run {
                    exit_code: None,
                    ..Run::of(&s.state)
                });
                self.store.set_container_run(&record.id, &text(&run)?)?;
                continue;
            }
            tracing::info!(
                id = record.id,
                "removing a container that a killed process has left"
            );
            place.remove_asides()?;
            // Whoever removed it may have wanted its volumes kept.
            let anonymous =
                record.stage == Stage::Creating || record.request.host_config.auto_remove;
            self.remove_parts(&record, anonymous)?;
        }
        self.recover_renames()?;
        self.recover_runs()
    }
}

/// Removes the control group of a container, and ends what is still in it.
pub(super) fn remove_cgroup(record: &Record) {
    let path = cgroup(&record.request, &record.id);
    match path.and_then(|p| Cgroup::at(&p)).map(|c| c.clear()) {
        Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(error = %e, "a control group stays");
        }
        _ => {}
    }
}

fn busy(record: &Record, status: Status) -> Error {
    let m = match status {
        Status::Paused => format!(
            "cannot remove container \"{}\": container is paused and must be unpaused first",
            record.name
        ),
        Status::Restarting => format!(
            "cannot remove container \"{}\": container is restarting: stop the container before \
             removing or force remove",
            record.name
        ),
        _ => format!(
            "cannot remove container \"{}\": container is running: stop the container before \
             removing or force remove",
            record.name
        ),
    };
    Error::new(Kind::Conflict, m).with_hint(format!("`unlade rm -f {}`", record.name))
}

/// Something that is waited for on a thread of its own, so that the wait can be given up.
pub(super) struct Waiter<T>(std::sync::mpsc::Receiver<T>);

impl<T: Send + 'static> Waiter<T> {
    pub(super) fn spawn(wait: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tx, rx) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // Nobody listens any more: the wait was given up.
            let _ = tx.send(wait());
        });
        Self(rx)
    }
}

impl Waiter<Result<()>> {
    fn within(self, most: Duration) -> Result<()> {
        self.0.recv_timeout(most).unwrap_or_else(|_| {
            let m = "the container did not end although it was killed";
            Err(Error::new(Kind::Host, m)
                .with_hint("a process of it may hang in the kernel: `ps` shows state D"))
        })
    }
}
