//! A single layer, from a file or a pipe.

use std::{
    fs::File,
    io::{self, Seek},
    os::fd::AsFd,
    path::Path,
    sync::{Arc, Mutex},
};

use unlade_unpack::{
    Error, Kind, Result,
    source::{BlobSource, ReadSource},
};

use super::{
    Image, LayerBlob, Opening,
    blob::{Opener, Part},
    patient,
};

/// The layer in the file at `path`.
pub(super) fn file(path: &Path, opening: &Opening<'_>) -> Result<Image> {
    let doing = || format!("open `{}`", path.display());
    let file = patient::open(path, opening)?;
    let kind = file.metadata().map_err(|e| Error::host(doing(), e))?;
    if kind.is_dir() {
        let m = format!("`{}` is a directory, not a layer", path.display());
        return Err(Error::new(Kind::BadInput, m)
            .with_hint("name the layer's file, or use oci:DIR for an image layout"));
    }
    if !kind.is_file() {
        return Ok(image(None, stream(file)));
    }
    let part = Part {
        start: 0,
        len: kind.len(),
        file: Arc::new(file),
    };
    Ok(image(Some(part.len), Opener::Part(part)))
}

/// The layer that comes from standard input; a regular file there is read from where it stands.
pub(super) fn stdin() -> Result<Image> {
    let host = |e| Error::host("read standard input", e);
    let fd = io::stdin().as_fd().try_clone_to_owned().map_err(host)?;
    let mut file = File::from(fd);
    let kind = file.metadata().map_err(host)?;
    if !kind.is_file() {
        return Ok(image(None, stream(file)));
    }
    let start = file.stream_position().map_err(host)?;
    let len = kind.len().saturating_sub(start);
    Ok(image(
        Some(len),
        Opener::Part(Part {
            file: Arc::new(file),
            start,
            len,
        }),
    ))
}

fn stream(file: File) -> Opener {
    let source: Box<dyn BlobSource> = Box::new(ReadSource::new(file));
    Opener::Once(Mutex::new(Some(source)))
}

fn image(size: Option<u64>, opener: Opener) -> Image {
    let layer = LayerBlob {
        digest: None,
        size,
        media_type: None,
        compression: None,
        diff_id: None,
        opener,
    };
    Image {
        manifest_digest: None,
        config_digest: None,
        config: None,
        platform: None,
        layers: vec![layer],
    }
}
