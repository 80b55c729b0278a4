//! The unlade container engine: where images come from, and what is done with them.
//!
//! [`source`] opens an image and verifies its documents, [`dest`] makes trees appear at once,
//! [`unpack`] brings the two together; [`archive`] is what `save`, `load` and `import` do.
//!
//! Modules stand in rows and import from rows above them only: `error` · `config` · `image` ·
//! `source` `dest` · `unpack` `archive` · `cli`. `tests/layers.rs` holds this.

pub mod archive;
pub mod cli;
pub mod config;
pub mod dest;
pub mod error;
pub mod image;
pub mod source;
mod sys;
pub mod unpack;
