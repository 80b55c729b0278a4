//! Image indexes and manifests of OCI and of Docker's schema 2.
//!
//! A document is taken for what the descriptor that led to it says, and refused when its own
//! fields say otherwise (CVE-2021-41190: an index that is also a manifest).

use std::collections::BTreeMap;

use serde::Deserialize;
use unlade_unpack::{Digest, Error, Kind, Result};

use super::{
    json::{self, Object, Rules, show},
    media::{self, DocumentKind},
    platform::Platform,
};

/// Largest index or manifest that is read, in bytes.
pub const MAX_BYTES: u64 = 4 << 20;
/// Most entries of all indexes between `index.json` and the manifest, counted together.
pub const MAX_INDEX_ENTRIES: usize = 10_000;
/// How many indexes may lie between `index.json` and the manifest.
pub const MAX_INDEX_DEPTH: usize = 8;

/// Annotation with an image's name in a layout's `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with an image's full name, as containerd and Docker write it.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
const DOCKER_REFERENCE_TYPE: &str = "vnd.docker.reference.type";

const RULES: Rules = Rules {
    known: &[
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "fsLayers",
        "digest",
        "size",
        "platform",
        "annotations",
        "urls",
        "architecture",
        "os",
        "variant",
    ],
    free: &["annotations"],
};

/// A typed, sized and digested pointer to a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// In an index: what the image runs on.
    pub platform: Option<Platform>,
    /// Free-form notes.
    pub annotations: BTreeMap<String, String>,
    /// Where else the blob may be, for layers that registries do not hold.
    pub urls: Vec<String>,
}

impl Descriptor {
    /// Whether this entry of an index describes another entry (build provenance, an SBOM)
    /// rather than being an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key(DOCKER_REFERENCE_TYPE)
            || self.platform.as_ref().is_some_and(Platform::is_unknown)
    }

    /// The names that an `index.json` gives to this entry, the fullest first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [CONTAINERD_NAME, REF_NAME]
            .iter()
            .filter_map(|k| self.annotations.get(*k))
            .map(|s| &**s)
    }
}

/// An image index, also that of a layout (`index.json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Manifests and further indexes.
    pub manifests: Vec<Descriptor>,
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a descriptor in an index leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Document {
    /// An image index.
    Index(Index),
    /// An image manifest.
    Manifest(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<Object<RawDescriptor>>>,
    config: Option<Object<RawDescriptor>>,
    layers: Option<Vec<Object<RawDescriptor>>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Object<RawPlatform>>,
    annotations: Option<BTreeMap<String, String>>,
    urls: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    architecture: String,
    os: String,
    variant: Option<String>,
}

impl RawDescriptor {
    fn check(self) -> Result<Descriptor> {
        if self.size > i64::MAX as u64 {
            return Err(bad(format!(
                "descriptor size {} is out of range",
                self.size
            )));
        }
        Ok(Descriptor {
            media_type: self.media_type,
            digest: json::digest(&self.digest)?,
            size: self.size,
            platform: self
                .platform
                .map(|Object(p)| Platform::new(&p.os, &p.architecture, p.variant.as_deref())),
            annotations: self.annotations.unwrap_or_default(),
            urls: self.urls.unwrap_or_default(),
        })
    }
}

fn check_all(raw: Vec<Object<RawDescriptor>>) -> Result<Vec<Descriptor>> {
    raw.into_iter().map(|Object(d)| d.check()).collect()
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::BadInput, message)
        .with_hint("the image is damaged or was built to be ambiguous: build or copy it again")
}

impl Document {
    /// Parses the document that a descriptor of `media_type` led to.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for a media type that is neither index nor manifest,
    /// [`Kind::BadInput`] for a document that is not what the media type says, or ambiguous.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self> {
        Ok(match media::document(media_type)? {
            DocumentKind::Index => Self::Index(Index::from_raw(raw(bytes)?, Some(media_type))?),
            DocumentKind::Manifest => Self::Manifest(Manifest::from_raw(raw(bytes)?, media_type)?),
        })
    }
}

