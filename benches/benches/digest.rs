//! Hashing: the OCI algorithms, and blake3 for keys of our own.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unlade_unpack::{Algorithm, Digest};

fn digest(c: &mut Criterion) {
    let data = unlade_benches::text(&mut unlade_benches::Random::new(3), 8 << 20);
    let mut group = c.benchmark_group("digest");
    group
        .throughput(Throughput::Bytes(data.len() as u64))
        .sample_size(20);
    group.bench_function("sha256", |b| {
        b.iter(|| Digest::of(Algorithm::Sha256, &data))
    });
    group.bench_function("sha512", |b| {
        b.iter(|| Digest::of(Algorithm::Sha512, &data))
    });
    group.bench_function("blake3", |b| b.iter(|| blake3::hash(&data)));
    group.finish();
}

criterion_group!(benches, digest);
criterion_main!(benches);
