//! What the layers of one pull know of each other: which are there, whose turn it is, and the
//! diffIDs once the config has come.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use unlade_graph::driver::{LayerId, LayerKey, Parents};
use unlade_unpack::{Algorithm, Cancel, Digest, Hasher, Turn};

use crate::error::{Error, Kind, Result};

/// Shared by the threads of a pull.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<State>,
    changed: Condvar,
    cancel: Cancel,
    failed: AtomicBool,
}

/// What an error is to the pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// The first of all: to be told.
    Cause,
    /// The caller had cancelled before anything failed.
    Caller,
    /// Others failed before, and stopped this one.
    Others,
}

#[derive(Debug)]
struct State {
    diff_ids: Vec<Option<Digest>>,
    /// The diffIDs are the config's, all of them.
    certain: bool,
    done: Vec<Option<LayerId>>,
    parents: Vec<Parents>,
    turns: Vec<Option<Turn>>,
    next: usize,
}

impl Board {
    /// A board for layers whose diffIDs are known as far as `diff_ids` has them.
    pub(super) fn new(diff_ids: Vec<Option<Digest>>, cancel: Cancel) -> Self {
        let count = diff_ids.len();
        let parents: Vec<Parents> = (0..count).map(|_| Parents::default()).collect();
        if let Some(lowest) = parents.first() {
            lowest.set(Vec::new());
        }
        Self {
            state: Mutex::new(State {
                diff_ids,
                certain: false,
                done: vec![None; count],
                parents,
                turns: vec![None; count],
                next: 0,
            }),
            changed: Condvar::new(),
            cancel,
            failed: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next layer to work on, lowest first.
    pub(super) fn take(&self) -> Option<usize> {
        let mut state = self.lock();
        let n = state.next;
        state.next += 1;
        (n < state.done.len() && !self.cancel.is_cancelled()).then_some(n)
    }

    /// The config has come: these are the diffIDs.
    pub(super) fn set_diff_ids(&self, diff_ids: &[Digest]) {
        let mut state = self.lock();
        state.diff_ids = diff_ids.iter().copied().map(Some).collect();
        state.certain = true;
        self.changed.notify_all();
    }

    /// The key of layer `n` as far as it is known now, perhaps not by the config.
    pub(super) fn key_so_far(&self, n: usize) -> Option<LayerKey> {
        key(&self.lock().diff_ids, n)
    }

    /// The key of layer `n` by the config; waits for it.
    pub(super) fn key(&self, n: usize) -> Result<LayerKey> {
        let mut state = self.lock();
        loop {
            if state.certain {
                let missing = || Error::new(Kind::Bug, "a layer without a diffID");
                return key(&state.diff_ids, n).ok_or_else(missing);
            }
            if self.cancel.is_cancelled() {
                return Err(Error::new(Kind::Cancelled, "cancelled"));
            }
            let waited = self.changed.wait_timeout(state, Duration::from_millis(50));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The promise of what lies below layer `n`.
    pub(super) fn parents(&self, n: usize) -> Parents {
        self.lock().parents[n].clone()
    }

    /// Layer `n` is on its way; the lowest one that is gets the whole memory budget.
    pub(super) fn started(&self, n: usize, turn: Turn) {
        let mut state = self.lock();
        if state.lowest() == n {
            turn.take();
        }
        state.turns[n] = Some(turn);
    }

    /// Layer `n` is published as `id`.
    pub(super) fn published(&self, n: usize, id: LayerId) {
        let mut state = self.lock();
        state.done[n] = Some(id);
        let lowest = state.lowest();
        for above in n + 1..=lowest.min(state.done.len().saturating_sub(1)) {
            let below = state.done[..above].iter().flatten().cloned().collect();
            state.parents[above].set(below);
        }
        if let Some(Some(turn)) = state.turns.get(lowest) {
            turn.take();
        }
    }

    /// Something failed: everybody stops.
    pub(super) fn fail(&self) -> Blame {
        let cancelled = self.cancel.is_cancelled();
        let blame = match (self.failed.swap(true, Ordering::SeqCst), cancelled) {
            (true, _) => Blame::Others,
            (false, true) => Blame::Caller,
            (false, false) => Blame::Cause,
        };
        self.cancel.cancel();
        for parents in &self.lock().parents {
            parents.fail();
        }
        self.changed.notify_all();
        blame
    }

    /// All layers, lowest first, once they are all published.
    pub(super) fn layers(&self) -> Option<Vec<LayerId>> {
        self.lock().done.iter().cloned().collect()
    }
}

impl State {
    /// The lowest layer that is not published.
    fn lowest(&self) -> usize {
        let open = self.done.iter().position(Option::is_none);
        open.unwrap_or(self.done.len())
    }
}

fn key(diff_ids: &[Option<Digest>], n: usize) -> Option<LayerKey> {
    let mut chain_id = diff_ids.first().copied()??;
    for diff_id in &diff_ids[1..=n] {
        chain_id = chain(&chain_id, &(*diff_id)?);
    }
    Some(LayerKey {
        diff_id: diff_ids[n]?,
        chain_id,
    })
}

/// The chainID of a layer with `diff_id` over the chain `below` (OCI image-spec, config.md,
/// "Layer ChainID").
fn chain(below: &Digest, diff_id: &Digest) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(format!("{below} {diff_id}").as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[n])
    }

    fn id(n: u8) -> LayerId {
        LayerId::of(&digest(n))
    }

    #[test]
    fn the_first_error_is_to_blame_unless_the_caller_had_cancelled() {
        let board = Board::new(vec![None; 2], Cancel::new());
        assert_eq!(board.fail(), Blame::Cause);
        assert_eq!(board.fail(), Blame::Others);
        let cancel = Cancel::new();
        cancel.cancel();
        let board = Board::new(vec![None; 2], cancel);
        assert_eq!(board.fail(), Blame::Caller);
        assert_eq!(board.fail(), Blame::Others);
    }

    #[test]
    fn promises_are_kept_in_order() {
        let board = Board::new(vec![None; 3], Cancel::new());
        let wait = |n: usize| {
            let cancel = Cancel::new();
            cancel.cancel();
            board.parents(n).wait(&cancel).ok()
        };
        assert_eq!(wait(0), Some(vec![]));
        board.published(1, id(1));
        assert_eq!((wait(1), wait(2)), (None, None));
        board.published(0, id(0));
        assert_eq!(wait(1), Some(vec![id(0)]));
        assert_eq!(wait(2), Some(vec![id(0), id(1)]));
        assert_eq!(board.layers(), None);
        board.published(2, id(2));
        assert_eq!(board.layers(), Some(vec![id(0), id(1), id(2)]));
    }

    #[test]
    fn a_failure_ends_all_waiting() {
        let board = Board::new(vec![None; 2], Cancel::new());
        board.fail();
        assert!(board.parents(1).wait(&Cancel::new()).is_err());
        assert!(board.key(1).is_err());
        assert_eq!(board.take(), None);
    }

    #[test]
    fn chains_are_the_specifications() {
        let (a, b) = (digest(1), digest(2));
        let board = Board::new(vec![Some(a), Some(b)], Cancel::new());
        let top = board.key_so_far(1).unwrap();
        assert_eq!(top.diff_id, b);
        let text = format!("{a} {b}");
        assert_eq!(top.chain_id, Digest::of(Algorithm::Sha256, text.as_bytes()));
        assert_eq!(board.key_so_far(0).unwrap().chain_id, a);
    }
}