fn raw(bytes: &[u8]) -> Result<Raw> {
    let Object(raw): Object<Raw> = json::parse("image manifest or index", bytes, &RULES)?;
    if raw.schema_version != Some(2) {
        return Err(match raw.schema_version {
            Some(1) => Error::new(Kind::Unsupported, "image manifest of Docker's schema 1")
                .with_hint("convert the image first, for example with `skopeo copy --format oci`"),
            Some(n) => bad(format!("schemaVersion is {n}, not 2")),
            None => bad("schemaVersion is missing"),
        });
    }
    Ok(raw)
}

fn same_type(document: Option<&str>, descriptor: &str) -> Result<()> {
    match document {
        Some(t) if t != descriptor => {
            let (t, d) = (show(t), show(descriptor));
            Err(bad(format!(
                "document says mediaType `{t}`, its descriptor `{d}`"
            )))
        }
        _ => Ok(()),
    }
}

impl Index {
    /// Parses a layout's `index.json`, which no descriptor leads to.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse_top(bytes: &[u8]) -> Result<Self> {
        let raw = raw(bytes)?;
        if let Some(t) = &raw.media_type
            && media::document(t)? != DocumentKind::Index
        {
            return Err(bad(format!("index.json says mediaType `{}`", show(t))));
        }
        Self::from_raw(raw, None)
    }

    fn from_raw(raw: Raw, media_type: Option<&str>) -> Result<Self> {
        if let Some(t) = media_type {
            same_type(raw.media_type.as_deref(), t)?;
        }
        if raw.layers.is_some() || raw.config.is_some() || raw.fs_layers.is_some() {
            return Err(bad("image index that also has fields of a manifest"));
        }
        let manifests = raw
            .manifests
            .ok_or_else(|| bad("image index without `manifests`"))?;
        if manifests.len() > MAX_INDEX_ENTRIES {
            return Err(too_many_entries());
        }
        Ok(Self {
            manifests: check_all(manifests)?,
        })
    }
}

/// More than [`MAX_INDEX_ENTRIES`].
pub fn too_many_entries() -> Error {
    Error::new(
        Kind::Limit,
        format!("more than {MAX_INDEX_ENTRIES} index entries"),
    )
    .with_hint("choose the manifest itself by @DIGEST")
}

