//! Applying a layer from memory: threads with 1, 2 and 4 writers, the ring, and tokio-uring.
//!
//! `UNLADE_BENCH_DIRS=DIR:DIR…` names directories on the file systems to measure; the default is
//! one in memory (/dev/shm) and one in the temporary directory. Every iteration makes a new tree
//! and removes it untimed. ext4 slows down after many removals: give it a fresh file system.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    fs::File,
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unlade_unpack::{DirOptions, Expect, IoChoice, Unpacker, source::BytesSource};

fn ours(unpacker: &Unpacker, tar: &[u8], dir: &Path) {
    let mut sink = unpacker
        .dir_sink(File::open(dir).unwrap().into(), DirOptions::default())
        .unwrap();
    unpacker
        .run(BytesSource::new(tar.to_vec()), Expect::default(), &mut sink)
        .unwrap();
}

/// The named alternative: path-based, no descriptors of directories, one thread.
fn tokio_uring(tar: &[u8], dir: &Path) {
    tokio_uring::start(async {
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = dir.join(entry.path().unwrap());
            if entry.header().entry_type().is_dir() {
                std::fs::create_dir_all(&path).unwrap();
                continue;
            }
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = tokio_uring::fs::File::create(&path).await.unwrap();
            file.write_all_at(data, 0).await.0.unwrap();
            file.close().await.unwrap();
        }
    });
}

fn timed(parent: &Path, rounds: u64, work: impl Fn(&Path)) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        let dir = tempfile::tempdir_in(parent).unwrap();
        let at = Instant::now();
        work(dir.path());
        total += at.elapsed();
    }
    total
}

fn apply(c: &mut Criterion) {
    let tar = unlade_benches::sample().unwrap();
    let dirs = std::env::var("UNLADE_BENCH_DIRS")
        .unwrap_or_else(|_| format!("/dev/shm:{}", std::env::temp_dir().display()));
    for dir in dirs.split(':').filter(|d| Path::new(d).is_dir()) {
        let mut group = c.benchmark_group(format!("apply {dir}"));
        group
            .throughput(Throughput::Bytes(tar.len() as u64))
            .sample_size(10);
        for n in [1, 2, 4] {
            let unpacker = Unpacker::new().io(IoChoice::Threads).threads(n);
            group.bench_function(format!("threads, {n} writers"), |b| {
                b.iter_custom(|k| timed(Path::new(dir), k, |d| ours(&unpacker, &tar, d)));
            });
        }
        let ring = Unpacker::new().io(IoChoice::Ring);
        group.bench_function("ring", |b| {
            b.iter_custom(|k| timed(Path::new(dir), k, |d| ours(&ring, &tar, d)));
        });
        group.bench_function("tokio-uring", |b| {
            b.iter_custom(|k| timed(Path::new(dir), k, |d| tokio_uring(&tar, d)));
        });
        group.finish();
    }
}

criterion_group!(benches, apply);
criterion_main!(benches);
