//! From `index.json` to the layers of one image: the choice of a manifest, then its config.
//!
//! Every document is read whole, checked by size and digest against the descriptor that led to
//! it, and only then parsed.

use std::collections::HashSet;

use unlade_unpack::{Cancel, Digest, Error, Kind, Result};

use super::{
    Image, LayerBlob, Opening, Pick,
    blob::{Opener, Store},
    patient::check,
    reference::same_name,
};
use crate::image::{
    Config, Descriptor, Document, Index, Manifest, Platform, config,
    json::{self, Object, Rules, show},
    manifest::{MAX_BYTES, MAX_INDEX_DEPTH, MAX_INDEX_ENTRIES, too_many_entries},
    media::{self, DocumentKind},
};

/// Opens the image that `pick` names in a layout.
pub(super) fn open(store: Store, pick: &Pick, opening: &Opening<'_>) -> Result<Image> {
    check_version(&store)?;
    let top = read_top(&store)?;
    let chosen = Choice::new(&store, opening).choose(top, pick)?;
    let platform = chosen.descriptor.platform.clone();
    let manifest = match &chosen.read {
        Some(read) => read.clone(),
        None => read_manifest(&store, &chosen.descriptor)?,
    };
    let config = read_config(&store, &manifest)?;
    if let Some(want) = opening.platform {
        check_platform(want, &chosen, config.platform.as_ref())
            .map_err(|e| e.in_part(format!("manifest {}", chosen.descriptor.digest)))?;
    }
    let layers = layers(&store, &manifest, &config, opening.max_layers)
        .map_err(|e| e.in_part(format!("manifest {}", chosen.descriptor.digest)))?;
    Ok(Image {
        manifest_digest: Some(chosen.descriptor.digest),
        config_digest: Some(manifest.config.digest),
        platform: config.platform.clone().or(platform),
        config: Some(config),
        layers,
    })
}

/// Refuses an image that is for another platform than the one asked for, by its descriptor or by
/// its config: an index may say of a manifest what is not so.
fn check_platform(want: &Platform, chosen: &Candidate, config: Option<&Platform>) -> Result<()> {
    let listed = chosen.descriptor.platform.as_ref();
    let refused = |is: &Platform, hint: &str| {
        let m = format!("the image is for {is}, not for {want}");
        Err(Error::new(Kind::BadInput, m).with_hint(hint))
    };
    if let (true, Some(is)) = (chosen.check_platform, listed.or(config))
        && want.rank(is).is_none()
    {
        return refused(is, "leave out --platform to unpack it nevertheless");
    }
    // Configs often leave out the variant that the index gives: only the rest can contradict.
    if let (Some(listed), Some(is)) = (listed, config)
        && want.rank(is).is_none()
        && (listed.parts().0, listed.parts().1) != (is.parts().0, is.parts().1)
    {
        return refused(
            is,
            "the index says otherwise: name the manifest by @DIGEST and leave out --platform to \
             unpack it nevertheless",
        );
    }
    Ok(())
}

fn not_a_layout(message: &str) -> Error {
    Error::new(Kind::BadInput, message)
        .with_hint("is this an OCI image layout? what `docker save` wrote is docker-archive:FILE")
}

fn check_version(store: &Store) -> Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        image_layout_version: String,
    }
    const RULES: Rules = Rules {
        known: &["imageLayoutVersion"],
        free: &[],
    };
    let part = "oci-layout";
    let read = || {
        let file = store
            .file(part)?
            .ok_or_else(|| not_a_layout("the file is missing"))?;
        let Object(v): Object<Version> = json::parse("layout version", &file.read(4096)?, &RULES)?;
        if v.image_layout_version != "1.0.0" {
            let m = format!(
                "layout version `{}` is not 1.0.0",
                show(&v.image_layout_version)
            );
            return Err(Error::new(Kind::Unsupported, m)
                .with_hint("copy the image with a tool that writes version 1.0.0"));
        }
        Ok(())
    };
    read().map_err(|e| e.in_part(part))
}

fn read_top(store: &Store) -> Result<Index> {
    let part = "index.json";
    let read = || {
        let file = store
            .file(part)?
            .ok_or_else(|| not_a_layout("the file is missing"))?;
        Index::parse_top(&file.read(MAX_BYTES)?)
    };
    read().map_err(|e| e.in_part(part))
}

