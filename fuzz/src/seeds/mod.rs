//! Seed inputs, made by code: one good example of everything that a target can be asked.

mod blobs;
mod documents;
mod images;
mod registries;
mod specs;
mod tars;
mod templates;

/// Inputs by target.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("documents", documents::all()),
        ("erofs_reader", images::erofs()),
        ("gzip", blobs::gzip()),
        ("gzip_parallel", noise(64, 40..160)),
        ("layer_model", noise(96, 12..300)),
        ("oracle", [noise(48, 20..400), tars::oracle()].concat()),
        ("pax", tars::pax_headers()),
        ("registry_texts", registries::all()),
        ("sparse", tars::sparse()),
        ("spec", specs::all()),
        ("tar_reader", tars::reader()),
        ("template", templates::all()),
        ("zstd", blobs::zstd()),
    ]
}

/// Inputs for targets to which any bytes are a well-formed list of operations.
fn noise(count: usize, lengths: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    let mut state = 1_u64;
    let mut byte = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    let step = lengths.len() / count;
    (0..count)
        .map(|i| (0..lengths.start + i * step).map(|_| byte()).collect())
        .collect()
}
