//! Compressed streams.

use std::io::Write;

use flate2::{Compression, GzBuilder, write::DeflateEncoder};

fn texts() -> Vec<Vec<u8>> {
    let mixed: Vec<u8> = (0..6000_u32)
        .map(|n| (n * n / 7).to_le_bytes()[0])
        .collect();
    vec![
        Vec::new(),
        b"a".to_vec(),
        b"abcabcabcabcabcabcabcabc, and again: abcabcabc".to_vec(),
        vec![0; 5000],
        mixed,
    ]
}

fn deflate(text: &[u8], level: u32) -> Vec<u8> {
    let mut out = DeflateEncoder::new(Vec::new(), Compression::new(level));
    let (a, b) = text.split_at(text.len() / 2);
    out.write_all(a).expect("memory");
    out.flush().expect("memory");
    out.write_all(b).expect("memory");
    out.finish().expect("memory")
}

fn gz(text: &[u8]) -> Vec<u8> {
    let names = GzBuilder::new()
        .filename("name")
        .comment("comment")
        .extra("extra");
    let mut out = names.write(Vec::new(), Compression::default());
    out.write_all(text).expect("memory");
    out.finish().expect("memory")
}

/// Flags, cuts of input and output, then by the flags.
pub fn gzip() -> Vec<Vec<u8>> {
    let control = |flags| vec![flags, 3, 200, 0, 90, 255, 7, 130, 20];
    let mut all = Vec::new();
    for text in texts() {
        let blob = [gz(&text), gz(b"more")].concat();
        all.push([control(0), blob].concat());
        for level in [0, 1, 6, 9] {
            let body = deflate(&text, level);
            all.push([control(1), body.clone()].concat());
            let n = u16::try_from(body.len()).expect("short");
            let two = [&n.to_le_bytes(), &body[..], &body[..]].concat();
            all.push([control(6), two.clone()].concat());
            all.push([control(2), two].concat());
        }
        let mut fast = libdeflater::Compressor::new(libdeflater::CompressionLvl::best());
        let mut body = vec![0; text.len() + 100];
        let n = fast.deflate_compress(&text, &mut body).expect("room");
        all.push([control(1), body[..n].to_vec()].concat());
    }
    all
}

/// As for gzip.
pub fn zstd() -> Vec<Vec<u8>> {
    let control = |flags| vec![flags, 3, 200, 0, 90, 255, 7, 130, 20];
    let mut all = Vec::new();
    for text in texts() {
        for level in [-1, 3, 19] {
            let mut frame = zstd::Encoder::new(Vec::new(), level).expect("a level");
            frame.include_checksum(level == 3).expect("a parameter");
            frame.window_log(17).expect("a parameter");
            frame.write_all(&text).expect("memory");
            let frame = frame.finish().expect("memory");
            let skippable = [0x55, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
            all.push([control(0), frame.clone()].concat());
            all.push([control(0), skippable.to_vec(), frame.clone(), frame].concat());
        }
        let text = &text[..text.len().min(900)];
        let n = u16::try_from(text.len()).expect("short").to_le_bytes();
        for flags in [0x00, 0x1d, 0x2e, 0x0b] {
            let one = [&[flags, n[0], n[1]], text].concat();
            all.push([control(1), vec![1], one.clone(), one.clone()].concat());
            all.push([control(3), vec![0], one, vec![9, 0, 1]].concat());
        }
    }
    all
}
