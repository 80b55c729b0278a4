#![doc = include_str!("../README.md")]
//!
//! # How it works
//!
//! ```text
//! BlobSource --bytes--> decoder --blocks--> tar::Reader --entries, slices--> Sink --> writers
//!      \                    \
//!       +-- blob digest      +-- diffID     (a thread of their own)
//! ```
//!
//! A decoder fills re-used blocks; payload goes to the writers as reference-counted slices of
//! them, without a copy. Blocks are the memory budget and the back-pressure: when writers fall
//! behind, decoding waits. [`Unpacker::start`] decodes a layer ahead of its turn,
//! [`Layer::apply`] parses it into a [`Sink`] and verifies it.
//!
mod attrs;
mod cancel;
pub mod decode;
mod digest;
pub mod entry;
mod error;
#[doc(hidden)]
pub mod fault;
#[doc(hidden)]
pub mod fuzzing;
mod io;
mod limits;
mod pipeline;
mod plan;
mod pool;
pub mod record;
mod report;
mod root;
mod sink;
pub mod source;
mod sys;
pub mod tar;

pub use attrs::refusal as xattr_refusal;
pub use cancel::Cancel;
pub use decode::Compression;
pub use digest::{Algorithm, Digest, Hasher};
pub use error::{Error, Kind, Place, Result, Stream, show};
pub use io::IoChoice;
pub use limits::Limits;
pub use pipeline::{Expect, Layer, Progress, Turn, Unpacker};
pub use report::{Counts, LayerReport, Notes, Skipped, Stage};
pub use root::LowerLayers;
pub use sink::{
    Applied, DirOptions, DirSink, IdMap, IdRange, Node, NodeKind, NullSink, Owners, Passed, Sink,
    TreeSink, Want, Whiteouts, only_own_id,
};
