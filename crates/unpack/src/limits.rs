//! Limits on what untrusted input may ask for.

use std::time::Duration;

/// Bounds on one layer. Each names the attack it stops; exceeding one is an error of
/// [`Kind::Limit`](crate::Kind::Limit), never a truncation.
///
/// ```
/// let limits = unlade_unpack::Limits { entries: 100_000, ..Default::default() };
/// # let _ = limits;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries in a layer. Default 10 million. Stops inode exhaustion by a small blob.
    pub entries: u64,
    /// Bytes of a path or hard link target. Default 64 KiB. Stops memory use by names.
    pub path_bytes: usize,
    /// Components of a path. Default 4,096. Stops quadratic work on deep trees.
    pub path_depth: usize,
    /// Bytes of a symlink target. Default 4,095, the most that `symlink(2)` takes.
    pub symlink_bytes: usize,
    /// Bytes of one pax header or GNU long name. Default 1 MiB. Stops memory use by metadata.
    pub meta_bytes: u64,
    /// Bytes of one extended attribute's value. Default 64 KiB, the kernel's limit.
    pub xattr_value_bytes: usize,
    /// Extended attributes of one entry. Default 256.
    pub xattrs: usize,
    /// Bytes of a sparse file's map in the archive. Default 1 MiB. Stops unbounded maps.
    pub sparse_map_bytes: u64,
    /// Uncompressed bytes of a layer, and the sizes of its files added up, holes of sparse files
    /// included. Default 128 GiB. Stops decompression bombs from filling the disk.
    pub layer_bytes: u64,
    /// Uncompressed bytes for each compressed byte, after the first 64 MiB. Default 1,000.
    pub ratio: u64,
    /// Largest zstd window in bytes, rounded down to a power of two. Default 128 MiB. Stops a
    /// frame header from asking for gigabytes.
    pub zstd_window_bytes: u64,
    /// How long a source may give no byte before the layer fails. Default 60 s.
    pub idle: Duration,
}

impl Limits {
    /// Bytes that a layer may expand to before [`Limits::ratio`] is looked at.
    pub const RATIO_FREE_BYTES: u64 = 64 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 10_000_000,
            path_bytes: 64 << 10,
            path_depth: 4096,
            symlink_bytes: 4095,
            meta_bytes: 1 << 20,
            xattr_value_bytes: 64 << 10,
            xattrs: 256,
            sparse_map_bytes: 1 << 20,
            layer_bytes: 128 << 30,
            ratio: 1000,
            zstd_window_bytes: 128 << 20,
            idle: Duration::from_secs(60),
        }
    }
}
