//! Parallel against serial, with chunks of any size.

use std::io::Write;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Decoder, Done, Parallel};
use crate::error::Result;

/// (output so far, how it ended)
fn serial(blob: &[u8]) -> (Vec<u8>, Result<()>) {
    let mut decoder = Decoder::new();
    let (mut out, mut buf, mut at) = (Vec::new(), vec![0; 100_000], 0);
    loop {
        let done = decoder.decode(&blob[at..], &mut buf);
        out.extend_from_slice(&buf[..decoder.written()]);
        match done {
            Ok(done) => at += done.read,
            Err(e) => return (out, Err(e)),
        }
        if at == blob.len() && decoder.written() < buf.len() {
            return (out, decoder.finish());
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
    let one = gz(&data, 6);
    let blob = [&one[..], &gz(b"a second member", 6), b"\0garbage"].concat();
    let end = one.len();
    let mut damaged = vec![blob.clone()];
    for at in [
        50_000,
        150_000,
        300_000,
        end - 5,
        end - 1,
        end + 3,
        end + 20,
    ] {
        damaged.push(blob.clone());
        damaged.last_mut().unwrap()[at] ^= 0x10;
    }
    for cut in [0, 5, 100_000, end - 8, end - 1, end + 2] {
        damaged.push(blob[..cut].to_vec());
    }
    for (i, bad) in damaged.iter().enumerate() {
        let (out, want) = serial(bad);
        let want = want.unwrap_err();
        assert!(want.place().offset.is_some(), "{want}");
        let (got_out, got) = parallel(bad, 2, 64 << 10, 5000);
        assert_eq!(got.unwrap_err().to_string(), want.to_string(), "{i}");
        assert!(got_out == out, "{i}: {} / {}", got_out.len(), out.len());
    }
}

#[test]
fn threads_fit_the_memory() {
    for (threads, mib, want) in [
        (16, 8, 1),
        (2, 20, 1),
        (2, 21, 2),
        (16, 64, 15),
        (3, 128, 3),
    ] {
        let options = Parallel::new(threads, mib << 20);
        assert_eq!(options.threads, want, "{threads} threads in {mib} MiB");
        assert!(options.chunk_bytes >= 64 << 10);
    }
    assert_eq!(Parallel::new(2, 512 << 20).chunk_bytes, 2 << 20);
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
        let (want, how) = serial(&blob);
        prop_assert!(out == want);
        let text = |e: crate::Error| e.to_string();
        prop_assert_eq!(done.map(drop).map_err(text), how.map_err(text));
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
