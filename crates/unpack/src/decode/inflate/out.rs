//! Where decoded symbols go: a part of a buffer, with what came before it for back-references.

/// Bytes that a back-reference may reach back (RFC 1951, 2).
pub(in crate::decode) const WINDOW: usize = 32 << 10;

/// What a symbol decodes to: a byte, or a byte or marker (see `markers.rs`).
pub(in crate::decode) trait Symbol: Copy + 'static {
    fn literal(byte: u8) -> Self;
    /// From bytes that are stored as they are.
    fn stored(to: &mut [Self], from: &[u8]);
}

impl Symbol for u8 {
    #[inline]
    fn literal(byte: u8) -> Self {
        byte
    }

    fn stored(to: &mut [Self], from: &[u8]) {
        to.copy_from_slice(from);
    }
}

impl Symbol for u16 {
    #[inline]
    fn literal(byte: u8) -> Self {
        byte.into()
    }

    fn stored(to: &mut [Self], from: &[u8]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = (*from).into();
        }
    }
}

/// Output: `buf[..pos]` is written, `history` comes before `buf`.
#[derive(Debug)]
pub(in crate::decode) struct Out<'a, T> {
    pub(in crate::decode) buf: &'a mut [T],
    pub(in crate::decode) pos: usize,
    pub(in crate::decode) history: &'a [T],
}

impl<T: Symbol> Out<'_, T> {
    pub(super) fn room(&self) -> usize {
        self.buf.len() - self.pos
    }

    pub(super) fn push(&mut self, byte: u8) {
        self.buf[self.pos] = T::literal(byte);
        self.pos += 1;
    }

    /// Whether a back-reference may reach this far.
    pub(super) fn reaches(&self, distance: usize) -> bool {
        distance <= self.pos + self.history.len()
    }

    /// Copies as much of a match as there is room for; its length.
    pub(super) fn copy(&mut self, distance: usize, length: usize) -> usize {
        let n = length.min(self.room());
        copy_match(
            &mut self.buf[..self.pos + n],
            self.pos,
            self.history,
            distance,
        );
        self.pos += n;
        n
    }
}

/// Fills `room[done..]` with a match.
pub(super) fn copy_match<T: Symbol>(room: &mut [T], done: usize, history: &[T], distance: usize) {
    let mut at = done;
    if distance > at {
        let before = distance - at;
        let from = history.len() - before;
        let n = before.min(room.len() - at);
        room[at..at + n].copy_from_slice(&history[from..from + n]);
        at += n;
    }
    // Pieces that do not overlap.
    while at < room.len() {
        let from = at - distance;
        let n = (at - from).min(room.len() - at);
        room.copy_within(from..from + n, at);
        at += n;
    }
}
