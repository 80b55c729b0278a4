//! The crate's error: what happened, to which part of the image, and what to do about it.
//!
//! Stages build an [`Error`] from a [`Kind`] and a sentence; outer stages add what they know
//! (entry, layer, image part) on the way up. Nothing here knows about any stage.

use std::{fmt, io};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who is at fault, and so what a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The image's bytes break a rule of their format, or are ambiguous.
    BadInput,
    /// A limit of [`Limits`](crate::Limits) would be exceeded.
    Limit,
    /// Well-formed, but nothing this version can unpack.
    Unsupported,
    /// A digest, size, checksum or count does not hold.
    Integrity,
    /// This machine refused: disk full, permission, kernel, a file that is not there.
    Host,
    /// The caller cancelled.
    Cancelled,
    /// A defect of this crate.
    Bug,
}

/// Where in the image an error lies. All fields are optional and filled in on the way up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The part of the image: a blob file, `manifest`, `layer 3 of 7`.
    pub part: Option<String>,
    /// Digest of the blob concerned, as text.
    pub blob: Option<String>,
    /// Number of the tar entry, from 0, headers of headers not counted.
    pub entry: Option<u64>,
    /// Path of the entry as the archive spells it.
    pub path: Option<Vec<u8>>,
    /// Byte offset in the stream that the message speaks of.
    pub offset: Option<(Stream, u64)>,
}

/// Which stream a byte offset counts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stream {
    /// The blob as stored or sent.
    Compressed,
    /// The tar stream inside it.
    Tar,
}

/// An error with its [`Kind`] and [`Place`].
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    place: Place,
    source: Option<io::Error>,
}

impl Error {
    /// A new error of `kind`; `message` says what happened, without a final full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            place: Place::default(),
            source: None,
        }))
    }

    /// A failed call to the host; `doing` names the call and its object.
    pub fn host(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let (doing, source) = (doing.into(), source.into());
        let hint = hint_for(&doing, &source);
        let mut e = Self::new(Kind::Host, doing);
        e.0.source = Some(source);
        e.0.hint = hint.map(str::to_owned);
        e
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(Kind::BadInput, message)
    }

    pub(crate) fn limit(message: impl Into<String>, raise: &str) -> Self {
        Self::new(Kind::Limit, message).with_hint(format!("raise the limit `{raise}` to allow it"))
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(Kind::Cancelled, "cancelled")
    }

    /// Adds what a user can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Names the image part, unless an inner stage already did.
    #[must_use]
    pub fn in_part(mut self, part: impl Into<String>) -> Self {
        self.0.place.part.get_or_insert_with(|| part.into());
        self
    }

    /// Names the blob's digest, unless an inner stage already did.
    #[must_use]
    pub fn in_blob(mut self, digest: impl fmt::Display) -> Self {
        self.0.place.blob.get_or_insert_with(|| digest.to_string());
        self
    }

    /// Names the entry, unless an inner stage already did.
    #[must_use]
    pub fn at_entry(mut self, index: u64, path: &[u8]) -> Self {
        if self.0.place.entry.is_none() {
            self.0.place.entry = Some(index);
            self.0.place.path = Some(path.to_vec());
        }
        self
    }

    /// Gives the byte offset, unless an inner stage already did.
    #[must_use]
    pub fn at_offset(mut self, stream: Stream, offset: u64) -> Self {
        self.0.place.offset.get_or_insert((stream, offset));
        self
    }

    /// Who is at fault.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Where in the image.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// What happened, without the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it, where there is something to say. Of images that break the rules, at
    /// least that.
    pub fn hint(&self) -> Option<&str> {
        let general = match self.0.kind {
            Kind::BadInput => {
                Some("the image is broken or hostile: build it again, or do not use it")
            }
            Kind::Integrity => Some("the image is damaged: fetch or build it again"),
            Kind::Unsupported => Some("build the image again without it"),
            _ => None,
        };
        self.0.hint.as_deref().or(general)
    }

    /// The host's error number, if a system call failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

/// How every call that gives a file to somebody is named.
const SET_OWNER: &str = "set the owner of";

