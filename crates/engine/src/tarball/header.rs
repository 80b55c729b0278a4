//! Tar headers: ustar, with extended ones (pax) where that has no room. The same values give the
//! same bytes.

use std::io::{self, Write};

/// A tar block.
const BLOCK: usize = 512;
/// Largest size and time that the octal field holds.
const MAX_OCTAL: u64 = 0o777_7777_7777;
/// Largest owner.
const MAX_ID: u32 = 0o777_7777;
/// Longest name and target.
const MAX_NAME: usize = 100;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type<'a> {
    /// A file of so many bytes, which follow.
    File(u64),
    /// A file of `size` bytes, of which the archive has `stored`, its map among them.
    Sparse {
        size: u64,
        stored: u64,
    },
    Dir,
    Symlink(&'a [u8]),
    HardLink(&'a [u8]),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// An entry's header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header<'a> {
    /// A directory's ends with a slash.
    pub(crate) path: &'a [u8],
    pub(crate) kind: Type<'a>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, and nanoseconds after them.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Writes a header, with an extended one before it where it takes one.
pub(crate) fn write(out: &mut dyn Write, header: &Header<'_>) -> io::Result<()> {
    let records = header.records();
    if !records.is_empty() {
        let size = records.len() as u64;
        out.write_all(&block(&Fields {
            name: b"PaxHeader",
            flag: b'x',
            mode: 0o644,
            size,
            ..Fields::default()
        }))?;
        out.write_all(&records)?;
        pad(out, size)?;
    }
    out.write_all(&block(&header.fields()))
}

/// Fills up the last block of `size` bytes.
pub(crate) fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let used = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    match used {
        0 => Ok(()),
        used => out.write_all(&[0; BLOCK][used..]),
    }
}

/// The end of an archive.
pub(crate) fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

impl Header<'_> {
    fn link(&self) -> &[u8] {
        match self.kind {
            Type::Symlink(target) | Type::HardLink(target) => target,
            _ => b"",
        }
    }

    /// What ustar has no room for.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut put = |key: &[u8], value: &[u8]| record(&mut records, key, value);
        if let Type::Sparse { size, .. } = self.kind {
            put(b"GNU.sparse.major", b"1");
            put(b"GNU.sparse.minor", b"0");
            put(b"GNU.sparse.name", self.path);
            put(b"GNU.sparse.realsize", size.to_string().as_bytes());
        } else if self.path.len() > MAX_NAME {
            put(b"path", self.path);
        }
        if self.link().len() > MAX_NAME {
            put(b"linkpath", self.link());
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id > MAX_ID {
                put(key.as_bytes(), id.to_string().as_bytes());
            }
        }
        let (secs, nanos) = self.mtime;
        if nanos > 0 || u64::try_from(secs).is_ok_and(|s| s > MAX_OCTAL) || secs < 0 {
            put(b"mtime", time(secs, nanos).as_bytes());
        }
        for (name, value) in self.xattrs {
            // A name with `=` in it cannot be written, and a value with NUL can.
            if !name.contains(&b'=') {
                put(&[b"SCHILY.xattr.", &**name].concat(), value);
            }
        }
        records
    }

    fn fields(&self) -> Fields<'_> {
        let (flag, size, device) = match self.kind {
            Type::File(size) => (b'0', size, None),
            Type::Sparse { stored, .. } => (b'0', stored, None),
            Type::HardLink(_) => (b'1', 0, None),
            Type::Symlink(_) => (b'2', 0, None),
            Type::Char(major, minor) => (b'3', 0, Some((major, minor))),
            Type::Block(major, minor) => (b'4', 0, Some((major, minor))),
            Type::Dir => (b'5', 0, None),
            Type::Fifo => (b'6', 0, None),
        };
        Fields {
            name: self.path,
            flag,
            mode: self.mode,
            uid: self.uid.min(MAX_ID),
            gid: self.gid.min(MAX_ID),
            size,
            mtime: u64::try_from(self.mtime.0).unwrap_or(0).min(MAX_OCTAL),
            link: self.link(),
            device,
        }
    }
}

/// Seconds as a decimal number.
fn time(secs: i64, nanos: u32) -> String {
    let (sign, secs, nanos) = match secs {
        0.. => ("", secs, nanos),
        _ if nanos == 0 => ("-", secs.wrapping_neg(), 0),
        _ => ("-", -(secs + 1), 1_000_000_000 - nanos),
    };
    if nanos == 0 {
        return format!("{sign}{secs}");
    }
    let fraction = format!("{nanos:09}");
    format!("{sign}{secs}.{}", fraction.trim_end_matches('0'))
}

