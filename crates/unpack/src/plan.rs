//! What may run at once, and what must be remembered until a layer's end. No I/O here.
//!
//! Directories, links, devices and whiteouts run in archive order on the layer's thread; regular
//! files are spread over writers. [`Unsettled`] knows which names may still be in a writer's
//! hands, so that whoever depends on one can wait. [`Seen`] knows what this layer has put where,
//! so that a whiteout hides lower layers only, wherever it stands. [`Fixups`] holds the
//! attributes that directories get last.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use crate::{
    entry::{Xattrs, split},
    root::Attrs,
};

/// Names handed to writers since everything was last known to be done.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    hasher: RandomState,
    names: HashSet<u64>,
}

impl Unsettled {
    /// Names remembered before a wait is worth its while.
    const MOST: usize = 1 << 15;

    /// Notes that `name` in the directory with the real path `dir` goes to a writer.
    pub(crate) fn add(&mut self, dir: &[u8], name: &[u8]) {
        self.names.insert(self.hasher.hash_one((dir, name)));
    }

    /// Whether `name` may still be in a writer's hands. May be wrong in saying so.
    pub(crate) fn may_hold(&self, dir: &[u8], name: &[u8]) -> bool {
        !self.names.is_empty() && self.names.contains(&self.hasher.hash_one((dir, name)))
    }

    pub(crate) fn is_full(&self) -> bool {
        self.names.len() >= Self::MOST
    }

    /// All writers are done.
    pub(crate) fn clear(&mut self) {
        self.names.clear();
    }
}

/// Paths that this layer has an entry for, or implies as a directory.
///
/// Kept as 64-bit hashes under a random key, so that 10 million paths fit 150 MB and an image
/// cannot aim at a collision.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    hasher: RandomState,
    listed: HashSet<u64>,
    implied: HashSet<u64>,
    /// Directories in which only this layer's own is left.
    own: HashSet<u64>,
}

impl Seen {
    /// Notes `real`; `listed` if the layer has an entry for it. True if it had one before.
    pub(crate) fn note(&mut self, real: &[u8], listed: bool) -> bool {
        let hash = self.hasher.hash_one(real);
        if !listed {
            if !self.listed.contains(&hash) {
                self.implied.insert(hash);
            }
            return false;
        }
        self.implied.remove(&hash);
        !self.listed.insert(hash)
    }

    /// `None` if this layer has nothing to do with `real`, else whether it has an entry for it.
    pub(crate) fn get(&self, real: &[u8]) -> Option<bool> {
        let hash = self.hasher.hash_one(real);
        if self.listed.contains(&hash) {
            return Some(true);
        }
        self.implied.contains(&hash).then_some(false)
    }

    /// Notes that all that is left in `real` is this layer's own.
    pub(crate) fn note_own(&mut self, real: &[u8]) {
        self.own.insert(self.hasher.hash_one(real));
    }

    /// Whether `real`, or a directory that it is in, was [noted](Seen::note_own). What a layer
    /// puts there later is its own too.
    pub(crate) fn is_own(&self, real: &[u8]) -> bool {
        let mut path = real;
        while !self.own.is_empty() {
            if self.own.contains(&self.hasher.hash_one(path)) {
                return true;
            }
            if path.is_empty() {
                break;
            }
            path = split(path).0;
        }
        false
    }

    pub(crate) fn clear(&mut self) {
        self.listed.clear();
        self.implied.clear();
        self.own.clear();
    }

    /// Memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        (self.listed.capacity() + self.implied.capacity() + self.own.capacity())
            * (size_of::<u64>() + 1)
    }
}

/// What a directory gets once nothing more is put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fixup {
    pub attrs: Attrs,
    /// Access lists, which new names would inherit if they were set earlier.
    pub acls: Xattrs,
}

/// Directories by real path.
#[derive(Debug, Default)]
pub(crate) struct Fixups {
    dirs: BTreeMap<Box<[u8]>, Fixup>,
    bytes: usize,
}

impl Fixups {
    const OVERHEAD: usize = size_of::<Fixup>() + 48;

    pub(crate) fn get(&self, real: &[u8]) -> Option<&Fixup> {
        self.dirs.get(real)
    }

    /// Sets what `real` gets in the end.
    pub(crate) fn set(&mut self, real: &[u8], fixup: Fixup) {
        let acls: usize = fixup.acls.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.bytes += real.len() + acls + Self::OVERHEAD;
        self.dirs.insert(real.into(), fixup);
    }

    /// Drops `real` and all under it: it was removed.
    pub(crate) fn remove_under(&mut self, real: &[u8]) {
        self.dirs.remove(real);
        // `0` is the byte after `/`: the range holds just the names under `real/`.
        let (from, to) = ([real, b"/"].concat(), [real, b"0"].concat());
        let under: Vec<_> = self
            .dirs
            .range(Box::from(from)..Box::from(to))
            .map(|(k, _)| k.clone())
            .collect();
        for path in under {
            self.dirs.remove(&path);
        }
    }

    /// Takes one; what lies in a directory comes before it.
    pub(crate) fn pop(&mut self) -> Option<(Box<[u8]>, Fixup)> {
        let last = self.dirs.pop_last();
        if last.is_none() {
            self.bytes = 0;
        }
        last
    }

    /// Memory in use, in bytes, at most.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Time;

    fn fixup(mode: u32) -> Fixup {
        let attrs = Attrs {
            mode,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
        };
        Fixup {
            attrs,
            acls: Xattrs::new(),
        }
    }

    #[test]
    fn fixups_come_deepest_first_and_go_with_their_tree() {
        let mut f = Fixups::default();
        for path in ["a", "a/b", "a/b/c", "a.b", "a0", "ab", "a/0"] {
            f.set(path.as_bytes(), fixup(0o755));
        }
        f.remove_under(b"a/b");
        assert!(f.get(b"a/b/c").is_none() && f.get(b"a/0").is_some());
        f.remove_under(b"a");
        let left: Vec<_> = std::iter::from_fn(|| f.pop())
            .map(|(p, _)| String::from_utf8(p.into()).unwrap())
            .collect();
        assert_eq!(left, ["ab", "a0", "a.b"]);
    }

    #[test]
    fn seen_keeps_the_stronger_fact() {
        let mut s = Seen::default();
        assert_eq!(s.get(b"x"), None);
        assert!(!s.note(b"x", false));
        assert_eq!(s.get(b"x"), Some(false));
        assert!(!s.note(b"x", true));
        assert!(s.note(b"x", true));
        assert!(!s.note(b"x", false));
        assert_eq!(s.get(b"x"), Some(true));
    }

    #[test]
    fn names_are_told_apart_by_directory() {
        let mut u = Unsettled::default();
        u.add(b"d", b"a");
        assert!(u.may_hold(b"d", b"a") && !u.may_hold(b"e", b"a") && !u.may_hold(b"d", b"b"));
        u.clear();
        assert!(!u.may_hold(b"d", b"a"));
    }
}
