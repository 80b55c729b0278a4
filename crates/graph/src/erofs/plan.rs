//! Where everything in an image goes: the first of the writer's two passes.

use std::collections::HashMap;

use unlade_unpack::{Error, Kind, Result, entry::Time};

use super::{
    content::BLOCK,
    format::{Compact, Device, Dirent, Extended, SLOT, SUPER_OFFSET, Super},
    tree::{Data, InodeId, NameId, Node, Source, Tree},
    writer::{Payload, Placed, Written},
    xattr_area::XattrArea,
};

/// Different times counted in the search for the most frequent.
const TIMES_MOST: usize = 4096;
const NONE: u32 = u32::MAX;

/// Where an inode's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It has none.
    Nothing,
    /// Full blocks here, the rest behind the inode.
    Inline(u64),
    /// In blocks from this byte on.
    Outside(u64),
    /// In chunks with this format: log2 of their blocks.
    Chunks(u16),
}

/// A directory's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirPlan {
    pub(super) inode: InodeId,
    first: usize,
    count: usize,
    /// Bytes of its data.
    size: u64,
    /// Blocks that stand at `blocks`; the rest is inline.
    pub(super) full: u64,
    pub(super) blocks: u64,
}

/// A whole image's layout.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) block_bits: u32,
    pub(super) dirs: Vec<DirPlan>,
    names: Vec<NameId>,
    /// Inode numbers; 0 for inodes that are not in the tree any more.
    slots: Vec<u32>,
    dir_numbers: HashMap<InodeId, u32>,
    /// Where long link targets go, and the data of files with [`Payload::Inside`].
    outside: HashMap<InodeId, u64>,
    data: Vec<Placed>,
    devices: Option<HashMap<Source, u16>>,
    pub(super) xattrs: XattrArea,
    pub(super) xattr_start: u64,
    pub(super) meta_start: u64,
    pub(super) meta_end: u64,
    pub(super) total: u64,
    pub(super) count: u64,
    pub(super) epoch: Time,
}

impl Plan {
    pub(super) fn new(tree: &Tree, payload: Payload<'_>) -> Result<Self> {
        let (block_bits, devices) = match payload {
            Payload::Inside => (12, None),
            Payload::Devices(list) => {
                let number = |i: usize| u16::try_from(i + 1).map_err(|_| too_large());
                let numbered = list.iter().enumerate();
                let map: Result<_> = numbered.map(|(i, d)| Ok((d.source, number(i)?))).collect();
                (BLOCK.trailing_zeros(), Some(map?))
            }
        };
        let mut this = Self {
            block_bits,
            dirs: Vec::new(),
            names: Vec::new(),
            slots: vec![0; tree.inodes()],
            dir_numbers: HashMap::new(),
            outside: HashMap::new(),
            data: Vec::new(),
            devices,
            xattrs: XattrArea::default(),
            xattr_start: 0,
            meta_start: 0,
            meta_end: 0,
            total: 0,
            count: 0,
            epoch: Time::default(),
        };
        this.collect(tree)?;
        let devices = this.devices.as_ref().map_or(0, HashMap::len) as u64;
        let head = SUPER_OFFSET + size_of::<Super>() as u64 + devices * size_of::<Device>() as u64;
        this.xattr_start = head.next_multiple_of(this.block());
        let shared = this.xattrs.shared_bytes().len() as u64;
        this.meta_start = (this.xattr_start + shared).next_multiple_of(this.block());
        this.allocate(tree)?;
        Ok(this)
    }

    pub(super) fn block(&self) -> u64 {
        1 << self.block_bits
    }

