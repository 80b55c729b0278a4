//! A tree in memory: [`TreeSink`], for building images of file systems and as the model that
//! the other sinks are tested against.
//!
//! It follows the same rules as an applied [`DirSink`](super::DirSink) in the plainest way:
//! one map by path, one table of inodes. Contents are kept as digests.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Applied, Passed, Sink, Want, check, count};
use crate::{
    digest::{Algorithm, Digest, Hasher},
    entry::{Entry, EntryKind, Meta, Role, split},
    error::{Error, Result, show},
    report::Counts,
};

/// What a [`Node`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// SHA-256 of the content, holes read as zeros.
        content: Digest,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// The target.
        target: Box<[u8]>,
    },
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// An inode of the tree. Paths with the same [`Node::inode`] are hard links to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Number of the inode, unique in the tree.
    pub inode: u64,
    /// Type.
    pub kind: NodeKind,
    /// Attributes, extended ones as the archive gave them.
    pub meta: Meta,
}

/// Applies layers to a tree in memory. Give it an image's layers in order.
#[derive(Debug, Default)]
pub struct TreeSink {
    paths: BTreeMap<Box<[u8]>, Node>,
    next_inode: u64,
    /// Of the layer: paths with an entry, and directories implied.
    listed: BTreeSet<Box<[u8]>>,
    implied: BTreeSet<Box<[u8]>>,
    passed: Passed,
    current: Option<(Entry, Box<[u8]>, Hasher, u64)>,
    counts: Counts,
}

/// Zeros for the digest of holes.
static ZEROS: [u8; 4096] = [0; 4096];

impl TreeSink {
    /// A tree of just the root directory.
    pub fn new() -> Self {
        let mut this = Self::default();
        let root = this.fresh_dir();
        this.paths.insert(Box::default(), root);
        this
    }

    /// All nodes by path; the root's is empty.
    pub fn nodes(&self) -> &BTreeMap<Box<[u8]>, Node> {
        &self.paths
    }

    fn inode(&mut self) -> u64 {
        self.next_inode += 1;
        self.next_inode
    }

    fn fresh_dir(&mut self) -> Node {
        let meta = Meta {
            mode: 0o755,
            ..Meta::default()
        };
        Node {
            inode: self.inode(),
            kind: NodeKind::Dir,
            meta,
        }
    }

    fn is_dir(&self, path: &[u8]) -> bool {
        matches!(
            self.paths.get(path),
            Some(Node {
                kind: NodeKind::Dir,
                ..
            })
        )
    }

