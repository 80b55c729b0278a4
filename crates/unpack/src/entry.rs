//! What a layer says of one path: the entry model between the tar reader and the sinks.
//!
//! Names are checked here once, so that later stages can rely on them: a [`Entry::path`] is
//! relative, has no empty, `.` or `..` component and no NUL.

use crate::{
    error::{Error, Result},
    limits::Limits,
};

/// Prefix of a whiteout's name (OCI image-spec, layer.md, "Whiteouts").
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// Longest name of a file on Linux, in bytes.
pub(crate) const NAME_MAX: usize = 255;

/// Seconds and nanoseconds since 1970; `nanos` counts forward, also before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// A segment of a sparse file that has data; all else reads as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// The type of an entry, with what belongs to that type alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file of `size` bytes. With a map, only its segments are in the archive.
    File {
        /// Bytes of the file.
        size: u64,
        /// Ordered, disjoint segments that hold data; `None` for an ordinary file.
        sparse: Option<Box<[Segment]>>,
    },
    /// A directory.
    Dir,
    /// A symbolic link; the target is data and is stored as it is.
    Symlink {
        /// The target, 1 to [`Limits::symlink_bytes`] bytes without NUL.
        target: Box<[u8]>,
    },
    /// Another name for an earlier path.
    HardLink {
        /// Normalised like [`Entry::path`].
        target: Box<[u8]>,
    },
    /// A character device.
    Char {
        /// Below 2^12.
        major: u32,
        /// Below 2^20.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Below 2^12.
        major: u32,
        /// Below 2^20.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// Extended attributes as the archive gives them, last value of a name, in name order.
pub type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// Owner, permissions, time and attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u32,
    /// Numeric owner, at most 2^32 - 2.
    pub uid: u32,
    /// Numeric group, at most 2^32 - 2.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Time,
    /// All `SCHILY.xattr.` records; which are applied is the sink's decision.
    pub xattrs: Xattrs,
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Counts from 0; headers that only describe the next entry are not counted.
    pub index: u64,
    /// Byte offset of the entry's own header in the tar stream.
    pub offset: u64,
    /// Byte offset in the tar stream where a file's stored bytes begin; those of a sparse file's
    /// segments follow each other from there without gaps.
    pub payload: u64,
    /// Normalised path relative to the root; empty for the root itself.
    pub path: Box<[u8]>,
    /// Type.
    pub kind: EntryKind,
    /// Attributes.
    pub meta: Meta,
}

/// What an entry's name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role<'a> {
    /// An ordinary path.
    Plain,
    /// Hide the lower layers' `name` in the entry's directory.
    Whiteout {
        /// The hidden name: one component.
        name: &'a [u8],
    },
    /// Hide all that lower layers have in the entry's directory.
    Opaque,
    /// Bookkeeping of AUFS that carries no content.
    AufsResidue,
}

/// Splits off the last component: (directory, name). The root gives two empty slices.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (&[], path),
    }
}

impl Entry {
    /// Classifies the entry by its name, whatever its type.
    ///
    /// # Errors
    /// A whiteout without a name or of `.` or `..`, a component above that starts with `.wh.`,
    /// and AUFS pseudo-links.
    pub fn role(&self) -> Result<Role<'_>> {
        role(&self.path)
    }

    /// Bytes of the file's content that are in the archive.
    pub(crate) fn stored_bytes(&self) -> u64 {
        match &self.kind {
            EntryKind::File {
                sparse: Some(map), ..
            } => map.iter().map(|s| s.len).sum(),
            EntryKind::File { size, sparse: None } => *size,
            _ => 0,
        }
    }
}

fn role(path: &[u8]) -> Result<Role<'_>> {
    let (dir, name) = split(path);
    if has_marker(dir) {
        return Err(
            Error::bad("a directory above has a name that begins with `.wh.`")
                .with_hint("names beginning with `.wh.` are reserved for whiteouts"),
        );
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        return Ok(Role::Plain);
    };
    match hidden {
        b"" | b"." | b".." => Err(Error::bad("whiteout without a name to hide")),
        b".wh..opq" => Ok(Role::Opaque),
        b".wh.aufs" | b".wh.orph" => Ok(Role::AufsResidue),
        _ if hidden.starts_with(WHITEOUT) => Err(Error::bad(
            "AUFS pseudo-links and whiteouts of whiteouts are not part of OCI",
        )),
        _ => Ok(Role::Whiteout { name: hidden }),
    }
}

/// Whether a component of `path` begins with `.wh.`.
pub(crate) fn has_marker(path: &[u8]) -> bool {
    path.starts_with(WHITEOUT) || path.windows(5).any(|w| w == b"/.wh.")
}

