//! Each decoder over the same layer: ours as the pipeline uses them, and the alternatives.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::Read;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unlade_unpack::{Compression, Limits, decode::Decoder};

fn stream(kind: Compression, blob: &[u8], block: &mut [u8]) -> u64 {
    let mut decoder = Decoder::new(kind, &Limits::default()).unwrap();
    let mut total = 0;
    for mut input in blob.chunks(128 << 10) {
        loop {
            let done = decoder.decode(input, block).unwrap();
            input = &input[done.read..];
            total += done.written as u64;
            if input.is_empty() && done.written < block.len() {
                break;
            }
        }
    }
    decoder.finish().unwrap();
    total
}

fn decode(c: &mut Criterion) {
    let tar = unlade_benches::sample().unwrap();
    let (gz, zst) = (
        unlade_benches::gzip(&tar).unwrap(),
        unlade_benches::zstd(&tar).unwrap(),
    );
    let mut block = vec![0; 256 << 10];
    let mut group = c.benchmark_group("decode");
    group
        .throughput(Throughput::Bytes(tar.len() as u64))
        .sample_size(10);
    group.bench_function("gzip/streaming into re-used blocks", |b| {
        b.iter(|| stream(Compression::Gzip, &gz, &mut block));
    });
    group.bench_function("gzip/libdeflate one-shot, fresh memory", |b| {
        b.iter(|| {
            let mut out = vec![0; tar.len()];
            libdeflater::Decompressor::new()
                .gzip_decompress(&gz, &mut out)
                .unwrap()
        });
    });
    let mut reused = vec![0; tar.len()];
    group.bench_function("gzip/libdeflate one-shot, re-used memory", |b| {
        b.iter(|| {
            libdeflater::Decompressor::new()
                .gzip_decompress(&gz, &mut reused)
                .unwrap()
        });
    });
    group.bench_function("gzip/flate2 MultiGzDecoder", |b| {
        b.iter(|| {
            let mut reader = flate2::read::MultiGzDecoder::new(&gz[..]);
            let mut total = 0;
            while let n @ 1.. = reader.read(&mut block).unwrap() {
                total += n;
            }
            total
        });
    });
    group.bench_function("zstd/streaming into re-used blocks", |b| {
        b.iter(|| stream(Compression::Zstd, &zst, &mut block));
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
