//! The state of a decoder between two blocks, to go on later or elsewhere.

use crate::{
    decode::inflate::WINDOW,
    error::{Error, Result},
};

/// A place in a gzip file from which decoding can go on: between two deflate blocks.
///
/// Made by [`Decoder::checkpoint`](super::Decoder::checkpoint), taken by
/// [`Decoder::resume`](super::Decoder::resume). It can be stored as bytes. Those are trusted to
/// be what was stored: a changed window gives other output, which the member's CRC32 then tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub(super) bit: u64,
    pub(super) crc: u32,
    pub(super) length: u64,
    pub(super) window: Vec<u8>,
}

const MAGIC: &[u8; 8] = b"unladeG1";
const HEAD: usize = 8 + 8 + 4 + 8;

impl Checkpoint {
    /// Offset in the blob, in bytes, at which input must go on.
    pub fn input_offset(&self) -> u64 {
        self.bit / 8
    }

    /// As bytes, at most 32 KiB and 28: a magic number, bit, CRC32 and length of the member so
    /// far, in little endian, and the window.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.window.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.bit.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.window);
        out
    }

    /// The reverse of [`Checkpoint::to_bytes`].
    ///
    /// # Errors
    /// If these are not bytes of a checkpoint.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bad = || Error::bad("bytes that are no gzip checkpoint");
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
        let (bit, rest) = rest.split_first_chunk().ok_or_else(bad)?;
        let (crc, rest) = rest.split_first_chunk().ok_or_else(bad)?;
        let (length, window) = rest.split_first_chunk().ok_or_else(bad)?;
        let length = u64::from_le_bytes(*length);
        // As much of the member as a back-reference may reach, and nothing else.
        if magic != MAGIC || window.len() as u64 != length.min(WINDOW as u64) {
            return Err(bad());
        }
        Ok(Self {
            bit: u64::from_le_bytes(*bit),
            crc: u32::from_le_bytes(*crc),
            length,
            window: window.to_vec(),
        })
    }
}
