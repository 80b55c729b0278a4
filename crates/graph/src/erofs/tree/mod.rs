//! The merged tree of an image's layers in memory, about 120 bytes a path and its name: what an
//! index is written from.
//!
//! Layers are applied in order by the rules of [`TreeSink`](unlade_unpack::TreeSink); instead of
//! digests of contents it keeps where they lie.

mod apply;
mod names;

use std::collections::{BTreeSet, HashMap};

use unlade_unpack::{
    Error, Kind, Passed, Result,
    entry::{Time, Xattrs},
};

use self::names::{NONE, Table};
use super::{
    content::{BLOCK, Chunks, HOLE, SPILLED},
    format::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG},
};

/// Inodes that the layers of an image may make, those included that later layers remove.
const INODES_MOST: usize = 20_000_000;
/// Bytes of different sets of extended attributes that are kept in memory.
const XATTR_BYTES_MOST: usize = 256 << 20;
/// Bytes of paths of lower symlinks that a layer's entries may go through.
const PASSED_BYTES_MOST: usize = 256 << 20;

/// A merged tree.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    entries: Vec<Entry>,
    /// Removed entries, to be used again.
    free: Vec<u32>,
    table: Table,
    /// Names and link targets.
    text: Vec<u8>,
    chunks: Vec<Chunks>,
    xattrs: Vec<Xattrs>,
    xattr_numbers: HashMap<Xattrs, u32>,
    /// Counts from 1.
    layer: u16,
    /// The last directory found, with the path that it was found by.
    recent: Option<(Box<[u8]>, u32)>,
    /// The last directory that is known to be marked, with all above it, as in use by the layer.
    noted: Option<u32>,
    xattr_bytes: usize,
    /// Lower symlinks that the layer's entries went through.
    passed: Passed,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
struct Entry {
    name: u32,
    dir: u32,
    inode: u32,
    next: u32,
    previous: u32,
    /// The layer that has an entry for this path or for one below it.
    layer: u16,
    name_len: u8,
    /// Whether that layer has an entry for this very path.
    listed: bool,
}

/// An inode. What `at` and `source` mean depends on the type.
#[derive(Debug, Clone)]
struct Inode {
    /// Bytes of a file or a link target; a device's number.
    size: u64,
    /// Offset in a source, number of chunks, offset in `text`; a directory's first entry.
    at: u64,
    secs: i64,
    nanos: u32,
    uid: u32,
    gid: u32,
    /// Which source; [`NONE`] for a hole. A directory's own entry.
    source: u32,
    links: u32,
    xattrs: u32,
    mode: u16,
    has_chunks: bool,
}

/// Number of an inode in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

impl InodeId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of a name in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameId(u32);

/// A file that image data is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The tar of the layer with this number, from 0.
    Tar(u16),
    /// What that layer spilled.
    Spill(u16),
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node<'a> {
    /// A regular file.
    File(Data<'a>),
    /// A directory.
    Dir,
    /// A symbolic link to this.
    Symlink(&'a [u8]),
    /// A character device: major, minor.
    Char(u32, u32),
    /// A block device: major, minor.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data<'a> {
    /// None, or all zeros.
    Hole,
    /// In one piece: where, and at which byte, a multiple of 512.
    Whole(Source, u64),
    /// In chunks of a layer.
    Chunks(u16, &'a Chunks),
}

impl Data<'_> {
    /// The pieces of a file of `size` bytes that are not holes, in order: offset in the file,
    /// length, where, offset there.
    pub fn pieces(self, size: u64) -> impl Iterator<Item = (u64, u64, Source, u64)> {
        let (chunks, whole) = match self {
            Self::Hole => (None, None),
            Self::Whole(source, at) => (None, Some((0, size, source, at))),
            Self::Chunks(layer, chunks) => (Some((layer, chunks)), None),
        };
        let chunks = chunks.into_iter().flat_map(move |(layer, chunks)| {
            let whole = chunks.blocks.iter().zip(0_u64..);
            whole
                .filter(|(block, _)| **block != HOLE)
                .map(move |(&block, i)| {
                    let offset = i << chunks.bits;
                    let source = if block & SPILLED == 0 {
                        Source::Tar(layer)
                    } else {
                        Source::Spill(layer)
                    };
                    (
                        offset,
                        (size - offset).min(1 << chunks.bits),
                        source,
                        (block & !SPILLED) * BLOCK,
                    )
                })
        });
        whole.into_iter().chain(chunks)
    }
}

/// An inode's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Time,
    /// Bytes of a file or link target.
    pub size: u64,
    /// Hard links; for a directory with those of its subdirectories.
    pub links: u32,
    /// Number of its set of extended attributes: see [`Tree::xattrs`].
    pub xattrs: u32,
}

