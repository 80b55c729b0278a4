//! Containers that run: stopped, killed, frozen, waited for, changed.

use std::time::Duration;

use serde_json::json;

use super::{Begin, Begun, Containers, Record, Status, launch, start::cgroup, stats::no_group};
use crate::{
    error::{Error, Kind, Result},
    shim,
    spec::{self, HostFacts, request::HostConfig, signal},
    store::Stage,
};

/// Seconds from the stop signal to SIGKILL unless something else is asked for.
const TIMEOUT: i64 = 10;
/// How long a shim may take to end once it has stopped answering.
const ENDING: Duration = Duration::from_secs(2);
/// How often is looked.
const TICK: Duration = Duration::from_millis(10);

/// How a container is to be stopped.
#[derive(Debug, Clone, Default)]
pub struct Stopping {
    /// The signal; else the container's, else SIGTERM.
    pub signal: Option<String>,
    /// Seconds until SIGKILL, -1 for never; else the container's, else 10.
    pub timeout: Option<i64>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its code, or 128 and the signal.
    pub code: i32,
    /// Why it could not be started.
    pub error: String,
}

impl Containers<'_> {
    /// Stops a container and waits for its end. One that does not run is fine.
    ///
    /// # Errors
    /// If the signal is none, or it does not end.
    pub fn stop(&self, record: &Record, how: &Stopping) -> Result<()> {
        let view = self.view(record)?;
        if !view.is_active() {
            return Ok(());
        }
        let config = &record.request.config;
        let name = how
            .signal
            .as_deref()
            .or(config.stop_signal.as_deref())
            .unwrap_or("TERM");
        let signal = signal::parse(name)?;
        let timeout = how.timeout.or(config.stop_timeout).unwrap_or(TIMEOUT);
        let timeout = u64::try_from(timeout).ok().map(Duration::from_secs);
        let run = self.run_dir(&record.id)?;
        let mut connection = match shim::wait(&run) {
            Ok(connection) => connection,
            Err(e) if e.kind() == Kind::NotFound => return self.stop_without_shim(record, signal),
            Err(e) => return Err(e),
        };
        if view.status == Status::Paused {
            self.thaw(record)?;
        }
        self.tell("kill", record, &[("signal", &signal.to_string())]);
        match shim::stop(&run, signal, timeout) {
            Err(e) if e.kind() == Kind::NotFound => {}
            done => done?,
        }
        if let Err(e) = last_exit(&mut connection) {
            match self.ended_meanwhile(record, e) {
                // With --rm it may be gone altogether.
                Err(e) if e.kind() == Kind::NotFound => {}
                done => drop(done?),
            }
        }
        self.tell("stop", record, &[]);
        self.clean_up(&record.id)
    }

    /// One whose shim was killed: its processes get the signal, and nobody restarts it.
    fn stop_without_shim(&self, record: &Record, signal: i32) -> Result<()> {
        if self.view(record)?.status == Status::Dead {
            let runtime = self.runtime(&record.request.host_config.runtime)?;
            runtime.kill(&record.id, signal, true)?;
            runtime.delete(&record.id, true)?;
        }
        self.clean_up(&record.id)
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it does not run.
    pub fn kill(&self, record: &Record, name: &str) -> Result<()> {
        let signal = signal::parse(name)?;
        let view = self.view(record)?;
        if !view.is_active() {
            let m = format!(
                "cannot kill container: {}: container {} is not running",
                record.name, record.id
            );
            return Err(
                Error::new(Kind::Conflict, m).with_hint(format!("`unlade start {}`", record.name))
            );
        }
        let run = self.run_dir(&record.id)?;
        let kill = signal == signal::parse("KILL")?;
        let sent = if kill {
            // Killed by hand it is not restarted, as docker has it.
            if view.status == Status::Paused {
                self.thaw(record)?;
            }
            shim::stop(&run, signal, None)
        } else {
            shim::signal(&run, signal)
        };
        match sent {
            Err(e) if e.kind() == Kind::NotFound => self.stop_without_shim(record, signal)?,
            done => done?,
        }
        self.tell("kill", record, &[("signal", &signal.to_string())]);
        Ok(())
    }

    /// Stops a container and starts it again.
    ///
    /// # Errors
    /// As [`Containers::stop`] and [`Containers::start`].
    pub fn restart(&self, record: &Record, how: &Stopping, begin: &Begin) -> Result<()> {
        self.stop(record, how)?;
        let record = self.find(&record.id)?;
        match self.start(&record, begin)? {
            Begun::Refused(refusal) => {
                Err(refusal.error().context(format!("start {}", record.name)))
            }
            Begun::Running(_) | Begun::Already => {
                self.tell("restart", &record, &[]);
                Ok(())
            }
        }
    }

    /// Whether a container can be frozen: those of ordinary users cannot.
    pub fn can_pause(record: &Record) -> bool {
        cgroup(&record.request, &record.id).is_some()
    }

    /// Freezes a container.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it does not run or is frozen already.
    pub fn pause(&self, record: &Record) -> Result<()> {
        let conflict = |what: &str| {
            let m = format!("cannot pause container {}: {what}", record.id);
            Err(Error::new(Kind::Conflict, m).with_hint("`unlade ps -a` shows its state"))
        };
        match self.view(record)?.status {
            Status::Running | Status::Dead => {}
            Status::Paused => return conflict("container is already paused"),
            Status::Restarting => return conflict("container is restarting"),
            _ => return conflict("container is not running"),
        }
        if !Self::can_pause(record) {
            return Err(no_group(record));
        }
        self.runtime(&record.request.host_config.runtime)?
            .pause(&record.id)?;
        self.tell_paused(record, true)?;
        self.tell("pause", record, &[]);
        Ok(())
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// [`Kind::Conflict`] if it is not frozen.
    pub fn unpause(&self, record: &Record) -> Result<()> {
        if self.view(record)?.status != Status::Paused {
            let m = format!("Container {} is not paused", record.id);
            return Err(Error::new(Kind::Conflict, m).with_hint("`unlade ps` shows its state"));
        }
        self.thaw(record)?;
        self.tell("unpause", record, &[]);
        Ok(())
    }

    fn thaw(&self, record: &Record) -> Result<()> {
        self.runtime(&record.request.host_config.runtime)?
            .resume(&record.id)?;
        self.tell_paused(record, false)
    }

    fn tell_paused(&self, record: &Record, paused: bool) -> Result<()> {
        match shim::set_paused(&self.run_dir(&record.id)?, paused) {
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Waits until a container has ended, and will not be started again by its policy.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn wait(&self, record: &Record) -> Result<Ended> {
        let run = self.run_dir(&record.id)?;
        match shim::wait(&run).and_then(|mut c| last_exit(&mut c)) {
            Ok(ended) => Ok(ended),
            Err(e) => self.ended_meanwhile(record, e),
        }
    }

    /// How a container ended whose shim gives no answer any more: it may be at its end.
    fn ended_meanwhile(&self, record: &Record, e: Error) -> Result<Ended> {
        for _ in 0..ENDING.as_millis() / TICK.as_millis() {
            let record = Record::parse(self.store.container(&record.id)?)?;
            let view = self.view(&record)?;
            if view.status == Status::Dead {
                return Err(Self::lost(&record));
            }
            // One that goes with its end has none recorded, and for a moment seems never to have run.
            let going = record.stage == Stage::Creating && view.status == Status::Created;
            if !view.is_active() && !going {
                return Ok(Ended {
                    code: view.exit_code,
                    error: view.error,
                });
            }
            std::thread::sleep(TICK);
        }
        Err(e)
    }

    fn lost(record: &Record) -> Error {
        let m = format!("the shim of container {} was killed", record.name);
        Error::new(Kind::Host, m).with_hint(format!("`unlade rm -f {}`", record.name))
    }

    /// Changes limits and the restart policy, of one that runs too.
    ///
    /// # Errors
    /// If the limits fit neither each other nor the host.
    pub fn update(&self, record: &Record, change: impl Fn(&mut HostConfig)) -> Result<Vec<String>> {
        let warnings = self.edit(&record.id, |record, request| {
            change(&mut request.host_config);
            let host = &request.host_config;
            let policy = &host.restart_policy.name;
            if host.auto_remove && !policy.is_empty() && policy != "no" {
                let m =
                    "restart policy cannot be updated because AutoRemove is enabled for the container";
                return Err(Error::new(Kind::Conflict, m).with_hint("it goes when it ends"));
            }
            let warnings = spec::check(request, self.host())?;
            let view = self.view(record)?;
            if view.is_running() {
                let resources = resources(host, self.host());
                self.runtime(&host.runtime)?
                    .update(&record.id, &resources)?;
            }
            if view.is_active() {
                let restart = launch::restart(&host.restart_policy);
                match shim::set_restart(&self.run_dir(&record.id)?, restart) {
                    Err(e) if e.kind() == Kind::NotFound => {}
                    done => done?,
                }
            }
            Ok(warnings)
        })?;
        self.tell("update", record, &[]);
        Ok(warnings)
    }
}

/// Waits for the exit after which its policy does not start it again.
pub(super) fn last_exit(connection: &mut shim::Connection) -> Result<Ended> {
    loop {
        let exit = connection.exit()?;
        if !exit.again {
            return Ok(Ended {
                code: exit.code,
                error: exit.error,
            });
        }
    }
}

/// Limits as the runtime takes them; those that are not set, and that of swap where the kernel
/// counts none, are left as they are.
fn resources(host: &HostConfig, facts: &HostFacts) -> serde_json::Value {
    let mut cpu = serde_json::Map::new();
    let mut memory = serde_json::Map::new();
    let set = |map: &mut serde_json::Map<String, serde_json::Value>, key: &str, n: i64| {
        if n != 0 {
            map.insert(key.to_owned(), json!(n));
        }
    };
    set(&mut cpu, "shares", host.cpu_shares);
    if host.nano_cpus > 0 {
        set(&mut cpu, "period", 100_000);
        set(&mut cpu, "quota", host.nano_cpus / 10_000);
    } else {
        set(&mut cpu, "period", host.cpu_period);
        set(&mut cpu, "quota", host.cpu_quota);
    }
    set(&mut memory, "limit", host.memory);
    set(&mut memory, "reservation", host.memory_reservation);
    let swap = if host.memory_swap == 0 {
        host.memory.saturating_mul(2)
    } else {
        host.memory_swap
    };
    if facts.swap_limit {
        set(&mut memory, "swap", swap);
    }
    if !host.cpuset_cpus.is_empty() {
        cpu.insert("cpus".to_owned(), json!(host.cpuset_cpus));
    }
    if !host.cpuset_mems.is_empty() {
        cpu.insert("mems".to_owned(), json!(host.cpuset_mems));
    }
    let mut all = json!({ "cpu": cpu, "memory": memory });
    if let Some(pids) = host.pids_limit {
        all["pids"] = json!({ "limit": if pids <= 0 { -1 } else { pids } });
    }
    if host.blkio_weight != 0 {
        all["blockIO"] = json!({ "weight": host.blkio_weight });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_is_changed() {
        let mut facts = HostFacts {
            swap_limit: true,
            ..HostFacts::default()
        };
        let none = resources(&HostConfig::default(), &facts);
        assert_eq!(none, json!({ "cpu": {}, "memory": {} }));
        let host = HostConfig {
            memory: 1 << 20,
            nano_cpus: 1_500_000_000,
            pids_limit: Some(0),
            cpuset_cpus: "0".into(),
            ..HostConfig::default()
        };
        assert_eq!(
            resources(&host, &facts),
            json!({ "cpu": { "period": 100_000, "quota": 150_000, "cpus": "0" },
                "memory": { "limit": 1 << 20, "swap": 2 << 20 }, "pids": { "limit": -1 } })
        );
        facts.swap_limit = false;
        let memory = &resources(&host, &facts)["memory"];
        assert_eq!(*memory, json!({ "limit": 1 << 20 }));
    }
}
