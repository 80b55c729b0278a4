//! Decoding without the 32 KiB before: what is copied from there becomes a marker.
//!
//! The first stage of the two-stage method of pugz (Kerbiriou and Chikhi, 2019) and rapidgzip
//! (Knespel and Brunst, 2023). Output is 16 bits wide; in front of it stand 32 Ki markers, one
//! for each byte of the unknown window, so that a match copies them like anything else. When the
//! window is known, [`resolve`] puts its bytes in their place.

use super::out::WINDOW;

/// Set in a marker; below it the index into the window, of which index 0 is 32 KiB back.
const MARKER: u16 = 1 << 15;

/// Empties `buf` but for the markers of the unknown window.
pub(in crate::decode) fn begin(buf: &mut Vec<u16>) {
    buf.truncate(WINDOW);
    if buf.len() < WINDOW {
        buf.clear();
        buf.extend((0..MARKER).map(|i| i | MARKER));
    }
}

/// The last window's worth of `buf` as bytes, if there is no marker in it.
pub(in crate::decode) fn window(buf: &[u16]) -> Option<Vec<u8>> {
    let last = &buf[buf.len() - WINDOW..];
    // Two passes: the first is a few vector instructions and mostly says no.
    if last.iter().fold(0, |all, x| all | x) & MARKER != 0 {
        return None;
    }
    Some(last.iter().map(|x| x.to_le_bytes()[0]).collect())
}

/// A window that markers stand for.
pub(in crate::decode) struct Resolver {
    /// Bytes by the low 15 bits of a marker.
    window: Box<[u8; WINDOW]>,
    /// Markers below this one stand for bytes before the stream's first.
    first: u32,
}

impl Resolver {
    /// `window` may be shorter than 32 KiB: then there is nothing before it.
    pub(in crate::decode) fn new(window: &[u8]) -> Self {
        let mut full = Box::new([0; WINDOW]);
        let start = WINDOW - window.len();
        full[start..].copy_from_slice(window);
        Self {
            window: full,
            first: u32::from(MARKER) + u32::try_from(start).unwrap_or(u32::MAX >> 1),
        }
    }

    /// Whether all of `from` can be resolved. `from` must not hold the markers in front.
    pub(in crate::decode) fn covers(&self, from: &[u16]) -> bool {
        self.first == u32::from(MARKER)
            || from
                .iter()
                .all(|x| x & MARKER == 0 || u32::from(*x) >= self.first)
    }

    /// Bytes in place of markers; `to` is as long as `from`.
    pub(in crate::decode) fn resolve(&self, from: &[u16], to: &mut [u8]) {
        let (mut from, mut to) = (from.chunks_exact(16), to.chunks_exact_mut(16));
        for (from, to) in from.by_ref().zip(to.by_ref()) {
            if from.iter().fold(0, |all, x| all | x) & MARKER == 0 {
                for (to, x) in to.iter_mut().zip(from) {
                    *to = x.to_le_bytes()[0];
                }
            } else {
                for (to, x) in to.iter_mut().zip(from) {
                    *to = self.byte(*x);
                }
            }
        }
        for (to, x) in to.into_remainder().iter_mut().zip(from.remainder()) {
            *to = self.byte(*x);
        }
    }

    #[inline]
    fn byte(&self, x: u16) -> u8 {
        if x & MARKER == 0 {
            return x.to_le_bytes()[0];
        }
        self.window[usize::from(x & !MARKER)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_resolve_to_the_window() {
        let window: Vec<u8> = (0..WINDOW).map(|i| (i * 7 / 5).to_le_bytes()[0]).collect();
        let mut buf = Vec::new();
        begin(&mut buf);
        let mut got = vec![0; WINDOW];
        Resolver::new(&window).resolve(&buf, &mut got);
        assert_eq!(got, window);
        assert!(super::window(&buf).is_none());
        buf.extend((0..WINDOW).map(|i| u16::from(i.to_le_bytes()[0])));
        assert_eq!(
            super::window(&buf).unwrap()[1000],
            1000_usize.to_le_bytes()[0]
        );
        begin(&mut buf);
        assert_eq!(buf.len(), WINDOW);
    }

    #[test]
    fn a_short_window_covers_less() {
        let short = Resolver::new(&[1, 2, 3]);
        assert!(short.covers(&[5, MARKER | 0x7ffd, MARKER | 0x7fff]));
        assert!(!short.covers(&[5, MARKER | 0x7ffc]));
        assert!(!Resolver::new(&[]).covers(&[MARKER | 0x7fff]));
        assert!(Resolver::new(&[]).covers(&[255]));
        let mut to = [0];
        short.resolve(&[MARKER | 0x7ffe], &mut to);
        assert_eq!(to, [2]);
    }
}
