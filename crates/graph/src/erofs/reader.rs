//! Reads images, of ours and of strangers: for tests, checks and fuzzing. Whatever the bytes, it
//! gives a tree or an error, in time bounded by their number.

use std::collections::HashSet;

use unlade_unpack::{
    Error, Kind, Result,
    entry::{Time, Xattrs},
};
use zerocopy::FromBytes;

use super::format::{
    self, CHUNK_BITS, CHUNK_INDEXES, COMPAT_CHECKSUM, ChunkIndex, Compact, Device, Dirent,
    Extended, FORMAT_EXTENDED, INCOMPAT_CHUNKED, INCOMPAT_DEVICES, MAGIC, NULL_BLOCK, S_IFDIR,
    S_IFMT, S_IFREG, SLOT, SUPER_OFFSET, Super, XATTR_PREFIXES, XattrEntry, XattrHead,
};

/// Pieces of one file that are given at most.
const PIECES_MOST: u64 = 1 << 24;

/// An image whose metadata is in memory.
#[derive(Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    /// Its superblock.
    pub head: Super,
}

/// An inode as read.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Its number.
    pub nid: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Time,
    /// Hard links.
    pub links: u32,
    /// Bytes of data.
    pub size: u64,
    /// Whether it takes 64 bytes.
    pub extended: bool,
    /// How data is found: [`format::Layout`] as a number.
    pub layout: u16,
    data: u32,
    xattr_at: u64,
    xattr_len: u64,
}

/// A piece of a file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Which device: 0 for the image itself.
    pub device: u16,
    /// Byte in the device.
    pub at: u64,
}

/// A path of the tree.
#[derive(Debug, Clone)]
pub struct Found {
    /// The path; empty for the root.
    pub path: Vec<u8>,
    /// What is there.
    pub inode: Inode,
}

