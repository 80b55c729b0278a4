//! Deflate (RFC 1951).

mod bits;
mod block;
mod fast;
mod history;
mod out;
mod tables;

pub(super) use bits::Bits;
pub(super) use block::{Blocks, Fault, Status};
pub(super) use history::History;
pub(super) use out::Out;
