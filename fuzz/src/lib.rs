//! What the fuzz targets share.

pub mod archive;
pub mod events;
pub mod input;
pub mod seeds;
