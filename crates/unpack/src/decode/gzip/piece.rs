//! What one worker does of a parallel decode: a piece of the stream, from a boundary that it may
//! have to guess to the first one behind its end.

use std::time::Duration;

use bytes::Bytes;

use super::stream::{Gzip, Segment};
use crate::{
    decode::inflate::{
        Bits, Blocks, Fault, Out, Status, WINDOW,
        find::{self, Sign},
        markers,
    },
    error::Result,
    sys::thread_cpu,
};

/// Consecutive bytes of the blob from offset `start` on.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) bytes: Bytes,
}

impl Chunk {
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The bytes from `offset` on, if it is in here.
    pub(super) fn from(&self, offset: u64) -> Option<&[u8]> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(at..).filter(|rest| !rest.is_empty())
    }
}

/// Where a piece begins, in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Block(u64),
    Member(u64),
}

impl Start {
    pub(super) fn bit(self) -> u64 {
        match self {
            Self::Block(bit) | Self::Member(bit) => bit,
        }
    }
}

/// Buffers of a piece, to be used again.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub(super) marked: Vec<u16>,
    pub(super) plain: Vec<u8>,
}

/// A decoded piece: first what may hold markers, then bytes.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) start: Start,
    pub(super) buffers: Buffers,
    /// Symbols in `buffers.marked`, behind the markers of the window.
    pub(super) marked: usize,
    /// Bytes in `buffers.plain`.
    pub(super) plain: usize,
    /// Checksums of `plain`.
    pub(super) segments: Vec<Segment>,
    /// The decoder where it stopped. Its window is right unless `open`.
    pub(super) decoder: Gzip,
    /// All of the piece may hold markers: the window follows from what came before.
    pub(super) open: bool,
    pub(super) costs: Costs,
}

/// CPU time of a piece.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Costs {
    /// Looking for the start, wrong guesses included.
    pub(super) search: Duration,
    /// Decoding with markers.
    pub(super) first_stage: Duration,
}

/// Symbols decoded between two looks for markers.
const STEP: usize = 64 << 10;

/// Goes on with `decoder` through `chunks`, until it stops, they end, or there is no room.
pub(super) fn known(
    decoder: &mut Gzip,
    chunks: &[Chunk],
    plain: &mut [u8],
    used: &mut usize,
) -> Result<()> {
    while !decoder.stopped() {
        let Some(input) = chunks.iter().find_map(|c| c.from(decoder.taken())) else {
            // Bits that are held may still be something.
            let done = decoder.decode(&[], &mut plain[*used..]);
            *used += decoder.written();
            return done.map(drop);
        };
        if *used == plain.len() {
            return Ok(());
        }
        // In steps, so that the checksum finds its bytes in the cache.
        let end = (*used + 4 * STEP).min(plain.len());
        let done = decoder.decode(input, &mut plain[*used..end]);
        *used += decoder.written();
        done?;
    }
    Ok(())
}

/// Finds a boundary in `chunks[0]` and decodes from there to the first one from `stop` on.
/// `None` if no guess proved right, as far as can be told here.
pub(super) fn unknown(
    chunks: &[Chunk],
    stop: Option<u64>,
    mut buffers: Buffers,
) -> Result<Piece, Buffers> {
    let Some(first) = chunks.first() else {
        return Err(buffers);
    };
    let input = &first.bytes[..];
    let mut patience = Patience::default();
    let begun = thread_cpu();
    // What the piece itself did not take went into the search for it.
    let counted = |mut piece: Piece, found: Duration| {
        piece.costs.search = found.saturating_sub(begun);
        piece
    };
    // Members and flushes first: they need no second stage.
    let near = input.len().min(SIGN_BYTES);
    let mut at = 0;
    while let Some(sign) = find::sign(input, at, near) {
        let (start, byte) = match sign {
            Sign::Member(at) => (Start::Member((first.start + at as u64) * 8), at),
            Sign::Flush(at) => (Start::Block((first.start + at as u64) * 8), at),
        };
        at = byte + 1;
        let found = thread_cpu();
        match independent(start, chunks, stop, buffers) {
            Ok(piece) => return Ok(counted(piece, found)),
            Err(wrong) => {
                buffers = wrong.buffers;
                if !patience.lasts(wrong.decoded) {
                    return Err(buffers);
                }
            }
        }
    }
    let mut scratch = Blocks::default();
    let mut bit = 0;
    let end = input.len().min(SEARCH_BYTES) * 8;
    while let Some(found) = find::block(input, bit, end, &mut scratch) {
        let at = thread_cpu();
        match dependent(first.start * 8 + found as u64, chunks, stop, buffers) {
            Ok(piece) => return Ok(counted(piece, at)),
            Err(wrong) => {
                buffers = wrong.buffers;
                if !patience.lasts(wrong.decoded) {
                    return Err(buffers);
                }
            }
        }
        bit = found + 1;
    }
    Err(buffers)
}

/// A guess that led nowhere.
struct Wrong {
    buffers: Buffers,
    /// What was decoded until a fault showed it.
    decoded: usize,
}

/// Bounds what wrong guesses cost: hostile data may look like the start of a block anywhere.
struct Patience {
    guesses: usize,
    symbols: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            guesses: 256,
            symbols: 4 * STEP,
        }
    }
}

