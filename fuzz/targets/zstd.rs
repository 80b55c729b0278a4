//! Our use of libzstd against the zstd crate's own reader, for every split of input and output.
#![no_main]

use std::io::{BufReader, Read, Write};

use libfuzzer_sys::fuzz_target;
use unlade_fuzz::{
    decoding::{MOST, decode},
    input::Input,
};
use unlade_unpack::{Compression, Limits};

const WINDOW_LOG: u32 = 20;

/// Frames made from the input, with what it decodes to.
fn frames(input: &mut Input<'_>) -> (Vec<u8>, Vec<u8>) {
    let (mut blob, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..=input.byte() % 4 {
        let flags = input.byte();
        let n = usize::from(input.u16() % 2048);
        let text = input.take(n).repeat(1 + usize::from(flags >> 4) * 16);
        if flags & 3 == 3 {
            blob.extend_from_slice(&[0x50 | flags >> 4, 0x2a, 0x4d, 0x18]);
            blob.extend_from_slice(&u32::try_from(text.len()).expect("small").to_le_bytes());
            blob.extend_from_slice(&text);
            continue;
        }
        let level = i32::from(flags & 3) * 6 - 1;
        let mut frame = zstd::Encoder::new(Vec::new(), level).expect("a level of zstd");
        frame.window_log(WINDOW_LOG).expect("a parameter of zstd");
        frame
            .include_checksum(flags & 4 != 0)
            .expect("a parameter of zstd");
        frame
            .include_contentsize(flags & 8 != 0)
            .expect("a parameter of zstd");
        frame.write_all(&text).expect("memory");
        blob.extend_from_slice(&frame.finish().expect("memory"));
        plain.extend_from_slice(&text);
    }
    (blob, plain)
}

/// What the zstd crate's reader makes of `blob` when it comes in pieces of `piece` bytes. A frame
/// that comes whole takes a way of its own through libzstd, with other rules for damaged ones:
/// there a block that is compressed to nothing is an error.
fn reference(blob: &[u8], piece: usize) -> Option<Vec<u8>> {
    let pieces = BufReader::with_capacity(piece, blob);
    let mut reader = zstd::Decoder::with_buffer(pieces).ok()?;
    reader.window_log_max(WINDOW_LOG).ok()?;
    let mut out = Vec::new();
    reader
        .take(MOST as u64 + 1)
        .read_to_end(&mut out)
        .ok()
        .map(|_| out)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let flags = input.byte();
    let cuts = (input.cuts(), input.cuts());
    let mut blob = input.0.to_vec();
    let mut made = None;
    if flags & 1 != 0 {
        let (frames, plain) = frames(&mut input);
        (blob, made) = (frames, Some(plain));
        if flags & 2 != 0 && !blob.is_empty() {
            // One byte changed, or the end cut off.
            let at = usize::from(input.u16()) % blob.len();
            match input.byte() {
                0 => blob.truncate(at),
                xor => blob[at] ^= xor,
            }
            made = None;
        }
    }
    // No blob that is called zstd is empty.
    if blob.is_empty() {
        return;
    }
    let limits = Limits {
        zstd_window_bytes: 1 << WINDOW_LOG,
        ..Limits::default()
    };
    let ours = decode(Compression::Zstd, &blob, &limits, None);
    let split = decode(Compression::Zstd, &blob, &limits, Some(cuts));
    let want = reference(&blob, 1);
    let at_once = reference(&blob, blob.len());
    if let (Some(a), Some(b)) = (&want, &at_once) {
        assert!(a == b, "libzstd reads it in two ways");
    }
    if want.as_ref().is_some_and(|out| out.len() > MOST) || matches!(ours, Ok(None)) {
        return;
    }
    match (&want, &ours, &split) {
        (Some(want), Ok(Some(ours)), Ok(Some(split))) => {
            assert!(want == ours && want == split, "not the bytes of libzstd");
            assert!(made.is_none_or(|made| made == *want));
        }
        // A content size that is wrong before an empty last block, which libzstd overlooks.
        (Some(_), Err(whole), Err(split))
            if [whole, split]
                .iter()
                .all(|e| e.message().contains("says it has")) => {}
        (None, Err(_), Err(_)) => assert!(made.is_none(), "a good stream is refused"),
        _ => panic!(
            "libzstd {:?}, whole {:?}, split {:?}",
            want.map(|w| w.len()),
            ours.map(|o| o.map(|o| o.len())),
            split.map(|o| o.map(|o| o.len()))
        ),
    }
});
