//! One 512-byte header block to fields. No I/O, no allocation, no policy on names.
//!
//! Format: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
//! Unlike the `tar` crate's lenient views, a field that two readers could take for two values
//! is an error (see docs/decisions/0002-own-tar-reader.md).

use super::field::{number, text};
use crate::error::{Error, Kind, Result, show};

/// Size of a header and of the unit that payload is padded to, in bytes.
pub const BLOCK: usize = 512;

/// A header block.
pub(super) type Block = [u8; BLOCK];

/// The dialect that the magic field announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Magic {
    /// Before POSIX: no prefix, names end with `/` for directories.
    V7,
    /// POSIX: the prefix field extends the name.
    Ustar,
    /// GNU: the prefix field's place is used for other things.
    Gnu,
}

/// The fields of a header that matter for a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    pub typeflag: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: i128,
    pub gid: i128,
    pub size: u64,
    pub mtime: i64,
    pub device: (i128, i128),
    /// Whether the header is in GNU's own format.
    pub gnu: bool,
}

/// Whether the block is one half of an end-of-archive marker.
pub(super) fn is_zero(block: &Block) -> bool {
    block.iter().all(|&b| b == 0)
}

/// Verifies the checksum and reads the fields.
pub(super) fn parse(block: &Block) -> Result<Fields> {
    check_sum(block).map_err(|e| packed(block).unwrap_or(e))?;
    let magic = magic(block)?;
    let typeflag = block[156];
    let mut name = text(&block[..100]).to_vec();
    if magic == Magic::Ustar {
        let prefix = text(&block[345..500]);
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
    }
    let mode = number(&block[100..108], "mode")?;
    // Type bits are repeated here by some writers; anything above them is nonsense.
    if !(0..=0o177_777).contains(&mode) {
        return Err(Error::bad(format!(
            "mode {mode:#o} has bits beyond permissions and type"
        )));
    }
    let device = match typeflag {
        b'3' | b'4' => (
            number(&block[329..337], "devmajor")?,
            number(&block[337..345], "devminor")?,
        ),
        _ => (0, 0),
    };
    Ok(Fields {
        typeflag,
        name,
        link: text(&block[157..257]).to_vec(),
        mode: u32::try_from(mode).unwrap_or_default() & 0o7777,
        uid: number(&block[108..116], "uid")?,
        gid: number(&block[116..124], "gid")?,
        size: size(&block[124..136])?,
        mtime: i64::try_from(number(&block[136..148], "mtime")?)
            .map_err(|_| Error::bad("mtime does not fit 64 bits"))?,
        device,
        gnu: magic == Magic::Gnu,
    })
}

/// A size field: below 2^63, as kernels count.
pub(super) fn size(field: &[u8]) -> Result<u64> {
    let n = number(field, "size")?;
    i64::try_from(n)
        .ok()
        .and_then(|n| u64::try_from(n).ok())
        .ok_or_else(|| Error::bad(format!("size {n} is negative or too large")))
}

fn magic(block: &Block) -> Result<Magic> {
    match &block[257..265] {
        b"ustar\x0000" => Ok(Magic::Ustar),
        b"ustar  \0" => Ok(Magic::Gnu),
        // Writers that forget the version, as old docker and Solaris did.
        [b'u', b's', b't', b'a', b'r', 0, ..] => Ok(Magic::Ustar),
        [0, 0, 0, 0, 0, 0, ..] => Ok(Magic::V7),
        other => Err(Error::bad(format!(
            "`{}` is not the magic of a tar header",
            show(other)
        ))
        .with_hint("the layer is not a tar archive, or it is damaged")),
    }
}

/// Why a block that is no header is none, if it is the start of something compressed.
fn packed(block: &Block) -> Option<Error> {
    let (name, tool) = match block {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => ("xz", "xz -d"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => ("bzip2", "bzip2 -d"),
        [0x1f, 0x8b, ..] => ("gzip", "gzip -d"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", "zstd -d"),
        _ => return None,
    };
    let m = format!("not a tar archive: the bytes are {name}");
    Some(Error::new(Kind::Unsupported, m).with_hint(format!("decompress it first ({tool})")))
}

/// The sum of all bytes with the checksum field taken as spaces. Old Sun writers added signed
/// bytes; both are accepted, as POSIX asks of readers.
fn check_sum(block: &Block) -> Result<()> {
    let want = number(&block[148..156], "checksum")?;
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (i, &b) in block.iter().enumerate() {
        let b = if (148..156).contains(&i) { b' ' } else { b };
        unsigned += i64::from(b);
        signed += i64::from(b.cast_signed());
    }
    if want == i128::from(unsigned) || want == i128::from(signed) {
        return Ok(());
    }
    Err(
        Error::bad(format!("header checksum is {want}, computed {unsigned}"))
            .with_hint("the layer is not a tar archive, or it is damaged"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Block {
        let mut h = tar::Header::new_ustar();
        h.set_path("dir/file").unwrap();
        h.set_mode(0o4755);
        h.set_uid(1234);
        h.set_gid(99);
        h.set_size(4097);
        h.set_mtime(1_600_000_000);
        h.set_entry_type(tar::EntryType::Regular);
        h.set_cksum();
        *h.as_bytes()
    }

    #[test]
    fn reads_what_the_tar_crate_writes() {
        let f = parse(&sample()).unwrap();
        assert_eq!(
            (f.name.as_slice(), f.typeflag),
            (b"dir/file".as_slice(), b'0')
        );
        assert_eq!((f.mode, f.uid, f.gid), (0o4755, 1234, 99));
        assert_eq!((f.size, f.mtime), (4097, 1_600_000_000));
    }

    #[test]
    fn compressed_bytes_are_named() {
        let mut block = [b'x'; BLOCK];
        block[..6].copy_from_slice(b"\xfd7zXZ\0");
        let Err(e) = parse(&block) else {
            panic!("taken for a header");
        };
        assert!(e.message().contains("xz"), "{e}");
        assert!(e.hint().is_some_and(|h| h.contains("xz -d")), "{e}");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = sample();
        for byte in 0..BLOCK {
            let mut bad = good;
            bad[byte] ^= 1;
            // Within the checksum field a change may be in the part after its terminator.
            if !(148..156).contains(&byte) {
                assert!(parse(&bad).is_err(), "byte {byte}");
            }
        }
    }

    #[test]
    fn prefix_belongs_to_posix_alone() {
        let mut h = sample();
        h[345..348].copy_from_slice(b"pre");
        fix(&mut h);
        assert_eq!(parse(&h).unwrap().name, b"pre/dir/file");
        h[257..265].copy_from_slice(b"ustar  \0");
        fix(&mut h);
        assert_eq!(parse(&h).unwrap().name, b"dir/file");
        h[257..265].copy_from_slice(b"garbage!");
        fix(&mut h);
        assert!(parse(&h).is_err());
    }

    fn fix(h: &mut Block) {
        h[148..156].fill(b' ');
        let sum: u32 = h.iter().map(|&b| u32::from(b)).sum();
        h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