    /// Directories in pre-order with sorted names; users of attributes; the most frequent time.
    fn collect(&mut self, tree: &Tree) -> Result<()> {
        let mut users = vec![0_u32; tree.xattr_sets()];
        let mut times: HashMap<(i64, u32), u64> = HashMap::new();
        let mut todo = vec![tree.root()];
        let mut seen = |this: &mut Self, id: InodeId| {
            if std::mem::replace(&mut this.slots[id.index()], NONE) == NONE {
                return;
            }
            this.count += 1;
            let stat = tree.stat(id);
            users[stat.xattrs as usize] += 1;
            let time = (stat.mtime.secs, stat.mtime.nanos);
            if times.len() < TIMES_MOST || times.contains_key(&time) {
                *times.entry(time).or_default() += 1;
            }
        };
        seen(self, tree.root());
        while let Some(inode) = todo.pop() {
            let first = self.names.len();
            self.names.extend(tree.names(inode));
            let (name, root) = (|id: &NameId| tree.name_of(*id).0, todo.len());
            self.names[first..].sort_unstable_by(|a, b| name(a).cmp(name(b)));
            for at in first..self.names.len() {
                let (_, kid) = tree.name_of(self.names[at]);
                seen(self, kid);
                if tree.node(kid) == Node::Dir {
                    todo.push(kid);
                }
            }
            todo[root..].reverse();
            let number = u32::try_from(self.dirs.len()).map_err(|_| too_large())?;
            self.dir_numbers.insert(inode, number);
            self.dirs.push(DirPlan {
                inode,
                first,
                count: self.names.len() - first,
                size: 0,
                full: 0,
                blocks: 0,
            });
        }
        let best = times
            .into_iter()
            .max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)));
        let (secs, nanos) = best.map(|b| b.0).unwrap_or_default();
        self.epoch = Time { secs, nanos };
        let sets: Vec<_> = (0_u32..)
            .zip(&users)
            .map(|(n, users)| (tree.xattrs(n), *users))
            .collect();
        self.xattrs = XattrArea::new(&sets)?;
        Ok(())
    }

    fn allocate(&mut self, tree: &Tree) -> Result<()> {
        for number in 0..self.dirs.len() {
            let (mut size, mut last) = (0_u64, 0_u64);
            for names in self.dir_packs(tree, &self.dirs[number]) {
                // A block counts whole unless it is the last.
                size = (size + last).next_multiple_of(self.block());
                last = names
                    .iter()
                    .map(|n| n.0.len() + size_of::<Dirent>())
                    .sum::<usize>() as u64;
            }
            size += last;
            let inode = self.dirs[number].inode;
            let tail = size % self.block();
            let fits = tail > 0 && self.head(tree, inode) + tail <= self.block();
            let dir = &mut self.dirs[number];
            dir.size = size;
            dir.full = if fits {
                size >> self.block_bits
            } else {
                size.div_ceil(1 << self.block_bits)
            };
        }
        self.slots.fill(0);
        // No inode has number 0: some programs take that for a deleted name.
        let mut at = self.meta_start + SLOT;
        self.allocate_inode(tree, tree.root(), &mut at)?;
        for number in 0..self.dirs.len() {
            let dir = self.dirs[number];
            if dir.full > 0 {
                at = at.next_multiple_of(self.block());
                self.dirs[number].blocks = at;
                at += dir.full << self.block_bits;
            }
            let mut links = Vec::new();
            for i in dir.first..dir.first + dir.count {
                let (_, kid) = tree.name_of(self.names[i]);
                if self.slots[kid.index()] != 0 {
                    continue;
                }
                self.allocate_inode(tree, kid, &mut at)?;
                if let Node::Symlink(target) = tree.node(kid)
                    && !self.fits(tree, kid, target.len() as u64)
                {
                    links.push((kid, target.len() as u64));
                }
            }
            for (kid, len) in links {
                at = at.next_multiple_of(self.block());
                self.outside.insert(kid, at);
                at += len;
            }
        }
        self.meta_end = at.next_multiple_of(self.block());
        self.total = self.meta_end;
        if self.devices.is_none() {
            self.allocate_data(tree);
        }
        if self.total >> self.block_bits > u64::from(u32::MAX) {
            return Err(too_large());
        }
        Ok(())
    }

    /// Gives every file with data its room, in the order of the inodes.
    fn allocate_data(&mut self, tree: &Tree) {
        for i in 0..self.names.len() {
            let (_, inode) = tree.name_of(self.names[i]);
            let size = tree.stat(inode).size;
            match tree.node(inode) {
                Node::File(Data::Whole(..) | Data::Chunks(..)) if size > 0 => {}
                _ => continue,
            }
            if self.outside.contains_key(&inode) {
                continue;
            }
            let at = self.total;
            self.outside.insert(inode, at);
            self.data.push(Placed { inode, at, size });
            self.total = (at + size).next_multiple_of(self.block());
        }
    }

    fn allocate_inode(&mut self, tree: &Tree, id: InodeId, at: &mut u64) -> Result<()> {
        let mut here = at.next_multiple_of(SLOT);
        let head = self.head(tree, id);
        let tail = match tree.node(id) {
            Node::Dir => match self.dir(id) {
                Some(dir) => dir.size.saturating_sub(dir.full << self.block_bits),
                None => 0,
            },
            Node::Symlink(target) if self.fits(tree, id, target.len() as u64) => {
                target.len() as u64
            }
            _ => 0,
        };
        // Inline data may not cross a block's end.
        if tail > 0 && here % self.block() + head + tail > self.block() {
            here = here.next_multiple_of(self.block());
        }
        *at = here + head + tail;
        if let Node::File(_) = tree.node(id)
            && self.is_chunked(tree, id)
        {
            let count = tree.stat(id).size.div_ceil(1 << self.chunk_bits(tree, id));
            *at = at.next_multiple_of(8) + 8 * count;
        }
        let slot = u32::try_from((here - self.meta_start) / SLOT);
        self.slots[id.index()] = slot.map_err(|_| too_large())?;
        Ok(())
    }

    /// Bytes of an inode with its attributes.
    fn head(&self, tree: &Tree, id: InodeId) -> u64 {
        let inode = if self.compact(tree, id) {
            size_of::<Compact>()
        } else {
            size_of::<Extended>()
        };
        (inode + self.xattrs.of(tree.stat(id).xattrs).len()) as u64
    }

    fn fits(&self, tree: &Tree, id: InodeId, tail: u64) -> bool {
        self.head(tree, id) + tail <= self.block()
    }

    /// Whether the short form of inodes holds all.
    pub(super) fn compact(&self, tree: &Tree, id: InodeId) -> bool {
        let stat = tree.stat(id);
        let small = |n: u32| u16::try_from(n).is_ok();
        small(stat.uid)
            && small(stat.gid)
            && small(stat.links)
            && u32::try_from(self.size(tree, id)).is_ok()
            && stat.mtime == self.epoch
    }

    /// Bytes of an inode's data.
    pub(super) fn size(&self, tree: &Tree, id: InodeId) -> u64 {
        match tree.node(id) {
            Node::Dir => self.dir(id).map_or(0, |d| d.size),
            _ => tree.stat(id).size,
        }
    }

    fn is_chunked(&self, tree: &Tree, id: InodeId) -> bool {
        match tree.node(id) {
            Node::File(Data::Whole(..)) => self.devices.is_some(),
            Node::File(_) => tree.stat(id).size > 0,
            _ => false,
        }
    }

    /// Log2 of the bytes of a file's chunks.
    pub(super) fn chunk_bits(&self, tree: &Tree, id: InodeId) -> u32 {
        match tree.node(id) {
            Node::File(Data::Chunks(_, chunks)) => chunks.bits.max(self.block_bits),
            _ => {
                let size = tree.stat(id).size.max(1);
                let whole = size.next_power_of_two().trailing_zeros();
                whole.clamp(self.block_bits, self.block_bits + 31)
            }
        }
    }

    pub(super) fn place(&self, tree: &Tree, id: InodeId) -> Place {
        match tree.node(id) {
            Node::Dir => match self.dir(id) {
                Some(dir) if dir.size > dir.full << self.block_bits => Place::Inline(dir.blocks),
                Some(dir) => Place::Outside(dir.blocks),
                None => Place::Nothing,
            },
            Node::File(_) if self.is_chunked(tree, id) => {
                let bits = self.chunk_bits(tree, id) - self.block_bits;
                Place::Chunks(u16::try_from(bits).unwrap_or(0))
            }
            Node::File(_) | Node::Symlink(_) => match self.outside.get(&id) {
                Some(&at) => Place::Outside(at),
                None if matches!(tree.node(id), Node::File(_)) => Place::Nothing,
                None => Place::Inline(0),
            },
            _ => Place::Nothing,
        }
    }

    pub(super) fn dir(&self, id: InodeId) -> Option<&DirPlan> {
        self.dirs.get(*self.dir_numbers.get(&id)? as usize)
    }

    pub(super) fn kids(&self, dir: &DirPlan) -> &[NameId] {
        &self.names[dir.first..dir.first + dir.count]
    }

    /// A directory's names, with `.` and `..`, block by block.
    pub(super) fn dir_packs<'a>(
        &'a self,
        tree: &'a Tree,
        dir: &DirPlan,
    ) -> impl Iterator<Item = Vec<(&'a [u8], InodeId)>> + use<'a> {
        let mut dots = [
            (b".".as_slice(), dir.inode),
            (b"..", tree.parent(dir.inode)),
        ]
        .into_iter()
        .peekable();
        let mut names = (self.names[dir.first..dir.first + dir.count].iter())
            .map(|id| tree.name_of(*id))
            .peekable();
        let mut all = std::iter::from_fn(move || match (dots.peek(), names.peek()) {
            (Some(dot), Some(name)) if name.0 < dot.0 => names.next(),
            (Some(_), _) => dots.next(),
            _ => names.next(),
        })
        .peekable();
        let block = 1_usize << self.block_bits;
        std::iter::from_fn(move || {
            let mut used = 0;
            let mut pack = Vec::new();
            while let Some(next) = all.next_if(|n| used + n.0.len() + size_of::<Dirent>() <= block)
            {
                used += next.0.len() + size_of::<Dirent>();
                pack.push(next);
            }
            (!pack.is_empty()).then_some(pack)
        })
    }

    pub(super) fn nid(&self, id: InodeId) -> u64 {
        self.slots[id.index()].into()
    }

    pub(super) fn position(&self, id: InodeId) -> u64 {
        self.meta_start + self.nid(id) * SLOT
    }

    pub(super) fn data_at(&self, id: InodeId) -> u64 {
        self.outside.get(&id).copied().unwrap_or(0)
    }

    pub(super) fn to_block(&self, at: u64) -> Result<u32> {
        let block = u32::try_from(at >> self.block_bits)
            .ok()
            .filter(|b| *b != NONE);
        let aligned = at.is_multiple_of(self.block());
        block.filter(|_| aligned).ok_or_else(too_large)
    }

    pub(super) fn device(&self, source: Source) -> Result<u16> {
        let found = self.devices.as_ref().and_then(|d| d.get(&source));
        let bug = || {
            Error::new(
                Kind::Bug,
                "an image points at a device that it does not have",
            )
        };
        found.copied().ok_or_else(bug)
    }

    pub(super) fn written(self) -> Written {
        Written {
            bytes: self.meta_end,
            total: self.total,
            data: self.data,
        }
    }
}

fn too_large() -> Error {
    Error::new(Kind::Limit, "the image is larger than EROFS can address")
}
