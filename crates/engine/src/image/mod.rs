//! What an image is made of, as documents: media types, platforms, manifests, configs.
//!
//! Parsing and checking only. Nothing here reads a file or knows where the bytes come from.

pub mod change;
pub mod config;
pub mod full;
pub mod inspect;
pub mod json;
pub mod manifest;
pub mod media;
pub mod name;
pub mod platform;
pub mod time;

pub use config::Config;
pub use full::FullConfig;
pub use manifest::{Descriptor, Document, Index, Manifest};
pub use name::Reference;
pub use platform::Platform;
