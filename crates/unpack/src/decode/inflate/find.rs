//! Finds where a block may begin in the middle of a deflate stream.
//!
//! A block with codes of its own starts with a description so redundant that hardly anything
//! else looks like one: counts in range, a complete code for the code lengths, and two codes that
//! are complete again. That is tried at every bit; cheap checks come first.

use super::{bits::Bits, block::Blocks};

/// `WEIGHTS[w]`: the code space that the four 3-bit code lengths in `w` take, in 128ths.
const WEIGHTS: [u16; 4096] = {
    let mut table = [0; 4096];
    let mut w = 0;
    while w < 4096 {
        let mut shift = 0;
        while shift < 12 {
            let len = w >> shift & 7;
            if len > 0 {
                table[w] += 128 >> len;
            }
            shift += 3;
        }
        w += 1;
    }
    table
};

/// The next 64 bits at bit `at`; zeros behind the end.
fn word(input: &[u8], at: usize) -> u64 {
    let byte = at / 8;
    let read = |from: usize| match input.get(from..).and_then(<[u8]>::first_chunk) {
        Some(word) => u64::from_le_bytes(*word),
        None => {
            let mut word = [0; 8];
            let rest = input.get(from..).unwrap_or_default();
            word[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(word)
        }
    };
    let shift = at % 8;
    let low = read(byte) >> shift;
    if shift == 0 {
        return low;
    }
    let next = input.get(byte + 8).copied().unwrap_or_default();
    low | u64::from(next) << (64 - shift)
}

/// Whether the code lengths' code at `at` (behind the counts) is complete: `count` times 3 bits.
fn complete_precode(input: &[u8], at: usize, count: u32) -> bool {
    let bits = word(input, at) & Bits::mask(count * 3);
    let weight = |shift: u32| WEIGHTS[Bits::low(bits >> shift, 12)];
    weight(0) + weight(12) + weight(24) + weight(36) + weight(48) == 128
}

/// The first bit in `from..to` at which a block with codes of its own may begin, not the last of
/// its stream.
pub(in crate::decode) fn block(
    input: &[u8],
    from: usize,
    to: usize,
    blocks: &mut Blocks,
) -> Option<usize> {
    let mut at = from;
    while at < to.min(input.len() * 8) {
        // Eight places or what is left of this byte at a time.
        let next = (at / 8 + 1) * 8;
        let mut bits = word(input, at);
        while at < next {
            let counts = bits >> 3;
            if bits & 7 == 4 && counts & 31 <= 29 && counts >> 5 & 31 <= 29 {
                let precodes = u32::try_from(counts >> 10 & 15).unwrap_or(0) + 4;
                if complete_precode(input, at + 17, precodes) && header(input, at, blocks) {
                    return (at < to).then_some(at);
                }
            }
            bits >>= 1;
            at += 1;
        }
    }
    None
}

/// Whether a block's whole description can be read here.
fn header(input: &[u8], at: usize, blocks: &mut Blocks) -> bool {
    let mut bits = Bits::default();
    let mut byte = at / 8;
    bits.refill(input, &mut byte);
    if bits.left < 8 {
        return false;
    }
    bits.consume(u32::from((at % 8).to_le_bytes()[0]));
    blocks.reset();
    blocks.description(&mut bits, input, &mut byte)
}

/// Where a member or an independent block may begin: the byte behind a flush's empty stored block
/// (as `Z_FULL_FLUSH` and `pigz -i` write them), or a member's header. Both are mere guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) enum Sign {
    Flush(usize),
    Member(usize),
}

/// The first sign in `input[from..to]`.
pub(in crate::decode) fn sign(input: &[u8], from: usize, to: usize) -> Option<Sign> {
    let to = to.min(input.len());
    input
        .get(from..to)?
        .windows(4)
        .enumerate()
        .find_map(|(i, w)| {
            let at = from + i;
            match *w {
                [0, 0, 0xff, 0xff] => Some(Sign::Flush(at + 4)),
                [0x1f, 0x8b, 8, flags] if flags & 0xe0 == 0 => Some(Sign::Member(at)),
                _ => None,
            }
        })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn blocks_are_found_where_they_begin() {
        // Text that grows more varied, so that the encoder starts new blocks.
        let text: Vec<u8> = (0..400_000_u32)
            .flat_map(|i| format!("{:x} ", i.wrapping_mul(i >> 3)).into_bytes())
            .collect();
        let mut w = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
        w.write_all(&text).unwrap();
        let deflate = w.finish().unwrap();
        let mut blocks = Blocks::default();
        let (mut at, mut found) = (0, Vec::new());
        while let Some(bit) = block(&deflate, at, usize::MAX, &mut blocks) {
            found.push(bit);
            at = bit + 1;
        }
        // Where the blocks truly begin.
        let mut truth = vec![0_usize];
        let (mut bits, mut read, mut buf) = (Bits::default(), 0, vec![0_u8; text.len() + 300]);
        let mut blocks = Blocks::default();
        let mut out = super::super::Out {
            buf: &mut buf[..],
            pos: 0,
            history: &[],
        };
        while let Ok(super::super::Status::BlockEnd) =
            blocks.run(&mut bits, &deflate, &mut read, &mut out)
        {
            truth.push(read * 8 - bits.left as usize);
        }
        // The last block is not looked for.
        truth.pop();
        assert!(truth.len() > 10, "{}", truth.len());
        assert_eq!(found, truth);
    }

    #[test]
    fn signs() {
        let data = [9, 9, 0, 0, 0xff, 0xff, 0x1f, 0x8b, 8, 0, 7];
        assert_eq!(sign(&data, 0, 99), Some(Sign::Flush(6)));
        assert_eq!(sign(&data, 6, 99), Some(Sign::Member(6)));
        assert_eq!(sign(&data, 7, 99), None);
    }
}
