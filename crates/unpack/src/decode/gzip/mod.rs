//! gzip (RFC 1952).

#[cfg(test)]
mod differential;
mod header;
mod one_shot;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use one_shot::one_shot;
pub(super) use stream::Gzip;

/// Name of the streaming decoder, for reports.
pub(super) const STREAMING: &str = "unlade streaming";
