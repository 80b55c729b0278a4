//! Which images an archive holds, once all of it has passed.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::json;
use unlade_unpack::{Algorithm, Compression, Digest};

use super::{
    load::{Contents, Loading},
    receive::Receive,
};
use crate::{
    error::{Error, Kind, Result},
    image::{
        Descriptor, Document, FullConfig, Index, Manifest, Platform, config,
        json::{self, Object, Rules, show},
        manifest::{MAX_BYTES, MAX_INDEX_DEPTH, MAX_INDEX_ENTRIES, too_many_entries},
        media::{self, DocumentKind},
    },
};

const OCI: &str = "application/vnd.oci.image";

/// An image in an archive. Its blobs have all been received, but for a manifest that is new.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedImage {
    /// Its names, as the archive spells them.
    pub names: Vec<String>,
    /// The config's digest: the image's id.
    pub id: Digest,
    /// The config.
    pub config: FullConfig,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest. That of a Docker archive is made anew.
    pub manifest: Vec<u8>,
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest is not in the archive, and has not been received.
    pub is_new: bool,
    /// The layers, lowest first.
    pub layers: Vec<LoadedLayer>,
}

/// A layer of an image in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedLayer {
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// The blob's media type.
    pub media_type: String,
    /// Digest of the uncompressed layer.
    pub diff_id: Digest,
}

const DOCKER: Rules = Rules {
    known: &["Config", "RepoTags", "Layers"],
    free: &["LayerSources"],
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// The images of an archive: those of its OCI layout, and those that only Docker's
/// `manifest.json` has.
pub(super) fn images(
    contents: &Contents,
    receive: &mut dyn Receive,
    loading: &Loading<'_>,
) -> Result<Vec<LoadedImage>> {
    let part = |name: &'static str| move |e: Error| e.context(name);
    let index = contents.document("index.json");
    let items = contents.document("manifest.json");
    if index.is_none() && items.is_none() {
        let m = "neither `index.json` nor `manifest.json` is there";
        return Err(Error::new(Kind::BadInput, m).with_hint(
            "is this what `save` wrote? the root file system of one container is for `import`",
        ));
    }
    let mut resolver = Resolver {
        contents,
        receive,
        loading,
        entries: 0,
        found: Vec::new(),
    };
    let items = match items {
        Some(text) => items_of(text).map_err(part("manifest.json"))?,
        None => Vec::new(),
    };
    let covered = items
        .iter()
        .map(|i| resolver.item_config(i))
        .collect::<Result<HashSet<_>>>();
    let covered = covered.map_err(part("manifest.json"))?;
    if let Some(text) = index {
        check_version(contents)?;
        let top = Index::parse_top(text).map_err(|e| part("index.json")(e.into()))?;
        for entry in &top.manifests {
            resolver
                .entry(entry, &covered)
                .map_err(part("index.json"))?;
        }
    }
    for item in &items {
        resolver.item(item).map_err(part("manifest.json"))?;
    }
    if resolver.found.is_empty() {
        return Err(
            Error::new(Kind::BadInput, "there is no image in the archive")
                .with_hint("save the image again"),
        );
    }
    Ok(resolver.found)
}

fn items_of(text: &[u8]) -> Result<Vec<Item>> {
    let items: Vec<Object<Item>> = json::parse("manifest list", text, &DOCKER)?;
    if items.len() > MAX_INDEX_ENTRIES {
        return Err(too_many_entries().into());
    }
    Ok(items.into_iter().map(|Object(item)| item).collect())
}

fn check_version(contents: &Contents) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        image_layout_version: String,
    }
    const RULES: Rules = Rules {
        known: &["imageLayoutVersion"],
        free: &[],
    };
    let Some(text) = contents.document("oci-layout") else {
        return Err(Error::new(
            Kind::BadInput,
            "`oci-layout` is missing beside `index.json`",
        )
        .with_hint("save the image again"));
    };
    let Object(v): Object<Version> = json::parse("layout version", text, &RULES)?;
    if v.image_layout_version == "1.0.0" {
        return Ok(());
    }
    let m = format!(
        "layout version `{}` is not 1.0.0",
        show(&v.image_layout_version)
    );
    Err(Error::new(Kind::Unsupported, m)
        .with_hint("copy the image with a tool that writes version 1.0.0"))
}

fn missing(what: &str) -> Error {
    Error::new(Kind::BadInput, format!("{what} is not in the archive"))
        .with_hint("the archive is incomplete: save the image again")
}

struct Resolver<'a> {
    contents: &'a Contents,
    receive: &'a mut dyn Receive,
    loading: &'a Loading<'a>,
    /// Entries of indexes looked at so far.
    entries: usize,
    found: Vec<LoadedImage>,
}

