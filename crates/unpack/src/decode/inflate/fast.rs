//! The inner loop: symbols while neither input nor output is near its end.
//!
//! The only unchecked code of the decoder. What it relies on is asserted on entry, and the slow
//! path in `block.rs` decodes the same symbols one by one near the ends.
//!
//! Ideas from libdeflate: entries that hold code length and extra bits together, a refill by one
//! unaligned load, copies by whole words past a match's end, the next look-up begun before the
//! copy of a match.
#![allow(unsafe_code)]

use super::{
    bits::Bits,
    out::{Out, Symbol},
    tables::{
        DIST_BITS, DIST_SIZE, END, LITERAL, LITLEN_BITS, LITLEN_SIZE, MORE, SPECIAL, Tables, base,
        byte, code_bits, total_bits,
    },
};

/// Input bytes that must be left: a round takes at most 14 and looks at 8 more.
pub(super) const INPUT_MARGIN: usize = 32;
/// Symbols of output that must be left: literals, a match, and what a copy by words writes beyond
/// it.
pub(super) const OUTPUT_MARGIN: usize = 4 + 258 + 64;

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Input or output is near its end.
    Margin,
    /// The end-of-block code was read.
    EndOfBlock,
    /// Bits that are no code. They are consumed.
    NoSuchCode,
    /// A match of this distance begins before all output.
    TooFar(usize),
}

/// Where the loop is. In one place, so that all but the head of it stays out of registers.
struct Raw<'a, T> {
    next: *const u8,
    /// The last place with INPUT_MARGIN bytes behind it.
    input_last: *const u8,
    to: *mut T,
    /// The last place with OUTPUT_MARGIN symbols behind it.
    to_last: *mut T,
    start: *mut T,
    buf: u64,
    /// Only the low 6 bits count.
    left: u32,
    history: &'a [T],
}

/// Decodes symbols from `input[*at..]` to `out`.
pub(super) fn run<T: Symbol>(
    tables: &Tables,
    bits: &mut Bits,
    input: &[u8],
    at: &mut usize,
    out: &mut Out<'_, T>,
) -> Stop {
    assert!(*at <= input.len() && out.pos <= out.buf.len());
    if input.len() - *at < INPUT_MARGIN || out.buf.len() - out.pos < OUTPUT_MARGIN {
        return Stop::Margin;
    }
    let (from, start) = (input.as_ptr(), out.buf.as_mut_ptr());
    // SAFETY: all within the slices, as just checked.
    let mut raw = unsafe {
        Raw {
            next: from.add(*at),
            input_last: from.add(input.len() - INPUT_MARGIN),
            to: start.add(out.pos),
            to_last: start.add(out.buf.len() - OUTPUT_MARGIN),
            start,
            buf: bits.buf,
            left: bits.left,
            history: out.history,
        }
    };
    #[cfg(target_arch = "x86_64")]
    let stop = if bmi2() {
        // SAFETY: the CPU has been found to have what it needs; `raw` is as `any` wants it.
        unsafe { run_bmi2(tables, &mut raw) }
    } else {
        // SAFETY: `raw` is as `any` wants it.
        unsafe { any::<T, false>(tables, &mut raw) }
    };
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: `raw` is as `any` wants it.
    let stop = unsafe { any::<T, false>(tables, &mut raw) };
    // SAFETY: both pointers have stayed within their slices.
    unsafe {
        *at = raw.next.offset_from_unsigned(from);
        out.pos = raw.to.offset_from_unsigned(start);
    }
    // Whole bytes go back to the input, but for those that came in as bits of earlier input.
    let left = raw.left & 63;
    let back = (left / 8).min(u32::try_from(*at).unwrap_or(8));
    *at -= back as usize;
    let left = left - back * 8;
    *bits = Bits {
        buf: raw.buf & Bits::mask(left),
        left,
    };
    stop
}

#[cfg(target_arch = "x86_64")]
fn bmi2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("bmi1") && has!("bmi2") && has!("avx2")
}

/// # Safety
/// As for [`any`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi1,bmi2,avx2")]
unsafe fn run_bmi2<T: Symbol>(tables: &Tables, raw: &mut Raw<'_, T>) -> Stop {
    // SAFETY: the caller's word.
    unsafe { any::<T, true>(tables, raw) }
}

