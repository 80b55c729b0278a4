//! Deflate blocks (RFC 1951, 3.2.3), resumable after any byte of input or output.

use super::{
    bits::Bits,
    fast::{self, Stop},
    out::{Out, Symbol},
    tables::{
        self, BadCode, DIST_BITS, END, LITERAL, LITLEN_BITS, MORE, PRECODE_SIZE, SPECIAL, Tables,
        base, byte, code_bits, total_bits,
    },
};

/// Order in which the lengths of the precode are stored (3.2.7).
const PRECODE_ORDER: [u8; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// What is wrong with a deflate stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum Fault {
    BlockType,
    StoredLength,
    TooManyCodes,
    Code(&'static str, BadCode),
    NoEnd,
    Repeat,
    NoSuchCode,
    TooFar(usize),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BlockType => f.write_str("unknown block type"),
            Self::StoredLength => f.write_str("damaged length of a stored block"),
            Self::TooManyCodes => f.write_str("too many length or distance codes"),
            Self::Code(what, BadCode::TooMany) => write!(f, "over-subscribed {what} code"),
            Self::Code(what, BadCode::TooFew) => write!(f, "incomplete {what} code"),
            Self::NoEnd => f.write_str("a code without an end of block"),
            Self::Repeat => f.write_str("a code length repeated before the first or past the last"),
            Self::NoSuchCode => f.write_str("bits that are no code"),
            Self::TooFar(n) => write!(f, "a match {n} bytes back, before the first byte"),
        }
    }
}

/// Why [`Blocks::run`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum Status {
    /// All input is used, or held as bits.
    NeedInput,
    /// The output is full, and there may be more.
    NeedOutput,
    /// A block has ended and another follows.
    BlockEnd,
    /// The last block has ended.
    StreamEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    StoredLength,
    Stored(usize),
    Counts,
    Precode(usize),
    Lengths(usize),
    Symbols,
    Match { length: usize, distance: usize },
    End,
}

/// Which code a block uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Fixed,
    Own,
}

/// Decodes the blocks of one deflate stream.
#[derive(Debug)]
pub(in crate::decode) struct Blocks {
    state: State,
    code: Code,
    last: bool,
    litlens: usize,
    dists: usize,
    precodes: usize,
    precode_lens: [u8; 19],
    precode: [u32; PRECODE_SIZE],
    lens: [u8; 320],
    tables: Box<Tables>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self {
            state: State::Head,
            code: Code::Own,
            last: false,
            litlens: 0,
            dists: 0,
            precodes: 0,
            precode_lens: [0; 19],
            precode: [SPECIAL; PRECODE_SIZE],
            lens: [0; 320],
            tables: Box::default(),
        }
    }
}

/// Gives back `Status::NeedInput` from the calling function unless there are bits.
macro_rules! take {
    ($bits:expr, $n:expr, $input:expr, $at:expr) => {
        match $bits.take($n, $input, $at) {
            Some(value) => value,
            None => return Ok(Some(Status::NeedInput)),
        }
    };
}

impl Blocks {
    /// Back to the start of a stream.
    pub(in crate::decode) fn reset(&mut self) {
        self.state = State::Head;
        self.last = false;
    }

    /// Between two blocks or before the first.
    pub(in crate::decode) fn at_boundary(&self) -> bool {
        self.state == State::Head
    }

    /// Decodes until one of the reasons of [`Status`].
    pub(in crate::decode) fn run<T: Symbol>(
        &mut self,
        bits: &mut Bits,
        input: &[u8],
        at: &mut usize,
        out: &mut Out<'_, T>,
    ) -> Result<Status, Fault> {
        loop {
            if let Some(status) = self.step(bits, input, at, out)? {
                return Ok(status);
            }
        }
    }

