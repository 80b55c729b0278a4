//! Decoding tables for Huffman codes (RFC 1951, 3.2).
//!
//! One look-up by the next bits of the input gives all there is to know of a symbol, packed into
//! 32 bits. Codes longer than the table's index go on in a second table behind it.

use std::sync::OnceLock;

/// A literal: its byte is in bits 16 to 23.
pub(super) const LITERAL: u32 = 1 << 31;
/// Anything but a literal, a length or a distance.
pub(super) const SPECIAL: u32 = 1 << 15;
/// With `SPECIAL`: the code goes on in the table at bits 16 to 27, of 2^(bits 8 to 11) entries.
pub(super) const MORE: u32 = 1 << 14;
/// With `SPECIAL`: the end of the block. Neither of these two: no such code.
pub(super) const END: u32 = 1 << 13;

pub(super) const LITLEN_BITS: u32 = 11;
pub(super) const DIST_BITS: u32 = 9;
const PRECODE_BITS: u32 = 7;

// The most entries any code can need are 2342, 594 and 128 (zlib's `enough` computes them); a
// power of two lets the compiler see that no index is out of bounds.
pub(super) const LITLEN_SIZE: usize = 4096;
pub(super) const DIST_SIZE: usize = 1024;
pub(super) const PRECODE_SIZE: usize = 128;

const LITLENS: usize = 288;
const DISTS: usize = 32;
const LONGEST: usize = 15;

/// Bits that an entry consumes, code and extra bits together: 0 to 5.
#[inline]
pub(super) fn total_bits(entry: u32) -> u32 {
    entry & 63
}

/// Bits of the code alone: 8 to 11.
#[inline]
pub(super) fn code_bits(entry: u32) -> u32 {
    entry >> 8 & 15
}

/// A length's or distance's base, or the index of a second table.
#[inline]
pub(super) fn base(entry: u32) -> usize {
    (entry >> 16 & 0x7fff) as usize
}

/// A literal's byte, or a code length.
#[inline]
pub(super) fn byte(entry: u32) -> u8 {
    (entry >> 16 & 0xff) as u8
}

/// The two codes of a block.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) litlen: [u32; LITLEN_SIZE],
    pub(super) dist: [u32; DIST_SIZE],
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tables")
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            litlen: [SPECIAL; LITLEN_SIZE],
            dist: [SPECIAL; DIST_SIZE],
        }
    }
}

/// What is wrong with a set of code lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum BadCode {
    TooMany,
    TooFew,
}

impl Tables {
    /// The code of blocks that bring none (3.2.6).
    pub(super) fn fixed() -> &'static Self {
        static FIXED: OnceLock<Box<Tables>> = OnceLock::new();
        FIXED.get_or_init(|| {
            let mut lens = [8; LITLENS + DISTS];
            lens[144..256].fill(9);
            lens[256..280].fill(7);
            lens[LITLENS..].fill(5);
            let mut tables = Box::<Self>::default();
            // Complete codes by definition.
            let built = tables.build(&lens, LITLENS);
            debug_assert!(built.is_ok());
            tables
        })
    }

    /// Builds both from the code lengths of a block, of which `litlens` are of the first code.
    pub(super) fn build(&mut self, lens: &[u8], litlens: usize) -> Result<(), BadCode> {
        let (litlens, dists) = lens.split_at(litlens);
        build(litlens, &mut self.litlen, LITLEN_BITS, true, litlen_entry)?;
        build(dists, &mut self.dist, DIST_BITS, true, dist_entry)
    }
}

/// Builds the table of the code that code lengths are written in.
pub(super) fn build_precode(
    lens: &[u8; 19],
    table: &mut [u32; PRECODE_SIZE],
) -> Result<(), BadCode> {
    build(lens, table, PRECODE_BITS, false, |symbol| symbol << 16)
}

/// Entries without their code's length: extra bits in the low byte.
fn litlen_entry(symbol: u32) -> u32 {
    match symbol {
        0..=255 => LITERAL | symbol << 16,
        256 => SPECIAL | END,
        257..=264 => (symbol - 254) << 16,
        265..=284 => {
            let extra = (symbol - 261) / 4;
            (((4 + (symbol - 265) % 4) << extra) + 3) << 16 | extra
        }
        285 => 258 << 16,
        _ => SPECIAL,
    }
}

fn dist_entry(symbol: u32) -> u32 {
    match symbol {
        0..=3 => (symbol + 1) << 16,
        4..=29 => {
            let extra = symbol / 2 - 1;
            (((2 + symbol % 2) << extra) + 1) << 16 | extra
        }
        _ => SPECIAL,
    }
}

