//! Logs of containers: what a shim writes, and what `unlade logs` reads.

mod json;
mod k8s;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use self::read::{Entry, Filter, Reader};
pub(super) use self::write::Writer;

/// Longest line that is kept in one piece, in bytes, as Docker and CRI have it.
pub(super) const LINE: usize = 16 << 10;
