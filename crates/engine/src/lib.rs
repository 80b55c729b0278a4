//! The unlade container engine: where images come from, and what is done with them.
//!
//! So far it unpacks: [`source`] opens an image and verifies its documents, [`dest`] makes trees
//! appear at once, [`unpack`] brings the two together.
//!
//! Modules stand in rows and import from rows above them only: `image` · `source` `dest` `registry` ·
//! `unpack` · `cli`. `tests/layers.rs` holds this.

pub mod cli;
pub mod dest;
pub mod error;
pub mod image;
pub mod registry;
pub mod source;
mod sys;
pub mod unpack;
