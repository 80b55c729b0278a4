//! An image as text, a line a path: for snapshots in tests and for people.

use std::{collections::HashMap, fmt::Write as _};

use unlade_unpack::{Result, show};

use super::{
    format::{S_IFBLK, S_IFCHR, S_IFLNK, S_IFMT, S_IFREG},
    reader::Image,
};

/// All that an image's metadata says.
///
/// # Errors
/// If the image is damaged.
pub fn dump(image: &Image<'_>) -> Result<String> {
    let mut out = String::new();
    let head = &image.head;
    let _ = writeln!(
        out,
        "erofs: {} inodes, {} blocks of {} bytes, time {}.{:09}",
        head.inodes,
        head.blocks,
        1_u32 << head.block_bits,
        head.epoch.get().cast_signed(),
        head.nanos
    );
    for (number, (tag, blocks)) in (1..).zip(image.devices()?) {
        let end = tag.iter().position(|&b| b == 0).unwrap_or(tag.len());
        let _ = writeln!(
            out,
            "device {number}: {blocks} blocks, {}",
            show(&tag[..end])
        );
    }
    let mut names: HashMap<u64, Vec<u8>> = HashMap::new();
    image.walk(|found| {
        let inode = &found.inode;
        if let Some(first) = names.get(&inode.nid) {
            let _ = writeln!(out, "/{} = /{}", show(&found.path), show(first));
            return Ok(());
        }
        names.insert(inode.nid, found.path.clone());
        let _ = write!(
            out,
            "/{} nid {}{} {:o} {}:{} links {} {}.{:09}",
            show(&found.path),
            inode.nid,
            if inode.extended { "" } else { " compact" },
            inode.mode,
            inode.uid,
            inode.gid,
            inode.links,
            inode.mtime.secs,
            inode.mtime.nanos,
        );
        match inode.mode & S_IFMT {
            S_IFLNK => {
                let _ = write!(out, " -> {}", show(&image.target(inode)?));
            }
            S_IFCHR | S_IFBLK => {
                let (major, minor) = image.device(inode);
                let _ = write!(out, " {major}:{minor}");
            }
            S_IFREG => {
                let _ = write!(out, " size {}", inode.size);
                for p in image.pieces(inode)? {
                    let _ = write!(out, " [{} {} at {}:{}]", p.offset, p.len, p.device, p.at);
                }
            }
            _ => {}
        }
        for (name, value) in image.xattrs(inode)? {
            let _ = write!(out, " {}={}", show(&name), show(&value));
        }
        out.push('\n');
        Ok(())
    })?;
    Ok(out)
}
