//! What an image says about the containers that are made from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::request::{Healthcheck, Nothing, Set};
use crate::{
    error::Result,
    image::{FullConfig, full},
};

/// What an image says about the containers that are made from it. All of it is input from
/// strangers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `name|uid[:group|gid]`.
    pub user: String,
    /// `NAME=value`; entries without `=` are dropped by [`super::merge`].
    pub env: Vec<String>,
    /// What runs.
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments.
    pub cmd: Option<Vec<String>>,
    /// Working directory.
    pub working_dir: String,
    /// Paths that get a volume.
    pub volumes: Set,
    /// `port[/protocol]`s that are listened on.
    pub exposed_ports: Set,
    /// Notes; unlade reads only two of them, and only as
    /// `--image-security` allows; labels do nothing else.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop.
    pub stop_signal: String,
    /// How its health is found out.
    pub healthcheck: Option<Healthcheck>,
}

impl ImageConfig {
    /// Parses the document that an image's manifest names as its config.
    ///
    /// # Errors
    /// As [`FullConfig::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Ok(Self::from(&FullConfig::parse(bytes.to_vec())?))
    }
}

impl From<&FullConfig> for ImageConfig {
    fn from(config: &FullConfig) -> Self {
        let Some(c) = config.config.clone() else {
            return Self::default();
        };
        Self {
            user: c.user,
            env: c.env.unwrap_or_default(),
            entrypoint: c.entrypoint,
            cmd: c.cmd,
            working_dir: c.working_dir,
            volumes: set(c.volumes),
            exposed_ports: set(c.exposed_ports),
            labels: c.labels.unwrap_or_default(),
            stop_signal: c.stop_signal,
            healthcheck: c.healthcheck.map(|h| Healthcheck {
                test: h.test.unwrap_or_default(),
                interval: h.interval,
                timeout: h.timeout,
                start_period: h.start_period,
                start_interval: h.start_interval,
                retries: h.retries,
            }),
        }
    }
}

fn set(of: Option<BTreeMap<String, full::Nothing>>) -> Set {
    let keys = of.unwrap_or_default().into_keys();
    keys.map(|k| (k, Nothing {})).collect()
}
