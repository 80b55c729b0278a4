//! The on-disk structures of EROFS, byte for byte, little-endian.
//!
//! Format: Linux, fs/erofs/erofs_fs.h; Documentation/filesystems/erofs.rst. Only what images of
//! ours use: no compression, no metadata box, 32-bit block addresses.

#![allow(missing_debug_implementations)] // Of types that zerocopy derives.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// Where the superblock lies, in bytes.
pub const SUPER_OFFSET: u64 = 1024;
/// The superblock's magic number.
pub const MAGIC: u32 = 0xE0F5_E1E2;
/// The superblock bears a CRC-32C of its block.
pub const COMPAT_CHECKSUM: u32 = 1;
/// Times are those of last modification.
pub const COMPAT_MTIME: u32 = 2;
/// There are inodes made of chunks.
pub const INCOMPAT_CHUNKED: u32 = 4;
/// There is a table of extra devices.
pub const INCOMPAT_DEVICES: u32 = 8;
/// Bytes that inodes are numbered in.
pub const SLOT: u64 = 32;
/// A chunk or a start block that is a hole.
pub const NULL_BLOCK: u32 = u32::MAX;
/// Longest name.
pub const NAME_MAX: usize = 255;

/// How an inode's data is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Layout {
    /// In successive blocks.
    Plain = 0,
    /// Full blocks, then the rest behind the inode.
    Inline = 2,
    /// In chunks, each with an index.
    Chunked = 4,
}

/// Bit of [`Compact::format`] that tells an [`Extended`] inode.
pub const FORMAT_EXTENDED: u16 = 1;
/// Bit of a chunk format: 8-byte indexes with devices follow, not 4-byte block numbers.
pub const CHUNK_INDEXES: u16 = 0x20;
/// Bits of a chunk format that hold log2 of a chunk's blocks.
pub const CHUNK_BITS: u16 = 0x1f;

macro_rules! on_disk {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $kind,)* }
    };
}

on_disk! {
    /// The superblock, 128 bytes.
    Super {
        /// [`MAGIC`].
        magic: U32,
        /// CRC-32C of the superblock's block, this field as zero.
        checksum: U32,
        /// Features that old readers may ignore.
        compat: U32,
        /// Log2 of the block size in bytes.
        block_bits: u8,
        /// Extra 16-byte slots of the superblock.
        ext_slots: u8,
        /// The root's inode number.
        root: U16,
        /// How many inodes there are.
        inodes: U64,
        /// Time of compact inodes, seconds.
        epoch: U64,
        /// Time of compact inodes, nanoseconds.
        nanos: U32,
        /// Blocks of this device.
        blocks: U32,
        /// Block that inode numbers count from.
        meta_block: U32,
        /// Block that shared attributes are counted from.
        xattr_block: U32,
        /// Identity of the volume.
        uuid: [u8; 16],
        /// Name of the volume.
        name: [u8; 16],
        /// Features that readers must know.
        incompat: U32,
        /// Compression; 0.
        compression: U16,
        /// How many extra devices there are.
        devices: U16,
        /// Place of their table, in units of a slot of it.
        device_slot: U16,
        /// Log2 of a directory block's blocks; 0.
        dir_bits: u8,
        /// Long prefixes of attributes; 0.
        prefixes: u8,
        /// Where these are; 0.
        prefix_start: U32,
        /// The packed inode; 0.
        packed: U64,
        /// Filter of attributes' names; 0.
        filter: u8,
        /// Zeros.
        reserved: [u8; 23],
    }
}

on_disk! {
    /// A slot of the table of extra devices, 128 bytes.
    Device {
        /// Free text; ours is the digest in the layer's name.
        tag: [u8; 64],
        /// Its size in blocks.
        blocks: U32,
        /// Its place in one address space over all; 0 for none.
        uniaddr: U32,
        /// Zeros.
        reserved: [u8; 56],
    }
}

on_disk! {
    /// A short inode, 32 bytes.
    Compact {
        /// Version and [`Layout`].
        format: U16,
        /// Size of inline attributes: 0, or 1 more than the 4-byte units after their header.
        xattr_count: U16,
        /// Type and permissions.
        mode: U16,
        /// Hard links.
        nlink: U16,
        /// Bytes of data.
        size: U32,
        /// Seconds since the epoch; 0, as older kernels take it for reserved.
        mtime: U32,
        /// Start block, device number or chunk format.
        data: U32,
        /// A serial number.
        ino: U32,
        /// Owner.
        uid: U16,
        /// Group.
        gid: U16,
        /// Zeros.
        reserved: U32,
    }
}

on_disk! {
    /// A full inode, 64 bytes.
    Extended {
        /// Version and [`Layout`].
        format: U16,
        /// As [`Compact::xattr_count`].
        xattr_count: U16,
        /// Type and permissions.
        mode: U16,
        /// High bits of the start block; 0.
        high: U16,
        /// Bytes of data.
        size: U64,
        /// As [`Compact::data`].
        data: U32,
        /// A serial number.
        ino: U32,
        /// Owner.
        uid: U32,
        /// Group.
        gid: U32,
        /// Seconds since 1970, signed.
        mtime: U64,
        /// Nanoseconds.
        nanos: U32,
        /// Hard links.
        nlink: U32,
        /// Zeros.
        reserved: [u8; 16],
    }
}