impl Tree {
    /// A tree of just the root directory.
    pub fn new() -> Self {
        let mut this = Self {
            inodes: Vec::new(),
            entries: Vec::new(),
            free: Vec::new(),
            table: Table::default(),
            text: Vec::new(),
            chunks: Vec::new(),
            xattrs: vec![Xattrs::new()],
            xattr_numbers: HashMap::from([(Xattrs::new(), 0)]),
            layer: 0,
            recent: None,
            noted: None,
            xattr_bytes: 0,
            passed: Passed::default(),
        };
        this.inodes.push(Inode::fresh_dir());
        this
    }

    /// The root.
    pub fn root(&self) -> InodeId {
        InodeId(0)
    }

    /// How many inodes were ever made; numbers are below this.
    pub fn inodes(&self) -> usize {
        self.inodes.len()
    }

    /// What an inode is.
    pub fn node(&self, id: InodeId) -> Node<'_> {
        let inode = &self.inodes[id.index()];
        let device = || (high(inode.size), low(inode.size));
        match u32::from(inode.mode) & S_IFMT {
            S_IFREG => Node::File(self.data(inode)),
            S_IFLNK => {
                let (at, len) = (index(inode.at), index(inode.size));
                Node::Symlink(&self.text[at..at + len])
            }
            S_IFCHR => Node::Char(device().0, device().1),
            S_IFBLK => Node::Block(device().0, device().1),
            S_IFIFO => Node::Fifo,
            _ => Node::Dir,
        }
    }

    fn data(&self, inode: &Inode) -> Data<'_> {
        let layer = u16::try_from(inode.source / 2).unwrap_or(u16::MAX);
        if inode.source == NONE {
            Data::Hole
        } else if inode.has_chunks {
            Data::Chunks(layer, &self.chunks[index(inode.at)])
        } else {
            Data::Whole(Source::Tar(layer), inode.at)
        }
    }

    /// An inode's attributes.
    pub fn stat(&self, id: InodeId) -> Stat {
        let inode = &self.inodes[id.index()];
        let mode = u32::from(inode.mode);
        let sized = matches!(mode & S_IFMT, S_IFREG | S_IFLNK);
        Stat {
            mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: Time {
                secs: inode.secs,
                nanos: inode.nanos,
            },
            size: if sized { inode.size } else { 0 },
            links: inode.links,
            xattrs: inode.xattrs,
        }
    }

    /// A set of extended attributes. Number 0 is the empty one.
    pub fn xattrs(&self, number: u32) -> &Xattrs {
        &self.xattrs[number as usize]
    }

    /// How many such sets there are.
    pub fn xattr_sets(&self) -> usize {
        self.xattrs.len()
    }

    /// The directory above; the root is its own.
    pub fn parent(&self, dir: InodeId) -> InodeId {
        InodeId(self.above(dir.0))
    }

    /// The names in a directory, in no order.
    pub fn names(&self, dir: InodeId) -> impl Iterator<Item = NameId> {
        let mut next = self.first(dir.0);
        std::iter::from_fn(move || {
            let id = next;
            next = self.entries.get(id as usize)?.next;
            Some(NameId(id))
        })
    }

    /// A name, and the inode that it names.
    pub fn name_of(&self, id: NameId) -> (&[u8], InodeId) {
        let entry = &self.entries[id.0 as usize];
        (self.name(entry), InodeId(entry.inode))
    }

    /// The files that the data of the tree's files is in, in order.
    pub fn sources(&self) -> BTreeSet<Source> {
        let mut out = BTreeSet::new();
        for (inode, id) in self.inodes.iter().zip(0..) {
            if inode.links == 0 {
                continue;
            }
            match self.node(InodeId(id)) {
                Node::File(Data::Whole(source, _)) => {
                    out.insert(source);
                }
                Node::File(data @ Data::Chunks(..)) => {
                    out.extend(data.pieces(inode.size).map(|p| p.2));
                }
                _ => {}
            }
        }
        out
    }

    /// What is in a directory, in no order.
    pub fn children(&self, dir: InodeId) -> impl Iterator<Item = (&[u8], InodeId)> {
        self.names(dir).map(|id| self.name_of(id))
    }

    fn first(&self, dir: u32) -> u32 {
        u32::try_from(self.inodes[dir as usize].at).unwrap_or(NONE)
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        let at = entry.name as usize;
        &self.text[at..at + usize::from(entry.name_len)]
    }

    fn is_dir(&self, inode: u32) -> bool {
        u32::from(self.inodes[inode as usize].mode) & S_IFMT == S_IFDIR
    }

    /// The directory above; the root is its own.
    fn above(&self, dir: u32) -> u32 {
        let own = self.inodes[dir as usize].source;
        self.entries.get(own as usize).map_or(dir, |e| e.dir)
    }

    /// The path of a directory.
    fn real_path(&self, dir: u32) -> Vec<u8> {
        match self.inodes[dir as usize].source {
            NONE => Vec::new(),
            own => self.path_of(own),
        }
    }

    /// The path of an entry.
    fn path_of(&self, entry: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut next = self.entries.get(entry as usize);
        while let Some(entry) = next {
            names.push(self.name(entry));
            let above = self.inodes[entry.dir as usize].source;
            next = self.entries.get(above as usize);
        }
        names.reverse();
        names.join(&b'/')
    }

    fn look_up(&self, dir: u32, name: &[u8]) -> Option<u32> {
        let hash = self.table.hash(dir, name);
        self.table.find(hash, |e| {
            let entry = &self.entries[e as usize];
            entry.dir == dir && self.name(entry) == name
        })
    }

    fn text(&mut self, bytes: &[u8]) -> Result<u32> {
        let at = u32::try_from(self.text.len()).map_err(|_| too_many())?;
        self.text.extend_from_slice(bytes);
        Ok(at)
    }

    fn add_inode(&mut self, inode: Inode) -> Result<u32> {
        if self.inodes.len() >= INODES_MOST {
            return Err(too_many());
        }
        self.inodes.push(inode);
        u32::try_from(self.inodes.len() - 1).map_err(|_| too_many())
    }

    /// Adds a name that is not there.
    fn link(&mut self, dir: u32, name: &[u8], inode: u32) -> Result<u32> {
        let first = self.first(dir);
        let entry = Entry {
            name: self.text(name)?,
            dir,
            inode,
            next: first,
            previous: NONE,
            layer: 0,
            name_len: u8::try_from(name.len()).map_err(|_| too_many())?,
            listed: false,
        };
        let id = if let Some(id) = self.free.pop() {
            self.entries[id as usize] = entry;
            id
        } else {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).map_err(|_| too_many())?
        };
        if let Some(first) = self.entries.get_mut(first as usize) {
            first.previous = id;
        }
        self.inodes[dir as usize].at = id.into();
        if self.is_dir(inode) {
            self.inodes[dir as usize].links += 1;
            self.inodes[inode as usize].source = id;
        } else {
            self.inodes[inode as usize].links += 1;
        }
        let hash = self.table.hash(dir, name);
        let Self {
            table,
            entries,
            text,
            ..
        } = self;
        table.add(hash, id, |table, e| {
            let entry = &entries[e as usize];
            let at = entry.name as usize;
            table.hash(entry.dir, &text[at..at + usize::from(entry.name_len)])
        });
        Ok(id)
    }

    /// Takes a name away, and if it is a directory's all below it.
    fn unlink(&mut self, id: u32) {
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            let entry = self.entries[id as usize];
            if self.is_dir(entry.inode) {
                let first = self.first(entry.inode);
                if first != NONE {
                    // Comes back when the directory is empty.
                    todo.extend([id, first]);
                    continue;
                }
                self.inodes[entry.dir as usize].links -= 1;
                self.inodes[entry.inode as usize].links = 0;
                (self.recent, self.noted) = (None, None);
            } else {
                self.inodes[entry.inode as usize].links -= 1;
                if u32::from(self.inodes[entry.inode as usize].mode) & S_IFMT == S_IFLNK {
                    self.recent = None;
                }
            }
            let hash = self.table.hash(entry.dir, self.name(&entry));
            self.table.remove(hash, id);
            match self.entries.get_mut(entry.previous as usize) {
                Some(previous) => previous.next = entry.next,
                None => self.inodes[entry.dir as usize].at = entry.next.into(),
            }
            if let Some(next) = self.entries.get_mut(entry.next as usize) {
                next.previous = entry.previous;
            }
            self.free.push(id);
        }
    }

    fn xattr_number(&mut self, set: Xattrs) -> Result<u32> {
        if let Some(&number) = self.xattr_numbers.get(&set) {
            return Ok(number);
        }
        let number = u32::try_from(self.xattrs.len()).map_err(|_| too_many())?;
        self.xattr_bytes += set
            .iter()
            .map(|(n, v)| n.len() + v.len() + 64)
            .sum::<usize>();
        if self.xattr_bytes > XATTR_BYTES_MOST {
            let message = "the image has more than 256 MiB of different extended attributes";
            return Err(Error::new(Kind::Limit, message));
        }
        self.xattrs.push(set.clone());
        self.xattr_numbers.insert(set, number);
        Ok(number)
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Inode {
    /// A directory that exists only because something is in it.
    fn fresh_dir() -> Self {
        Self {
            size: 0,
            at: NONE.into(),
            secs: 0,
            nanos: 0,
            uid: 0,
            gid: 0,
            source: NONE,
            links: 2,
            xattrs: 0,
            mode: 0o040_755,
            has_chunks: false,
        }
    }
}

fn too_many() -> Error {
    Error::new(
        Kind::Limit,
        "the image's layers have more than 20 million files, or 4 GiB of names",
    )
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn low(n: u64) -> u32 {
    u32::try_from(n & 0xffff_ffff).unwrap_or(0)
}

fn high(n: u64) -> u32 {
    low(n >> 32)
}