#[inline]
fn litlen(tables: &Tables, at: usize) -> u32 {
    tables.litlen[at & (LITLEN_SIZE - 1)]
}

#[inline]
fn dist(tables: &Tables, at: usize) -> u32 {
    tables.dist[at & (DIST_SIZE - 1)]
}

/// A length or distance: the entry's base and the extra bits behind its code in `bits`.
#[allow(clippy::cast_possible_truncation)] // At most 28 bits are left of it.
#[inline(always)]
fn value<const BMI2: bool>(entry: u32, bits: u64) -> usize {
    #[cfg(target_arch = "x86_64")]
    if BMI2 {
        // SAFETY: BMI2 is only true in `run_bmi2`, which has it.
        let code = unsafe { std::arch::x86_64::_bzhi_u64(bits, entry) };
        return (entry >> 16) as usize + code.wrapping_shr(entry >> 8) as usize;
    }
    let code = bits & Bits::mask(total_bits(entry));
    (entry >> 16) as usize + (code >> code_bits(entry)) as usize
}

/// The loop.
///
/// A round begins with `next` at most at `input_last` and `to` at most at `to_last`. It reads
/// 8 bytes at most twice, each time moving on by at most 7, and writes at most three literals and
/// a match, or four literals, and what the copy of a match writes beyond it.
///
/// # Safety
/// The pointers of `raw` must be into one slice of input and one of output, each `next` and `to`
/// not beyond the place described, `start` being the start of the output, all of it initialised.
/// `BMI2` only where the CPU has it.
#[inline(always)]
unsafe fn any<T: Symbol, const BMI2: bool>(tables: &Tables, raw: &mut Raw<'_, T>) -> Stop {
    let Raw {
        mut next,
        mut to,
        mut buf,
        mut left,
        ..
    } = *raw;

    // At least 56 bits afterwards. Bits above `left` may be set: they are the right ones, and
    // come again.
    macro_rules! refill {
        () => {
            // SAFETY: at most twice a round, see above.
            let word = u64::from_le(unsafe { next.cast::<u64>().read_unaligned() });
            buf |= word.wrapping_shl(left);
            // SAFETY: at most 7 bytes on.
            next = unsafe { next.add((!left >> 3 & 7) as usize) };
            left |= 56;
        };
    }
    // Shifts take the low 6 bits of an entry, which are the count: no need to mask it.
    macro_rules! consume {
        ($entry:expr) => {
            buf = buf.wrapping_shr($entry);
            left = left.wrapping_sub($entry);
        };
    }
    macro_rules! literal {
        ($entry:expr) => {
            // SAFETY: at most four times a round, see above.
            unsafe {
                to.write(T::literal(byte($entry)));
                to = to.add(1);
            }
        };
    }

    refill!();
    let mut entry = litlen(tables, Bits::low(buf, LITLEN_BITS));
    // At the head of a round at least 56 bits are held, `entry` is looked up and not consumed.
    let stop = loop {
        if next > raw.input_last || to > raw.to_last {
            break Stop::Margin;
        }
        let mut saved = buf;
        consume!(entry);
        // Three literals take at most 33 bits, another code with its extra bits 20: of 56.
        if entry & LITERAL != 0 {
            literal!(entry);
            entry = litlen(tables, Bits::low(buf, LITLEN_BITS));
            saved = buf;
            consume!(entry);
            if entry & LITERAL != 0 {
                literal!(entry);
                entry = litlen(tables, Bits::low(buf, LITLEN_BITS));
                saved = buf;
                consume!(entry);
                if entry & LITERAL != 0 {
                    literal!(entry);
                    entry = litlen(tables, Bits::low(buf, LITLEN_BITS));
                    saved = buf;
                    consume!(entry);
                    if entry & LITERAL != 0 {
                        literal!(entry);
                        refill!();
                        entry = litlen(tables, Bits::low(buf, LITLEN_BITS));
                        continue;
                    }
                }
            }
        }
        if entry & SPECIAL != 0 {
            if entry & MORE != 0 {
                entry = litlen(tables, base(entry) + Bits::low(buf, code_bits(entry)));
                saved = buf;
                consume!(entry);
                if entry & LITERAL != 0 {
                    literal!(entry);
                    refill!();
                    entry = litlen(tables, Bits::low(buf, LITLEN_BITS));
                    continue;
                }
            }
            if entry & END != 0 {
                break Stop::EndOfBlock;
            }
            if entry & SPECIAL != 0 {
                break Stop::NoSuchCode;
            }
        }
        let length = value::<BMI2>(entry, saved);
        refill!();
        entry = dist(tables, Bits::low(buf, DIST_BITS));
        if entry & SPECIAL != 0 {
            consume!(entry);
            if entry & MORE != 0 {
                entry = dist(tables, base(entry) + Bits::low(buf, code_bits(entry)));
            }
            if entry & SPECIAL != 0 {
                consume!(entry);
                break Stop::NoSuchCode;
            }
        }
        let saved = buf;
        consume!(entry);
        let distance = value::<BMI2>(entry, saved);
        // Looked up before the copy, which takes its time.
        refill!();
        entry = litlen(tables, Bits::low(buf, LITLEN_BITS));
        // SAFETY: both point into `buf`, `to` never before `start`.
        let done = unsafe { to.offset_from_unsigned(raw.start) };
        if distance > done {
            if distance > done + raw.history.len() {
                break Stop::TooFar(distance);
            }
            // SAFETY: there is room for a match and more.
            let room = unsafe { std::slice::from_raw_parts_mut(raw.start, done + length) };
            from_history(room, done, raw.history, distance);
        } else {
            // SAFETY: `distance` is at least 1 and at most `done`: the source lies in what is
            // written already; there is room for the match and 64 symbols.
            unsafe { copy(to, distance, length) };
        }
        // SAFETY: as above.
        to = unsafe { to.add(length) };
    };
    (raw.next, raw.to, raw.buf, raw.left) = (next, to, buf, left);
    stop
}

