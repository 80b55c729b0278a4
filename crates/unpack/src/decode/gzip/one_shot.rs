//! Small blobs in one go, by libdeflate.

use super::header::{Header, check_trailer, cut, damaged};
use super::stream::Sum;
use crate::{
    error::{Error, Result, Stream},
    sys::{Inflate, InflateError, crc32},
};

/// Decodes a whole blob with libdeflate. `None` if the output would be over `most` bytes, or
/// may be: then nothing is known about the blob yet.
///
/// # Errors
/// As for the streaming decoder.
pub(crate) fn one_shot(blob: &[u8], most: usize) -> Result<Option<Vec<u8>>> {
    let Some(last) = blob.last_chunk::<4>() else {
        return Ok(None);
    };
    // Right for one member; with several the buffer grows below.
    let hint = u32::from_le_bytes(*last) as usize;
    if hint > most {
        return Ok(None);
    }
    let mut out = vec![0; hint.max(1)];
    let (mut at, mut len) = (0, 0);
    let mut inflate = Inflate::new()?;
    let place = |e: Error, at: usize| e.at_offset(Stream::Compressed, at as u64);
    while at < blob.len() {
        let mut header = Header::default();
        while !header
            .byte(*blob.get(at).ok_or_else(|| cut(blob.len() as u64))?)
            .map_err(|e| place(e, at))?
        {
            at += 1;
        }
        at += 1;
        let (read, written) = loop {
            match inflate.run(&blob[at..], &mut out[len..]) {
                Ok(done) => break done,
                Err(InflateError::BadData) => {
                    return Err(place(damaged("deflate: invalid data"), at));
                }
                Err(InflateError::Full) if out.len() >= most => return Ok(None),
                Err(InflateError::Full) => out.resize((out.len() * 2).max(64 << 10).min(most), 0),
            }
        };
        at += read;
        let trailer = blob[at..]
            .first_chunk::<8>()
            .ok_or_else(|| cut(blob.len() as u64))?;
        let member = &out[len..len + written];
        let sum = Sum {
            crc: crc32(0, member),
            length: written as u64,
        };
        check_trailer(*trailer, sum).map_err(|e| place(e, at))?;
        at += 8;
        len += written;
    }
    out.truncate(len);
    Ok(Some(out))
}