    /// The real path of the directory `path`, symlinks followed; `create` what is missing.
    fn resolve(&mut self, path: &[u8], create: bool) -> Result<Option<Box<[u8]>>> {
        let parts = |p: &[u8]| -> Vec<Box<[u8]>> {
            let split = p.split(|&b| b == b'/');
            split
                .filter(|c| !c.is_empty() && *c != b".")
                .map(Box::from)
                .rev()
                .collect()
        };
        let mut real: Box<[u8]> = Box::default();
        let mut todo = parts(path);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if *name == *b".." {
                real = split(&real).0.into();
                continue;
            }
            let next = crate::root::join(&real, &name);
            match self.paths.get(&next).map(|n| &n.kind) {
                Some(NodeKind::Dir) => real = next,
                Some(NodeKind::Symlink { target }) => {
                    if !self.listed.contains(&next) {
                        self.passed.note(&next);
                    }
                    links += 1;
                    if links > 40 {
                        if !create {
                            return Ok(None);
                        }
                        return Err(Error::bad("too many symlinks on the way to it"));
                    }
                    if target.starts_with(b"/") {
                        real = Box::default();
                    }
                    todo.extend(parts(target));
                }
                _ if !create => return Ok(None),
                _ => {
                    self.remove(&next);
                    let dir = self.fresh_dir();
                    self.paths.insert(next.clone(), dir);
                    if !self.listed.contains(&next) {
                        self.implied.insert(next.clone());
                    }
                    real = next;
                }
            }
        }
        Ok(Some(real))
    }

    fn under(&self, path: &[u8]) -> Vec<Box<[u8]>> {
        let inside = |p: &[u8]| {
            path.is_empty() && !p.is_empty()
                || p.strip_prefix(path)
                    .is_some_and(|rest| rest.starts_with(b"/"))
        };
        self.paths.keys().filter(|p| inside(p)).cloned().collect()
    }

    fn remove(&mut self, path: &[u8]) {
        if self.is_dir(path) {
            for p in self.under(path) {
                self.paths.remove(&p);
            }
        }
        self.paths.remove(path);
    }

    fn place(&mut self, entry: &Entry, real: Box<[u8]>, kind: NodeKind) {
        self.remove(&real);
        let node = Node {
            inode: self.inode(),
            kind,
            meta: entry.meta.clone(),
        };
        self.paths.insert(real, node);
    }

    /// Removes under `dir` what this layer did not put there.
    fn hide(&mut self, dir: &[u8]) {
        for path in self.under(dir) {
            if self.implied.contains(&path) {
                let inode = self.paths.get(&path).map(|n| n.inode);
                if self.is_dir(&path) {
                    let mut fresh = self.fresh_dir();
                    fresh.inode = inode.unwrap_or(fresh.inode);
                    self.paths.insert(path, fresh);
                }
            } else if !self.listed.contains(&path) {
                self.remove(&path);
            }
        }
    }

    fn whiteout(&mut self, dir: &[u8], name: &[u8]) -> Result<()> {
        let Some(dir) = self.resolve(dir, false)? else {
            return Ok(());
        };
        let path = crate::root::join(&dir, name);
        self.passed.check_whiteout(&path)?;
        if self.implied.contains(&path) && self.is_dir(&path) {
            let fresh = self.fresh_dir();
            self.paths.insert(path.clone(), fresh);
        } else if !self.listed.contains(&path) {
            self.remove(&path);
            return Ok(());
        }
        self.hide(&path);
        Ok(())
    }

    /// Directories on the way that the layer has no entry for count as implied by it.
    fn note(&mut self, real: &[u8]) {
        self.listed.insert(real.into());
        self.implied.remove(real);
        let mut above = split(real).0;
        while !above.is_empty() {
            if !self.listed.contains(above) {
                self.implied.insert(above.into());
            }
            above = split(above).0;
        }
    }

    fn apply(&mut self, entry: Entry) -> Result<Want> {
        check(&entry)?;
        count(&mut self.counts, &entry)?;
        let (above, name) = split(&entry.path);
        match entry.role()? {
            Role::Plain => {}
            Role::AufsResidue => return Ok(Want::Skip),
            Role::Whiteout { name } => return self.whiteout(above, name).map(|()| Want::Skip),
            Role::Opaque => {
                if let Some(dir) = self.resolve(above, false)? {
                    self.passed.check_opaque(&dir)?;
                    self.hide(&dir);
                }
                return Ok(Want::Skip);
            }
        }
        if entry.path.is_empty() {
            if let Some(root) = self.paths.get_mut(&[][..]) {
                root.meta = entry.meta;
            }
            return Ok(Want::Skip);
        }
        let dir = self.resolve(above, true)?.unwrap_or_default();
        let real = crate::root::join(&dir, name);
        if self.listed.contains(&real) {
            self.counts.duplicates += 1;
        }
        self.note(&real);
        match &entry.kind {
            EntryKind::Dir => {
                if let Some(Node {
                    kind: NodeKind::Dir,
                    meta,
                    ..
                }) = self.paths.get_mut(&real)
                {
                    *meta = entry.meta;
                } else {
                    self.place(&entry, real, NodeKind::Dir);
                }
            }
            EntryKind::File { .. } => {
                self.current = Some((entry, real, Hasher::new(Algorithm::Sha256), 0));
                return Ok(Want::Payload);
            }
            EntryKind::Symlink { target } => {
                let target = target.clone();
                self.place(&entry, real, NodeKind::Symlink { target });
            }
            EntryKind::HardLink { target } => self.hard_link(real, target)?,
            &EntryKind::Char { major, minor } => {
                self.place(&entry, real, NodeKind::Char { major, minor });
            }
            &EntryKind::Block { major, minor } => {
                self.place(&entry, real, NodeKind::Block { major, minor });
            }
            EntryKind::Fifo => self.place(&entry, real, NodeKind::Fifo),
        }
        Ok(Want::Skip)
    }

    fn hard_link(&mut self, real: Box<[u8]>, target: &[u8]) -> Result<()> {
        let missing = || {
            Error::bad(format!(
                "hard link to `{}`, which does not exist",
                show(target)
            ))
        };
        let (above, name) = split(target);
        let dir = self.resolve(above, false)?.ok_or_else(missing)?;
        let from = crate::root::join(&dir, name);
        let node = self.paths.get(&from).ok_or_else(missing)?.clone();
        if from == real {
            return Ok(());
        }
        if node.kind == NodeKind::Dir {
            return Err(Error::bad("hard link to a directory"));
        }
        self.remove(&real);
        // Removing a directory in the way may have removed the target.
        if !self.paths.contains_key(&from) {
            return Err(missing());
        }
        self.paths.insert(real, node);
        Ok(())
    }
}

impl Sink for TreeSink {
    fn begin(&mut self) -> Result<()> {
        self.listed.clear();
        self.implied.clear();
        self.passed.clear();
        self.counts = Counts::default();
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<Want> {
        let (index, path) = (entry.index, entry.path.clone());
        self.apply(entry).map_err(|e| e.at_entry(index, &path))
    }

    fn payload(&mut self, at: u64, bytes: Bytes) -> Result<()> {
        if let Some((_, _, hasher, end)) = &mut self.current {
            zeros(hasher, at - *end);
            hasher.update(&bytes);
            *end = at + bytes.len() as u64;
        }
        Ok(())
    }

    fn end_entry(&mut self) -> Result<()> {
        if let Some((entry, real, mut hasher, end)) = self.current.take() {
            let EntryKind::File { size, .. } = entry.kind else {
                return Ok(());
            };
            zeros(&mut hasher, size - end);
            self.place(
                &entry,
                real,
                NodeKind::File {
                    size,
                    content: hasher.finish(),
                },
            );
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Applied> {
        Ok(Applied {
            counts: std::mem::take(&mut self.counts),
            skipped: Vec::new(),
        })
    }
}

fn zeros(hasher: &mut Hasher, mut n: u64) {
    while n > 0 {
        let step = usize::try_from(n).map_or(ZEROS.len(), |n| n.min(ZEROS.len()));
        hasher.update(&ZEROS[..step]);
        n -= step as u64;
    }
}