fn read_document(store: &Store, d: &Descriptor) -> Result<Document> {
    let what = match media::document(&d.media_type)? {
        DocumentKind::Index => "index",
        DocumentKind::Manifest => "manifest",
    };
    let read = || Document::parse(&d.media_type, &store.document(d, MAX_BYTES)?);
    read().map_err(|e| e.in_part(format!("{what} {}", d.digest)))
}

fn read_manifest(store: &Store, d: &Descriptor) -> Result<Manifest> {
    match read_document(store, d)? {
        Document::Manifest(m) => Ok(m),
        Document::Index(_) => Err(Error::new(Kind::Bug, "an index was chosen as a manifest")),
    }
}

fn read_config(store: &Store, manifest: &Manifest) -> Result<Config> {
    let d = &manifest.config;
    let read = || Config::parse(&store.document(d, config::MAX_BYTES)?);
    read().map_err(|e| e.in_part(format!("config {}", d.digest)))
}

/// Refuses an image with more layers than allowed, or not one diffID for each.
pub(super) fn check_counts(layers: usize, config: &Config, most: usize) -> Result<()> {
    if layers > most {
        return Err(
            Error::new(Kind::Limit, format!("{layers} layers are more than {most}"))
                .with_hint("raise --limit-layers to allow it"),
        );
    }
    let ids = config.diff_ids.len();
    if layers != ids {
        let m = format!("the config lists {ids} diff_ids for {layers} layers");
        return Err(Error::new(Kind::Integrity, m)
            .with_hint("the image is damaged: build or copy it again"));
    }
    Ok(())
}

fn layers(
    store: &Store,
    manifest: &Manifest,
    config: &Config,
    most: usize,
) -> Result<Vec<LayerBlob>> {
    check_counts(manifest.layers.len(), config, most)?;
    let count = manifest.layers.len();
    let one = |(i, (d, diff_id)): (usize, (&Descriptor, &_))| {
        let open = || {
            let compression = media::layer(&d.media_type)?;
            // A layer that is not there, or not as long as it should be, is known right away.
            store
                .blob(&d.digest)
                .and_then(|part| part.expect(d.size))
                .map_err(|e| {
                    if media::is_foreign(&d.media_type) && e.kind() == Kind::BadInput {
                        return e.with_hint(
                            "the layer is kept elsewhere, at the `urls` of the manifest: fetch it \
                         into the image first",
                        );
                    }
                    e
                })?;
            Ok(LayerBlob {
                digest: Some(d.digest),
                size: Some(d.size),
                media_type: Some(d.media_type.clone()),
                compression: Some(compression),
                diff_id: Some(*diff_id),
                opener: Opener::Stored(store.clone(), d.digest),
            })
        };
        open().map_err(|e: Error| {
            e.in_part(format!("layer {} of {count}", i + 1))
                .in_blob(d.digest)
        })
    };
    manifest
        .layers
        .iter()
        .zip(&config.diff_ids)
        .enumerate()
        .map(one)
        .collect()
}

/// A manifest that could be meant.
struct Candidate {
    descriptor: Descriptor,
    /// The manifest, if it had to be read to learn its platform.
    read: Option<Manifest>,
    /// As by [`Platform::rank`].
    rank: usize,
    /// Which entry of `index.json` led here.
    top: usize,
    /// Whether its platform still has to be compared with the one asked for.
    check_platform: bool,
}

/// Most bytes of the documents that are read in search of a manifest. An index has a few
/// kilobytes, a manifest and its config together hardly more.
const MAX_SEARCH_BYTES: u64 = 64 << 20;

/// The search for a manifest through an index and what it holds.
struct Choice<'a> {
    store: &'a Store,
    cancel: &'a Cancel,
    /// Documents that were read: what they lead to is known, however often they are listed.
    seen: HashSet<Digest>,
    /// Bytes of the documents read so far.
    bytes: u64,
    want: Platform,
    /// Entries looked at so far.
    entries: usize,
    found: Vec<Candidate>,
    /// Platforms that were passed over, for the message.
    passed: Vec<String>,
    /// An entry that could not be understood, for the case that nothing else is found.
    odd: Option<Error>,
}

impl<'a> Choice<'a> {
    fn new(store: &'a Store, opening: &Opening<'a>) -> Self {
        Self {
            store,
            cancel: opening.cancel,
            seen: HashSet::new(),
            bytes: 0,
            want: opening.platform.cloned().unwrap_or_else(Platform::host),
            entries: 0,
            found: Vec::new(),
            passed: Vec::new(),
            odd: None,
        }
    }