impl<'a> Image<'a> {
    /// An image from its bytes. Data behind the metadata may be missing.
    ///
    /// # Errors
    /// If the superblock is none of ours, or damaged.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let head: Super = read(bytes, SUPER_OFFSET)?;
        if head.magic != MAGIC {
            return Err(bad("no EROFS superblock"));
        }
        if !(9..=12).contains(&head.block_bits) || head.dir_bits != 0 || head.ext_slots != 0 {
            return Err(bad("an EROFS geometry that is not supported"));
        }
        if head.incompat & !(INCOMPAT_CHUNKED | INCOMPAT_DEVICES) != 0 {
            return Err(bad("EROFS features that are not supported"));
        }
        let this = Self { bytes, head };
        if head.compat & COMPAT_CHECKSUM != 0 {
            let block = this.block();
            let len = if block > SUPER_OFFSET {
                block - SUPER_OFFSET
            } else {
                block
            };
            if head.checksum != format::checksum(slice(bytes, SUPER_OFFSET, len)?) {
                return Err(bad("the superblock's checksum does not hold"));
            }
        }
        Ok(this)
    }

    fn block(&self) -> u64 {
        1 << self.head.block_bits
    }

    /// Tags and blocks of the extra devices.
    ///
    /// # Errors
    /// If their table is cut short.
    pub fn devices(&self) -> Result<Vec<([u8; 64], u32)>> {
        if self.head.incompat & INCOMPAT_DEVICES == 0 {
            return Ok(Vec::new());
        }
        let slot = size_of::<Device>() as u64;
        let start = u64::from(self.head.device_slot) * slot;
        let slots = 0..u64::from(self.head.devices);
        slots
            .map(|i| read::<Device>(self.bytes, start + i * slot))
            .map(|d| d.map(|d| (d.tag, d.blocks.get())))
            .collect()
    }

    /// The root.
    ///
    /// # Errors
    /// If it is damaged, or no directory.
    pub fn root(&self) -> Result<Inode> {
        let root = self.inode(self.head.root.get().into())?;
        if root.mode & S_IFMT == S_IFDIR {
            Ok(root)
        } else {
            Err(bad("the root is not a directory"))
        }
    }

    /// The inode with a number.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn inode(&self, nid: u64) -> Result<Inode> {
        let start = u64::from(self.head.meta_block.get()) << self.head.block_bits;
        let at = nid.checked_mul(SLOT).and_then(|n| n.checked_add(start));
        let at = at.ok_or_else(|| bad("an inode beyond the image"))?;
        let short: Compact = read(self.bytes, at)?;
        let format = short.format.get();
        if format & !0xf != 0 {
            return Err(bad("an inode of an unknown format"));
        }
        let extended = format & FORMAT_EXTENDED != 0;
        let xattr_len = match u64::from(short.xattr_count.get()) {
            0 => 0,
            n => 12 + 4 * (n - 1),
        };
        let mut inode = Inode {
            nid,
            mode: short.mode.get().into(),
            uid: short.uid.get().into(),
            gid: short.gid.get().into(),
            mtime: Time {
                secs: self.head.epoch.get().cast_signed(),
                nanos: self.head.nanos.get(),
            },
            links: short.nlink.get().into(),
            size: short.size.get().into(),
            extended,
            layout: format >> 1,
            data: short.data.get(),
            xattr_at: at + size_of::<Compact>() as u64,
            xattr_len,
        };
        if extended {
            let full: Extended = read(self.bytes, at)?;
            inode.uid = full.uid.get();
            inode.gid = full.gid.get();
            inode.mtime = Time {
                secs: full.mtime.get().cast_signed(),
                nanos: full.nanos.get(),
            };
            inode.links = full.nlink.get();
            inode.size = full.size.get();
            inode.data = full.data.get();
            inode.xattr_at = at + size_of::<Extended>() as u64;
        }
        if inode.size > i64::MAX.unsigned_abs() || inode.mtime.nanos > 999_999_999 {
            return Err(bad("an inode with a size or time out of range"));
        }
        Ok(inode)
    }

    /// The device number of a device.
    pub fn device(&self, inode: &Inode) -> (u32, u32) {
        format::decode_device(inode.data)
    }

    /// The data of a directory or link: all of it is in the metadata.
    ///
    /// # Errors
    /// If it is damaged, or longer than the image.
    pub fn metadata(&self, inode: &Inode) -> Result<Vec<u8>> {
        if inode.size > self.bytes.len() as u64 {
            return Err(bad("a directory or link longer than the image"));
        }
        let start = u64::from(inode.data) << self.head.block_bits;
        let tail_at = inode.xattr_at + inode.xattr_len;
        match inode.layout {
            0 => Ok(slice(self.bytes, start, inode.size)?.to_vec()),
            2 => {
                let tail = inode.size % self.block();
                let full = inode.size - tail;
                if tail == 0 || tail_at % self.block() + tail > self.block() {
                    return Err(bad("inline data across blocks"));
                }
                let full = if full == 0 {
                    &[]
                } else {
                    slice(self.bytes, start, full)?
                };
                Ok([full, slice(self.bytes, tail_at, tail)?].concat())
            }
            _ => Err(bad("a directory or link in chunks")),
        }
    }

    /// What is in a directory: name, inode number, type number. Without `.` and `..`, in order.
    ///
    /// # Errors
    /// If it is damaged or out of order.
    pub fn children(&self, dir: &Inode) -> Result<Vec<(Vec<u8>, u64, u8)>> {
        let data = self.metadata(dir)?;
        let mut out: Vec<(Vec<u8>, u64, u8)> = Vec::new();
        let mut dots = 0;
        let mut last: Vec<u8> = Vec::new();
        let block = usize::try_from(self.block()).unwrap_or(usize::MAX);
        for data in data.chunks(block) {
            let entry = |i: usize| read::<Dirent>(data, (i * size_of::<Dirent>()) as u64);
            let first = usize::from(entry(0)?.name.get());
            let count = first / size_of::<Dirent>();
            if count == 0 || !first.is_multiple_of(size_of::<Dirent>()) {
                return Err(bad("a directory block without entries"));
            }
            for i in 0..count {
                let this = entry(i)?;
                let start = usize::from(this.name.get());
                let rest = data
                    .get(start..)
                    .ok_or_else(|| bad("a name beyond its block"))?;
                let len = if i + 1 < count {
                    usize::from(entry(i + 1)?.name.get()).wrapping_sub(start)
                } else {
                    rest.iter().position(|&b| b == 0).unwrap_or(rest.len())
                };
                let name = rest.get(..len).ok_or_else(|| bad("names out of order"))?;
                if name.is_empty() || name.len() > 255 || name.iter().any(|b| matches!(b, 0 | b'/'))
                {
                    return Err(bad("a name that cannot be"));
                }
                if name <= &*last {
                    return Err(bad("names out of order"));
                }
                last = name.to_vec();
                if matches!(name, b"." | b"..") {
                    dots += 1;
                } else {
                    out.push((name.to_vec(), this.nid.get(), this.kind));
                }
            }
        }
        if dots == 2 {
            Ok(out)
        } else {
            Err(bad("a directory without `.` or `..`"))
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn target(&self, link: &Inode) -> Result<Vec<u8>> {
        let target = self.metadata(link)?;
        if target.is_empty() || target.contains(&0) {
            return Err(bad("a link to nothing, or with a NUL byte"));
        }
        Ok(target)
    }

    /// Extended attributes, by name.
    ///
    /// # Errors
    /// If they are damaged.
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs> {
        let mut out = Xattrs::new();
        if inode.xattr_len == 0 {
            return Ok(out);
        }
        let all = slice(self.bytes, inode.xattr_at, inode.xattr_len)?;
        let head: XattrHead = read(all, 0)?;
        let shared = &all[size_of::<XattrHead>()..];
        let (shared, mut inline) = shared
            .split_at_checked(usize::from(head.shared) * 4)
            .ok_or_else(|| bad("more shared attributes than there is room for"))?;
        let area = u64::from(self.head.xattr_block.get()) << self.head.block_bits;
        for number in shared.as_chunks::<4>().0 {
            let at = area + u64::from(u32::from_le_bytes(*number)) * 4;
            let at = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..));
            out.push(xattr(at.ok_or_else(|| bad("a shared attribute beyond the image"))?)?.0);
        }
        while !inline.is_empty() {
            let (one, used) = xattr(inline)?;
            out.push(one);
            inline = inline.get(used..).unwrap_or_default();
        }
        out.sort();
        Ok(out)
    }

    /// The pieces of a regular file that are not holes, in order; neighbours are not joined.
    ///
    /// # Errors
    /// If they are damaged, or too many.
    pub fn pieces(&self, inode: &Inode) -> Result<Vec<Piece>> {
        let mut out = Vec::new();
        if inode.size == 0 {
            return Ok(out);
        }
        let block = self.head.block_bits;
        match inode.layout {
            0 => out.push(Piece {
                offset: 0,
                len: inode.size,
                device: 0,
                at: u64::from(inode.data) << block,
            }),
            4 => {
                let format = u16::try_from(inode.data & 0xffff).unwrap_or(0);
                if format & CHUNK_INDEXES == 0 || format & !(CHUNK_INDEXES | CHUNK_BITS) != 0 {
                    return Err(bad("chunks of an unknown format"));
                }
                let bits = u32::from(block) + u32::from(format & CHUNK_BITS);
                let count = inode.size.div_ceil(1 << bits);
                if count > PIECES_MOST {
                    return Err(bad("a file of too many chunks"));
                }
                let start = (inode.xattr_at + inode.xattr_len).next_multiple_of(8);
                let devices = self.head.devices.get();
                for i in 0..count {
                    let index: ChunkIndex = read(self.bytes, start + i * 8)?;
                    if index.device > devices {
                        return Err(bad("a chunk on a device that is not there"));
                    }
                    if index.block != NULL_BLOCK {
                        let offset = i << bits;
                        out.push(Piece {
                            offset,
                            len: (inode.size - offset).min(1 << bits),
                            device: index.device.get(),
                            at: u64::from(index.block.get()) << block,
                        });
                    }
                }
            }
            _ => return Err(bad("a file of an unknown layout")),
        }
        Ok(out)
    }

    /// Every path, a directory before what is in it, names in order. All that the metadata says
    /// is read and checked on the way.
    ///
    /// # Errors
    /// If anything is damaged: loops of directories, wrong types, wrong counts of links.
    pub fn walk(&self, mut each: impl FnMut(&Found) -> Result<()>) -> Result<()> {
        let mut dirs = HashSet::new();
        // No image has more names than entries that fit into it.
        let mut left = self.bytes.len() / size_of::<Dirent>() + 1;
        let root = Found {
            path: Vec::new(),
            inode: self.root()?,
        };
        let mut todo = vec![root];
        while let Some(found) = todo.pop() {
            each(&found)?;
            let inode = &found.inode;
            if inode.mode & S_IFMT != S_IFDIR {
                continue;
            }
            if !dirs.insert(inode.nid) {
                return Err(bad("a directory that is in two places"));
            }
            for (name, nid, kind) in self.children(inode)?.into_iter().rev() {
                left = left
                    .checked_sub(1)
                    .ok_or_else(|| bad("directories that share data"))?;
                let inode = self.inode(nid)?;
                if kind != format::file_type(inode.mode) || kind == 0 {
                    return Err(bad("a name with another type than its inode"));
                }
                let mut path = found.path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&name);
                todo.push(Found { path, inode });
            }
        }
        Ok(())
    }

    /// Reads everything that there is to read of the metadata.
    ///
    /// # Errors
    /// The first damage found.
    pub fn check(&self) -> Result<()> {
        self.devices()?;
        // Names may share inodes, and inodes attributes, but not without end.
        let mut budget = self.bytes.len() as u64 * 64 + (1 << 20);
        self.walk(|found| {
            let inode = &found.inode;
            let mut spend = |cost: u64| {
                budget = budget
                    .checked_sub(cost)
                    .ok_or_else(|| bad("paths or attributes out of all proportion"))?;
                Ok(())
            };
            spend(found.path.len() as u64 + inode.xattr_len)?;
            for (_, value) in self.xattrs(inode)? {
                spend(value.len() as u64)?;
            }
            match inode.mode & S_IFMT {
                S_IFREG => spend(self.pieces(inode)?.len() as u64 * 8),
                format::S_IFLNK => spend(self.target(inode)?.len() as u64),
                _ => Ok(()),
            }
        })
    }
}

