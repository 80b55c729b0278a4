//! Verified OCI and Docker layer blobs to a tree.
mod attrs;
mod cancel;
pub mod decode;
mod digest;
pub mod entry;
mod error;
#[doc(hidden)]
pub mod fault;
mod io;
mod limits;
mod pipeline;
mod plan;
mod pool;
mod report;
mod root;
mod sink;
pub mod source;
mod sys;
pub mod tar;

pub use cancel::Cancel;
pub use decode::Compression;
pub use digest::{Algorithm, Digest, Hasher};
pub use error::{Error, Kind, Place, Result, Stream};
pub use io::IoChoice;
pub use limits::Limits;
pub use pipeline::{Expect, Layer, Progress, Unpacker};
pub use report::{Counts, LayerReport, Skipped, Stage};
pub use sink::{
    Applied, DirOptions, DirSink, IdMap, IdRange, Node, NodeKind, NullSink, Owners, Sink, TreeSink,
    Want, Whiteouts,
};