on_disk! {
    /// Head of an inode's attributes, 12 bytes; the numbers of shared ones follow, then inline ones.
    XattrHead {
        /// Filter of names; 0 says nothing.
        filter: U32,
        /// How many shared attributes there are.
        shared: u8,
        /// Zeros.
        reserved: [u8; 7],
    }
}

on_disk! {
    /// Head of an attribute, 4 bytes; name and value follow, padded to 4.
    XattrEntry {
        /// Bytes of the name after its prefix.
        name_len: u8,
        /// Which prefix.
        prefix: u8,
        /// Bytes of the value.
        value_len: U16,
    }
}

on_disk! {
    /// Where a chunk is, 8 bytes.
    ChunkIndex {
        /// High bits of the block; 0.
        high: U16,
        /// Which device: 0 for this one.
        device: U16,
        /// First block, or [`NULL_BLOCK`].
        block: U32,
    }
}

on_disk! {
    /// A directory's entry, 12 bytes. The names of a block follow its entries.
    Dirent {
        /// Inode number.
        nid: U64,
        /// Where the name begins in the block.
        name: U16,
        /// Type of the inode: see [`file_type`].
        kind: u8,
        /// Zero.
        reserved: u8,
    }
}

/// Prefixes of attributes' names by their number.
pub const XATTR_PREFIXES: [(u8, &[u8]); 4] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (6, b"security."),
];

/// Type bits of a mode.
pub const S_IFMT: u32 = 0o170_000;
/// Named pipe.
pub const S_IFIFO: u32 = 0o010_000;
/// Character device.
pub const S_IFCHR: u32 = 0o020_000;
/// Directory.
pub const S_IFDIR: u32 = 0o040_000;
/// Block device.
pub const S_IFBLK: u32 = 0o060_000;
/// Regular file.
pub const S_IFREG: u32 = 0o100_000;
/// Symbolic link.
pub const S_IFLNK: u32 = 0o120_000;

/// The number in [`Dirent::kind`] for a mode.
pub fn file_type(mode: u32) -> u8 {
    match mode & S_IFMT {
        S_IFREG => 1,
        S_IFDIR => 2,
        S_IFCHR => 3,
        S_IFBLK => 4,
        S_IFIFO => 5,
        S_IFLNK => 7,
        _ => 0,
    }
}

/// A device number as Linux stores it in 32 bits.
pub fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The opposite of [`encode_device`]: major and minor.
pub fn decode_device(number: u32) -> (u32, u32) {
    (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xf_ff00),
    )
}

/// The checksum of a superblock: of its block from the superblock on, with the field as zero.
pub fn checksum(block: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&block[..4]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    // The kernel does not invert the result.
    !crc32c::crc32c_append(crc, &block[8..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<Super>(), 128);
        assert_eq!(size_of::<Device>(), 128);
        assert_eq!(size_of::<Compact>(), 32);
        assert_eq!(size_of::<Extended>(), 64);
        assert_eq!(size_of::<XattrHead>(), 12);
        assert_eq!(size_of::<XattrEntry>(), 4);
        assert_eq!(size_of::<ChunkIndex>(), 8);
        assert_eq!(size_of::<Dirent>(), 12);
    }

    #[test]
    fn fields_lie_where_the_kernel_reads_them() {
        let inode = Extended {
            format: 0x0102.into(),
            xattr_count: 0x0304.into(),
            mode: 0x0506.into(),
            high: 0x0708.into(),
            size: 0x1112_1314_1516_1718.into(),
            data: 0x2122_2324.into(),
            ino: 0x3132_3334.into(),
            uid: 0x4142_4344.into(),
            gid: 0x5152_5354.into(),
            mtime: 0x6162_6364_6566_6768.into(),
            nanos: 0x7172_7374.into(),
            nlink: 0x8182_8384.into(),
            reserved: [0; 16],
        };
        let hex: String = inode
            .as_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(
            hex,
            "0201040306050807181716151413121124232221343332314443424154535251\
             68676665646362617473727184838281\
             00000000000000000000000000000000"
        );
        let dirent = Dirent {
            nid: 0x0102.into(),
            name: 0x0304.into(),
            kind: 5,
            reserved: 0,
        };
        assert_eq!(dirent.as_bytes(), [2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 5, 0]);
        let index = ChunkIndex {
            high: 0.into(),
            device: 0x0102.into(),
            block: 0x0304_0506.into(),
        };
        assert_eq!(index.as_bytes(), [0, 0, 2, 1, 6, 5, 4, 3]);
    }

    #[test]
    fn device_numbers() {
        for (major, minor) in [(0, 0), (8, 1), (4095, 1_048_575), (1, 256), (259, 70_000)] {
            assert_eq!(decode_device(encode_device(major, minor)), (major, minor));
        }
        assert_eq!(encode_device(8, 1), 0x801);
    }
}
