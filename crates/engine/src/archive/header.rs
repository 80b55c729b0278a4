//! Tar headers, as plain as they can be: no owner, no time.

use std::io::{self, Write};

/// A tar block.
const BLOCK: usize = 512;
/// Largest size that the octal field holds.
const MAX_OCTAL: u64 = 0o777_7777_7777;

/// What a header is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File,
    Dir,
    Pax,
}

/// Writes the header of an entry, with an extended one before it where the name is too long.
pub(super) fn write(out: &mut dyn Write, name: &str, kind: Type, size: u64) -> io::Result<()> {
    if name.len() > 100 {
        let record = pax_record("path", name);
        out.write_all(&block("PaxHeader", Type::Pax, record.len() as u64))?;
        out.write_all(record.as_bytes())?;
        pad(out, record.len() as u64)?;
    }
    let short: String = name.chars().take(100).collect();
    out.write_all(&block(&short, kind, size))
}

/// Fills up the last block of `size` bytes.
pub(super) fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let used = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    match used {
        0 => Ok(()),
        used => out.write_all(&[0; BLOCK][used..]),
    }
}

/// The end of an archive.
pub(super) fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// `LENGTH key=value`; the length counts itself.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len.to_string().len() + rest != len {
        len += 1;
    }
    format!("{len} {key}={value}\n")
}

fn block(name: &str, kind: Type, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    let mode: &[u8] = if kind == Type::Dir {
        b"0000755\0"
    } else {
        b"0000644\0"
    };
    put(100, mode);
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size > MAX_OCTAL {
        let mut wide = [0; 12];
        wide[0] = 0x80;
        wide[4..].copy_from_slice(&size.to_be_bytes());
        put(124, &wide);
    } else {
        put(124, format!("{size:011o}\0").as_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(
        156,
        match kind {
            Type::File => b"0",
            Type::Dir => b"5",
            Type::Pax => b"x",
        },
    );
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    let sum = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(sum.as_bytes());
    block
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
        assert_eq!(out.len() % BLOCK, 0);
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

    #[test]
    fn large_sizes() {
        for size in [MAX_OCTAL, MAX_OCTAL + 1, 1 << 40] {
            let block = block("x", Type::File, size);
            let header = tar::Header::from_byte_slice(&block);
            assert_eq!(header.entry_size().unwrap(), size);
        }
        assert_eq!(MAX_OCTAL, 8 * (1 << 30) - 1);
        // A record whose length has one digit more because of itself.
        for n in 1..300 {
            let record = pax_record("k", &"v".repeat(n));
            let (len, _) = record.split_once(' ').unwrap();
            assert_eq!(len.parse::<usize>().unwrap(), record.len());
        }
    }
}
