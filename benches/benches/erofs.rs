//! An index over a layer of 23,000 entries: from its entries, and from its tar on disk.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{fs::File, hint::black_box, io};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unlade_graph::erofs::{build, scan::scan};
use unlade_unpack::{Limits, entry::Entry};

const FILES: usize = 22_000;

fn erofs(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tar");
    let tar = match std::env::var_os("UNLADE_BENCH_TAR") {
        Some(path) => std::fs::read(path).unwrap(),
        None => unlade_benches::layer(FILES, 2000).unwrap(),
    };
    std::fs::write(&path, tar).unwrap();
    let tar = File::open(&path).unwrap();
    let parse = || {
        let mut entries: Vec<Entry> = Vec::new();
        scan(&tar, &Limits::default(), |entry| {
            entries.push(entry);
            Ok(())
        })
        .unwrap();
        entries
    };
    let entries = parse();
    let layer = |entries| build::Layer {
        tar: &tar,
        spill: None,
        entries,
        tag: [b'x'; 64],
    };
    let known = [layer(Some(&entries[..]))];
    let unknown = [layer(None)];
    let write = |layers: &[build::Layer<'_>]| {
        let tree = build::tree(layers, &Limits::default()).unwrap();
        let devices = build::devices(&tree, layers).unwrap();
        let extras: Vec<_> = devices.iter().map(|d| d.0).collect();
        build::index(&tree, &extras, io::sink()).unwrap().bytes
    };
    let mut group = c.benchmark_group("erofs");
    group
        .throughput(Throughput::Elements(entries.len() as u64))
        .sample_size(20);
    group.bench_function("parse", |b| b.iter(parse));
    group.bench_function("build", |b| {
        b.iter(|| build::tree(black_box(&known), &Limits::default()).unwrap());
    });
    group.bench_function("build and write", |b| b.iter(|| write(black_box(&known))));
    group.bench_function("parse, build and write", |b| {
        b.iter(|| write(black_box(&unknown)));
    });
    group.finish();
}

criterion_group!(benches, erofs);
criterion_main!(benches);
