//! Writes a [`Tree`] as an EROFS image: metadata over the tars, or with all data in it.
//!
//! ```text
//! superblock | devices | shared attributes | root | directory blocks, inodes | ... | data
//! ```
//!
//! A directory's own blocks stand before the inodes of what is in it, directories in pre-order,
//! so that walking the tree reads the image in order. Everything is decided from the tree in two
//! passes: where all is, then the bytes. The same tree gives the same bytes.

use std::io::Write;

use unlade_unpack::{Error, Kind, Result};
use zerocopy::IntoBytes;

use super::{
    content::BLOCK,
    format::{
        self, CHUNK_INDEXES, COMPAT_CHECKSUM, COMPAT_MTIME, ChunkIndex, Compact, Device, Dirent,
        Extended, FORMAT_EXTENDED, INCOMPAT_CHUNKED, INCOMPAT_DEVICES, Layout, MAGIC, NULL_BLOCK,
        SUPER_OFFSET, Super,
    },
    plan::{Place, Plan},
    tree::{Data, InodeId, Node, Source, Tree},
};

/// An extra device of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extra {
    /// What it holds.
    pub source: Source,
    /// Its size in bytes.
    pub bytes: u64,
    /// Text to know it by.
    pub tag: [u8; 64],
}

/// Where an image keeps the data of files.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// In these devices; blocks have 512 bytes.
    Devices(&'a [Extra]),
    /// In the image itself, behind the metadata; blocks have 4096 bytes.
    Inside,
}

/// A file whose data belongs into an image made with [`Payload::Inside`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Which one.
    pub inode: InodeId,
    /// Byte of the image where the file's first byte goes. Holes keep their room there.
    pub at: u64,
    /// Bytes of the file.
    pub size: u64,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Bytes of metadata.
    pub bytes: u64,
    /// Bytes of the image with the data that is to be put in.
    pub total: u64,
    /// Where the data goes.
    pub data: Vec<Placed>,
}

/// Writes an image's metadata, all of it but the data of [`Payload::Inside`].
///
/// # Errors
/// If `out` fails, or the image is beyond what EROFS can address.
pub fn write(tree: &Tree, payload: Payload<'_>, out: &mut dyn Write) -> Result<Written> {
    let plan = Plan::new(tree, payload)?;
    let mut writer = Writer {
        tree,
        payload,
        plan: &plan,
        at: 0,
        out,
        serial: 0,
        scratch: Vec::new(),
    };
    writer.head()?;
    writer.body()?;
    Ok(plan.written())
}