/// Normalises a name from an archive: leading `/`, `.` and empty components go, `..` goes up
/// lexically but never above the root.
///
/// # Errors
/// A NUL, a path that leaves the root, a name over 255 bytes, and the limits on paths.
pub fn normalize(raw: &[u8], limits: &Limits) -> Result<Box<[u8]>> {
    if raw.len() > limits.path_bytes {
        let message = format!(
            "path of {} bytes, the limit is {}",
            raw.len(),
            limits.path_bytes
        );
        return Err(Error::limit(message, "path-bytes"));
    }
    if raw.contains(&0) {
        return Err(Error::bad("path contains a NUL byte"));
    }
    if is_normal(raw) {
        return check_depth(
            raw.into(),
            raw.iter().filter(|&&b| b == b'/').count() + 1,
            limits,
        );
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut depth = 0;
    for part in raw.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if depth == 0 {
                    return Err(Error::bad("path leaves the root through `..`")
                        .with_hint("the image is hostile or broken: do not use it"));
                }
                depth -= 1;
                out.truncate(split(&out).0.len());
            }
            _ => {
                check_name(part)?;
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(part);
                depth += 1;
            }
        }
    }
    check_depth(out.into(), depth, limits)
}

fn check_depth(path: Box<[u8]>, depth: usize, limits: &Limits) -> Result<Box<[u8]>> {
    if depth > limits.path_depth {
        let message = format!(
            "path of {depth} components, the limit is {}",
            limits.path_depth
        );
        return Err(Error::limit(message, "path-depth"));
    }
    Ok(path)
}

fn check_name(name: &[u8]) -> Result<()> {
    // A marker exists only in the archive; it is the name it hides that must fit.
    let real = name.strip_prefix(WHITEOUT).unwrap_or(name);
    if real.len() > NAME_MAX {
        let message = format!("name of {} bytes, file systems take {NAME_MAX}", real.len());
        return Err(Error::bad(message));
    }
    Ok(())
}

/// The usual case, seen in one pass: nothing to clean and no component over the limit.
fn is_normal(raw: &[u8]) -> bool {
    let mut len = 0;
    let mut dots = true;
    for &b in raw {
        if b == b'/' {
            if len == 0 || (dots && len <= 2) {
                return false;
            }
            (len, dots) = (0, true);
        } else {
            len += 1;
            dots &= b == b'.';
            if len > NAME_MAX {
                return false;
            }
        }
    }
    len > 0 && !(dots && len <= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm(s: &[u8]) -> Result<Vec<u8>> {
        normalize(s, &Limits::default()).map(Into::into)
    }

    #[test]
    fn names_are_cleaned_lexically() {
        for (raw, want) in [
            ("a/b", "a/b"),
            ("./a", "a"),
            ("/a//b/./c/", "a/b/c"),
            ("a/../b", "b"),
            ("a/b/../../c", "c"),
            ("", ""),
            ("./", ""),
            ("/", ""),
            ("..a/...", "..a/..."),
        ] {
            assert_eq!(norm(raw.as_bytes()).unwrap(), want.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn names_never_leave_the_root() {
        for raw in ["..", "../a", "/../a", "a/../../b", "./../x", "a/b/../../.."] {
            assert!(norm(raw.as_bytes()).is_err(), "{raw}");
        }
        assert!(norm(b"a\0b").is_err());
    }

    #[test]
    fn long_names() {
        let long = [b'x'; 256];
        assert!(norm(&long).is_err());
        assert!(norm(&long[1..]).is_ok());
        let marker = [b".wh.".as_slice(), &long[1..]].concat();
        assert_eq!(norm(&marker).unwrap(), marker);
        assert!(norm(&[b".wh.".as_slice(), &long].concat()).is_err());
        assert!(norm(&b"a/".repeat(5000)).is_err());
    }

    #[test]
    fn roles() {
        assert_eq!(role(b"a/b").unwrap(), Role::Plain);
        assert_eq!(role(b"a/.wh.b").unwrap(), Role::Whiteout { name: b"b" });
        assert_eq!(role(b".wh..b").unwrap(), Role::Whiteout { name: b".b" });
        assert_eq!(role(b"a/.wh..wh..opq").unwrap(), Role::Opaque);
        assert_eq!(role(b".wh..wh.aufs").unwrap(), Role::AufsResidue);
        for bad in [
            "a/.wh.",
            "a/.wh..",
            "a/.wh...",
            ".wh.a/b",
            ".wh..wh.plnk/1.2",
            ".wh..wh.x",
        ] {
            assert!(role(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