impl Patience {
    fn lasts(&mut self, decoded: usize) -> bool {
        self.guesses = self.guesses.saturating_sub(1);
        self.symbols = self.symbols.saturating_sub(decoded);
        self.guesses > 0 && self.symbols > 0
    }
}

/// Bytes searched for a block: data without any (stored blocks) must not cost more than it would
/// decoded in order.
const SEARCH_BYTES: usize = 512 << 10;
/// Bytes searched for members and flushes before blocks are tried.
const SIGN_BYTES: usize = 80 << 10;

/// Decodes as if nothing before `start` were referred to.
fn independent(
    start: Start,
    chunks: &[Chunk],
    stop: Option<u64>,
    mut buffers: Buffers,
) -> Result<Piece, Wrong> {
    let mut decoder = match start {
        Start::Block(bit) => Gzip::at_bit(bit),
        Start::Member(bit) => Gzip::at_member(bit / 8),
    };
    decoder.check_later();
    decoder.stop_at(stop);
    let mut plain = 0;
    // Whatever is wrong, the one that joins the pieces will meet it again.
    match known(&mut decoder, chunks, &mut buffers.plain, &mut plain) {
        Ok(()) => {
            let segments = decoder.segments();
            // Less than a window of output: what comes next could reach behind the start.
            let short = decoder.window().len() < WINDOW && matches!(start, Start::Block(_));
            if short {
                return Err(Wrong {
                    buffers,
                    decoded: plain,
                });
            }
            Ok(Piece {
                start,
                buffers,
                marked: 0,
                plain,
                segments,
                decoder,
                open: false,
                costs: Costs::default(),
            })
        }
        Err(_) => Err(Wrong {
            buffers,
            decoded: plain,
        }),
    }
}

/// Decodes with markers for what lies before `bit`, until a whole window is without them.
fn dependent(
    bit: u64,
    chunks: &[Chunk],
    stop: Option<u64>,
    mut buffers: Buffers,
) -> Result<Piece, Wrong> {
    markers::begin(&mut buffers.marked);
    let mut end = WINDOW;
    let begun = thread_cpu();
    match marked(bit, chunks, stop, &mut buffers.marked, &mut end) {
        Ok((mut decoder, open)) => {
            let first_stage = thread_cpu().saturating_sub(begun);
            decoder.check_later();
            decoder.stop_at(stop);
            let mut plain = 0;
            if !open {
                // Both parts together have room for as much as one of them.
                let left = buffers.plain.len().saturating_sub(end - WINDOW);
                let to = &mut buffers.plain[..left];
                let done = known(&mut decoder, chunks, to, &mut plain);
                if done.is_err() {
                    return Err(Wrong {
                        buffers,
                        decoded: end - WINDOW + plain,
                    });
                }
            }
            let segments = decoder.segments();
            Ok(Piece {
                start: Start::Block(bit),
                buffers,
                marked: end - WINDOW,
                plain,
                segments,
                decoder,
                open,
                costs: Costs {
                    first_stage,
                    ..Costs::default()
                },
            })
        }
        Err(_) => Err(Wrong {
            buffers,
            decoded: end - WINDOW,
        }),
    }
}

/// The first stage, to `buf[..end]`: the decoder behind it, and whether markers may remain.
fn marked(
    bit: u64,
    chunks: &[Chunk],
    stop: Option<u64>,
    buf: &mut [u16],
    end: &mut usize,
) -> Result<(Gzip, bool), Fault> {
    let (mut blocks, mut bits) = (Blocks::default(), Bits::default());
    let mut read = bit / 8;
    let mut looked = *end;
    let mut skip = u32::from((bit % 8).to_le_bytes()[0]);
    loop {
        let input = chunks.iter().find_map(|c| c.from(read));
        let ended = input.is_none();
        let input = input.unwrap_or_default();
        let mut at = 0;
        if skip > 0 {
            if bits.take(skip, input, &mut at).is_none() {
                return Err(Fault::NoSuchCode);
            }
            skip = 0;
        }
        let full = *end == buf.len();
        let limit = (*end + STEP).min(buf.len());
        let mut out = Out {
            buf: &mut buf[..limit],
            pos: *end,
            history: &[],
        };
        let status = blocks.run(&mut bits, input, &mut at, &mut out);
        *end = out.pos;
        read += at as u64;
        let here = |blocks, bits| Gzip::inside(blocks, bits, read);
        match status? {
            Status::StreamEnd => {
                let mut decoder = here(blocks, bits);
                decoder.end_body();
                return Ok((decoder, false));
            }
            Status::NeedInput if ended => return Ok((here(blocks, bits), true)),
            Status::NeedOutput if full => return Ok((here(blocks, bits), true)),
            Status::BlockEnd
                if stop.is_some_and(|stop| read * 8 - u64::from(bits.left) >= stop) =>
            {
                return Ok((here(blocks, bits), true));
            }
            _ => {}
        }
        if *end - looked >= STEP / 2 {
            looked = *end;
            if let Some(window) = markers::window(&buf[..*end]) {
                let mut decoder = here(blocks, bits);
                decoder.set_window(&window);
                return Ok((decoder, false));
            }
        }
    }
}