impl Manifest {
    fn from_raw(raw: Raw, media_type: &str) -> Result<Self> {
        same_type(raw.media_type.as_deref(), media_type)?;
        if raw.manifests.is_some() || raw.fs_layers.is_some() {
            return Err(bad("image manifest that also has fields of an index"));
        }
        let config = raw
            .config
            .ok_or_else(|| bad("image manifest without `config`"))?
            .0
            .check()?;
        if !media::is_config(&config.media_type) {
            let m = format!(
                "config media type `{}` is not that of an image config",
                show(&config.media_type)
            );
            return Err(Error::new(Kind::Unsupported, m)
                .with_hint("this is an artifact, not a container image: nothing to unpack"));
        }
        let layers = raw
            .layers
            .ok_or_else(|| bad("image manifest without `layers`"))?;
        Ok(Self {
            config,
            layers: check_all(layers)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: &str = "application/vnd.oci.image.manifest.v1+json";
    const I: &str = "application/vnd.oci.image.index.v1+json";
    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn config(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{D}","size":2}}"#)
    }

    fn manifest(extra: &str) -> String {
        let c = config("application/vnd.oci.image.config.v1+json");
        format!(r#"{{"schemaVersion":2,"config":{c},"layers":[{c}]{extra}}}"#)
    }

    #[test]
    fn manifest_and_index() {
        let text = manifest(&format!(
            r#","mediaType":"{M}","annotations":{{"Size":"x"}}"#
        ));
        let Document::Manifest(m) = Document::parse(M, text.as_bytes()).unwrap() else {
            panic!()
        };
        assert_eq!((m.layers.len(), m.config.size), (1, 2));
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{M}","digest":"{D}","size":7,
               "platform":{{"os":"linux","architecture":"aarch64"}},
               "annotations":{{"org.opencontainers.image.ref.name":"a"}}}}]}}"#
        );
        let Document::Index(i) = Document::parse(I, text.as_bytes()).unwrap() else {
            panic!()
        };
        assert_eq!(
            i.manifests[0].platform.as_ref().unwrap().to_string(),
            "linux/arm64/v8"
        );
        assert_eq!(i.manifests[0].names().collect::<Vec<_>>(), ["a"]);
        assert_eq!(Index::parse_top(text.as_bytes()).unwrap(), i);
    }

    #[test]
    fn attestations_are_known() {
        for extra in [
            r#""annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#,
            r#""platform":{"os":"unknown","architecture":"unknown"}"#,
        ] {
            let text = format!(
                r#"{{"schemaVersion":2,"manifests":
                   [{{"mediaType":"{M}","digest":"{D}","size":7,{extra}}}]}}"#
            );
            assert!(Index::parse_top(text.as_bytes()).unwrap().manifests[0].is_attestation());
        }
    }

    #[test]
    fn ambiguous_manifests_are_refused() {
        let not_config = config("application/octet-stream");
        let deep = format!(
            r#","annotations":{}{}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        for (text, part) in [
            (manifest(r#","manifests":[]"#), "fields of an index"),
            (manifest(r#","fsLayers":[]"#), "fields of an index"),
            (
                manifest(&format!(r#","mediaType":"{I}""#)),
                "document says mediaType",
            ),
            (manifest(r#","layers":[]"#), "twice"),
            (manifest(r#","Layers":[]"#), "another spelling"),
            (manifest(&deep), "recursion limit"),
            (
                format!(r#"{{"schemaVersion":2,"config":{not_config},"layers":[]}}"#),
                "octet-stream",
            ),
            (
                r#"{"schemaVersion":2,"layers":[]}"#.into(),
                "without `config`",
            ),
            (
                manifest("").replace(":2,\"config", ":3,\"config"),
                "schemaVersion is 3",
            ),
            (
                manifest("").replace(":2,\"config", ":1,\"config"),
                "schema 1",
            ),
            (
                manifest("").replace("\"size\":2", "\"size\":-1"),
                "invalid value: integer `-1`",
            ),
            (
                manifest("").replace("\"size\":2", "\"size\":2.5"),
                "invalid type",
            ),
            (
                manifest("").replace("\"size\":2", "\"size\":9223372036854775808"),
                "out of range",
            ),
            (
                manifest("").replace("sha256:e3", "sha256:E3"),
                "lower-case hex",
            ),
            (
                manifest("").replace("sha256:e3", "../../etc/e3"),
                "not a digest",
            ),
        ] {
            let e = Document::parse(M, text.as_bytes()).unwrap_err();
            assert!(e.message().contains(part), "{part}: {e}");
            assert!(e.hint().is_some(), "{e}");
        }
    }

    #[test]
    fn ambiguous_indexes_are_refused() {
        for (text, part) in [
            (manifest(r#","manifests":[]"#), "fields of a manifest"),
            (r#"{"schemaVersion":2}"#.to_owned(), "without `manifests`"),
            (
                format!(r#"{{"schemaVersion":2,"mediaType":"{M}","manifests":[]}}"#),
                "mediaType",
            ),
            (r#"{"manifests":[]}"#.to_owned(), "schemaVersion is missing"),
        ] {
            let e = Document::parse(I, text.as_bytes()).unwrap_err();
            assert!(e.message().contains(part), "{part}: {e}");
        }
        let many = vec![config(M); MAX_INDEX_ENTRIES + 1].join(",");
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{many}]}}"#);
        assert_eq!(
            Index::parse_top(text.as_bytes()).unwrap_err().kind(),
            Kind::Limit
        );
    }
}
