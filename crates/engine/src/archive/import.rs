//! `import`: a plain tar becomes an image of one layer.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
};

use jiff::Timestamp;
use unlade_unpack::{
    Algorithm, Cancel, Digest, Hasher, Limits,
    decode::{Compression, Decoder},
    tar::{Reader, Step},
};

use super::resolve::{LoadedLayer, new_manifest};
use crate::{
    error::{Error, Kind, Result},
    image::{
        FullConfig, Platform, change,
        full::{ContainerConfig, History},
    },
    source::Scratch,
};

const CHUNK: usize = 256 << 10;

/// A tar that is to be a layer.
#[derive(Debug)]
pub struct Imported {
    /// Its bytes, as they came; at the start.
    pub file: File,
    /// The layer that it is.
    pub layer: LoadedLayer,
}

/// What an imported image is beside its layer.
#[derive(Debug)]
pub struct NewImage {
    /// The config, and its digest: the image's id.
    pub config: Vec<u8>,
    /// Digest of the config.
    pub id: Digest,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Digest of the manifest.
    pub digest: Digest,
}

/// Reads a tar, plain or compressed with gzip or zstd, into a temporary file; what names it is
/// known when it has been read.
///
/// # Errors
/// [`Kind::BadInput`] for what is no tar, [`Kind::Limit`], [`Kind::Cancelled`], and failures of
/// the host.
pub fn import(
    mut input: impl Read,
    scratch: &Scratch,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Imported> {
    let host = |doing: &'static str| move |e| Error::host(doing, e);
    let mut file = scratch
        .file()
        .map_err(host("make a temporary file for the layer"))?;
    let (mut blob, mut diff) = (
        Hasher::new(Algorithm::Sha256),
        Hasher::new(Algorithm::Sha256),
    );
    let mut reader = Reader::new(limits.clone());
    let (mut chunk, mut block) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut decoder = None;
    let (mut taken, mut given) = (0_u64, 0_u64);
    let mut start = Compression::None;
    loop {
        if cancel.is_cancelled() {
            return Err(Error::new(Kind::Cancelled, "cancelled"));
        }
        let mut n = 0;
        // Full chunks: the first must show how it is compressed.
        while n < chunk.len() {
            match input.read(&mut chunk[n..]) {
                Ok(0) => break,
                Ok(more) => n += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(host("read the tar")(e)),
            }
        }
        if n == 0 {
            break;
        }
        let mut rest = &chunk[..n];
        taken += n as u64;
        blob.update(rest);
        file.write_all(rest)
            .map_err(host("write a temporary file"))?;
        let decoder = match &mut decoder {
            Some(decoder) => decoder,
            none => {
                start = Compression::sniff(rest);
                none.insert(Decoder::new(start, limits)?)
            }
        };
        loop {
            if cancel.is_cancelled() {
                return Err(Error::new(Kind::Cancelled, "cancelled"));
            }
            let done = decoder.decode(rest, &mut block)?;
            rest = &rest[done.read..];
            given += done.written as u64;
            let most = taken
                .saturating_mul(limits.ratio)
                .max(Limits::RATIO_FREE_BYTES);
            if given > limits.layer_bytes.min(most) {
                let m = format!("{taken} bytes of the tar expand to {given}");
                return Err(Error::new(Kind::Limit, m)
                    .with_hint("raise --limit-layer-bytes or --limit-ratio to allow it"));
            }
            diff.update(&block[..done.written]);
            walk(&mut reader, &block[..done.written])?;
            if rest.is_empty() && done.written < block.len() {
                break;
            }
        }
    }
    let Some(decoder) = decoder else {
        return Err(Error::new(Kind::BadInput, "there is nothing to import")
            .with_hint("give a tar file, or - for standard input"));
    };
    decoder.finish()?;
    reader.finish()?;
    file.rewind().map_err(host("read a temporary file"))?;
    let suffix = match start {
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
        _ => "",
    };
    let layer = LoadedLayer {
        digest: blob.finish(),
        size: taken,
        media_type: format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
        diff_id: diff.finish(),
    };
    Ok(Imported { file, layer })
}

fn walk(reader: &mut Reader, mut bytes: &[u8]) -> Result<()> {
    loop {
        let (used, step) = reader.step(bytes)?;
        bytes = &bytes[used..];
        if matches!(step, Step::NeedMore | Step::End) {
            return Ok(());
        }
    }
}

/// The image of one imported layer.
///
/// # Errors
/// As [`change::apply`]'s.
pub fn new_image(
    layer: &LoadedLayer,
    changes: &[String],
    message: Option<&str>,
    platform: &Platform,
    now: Timestamp,
) -> Result<NewImage> {
    let mut run = ContainerConfig::default();
    change::apply(&mut run, changes)?;
    let comment = message.unwrap_or("Imported from -").to_owned();
    let created = Some(now.to_string());
    let (os, architecture, variant) = platform.parts();
    let config = FullConfig {
        created: created.clone(),
        author: String::new(),
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        os_version: String::new(),
        docker_version: String::new(),
        comment: comment.clone(),
        config: Some(run),
        history: vec![History {
            created,
            comment,
            ..History::default()
        }],
        diff_ids: vec![layer.diff_id],
        raw: bytes::Bytes::new(),
    };
    let config = config.to_document();
    let id = Digest::of(Algorithm::Sha256, &config);
    let layers = std::slice::from_ref(layer);
    let (media_type, manifest) = new_manifest(&id, config.len() as u64, layers);
    let digest = Digest::of(Algorithm::Sha256, &manifest);
    Ok(NewImage {
        config,
        id,
        media_type,
        manifest,
        digest,
    })
}