    /// Whether the document is still to be read.
    fn first_time(&mut self, d: &Descriptor) -> bool {
        self.seen.insert(d.digest)
    }

    /// Accounts for a document that is about to be read.
    fn charge(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_SEARCH_BYTES {
            let m = format!(
                "more than {} MiB of indexes and manifests have to be read to find the image",
                MAX_SEARCH_BYTES >> 20
            );
            return Err(Error::new(Kind::Limit, m)
                .with_hint("choose the manifest itself by @DIGEST, if you trust this image"));
        }
        Ok(())
    }

    fn choose(mut self, top: Index, pick: &Pick) -> Result<Candidate> {
        let part = |e: Error| e.in_part("index.json");
        let mut entries = match pick {
            Pick::Digest(digest) => match self.by_digest(&top.manifests, digest, 0)? {
                Some(d) => vec![d],
                None => Vec::new(),
            },
            Pick::Name(want) => named(&top.manifests, want),
            Pick::Only => only(&top.manifests).map_err(part)?,
        };
        // Docker lists an image once for each of its names.
        let mut seen = HashSet::new();
        entries.retain(|d| seen.insert(d.digest));
        if entries.is_empty() {
            return Err(part(not_there(&top.manifests, pick)));
        }
        if let [one] = &entries[..]
            && media::document(&one.media_type).map_err(part)? == DocumentKind::Manifest
        {
            let descriptor = one.clone();
            return Ok(Candidate {
                descriptor,
                read: None,
                rank: 0,
                top: 0,
                check_platform: true,
            });
        }
        // The search by digest has seen some, but not looked at platforms.
        self.seen.clear();
        for (n, entry) in entries.iter().enumerate() {
            self.visit(entry, n, 0)?;
        }
        self.best().map_err(part)
    }

    /// The best of what was found; of equals the first, but not if `index.json` itself has both.
    fn best(mut self) -> Result<Candidate> {
        self.found.sort_by_key(|c| c.rank);
        let mut found = self.found.into_iter();
        let Some(best) = found.next() else {
            if let (true, Some(e)) = (self.passed.is_empty(), self.odd) {
                return Err(e);
            }
            self.passed.sort();
            self.passed.dedup();
            let there = list(&self.passed);
            return Err(Error::new(
                Kind::BadInput,
                format!("no image for {}: {there}", self.want),
            )
            .with_hint("choose one that is there with --platform"));
        };
        if let Some(rival) = found.next()
            && (rival.rank, rival.top != best.top) == (best.rank, true)
            && rival.descriptor.digest != best.descriptor.digest
        {
            let (a, b) = (best.descriptor.digest, rival.descriptor.digest);
            return Err(
                Error::new(Kind::BadInput, format!("both {a} and {b} could be meant"))
                    .with_hint("choose one by its digest: oci:DIR@DIGEST"),
            );
        }
        Ok(best)
    }

    fn count(&mut self) -> Result<()> {
        check(self.cancel)?;
        self.entries += 1;
        if self.entries > MAX_INDEX_ENTRIES {
            Err(too_many_entries())
        } else {
            Ok(())
        }
    }

    /// The index `d`; `None` if it was read before.
    fn nested(&mut self, d: &Descriptor, depth: usize) -> Result<Option<Index>> {
        if depth >= MAX_INDEX_DEPTH {
            let m = format!("indexes are nested more than {MAX_INDEX_DEPTH} deep");
            return Err(Error::new(Kind::Limit, m)
                .in_part(format!("index {}", d.digest))
                .with_hint("choose the manifest itself by @DIGEST"));
        }
        if !self.first_time(d) {
            return Ok(None);
        }
        self.charge(d.size)?;
        match read_document(self.store, d)? {
            Document::Index(i) => Ok(Some(i)),
            Document::Manifest(_) => Err(Error::new(Kind::Bug, "a manifest was read as an index")),
        }
    }

    /// Adds what `entry` leads to and fits the platform.
    fn visit(&mut self, entry: &Descriptor, top: usize, depth: usize) -> Result<()> {
        self.count()?;
        if entry.is_attestation() {
            return Ok(());
        }
        let rank = match &entry.platform {
            Some(p) => match self.want.rank(p) {
                Some(rank) => Some(rank),
                None => {
                    self.passed.push(p.to_string());
                    return Ok(());
                }
            },
            None => None,
        };
        match media::document(&entry.media_type) {
            Err(e) => self.odd = Some(e),
            Ok(DocumentKind::Index) => {
                if let Some(index) = self.nested(entry, depth)? {
                    for d in &index.manifests {
                        self.visit(d, top, depth + 1)?;
                    }
                }
            }
            Ok(DocumentKind::Manifest) => self.add(entry, rank, top)?,
        }
        Ok(())
    }

