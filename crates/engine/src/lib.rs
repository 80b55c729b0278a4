//! The unlade container engine: where images come from, and what is done with them.
//!
//! [`engine::Engine`] has a method for each use case; [`cli`] is the command. [`unpack`] needs no
//! store: it brings an image from a [`source`] to a [`dest`].
//!
//! Modules stand in rows and import from rows above them only: `error` · `user` · `config` `journal` · `image`
//! `tarball` · `runtime` · `rootless` · `source` `dest` `store` `registry` `spec` `shim` `exchange` · `network`
//! `volume` · `unpack` `pull` `archive` `container` · `engine` · `cli`. `tests/layers.rs` holds this.
//! [`shim`] is also the program `unlade-shim`.

pub mod archive;
pub mod cli;
pub mod config;
pub mod container;
pub mod dest;
pub mod engine;
pub mod error;
mod exchange;
pub mod image;
pub mod journal;
pub mod network;
pub mod pull;
pub mod push;
pub mod registry;
pub mod rootless;
pub mod runtime;
pub mod shim;
pub mod source;
pub mod spec;
pub mod store;
mod sys;
mod tarball;
pub mod unpack;
pub mod user;
pub mod volume;
