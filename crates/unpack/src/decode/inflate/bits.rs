//! The bit accumulator: deflate packs its codes from the least significant bit of each byte.

/// Bits taken from the input and not consumed yet. Those above `left` are zero.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) struct Bits {
    pub(in crate::decode) buf: u64,
    pub(in crate::decode) left: u32,
}

impl Bits {
    /// Most bits that [`Bits::refill`] can always provide while there is input.
    pub(super) const MOST: u32 = 56;

    /// The low `n` bits set; `n` below 64.
    #[inline]
    pub(super) fn mask(n: u32) -> u64 {
        (1 << n) - 1
    }

    /// The low `n` bits of `buf`; `n` at most 32.
    #[allow(clippy::cast_possible_truncation)]
    #[inline]
    pub(super) fn low(buf: u64, n: u32) -> usize {
        (buf & Self::mask(n)) as usize
    }

    /// Takes whole bytes from `input[*at..]` until at least [`Bits::MOST`] bits are held or the
    /// input is used up.
    #[inline]
    pub(super) fn refill(&mut self, input: &[u8], at: &mut usize) {
        if let Some(word) = input.get(*at..).and_then(<[u8]>::first_chunk::<8>) {
            let bytes = (63 - self.left) / 8;
            self.buf |= u64::from_le_bytes(*word) << self.left;
            self.left += bytes * 8;
            self.buf &= Self::mask(self.left);
            *at += bytes as usize;
            return;
        }
        while self.left < Self::MOST
            && let Some(&byte) = input.get(*at)
        {
            self.buf |= u64::from(byte) << self.left;
            self.left += 8;
            *at += 1;
        }
    }

    /// Drops `n` bits of those held.
    #[inline]
    pub(super) fn consume(&mut self, n: u32) {
        debug_assert!(n <= self.left);
        self.buf >>= n;
        self.left -= n;
    }

    /// The next `n` bits, at most 32, if the input has them.
    pub(in crate::decode) fn take(&mut self, n: u32, input: &[u8], at: &mut usize) -> Option<u32> {
        if self.left < n {
            self.refill(input, at);
        }
        if self.left < n {
            return None;
        }
        let value = self.buf & Self::mask(n);
        self.consume(n);
        u32::try_from(value).ok()
    }

    /// The next byte; only at a byte's start.
    pub(in crate::decode) fn byte(&mut self, input: &[u8], at: &mut usize) -> Option<u8> {
        debug_assert!(self.left.is_multiple_of(8));
        if self.left == 0 {
            let byte = *input.get(*at)?;
            *at += 1;
            return Some(byte);
        }
        let byte = (self.buf & 0xff) as u8;
        self.consume(8);
        Some(byte)
    }

    /// Drops what is left of the current byte.
    pub(in crate::decode) fn align(&mut self) {
        self.consume(self.left % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_in_order_from_any_split() {
        let data: Vec<u8> = (0..40_u8).map(|i| i.wrapping_mul(37)).collect();
        let whole = data
            .iter()
            .rev()
            .fold(String::new(), |s, b| s + &format!("{b:08b}"));
        for piece in 1..20 {
            let mut bits = Bits::default();
            let mut got = String::new();
            for input in data.chunks(piece) {
                let mut at = 0;
                while let Some(v) = bits.take(5, input, &mut at) {
                    got = format!("{v:05b}") + &got;
                }
                assert_eq!(at, input.len());
            }
            assert_eq!(got, whole, "pieces of {piece}");
        }
    }
}
