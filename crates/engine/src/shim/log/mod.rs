//! Logs of containers: what a shim writes, and what `unlade logs` reads.

mod files;
mod find;
mod json;
mod k8s;
mod pack;
mod read;
mod ring;
#[cfg(test)]
mod tests;
mod write;

pub use self::read::{Entry, Filter, Reader};
pub(super) use self::{
    pack::{WORD as PACK, main as pack},
    write::Writer,
};
use super::{Log, LogFile};

/// Longest line that is kept in one piece, in bytes, as Docker and CRI have it.
pub(super) const LINE: usize = 16 << 10;
/// Most files of one log.
const MAX_FILES: u32 = 1000;

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    K8s,
    /// As `K8s`, and all lines carry the same attributes, which are not written.
    Local,
}

impl Log {
    /// Its format and its files, if it is kept.
    fn file(&self) -> Option<(Format, &LogFile)> {
        match self {
            Self::None => None,
            Self::JsonFile(file) => Some((Format::Json, file)),
            Self::K8sFile(file) => Some((Format::K8s, file)),
            Self::Local(file) => Some((Format::Local, file)),
        }
    }
}
