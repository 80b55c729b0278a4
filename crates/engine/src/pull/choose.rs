//! From what a registry gives for a name to the one manifest that is pulled.

use crate::{
    error::{Error, Kind, Result},
    image::{
        Descriptor, Document, Manifest, Platform,
        manifest::{MAX_INDEX_DEPTH, MAX_INDEX_ENTRIES, too_many_entries},
        media::{self, DocumentKind},
        name::Reference,
    },
    registry::{Client, Fetched},
};

/// A manifest with what led to it.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The manifest.
    pub(crate) manifest: Manifest,
    /// Its bytes, digest and media type.
    pub(crate) fetched: Fetched,
    /// The index that the name stands for, if it is not the manifest itself.
    pub(crate) index: Option<Fetched>,
}

/// Follows indexes from `top` to the manifest that fits `want` best.
pub(super) async fn choose(
    client: &Client,
    reference: &Reference,
    top: Fetched,
    want: &Platform,
) -> Result<Chosen> {
    let mut search = Search {
        client,
        reference,
        want,
        entries: 0,
        best: None,
        passed: Vec::new(),
    };
    let index = match parse(&top)? {
        Document::Manifest(manifest) => {
            return Ok(Chosen {
                manifest,
                fetched: top,
                index: None,
            });
        }
        Document::Index(index) => index,
    };
    search.visit(&index.manifests, 0).await?;
    let Some((_, descriptor)) = search.best else {
        search.passed.sort();
        search.passed.dedup();
        let there = if search.passed.is_empty() {
            "nothing that runs anywhere".to_owned()
        } else {
            search.passed.join(", ")
        };
        let m = format!(
            "`{}` has no image for {want}: there is {there}",
            reference.familiar()
        );
        return Err(
            Error::new(Kind::NotFound, m).with_hint("choose one that is there with --platform")
        );
    };
    let fetched = client.manifest(reference, &descriptor.digest).await?;
    match parse(&fetched)? {
        Document::Manifest(manifest) => Ok(Chosen {
            manifest,
            fetched,
            index: Some(top),
        }),
        Document::Index(_) => Err(Error::new(
            Kind::BadInput,
            format!(
                "{} is an index where a manifest was listed",
                descriptor.digest
            ),
        )
        .with_hint("the image is damaged: build or push it again")),
    }
}

fn parse(fetched: &Fetched) -> Result<Document> {
    let document = Document::parse(&fetched.media_type, &fetched.bytes);
    document.map_err(|e| Error::from(e).context(format!("manifest {}", fetched.digest)))
}

struct Search<'a> {
    client: &'a Client,
    reference: &'a Reference,
    want: &'a Platform,
    entries: usize,
    best: Option<(usize, Descriptor)>,
    passed: Vec<String>,
}

impl Search<'_> {
    /// Looks at the entries of an index and of those in it. Of equals the first counts.
    async fn visit(&mut self, entries: &[Descriptor], depth: usize) -> Result<()> {
        for entry in entries {
            self.entries += 1;
            if self.entries > MAX_INDEX_ENTRIES {
                return Err(too_many_entries().into());
            }
            if entry.is_attestation() {
                continue;
            }
            let rank = match &entry.platform {
                Some(platform) => match self.want.rank(platform) {
                    Some(rank) => rank,
                    None => {
                        self.passed.push(platform.to_string());
                        continue;
                    }
                },
                // Without a platform it comes after all that have one.
                None => usize::MAX,
            };
            match media::document(&entry.media_type) {
                Ok(DocumentKind::Manifest) => {
                    if self.best.as_ref().is_none_or(|(best, _)| rank < *best) {
                        self.best = Some((rank, entry.clone()));
                    }
                }
                Ok(DocumentKind::Index) if depth < MAX_INDEX_DEPTH => {
                    let fetched = self.client.manifest(self.reference, &entry.digest).await?;
                    if let Document::Index(index) = parse(&fetched)? {
                        Box::pin(self.visit(&index.manifests, depth + 1)).await?;
                    }
                }
                Ok(DocumentKind::Index) => {
                    let m = format!("indexes are nested more than {MAX_INDEX_DEPTH} deep");
                    return Err(Error::new(Kind::Limit, m)
                        .with_hint("pull the manifest itself by its digest"));
                }
                // Other kinds of artifacts beside the images.
                Err(_) => {}
            }
        }
        Ok(())
    }
}
