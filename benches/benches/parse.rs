//! Walking a layer: our reader alone, ours with the checks of a sink, and the `tar` crate.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unlade_unpack::{
    Expect, Limits, NullSink, Unpacker,
    source::BytesSource,
    tar::{Reader, Step},
};

fn ours(tar: &[u8]) -> u64 {
    let mut reader = Reader::new(Limits::default());
    let mut entries = 0;
    for mut piece in tar.chunks(256 << 10) {
        loop {
            let (used, step) = reader.step(piece).unwrap();
            piece = &piece[used..];
            match step {
                Step::NeedMore => break,
                Step::Entry(_) => entries += 1,
                _ => {}
            }
        }
    }
    reader.finish().unwrap();
    entries
}

fn parse(c: &mut Criterion) {
    let tar = unlade_benches::sample().unwrap();
    let bytes = tar.clone();
    let mut group = c.benchmark_group("parse");
    group
        .throughput(Throughput::Elements(ours(&tar)))
        .sample_size(20);
    group.bench_function("reader", |b| b.iter(|| ours(&tar)));
    group.bench_function("tar crate", |b| {
        b.iter(|| {
            let mut archive = tar::Archive::new(&tar[..]);
            archive.entries().unwrap().map(Result::unwrap).count()
        });
    });
    group.bench_function("pipeline, verify only", |b| {
        let unpacker = Unpacker::new();
        b.iter(|| {
            let source = BytesSource::new(bytes.clone());
            unpacker
                .run(source, Expect::default(), &mut NullSink::new())
                .unwrap()
                .tar_bytes
        });
    });
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
