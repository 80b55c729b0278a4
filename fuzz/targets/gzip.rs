//! Our gzip decoders against flate2 (zlib-rs), for every split of input and output.
//!
//! zlib's rules decide: every other decoder must refuse what it refuses and give what it gives.
#![no_main]

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status, bufread::MultiGzDecoder};
use libfuzzer_sys::fuzz_target;
use unlade_fuzz::{
    decoding::{MOST, decode},
    input::Input,
};
use unlade_unpack::{Compression, Error, Limits, fuzzing::gzip_one_shot};

const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Puts a deflate stream into a member whose trailer is right, so that mutations get behind it.
fn member(deflate: &[u8]) -> Vec<u8> {
    let mut inflate = Decompress::new(false);
    let mut out = Vec::with_capacity(MOST);
    let status = inflate.decompress_vec(deflate, &mut out, FlushDecompress::Finish);
    let used = match status {
        Ok(Status::StreamEnd) => usize::try_from(inflate.total_in()).expect("within a slice"),
        _ => deflate.len(),
    };
    let len = u32::try_from(out.len()).expect("at most MOST");
    let crc = libdeflater::crc32(&out);
    [
        &HEADER,
        &deflate[..used],
        &crc.to_le_bytes(),
        &len.to_le_bytes(),
    ]
    .concat()
}

/// What flate2 says: `None` if it refuses.
fn reference(blob: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut limited = MultiGzDecoder::new(blob).take(MOST as u64 + 1);
    limited.read_to_end(&mut out).ok().map(|_| out)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let flags = input.byte();
    let cuts = (input.cuts(), input.cuts());
    let mut blob = Vec::new();
    match flags & 3 {
        0 => blob.extend_from_slice(input.0),
        1 => blob = member(input.0),
        // Two members, then what the input says.
        _ => {
            let n = usize::from(input.u16());
            blob = member(input.take(n));
            if flags & 4 != 0 {
                blob.extend_from_slice(&member(input.0));
            } else {
                blob.extend_from_slice(input.0);
            }
        }
    }
    // No blob that is called gzip is empty.
    if blob.is_empty() {
        return;
    }
    let limits = Limits::default();
    let ours = decode(Compression::Gzip, &blob, &limits, None);
    let split = decode(Compression::Gzip, &blob, &limits, Some(cuts));
    let want = reference(&blob);
    if want.as_ref().is_some_and(|out| out.len() > MOST) || matches!(ours, Ok(None)) {
        return;
    }
    match (&want, &ours, &split) {
        (Some(want), Ok(Some(ours)), Ok(Some(split))) => {
            assert!(want == ours, "not the bytes of flate2");
            assert!(want == split, "not the bytes of flate2, split");
        }
        (None, Err(whole), Err(split)) => {
            // Where it was noticed depends on the pieces, what was wrong does not.
            let what = |e: &Error| e.message().split(", before bit").next().map(str::to_owned);
            assert_eq!(what(whole), what(split));
        }
        _ => panic!(
            "flate2 {:?}, whole {:?}, split {:?}",
            want.map(|w| w.len()),
            ours.map(|o| o.map(|o| o.len())),
            split.map(|o| o.map(|o| o.len()))
        ),
    }
    match (&want, gzip_one_shot(&blob, MOST)) {
        (_, Ok(None)) | (None, Err(_)) => {}
        (Some(want), Ok(Some(one))) => assert!(*want == one, "one-shot gives other bytes"),
        (want, one) => panic!(
            "flate2 {:?}, one-shot {:?}",
            want.as_ref().map(Vec::len),
            one.map(|o| o.map(|o| o.len()))
        ),
    }
});
