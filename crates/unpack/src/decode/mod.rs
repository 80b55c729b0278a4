//! Compressed bytes to tar bytes: gzip, zstd, or none.
//!
//! Which one is told by the first bytes and checked against what the image says. A blob is read
//! to its last byte: every gzip member and zstd frame, all checksums, and nothing after them.

pub mod gzip;
mod inflate;
mod zstd;

use self::{gzip::Gzip, zstd::Zstd};
use crate::{
    error::{Error, Result, Stream},
    limits::Limits,
};

pub(crate) use gzip::one_shot;

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// A plain tar stream.
    None,
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// Zstandard (RFC 8878), any number of frames, skippable ones included.
    Zstd,
}

impl Compression {
    /// Bytes needed by [`Compression::sniff`].
    pub const MAGIC_BYTES: usize = 4;

    /// Guesses from the first bytes of a blob. What is not compressed in a known way is taken
    /// for a tar stream.
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame first: zstd:chunked and seekable files have them.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// As in media types: `tar`, `gzip`, `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Checks what the bytes are against what the image said they would be.
    pub(crate) fn expect(self, told: Self, start: &[u8]) -> Result<()> {
        if self == told || start.is_empty() {
            return Ok(());
        }
        let (told, is) = (told.name(), foreign(start).unwrap_or(self.name()));
        Err(
            Error::bad(format!("the media type says {told}, the bytes are {is}"))
                .with_hint("the image is mislabelled; `--sniff` trusts the bytes instead"),
        )
    }
}

/// Compressions that are recognised in order to be refused by name.
pub(crate) fn foreign(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("bzip2"),
        _ => None,
    }
}

/// What one call of [`Decoder::decode`] did, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Input consumed.
    pub read: usize,
    /// Output written.
    pub written: usize,
}

/// A streaming decoder for a whole blob.
#[derive(Debug)]
pub struct Decoder {
    inner: Inner,
    position: u64,
}

#[derive(Debug)]
enum Inner {
    None,
    Gzip(Box<Gzip>),
    Zstd(Zstd),
}

impl Decoder {
    /// A decoder at the start of a blob.
    ///
    /// # Errors
    /// If the decoder's memory cannot be had.
    pub fn new(compression: Compression, limits: &Limits) -> Result<Self> {
        let inner = match compression {
            Compression::None => Inner::None,
            Compression::Gzip => Inner::Gzip(Box::default()),
            Compression::Zstd => Inner::Zstd(Zstd::new(limits.zstd_window_bytes)?),
        };
        Ok(Self { inner, position: 0 })
    }

    /// Name of the implementation, for reports.
    pub fn name(&self) -> &'static str {
        match self.inner {
            Inner::None => "none",
            Inner::Gzip(_) => gzip::STREAMING,
            Inner::Zstd(_) => "zstd streaming",
        }
    }

    /// Decodes from `input` into `output`. Call again with the rest of the input and fresh
    /// output until all input is consumed and the output was not filled.
    ///
    /// # Errors
    /// Anything that is not a well-formed, undamaged stream, with the offset in the blob.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let done = match &mut self.inner {
            Inner::None => {
                let n = input.len().min(output.len());
                output[..n].copy_from_slice(&input[..n]);
                Ok(Progress {
                    read: n,
                    written: n,
                })
            }
            Inner::Gzip(d) => d.decode(input, output),
            Inner::Zstd(d) => d.decode(input, output),
        };
        let done = done.map_err(|e| e.at_offset(Stream::Compressed, self.position))?;
        self.position += done.read as u64;
        Ok(done)
    }

    /// Checks that the blob may end here.
    ///
    /// # Errors
    /// A stream cut short, or a compressed one without a member or frame.
    pub fn finish(&self) -> Result<()> {
        let whole = match &self.inner {
            Inner::None => true,
            Inner::Gzip(d) => d.at_end(),
            Inner::Zstd(d) => d.at_end(),
        };
        if whole {
            return Ok(());
        }
        Err(gzip::cut(self.position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_no_compressed_stream() {
        let fresh = |c| Decoder::new(c, &Limits::default()).unwrap();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let mut decoder = fresh(compression);
            decoder.decode(&[], &mut [0; 10]).unwrap();
            let e = decoder.finish().unwrap_err();
            assert!(e.to_string().contains("is empty"), "{e}");
            assert_eq!(e.place().offset, Some((Stream::Compressed, 0)));
        }
        assert!(gzip::Decoder::new().finish().is_err());
        fresh(Compression::None).finish().unwrap();
    }

    #[test]
    fn labels_are_checked() {
        assert_eq!(Compression::sniff(&[0x1f, 0x8b, 8, 0]), Compression::Gzip);
        assert_eq!(
            Compression::sniff(&[0x28, 0xb5, 0x2f, 0xfd]),
            Compression::Zstd
        );
        assert_eq!(
            Compression::sniff(&[0x53, 0x2a, 0x4d, 0x18]),
            Compression::Zstd
        );
        assert_eq!(Compression::sniff(b"file"), Compression::None);
        let e = Compression::None
            .expect(Compression::Gzip, b"\xfd7zXZ\0")
            .unwrap_err();
        assert!(e.to_string().contains("the bytes are xz"), "{e}");
    }
}
