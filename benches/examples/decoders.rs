//! Gzip decoders in one process, interleaved: medians of CPU and wall seconds, MB/s of output.
//!
//! `cargo run --release -p unlade-benches --features zlib-ng --example decoders FILE.gz [ROUNDS]`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    io::Read,
    time::{Duration, Instant},
};

use unlade_unpack::{
    Compression, Limits,
    decode::{Decoder, gzip::Parallel},
};

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

fn parallel(blob: &bytes::Bytes, threads: usize) -> u64 {
    let mut input = (0..blob.len())
        .step_by(128 << 10)
        .map(|at| blob.slice(at..(at + (128 << 10)).min(blob.len())));
    let mut options = Parallel::new(threads, 128 << 20);
    if let Ok(kib) = std::env::var("CHUNK_KIB") {
        options.chunk_bytes = kib.parse::<usize>().unwrap() << 10;
    }
    let done = options
        .run(&mut || Ok(input.next()), &mut |_| Ok(()))
        .unwrap();
    if std::env::var_os("VERBOSE").is_some() {
        println!("{done:?}");
    }
    done.bytes
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
    let blob = bytes::Bytes::from(std::fs::read(args.next().unwrap()).unwrap());
    let rounds: usize = args.next().map_or(5, |n| n.parse().unwrap());
    let mut block = vec![0; 256 << 10];
    let size = ours(&blob, &mut block);
    let mut whole = vec![1; usize::try_from(size).unwrap()];
    let backend = if cfg!(feature = "zlib-ng") {
        "zlib-ng"
    } else {
        "zlib-rs"
    };
    let names = [
        "ours",
        "libdeflate re-used",
        "libdeflate fresh",
        backend,
        "ours, 1 worker",
        "ours, 2 workers",
        "ours, 4 workers",
        "ours, 8 workers",
    ];
    let mut times = vec![Vec::new(); names.len()];
    for _ in 0..rounds {
        for (i, times) in times.iter_mut().enumerate() {
            let (at, wall) = (cpu(), Instant::now());
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
                3 => flate(&blob, &mut block),
                n => parallel(&blob, 1 << (n - 4)),
            };
            assert_eq!(n, size);
            times.push(((cpu() - at).as_secs_f64(), wall.elapsed().as_secs_f64()));
        }
    }
    for (name, times) in names.iter().zip(&times) {
        let mid = |of: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<f64> = times.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let (cpu, wall) = (mid(|t| t.0), mid(|t| t.1));
        println!(
            "{name:20} CPU {cpu:.3} s, {:4.0} MB/s; wall {wall:.3} s, {:4.0} MB/s",
            size as f64 / cpu / 1e6,
            size as f64 / wall / 1e6
        );
    }
}
