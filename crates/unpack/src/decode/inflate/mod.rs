//! Deflate (RFC 1951).

mod bits;
mod block;
mod fast;
pub(super) mod find;
mod history;
pub(super) mod markers;
mod out;
mod tables;

pub(super) use bits::Bits;
pub(super) use block::{Blocks, Fault, Status};
pub(super) use history::History;
pub(super) use out::{Out, WINDOW};
