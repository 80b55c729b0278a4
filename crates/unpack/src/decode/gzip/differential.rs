//! Against another decoder: the same bytes, or an error from both.

use std::io::{Read, Write};

use proptest::prelude::*;

use super::Gzip;
use crate::decode::Progress;

fn reference(blob: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut reader = flate2::bufread::GzDecoder::new(blob);
    reader.read_to_end(&mut out).ok()?;
    // It stops after the first member.
    reader.into_inner().is_empty().then_some(out)
}

/// Ours, with input and output in pieces of these sizes, over and over.
fn ours(blob: &[u8], inputs: &[usize], outputs: &[usize]) -> Option<Vec<u8>> {
    let (mut inputs, mut outputs) = (inputs.iter().cycle(), outputs.iter().cycle());
    let mut gzip = Gzip::default();
    let (mut out, mut rest) = (Vec::new(), blob);
    loop {
        let n = (*inputs.next()?).min(rest.len());
        let (mut input, later) = rest.split_at(n);
        rest = later;
        loop {
            let mut buf = vec![0xaa; *outputs.next()?];
            let Progress { read, written } = gzip.decode(input, &mut buf).ok()?;
            out.extend_from_slice(&buf[..written]);
            input = &input[read..];
            if input.is_empty() && written < buf.len() {
                break;
            }
        }
        if rest.is_empty() {
            return gzip.at_end().then_some(out);
        }
    }
}

fn gz(data: &[u8], level: u32) -> Vec<u8> {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    w.write_all(data).unwrap();
    w.finish().unwrap()
}

/// A gzip file around a deflate stream that need not be valid; checksum and length of what
/// another decoder makes of it.
fn wrap(deflate: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    let _ = flate2::read::DeflateDecoder::new(deflate).read_to_end(&mut data);
    let mut crc = flate2::Crc::new();
    crc.update(&data);
    let mut blob = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    blob.extend_from_slice(deflate);
    blob.extend_from_slice(&crc.sum().to_le_bytes());
    blob.extend_from_slice(&crc.amount().to_le_bytes());
    blob
}

/// Data with matches near and far, long and short, and stretches without.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..2000).prop_map(|bytes| (bytes, 1)),
        (prop::collection::vec(any::<u8>(), 1..40), 1..3000_usize),
        (prop::collection::vec(0..4_u8, 0..3000), 1..4_usize),
        (
            prop::collection::vec(any::<u8>(), 20_000..50_000),
            1..3_usize
        ),
    ];
    prop::collection::vec(part, 0..6)
        .prop_map(|parts| parts.into_iter().flat_map(|(b, n)| b.repeat(n)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn valid_streams(
        data in data(),
        level in 0..=9_u32,
        inputs in prop::collection::vec(1..5000_usize, 1..4),
        outputs in prop::collection::vec(1..70_000_usize, 1..4),
    ) {
        let blob = gz(&data, level);
        prop_assert!(ours(&blob, &inputs, &outputs).as_deref() == Some(&data[..]));
        prop_assert!(ours(&blob, &[usize::MAX], &[300_000]).as_deref() == Some(&data[..]));
    }

    #[test]
    fn damaged_streams(
        data in data(),
        level in 1..=9_u32,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..4),
        piece in 1..5000_usize,
    ) {
        let blob = gz(&data, level);
        let mut deflate = blob[10..blob.len() - 8].to_vec();
        for (at, bit) in flips {
            let at = at.index(deflate.len().min(400));
            deflate[at] ^= 1 << bit;
        }
        let blob = wrap(&deflate);
        let want = reference(&blob);
        prop_assert!(ours(&blob, &[piece], &[4096, 70_000]) == want);
        prop_assert!(ours(&blob, &[usize::MAX], &[1 << 20]) == want);
    }

    #[test]
    fn random_streams(deflate in prop::collection::vec(any::<u8>(), 0..400), piece in 1..50_usize) {
        let blob = wrap(&deflate);
        let want = reference(&blob);
        prop_assert!(ours(&blob, &[piece], &[400]) == want);
        prop_assert!(ours(&blob, &[usize::MAX], &[1 << 20]) == want);
    }
}

/// Pads, so that the fast loop decodes what is tested.
fn padded(deflate_first: &[u8]) -> Vec<u8> {
    let mut w = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
    w.write_all(
        &(0..20_000_u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<_>>(),
    )
    .unwrap();
    [deflate_first, &w.finish().unwrap()].concat()
}

#[test]
fn every_bit_of_a_small_stream() {
    let text = b"every engine decodes it, every engine decodes it twice, on one core".repeat(3);
    for level in [1, 6, 9] {
        let blob = gz(&text, level);
        let deflate = &blob[10..blob.len() - 8];
        for bit in 0..deflate.len() * 8 {
            let mut bad = deflate.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            for blob in [wrap(&bad), wrap(&padded(&bad))] {
                let want = reference(&blob);
                assert_eq!(ours(&blob, &[1], &[7]), want, "bit {bit}");
                assert_eq!(ours(&blob, &[usize::MAX], &[1 << 20]), want, "bit {bit}");
            }
        }
    }
}

#[test]
fn errors_tell_the_bit() {
    let mut blob = gz(&[7; 100], 6);
    blob[10] |= 6;
    let e = Gzip::default().decode(&blob, &mut [0; 200]).unwrap_err();
    assert!(
        e.to_string().contains("unknown block type, before bit 83"),
        "{e}"
    );
}
