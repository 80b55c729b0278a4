//! gzip (RFC 1952), by an inflate of our own: streaming, resumable, and parallel inside one
//! stream.
//!
//! - [`Decoder`]: any split of the input into buffers of any size, all members, all checksums.
//!   32 KiB to 64 KiB of history and some tables are all the memory it takes.
//! - [`Reader`]: the same behind [`std::io::Read`].
//! - [`Decoder::checkpoint`]: the state between two blocks, to go on later.
//! - [`Parallel`]: one stream on several cores, in bounded memory.
//!
//! ```
//! use std::io::Read;
//! use unlade_unpack::decode::gzip::Reader;
//!
//! # let file: &[u8] = &[31, 139, 8, 0, 0, 0, 0, 0, 0, 3, 203, 72, 205, 201, 201, 7, 0, 134, 166, 16, 54, 5, 0, 0, 0];
//! let mut text = String::new();
//! Reader::new(file).read_to_string(&mut text)?;
//! assert_eq!(text, "hello");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! A damaged stream is an error, with the bit at which it was noticed; so is anything behind the
//! last member. `docs/inflate.md` tells how it works and what it costs.

mod checkpoint;
#[cfg(test)]
mod differential;
mod header;
mod one_shot;
mod parallel;
#[cfg(test)]
mod parallel_tests;
mod piece;
mod reader;
mod slots;
mod stream;
#[cfg(test)]
mod tests;

pub use checkpoint::Checkpoint;
pub(super) use header::cut;
pub(crate) use one_shot::one_shot;
pub use parallel::{Done, Parallel};
pub use reader::{Decoder, Reader};
pub(super) use stream::Gzip;

/// Name of the streaming decoder, for reports.
pub(super) const STREAMING: &str = "unlade streaming";
