//! Verified OCI and Docker layer blobs to a tree.
mod cancel;
pub mod decode;
mod digest;
pub mod entry;
mod error;
mod limits;
mod pool;
pub mod source;
mod sys;
pub mod tar;

pub use cancel::Cancel;
pub use digest::{Algorithm, Digest, Hasher};
pub use error::{Error, Kind, Place, Result, Stream};
pub use limits::Limits;
