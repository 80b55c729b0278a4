//! Parallel against serial, with chunks of any size.

use std::io::Write;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Decoder, Done, Parallel};
use crate::error::Result;

fn serial(blob: &[u8]) -> Result<Vec<u8>> {
    let mut decoder = Decoder::new();
    let (mut out, mut buf, mut at) = (Vec::new(), vec![0; 100_000], 0);
    loop {
        let done = decoder.decode(&blob[at..], &mut buf)?;
        at += done.read;
        out.extend_from_slice(&buf[..done.written]);
        if at == blob.len() && done.written < buf.len() {
            return decoder.finish().map(|()| out);
        }
    }
}

/// (output so far, how it ended)
fn parallel(blob: &[u8], threads: usize, chunk: usize, piece: usize) -> (Vec<u8>, Result<Done>) {
    let mut pieces = blob.chunks(piece).map(Bytes::copy_from_slice);
    let mut out = Vec::new();
    let options = Parallel {
        threads,
        chunk_bytes: chunk,
    };
    let done = options.run(&mut || Ok(pieces.next()), &mut |bytes| {
        out.extend_from_slice(&bytes);
        Ok(())
    });
    (out, done)
}

fn text(n: u32) -> Vec<u8> {
    (0..n)
        .flat_map(|i| format!("{:x} {i} ", i.wrapping_mul(i >> 3)).into_bytes())
        .collect()
}

fn gz(data: &[u8], level: u32) -> Vec<u8> {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    w.write_all(data).unwrap();
    w.finish().unwrap()
}

#[test]
fn pieces_are_decoded_ahead() {
    let data = text(600_000);
    let blob = gz(&data, 6);
    for threads in [1, 2, 5] {
        let (out, done) = parallel(&blob, threads, 100_000, 9999);
        let done = done.unwrap();
        assert!(out == data, "{threads} threads");
        assert_eq!(done.bytes, data.len() as u64);
        assert!(done.pieces.0 > 10, "{done:?}");
        assert!(done.in_order < done.bytes / 2, "{done:?}");
    }
}

#[test]
fn members_and_flushes_need_no_second_stage() {
    let data = text(600_000);
    let members: Vec<u8> = data.chunks(60_000).flat_map(|part| gz(part, 6)).collect();
    let (out, done) = parallel(&members, 2, 100_000, 1 << 20);
    let done = done.unwrap();
    assert!(out == data && done.pieces.0 > 10, "{done:?}");
    assert_eq!(done.second_stage, 0, "{done:?}");
}

