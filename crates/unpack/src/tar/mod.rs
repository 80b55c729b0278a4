//! Tar without I/O: bytes in, [`Step`]s out.
//!
//! [`Reader`] takes the stream in pieces of any size and gives the same entries and payload
//! however it was cut. It never copies payload: a [`Step::Data`] is a range of the caller's
//! buffer. One archive has one reading: what different tar programs would take for different
//! trees is refused, with the offset and the rule.

mod field;
mod header;
mod pax;
mod reader;
mod sparse;

pub use header::BLOCK;
pub use reader::{Reader, Step};
