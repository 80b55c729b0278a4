//! Tar headers, as plain as they can be: no owner, no time.

use std::io::{self, Write};

use crate::tarball::{self, Header};
pub(super) use crate::tarball::{end, pad};

/// What a header is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File,
    Dir,
}

/// Writes the header of an entry.
pub(super) fn write(out: &mut dyn Write, name: &str, kind: Type, size: u64) -> io::Result<()> {
    let (kind, mode) = match kind {
        Type::File => (tarball::Type::File(size), 0o644),
        Type::Dir => (tarball::Type::Dir, 0o755),
    };
    let header = Header {
        path: name.as_bytes(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: &[],
    };
    tarball::write(out, &header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_read_it() {
        let long = format!("blobs/sha512/{}", "a".repeat(128));
        let mut out = Vec::new();
        write(&mut out, "d/", Type::Dir, 0).unwrap();
        write(&mut out, &long, Type::File, 5).unwrap();
        out.extend(b"hello");
        pad(&mut out, 5).unwrap();
        write(&mut out, "e", Type::File, 0).unwrap();
        end(&mut out).unwrap();
        assert_eq!(out.len() % 512, 0);
        let mut archive = tar::Archive::new(&out[..]);
        let got: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|e| {
                let e = e.unwrap();
                let h = e.header();
                assert_eq!((h.mtime().unwrap(), h.uid().unwrap()), (0, 0));
                (
                    e.path().unwrap().display().to_string(),
                    e.size(),
                    h.mode().unwrap(),
                )
            })
            .collect();
        let want = [
            ("d/".to_owned(), 0, 0o755),
            (long, 5, 0o644),
            ("e".to_owned(), 0, 0o644),
        ];
        assert_eq!(got, want);
    }
}