/// The next code word of `len` bits in canonical order, least significant bit first.
#[inline]
fn next_code(code: usize, len: usize) -> Option<usize> {
    let zeros = !code & ((1 << len) - 1);
    let bit = 1 << zeros.checked_ilog2()?;
    Some(code & (bit - 1) | bit)
}

/// Fills `table` for the canonical code with these lengths.
///
/// Like zlib's, a code must be complete; one with a single word of one bit may pass, and one
/// without any, if `lone`: their unused words then decode to "no such code".
fn build(
    lens: &[u8],
    table: &mut [u32],
    bits: u32,
    lone: bool,
    entry: impl Fn(u32) -> u32,
) -> Result<(), BadCode> {
    let mut count = [0_usize; LONGEST + 1];
    for &len in lens {
        count[usize::from(len)] += 1;
    }
    count[0] = 0;
    let longest = (1..=LONGEST).rev().find(|&len| count[len] > 0).unwrap_or(0);
    let mut free = 1_i32;
    for &n in &count[1..] {
        free = (free << 1) - i32::try_from(n).unwrap_or(i32::MAX / 2);
        if free < 0 {
            return Err(BadCode::TooMany);
        }
    }
    if free > 0 {
        if !lone || longest > 1 {
            return Err(BadCode::TooFew);
        }
        table[..1 << bits].fill(SPECIAL | 1 << 8 | 1);
        for (symbol, _) in (0..).zip(lens).filter(|(_, len)| **len == 1) {
            let entry = entry(symbol) + (1 << 8 | 1);
            table[..1 << bits]
                .iter_mut()
                .step_by(2)
                .for_each(|e| *e = entry);
        }
        return Ok(());
    }
    // Symbols in the order of their codes: by length, then by value.
    let mut starts = [0; LONGEST + 2];
    for len in 1..=LONGEST {
        starts[len + 1] = starts[len] + count[len];
    }
    let mut sorted = [0_u16; LITLENS];
    for (symbol, &len) in (0_u16..).zip(lens) {
        if len > 0 {
            let at = &mut starts[usize::from(len)];
            sorted[*at] = symbol;
            *at += 1;
        }
    }
    let index_bits = bits as usize;
    let mut symbols = sorted.iter().map(|&s| u32::from(s));
    let mut code = 0;
    // Short codes: the table is filled up to 2^len and doubles with each length.
    for (len, &of_len) in count
        .iter()
        .enumerate()
        .take(longest.min(index_bits) + 1)
        .skip(1)
    {
        if len > 1 {
            table.copy_within(0..1 << (len - 1), 1 << (len - 1));
        }
        for symbol in symbols.by_ref().take(of_len) {
            table[code] = entry(symbol) + code_len(len);
            match next_code(code, len) {
                Some(next) => code = next,
                None => {
                    // The last word of the code: repeat to the table's end.
                    for wider in len..index_bits {
                        table.copy_within(0..1 << wider, 1 << wider);
                    }
                    return Ok(());
                }
            }
        }
    }
    // Long codes: second tables behind the first one.
    let (mut end, mut start, mut prefix, mut sub_bits) = (1 << index_bits, 0, usize::MAX, 0);
    for len in index_bits + 1..=longest {
        let mut left = count[len];
        for symbol in symbols.by_ref().take(count[len]) {
            let low = code & ((1 << index_bits) - 1);
            if low != prefix {
                prefix = low;
                // As wide as the codes with this prefix are long.
                sub_bits = len - index_bits;
                let mut words = left;
                while words < 1 << sub_bits && sub_bits + index_bits < longest {
                    sub_bits += 1;
                    words = (words << 1) + count[sub_bits + index_bits];
                }
                start = end;
                end += 1 << sub_bits;
                let link = u32::try_from(start).unwrap_or(u32::MAX) << 16;
                table[low] = SPECIAL | MORE | link | code_len(sub_bits) & 0xf00 | bits;
            }
            let entry = entry(symbol) + code_len(len - index_bits);
            let step = 1 << (len - index_bits);
            for at in (start + (code >> index_bits)..start + (1 << sub_bits)).step_by(step) {
                table[at] = entry;
            }
            left -= 1;
            match next_code(code, len) {
                Some(next) => code = next,
                None => return Ok(()),
            }
        }
    }
    Ok(())
}

/// A code's length where [`total_bits`] and [`code_bits`] look for it.
fn code_len(len: usize) -> u32 {
    // At most 15.
    let len = u32::from(len.to_le_bytes()[0]);
    len << 8 | len
}
