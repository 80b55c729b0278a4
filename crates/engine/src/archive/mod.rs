//! Images in archives: what `save` writes, `load` reads and `import` makes of a plain tar.
//!
//! An archive is written as Docker 25 and later write it, an OCI layout that older versions of
//! Docker can load too. One that is read may be that, an OCI layout alone, or what older
//! versions wrote; its blobs are given to a [`Receive`] as they pass, so that nothing is stored
//! twice.

mod header;
mod import;
mod load;
mod receive;
mod resolve;
mod write;

pub(crate) use self::resolve::new_manifest;
pub use self::{
    import::{Imported, NewImage, import, new_image},
    load::{Loading, load, load_dir},
    receive::Receive,
    resolve::{LoadedImage, LoadedLayer},
    write::{Format, ImageToSave, LayerToSave, OpenLayer, SavedName, write, write_dir},
};
