//! A blob through the streaming decoder.

use unlade_unpack::{Compression, Limits, Result, decode::Decoder};

use crate::input::Cuts;

/// Most output of a fuzz input: more shows nothing new.
pub const MOST: usize = 4 << 20;

/// Decodes `blob` in pieces, into buffers of as many sizes, or whole. `Ok(None)` if there is
/// more than [`MOST`].
pub fn decode(
    compression: Compression,
    blob: &[u8],
    limits: &Limits,
    cuts: Option<(Cuts, Cuts)>,
) -> Result<Option<Vec<u8>>> {
    let mut decoder = Decoder::new(compression, limits)?;
    let (mut pieces, mut buffers) = cuts.unzip();
    let mut buffer = vec![0; 64 << 10];
    let (mut out, mut rest) = (Vec::new(), blob);
    while !rest.is_empty() {
        let mut piece = match &mut pieces {
            Some(cuts) => cuts.cut(&mut rest),
            None => std::mem::take(&mut rest),
        };
        loop {
            let size = buffers.as_mut().map_or(buffer.len(), Cuts::next_size);
            let room = &mut buffer[..size];
            // What was there must not matter.
            room.fill(0xa5);
            let done = decoder.decode(piece, room)?;
            assert!(done.read <= piece.len() && done.written <= size);
            out.extend_from_slice(&room[..done.written]);
            piece = &piece[done.read..];
            if out.len() > MOST {
                return Ok(None);
            }
            if done.written < size {
                assert!(piece.is_empty(), "neither input nor room was used up");
                break;
            }
        }
    }
    decoder.finish()?;
    Ok(Some(out))
}