impl Resolver<'_> {
    fn add(&mut self, image: LoadedImage) {
        match self.found.iter_mut().find(|i| i.digest == image.digest) {
            Some(same) => {
                for name in image.names {
                    if !same.names.contains(&name) {
                        same.names.push(name);
                    }
                }
            }
            None => self.found.push(image),
        }
    }

    /// Reads a document by its descriptor.
    fn read(&mut self, d: &Descriptor, most: u64) -> Result<Vec<u8>> {
        let bytes = self.receive.read(&d.digest, most)?;
        let bytes = bytes.ok_or_else(|| missing(&format!("the blob {}", d.digest)))?;
        if bytes.len() as u64 != d.size {
            let m = format!("{} has {} bytes, not {}", d.digest, bytes.len(), d.size);
            return Err(Error::new(Kind::Integrity, m).with_hint("save the image again"));
        }
        Ok(bytes)
    }

    /// An entry of `index.json`: an image, or an index of which one image is chosen.
    fn entry(&mut self, entry: &Descriptor, covered: &HashSet<Digest>) -> Result<()> {
        if entry.is_attestation() {
            return Ok(());
        }
        // Docker writes two: the full name is enough.
        let names: Vec<String> = entry.names().take(1).map(str::to_owned).collect();
        let mut best: Option<(usize, Descriptor)> = None;
        let mut passed = Vec::new();
        match media::document(&entry.media_type)? {
            DocumentKind::Manifest => best = Some((0, entry.clone())),
            DocumentKind::Index => {
                let want = self
                    .loading
                    .platform
                    .cloned()
                    .unwrap_or_else(Platform::host);
                self.choose(entry, &want, 0, &mut best, &mut passed)?;
            }
        }
        let Some((_, chosen)) = best else {
            let m = format!("no image for this platform, but for {}", passed.join(", "));
            return Err(Error::new(Kind::BadInput, m).with_hint("choose one with --platform"));
        };
        let manifest = self.read(&chosen, MAX_BYTES)?;
        let Document::Manifest(document) = Document::parse(&chosen.media_type, &manifest)? else {
            return Err(Error::new(Kind::Bug, "an index was chosen as a manifest"));
        };
        // Docker 25.0 wrote manifests without layers; its own list has them.
        let config = self.config(&document.config)?;
        let is_whole = config.diff_ids.len() == document.layers.len();
        if !is_whole && covered.contains(&document.config.digest) {
            return Ok(());
        }
        let layers = self.layers(&document, &config)?;
        self.add(LoadedImage {
            names,
            id: document.config.digest,
            config,
            media_type: chosen.media_type,
            manifest,
            digest: chosen.digest,
            is_new: false,
            layers,
        });
        Ok(())
    }

    /// The image in the index `d` that fits the platform best.
    fn choose(
        &mut self,
        d: &Descriptor,
        want: &Platform,
        depth: usize,
        best: &mut Option<(usize, Descriptor)>,
        passed: &mut Vec<String>,
    ) -> Result<()> {
        if depth > MAX_INDEX_DEPTH {
            let m = format!("indexes are nested more than {MAX_INDEX_DEPTH} deep");
            return Err(Error::new(Kind::Limit, m).with_hint("do not trust this archive"));
        }
        let bytes = self.read(d, MAX_BYTES)?;
        let Document::Index(index) = Document::parse(&d.media_type, &bytes)? else {
            return Err(Error::new(Kind::Bug, "a manifest was read as an index"));
        };
        for entry in index.manifests {
            self.entries += 1;
            if self.entries > MAX_INDEX_ENTRIES {
                return Err(too_many_entries().into());
            }
            let is_image = media::document(&entry.media_type);
            if entry.is_attestation() || is_image.is_err() {
                continue;
            }
            if is_image.is_ok_and(|k| k == DocumentKind::Index) {
                self.choose(&entry, want, depth + 1, best, passed)?;
                continue;
            }
            // An archive need not hold the images of every platform.
            if self.receive.size(&entry.digest)?.is_none() {
                passed.push("one that is not in the archive".to_owned());
                continue;
            }
            let platform = match &entry.platform {
                Some(platform) => Some(platform.clone()),
                None => {
                    let bytes = self.read(&entry, MAX_BYTES)?;
                    match Document::parse(&entry.media_type, &bytes)? {
                        Document::Manifest(m) => self.config(&m.config)?.platform(),
                        Document::Index(_) => None,
                    }
                }
            };
            let rank = match &platform {
                Some(platform) => want.rank(platform),
                None => Some(usize::MAX),
            };
            match rank {
                Some(rank) if best.as_ref().is_none_or(|(r, _)| rank < *r) => {
                    *best = Some((rank, entry));
                }
                Some(_) => {}
                None => passed.extend(platform.map(|p| p.to_string())),
            }
        }
        Ok(())
    }

    fn config(&mut self, d: &Descriptor) -> Result<FullConfig> {
        let bytes = self.read(d, config::MAX_BYTES)?;
        FullConfig::parse(bytes).map_err(|e| e.context(format!("config {}", d.digest)))
    }

    fn check_counts(&self, layers: usize, config: &FullConfig) -> Result<()> {
        if layers > self.loading.max_layers {
            let m = format!("{layers} layers are more than {}", self.loading.max_layers);
            return Err(Error::new(Kind::Limit, m).with_hint("do not trust this image"));
        }
        if layers != config.diff_ids.len() {
            let m = format!(
                "the config lists {} diff_ids for {layers} layers",
                config.diff_ids.len()
            );
            return Err(Error::new(Kind::Integrity, m)
                .with_hint("the image is damaged: build or copy it again"));
        }
        Ok(())
    }

    fn layers(&mut self, manifest: &Manifest, config: &FullConfig) -> Result<Vec<LoadedLayer>> {
        self.check_counts(manifest.layers.len(), config)?;
        let mut layers = Vec::new();
        for (d, diff_id) in manifest.layers.iter().zip(&config.diff_ids) {
            media::layer(&d.media_type)?;
            match self.receive.size(&d.digest)? {
                Some(size) if size == d.size => {}
                Some(size) => {
                    let m = format!("the layer {} has {size} bytes, not {}", d.digest, d.size);
                    return Err(Error::new(Kind::Integrity, m).with_hint("save the image again"));
                }
                None => return Err(missing(&format!("the layer {}", d.digest))),
            }
            layers.push(LoadedLayer {
                digest: d.digest,
                size: d.size,
                media_type: d.media_type.clone(),
                diff_id: *diff_id,
            });
        }
        Ok(layers)
    }

    /// The digest of the config that an item of `manifest.json` names.
    fn item_config(&self, item: &Item) -> Result<Digest> {
        self.path(&item.config)
    }

    fn path(&self, name: &str) -> Result<Digest> {
        let mut parts = Vec::new();
        for part in name.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    let m = format!("`{}` leads out of the archive", show(name));
                    return Err(Error::new(Kind::BadInput, m).with_hint("save the image again"));
                }
                part => parts.push(part),
            }
        }
        let found = self.contents.member(parts.join("/").as_bytes())?;
        found.ok_or_else(|| missing(&format!("`{}`", show(name))))
    }

    /// An item of Docker's `manifest.json`.
    fn item(&mut self, item: &Item) -> Result<()> {
        let id = self.item_config(item)?;
        let names = item.repo_tags.clone().unwrap_or_default();
        let in_index = self.found.iter_mut().find(|i| i.id == id && !i.is_new);
        if let Some(image) = in_index {
            // The index names it in full, this list in short: only new names are taken.
            if image.names.is_empty() {
                image.names = names;
            }
            return Ok(());
        }
        let bytes = self.receive.read(&id, config::MAX_BYTES)?;
        let config = FullConfig::parse(bytes.ok_or_else(|| missing("the config"))?)
            .map_err(|e| e.context(format!("config {id}")))?;
        let paths = item.layers.clone().unwrap_or_default();
        self.check_counts(paths.len(), &config)?;
        let mut layers = Vec::new();
        for (path, diff_id) in paths.iter().zip(&config.diff_ids) {
            let digest = self.path(path)?;
            let size = self.receive.size(&digest)?;
            let size = size.ok_or_else(|| missing(&format!("the layer `{}`", show(path))))?;
            let suffix = match self.contents.compression.get(&digest) {
                Some(Compression::Gzip) => "+gzip",
                Some(Compression::Zstd) => "+zstd",
                _ => "",
            };
            layers.push(LoadedLayer {
                digest,
                size,
                media_type: format!("{OCI}.layer.v1.tar{suffix}"),
                diff_id: *diff_id,
            });
        }
        let (media_type, manifest) = new_manifest(&id, config.raw.len() as u64, &layers);
        let digest = Digest::of(Algorithm::Sha256, &manifest);
        self.add(LoadedImage {
            names,
            id,
            config,
            media_type,
            manifest,
            digest,
            is_new: true,
            layers,
        });
        Ok(())
    }
}

/// A manifest of OCI's for these blobs: its media type and its bytes.
pub(crate) fn new_manifest(
    config: &Digest,
    config_size: u64,
    layers: &[LoadedLayer],
) -> (String, Vec<u8>) {
    let media_type = format!("{OCI}.manifest.v1+json");
    let layers: Vec<_> = layers
        .iter()
        .map(|l| {
            BTreeMap::from([
                ("mediaType", json!(l.media_type)),
                ("digest", json!(l.digest.to_string())),
                ("size", json!(l.size)),
            ])
        })
        .collect();
    let config = json!({
        "mediaType": format!("{OCI}.config.v1+json"),
        "digest": config.to_string(),
        "size": config_size,
    });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
    });
    (media_type, manifest.to_string().into_bytes())
}