type Xattr = (Box<[u8]>, Box<[u8]>);

/// An attribute and the bytes that it takes.
fn xattr(bytes: &[u8]) -> Result<(Xattr, usize)> {
    let head: XattrEntry = read(bytes, 0)?;
    let prefix = XATTR_PREFIXES.iter().find(|p| p.0 == head.prefix);
    let prefix = prefix
        .ok_or_else(|| bad("an attribute of an unknown kind"))?
        .1;
    let rest = &bytes[size_of::<XattrEntry>()..];
    let (name_len, value_len) = (
        usize::from(head.name_len),
        usize::from(head.value_len.get()),
    );
    let rest = rest.get(..name_len + value_len);
    let (name, value) = rest
        .ok_or_else(|| bad("an attribute beyond its room"))?
        .split_at(name_len);
    let used = (size_of::<XattrEntry>() + name_len + value_len).next_multiple_of(4);
    Ok((([prefix, name].concat().into(), value.into()), used))
}

fn slice(bytes: &[u8], at: u64, len: u64) -> Result<&[u8]> {
    let end = at
        .checked_add(len)
        .and_then(|end| usize::try_from(end).ok());
    let range = usize::try_from(at).ok().zip(end);
    range
        .and_then(|(at, end)| bytes.get(at..end))
        .ok_or_else(|| bad("something lies beyond the image"))
}

fn read<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable>(
    bytes: &[u8],
    at: u64,
) -> Result<T> {
    let bytes = slice(bytes, at, size_of::<T>() as u64)?;
    T::read_from_bytes(bytes).map_err(|_| bad("something lies beyond the image"))
}

fn bad(message: &str) -> Error {
    Error::new(Kind::Integrity, format!("damaged EROFS image: {message}"))
        .with_hint("remove the image's index: it is made anew from the layers")
}
