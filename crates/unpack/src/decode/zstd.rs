//! Streaming Zstandard (RFC 8878) through libzstd.

use zstd::{
    stream::raw::{Decoder, InBuffer, Operation, OutBuffer},
    zstd_safe::{DParameter, get_frame_content_size},
};

use super::Progress;
use crate::error::{Error, Kind, Result};

/// Most bytes of a frame's header.
const HEAD: usize = 18;

pub(super) struct Zstd {
    decoder: Decoder<'static>,
    /// libzstd's hint: 0 exactly at the end of a frame.
    hint: usize,
    /// A frame has begun.
    begun: bool,
    window: u64,
    /// The first bytes of the current frame.
    head: Vec<u8>,
    /// What the current frame gave so far.
    frame: u64,
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
            begun: false,
            window,
            head: Vec::with_capacity(HEAD),
            frame: 0,
        })
    }

    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let mut total = Progress::default();
        // Past a frame's end, with no input, a call would begin to wait for another frame.
        while total.written < output.len() && (total.read < input.len() || self.hint > 0) {
            // A frame that lies whole in one input takes a short cut in libzstd with rules of its
            // own, even for what only looks like a frame within a header that came in pieces.
            // Headers byte by byte are never whole: each blob has one reading, however it comes.
            let end = if self.head.len() < HEAD {
                input.len().min(total.read + 1)
            } else {
                input.len()
            };
            let mut from = InBuffer::around(&input[total.read..end]);
            let mut to = OutBuffer::around(&mut output[total.written..]);
            self.hint = self
                .decoder
                .run(&mut from, &mut to)
                .map_err(|e| self.error(&e))?;
            let (read, written) = (from.pos(), to.pos());
            self.begun |= read > 0;
            if self.head.len() < HEAD {
                self.head
                    .extend_from_slice(&input[total.read..total.read + read]);
            }
            self.frame += written as u64;
            if self.hint == 0 {
                self.frame_end()?;
            }
            total.read += read;
            total.written += written;
            if read == 0 && written == 0 {
                break;
            }
        }
        Ok(total)
    }

    /// libzstd overlooks a wrong content size where the last block is empty.
    fn frame_end(&mut self) -> Result<()> {
        let told = get_frame_content_size(&self.head).ok().flatten();
        let is = std::mem::take(&mut self.frame);
        self.head.clear();
        match told {
            Some(told) if told != is => Err(damaged(&format!(
                "a frame of {is} bytes says it has {told}"
            ))),
            _ => Ok(()),
        }
    }

    fn error(&self, e: &std::io::Error) -> Error {
        let text = e.to_string();
        if text.contains("too much memory") {
            let message = format!("zstd window of more than {} bytes", self.window);
            return Error::limit(message, "zstd-window");
        }
        damaged(&text.to_lowercase())
    }

    /// Behind a frame.
    pub(super) fn at_end(&self) -> bool {
        self.begun && self.hint == 0
    }
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::BadInput, format!("zstd: {what}"))
        .with_hint("the layer is damaged: fetch or build it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<Vec<u8>> {
        let mut zstd = Zstd::new(1 << 20)?;
        let mut out = Vec::new();
        let mut buf = vec![0; 1000];
        for mut input in pieces.iter().copied() {
            while !input.is_empty() {
                let done = zstd.decode(input, &mut buf)?;
                out.extend_from_slice(&buf[..done.written]);
                input = &input[done.read..];
            }
        }
        let whole = zstd.at_end().then_some(out);
        whole.ok_or_else(|| Error::bad("cut"))
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
        for at in 1..nested.len() {
            let (a, b) = nested.split_at(at);
            assert!(decode(&[a, b]).is_err(), "{at}");
            let (a, b) = empty.split_at(at.min(empty.len()));
            assert!(decode(&[a, b]).is_err(), "{at}");
        }
        assert_eq!(decode(&[&nested[5..]]).unwrap(), b"hello");
    }
}
