//! OCI runtimes: finding `runc` or `crun`, and their command lines.
//!
//! A container is started through `shim`; what else is done to it goes through
//! [`Runtime`] directly. Nothing here knows of images or of the store.

mod bounded;
pub mod cgroup;
mod commands;
mod find;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use self::commands::last_error_in;
pub use self::find::shim_binary;

/// An OCI runtime that was found and can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// Its program.
    pub path: PathBuf,
    /// Which one it is.
    pub flavor: Flavor,
    /// Its version, as it says.
    pub version: String,
    /// Where it keeps what it knows of containers.
    pub root: PathBuf,
    /// The shim's program, through which it has to be run because it refuses this host's control
    /// groups as they are mounted; see [`cgroup::hybrid`].
    pub through: Option<PathBuf>,
}

/// The word that tells the shim's program to run what follows without the second version's control
/// groups.
pub(crate) const WITHOUT_UNIFIED: &str = "without-unified";

/// The runtimes that are known. One that calls itself otherwise is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flavor {
    /// <https://github.com/opencontainers/runc>
    Runc,
    /// <https://github.com/containers/crun>
    Crun,
}

impl Flavor {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }

    /// The oldest version whose command line and behaviour are what is expected.
    fn oldest(self) -> [u32; 3] {
        match self {
            Self::Runc => [1, 1, 0],
            Self::Crun => [1, 5, 0],
        }
    }
}
