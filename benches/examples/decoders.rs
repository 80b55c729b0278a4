//! Gzip decoders in one process, interleaved: CPU seconds and MB/s of output, medians.
//!
//! `cargo run --release -p unlade-benches --features zlib-ng --example decoders FILE.gz [ROUNDS]`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{io::Read, time::Duration};

use unlade_unpack::{Compression, Limits, decode::Decoder};

fn cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(t.tv_sec).unwrap(),
        u32::try_from(t.tv_nsec).unwrap(),
    )
}

fn ours(blob: &[u8], block: &mut [u8]) -> u64 {
    let mut decoder = Decoder::new(Compression::Gzip, &Limits::default()).unwrap();
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

fn flate(blob: &[u8], block: &mut [u8]) -> u64 {
    let mut reader = flate2::bufread::MultiGzDecoder::new(blob);
    let mut total = 0;
    while let n @ 1.. = reader.read(block).unwrap() {
        total += n as u64;
    }
    total
}

fn main() {
    let mut args = std::env::args().skip(1);
    let blob = std::fs::read(args.next().unwrap()).unwrap();
    let rounds: usize = args.next().map_or(5, |n| n.parse().unwrap());
    let mut block = vec![0; 256 << 10];
    let size = ours(&blob, &mut block);
    let mut whole = vec![1; usize::try_from(size).unwrap()];
    let backend = if cfg!(feature = "zlib-ng") {
        "zlib-ng"
    } else {
        "zlib-rs"
    };
    let names = ["ours", "libdeflate re-used", "libdeflate fresh", backend];
    let mut times = vec![Vec::new(); names.len()];
    for _ in 0..rounds {
        for (i, times) in times.iter_mut().enumerate() {
            let at = cpu();
            let n = match i {
                0 => ours(&blob, &mut block),
                1 => libdeflater::Decompressor::new()
                    .gzip_decompress(&blob, &mut whole)
                    .unwrap() as u64,
                2 => {
                    let mut fresh = vec![0; whole.len()];
                    libdeflater::Decompressor::new()
                        .gzip_decompress(&blob, &mut fresh)
                        .unwrap() as u64
                }
                _ => flate(&blob, &mut block),
            };
            assert_eq!(n, size);
            times.push((cpu() - at).as_secs_f64());
        }
    }
    for (name, times) in names.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let (low, mid) = (times[0], times[times.len() / 2]);
        println!(
            "{name:20} {mid:.3} s  {:.0} MB/s  (best {:.0})",
            size as f64 / mid / 1e6,
            size as f64 / low / 1e6
        );
    }
}