struct Writer<'a> {
    tree: &'a Tree,
    payload: Payload<'a>,
    plan: &'a Plan,
    at: u64,
    out: &'a mut dyn Write,
    serial: u32,
    scratch: Vec<u8>,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.out
            .write_all(bytes)
            .map_err(|e| Error::host("write an EROFS image", e))
    }

    fn pad_to(&mut self, at: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < at {
            let n = usize::try_from(at - self.at).map_or(ZEROS.len(), |n| n.min(ZEROS.len()));
            self.put(&ZEROS[..n])?;
        }
        if self.at == at {
            Ok(())
        } else {
            Err(Error::new(Kind::Bug, "an EROFS image's parts overlap"))
        }
    }

    /// Superblock, devices, shared attributes.
    fn head(&mut self) -> Result<()> {
        let plan = self.plan;
        let mut head = vec![0_u8; index(SUPER_OFFSET)];
        head.extend_from_slice(self.superblock().as_bytes());
        if let Payload::Devices(devices) = self.payload {
            for device in devices {
                let blocks =
                    u32::try_from(device.bytes.div_ceil(BLOCK)).map_err(|_| too_large())?;
                let slot = Device {
                    tag: device.tag,
                    blocks: blocks.into(),
                    uniaddr: 0.into(),
                    reserved: [0; 56],
                };
                head.extend_from_slice(slot.as_bytes());
            }
        }
        head.resize(index(plan.xattr_start), 0);
        head.extend_from_slice(plan.xattrs.shared_bytes());
        head.resize(index(plan.meta_start), 0);
        let start = index(SUPER_OFFSET);
        let block = index(plan.block());
        let end = if block > start { block } else { start + block };
        let sum = format::checksum(&head[start..end]);
        head[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
        self.put(&head)
    }

    fn superblock(&self) -> Super {
        let plan = self.plan;
        let (devices, incompat) = match self.payload {
            Payload::Devices(d) if !d.is_empty() => (d.len(), INCOMPAT_DEVICES | INCOMPAT_CHUNKED),
            _ => (0, INCOMPAT_CHUNKED),
        };
        let block = |at: u64| u32::try_from(at / plan.block()).unwrap_or(u32::MAX);
        let slot = SUPER_OFFSET + size_of::<Super>() as u64;
        Super {
            magic: MAGIC.into(),
            checksum: 0.into(),
            compat: (COMPAT_CHECKSUM | COMPAT_MTIME).into(),
            block_bits: u8::try_from(plan.block_bits).unwrap_or(0),
            ext_slots: 0,
            root: u16::try_from(plan.nid(self.tree.root()))
                .unwrap_or(0)
                .into(),
            inodes: plan.count.into(),
            epoch: plan.epoch.secs.cast_unsigned().into(),
            nanos: plan.epoch.nanos.into(),
            blocks: block(plan.total).into(),
            meta_block: block(plan.meta_start).into(),
            xattr_block: block(plan.xattr_start).into(),
            uuid: [0; 16],
            name: [0; 16],
            incompat: incompat.into(),
            compression: 0.into(),
            devices: u16::try_from(devices).unwrap_or(0).into(),
            device_slot: if devices == 0 {
                0
            } else {
                u16::try_from(slot / 128).unwrap_or(0)
            }
            .into(),
            dir_bits: 0,
            prefixes: 0,
            prefix_start: 0.into(),
            packed: 0.into(),
            filter: 0,
            reserved: [0; 23],
        }
    }

    /// Directory blocks and inodes, as [`Plan`] has laid them out.
    fn body(&mut self) -> Result<()> {
        let plan = self.plan;
        self.inode(self.tree.root())?;
        for dir in &plan.dirs {
            if dir.full > 0 {
                self.pad_to(dir.blocks)?;
                self.dir_blocks(dir.inode, 0, dir.full)?;
            }
            let mut links = Vec::new();
            for &name in plan.kids(dir) {
                let (_, kid) = self.tree.name_of(name);
                // A hard link may have been written with an earlier name.
                if plan.position(kid) < self.at {
                    continue;
                }
                self.inode(kid)?;
                if let Place::Outside(at) = plan.place(self.tree, kid)
                    && let Node::Symlink(target) = self.tree.node(kid)
                {
                    links.push((at, target));
                }
            }
            for (at, target) in links {
                self.pad_to(at)?;
                self.put(target)?;
            }
        }
        self.pad_to(plan.meta_end)
    }

    /// Blocks `from..to` of a directory.
    fn dir_blocks(&mut self, dir: InodeId, from: u64, to: u64) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let block = index(self.plan.block());
        let Some(dir) = self.plan.dir(dir) else {
            return Err(Error::new(Kind::Bug, "a directory that was not planned"));
        };
        for (number, names) in self.plan.dir_packs(self.tree, dir).enumerate() {
            if (number as u64) < from {
                continue;
            }
            if number as u64 >= to {
                break;
            }
            scratch.clear();
            let mut name_at = names.len() * size_of::<Dirent>();
            for &(name, inode) in &names {
                let dirent = Dirent {
                    nid: self.plan.nid(inode).into(),
                    name: u16::try_from(name_at).unwrap_or(0).into(),
                    kind: format::file_type(self.tree.stat(inode).mode),
                    reserved: 0,
                };
                scratch.extend_from_slice(dirent.as_bytes());
                name_at += name.len();
            }
            for &(name, _) in &names {
                scratch.extend_from_slice(name);
            }
            if (number as u64) < dir.full {
                scratch.resize(block, 0);
            }
            self.put(&scratch)?;
        }
        self.scratch = scratch;
        Ok(())
    }

    fn inode(&mut self, id: InodeId) -> Result<()> {
        let plan = self.plan;
        self.pad_to(plan.position(id))?;
        let stat = self.tree.stat(id);
        let node = self.tree.node(id);
        let place = plan.place(self.tree, id);
        let size = plan.size(self.tree, id);
        let (layout, data) = match (node, place) {
            (Node::Char(major, minor) | Node::Block(major, minor), _) => {
                (Layout::Plain, format::encode_device(major, minor))
            }
            (Node::File(_), Place::Chunks(bits)) => {
                (Layout::Chunked, u32::from(bits | CHUNK_INDEXES))
            }
            (_, Place::Inline(start)) => (Layout::Inline, plan.to_block(start)?),
            (_, Place::Outside(start)) => (Layout::Plain, plan.to_block(start)?),
            (_, Place::Nothing | Place::Chunks(_)) => (Layout::Plain, 0),
        };
        let attributes = plan.xattrs.of(stat.xattrs);
        let count = match attributes.len() {
            0 => 0,
            n => u16::try_from((n - 12) / 4 + 1).map_err(|_| too_large())?,
        };
        self.serial += 1;
        let format = (layout as u16) << 1;
        if plan.compact(self.tree, id) {
            let inode = Compact {
                format: format.into(),
                xattr_count: count.into(),
                mode: small(stat.mode).into(),
                nlink: small(stat.links).into(),
                size: u32::try_from(size).unwrap_or(0).into(),
                mtime: 0.into(),
                data: data.into(),
                ino: self.serial.into(),
                uid: small(stat.uid).into(),
                gid: small(stat.gid).into(),
                reserved: 0.into(),
            };
            self.put(inode.as_bytes())?;
        } else {
            let inode = Extended {
                format: (format | FORMAT_EXTENDED).into(),
                xattr_count: count.into(),
                mode: small(stat.mode).into(),
                high: 0.into(),
                size: size.into(),
                data: data.into(),
                ino: self.serial.into(),
                uid: stat.uid.into(),
                gid: stat.gid.into(),
                mtime: stat.mtime.secs.cast_unsigned().into(),
                nanos: stat.mtime.nanos.into(),
                nlink: stat.links.into(),
                reserved: [0; 16],
            };
            self.put(inode.as_bytes())?;
        }
        self.put(attributes)?;
        match (node, place) {
            (Node::Symlink(target), Place::Inline(_)) => self.put(target),
            (Node::Dir, Place::Inline(_)) => {
                let full = plan.dir(id).map_or(0, |d| d.full);
                self.dir_blocks(id, full, u64::MAX)
            }
            (Node::File(data), Place::Chunks(_)) => {
                self.pad_to(self.at.next_multiple_of(8))?;
                self.chunks(id, data)
            }
            _ => Ok(()),
        }
    }

    fn chunks(&mut self, id: InodeId, data: Data<'_>) -> Result<()> {
        let plan = self.plan;
        let size = self.tree.stat(id).size;
        let bits = plan.chunk_bits(self.tree, id);
        let count = size.div_ceil(1 << bits);
        let mut next = 0_u64;
        let mut pieces = data.pieces(size).peekable();
        while next < count {
            let start = next << bits;
            while pieces.next_if(|p| p.0 + p.1 <= start).is_some() {}
            let piece = pieces.peek().filter(|p| p.0 < start + (1 << bits));
            let (device, block) = match (piece, self.payload) {
                (None, _) => (0, NULL_BLOCK),
                (Some(&(offset, _, source, at)), Payload::Devices(_)) => {
                    (plan.device(source)?, plan.to_block(at + (start - offset))?)
                }
                (Some(_), Payload::Inside) => (0, plan.to_block(plan.data_at(id) + start)?),
            };
            let index = ChunkIndex {
                high: 0.into(),
                device: device.into(),
                block: block.into(),
            };
            self.put(index.as_bytes())?;
            next += 1;
        }
        Ok(())
    }
}

fn small(n: u32) -> u16 {
    u16::try_from(n).unwrap_or(0)
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn too_large() -> Error {
    Error::new(Kind::Limit, "the image is larger than EROFS can address")
}
