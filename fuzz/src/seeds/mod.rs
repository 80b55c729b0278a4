//! Seed inputs, made by code.

mod tars;

/// Inputs by target.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![("tar_reader", tars::reader())]
}
