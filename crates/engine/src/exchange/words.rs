//! What docker makes of the two arguments of `cp`: no file is looked at here.

use crate::error::{Error, Kind, Result};

/// One of the two ends of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// `-`: a tar on standard input or output.
    Stream,
    /// A path of this machine.
    Host(Vec<u8>),
    /// A path in a container.
    Container(String, Vec<u8>),
}

impl End {
    /// Reads `CONTAINER:PATH`, a path, or `-`. A path with a colon is given with a slash or a dot
    /// at its beginning.
    pub(crate) fn parse(text: &[u8]) -> Self {
        if text == b"-" {
            return Self::Stream;
        }
        let host = || Self::Host(text.to_vec());
        if text.first().is_none_or(|b| matches!(b, b'/' | b'.')) {
            return host();
        }
        let Some(at) = text.iter().position(|b| *b == b':') else {
            return host();
        };
        match std::str::from_utf8(&text[..at]) {
            Ok(name) if !name.is_empty() => {
                Self::Container(name.to_owned(), text[at + 1..].to_vec())
            }
            _ => host(),
        }
    }
}

/// A path, and what its spelling asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Absolute, without `.`, `..` and slashes at its end.
    pub(crate) path: Vec<u8>,
    /// It ends with a slash or a dot: it is to be a directory, whatever link leads there.
    pub(crate) dir: bool,
    /// It ends with `/.`: what is in the directory, without the directory itself.
    pub(crate) contents: bool,
}

impl Asked {
    /// Reads a path; a relative one is below `from`.
    pub(crate) fn new(path: &[u8], from: &[u8]) -> Self {
        let contents = matches!(path.rsplit(|b| *b == b'/').next(), Some(b"."));
        let full = if path.starts_with(b"/") {
            path.to_vec()
        } else {
            [from, b"/", path].concat()
        };
        Self {
            path: clean(&full),
            dir: contents || path.ends_with(b"/") || path.is_empty(),
            contents,
        }
    }

    /// The last component; empty for the root, and for what is in a directory.
    pub(crate) fn top(&self) -> &[u8] {
        if self.contents { b"" } else { self.base() }
    }

    /// The last component; empty for the root.
    pub(crate) fn base(&self) -> &[u8] {
        split(&self.path).1
    }

    /// The directory that it is in.
    pub(crate) fn parent(&self) -> &[u8] {
        split(&self.path).0
    }
}

/// An absolute path without `.`, `..` and empty components.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    [b"/", &*parts.join(&b'/')].concat()
}

/// Directory and last component of a clean path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(0) | None => (b"/", path.strip_prefix(b"/").unwrap_or(path)),
        Some(at) => (&path[..at], &path[at + 1..]),
    }
}

/// Where a copy lands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    /// The directory that things are put into is the one that was named, else the one above it.
    pub(crate) inside: bool,
    /// The name that what is copied gets there; empty for what is in the directory that is copied.
    pub(crate) top: Vec<u8>,
}

/// What is at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum There {
    Dir,
    Other,
    Nothing,
}

/// Docker's rules for where a copy lands. `base` is the destination's last component.
///
/// # Errors
/// [`Kind::Conflict`] or [`Kind::NotFound`], in docker's words.
pub(crate) fn place(
    source: &Asked,
    source_is_dir: bool,
    there: There,
    asked_dir: bool,
    base: &[u8],
) -> Result<Placed> {
    let named = || Placed {
        inside: false,
        top: base.to_vec(),
    };
    match there {
        There::Dir => Ok(Placed {
            inside: true,
            top: source.top().to_vec(),
        }),
        There::Other if source_is_dir => Err(Error::new(Kind::Conflict, "cannot copy directory")
            .with_hint("the destination is a file: name a directory, or a new name")),
        There::Nothing if asked_dir && !source_is_dir => {
            Err(Error::new(Kind::NotFound, "no such directory")
                .with_hint("the destination ends with a slash, but no directory is there"))
        }
        There::Other | There::Nothing => Ok(named()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let of = |text: &str| End::parse(text.as_bytes());
        let host = |text: &str| End::Host(text.as_bytes().to_vec());
        let container =
            |name: &str, path: &str| End::Container(name.to_owned(), path.as_bytes().to_vec());
        assert_eq!(of("-"), End::Stream);
        assert_eq!(of("web:/etc"), container("web", "/etc"));
        assert_eq!(of("web:a:b"), container("web", "a:b"));
        assert_eq!(of("web:"), container("web", ""));
        for path in ["/a:b", "./a:b", "../a:b", "a", ":b", ".a:b"] {
            assert_eq!(of(path), host(path), "{path}");
        }
        assert_eq!(End::parse(b"\xff:x"), End::Host(b"\xff:x".to_vec()));
    }

    #[test]
    fn spellings() {
        for (path, clean, dir, contents, top) in [
            ("a/b", "/w/a/b", false, false, "b"),
            ("/a/b/", "/a/b", true, false, "b"),
            ("/a/b/.", "/a/b", true, true, ""),
            (".", "/w", true, true, ""),
            ("..", "/", false, false, ""),
            ("/", "/", true, false, ""),
            ("", "/w", true, false, "w"),
            ("a/../../b", "/b", false, false, "b"),
            ("/../..", "/", false, false, ""),
            ("a.", "/w/a.", false, false, "a."),
        ] {
            let asked = Asked::new(path.as_bytes(), b"/w");
            assert_eq!(asked.path, clean.as_bytes(), "{path}");
            assert_eq!((asked.dir, asked.contents), (dir, contents), "{path}");
            assert_eq!(asked.top(), top.as_bytes(), "{path}");
        }
        assert_eq!(Asked::new(b"/a", b"/").parent(), b"/");
        assert_eq!(Asked::new(b"/a/b", b"/").parent(), b"/a");
    }

    #[test]
    fn where_a_copy_lands() {
        let source = |text: &str| Asked::new(text.as_bytes(), b"/");
        let of = |text: &str, is_dir, there, asked_dir| {
            place(&source(text), is_dir, there, asked_dir, b"dst")
                .map(|p| (p.inside, String::from_utf8(p.top).unwrap()))
                .map_err(|e| e.to_string())
        };
        let at = |inside: bool, top: &str| Ok((inside, top.to_owned()));
        let no = |text: &str| Err(text.to_owned());
        use There::{Dir, Nothing, Other};
        assert_eq!(of("/f", false, Dir, false), at(true, "f"));
        assert_eq!(of("/f", false, Other, false), at(false, "dst"));
        assert_eq!(of("/f", false, Nothing, false), at(false, "dst"));
        assert_eq!(of("/f", false, Nothing, true), no("no such directory"));
        assert_eq!(of("/d", true, Dir, false), at(true, "d"));
        assert_eq!(of("/d/.", true, Dir, true), at(true, ""));
        assert_eq!(of("/", true, Dir, true), at(true, ""));
        assert_eq!(of("/d", true, Other, false), no("cannot copy directory"));
        assert_eq!(of("/d", true, Nothing, false), at(false, "dst"));
        assert_eq!(of("/d/.", true, Nothing, true), at(false, "dst"));
    }
}
