//! What only fuzz targets call. Not part of the interface.

use crate::{decode, error::Result};

/// Decodes a whole gzip blob as small local ones are; `None` if it is over `most` bytes, or
/// may be.
///
/// # Errors
/// As [`decode::Decoder`]'s.
pub fn gzip_one_shot(blob: &[u8], most: usize) -> Result<Option<Vec<u8>>> {
    decode::one_shot(blob, most)
}
