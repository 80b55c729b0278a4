//! EROFS images as our reader, the kernel and `fsck.erofs` see them: every path is what `TreeSink`
//! says and what `DirSink` makes of the same layers in a real directory.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

mod corpus;
mod kernel;
#[path = "../../../unpack/tests/support/layers.rs"]
#[allow(dead_code)]
mod layers;
mod memory;
mod model;
mod random;
mod shapes;
mod store;
mod tars;
