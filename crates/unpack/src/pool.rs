//! Memory for decoded bytes: re-used blocks under a budget that all layers in flight share.
//!
//! A block is filled by a decoder, cut into reference-counted slices without copying, and comes
//! back when the last slice is dropped. Waiting for a free block is the pipeline's back-pressure.

use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::{
    cancel::Cancel,
    error::{Error, Result},
};

/// How long a wait may last before it looks at the cancel flag again.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// A pool full of adopted bytes holds at least this much: more than the files that wait for
/// their last byte.
const ADOPTED_LEAST: usize = 8 << 20;

/// A bounded set of equal blocks. Clones share it.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    freed: Condvar,
    block_bytes: usize,
    most: usize,
}

#[derive(Default)]
struct State {
    /// Last in, first out: the warmest block is filled next.
    free: Vec<Box<[u8]>>,
    /// Blocks out with users.
    live: usize,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared {
            block_bytes, most, ..
        } = &*self.0;
        write!(f, "Pool({most} blocks of {block_bytes} bytes)")
    }
}

/// Which share of the pool a caller may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// All of it: the layer that is being applied, which frees what it takes.
    All,
    /// Half: a layer decoded ahead, whose blocks wait for the layers before it.
    Ahead,
}

impl Pool {
    /// A pool of at most `most` blocks, at least 4, allocated as they are needed.
    pub(crate) fn new(block_bytes: usize, most: usize) -> Self {
        let most = most.max(4);
        let shared = Shared {
            state: Mutex::default(),
            freed: Condvar::new(),
            block_bytes,
            most,
        };
        Self(Arc::new(shared))
    }

    /// A block; waits until there is one. `share` is asked again after each wait.
    pub(crate) fn take(
        &self,
        share: impl Fn() -> Share,
        cancel: &Cancel,
        stop: &AtomicBool,
    ) -> Result<Block> {
        let mut state = self.wait(share, cancel, stop)?;
        let data = state.free.pop();
        drop(state);
        let data = data.unwrap_or_else(|| vec![0; self.0.block_bytes].into());
        Ok(Block {
            data,
            len: 0,
            pool: self.0.clone(),
        })
    }

    /// Whether bytes of someone else's may stand for a block: no larger than one, and not so
    /// small that a file's worth of them would take all blocks.
    pub(crate) fn adopts(&self, len: usize) -> bool {
        len <= self.0.block_bytes && self.0.most.saturating_mul(len) >= ADOPTED_LEAST
    }

    /// Lets `bytes` stand for a block, which comes back when the last slice is dropped.
    pub(crate) fn adopt(
        &self,
        bytes: Bytes,
        share: impl Fn() -> Share,
        cancel: &Cancel,
        stop: &AtomicBool,
    ) -> Result<Bytes> {
        let mut state = self.wait(share, cancel, stop)?;
        let spare = if state.free.len() + state.live > self.0.most {
            state.free.pop()
        } else {
            None
        };
        drop(state);
        drop(spare);
        let pool = self.0.clone();
        Ok(Bytes::from_owner(Adopted { bytes, pool }))
    }

    /// Counts a block as taken once there is one.
    fn wait(
        &self,
        share: impl Fn() -> Share,
        cancel: &Cancel,
        stop: &AtomicBool,
    ) -> Result<MutexGuard<'_, State>> {
        let mut state = self.0.lock();
        loop {
            cancel.check()?;
            if stop.load(Ordering::Acquire) {
                return Err(Error::cancelled());
            }
            let most = match share() {
                Share::All => self.0.most,
                Share::Ahead => self.0.most / 2,
            };
            if state.live < most {
                state.live += 1;
                return Ok(state);
            }
            state = self
                .0
                .freed
                .wait_timeout(state, TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block of a [`Pool`] being filled.
pub(crate) struct Block {
    data: Box<[u8]>,
    len: usize,
    pool: Arc<Shared>,
}

impl Block {
    /// The unfilled rest.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        &mut self.data[self.len..]
    }

    /// Counts `n` bytes of [`Block::spare`] as filled.
    pub(crate) fn fill(&mut self, n: usize) {
        self.len += n;
        assert!(self.len <= self.data.len(), "filled past the block");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == self.data.len()
    }

    /// The filled bytes as shareable slices; the block goes back when the last one is dropped.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

/// Bytes that stand for a block.
struct Adopted {
    bytes: Bytes,
    pool: Arc<Shared>,
}

impl AsRef<[u8]> for Adopted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        // First the bytes, then the room for others.
        drop(std::mem::take(&mut self.bytes));
        self.pool.lock().live -= 1;
        self.pool.freed.notify_all();
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.live -= 1;
        state.free.push(std::mem::take(&mut self.data));
        drop(state);
        // All waiters: each may be waiting for another share.
        self.pool.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static GO: AtomicBool = AtomicBool::new(false);

    #[test]
    fn blocks_come_back_when_the_last_slice_goes() {
        let pool = Pool::new(8, 4);
        let cancel = Cancel::new();
        let all = || Share::All;
        let mut blocks: Vec<_> = (0..4)
            .map(|_| pool.take(all, &cancel, &GO).unwrap())
            .collect();
        let mut block = blocks.pop().unwrap();
        block.spare()[..3].copy_from_slice(b"abc");
        block.fill(3);
        let bytes = block.freeze();
        let slice = bytes.slice(1..2);
        drop(bytes);
        assert_eq!(&slice[..], b"b");
        let waiter = std::thread::spawn({
            let (pool, cancel) = (pool.clone(), cancel.clone());
            move || pool.take(all, &cancel, &GO).is_ok()
        });
        drop(slice);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn adopted_bytes_count_as_blocks() {
        let pool = Pool::new(4 << 20, 4);
        assert!(pool.adopts(4 << 20) && pool.adopts(2 << 20));
        assert!(!pool.adopts((4 << 20) + 1) && !pool.adopts(1 << 20));
        let cancel = Cancel::new();
        let all = || Share::All;
        let mut held: Vec<_> = (0..4)
            .map(|_| pool.adopt(Bytes::from_static(b"abc"), all, &cancel, &GO))
            .map(Result::unwrap)
            .collect();
        let slice = held.pop().unwrap().slice(1..);
        assert_eq!(&slice[..], b"bc");
        assert_eq!(pool.0.lock().live, 4);
        drop(slice);
        assert_eq!(pool.0.lock().live, 3);
        pool.take(all, &cancel, &GO).unwrap();
    }

    #[test]
    fn ahead_leaves_half_to_the_head() {
        let pool = Pool::new(8, 4);
        let cancel = Cancel::new();
        let ahead: Vec<_> = (0..2)
            .map(|_| pool.take(|| Share::Ahead, &cancel, &GO).unwrap())
            .collect();
        let head: Vec<_> = (0..2)
            .map(|_| pool.take(|| Share::All, &cancel, &GO).unwrap())
            .collect();
        cancel.cancel();
        assert!(pool.take(|| Share::All, &cancel, &GO).is_err());
        drop((ahead, head));
    }
}
