//! The streaming decoder.

use super::header::{Header, check_trailer, damaged};
use crate::{
    decode::{
        Progress,
        inflate::{Bits, Blocks, Fault, History, Out, Status},
    },
    error::Result,
    sys::crc32,
};

/// Decodes a gzip file of any number of members, from any split of its bytes into buffers of any
/// size.
#[derive(Debug, Default)]
pub(crate) struct Gzip {
    state: State,
    bits: Bits,
    blocks: Blocks,
    history: History,
    /// Of the current member.
    crc: u32,
    /// Of the current member, modulo 2^32.
    length: u32,
    trailer: [u8; 8],
    /// Bytes of input taken.
    read: u64,
}

#[derive(Debug)]
enum State {
    Header(Header),
    Body,
    /// Bytes of the trailer read so far.
    Trailer(usize),
}

impl Default for State {
    fn default() -> Self {
        Self::Header(Header::default())
    }
}

impl Gzip {
    pub(crate) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let mut done = Progress::default();
        let result = self.members(input, output, &mut done);
        self.read += done.read as u64;
        result.map(|()| done)
    }

    fn members(&mut self, input: &[u8], output: &mut [u8], done: &mut Progress) -> Result<()> {
        loop {
            match &mut self.state {
                State::Header(header) => {
                    let Some(byte) = self.bits.byte(input, &mut done.read) else {
                        return Ok(());
                    };
                    if header.byte(byte)? {
                        self.state = State::Body;
                        self.blocks.reset();
                        self.history.clear();
                        (self.crc, self.length) = (0, 0);
                    }
                }
                State::Body => {
                    let status = self.body(input, output, done)?;
                    match status {
                        Status::NeedInput | Status::NeedOutput => return Ok(()),
                        Status::BlockEnd => {}
                        Status::StreamEnd => {
                            self.bits.align();
                            self.state = State::Trailer(0);
                        }
                    }
                }
                State::Trailer(have) => {
                    let Some(byte) = self.bits.byte(input, &mut done.read) else {
                        return Ok(());
                    };
                    self.trailer[*have] = byte;
                    *have += 1;
                    if *have == 8 {
                        check_trailer(self.trailer, self.crc, self.length)?;
                        self.state = State::default();
                    }
                }
            }
        }
    }

    fn body(&mut self, input: &[u8], output: &mut [u8], done: &mut Progress) -> Result<Status> {
        let mut out = Out {
            buf: &mut output[done.written..],
            pos: 0,
            history: self.history.get(),
        };
        let status = loop {
            match self
                .blocks
                .run(&mut self.bits, input, &mut done.read, &mut out)
            {
                Ok(Status::BlockEnd) => {}
                status => break status,
            }
        };
        let status = status.map_err(|fault| fault_at(fault, self.read, done.read, self.bits))?;
        let end = done.written + out.pos;
        let written = &output[done.written..end];
        self.crc = crc32(self.crc, written);
        let low = u32::try_from(written.len() & 0xffff_ffff).unwrap_or_default();
        self.length = self.length.wrapping_add(low);
        self.history.push(written);
        done.written = end;
        Ok(status)
    }

    /// Between members, and not before the first.
    pub(crate) fn at_end(&self) -> bool {
        matches!(&self.state, State::Header(h) if h.seen == 0) && self.bits.left == 0
    }
}

/// With the bit at which decoding stopped, counted from the start of the blob.
fn fault_at(fault: Fault, before: u64, read: usize, bits: Bits) -> crate::error::Error {
    let bit = (before + read as u64) * 8 - u64::from(bits.left);
    damaged(format!("deflate: {fault}, before bit {bit}"))
}