/// A match that begins before the buffer.
#[cold]
#[inline(never)]
fn from_history<T: Symbol>(room: &mut [T], done: usize, history: &[T], distance: usize) {
    super::out::copy_match(room, done, history, distance);
}

/// Copies a match of `length` symbols to `to` from `distance` symbols before it.
///
/// # Safety
/// `distance` symbols before `to` must be initialised and `length + 64` from it writable, of one
/// allocation.
#[inline(always)]
unsafe fn copy<T: Symbol>(to: *mut T, distance: usize, length: usize) {
    let size = size_of::<T>();
    let mut to = to.cast::<u8>();
    let (gap, bytes) = (distance * size, length * size);
    // SAFETY: see above; steps of 32 or 16 bytes run over by less than 64 symbols. Source and
    // target of one step never overlap: each is at most `gap` bytes long, but for the short
    // distances, which go through a register.
    unsafe {
        let end = to.add(bytes);
        let mut from = to.cast_const().sub(gap);
        if gap >= 32 {
            loop {
                std::ptr::copy_nonoverlapping(from, to, 32);
                to = to.add(32);
                if to >= end {
                    return;
                }
                from = from.add(32);
            }
        }
        if gap >= 16 {
            loop {
                to.cast::<u128>()
                    .write_unaligned(from.cast::<u128>().read_unaligned());
                to = to.add(16);
                if to >= end {
                    return;
                }
                from = from.add(16);
            }
        }
        if gap == 1 {
            let word = u128::from_ne_bytes([from.read(); 16]);
            loop {
                to.cast::<u128>().write_unaligned(word);
                to = to.add(16);
                if to >= end {
                    return;
                }
            }
        }
        if gap >= 8 {
            loop {
                to.cast::<u64>()
                    .write_unaligned(from.cast::<u64>().read_unaligned());
                to = to.add(8);
                if to >= end {
                    return;
                }
                from = from.add(8);
            }
        }
        // Each step makes `gap` more bytes right; what it writes beyond is overwritten.
        loop {
            to.cast::<u64>()
                .write_unaligned(from.cast::<u64>().read_unaligned());
            to = to.add(gap);
            if to >= end {
                return;
            }
            from = from.add(gap);
        }
    }
}
