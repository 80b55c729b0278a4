//! Blobs that can be opened when their turn comes.

use std::{
    fmt,
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex},
};

use unlade_unpack::{
    Digest, Error, Kind, Result,
    decode::Compression,
    source::{BlobSource, FileSource},
};

use super::{archive::Archive, layout::Layout};
use crate::image::Descriptor;

/// A layer's blob, and what the image says of it.
#[derive(Debug)]
pub struct LayerBlob {
    /// The blob's digest, where the image gives one.
    pub digest: Option<Digest>,
    /// The blob's size in bytes, where it is known.
    pub size: Option<u64>,
    /// The media type, where the image gives one.
    pub media_type: Option<String>,
    /// How the media type says that the blob is compressed.
    pub compression: Option<Compression>,
    /// Digest of the uncompressed layer.
    pub diff_id: Option<Digest>,
    /// How to get at the bytes.
    pub(super) opener: Opener,
}

/// How to get at a blob's bytes.
pub(super) enum Opener {
    /// A blob of an OCI layout.
    Stored(Store, Digest),
    /// Part of a file.
    Part(Part),
    /// Something that can be read once.
    Once(Mutex<Option<Box<dyn BlobSource>>>),
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored(..) => "Stored",
            Self::Part(_) => "Part",
            Self::Once(_) => "Once",
        })
    }
}

impl LayerBlob {
    /// Opens the blob.
    ///
    /// # Errors
    /// If the blob is not there, not as long as the image says, or was opened before and can
    /// be read only once.
    pub fn open(&self) -> Result<Box<dyn BlobSource>> {
        match &self.opener {
            Opener::Stored(store, digest) => {
                let part = store.blob(digest)?;
                if let Some(size) = self.size {
                    part.expect(size)?;
                }
                Ok(Box::new(part.source()))
            }
            Opener::Part(part) => Ok(Box::new(part.clone().source())),
            Opener::Once(source) => {
                let source = source.lock().ok().and_then(|mut s| s.take());
                source.ok_or_else(|| Error::new(Kind::Bug, "a stream was opened twice"))
            }
        }
    }
}

/// A part of a file, or all of it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) file: Arc<File>,
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Part {
    /// Checks the length.
    pub(crate) fn expect(&self, size: u64) -> Result<()> {
        if self.len == size {
            return Ok(());
        }
        let m = format!("the blob is {} bytes long, the image says {size}", self.len);
        Err(Error::new(Kind::Integrity, m)
            .with_hint("the image is damaged: fetch or copy it again"))
    }

    /// Reads all of it, if it is no longer than `most` bytes.
    pub(crate) fn read(&self, most: u64) -> Result<Vec<u8>> {
        if self.len > most {
            let m = format!(
                "{} bytes long; documents of up to {most} bytes are read",
                self.len
            );
            return Err(Error::new(Kind::Limit, m)
                .with_hint("no tool writes documents of this size: do not trust this image"));
        }
        let len = usize::try_from(self.len).map_err(|_| Error::new(Kind::Limit, "too large"))?;
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, self.start)
            .map_err(|e| Error::host("read the blob", e))?;
        Ok(bytes)
    }

    pub(super) fn source(self) -> FileSource {
        FileSource::range(self.file, self.start, self.len)
    }
}

/// Where the blobs of an OCI layout are.
#[derive(Debug, Clone)]
pub(super) enum Store {
    Layout(Arc<Layout>),
    Archive(Arc<Archive>),
}

impl From<Layout> for Store {
    fn from(layout: Layout) -> Self {
        Self::Layout(Arc::new(layout))
    }
}

impl From<Archive> for Store {
    fn from(archive: Archive) -> Self {
        Self::Archive(Arc::new(archive))
    }
}

impl Store {
    /// A file beside the blobs, such as `index.json`.
    pub(super) fn file(&self, name: &str) -> Result<Option<Part>> {
        match self {
            Self::Layout(l) => l.file(name),
            Self::Archive(a) => a.file(name.as_bytes()),
        }
    }

    /// The blob with this digest.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Part> {
        let part = match self {
            Self::Layout(l) => l.blob(digest)?,
            Self::Archive(a) => a.file(&blob_path(digest))?,
        };
        part.ok_or_else(|| {
            Error::new(Kind::BadInput, "the blob is not in the image")
                .with_hint("the copy of the image is incomplete: copy or save it again")
        })
    }

    /// Reads and verifies a document.
    pub(super) fn document(&self, descriptor: &Descriptor, most: u64) -> Result<Vec<u8>> {
        let part = self.blob(&descriptor.digest)?;
        part.expect(descriptor.size)?;
        let bytes = part.read(most)?;
        verify(&descriptor.digest, &bytes)?;
        Ok(bytes)
    }
}

/// Where an archive of a layout has a blob.
pub(super) fn blob_path(digest: &Digest) -> Vec<u8> {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()).into_bytes()
}

/// Checks that `bytes` have this digest.
pub(super) fn verify(want: &Digest, bytes: &[u8]) -> Result<()> {
    let is = Digest::of(want.algorithm(), bytes);
    if is == *want {
        return Ok(());
    }
    Err(Error::new(
        Kind::Integrity,
        format!("the bytes have the digest {is}, not {want}"),
    )
    .with_hint("the image is damaged: fetch or copy it again"))
}
