//! The store with 10 000 images and 50 000 layers: what a user waits for.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used)]

#[path = "../../crates/engine/tests/support/driver.rs"]
mod driver;
#[path = "../../crates/engine/tests/support/store.rs"]
mod store;

use criterion::{Criterion, criterion_group, criterion_main};
use unlade_engine::store::{GcOptions, Store};
use unlade_unpack::Cancel;

fn big(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let home = store::open_in(dir.path(), "boot").unwrap();
    store::fill(dir.path(), 10_000, 5);
    let mut group = c.benchmark_group("store");
    group.sample_size(20);
    group.bench_function("open", |b| {
        b.iter(|| {
            let store = Store::open(&home.options).unwrap();
            store.recover(&home.driver, &Cancel::new()).unwrap()
        })
    });
    group.bench_function("images", |b| b.iter(|| home.store.images().unwrap()));
    group.bench_function("resolve", |b| {
        b.iter(|| {
            home.store
                .resolve("registry.example/r7/image:v1007")
                .unwrap()
        })
    });
    let one = home
        .store
        .resolve("registry.example/r7/image:v1007")
        .unwrap();
    group.bench_function("present", |b| {
        b.iter(|| {
            home.store
                .image_by_manifest(&one.manifest)
                .unwrap()
                .unwrap()
        })
    });
    group.bench_function("df", |b| b.iter(|| home.store.df().unwrap()));
    let mut options = GcOptions::default();
    options.dry_run = true;
    group.bench_function("gc", |b| {
        b.iter(|| home.store.gc(&home.driver, &options).unwrap())
    });
    group.bench_function("lease", |b| {
        b.iter(|| drop(home.store.lease("bench").unwrap()))
    });
    group.finish();
}

criterion_group!(benches, big);
criterion_main!(benches);
