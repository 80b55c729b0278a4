//! Layers for the benches: generated with a fixed seed, or a real one.
//!
//! `UNLADE_BENCH_TAR=FILE` benches the bytes of a real uncompressed layer instead of generated
//! ones, such as those that `perf workloads` makes.

use std::io::{self, Write};

/// A small generator with a fixed seed (xorshift64*): the same bytes on every machine.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }
}

/// Text-like bytes that compress about threefold, as layers do.
pub fn text(random: &mut Random, len: usize) -> Vec<u8> {
    const WORDS: &[&str] = &[
        "function", "return", " = ", "module", "(", ");\n", "const ", "import ", "0x", ".so",
    ];
    let mut out = Vec::with_capacity(len + 16);
    while out.len() < len {
        let pick = random.below(14);
        match WORDS.get(usize::try_from(pick).unwrap_or(0)) {
            Some(word) => out.extend_from_slice(word.as_bytes()),
            None => out.extend_from_slice(&random.next_u64().to_le_bytes()[..4]),
        }
    }
    out.truncate(len);
    out
}

/// A layer of `files` files of about `bytes` bytes each, 20 to a directory.
///
/// # Errors
/// Never in practice: it writes to memory.
pub fn layer(files: usize, bytes: usize) -> io::Result<Vec<u8>> {
    let mut random = Random::new(7);
    let mut tar = tar::Builder::new(Vec::new());
    for i in 0..files {
        let dir = format!("usr/lib/pkg{:04}", i / 20);
        if i % 20 == 0 {
            let mut h = tar::Header::new_gnu();
            h.set_entry_type(tar::EntryType::Directory);
            h.set_mode(0o755);
            h.set_size(0);
            tar.append_data(&mut h, format!("{dir}/"), io::empty())?;
        }
        let data = text(&mut random, bytes / 2 + i * 37 % bytes.max(1));
        let mut h = tar::Header::new_gnu();
        h.set_mode(0o644);
        h.set_mtime(1_600_000_000);
        h.set_size(data.len() as u64);
        tar.append_data(&mut h, format!("{dir}/file{i}"), &data[..])?;
    }
    tar.into_inner()
}

/// The layer that the benches use: real bytes if there are any, else 2,000 generated files.
///
/// # Errors
/// If the file named by `UNLADE_BENCH_TAR` cannot be read.
pub fn sample() -> io::Result<Vec<u8>> {
    match std::env::var_os("UNLADE_BENCH_TAR") {
        Some(path) => std::fs::read(path),
        None => layer(2000, 8 << 10),
    }
}

/// `data` as one gzip member at level 6.
///
/// # Errors
/// Never in practice: it writes to memory.
pub fn gzip(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    w.write_all(data)?;
    w.finish()
}

/// `data` as one zstd frame at level 3.
///
/// # Errors
/// Never in practice: it writes to memory.
pub fn zstd(data: &[u8]) -> io::Result<Vec<u8>> {
    zstd::encode_all(data, 3)
}
