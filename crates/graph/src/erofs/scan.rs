//! The entries of a layer's tar on disk, read by hopping from header to header.

use std::{fs::File, os::unix::fs::FileExt};

use rustix::fs::{Advice, fadvise};
use unlade_unpack::{
    Error, Kind, Limits, Result,
    entry::Entry,
    tar::{Reader, Step},
};

/// Bytes read at once. Small files follow each other within it; larger ones are passed over.
const WINDOW: usize = 16 << 10;

/// Calls `each` with every entry of `tar`, in order. Payload is not read.
///
/// # Errors
/// If it cannot be read or is not a layer any more; those of `each`.
pub fn scan(tar: &File, limits: &Limits, mut each: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let host = |e| Error::host("read a layer's tar", e);
    let len = tar.metadata().map_err(host)?.len();
    // Reading ahead would fetch payload.
    let _ = fadvise(tar, 0, None, Advice::Random);
    let mut reader = Reader::new(limits.clone());
    let mut window = vec![0_u8; WINDOW];
    let mut filled = 0_usize;
    let mut used = 0_usize;
    while !reader.ended() {
        if used == filled {
            filled = tar.read_at(&mut window, reader.position()).map_err(host)?;
            used = 0;
            if filled == 0 {
                break;
            }
        }
        let (n, step) = reader.step(&window[used..filled])?;
        used += n;
        if let Step::Entry(entry) = step {
            each(entry)?;
            let skipped = reader.skippable();
            reader.skip();
            let inside = usize::try_from(skipped).ok().filter(|n| used + n <= filled);
            match inside {
                Some(n) => used += n,
                None => used = filled,
            }
        }
    }
    if reader.position() > len {
        let message = "a layer's tar ends in the middle of a file";
        return Err(Error::new(Kind::Integrity, message)
            .with_hint("`unlade system check --repair` fetches again what is broken"));
    }
    reader.finish()
}
