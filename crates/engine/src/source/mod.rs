//! Where images come from: OCI layouts, archives of them, Docker archives, single layers.
//!
//! Opening a source verifies the chain from its index to the config and gives an [`Image`]:
//! layers that are known by size, digest and diffID but not yet read.

pub(crate) mod archive;
pub(crate) mod blob;
mod chain;
mod docker;
mod layer;
pub(crate) mod layout;
mod patient;
pub mod reference;
mod scratch;

use unlade_unpack::{Cancel, Digest, Limits, Result};

pub use blob::LayerBlob;
pub use reference::{Pick, Scheme, Source};
pub use scratch::Scratch;

use crate::image::{Config, Platform};

/// An image whose documents have been verified.
#[derive(Debug)]
pub struct Image {
    /// Digest of the manifest; Docker archives and single layers have none.
    pub manifest_digest: Option<Digest>,
    /// Digest of the config: what Docker calls the image's id.
    pub config_digest: Option<Digest>,
    /// The config; a single layer has none.
    pub config: Option<Config>,
    /// What the image runs on, as far as it says so.
    pub platform: Option<Platform>,
    /// The layers, lowest first.
    pub layers: Vec<LayerBlob>,
}

/// How to open a source.
#[derive(Debug)]
pub struct Opening<'a> {
    /// The platform asked for; this machine's if none is.
    pub platform: Option<&'a Platform>,
    /// Limits on archives.
    pub limits: &'a Limits,
    /// Most layers of an image.
    pub max_layers: usize,
    /// Where a compressed archive may be decoded to.
    pub scratch: &'a Scratch,
    /// Stops the search, the decoding of a compressed archive and the wait for a pipe.
    pub cancel: &'a Cancel,
}

/// Opens the image that `source` names.
///
/// # Errors
/// Whatever is wrong with the source, the choice of an image in it, or the image's documents.
pub fn open(source: &Source, opening: &Opening<'_>) -> Result<Image> {
    if source.is_stdin() {
        return layer::stdin();
    }
    let (path, pick) = source.locate()?;
    match source.scheme() {
        Scheme::Layer => layer::file(&path, opening),
        Scheme::Oci => chain::open(layout::Layout::open(&path)?.into(), &pick, opening),
        Scheme::OciArchive => {
            let archive = archive::Archive::open(&path, opening)?;
            chain::open(archive.into(), &pick, opening)
        }
        Scheme::DockerArchive => {
            docker::open(archive::Archive::open(&path, opening)?, &pick, opening)
        }
    }
}