    /// Adds a manifest, whose config tells the platform if its descriptor does not.
    fn add(&mut self, entry: &Descriptor, rank: Option<usize>, top: usize) -> Result<()> {
        let descriptor = entry.clone();
        let (rank, read) = match rank {
            Some(rank) => (rank, None),
            None => {
                if !self.first_time(entry) {
                    return Ok(());
                }
                self.charge(entry.size)?;
                let manifest = match read_manifest(self.store, entry) {
                    Ok(m) => m,
                    Err(e) if e.kind() == Kind::Unsupported => {
                        self.odd = Some(e);
                        return Ok(());
                    }
                    Err(e) => return Err(e),
                };
                self.charge(manifest.config.size)?;
                match read_config(self.store, &manifest)?.platform {
                    Some(p) => match self.want.rank(&p) {
                        Some(rank) => (rank, Some(manifest)),
                        None => {
                            self.passed.push(p.to_string());
                            return Ok(());
                        }
                    },
                    None => (usize::MAX, Some(manifest)),
                }
            }
        };
        self.found.push(Candidate {
            descriptor,
            read,
            rank,
            top,
            check_platform: false,
        });
        Ok(())
    }

    /// Looks for a descriptor with this digest, in nested indexes too.
    fn by_digest(
        &mut self,
        entries: &[Descriptor],
        digest: &Digest,
        depth: usize,
    ) -> Result<Option<Descriptor>> {
        if let Some(d) = entries.iter().find(|d| d.digest == *digest) {
            return Ok(Some(d.clone()));
        }
        for d in entries {
            self.count()?;
            if media::document(&d.media_type).is_ok_and(|k| k == DocumentKind::Index) {
                let Some(index) = self.nested(d, depth)? else {
                    continue;
                };
                if let Some(d) = self.by_digest(&index.manifests, digest, depth + 1)? {
                    return Ok(Some(d));
                }
            }
        }
        Ok(None)
    }
}

fn named(entries: &[Descriptor], want: &str) -> Vec<Descriptor> {
    let exact: Vec<_> = entries
        .iter()
        .filter(|d| d.names().any(|n| n == want))
        .cloned()
        .collect();
    if !exact.is_empty() {
        return exact;
    }
    entries
        .iter()
        .filter(|d| d.names().any(|n| same_name(n, want)))
        .cloned()
        .collect()
}

fn only(entries: &[Descriptor]) -> Result<Vec<Descriptor>> {
    let images: Vec<_> = entries
        .iter()
        .filter(|d| !d.is_attestation())
        .cloned()
        .collect();
    let names: Vec<_> = images.iter().map(|d| d.names().next()).collect();
    let same = images.windows(2).all(|w| w[0].digest == w[1].digest)
        || names.windows(2).all(|w| w[0] == w[1]);
    if same {
        return Ok(images);
    }
    Err(Error::new(
        Kind::BadInput,
        format!("more than one image: {}", all_names(&images)),
    )
    .with_hint("say which one: add :NAME or @DIGEST to the source"))
}

fn not_there(entries: &[Descriptor], pick: &Pick) -> Error {
    let what = match pick {
        Pick::Only => "no image".to_owned(),
        Pick::Name(n) => format!("no image `{}`", show(n)),
        Pick::Digest(d) => format!("no image {d}"),
    };
    Error::new(
        Kind::BadInput,
        format!("{what} in it: {}", all_names(entries)),
    )
    .with_hint("say which one: add :NAME or @DIGEST to the source")
}

fn all_names(entries: &[Descriptor]) -> String {
    let name = |d: &Descriptor| match d.names().next() {
        Some(name) => format!("`{}`", show(name)),
        None => d.digest.to_string(),
    };
    list(
        &entries
            .iter()
            .filter(|d| !d.is_attestation())
            .map(name)
            .collect::<Vec<_>>(),
    )
}

/// What there is, for a message.
pub(super) fn list(names: &[String]) -> String {
    const MOST: usize = 10;
    let mut out = format!("there is {}", names[..names.len().min(MOST)].join(", "));
    if names.is_empty() {
        out.push_str("none");
    }
    if names.len() > MOST {
        out.push_str(&format!(" and {} more", names.len() - MOST));
    }
    out
}
