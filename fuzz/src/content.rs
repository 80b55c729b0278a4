//! Large content from few bytes of input, as compressors and their readers meet it.

use crate::input::Input;

/// Up to `most` bytes: literals, copies of what came before, noise and runs.
pub fn content(input: &mut Input<'_>, most: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..=input.byte() % 32 {
        let kind = input.byte();
        let len = usize::from(input.u16()).min(most - out.len());
        match kind % 4 {
            0 => out.extend_from_slice(input.take(len.min(255))),
            1 if !out.is_empty() => {
                let back = 1 + usize::from(input.u16()) % out.len();
                let from = out.len() - back;
                let len = len.min(back);
                out.extend_from_within(from..from + len);
            }
            2 => {
                // A linear congruential generator, its high bits.
                let mut state = input.u64() | 1;
                let alphabet = [255, 63, 15, 1][usize::from(kind >> 2 & 3)];
                out.extend((0..len).map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    state.to_be_bytes()[0] & alphabet
                }));
            }
            _ => out.extend(std::iter::repeat_n(input.byte(), len)),
        }
    }
    out
}
