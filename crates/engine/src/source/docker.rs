//! Docker archives: `manifest.json`, a config, and layers that the config's diffIDs verify.
//!
//! Old archives hold `ID/layer.tar` (some of them links to others) and `ID/json`, which is
//! ignored; new ones are an OCI layout as well, with `manifest.json` pointing into its blobs.
//! Nothing in the archive has a digest of its own but the config, whose name is its digest.

use std::collections::HashMap;

use serde::Deserialize;
use unlade_unpack::{Algorithm, Cancel, Digest, Error, Kind, Result};

use super::{
    Image, LayerBlob, Opening, Pick,
    archive::Archive,
    blob::{Opener, verify},
    chain::{check_counts, list},
    patient::check,
    reference::same_name,
};
use crate::image::{
    Config, config,
    json::{self, Object, Rules, show},
    manifest::{MAX_BYTES, MAX_INDEX_ENTRIES, too_many_entries},
};

const RULES: Rules = Rules {
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

/// Opens the image that `pick` names in `archive`.
pub(super) fn open(archive: Archive, pick: &Pick, opening: &Opening<'_>) -> Result<Image> {
    let item = read_items(&archive)
        .and_then(|items| choose(&archive, items, pick, opening.cancel))
        .map_err(|e| e.in_part("manifest.json"))?;
    let (config_digest, config) = read_config(&archive, &item.config)
        .map_err(|e| e.in_part(format!("config `{}`", show(&item.config))))?;
    if let (Some(want), Some(is)) = (opening.platform, &config.platform)
        && want.rank(is).is_none()
    {
        let m = format!("the image is for {is}, not for {want}");
        return Err(Error::new(Kind::BadInput, m)
            .in_part(format!("config `{}`", show(&item.config)))
            .with_hint("leave out --platform to unpack it nevertheless"));
    }
    let names = item.layers.unwrap_or_default();
    check_counts(names.len(), &config, opening.max_layers)
        .map_err(|e| e.in_part("manifest.json"))?;
    let count = names.len();
    let one = |(i, (name, diff_id)): (usize, (&String, &Digest))| {
        layer(&archive, name, *diff_id)
            .map_err(|e| e.in_part(format!("layer {} of {count}", i + 1)))
    };
    let layers: Result<_> = names
        .iter()
        .zip(&config.diff_ids)
        .enumerate()
        .map(one)
        .collect();
    Ok(Image {
        manifest_digest: None,
        config_digest: Some(config_digest),
        platform: config.platform.clone(),
        config: Some(config),
        layers: layers?,
    })
}

fn read_items(archive: &Archive) -> Result<Vec<Item>> {
    let Some(file) = archive.file(b"manifest.json")? else {
        let e = Error::new(Kind::BadInput, "the file is missing from the archive");
        return Err(if archive.file(b"index.json")?.is_some() {
            e.with_hint("this is an OCI layout: use oci-archive:FILE")
        } else if archive.file(b"repositories")?.is_some() {
            e.with_hint("archives from before Docker 1.10 are not supported: load and save it")
        } else {
            e.with_hint("is this what `docker save` wrote? one layer alone is layer:FILE")
        });
    };
    let items: Vec<Object<Item>> = json::parse("manifest list", &file.read(MAX_BYTES)?, &RULES)?;
    if items.len() > MAX_INDEX_ENTRIES {
        return Err(too_many_entries());
    }
    Ok(items.into_iter().map(|Object(item)| item).collect())
}

/// Most bytes of configs that are read in search of one by its digest.
const MAX_SEARCH_BYTES: u64 = 64 << 20;

/// Which config has the digest that was asked for, where their names do not tell.
struct ByDigest<'a> {
    archive: &'a Archive,
    cancel: &'a Cancel,
    /// What is known, by the configs' names.
    known: HashMap<String, bool>,
    bytes: u64,
}

impl ByDigest<'_> {
    fn fits(&mut self, name: &str, want: &Digest) -> Result<bool> {
        check(self.cancel)?;
        if let Some(digest) = named_digest(name) {
            return Ok(digest == *want);
        }
        if let Some(fits) = self.known.get(name) {
            return Ok(*fits);
        }
        let fits = match self.archive.file(&clean(name)?)? {
            Some(part) if part.len <= config::MAX_BYTES => {
                self.bytes += part.len;
                if self.bytes > MAX_SEARCH_BYTES {
                    let m = format!(
                        "more than {} MiB of configs have to be read to find the image",
                        MAX_SEARCH_BYTES >> 20
                    );
                    return Err(Error::new(Kind::Limit, m)
                        .with_hint("choose the image by its name: add :NAME:TAG to the source"));
                }
                let bytes = part.read(config::MAX_BYTES)?;
                Digest::of(want.algorithm(), &bytes) == *want
            }
            _ => false,
        };
        self.known.insert(name.to_owned(), fits);
        Ok(fits)
    }
}

