//! Streaming Zstandard (RFC 8878) through libzstd.

use zstd::{
    stream::raw::{Decoder, InBuffer, Operation, OutBuffer},
    zstd_safe::DParameter,
};

use super::Progress;
use crate::error::{Error, Kind, Result};

pub(super) struct Zstd {
    decoder: Decoder<'static>,
    /// libzstd's hint: 0 exactly at the end of a frame.
    hint: usize,
    window: u64,
}

impl std::fmt::Debug for Zstd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zstd")
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

impl Zstd {
    pub(super) fn new(window: u64) -> Result<Self> {
        let host = |e| Error::host("set up the zstd decoder", e);
        let mut decoder = Decoder::new().map_err(host)?;
        let log = window.max(1 << 10).ilog2().min(31);
        decoder
            .set_parameter(DParameter::WindowLogMax(log))
            .map_err(host)?;
        Ok(Self {
            decoder,
            hint: 0,
            window,
        })
    }

    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let mut total = Progress::default();
        // Past a frame's end, with no input, a call would begin to wait for another frame.
        while total.written < output.len() && (total.read < input.len() || self.hint > 0) {
            let mut from = InBuffer::around(&input[total.read..]);
            let mut to = OutBuffer::around(&mut output[total.written..]);
            self.hint = self
                .decoder
                .run(&mut from, &mut to)
                .map_err(|e| self.error(&e))?;
            let (read, written) = (from.pos(), to.pos());
            total.read += read;
            total.written += written;
            if read == 0 && written == 0 {
                break;
            }
        }
        Ok(total)
    }

    fn error(&self, e: &std::io::Error) -> Error {
        let text = e.to_string();
        if text.contains("too much memory") {
            let message = format!("zstd window of more than {} bytes", self.window);
            return Error::limit(message, "zstd-window");
        }
        Error::new(Kind::BadInput, format!("zstd: {}", text.to_lowercase()))
            .with_hint("the layer is damaged: fetch or build it again")
    }

    pub(super) fn at_end(&self) -> bool {
        self.hint == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(blob: &[u8], piece: usize) -> Result<Vec<u8>> {
        let mut zstd = Zstd::new(1 << 20)?;
        let mut out = Vec::new();
        let mut buf = vec![0; 1000];
        for mut input in blob.chunks(piece) {
            while !input.is_empty() {
                let done = zstd.decode(input, &mut buf)?;
                out.extend_from_slice(&buf[..done.written]);
                input = &input[done.read..];
            }
        }
        if zstd.at_end() {
            Ok(out)
        } else {
            Err(Error::bad("cut"))
        }
    }

    #[test]
    fn no_split_decides_what_a_frame_is() {
        // The identifier of a dictionary that looks like a frame's magic, with a frame behind.
        let nested = [
            &[0x28, 0xb5, 0x2f, 0xfd, 0x23][..],
            &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 5, 0x29, 0, 0],
            b"hello",
        ]
        .concat();
        // A content size of 154, and no content but an empty block.
        let empty = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 154, 1, 0, 0];
        for piece in 1..nested.len() + 1 {
            assert!(decode(&nested, piece).is_err(), "{piece}");
            assert!(decode(&empty, piece).is_err(), "{piece}");
            assert_eq!(decode(&nested[5..], piece).unwrap(), b"hello");
        }
    }
}