    /// One state's work; `None` to go on with the next one.
    fn step<T: Symbol>(
        &mut self,
        bits: &mut Bits,
        input: &[u8],
        at: &mut usize,
        out: &mut Out<'_, T>,
    ) -> Result<Option<Status>, Fault> {
        match self.state {
            State::Head => {
                let head = take!(bits, 3, input, at);
                self.last = head & 1 != 0;
                self.state = match head >> 1 {
                    0 => {
                        bits.align();
                        State::StoredLength
                    }
                    1 => {
                        self.code = Code::Fixed;
                        State::Symbols
                    }
                    2 => State::Counts,
                    _ => return Err(Fault::BlockType),
                };
            }
            State::StoredLength => {
                let pair = take!(bits, 32, input, at);
                let (length, check) = (pair & 0xffff, pair >> 16);
                if length != !check & 0xffff {
                    return Err(Fault::StoredLength);
                }
                self.state = State::Stored(length as usize);
            }
            State::Stored(0) => return Ok(Some(self.block_end())),
            State::Stored(left) => {
                if out.room() == 0 {
                    return Ok(Some(Status::NeedOutput));
                }
                let n = stored(left, bits, input, at, out);
                if n == 0 {
                    return Ok(Some(Status::NeedInput));
                }
                self.state = State::Stored(left - n);
            }
            State::Counts => {
                let counts = take!(bits, 14, input, at) as usize;
                self.litlens = (counts & 31) + 257;
                self.dists = (counts >> 5 & 31) + 1;
                self.precodes = (counts >> 10) + 4;
                if self.litlens > 286 || self.dists > 30 {
                    return Err(Fault::TooManyCodes);
                }
                self.precode_lens = [0; 19];
                self.state = State::Precode(0);
            }
            State::Precode(i) if i == self.precodes => {
                tables::build_precode(&self.precode_lens, &mut self.precode)
                    .map_err(|e| Fault::Code("code length", e))?;
                self.state = State::Lengths(0);
            }
            State::Precode(i) => {
                let len = take!(bits, 3, input, at);
                self.precode_lens[usize::from(PRECODE_ORDER[i])] = (len & 7) as u8;
                self.state = State::Precode(i + 1);
            }
            State::Lengths(mut have) => {
                let whole = self.lengths(&mut have, bits, input, at)?;
                self.state = State::Lengths(have);
                if !whole {
                    return Ok(Some(Status::NeedInput));
                }
                if self.lens[256] == 0 {
                    return Err(Fault::NoEnd);
                }
                self.tables
                    .build(&self.lens[..self.litlens + self.dists], self.litlens)
                    .map_err(|e| Fault::Code("length or distance", e))?;
                self.code = Code::Own;
                self.state = State::Symbols;
            }
            State::Symbols => {
                if let Some(status) = self.symbols(bits, input, at, out)? {
                    return Ok(Some(status));
                }
            }
            State::Match { length, distance } => {
                let n = out.copy(distance, length);
                if n < length {
                    self.state = State::Match {
                        length: length - n,
                        distance,
                    };
                    return Ok(Some(Status::NeedOutput));
                }
                self.state = State::Symbols;
            }
            State::End => return Ok(Some(Status::StreamEnd)),
        }
        Ok(None)
    }

    /// Whether a block's head and codes can be read from here on, all of it in `input`.
    pub(super) fn description(&mut self, bits: &mut Bits, input: &[u8], at: &mut usize) -> bool {
        let mut none = Out::<u8> {
            buf: &mut [],
            pos: 0,
            history: &[],
        };
        loop {
            match self.step(bits, input, at, &mut none) {
                Ok(None) if self.state == State::Symbols => return true,
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => return false,
            }
        }
    }

    fn block_end(&mut self) -> Status {
        if self.last {
            self.state = State::End;
            return Status::StreamEnd;
        }
        self.state = State::Head;
        Status::BlockEnd
    }

    /// Reads code lengths; true once it has all.
    fn lengths(
        &mut self,
        have: &mut usize,
        bits: &mut Bits,
        input: &[u8],
        at: &mut usize,
    ) -> Result<bool, Fault> {
        let want = self.litlens + self.dists;
        while *have < want {
            if bits.left < 14 {
                bits.refill(input, at);
            }
            let entry = self.precode[Bits::low(bits.buf, 7)];
            let (len, symbol) = (total_bits(entry), byte(entry));
            let extra = match symbol {
                0..=15 => 0,
                16 => 2,
                17 => 3,
                _ => 7,
            };
            if bits.left < len + extra {
                return Ok(false);
            }
            bits.consume(len);
            let more = Bits::low(bits.buf, extra);
            bits.consume(extra);
            let (value, times) = match symbol {
                0..=15 => (symbol, 1),
                16 if *have == 0 => return Err(Fault::Repeat),
                16 => (self.lens[*have - 1], 3 + more),
                17 => (0, 3 + more),
                _ => (0, 11 + more),
            };
            if times > want - *have {
                return Err(Fault::Repeat);
            }
            self.lens[*have..*have + times].fill(value);
            *have += times;
        }
        Ok(true)
    }

