//! Names in directories: one table over all, 4 bytes a slot.

use std::hash::{BuildHasher, RandomState};

/// A number that stands for nothing.
pub(super) const NONE: u32 = u32::MAX;
/// A slot that had a name once.
const GONE: u32 = u32::MAX - 1;

/// Finds names by directory and bytes. Hashes are keyed, as names come from strangers.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<u32>,
    /// Slots that are not [`NONE`].
    used: usize,
    live: usize,
    keys: RandomState,
}

impl Table {
    pub(super) fn hash(&self, dir: u32, name: &[u8]) -> u64 {
        self.keys.hash_one((dir, name))
    }

    fn start(&self, hash: u64) -> usize {
        usize::try_from(hash & (self.slots.len() as u64 - 1)).unwrap_or(0)
    }

    /// The entry for which `is` holds.
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.start(hash);
        loop {
            match self.slots[at] {
                NONE => return None,
                GONE => {}
                entry if is(entry) => return Some(entry),
                _ => {}
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Adds an entry that is not there. `hash_of` is asked when the table grows.
    pub(super) fn add(&mut self, hash: u64, entry: u32, hash_of: impl Fn(&Self, u32) -> u64) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            let size = ((self.live + 1) * 2).next_power_of_two().max(64);
            let old = std::mem::replace(&mut self.slots, vec![NONE; size]);
            (self.used, self.live) = (0, 0);
            for entry in old.into_iter().filter(|&e| e < GONE) {
                let hash = hash_of(self, entry);
                self.put(hash, entry);
            }
        }
        self.put(hash, entry);
    }

    fn put(&mut self, hash: u64, entry: u32) {
        let mut at = self.start(hash);
        while self.slots[at] != NONE {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = entry;
        self.used += 1;
        self.live += 1;
    }

    /// Removes an entry that is there.
    pub(super) fn remove(&mut self, hash: u64, entry: u32) {
        let mut at = self.start(hash);
        while self.slots[at] != entry {
            if self.slots[at] == NONE {
                return;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = GONE;
        self.live -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_and_go() {
        let mut table = Table::default();
        let hash = |t: &Table, e: u32| t.hash(e % 7, &e.to_le_bytes());
        for round in 0..3 {
            for e in 0..1000_u32 {
                let h = hash(&table, e);
                assert_eq!(table.find(h, |x| x == e), None, "{round}");
                table.add(h, e, hash);
            }
            for e in 0..1000_u32 {
                let h = hash(&table, e);
                assert_eq!(table.find(h, |x| x == e), Some(e));
                if e % 3 != 0 || round < 2 {
                    table.remove(h, e);
                    assert_eq!(table.find(h, |x| x == e), None);
                }
            }
        }
        assert_eq!(table.live, 334);
        assert!(table.slots.len() <= 4096);
    }
}