/// `LENGTH key=value`; the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len.to_string().len() + rest != len {
        len += 1;
    }
    out.extend_from_slice(format!("{len} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    flag: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
    link: &'a [u8],
    device: Option<(u32, u32)>,
}

fn block(fields: &Fields<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let cut = |text: &'_ [u8]| text.len().min(MAX_NAME);
    put(0, &fields.name[..cut(fields.name)]);
    for (at, number) in [(100, fields.mode), (108, fields.uid), (116, fields.gid)] {
        put(at, format!("{number:07o}\0").as_bytes());
    }
    if fields.size > MAX_OCTAL {
        let mut wide = [0; 12];
        wide[0] = 0x80;
        wide[4..].copy_from_slice(&fields.size.to_be_bytes());
        put(124, &wide);
    } else {
        put(124, format!("{:011o}\0", fields.size).as_bytes());
    }
    put(136, format!("{:011o}\0", fields.mtime).as_bytes());
    put(148, b"        ");
    put(156, &[fields.flag]);
    put(157, &fields.link[..cut(fields.link)]);
    put(257, b"ustar\x0000");
    if let Some((major, minor)) = fields.device {
        put(329, format!("{major:07o}\0").as_bytes());
        put(337, format!("{minor:07o}\0").as_bytes());
    }
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    let sum = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(sum.as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use unlade_unpack::{
        Limits,
        entry::{Entry, EntryKind},
        tar::{Reader, Step},
    };

    use super::*;

    fn plain(path: &[u8], kind: Type<'_>) -> Vec<u8> {
        let header = Header {
            path,
            kind,
            mode: 0o4755,
            uid: 5,
            gid: 7,
            mtime: (1_600_000_000, 0),
            xattrs: &[],
        };
        let mut out = Vec::new();
        write(&mut out, &header).unwrap();
        out
    }

    fn read(header: &Header<'_>) -> Entry {
        let mut bytes = Vec::new();
        write(&mut bytes, header).unwrap();
        end(&mut bytes).unwrap();
        let mut reader = Reader::new(Limits::default());
        let mut rest = &bytes[..];
        loop {
            let (used, step) = reader.step(rest).unwrap();
            rest = &rest[used..];
            match step {
                Step::Entry(entry) => return entry,
                Step::NeedMore | Step::End => panic!("no entry"),
                _ => {}
            }
        }
    }

    #[test]
    fn what_ustar_holds_is_ustar_alone() {
        for (path, kind, len) in [
            (&b"a/"[..], Type::Dir, 512),
            (b"b", Type::Symlink(b"c"), 512),
            (b"d", Type::Char(1, 3), 512),
            (&[b'x'; 100], Type::Fifo, 512),
            (&[b'x'; 101], Type::Fifo, 1536),
        ] {
            let bytes = plain(path, kind);
            assert_eq!(bytes.len(), len);
            let header = tar::Header::from_byte_slice(&bytes[len - 512..]);
            assert_eq!((header.mode().unwrap(), header.uid().unwrap()), (0o4755, 5));
            assert_eq!(header.mtime().unwrap(), 1_600_000_000);
        }
        let bytes = plain(b"d", Type::Block(259, 1_048_575));
        let header = tar::Header::from_byte_slice(&bytes);
        assert_eq!(header.device_major().unwrap(), Some(259));
        assert_eq!(header.device_minor().unwrap(), Some(1_048_575));
    }

    #[test]
    fn all_else_is_read_again() {
        let xattrs = [(b"user.a".to_vec(), b"\0\n=\xff".to_vec())];
        let long = [b'\xe9'; 250];
        for mtime in [
            (-2, 500_000_000),
            (1, 1),
            (-3, 0),
            (1 << 40, 0),
            (5, 120_000_000),
        ] {
            let header = Header {
                path: &long,
                kind: Type::Symlink(&[b't'; 300]),
                mode: 0o777,
                uid: 3_000_000_000,
                gid: 2_097_152,
                mtime,
                xattrs: &xattrs,
            };
            let entry = read(&header);
            assert_eq!(*entry.path, long);
            assert_eq!(
                entry.kind,
                EntryKind::Symlink {
                    target: [b't'; 300].into()
                }
            );
            let meta = entry.meta;
            assert_eq!((meta.uid, meta.gid), (3_000_000_000, 2_097_152));
            assert_eq!((meta.mtime.secs, meta.mtime.nanos), mtime);
            let got = meta.xattrs.iter().map(|(k, v)| (k.to_vec(), v.to_vec()));
            assert_eq!(got.collect::<Vec<_>>(), xattrs);
        }
    }

    #[test]
    fn large_sizes() {
        for size in [MAX_OCTAL, MAX_OCTAL + 1, 1 << 40] {
            let bytes = plain(b"x", Type::File(size));
            let header = tar::Header::from_byte_slice(&bytes);
            assert_eq!(header.entry_size().unwrap(), size);
        }
        assert_eq!(MAX_OCTAL, 8 * (1 << 30) - 1);
        // A record whose length has one digit more because of itself.
        for n in 1..300 {
            let mut out = Vec::new();
            record(&mut out, b"k", &vec![b'v'; n]);
            let digits = out.iter().take_while(|b| **b != b' ').count();
            let len: usize = std::str::from_utf8(&out[..digits])
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(len, out.len());
        }
    }
}
