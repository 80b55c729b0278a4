//! The streaming decoder.

use super::{
    checkpoint::Checkpoint,
    header::{Header, check_trailer, damaged},
};
use crate::{
    decode::{
        Progress,
        inflate::{Bits, Blocks, Fault, History, Out, Status},
    },
    error::{Result, Stream},
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
    sum: Sum,
    trailer: [u8; 8],
    /// Bytes of input taken.
    read: u64,
    /// Bytes that the last call wrote, also if it failed.
    written: usize,
    /// Bits of the next byte that belong to what came before.
    skip: u32,
    /// Where to stop: at the first boundary from this bit on.
    stop: Option<u64>,
    stopped: bool,
    checks: Checks,
}

/// Checksum and length of what is decoded of the current member.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) crc: u32,
    /// Bytes; a member's own count of them is modulo 2^32.
    pub(super) length: u64,
}

impl Sum {
    /// The sum of this and what follows it.
    pub(super) fn and(self, next: Self) -> Self {
        // Whole members are the rule where there are many: nothing to combine.
        if self.length == 0 || next.length == 0 {
            return if self.length == 0 { next } else { self };
        }
        let mut crc = crc32fast::Hasher::new_with_initial_len(self.crc, self.length);
        crc.combine(&crc32fast::Hasher::new_with_initial_len(
            next.crc,
            next.length,
        ));
        Self {
            crc: crc.finalize(),
            length: self.length + next.length,
        }
    }
}

/// A part of a member, up to its end or to where decoding stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) sum: Sum,
    /// The member's trailer, where the part reaches it.
    pub(super) trailer: Option<Trailer>,
}

/// What follows a member's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    /// Checksum and length as stored.
    pub(super) bytes: [u8; 8],
    /// Offset of the byte behind it.
    pub(super) end: u64,
}

/// What becomes of a member's trailer.
#[derive(Debug, Default)]
enum Checks {
    #[default]
    Now,
    /// The member's start may not have been seen: whoever joins the parts checks.
    Later(Vec<Segment>),
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
    /// In the body of a member, wherever `blocks` are: `bits` are held of the input before `read`.
    pub(super) fn inside(blocks: Blocks, bits: Bits, read: u64) -> Self {
        Self {
            state: State::Body,
            bits,
            blocks,
            read,
            ..Self::default()
        }
    }

    /// Between two blocks, at `bit`. Input goes on at the byte that holds it.
    pub(super) fn at_bit(bit: u64) -> Self {
        let mut gzip = Self::inside(Blocks::default(), Bits::default(), bit / 8);
        gzip.skip = u32::from((bit % 8).to_le_bytes()[0]);
        gzip
    }

    /// Before a member's first byte.
    pub(super) fn at_member(read: u64) -> Self {
        Self {
            read,
            ..Self::default()
        }
    }

    /// The last block has just ended: goes on with the trailer.
    pub(super) fn end_body(&mut self) {
        self.bits.align();
        self.state = State::Trailer(0);
    }

    /// Leaves all checks to whoever calls [`Gzip::segments`].
    pub(super) fn check_later(&mut self) {
        if matches!(self.checks, Checks::Now) {
            self.checks = Checks::Later(Vec::new());
        }
    }

    /// The parts decoded since the last call.
    pub(super) fn segments(&mut self) -> Vec<Segment> {
        let Checks::Later(done) = &mut self.checks else {
            return Vec::new();
        };
        let mut done = std::mem::take(done);
        if self.sum.length > 0 {
            let sum = std::mem::take(&mut self.sum);
            done.push(Segment { sum, trailer: None });
        }
        done
    }

    /// Stops at the first boundary of blocks or members from `bit` on.
    pub(super) fn stop_at(&mut self, bit: Option<u64>) {
        self.stop = bit;
        self.stopped = bit.is_some_and(|bit| self.at_boundary() && self.bit() >= bit);
    }

    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// The next bit to decode, counted from the start of the blob.
    pub(super) fn bit(&self) -> u64 {
        self.read * 8 + u64::from(self.skip) - u64::from(self.bits.left)
    }

    /// Bytes of input taken. Some may still be held as bits.
    pub(super) fn taken(&self) -> u64 {
        self.read
    }

    /// Between two blocks: what comes next is a block's head.
    pub(super) fn at_block(&self) -> bool {
        matches!(self.state, State::Body) && self.blocks.at_boundary()
    }

    fn at_boundary(&self) -> bool {
        self.at_block() || self.at_member_start()
    }

    /// Before a member's first byte: between members, or at the start.
    pub(super) fn at_member_start(&self) -> bool {
        matches!(&self.state, State::Header(h) if h.seen == 0)
    }

