//! Buffers of a parallel decode: a fixed number of sets, used again when their output is dropped.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::piece::Buffers;
use crate::decode::inflate::WINDOW;

/// A fixed number of [`Slot`]s.
pub(super) struct Slots(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    freed: Condvar,
    /// Symbols in a buffer. Fresh ones are zero pages: what is never used takes no memory.
    symbols: usize,
}

struct State {
    free: usize,
    marked: Vec<Vec<u16>>,
    plain: Vec<Vec<u8>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to hold one piece's buffers. It ends with the last of its output.
pub(super) struct Slot(Arc<Shared>);

impl Slots {
    pub(super) fn new(free: usize, symbols: usize) -> Self {
        let state = State {
            free,
            marked: Vec::new(),
            plain: Vec::new(),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            freed: Condvar::new(),
            symbols,
        }))
    }

    pub(super) fn try_take(&self) -> Option<(Arc<Slot>, Buffers)> {
        let mut state = self.0.lock();
        state.free = state.free.checked_sub(1)?;
        let (marked, plain) = (state.marked.pop(), state.plain.pop());
        drop(state);
        let symbols = self.0.symbols;
        let buffers = Buffers {
            marked: marked.unwrap_or_else(|| vec![0; WINDOW + symbols]),
            plain: plain.unwrap_or_else(|| vec![0; symbols]),
        };
        Some((Arc::new(Slot(self.0.clone())), buffers))
    }

    /// Waits until there is one.
    pub(super) fn wait(&self) {
        let mut state = self.0.lock();
        while state.free == 0 {
            state = self
                .0
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Slot {
    /// A buffer more, for the second stage.
    pub(super) fn plain(&self) -> Vec<u8> {
        let plain = self.0.lock().plain.pop();
        plain.unwrap_or_else(|| vec![0; self.0.symbols])
    }

    pub(super) fn give(&self, buffers: Buffers) {
        let mut state = self.0.lock();
        state.marked.push(buffers.marked);
        state.plain.push(buffers.plain);
    }

    pub(super) fn give_marked(&self, marked: Vec<u16>) {
        self.0.lock().marked.push(marked);
    }

    /// Output that gives its buffer back when it is dropped.
    pub(super) fn bytes(self: &Arc<Self>, data: Vec<u8>, len: usize) -> Bytes {
        Bytes::from_owner(Output {
            data,
            len,
            slot: self.clone(),
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.freed.notify_all();
    }
}

struct Output {
    data: Vec<u8>,
    len: usize,
    slot: Arc<Slot>,
}

impl AsRef<[u8]> for Output {
    fn as_ref(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        self.slot.0.lock().plain.push(data);
    }
}
