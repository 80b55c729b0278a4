//! Writes and reads OCI image layouts whose blobs are layer files that already exist.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How a layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Compression {
    /// Plain tar.
    Tar,
    /// One gzip member.
    Gzip,
    /// One zstd frame.
    Zstd,
}

impl Compression {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Tar, Self::Gzip, Self::Zstd];

    /// File name extension of a layer.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Gzip => "tar.gz",
            Self::Zstd => "tar.zst",
        }
    }

    /// What an image of this kind appends to its name; gzip is the ordinary case.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Tar => "-tar",
            Self::Gzip => "",
            Self::Zstd => "-zstd",
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Tar => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    fn from_media_type(media_type: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.media_type() == media_type)
    }
}

/// A layer to put into a layout.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// The blob.
    pub(crate) file: PathBuf,
    /// How the blob is stored.
    pub(crate) compression: Compression,
    /// Hex SHA-256 of the blob.
    pub(crate) digest: String,
    /// Bytes of the blob.
    pub(crate) size: u64,
    /// Hex SHA-256 of the uncompressed tar.
    pub(crate) diff_id: String,
}

/// A layer found in a layout.
#[derive(Debug, Clone)]
pub(crate) struct Blob {
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// How it is stored.
    pub(crate) compression: Compression,
    /// Bytes.
    pub(crate) size: u64,
}

/// Writes a layout with one image tagged `latest` to `dir`, replacing what is there.
/// Blobs are hard links of the layer files, or copies where links are not possible.
pub(crate) fn write_layout(dir: &Path, layers: &[Layer]) -> Result<()> {
    let partial = dir.with_extension("partial");
    for old in [&partial, &dir.to_path_buf()] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
        }
    }
    let blobs = partial.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
    for layer in layers {
        let to = blobs.join(&layer.digest);
        if !to.exists() && fs::hard_link(&layer.file, &to).is_err() {
            fs::copy(&layer.file, &to).with_context(|| format!("copy to {}", to.display()))?;
        }
    }
    let config = put(&blobs, &config_json(layers))?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config.0, config.1),
        "layers": layers
            .iter()
            .map(|layer| descriptor(layer.compression.media_type(), &layer.digest, layer.size))
            .collect::<Vec<_>>(),
    });
    let manifest = put(&blobs, &manifest)?;
    let mut entry = descriptor(
        "application/vnd.oci.image.manifest.v1+json",
        &manifest.0,
        manifest.1,
    );
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    fs::write(partial.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(
        partial.join("oci-layout"),
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    fs::rename(&partial, dir).with_context(|| format!("rename to {}", dir.display()))
}

fn config_json(layers: &[Layer]) -> Value {
    let created = "1970-01-01T00:00:00Z";
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|l| format!("sha256:{}", l.diff_id))
        .collect();
    let history: Vec<_> = layers
        .iter()
        .map(|_| json!({ "created": created, "created_by": "perf" }))
        .collect();
    json!({
        "created": created,
        "architecture": architecture(),
        "os": "linux",
        "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": history,
    })
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size })
}

fn put(blobs: &Path, value: &Value) -> Result<(String, u64)> {
    let bytes = serde_json::to_vec(value)?;
    let digest = hex(&Sha256::digest(&bytes));
    fs::write(blobs.join(&digest), &bytes)?;
    Ok((digest, bytes.len() as u64))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

/// The layers of the first image in a layout, lowest first.
pub(crate) fn read_layers(dir: &Path) -> Result<Vec<Blob>> {
    let index = load(&dir.join("index.json"))?;
    let manifest = load(&blob_path(dir, &index["manifests"][0])?)?;
    let layers = manifest["layers"]
        .as_array()
        .context("manifest has no layers")?;
    layers
        .iter()
        .map(|layer| {
            let media_type = layer["mediaType"].as_str().unwrap_or_default();
            Ok(Blob {
                path: blob_path(dir, layer)?,
                compression: Compression::from_media_type(media_type)
                    .with_context(|| format!("unknown media type {media_type:?}"))?,
                size: layer["size"].as_u64().context("layer has no size")?,
            })
        })
        .collect()
}

fn load(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))
}

fn blob_path(dir: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"]
        .as_str()
        .context("descriptor has no digest")?;
    let Some(hex) = digest.strip_prefix("sha256:") else {
        bail!("digest {digest:?}")
    };
    Ok(dir.join("blobs/sha256").join(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(dir: &Path, content: &[u8]) -> Layer {
        let digest = hex(&Sha256::digest(content));
        let file = dir.join(&digest);
        fs::write(&file, content).unwrap();
        Layer {
            file,
            compression: Compression::Tar,
            size: content.len() as u64,
            diff_id: digest.clone(),
            digest,
        }
    }

    #[test]
    fn a_layout_reads_back() {
        let temp = tempfile::tempdir().unwrap();
        let layers = [layer(temp.path(), b"one"), layer(temp.path(), b"second")];
        let dir = temp.path().join("image");
        write_layout(&dir, &layers).unwrap();
        write_layout(&dir, &layers).unwrap();
        let found = read_layers(&dir).unwrap();
        assert_eq!(found.iter().map(|b| b.size).collect::<Vec<_>>(), [3, 6]);
        assert_eq!(fs::read(&found[1].path).unwrap(), b"second");
        assert!(!temp.path().join("image.partial").exists());
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_config_matches() {
        let temp = tempfile::tempdir().unwrap();
        let layers = [layer(temp.path(), b"one"), layer(temp.path(), b"one")];
        let dir = temp.path().join("image");
        write_layout(&dir, &layers).unwrap();
        let mut count = 0;
        for entry in fs::read_dir(dir.join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let digest = hex(&Sha256::digest(fs::read(&path).unwrap()));
            assert_eq!(path.file_name().unwrap().to_str().unwrap(), digest);
            count += 1;
        }
        assert_eq!(count, 3, "one shared layer, config, manifest");
        let index = load(&dir.join("index.json")).unwrap();
        assert_eq!(
            index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"],
            "latest"
        );
        let manifest = load(&blob_path(&dir, &index["manifests"][0]).unwrap()).unwrap();
        let config = load(&blob_path(&dir, &manifest["config"]).unwrap()).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
    }

    #[test]
    fn media_types_round_trip() {
        for kind in Compression::ALL {
            assert_eq!(Compression::from_media_type(kind.media_type()), Some(kind));
        }
    }
}
