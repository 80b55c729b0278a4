//! What is to be done: a container, or a process in one.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{
    runtime::{Runtime, cgroup::Cgroup},
    shim::{Exec, Feels, Health, Io, Launch, Log, Restart, Stdin, Streams},
};

/// How long a runtime may take if nothing else was said.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A container or a process, whichever it is.
pub(super) struct Job {
    pub(super) id: String,
    pub(super) run: PathBuf,
    pub(super) runtime: Runtime,
    pub(super) io: Io,
    pub(super) foreground: Option<Streams>,
    pub(super) cleanup: Vec<String>,
    pub(super) client_cleans: bool,
    pub(super) timeout: Duration,
    pub(super) events: Option<PathBuf>,
    /// Yet to be told.
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) what: What,
}

pub(super) enum What {
    Container(Container),
    /// The container, and the file that describes the process.
    Process {
        container: String,
        process: serde_json::Value,
    },
}

pub(super) struct Container {
    pub(super) bundle: PathBuf,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) hooks: bool,
    pub(super) restart: Restart,
    pub(super) health: Option<Health>,
}

impl Container {
    /// How it feels before the first check; `None` where health is not looked at.
    pub(super) fn first_feeling(&self) -> Option<Feels> {
        self.health.is_some().then(|| Feels {
            status: "starting".into(),
            ..Feels::default()
        })
    }
}

impl Job {
    pub(super) fn container(&self) -> Option<&Container> {
        match &self.what {
            What::Container(container) => Some(container),
            What::Process { .. } => None,
        }
    }

    pub(super) fn stdin(&self) -> Stdin {
        match self.io {
            Io::Pipes { stdin } | Io::Terminal { stdin, .. } => stdin,
            Io::Passed => Stdin::Closed,
        }
    }

    pub(super) fn restart(&self) -> Restart {
        self.container().map_or(Restart::No, |c| c.restart)
    }
}

fn timeout(ms: u64) -> Duration {
    match ms {
        0 => TIMEOUT,
        ms => Duration::from_millis(ms),
    }
}

/// The job, and where its output is kept.
impl From<Launch> for (Job, Log) {
    fn from(l: Launch) -> Self {
        let container = Container {
            bundle: l.bundle,
            cgroup: l.cgroup.as_deref().and_then(Cgroup::at),
            hooks: l.hooks,
            restart: l.restart,
            health: l.health.filter(|h| !h.argv.is_empty()),
        };
        let job = Job {
            id: l.id,
            run: l.run,
            runtime: l.runtime,
            io: l.io,
            foreground: l.foreground,
            cleanup: l.cleanup,
            client_cleans: l.client_cleans,
            timeout: timeout(l.timeout_ms),
            events: l.events,
            attributes: l.attributes,
            what: What::Container(container),
        };
        (job, l.log)
    }
}

impl From<Exec> for Job {
    fn from(e: Exec) -> Self {
        Self {
            id: e.id,
            run: e.run,
            runtime: e.runtime,
            io: e.io,
            foreground: e.foreground,
            cleanup: e.cleanup,
            client_cleans: false,
            timeout: timeout(e.timeout_ms),
            events: e.events,
            attributes: BTreeMap::new(),
            what: What::Process {
                container: e.container,
                process: e.process,
            },
        }
    }
}