fn choose(archive: &Archive, items: Vec<Item>, pick: &Pick, cancel: &Cancel) -> Result<Item> {
    let mut by_digest = ByDigest {
        archive,
        cancel,
        known: HashMap::new(),
        bytes: 0,
    };
    let names = |i: &Item| i.repo_tags.clone().unwrap_or_default();
    let all: Vec<String> = items
        .iter()
        .flat_map(|i| match names(i) {
            names if names.is_empty() => vec![show(&i.config)],
            names => names.iter().map(|n| format!("`{}`", show(n))).collect(),
        })
        .collect();
    let hint = "say which one: add :NAME:TAG or @CONFIG-DIGEST to the source";
    let mut fit: Vec<Item> = Vec::new();
    for item in items {
        let fits = match pick {
            Pick::Only => true,
            Pick::Name(want) => names(&item).iter().any(|n| same_name(n, want)),
            Pick::Digest(want) => by_digest.fits(&item.config, want)?,
        };
        if fits
            && !fit
                .iter()
                .any(|i| i.config == item.config && i.layers == item.layers)
        {
            fit.push(item);
        }
    }
    let all = list(&all);
    match (fit.pop(), fit.is_empty()) {
        (Some(item), true) => Ok(item),
        (Some(_), false) => {
            let m = format!("more than one image could be meant: {all}");
            Err(Error::new(Kind::BadInput, m).with_hint(hint))
        }
        (None, _) => {
            let m = format!("the image asked for is not in the archive: {all}");
            Err(Error::new(Kind::BadInput, m).with_hint(hint))
        }
    }
}

/// The path of a member as the archive's index has it.
fn clean(name: &str) -> Result<Vec<u8>> {
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
    Ok(parts.join("/").into_bytes())
}

/// The digest that a member's name claims: `HEX.json` or `blobs/sha256/HEX`.
fn named_digest(name: &str) -> Option<Digest> {
    let hex = match name.strip_prefix("blobs/") {
        Some(rest) => return rest.replacen('/', ":", 1).parse().ok(),
        None => name.strip_suffix(".json")?,
    };
    format!("sha256:{hex}").parse().ok()
}

fn missing(name: &str) -> Error {
    Error::new(
        Kind::BadInput,
        format!("`{}` is not in the archive", show(name)),
    )
    .with_hint("the archive is incomplete: save the image again")
}

fn read_config(archive: &Archive, name: &str) -> Result<(Digest, Config)> {
    let part = archive.file(&clean(name)?)?.ok_or_else(|| missing(name))?;
    let bytes = part.read(config::MAX_BYTES)?;
    let digest = match named_digest(name) {
        Some(digest) => {
            verify(&digest, &bytes)?;
            digest
        }
        None => Digest::of(Algorithm::Sha256, &bytes),
    };
    Ok((digest, Config::parse(&bytes)?))
}

fn layer(archive: &Archive, name: &str, diff_id: Digest) -> Result<LayerBlob> {
    let part = archive.file(&clean(name)?)?.ok_or_else(|| missing(name))?;
    Ok(LayerBlob {
        digest: name
            .starts_with("blobs/")
            .then(|| named_digest(name))
            .flatten(),
        size: Some(part.len),
        media_type: None,
        compression: None,
        diff_id: Some(diff_id),
        opener: Opener::Part(part),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_digests() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for name in [format!("{hex}.json"), format!("blobs/sha256/{hex}")] {
            assert_eq!(named_digest(&name).unwrap().hex(), hex);
        }
        for name in [hex, "config.json", "blobs/sha256/xx", "blobs/md5/00"] {
            assert_eq!(named_digest(name), None);
        }
    }

    #[test]
    fn paths_stay_inside() {
        assert_eq!(clean("./a//b").unwrap(), b"a/b");
        assert!(clean("../a").is_err() && clean("a/../../b").is_err());
    }
}
