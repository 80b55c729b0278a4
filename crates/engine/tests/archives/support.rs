//! Images to save, archives by hand, and a store in memory that they are loaded into.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::Path,
};

use serde_json::{Value, json};
use unlade_engine::{
    archive::{
        Format, ImageToSave, LayerToSave, LoadedImage, Loading, Receive, SavedName, load, load_dir,
        write,
    },
    error::Result,
    image::Platform,
    source::Scratch,
};
use unlade_unpack::{Cancel, Digest, Limits};

use crate::common::*;

/// A store in memory.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    open: Vec<u8>,
    pub(crate) begun: Vec<Digest>,
}

impl Receive for Memory {
    fn begin(&mut self, digest: &Digest, _: u64) -> Result<bool> {
        self.open.clear();
        self.begun.push(*digest);
        Ok(!self.blobs.contains_key(digest))
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.open.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self, digest: &Digest) -> Result<()> {
        self.blobs.insert(*digest, std::mem::take(&mut self.open));
        Ok(())
    }

    fn read(&mut self, digest: &Digest, most: u64) -> Result<Option<Vec<u8>>> {
        let blob = self.blobs.get(digest);
        assert!(blob.is_none_or(|b| b.len() as u64 <= most));
        Ok(blob.cloned())
    }

    fn size(&mut self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.blobs.get(digest).map(|b| b.len() as u64))
    }
}

/// Gives a byte, then a few, then many: as pipes do.
pub(crate) struct Dribble<'a>(pub(crate) &'a [u8], pub(crate) usize);

impl Read for Dribble<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(buf.len()).min(self.0.len());
        self.1 = self.1 * 3 + 1;
        buf[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

pub(crate) fn loaded(
    bytes: &[u8],
    platform: Option<&Platform>,
) -> Result<(Vec<LoadedImage>, Memory)> {
    let mut memory = Memory::default();
    let (limits, scratch, cancel) = (Limits::default(), Scratch::system(), Cancel::new());
    let loading = Loading {
        platform,
        limits: &limits,
        max_layers: 100,
        scratch: &scratch,
        cancel: &cancel,
    };
    let images = load(Dribble(bytes, 1), &mut memory, &loading)?;
    for image in &images {
        for layer in &image.layers {
            let blob = &memory.blobs[&layer.digest];
            assert_eq!(blob.len() as u64, layer.size);
            assert_eq!(layer.digest, Digest::of(layer.digest.algorithm(), blob));
        }
        assert_eq!(image.is_new, !memory.blobs.contains_key(&image.digest));
    }
    Ok((images, memory))
}

pub(crate) fn from_dir(dir: &Path) -> Result<(Vec<LoadedImage>, Memory)> {
    let mut memory = Memory::default();
    let (limits, scratch, cancel) = (Limits::default(), Scratch::system(), Cancel::new());
    let loading = Loading {
        platform: None,
        limits: &limits,
        max_layers: 100,
        scratch: &scratch,
        cancel: &cancel,
    };
    Ok((load_dir(dir, &mut memory, &loading)?, memory))
}

pub(crate) fn name(familiar: &str) -> SavedName {
    SavedName {
        full: format!("docker.io/library/{familiar}"),
        familiar: familiar.to_owned(),
        tag: familiar.rsplit(':').next().unwrap().to_owned(),
    }
}

pub(crate) fn to_save(layers: &[Layer], arch: &str, names: &[&str]) -> ImageToSave {
    let config = config(layers, "linux", arch).to_string().into_bytes();
    let descriptor = |bytes: &[u8], media_type: &str| json!({ "mediaType": media_type, "digest": sha256(bytes), "size": bytes.len() });
    let list: Vec<Value> = layers
        .iter()
        .map(|l| descriptor(&l.blob, &l.media_type))
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(&config, CONFIG), "layers": list,
    });
    let layer = |l: &Layer| {
        let blob = l.blob.clone();
        LayerToSave {
            digest: sha256(&blob).parse().unwrap(),
            size: blob.len() as u64,
            open: Box::new(move || Ok(Box::new(io::Cursor::new(blob.clone())) as Box<dyn Read>)),
        }
    };
    ImageToSave {
        names: names.iter().map(|n| name(n)).collect(),
        media_type: MANIFEST.to_owned(),
        manifest: manifest.to_string().into_bytes(),
        config,
        layers: layers.iter().map(layer).collect(),
    }
}

pub(crate) fn three_images() -> Vec<ImageToSave> {
    let two = two_layers();
    let plain = Layer::plain(&[("a", "b")]);
    vec![
        to_save(&two, "amd64", &["one:1", "one:latest", "one:1"]),
        to_save(&[two[0].clone(), plain], "amd64", &["two:x"]),
        to_save(&two[..1], "arm64", &[]),
    ]
}

pub(crate) fn saved(images: &[ImageToSave], format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    write(images, format, &mut out, &Cancel::new()).unwrap();
    out
}

pub(crate) fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap();
    entries
        .map(|e| {
            let mut e = e.unwrap();
            assert_eq!(e.header().mtime().unwrap(), 0);
            let mut bytes = Vec::new();
            e.read_to_end(&mut bytes).unwrap();
            (e.path().unwrap().display().to_string(), bytes)
        })
        .collect()
}

pub(crate) fn checks(got: &[LoadedImage], images: &[ImageToSave]) {
    assert_eq!(got.len(), images.len());
    for (got, image) in got.iter().zip(images) {
        assert_eq!(got.manifest, image.manifest);
        assert_eq!(got.config.raw, image.config);
        let layers: Vec<_> = got.layers.iter().map(|l| l.digest).collect();
        assert_eq!(
            layers,
            image.layers.iter().map(|l| l.digest).collect::<Vec<_>>()
        );
    }
}

pub(crate) type Members = Vec<(String, Member)>;

pub(crate) fn big_layer() -> Layer {
    let text = "0123456789abcdef".repeat(200_000);
    Layer::plain(&[("big", &text)])
}

/// What `docker save` wrote before version 25: layers are named by what is no digest of theirs.
pub(crate) fn old_docker() -> (Vec<Layer>, Vec<(String, Member)>) {
    let layers = vec![
        two_layers()[0].clone(),
        big_layer(),
        two_layers()[1].clone(),
    ];
    let config = config(&layers, "linux", "amd64").to_string();
    let config_name = format!("{}.json", hex(config.as_bytes()));
    let (mut members, mut names) = (vec![data(&config_name, config)], Vec::new());
    for (n, layer) in layers.iter().enumerate() {
        let id = format!("{n:064}");
        members.push(data(format!("{id}/VERSION"), "1.0"));
        members.push(data(format!("{id}/json"), "not even JSON"));
        members.push(data(format!("{id}-stored/layer.tar"), layer.tar.clone()));
        members.push((
            format!("{id}/layer.tar"),
            Member::Link(format!("../{id}-stored/layer.tar")),
        ));
        names.push(format!("{id}/layer.tar"));
    }
    let list = json!([{ "Config": config_name, "RepoTags": ["old:1"], "Layers": names }]);
    members.push(data("manifest.json", list.to_string()));
    members.push(data("repositories", "{}"));
    (layers, members)
}
