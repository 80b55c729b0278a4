//! Reading choices off the front of a fuzz input. An exhausted input gives zeros.

/// What is left of a fuzz input.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// At most `n` bytes.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// Takes the sizes of the pieces that a stream is to be cut into.
    pub fn cuts(&mut self) -> Cuts {
        Cuts {
            sizes: std::array::from_fn(|_| self.byte()),
            next: 0,
        }
    }
}

/// Sizes of pieces, over and over. Small ones cut fields, large ones let fast paths run.
#[derive(Debug, Clone)]
pub struct Cuts {
    sizes: [u8; 4],
    next: usize,
}

impl Cuts {
    /// Bytes of control input that cuts are made from.
    pub const BYTES: usize = 4;

    pub fn next_size(&mut self) -> usize {
        let size = self.sizes[self.next];
        self.next = (self.next + 1) % self.sizes.len();
        match size {
            0..=127 => usize::from(size) + 1,
            _ => (usize::from(size) - 127) * 64,
        }
    }

    pub fn cut<'a>(&mut self, stream: &mut &'a [u8]) -> &'a [u8] {
        let (piece, rest) = stream.split_at(self.next_size().min(stream.len()));
        *stream = rest;
        piece
    }
}
