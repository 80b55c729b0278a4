//! Layers compressed again, where the blobs that they came as are not kept, and the manifest that
//! such an image gets.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use unlade_unpack::{Algorithm, Cancel, Digest, Hasher};

use crate::error::{Error, Kind, Result};

const CHUNK: usize = 256 << 10;
/// What most tools take; more costs much time for little.
const LEVEL: u32 = 6;

/// A layer's blob that was made here.
#[derive(Debug)]
pub(super) struct Compressed {
    pub(super) file: File,
    pub(super) blob: Blob,
}

/// A blob as a manifest has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// Writes to a file, and knows what it wrote.
struct Counted {
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Compresses `tar`, which must have the digest `diff_id`, into `out`: the same bytes each time.
/// `told` is told how many bytes of the tar are through.
pub(super) fn gzip(
    mut tar: impl Read,
    diff_id: &Digest,
    out: File,
    cancel: &Cancel,
    told: &dyn Fn(u64),
) -> Result<Compressed> {
    let out = Counted {
        file: out,
        hasher: Hasher::new(Algorithm::Sha256),
        size: 0,
    };
    let mut encoder = GzBuilder::new().write(out, Compression::new(LEVEL));
    let mut hasher = Hasher::new(diff_id.algorithm());
    let (mut chunk, mut through) = (vec![0; CHUNK], 0);
    let write = |e| Error::host("write a layer that is compressed again", e);
    loop {
        if cancel.is_cancelled() {
            return Err(Error::new(Kind::Cancelled, "cancelled"));
        }
        let n = match tar.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::host(format!("read the tar of layer {diff_id}"), e)),
        };
        hasher.update(&chunk[..n]);
        encoder.write_all(&chunk[..n]).map_err(write)?;
        through += n as u64;
        told(through);
    }
    let found = hasher.finish();
    if found != *diff_id {
        let m = format!("the tar of layer {diff_id} has the digest {found}");
        return Err(Error::new(Kind::Integrity, m)
            .with_hint("`unlade system check --repair` fetches the layer again"));
    }
    let out = encoder.finish().map_err(write)?;
    Ok(Compressed {
        file: out.file,
        blob: Blob {
            digest: out.hasher.finish(),
            size: out.size,
        },
    })
}

/// The manifest `original` with other blobs for the layers of which there is one in `blobs`. All
/// that it says otherwise stays, but for what it says of the bytes that are no longer those.
pub(super) fn manifest(original: &[u8], blobs: &[Option<Blob>]) -> Result<Vec<u8>> {
    let wrong = || {
        Error::new(
            Kind::Integrity,
            "the image's manifest is not what was pulled",
        )
    };
    let mut document: Value = serde_json::from_slice(original).map_err(|_| wrong())?;
    let layers = document.get_mut("layers").and_then(Value::as_array_mut);
    let layers = layers.ok_or_else(wrong)?;
    if layers.len() != blobs.len() {
        return Err(wrong());
    }
    for (layer, blob) in layers.iter_mut().zip(blobs) {
        let Some(blob) = blob else { continue };
        let docker = layer
            .get("mediaType")
            .and_then(Value::as_str)
            .is_some_and(|t| t.starts_with("application/vnd.docker."));
        *layer = json!({
            "mediaType": match docker {
                true => "application/vnd.docker.image.rootfs.diff.tar.gzip",
                false => "application/vnd.oci.image.layer.v1.tar+gzip",
            },
            "digest": blob.digest.to_string(),
            "size": blob.size,
        });
    }
    Ok(document.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * n / 7).to_le_bytes()[0]).collect()
    }

    #[test]
    fn what_comes_out_is_what_went_in() {
        for len in [0, 1, CHUNK, 3 * CHUNK + 5] {
            let tar = bytes(len);
            let diff_id = Digest::of(Algorithm::Sha256, &tar);
            let make = || {
                let out = tempfile::tempfile().unwrap();
                let told = std::cell::Cell::new(0);
                let done = gzip(&tar[..], &diff_id, out, &Cancel::new(), &|n| told.set(n));
                assert_eq!(told.get(), len as u64);
                done.unwrap()
            };
            let mut made = make();
            assert_eq!(make().blob, made.blob);
            made.file.seek(SeekFrom::Start(0)).unwrap();
            let mut blob = Vec::new();
            made.file.read_to_end(&mut blob).unwrap();
            assert_eq!(blob.len() as u64, made.blob.size);
            assert_eq!(Digest::of(Algorithm::Sha256, &blob), made.blob.digest);
            let mut back = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&blob[..]);
            decoder.read_to_end(&mut back).unwrap();
            assert_eq!(back, tar);
        }
    }

    #[test]
    fn a_damaged_tar_and_a_cancel_give_nothing() {
        let tar = bytes(1000);
        let other = Digest::of(Algorithm::Sha256, b"other");
        let run = |diff_id: &Digest, cancel: &Cancel| {
            let out = tempfile::tempfile().unwrap();
            gzip(&tar[..], diff_id, out, cancel, &|_| {}).unwrap_err()
        };
        let e = run(&other, &Cancel::new());
        assert!(e.kind() == Kind::Integrity && e.hint().is_some(), "{e}");
        let cancel = Cancel::new();
        cancel.cancel();
        assert_eq!(run(&other, &cancel).kind(), Kind::Cancelled);
    }

    #[test]
    fn a_manifest_keeps_all_but_the_blobs() {
        let blob = Blob {
            digest: Digest::of(Algorithm::Sha256, b"x"),
            size: 3,
        };
        for (from, to) in [
            (
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
        ] {
            let layer = json!({"mediaType": from, "digest": "sha256:00", "size": 9,
                "urls": ["https://x"], "annotations": {"toc": "y"}});
            let original = json!({"schemaVersion": 2, "config": {"digest": "c"},
                "annotations": {"a": "b"}, "layers": [layer, layer]});
            let made = manifest(original.to_string().as_bytes(), &[None, Some(blob)]).unwrap();
            let made: Value = serde_json::from_slice(&made).unwrap();
            let digest = blob.digest.to_string();
            let want = json!({"schemaVersion": 2, "config": {"digest": "c"},
                "annotations": {"a": "b"},
                "layers": [layer, {"mediaType": to, "digest": digest, "size": 3}]});
            assert_eq!(made, want);
            assert!(manifest(original.to_string().as_bytes(), &[None]).is_err());
        }
        assert!(manifest(b"[]", &[]).is_err());
    }
}