fn hint_for(doing: &str, e: &io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    let hint = match Errno::from_io_error(e)? {
        Errno::INVAL | Errno::OVERFLOW if doing.starts_with(SET_OWNER) => {
            "the owner does not exist in this user namespace: use --owners caller, or \
             --owners map:INSIDE:OUTSIDE:COUNT"
        }
        Errno::ACCESS | Errno::PERM if doing.starts_with(SET_OWNER) => {
            "run as a user who may do this, or keep the caller's owners (--owners caller)"
        }
        Errno::NOSPC => "free space or inodes on the file system of the destination, then retry",
        Errno::DQUOT => "the destination's quota is used up: raise it or free space, then retry",
        Errno::MFILE | Errno::NFILE => "raise the limit of open files (ulimit -n), then retry",
        Errno::ROFS => "the destination is mounted read-only: choose another",
        Errno::IO => "the disk failed: check the kernel log before retrying",
        Errno::ACCESS | Errno::PERM => {
            "this user may not do that: check the permissions there, or run as a user who may"
        }
        Errno::NOMEM => "free memory or lower the memory budget (--memory), then retry",
        _ => return None,
    };
    Some(hint)
}

/// Bytes of a path for a message: printable ASCII and UTF-8 as they are, the rest as `\xNN`.
pub fn show(bytes: &[u8]) -> String {
    const MOST: usize = 200;
    let mut out = String::new();
    for chunk in bytes[..bytes.len().min(MOST)].utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                out.extend(c.escape_default())
            } else {
                out.push(c)
            }
        }
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    if bytes.len() > MOST {
        out.push_str(&format!("... ({} bytes)", bytes.len()));
    }
    out
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            message,
            place,
            source,
            ..
        } = &*self.0;
        if let Some(part) = &place.part {
            write!(f, "{part}: ")?;
        }
        if let Some(blob) = &place.blob {
            write!(f, "{blob}: ")?;
        }
        if let Some(n) = place.entry {
            write!(
                f,
                "entry {n} `{}`: ",
                show(place.path.as_deref().unwrap_or_default())
            )?;
        }
        f.write_str(message)?;
        if let Some(source) = source {
            write!(f, ": {source}")?;
        }
        match place.offset {
            Some((Stream::Tar, at)) => write!(f, " (at byte {at} of the tar stream)"),
            Some((Stream::Compressed, at)) => write!(f, " (at byte {at} of the blob)"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        self.0
            .hint
            .as_ref()
            .map_or(Ok(()), |h| write!(f, " [hint: {h}]"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_and_what() {
        let e = Error::bad("size is not a number")
            .at_entry(7, b"a/\xff\n")
            .at_offset(Stream::Tar, 512)
            .in_blob("sha256:ab")
            .in_part("layer 1 of 2");
        assert_eq!(
            e.to_string(),
            "layer 1 of 2: sha256:ab: entry 7 `a/\\xff\\n`: size is not a number \
             (at byte 512 of the tar stream)"
        );
        assert_eq!(e.kind(), Kind::BadInput);
    }

    #[test]
    fn inner_place_wins() {
        let e = Error::bad("x")
            .at_entry(1, b"in")
            .at_entry(2, b"out")
            .at_offset(Stream::Tar, 1);
        let e = e.at_offset(Stream::Compressed, 9);
        assert_eq!(e.place().entry, Some(1));
        assert_eq!(e.place().offset, Some((Stream::Tar, 1)));
    }

    #[test]
    fn host_errors_carry_errno_and_hint() {
        let e = Error::host("write `f`", io::Error::from_raw_os_error(28));
        assert_eq!(e.raw_os_error(), Some(28));
        assert!(e.hint().is_some_and(|h| h.contains("space")));
        let hint = |doing: &str, errno| {
            let e = Error::host(doing, io::Error::from_raw_os_error(errno));
            e.hint().unwrap_or_default().to_owned()
        };
        assert!(!hint("open `f`", 13).contains("--owners"));
        assert!(hint("set the owner of `f`", 1).contains("--owners caller"));
        assert!(hint("set the owner of `f`", 22).contains("user namespace"));
        assert_eq!(hint("read", 22), "");
    }

    #[test]
    fn bad_images_always_have_a_hint() {
        assert!(Error::bad("x").hint().is_some_and(|h| h.contains("build")));
        assert_eq!(Error::bad("x").with_hint("y").hint(), Some("y"));
        assert_eq!(Error::new(Kind::Bug, "x").hint(), None);
    }
}