    /// Symbols, fast where there is room, one by one near the ends.
    fn symbols<T: Symbol>(
        &mut self,
        bits: &mut Bits,
        input: &[u8],
        at: &mut usize,
        out: &mut Out<'_, T>,
    ) -> Result<Option<Status>, Fault> {
        let tables = match self.code {
            Code::Fixed => Tables::fixed(),
            Code::Own => &*self.tables,
        };
        match fast::run(tables, bits, input, at, out) {
            Stop::Margin => {}
            Stop::EndOfBlock => return Ok(Some(self.block_end())),
            Stop::NoSuchCode => return Err(Fault::NoSuchCode),
            Stop::TooFar(n) => return Err(Fault::TooFar(n)),
        }
        // Until the fast loop may run again, or to one of the ends.
        loop {
            bits.refill(input, at);
            let found = lookup(tables, bits)?;
            match found {
                None => return Ok(Some(Status::NeedInput)),
                Some(Found::End(n)) => {
                    bits.consume(n);
                    return Ok(Some(self.block_end()));
                }
                // Only a symbol that produces something needs room.
                Some(_) if out.room() == 0 => return Ok(Some(Status::NeedOutput)),
                Some(Found::Literal(byte, n)) => {
                    bits.consume(n);
                    out.push(byte);
                }
                Some(Found::Match(length, distance, n)) => {
                    if !out.reaches(distance) {
                        return Err(Fault::TooFar(distance));
                    }
                    bits.consume(n);
                    let copied = out.copy(distance, length);
                    if copied < length {
                        self.state = State::Match {
                            length: length - copied,
                            distance,
                        };
                        return Ok(Some(Status::NeedOutput));
                    }
                }
            }
            if out.room() >= fast::OUTPUT_MARGIN && input.len() - *at >= fast::INPUT_MARGIN {
                return Ok(None);
            }
        }
    }
}

/// A symbol and its bits.
enum Found {
    Literal(u8, u32),
    Match(usize, usize, u32),
    End(u32),
}

/// The next symbol, distance included; `None` if the bits held do not suffice.
fn lookup(tables: &Tables, bits: &Bits) -> Result<Option<Found>, Fault> {
    let (mut buf, mut used) = (bits.buf, 0);
    let mut read = |table: &[u32], index_bits: u32| {
        let mut entry = table[Bits::low(buf, index_bits)];
        if entry & (LITERAL | SPECIAL | MORE) == SPECIAL | MORE {
            buf >>= total_bits(entry);
            used += total_bits(entry);
            entry = table[base(entry) + Bits::low(buf, code_bits(entry))];
        }
        let value = Bits::low(buf, total_bits(entry)) >> code_bits(entry);
        buf >>= total_bits(entry);
        used += total_bits(entry);
        (entry, value, used)
    };
    let (entry, extra, n) = read(&tables.litlen, LITLEN_BITS);
    if n > bits.left {
        return Ok(None);
    }
    if entry & LITERAL != 0 {
        return Ok(Some(Found::Literal(byte(entry), n)));
    }
    if entry & END != 0 {
        return Ok(Some(Found::End(n)));
    }
    if entry & SPECIAL != 0 {
        return Err(Fault::NoSuchCode);
    }
    let length = base(entry) + extra;
    let (entry, extra, n) = read(&tables.dist, DIST_BITS);
    if n > bits.left {
        return Ok(None);
    }
    if entry & SPECIAL != 0 {
        return Err(Fault::NoSuchCode);
    }
    Ok(Some(Found::Match(length, base(entry) + extra, n)))
}

/// Copies bytes of a stored block, those held as bits first; how many.
fn stored<T: Symbol>(
    left: usize,
    bits: &mut Bits,
    input: &[u8],
    at: &mut usize,
    out: &mut Out<'_, T>,
) -> usize {
    let most = left.min(out.room());
    let mut n = 0;
    while n < most && bits.left > 0 {
        out.push((bits.buf & 0xff) as u8);
        bits.consume(8);
        n += 1;
    }
    let direct = (most - n).min(input.len() - *at);
    T::stored(
        &mut out.buf[out.pos..out.pos + direct],
        &input[*at..*at + direct],
    );
    out.pos += direct;
    *at += direct;
    n + direct
}
