//! Media types of OCI and of Docker's schema 2, and what each means for unpacking.

use unlade_unpack::{Error, Kind, Result, decode::Compression};

const OCI: &str = "application/vnd.oci.image.";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.";

/// What kind of document a manifest media type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentKind {
    /// An image index, or Docker's manifest list.
    Index,
    /// An image manifest.
    Manifest,
}

/// The kind of document that `media_type` names.
///
/// # Errors
/// [`Kind::Unsupported`] for every other media type, with a special word for Docker's schema 1.
pub fn document(media_type: &str) -> Result<DocumentKind> {
    match media_type.strip_prefix(OCI) {
        Some("index.v1+json") => return Ok(DocumentKind::Index),
        Some("manifest.v1+json") => return Ok(DocumentKind::Manifest),
        _ => {}
    }
    match media_type {
        DOCKER_INDEX => Ok(DocumentKind::Index),
        DOCKER_MANIFEST => Ok(DocumentKind::Manifest),
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Err(unsupported(
            media_type,
            "an image manifest of Docker's schema 1",
        )
        .with_hint("convert the image first, for example with `skopeo copy --format oci`")),
        _ => Err(unsupported(
            media_type,
            "neither an image index nor an image manifest",
        )),
    }
}

/// Whether `media_type` is that of an image config.
pub fn is_config(media_type: &str) -> bool {
    media_type == DOCKER_CONFIG || media_type.strip_prefix(OCI) == Some("config.v1+json")
}

/// How a layer of `media_type` is compressed. Layers marked as not for distribution are layers
/// like any other once their blob is here.
///
/// # Errors
/// [`Kind::Unsupported`] for a media type that no known layer has.
pub fn layer(media_type: &str) -> Result<Compression> {
    let oci = media_type.strip_prefix(OCI).and_then(|rest| {
        let rest = rest.strip_prefix("layer.")?;
        let rest = rest.strip_prefix("nondistributable.").unwrap_or(rest);
        rest.strip_prefix("v1.tar")
            .map(|suffix| suffix.replacen('+', ".", 1))
    });
    let docker = media_type.strip_prefix(DOCKER_LAYER).and_then(|rest| {
        let rest = rest.strip_prefix("foreign.").unwrap_or(rest);
        rest.strip_prefix("diff.tar").map(str::to_owned)
    });
    match oci.or(docker).as_deref() {
        Some("") => Ok(Compression::None),
        Some(".gzip") => Ok(Compression::Gzip),
        Some(".zstd") => Ok(Compression::Zstd),
        Some(suffix) if suffix.ends_with("+encrypted") => {
            Err(unsupported(media_type, "an encrypted layer")
                .with_hint("decrypt the image first, for example with `skopeo copy`"))
        }
        _ => Err(
            unsupported(media_type, "not a layer type that can be unpacked").with_hint(
                "layers are tar archives, plain or compressed with gzip or zstd; is this an \
             artifact rather than an image?",
            ),
        ),
    }
}

/// Whether a layer of `media_type` may live at `urls` only, outside of the image.
pub fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}

fn unsupported(media_type: &str, what: &str) -> Error {
    Error::new(
        Kind::Unsupported,
        format!("media type `{}` is {what}", super::json::show(media_type)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_both_worlds() {
        for (media_type, want) in [
            ("application/vnd.oci.image.layer.v1.tar", Compression::None),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Compression::Gzip,
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Compression::Zstd,
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                Compression::Gzip,
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar",
                Compression::None,
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar",
                Compression::None,
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Compression::Gzip,
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
                Compression::Zstd,
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                Compression::Gzip,
            ),
        ] {
            assert_eq!(layer(media_type).unwrap(), want, "{media_type}");
        }
    }

    #[test]
    fn others_are_named() {
        for bad in [
            "application/vnd.example.layer.v1.tar+brotli",
            "application/vnd.oci.image.layer.v1.tar.gzip+x",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.empty.v1+json",
            "",
        ] {
            let e = layer(bad).unwrap_err();
            assert_eq!(e.kind(), Kind::Unsupported);
            assert!(e.message().contains(bad), "{e}");
        }
        assert!(document(DOCKER_CONFIG).is_err());
        assert_eq!(document(DOCKER_INDEX).unwrap(), DocumentKind::Index);
        assert!(is_config("application/vnd.oci.image.config.v1+json"));
        assert!(!is_config("application/octet-stream"));
    }
}