#[test]
fn damage_is_found_as_in_order() {
    let data = text(200_000);
    let blob = gz(&data, 6);
    for at in [50_000, 150_000, 300_000, blob.len() - 5, blob.len() - 1] {
        let mut bad = blob.clone();
        bad[at] ^= 0x10;
        let want = serial(&bad).unwrap_err().to_string();
        let (_, got) = parallel(&bad, 2, 64 << 10, 5000);
        let got = got.unwrap_err().to_string();
        assert!(
            got.starts_with(&want) || want.starts_with(&got),
            "{at}: {want} / {got}"
        );
    }
    for cut in [0, 5, 100_000, blob.len() - 8, blob.len() - 1] {
        let (_, got) = parallel(&blob[..cut], 2, 64 << 10, 5000);
        assert_eq!(got.is_err(), serial(&blob[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_slow_receiver_stops_the_decoder() {
    let data = text(600_000);
    let blob = gz(&data, 6);
    let mut input = Some(Bytes::from(blob));
    let options = Parallel {
        threads: 2,
        chunk_bytes: 64 << 10,
    };
    let (send, receive) = crossbeam_channel::unbounded::<Bytes>();
    let reader = std::thread::spawn(move || {
        let mut out = Vec::new();
        // Holds on to a few pieces.
        let mut held = std::collections::VecDeque::new();
        for bytes in receive {
            out.extend_from_slice(&bytes);
            held.push_back(bytes);
            if held.len() > 1 {
                held.pop_front();
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        out
    });
    options
        .run(&mut || Ok(input.take()), &mut |bytes| {
            send.send(bytes).unwrap();
            Ok(())
        })
        .unwrap();
    drop(send);
    assert!(reader.join().unwrap() == data);
}

#[test]
fn what_cannot_be_found_is_not_looked_for_again_and_again() {
    // Stored blocks only, and data full of signs that lead nowhere.
    let noise: Vec<u8> = (0..6_000_000_u32)
        .map(|i| (i.wrapping_mul(i ^ 0x9e37_79b9) >> 13).to_le_bytes()[0])
        .collect();
    let signs = [0, 0, 0xff, 0xff, 0x1f, 0x8b, 8, 0, 4, 0x1f].repeat(600_000);
    for data in [noise, signs] {
        let blob = gz(&data, 0);
        let (out, done) = parallel(&blob, 2, 64 << 10, 1 << 20);
        let done = done.unwrap();
        assert!(out == data);
        assert!(done.pieces.1 < 30, "{done:?}");
    }
}

#[test]
fn many_tiny_members() {
    let one = gz(b"x", 6);
    let blob = one.repeat(200_000);
    let (out, done) = parallel(&blob, 2, 256 << 10, 1 << 20);
    assert!(done.is_ok() && out.len() == 200_000 && out.iter().all(|b| *b == b'x'));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn serial_and_parallel_agree(
        parts in prop::collection::vec((0..3_u8, 1..60_000_u32, 0..=9_u32), 1..6),
        threads in 1..4_usize,
        chunk in 4096..100_000_usize,
        piece in 1..200_000_usize,
        damage in prop::option::of((any::<prop::sample::Index>(), 0..8_u32)),
    ) {
        let mut blob = Vec::new();
        for (kind, n, level) in parts {
            let data = match kind {
                0 => text(n),
                1 => vec![n.to_le_bytes()[0]; n as usize * 20],
                _ => (0..n * 4).map(|i| (i.wrapping_mul(i ^ 0x9e37_79b9) >> 13).to_le_bytes()[0]).collect(),
            };
            blob.extend(gz(&data, level));
        }
        if let Some((at, bit)) = damage {
            let at = at.index(blob.len());
            blob[at] ^= 1 << bit;
        }
        let (out, done) = parallel(&blob, threads, chunk, piece);
        match serial(&blob) {
            Ok(want) => prop_assert!(done.is_ok() && out == want),
            Err(_) => prop_assert!(done.is_err()),
        }
    }

    #[test]
    fn checkpoints_resume(n in 1..100_000_u32, level in 0..=9_u32, at in any::<prop::sample::Index>()) {
        let data = text(n);
        let blob = gz(&data, level);
        let at = at.index(blob.len()) as u64;
        let mut decoder = Decoder::new();
        decoder.pause_at(Some(at));
        let mut out = vec![0; data.len() + 1];
        let done = decoder.decode(&blob, &mut out).unwrap();
        if let Some(checkpoint) = decoder.checkpoint() {
            prop_assert!(decoder.paused());
            let stored = super::Checkpoint::from_bytes(&checkpoint.to_bytes()).unwrap();
            prop_assert_eq!(&stored, &checkpoint);
            let mut later = Decoder::resume(&stored);
            let rest = usize::try_from(stored.input_offset()).unwrap();
            let more = later.decode(&blob[rest..], &mut out[done.written..]).unwrap();
            later.finish().unwrap();
            prop_assert!(out[..done.written + more.written] == data[..]);
        }
        decoder.pause_at(None);
        let mut rest = vec![0; data.len() + 1];
        let more = decoder.decode(&blob[done.read..], &mut rest).unwrap();
        decoder.finish().unwrap();
        prop_assert_eq!(done.written + more.written, data.len());
    }
}
