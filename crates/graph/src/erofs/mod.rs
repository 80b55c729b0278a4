//! EROFS images of layers: the format, a writer and a reader of our own.
//!
//! ```text
//! entries of all layers -> Tree -> writer -> index.erofs -+
//!                           |                             +-> one mount
//!            tars of the layers, as they are -------------+
//! ```
//!
//! An index holds metadata alone; the data stays in the layers' tars, whose padding to 512 bytes
//! makes every file begin at a block. What a tar has out of step is in the layer's spill, see
//! [`content`].

pub mod build;
pub mod content;
pub mod dump;
pub mod format;
mod plan;
pub mod reader;
pub mod scan;
pub mod tree;
pub mod writer;
mod xattr_area;
pub mod xattrs;
