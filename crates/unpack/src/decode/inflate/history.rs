//! The last 32 KiB of output, kept when it is handed out.

use super::out::WINDOW;

/// Output before the current buffer.
#[derive(Debug, Default)]
pub(in crate::decode) struct History {
    /// Up to twice the window, so that small pieces need not move it each time.
    bytes: Vec<u8>,
}

impl History {
    /// At most the last 32 KiB.
    pub(in crate::decode) fn get(&self) -> &[u8] {
        &self.bytes[self.bytes.len().saturating_sub(WINDOW)..]
    }

    pub(in crate::decode) fn clear(&mut self) {
        self.bytes.clear();
    }

    pub(in crate::decode) fn push(&mut self, written: &[u8]) {
        if written.len() >= WINDOW {
            self.bytes.clear();
        } else if self.bytes.len() + written.len() > 2 * WINDOW {
            let stale = self.bytes.len() - WINDOW;
            self.bytes.drain(..stale);
        }
        self.bytes
            .extend_from_slice(&written[written.len().saturating_sub(WINDOW)..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_window_is_kept() {
        let data: Vec<u8> = (0..300_000_u32).map(|i| (i / 3).to_le_bytes()[0]).collect();
        for piece in [1, 7, 1000, WINDOW - 1, WINDOW, WINDOW + 1, 100_000] {
            let mut history = History::default();
            let mut end = 0;
            for part in data.chunks(piece) {
                history.push(part);
                end += part.len();
                assert_eq!(history.get(), &data[end.saturating_sub(WINDOW)..end]);
                assert!(history.bytes.len() <= 2 * WINDOW);
            }
        }
    }
}
