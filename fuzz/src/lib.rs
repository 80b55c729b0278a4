//! What the fuzz targets share.

pub mod archive;
pub mod content;
pub mod decoding;
pub mod events;
pub mod image;
pub mod input;
pub mod pax;
pub mod seeds;
pub mod sparse;
