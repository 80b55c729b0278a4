//! A container's record, read and written as JSON.

use serde::{Deserialize, Serialize};
use unlade_unpack::Digest;

use crate::{
    error::{Error, Kind, Result},
    network::Member,
    shim::{Feels, State},
    spec::{ImageConfig, request::Request},
    store::{ContainerRow, Stage},
    volume::Planned,
};

/// What was decided for a container when it was made: with it, it starts without its image's
/// record.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Facts {
    /// What its image says.
    pub image: ImageConfig,
    /// The image's platform, as `os/arch`.
    pub platform: String,
    /// Its mounts.
    pub mounts: Vec<Planned>,
    /// What `--network container:` and the like stand for: full ids, by what was asked.
    pub others: std::collections::BTreeMap<String, String>,
}

/// A run of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Run {
    /// The boot in which it was.
    pub boot: String,
    /// When it began, RFC 3339.
    pub started: Option<String>,
    /// When it ended.
    pub finished: Option<String>,
    /// How it ended; `None` while it is not known to have ended.
    pub exit_code: Option<i32>,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom: bool,
    /// Why it could not be started.
    pub error: String,
    /// How often it was started again.
    pub restarts: u32,
    /// Whether a user has stopped it.
    pub stopped: bool,
    /// How it felt last.
    pub health: Option<Feels>,
}

impl Run {
    /// What is left of a run whose shim has written this last.
    pub fn of(state: &State) -> Self {
        Self {
            boot: state.boot.clone(),
            started: state.started.clone(),
            finished: state.finished.clone(),
            exit_code: state.exit_code,
            oom: state.oom,
            error: state.error.clone(),
            restarts: state.restarts,
            stopped: state.stopping,
            health: state.health.clone(),
        }
    }
}

/// A container.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in nanoseconds since 1970.
    pub created: i64,
    /// Its image.
    pub image: Digest,
    /// What it was asked to be, merged with what its image says.
    pub request: Request,
    /// What was decided for it.
    pub facts: Facts,
    /// How far it is.
    pub stage: Stage,
    /// Whether the process that was making or removing it is gone.
    pub abandoned: bool,
    /// Its last run.
    pub run: Option<Run>,
}

impl Record {
    /// Reads a row.
    pub fn parse(row: ContainerRow) -> Result<Self> {
        fn read<T: for<'a> Deserialize<'a>>(id: &str, what: &str, text: &str) -> Result<T> {
            serde_json::from_str(text).map_err(|e| {
                let m = format!("the {what} of container {id} cannot be read: {e}");
                Error::new(Kind::Integrity, m).with_hint("remove it: `unlade rm -f`")
            })
        }
        Ok(Self {
            request: read(&row.id, "request", &row.request)?,
            facts: read(&row.id, "record", &row.facts)?,
            run: row
                .run
                .as_deref()
                .map(|run| read(&row.id, "last run", run))
                .transpose()?,
            id: row.id,
            name: row.name,
            created: row.created,
            image: row.image,
            stage: row.stage,
            abandoned: row.abandoned,
        })
    }

    /// The start of the id that people are shown.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// As networks know it; `other` is whose network it shares: id and first process.
    pub(super) fn member<'a>(&'a self, other: Option<(&'a str, i32)>) -> Member<'a> {
        Member {
            id: &self.id,
            name: &self.name,
            hostname: &self.request.config.hostname,
            other,
            links: &[],
        }
    }
}

/// Anything of a record, as text.
pub(super) fn text<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::new(Kind::Bug, format!("write JSON: {e}")))
}

#[cfg(test)]
impl Record {
    /// One that has run so.
    pub(super) fn sample(run: Option<Run>) -> Self {
        Self {
            id: "a".repeat(64),
            name: "n".into(),
            created: 0,
            image: Digest::of(unlade_unpack::Algorithm::Sha256, b""),
            request: Request::default(),
            facts: Facts::default(),
            stage: Stage::Created,
            abandoned: false,
            run,
        }
    }
}
