use std::io::Write;

use flate2::Crc;

use super::{Gzip, header::cut, one_shot};
use crate::error::Result;

fn gz(data: &[u8], level: u32) -> Vec<u8> {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    w.write_all(data).unwrap();
    w.finish().unwrap()
}

fn stream(blob: &[u8], piece: usize) -> Result<Vec<u8>> {
    let mut gzip = Gzip::default();
    let mut out = Vec::new();
    let mut buf = vec![0; 1000];
    for mut input in blob.chunks(piece) {
        loop {
            let done = gzip.decode(input, &mut buf)?;
            out.extend_from_slice(&buf[..done.written]);
            input = &input[done.read..];
            if input.is_empty() && done.written < buf.len() {
                break;
            }
        }
    }
    if gzip.at_end() {
        Ok(out)
    } else {
        Err(cut(gzip.taken()))
    }
}

fn both(blob: &[u8]) -> Result<Vec<u8>> {
    // A damaged length may make the one-shot decoder decline: the other one decides then.
    let one = match one_shot(blob, 1 << 20) {
        Ok(None) => stream(blob, 3),
        done => done.map(Option::unwrap),
    };
    for piece in [1, 7, 4096] {
        match (&one, stream(blob, piece)) {
            (Ok(a), Ok(b)) => assert_eq!(*a, b),
            (Err(_), Err(_)) => {}
            (a, b) => panic!("one-shot {a:?}, streaming {b:?} for {blob:x?}"),
        }
    }
    one
}

#[test]
fn every_member_is_read() {
    let data: Vec<u8> = (0..50_000_u32).map(|i| (i / 7).to_le_bytes()[0]).collect();
    let blob = [
        gz(&data[..100], 6),
        gz(b"", 6),
        gz(&data[100..], 1),
        gz(b"", 0),
    ]
    .concat();
    assert_eq!(both(&blob).unwrap(), data);
}

#[test]
fn header_fields_are_read_and_checked() {
    let plain = gz(b"hello", 6);
    let mut h = vec![0x1f, 0x8b, 8, 0b1_1110, 0, 0, 0, 0, 0, 3];
    h.extend_from_slice(&[3, 0, 1, 2, 3]);
    h.extend_from_slice(b"name\0comment\0");
    let mut crc = Crc::new();
    crc.update(&h);
    h.extend_from_slice(&crc.sum().to_le_bytes()[..2]);
    let blob = [&h, &plain[10..]].concat();
    assert_eq!(both(&blob).unwrap(), b"hello");
    let mut bad = blob.clone();
    bad[h.len() - 1] ^= 1;
    assert!(both(&bad).is_err());
}

#[test]
fn damage_is_always_an_error() {
    let good = gz(b"some text, some text, some more text", 6);
    for n in 1..good.len() {
        assert!(both(&good[..n]).is_err(), "cut at {n}");
    }
    for tail in [b"\0".as_slice(), b"garbage", &good[..5]] {
        assert!(both(&[&good, tail].concat()).is_err());
    }
    let mut crc = good.clone();
    crc[good.len() - 8] ^= 1;
    let mut len = good.clone();
    len[good.len() - 4] ^= 1;
    assert!(both(&crc).is_err() && both(&len).is_err());
}

#[test]
fn one_shot_declines_what_is_too_large() {
    assert!(one_shot(&gz(&[0; 5000], 6), 4999).unwrap().is_none());
    let two = [gz(&[0; 3000], 6), gz(&[0; 3000], 6)].concat();
    assert!(one_shot(&two, 5000).unwrap().is_none());
    assert_eq!(one_shot(&two, 6000).unwrap().unwrap().len(), 6000);
}
