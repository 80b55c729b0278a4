//! Decoding without the 32 KiB before: what is copied from there becomes a marker.
//!
//! The first stage of the two-stage method of pugz (Kerbiriou and Chikhi, 2019) and rapidgzip
//! (Knespel and Brunst, 2023). Output is 16 bits wide; in front of it stand 32 Ki markers, one
//! for each byte of the unknown window, so that a match copies them like anything else. When the
//! window is known, [`resolve`] puts its bytes in their place.

use super::out::WINDOW;

/// Set in a marker; below it the index into the window, of which index 0 is 32 KiB back.
const MARKER: u16 = 1 << 15;

/// Puts the markers of the unknown window in front of `buf`, if they are not there yet.
pub(in crate::decode) fn begin(buf: &mut [u16]) {
    if buf[0] != MARKER {
        for (x, i) in buf.iter_mut().zip(0..MARKER) {
            *x = i | MARKER;
        }
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
    /// The byte for each symbol: itself, or what the marker stands for.
    bytes: Box<[u8; 1 << 16]>,
    /// Markers below this one stand for bytes before the stream's first.
    first: u32,
}

impl Resolver {
    /// `window` may be shorter than 32 KiB: then there is nothing before it.
    pub(in crate::decode) fn new(window: &[u8]) -> Self {
        let mut bytes = Box::new([0; 1 << 16]);
        for (byte, value) in bytes.iter_mut().zip(0..=255) {
            *byte = value;
        }
        let start = bytes.len() - window.len();
        bytes[start..].copy_from_slice(window);
        Self {
            bytes,
            first: u32::try_from(start).unwrap_or(u32::MAX),
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
        let (mut from, mut to) = (from.chunks_exact(32), to.chunks_exact_mut(32));
        for (from, to) in from.by_ref().zip(to.by_ref()) {
            if from.iter().fold(0, |all, x| all | x) & MARKER == 0 {
                for (to, x) in to.iter_mut().zip(from) {
                    *to = x.to_le_bytes()[0];
                }
            } else {
                // Without a branch: markers and bytes alternate at random.
                for (to, x) in to.iter_mut().zip(from) {
                    *to = self.bytes[usize::from(*x)];
                }
            }
        }
        for (to, x) in to.into_remainder().iter_mut().zip(from.remainder()) {
            *to = self.bytes[usize::from(*x)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_resolve_to_the_window() {
        let window: Vec<u8> = (0..WINDOW).map(|i| (i * 7 / 5).to_le_bytes()[0]).collect();
        let mut buf = vec![0; WINDOW];
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