    /// The bytes that back-references may reach.
    pub(super) fn window(&self) -> &[u8] {
        self.history.get()
    }

    pub(super) fn set_window(&mut self, window: &[u8]) {
        self.history.clear();
        self.history.push(window);
    }

    pub(crate) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let mut done = Progress::default();
        let before = self.read;
        let result = self.members(input, output, &mut done, before);
        self.read = before + done.read as u64;
        self.written = done.written;
        // Always at the same place, however the input is cut.
        let at = self.bit() / 8;
        result
            .map(|()| done)
            .map_err(|e| e.at_offset(Stream::Compressed, at))
    }

    /// Bytes that the last call wrote, also if it failed: they came before the fault.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    fn members(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        done: &mut Progress,
        before: u64,
    ) -> Result<()> {
        if self.skip > 0 {
            let skipped = self.bits.take(self.skip, input, &mut done.read);
            if skipped.is_none() {
                return Ok(());
            }
            self.skip = 0;
        }
        while !self.stopped {
            match &mut self.state {
                State::Header(header) => {
                    let Some(byte) = self.bits.byte(input, &mut done.read) else {
                        return Ok(());
                    };
                    let at = before + done.read as u64 - 1;
                    let whole = header.byte(byte);
                    if whole.map_err(|e| e.at_offset(Stream::Compressed, at))? {
                        self.state = State::Body;
                        self.blocks.reset();
                        self.history.clear();
                        self.read = before + done.read as u64;
                        self.boundary();
                    }
                }
                State::Body => {
                    let status = self.body(input, output, done, before)?;
                    self.read = before + done.read as u64;
                    match status {
                        Status::NeedInput | Status::NeedOutput => return Ok(()),
                        Status::BlockEnd => self.boundary(),
                        Status::StreamEnd => self.end_body(),
                    }
                }
                State::Trailer(have) => {
                    let Some(byte) = self.bits.byte(input, &mut done.read) else {
                        return Ok(());
                    };
                    self.trailer[*have] = byte;
                    *have += 1;
                    if *have == 8 {
                        self.read = before + done.read as u64;
                        self.end_member()?;
                        self.state = State::default();
                        self.boundary();
                    }
                }
            }
        }
        Ok(())
    }

    fn boundary(&mut self) {
        self.stopped = self.stop.is_some_and(|stop| self.bit() >= stop);
    }

    fn end_member(&mut self) -> Result<()> {
        let sum = std::mem::take(&mut self.sum);
        match &mut self.checks {
            Checks::Now => check_trailer(self.trailer, sum),
            Checks::Later(segments) => {
                let trailer = Trailer {
                    bytes: self.trailer,
                    end: self.read,
                };
                segments.push(Segment {
                    sum,
                    trailer: Some(trailer),
                });
                Ok(())
            }
        }
    }

    fn body(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        done: &mut Progress,
        before: u64,
    ) -> Result<Status> {
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
                Ok(Status::BlockEnd) if self.stop.is_none() => {}
                status => break status,
            }
        };
        let end = done.written + out.pos;
        if status.is_err() {
            done.written = end;
        }
        let status = status.map_err(|fault| {
            let bit = (before + done.read as u64) * 8 - u64::from(self.bits.left);
            fault_at(fault, bit)
        })?;
        let written = &output[done.written..end];
        self.sum.crc = crc32(self.sum.crc, written);
        self.sum.length += written.len() as u64;
        self.history.push(written);
        done.written = end;
        Ok(status)
    }

    /// Between members, and not before the first.
    pub(crate) fn at_end(&self) -> bool {
        self.at_member_start() && self.bits.left == 0 && self.read > 0
    }

    /// All there is to go on from here, between two blocks.
    pub(super) fn checkpoint(&self) -> Option<Checkpoint> {
        (self.at_block() && matches!(self.checks, Checks::Now)).then(|| Checkpoint {
            bit: self.bit(),
            crc: self.sum.crc,
            length: self.sum.length,
            window: self.history.get().to_vec(),
        })
    }

    /// Goes on at a checkpoint.
    pub(super) fn resume(checkpoint: &Checkpoint) -> Self {
        let mut gzip = Self::at_bit(checkpoint.bit);
        gzip.sum = Sum {
            crc: checkpoint.crc,
            length: checkpoint.length,
        };
        gzip.set_window(&checkpoint.window);
        gzip
    }
}

/// A fault, with the bit at which decoding stopped, counted from the start of the blob.
pub(super) fn fault_at(fault: Fault, bit: u64) -> crate::error::Error {
    damaged(format!("deflate: {fault}, before bit {bit}"))
}
