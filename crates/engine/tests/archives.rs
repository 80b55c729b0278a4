//! Archives: what is written reads back, here and by other tools, and what others wrote loads.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::Path,
    process::Command,
};

use common::*;
use serde_json::{Value, json};
use unlade_engine::{
    archive::{
        Format, ImageToSave, LayerToSave, LoadedImage, Loading, Receive, SavedName, import, load,
        load_dir, new_image, write, write_dir,
    },
    error::{Error, Kind, Result},
    image::Platform,
    source::Scratch,
};
use unlade_unpack::{Cancel, Digest, Limits};

/// A store in memory.
#[derive(Default)]
struct Memory {
    blobs: BTreeMap<Digest, Vec<u8>>,
    open: Vec<u8>,
    begun: Vec<Digest>,
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
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(buf.len()).min(self.0.len());
        self.1 = self.1 * 3 + 1;
        buf[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

fn loaded(bytes: &[u8], platform: Option<&Platform>) -> Result<(Vec<LoadedImage>, Memory)> {
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

fn from_dir(dir: &Path) -> Result<(Vec<LoadedImage>, Memory)> {
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

fn name(familiar: &str) -> SavedName {
    SavedName {
        full: format!("docker.io/library/{familiar}"),
        familiar: familiar.to_owned(),
        tag: familiar.rsplit(':').next().unwrap().to_owned(),
    }
}

fn to_save(layers: &[Layer], arch: &str, names: &[&str]) -> ImageToSave {
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

fn three_images() -> Vec<ImageToSave> {
    let two = two_layers();
    let plain = Layer::plain(&[("a", "b")]);
    vec![
        to_save(&two, "amd64", &["one:1", "one:latest", "one:1"]),
        to_save(&[two[0].clone(), plain], "amd64", &["two:x"]),
        to_save(&two[..1], "arm64", &[]),
    ]
}

fn saved(images: &[ImageToSave], format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    write(images, format, &mut out, &Cancel::new()).unwrap();
    out
}

fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
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

fn checks(got: &[LoadedImage], images: &[ImageToSave]) {
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

#[test]
fn round_trip() {
    let images = three_images();
    for format in [Format::Docker, Format::Oci] {
        let archive = saved(&images, format);
        assert!(
            archive == saved(&three_images(), format),
            "not the same bytes"
        );
        let names: Vec<String> = members(&archive).into_iter().map(|(n, _)| n).collect();
        assert!(names.is_sorted());
        // Three manifests, three configs, three different layers.
        assert_eq!(
            names.iter().filter(|n| n.len() > 20).count(),
            9,
            "{names:?}"
        );
        let (got, _) = loaded(&archive, None).unwrap();
        checks(&got, &images);
        assert_eq!(
            got[0].names,
            ["docker.io/library/one:1", "docker.io/library/one:latest"]
        );
        assert_eq!(got[1].names, ["docker.io/library/two:x"]);
        assert!(got[2].names.is_empty());
        for packed in [gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()] {
            checks(&loaded(&packed, None).unwrap().0, &images);
        }
    }
    let dir = temp();
    let at = dir.path().join("layout");
    write_dir(&images, &at, &Cancel::new()).unwrap();
    checks(&from_dir(&at).unwrap().0, &images);
    let e = write_dir(&images, &at, &Cancel::new()).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
}

/// The documents, to the letter.
#[test]
fn documents_as_docker_writes_them() {
    let images = [to_save(&two_layers(), "amd64", &["one:1"])];
    let members: BTreeMap<_, _> = members(&saved(&images, Format::Docker))
        .into_iter()
        .collect();
    let get = |name: &str| -> Value { serde_json::from_slice(&members[name]).unwrap() };
    let (config, manifest) = (hex(&images[0].config), sha256(&images[0].manifest));
    let layers: Vec<String> = images[0]
        .layers
        .iter()
        .map(|l| format!("blobs/sha256/{}", l.digest.hex()))
        .collect();
    let want = json!([{ "Config": format!("blobs/sha256/{config}"), "RepoTags": ["one:1"], "Layers": layers }]);
    assert_eq!(get("manifest.json"), want);
    let top = images[0].layers[1].digest.hex();
    assert_eq!(get("repositories"), json!({ "one": { "1": top } }));
    assert_eq!(get("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }));
    let entry = json!({
        "mediaType": MANIFEST, "digest": manifest, "size": images[0].manifest.len(),
        "platform": { "architecture": "amd64", "os": "linux" },
        "annotations": {
            "io.containerd.image.name": "docker.io/library/one:1", REF_NAME: "1",
        },
    });
    let want = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    assert_eq!(get("index.json"), want);
}

#[test]
fn damage_is_not_saved() {
    let broken = |what: &dyn Fn(&mut ImageToSave)| {
        let mut image = to_save(&two_layers(), "amd64", &["x:1"]);
        what(&mut image);
        write(&[image], Format::Docker, &mut Vec::new(), &Cancel::new()).unwrap_err()
    };
    let gives = |bytes: Vec<u8>| -> Box<dyn Fn() -> Result<Box<dyn Read>>> {
        Box::new(move || Ok(Box::new(io::Cursor::new(bytes.clone()))))
    };
    let whole = two_layers()[1].blob.clone();
    let mut other = whole.clone();
    other[20] ^= 1;
    let e = broken(&|i| i.layers[1].open = gives(other.clone()));
    assert_eq!((e.kind(), e.hint().is_some()), (Kind::Integrity, true));
    for bytes in [whole[1..].to_vec(), [&whole[..], b"x"].concat()] {
        assert_eq!(
            broken(&|i| i.layers[1].open = gives(bytes.clone())).kind(),
            Kind::Integrity
        );
    }
    assert_eq!(broken(&|i| drop(i.layers.pop())).kind(), Kind::Integrity);
    assert_eq!(broken(&|i| i.config.push(b' ')).kind(), Kind::Integrity);
    let e = broken(&|i| i.layers[0].open = Box::new(|| Err(Error::new(Kind::NotFound, "gone"))));
    assert_eq!(e.kind(), Kind::NotFound);
    let cancel = Cancel::new();
    cancel.cancel();
    let e = write(&three_images(), Format::Oci, &mut Vec::new(), &cancel).unwrap_err();
    assert_eq!(e.kind(), Kind::Cancelled);
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(28))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let e = write(&three_images(), Format::Oci, &mut Full, &Cancel::new()).unwrap_err();
    assert_eq!(e.kind(), Kind::Host);
}

type Members = Vec<(String, Member)>;

/// Members of a tar file: content, or the target of a symbolic link.
enum Member {
    Data(Vec<u8>),
    Link(String),
}

fn archive(members: &[(String, Member)]) -> Vec<u8> {
    let mut b = tar::Builder::new(Vec::new());
    for (name, member) in members {
        let mut h = tar::Header::new_gnu();
        h.set_mode(0o644);
        match member {
            Member::Data(bytes) => {
                h.set_size(bytes.len() as u64);
                b.append_data(&mut h, name, &bytes[..]).unwrap();
            }
            Member::Link(target) => {
                h.set_entry_type(tar::EntryType::Symlink);
                h.set_size(0);
                b.append_link(&mut h, name, target).unwrap();
            }
        }
    }
    b.into_inner().unwrap()
}

fn data(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> (String, Member) {
    (name.into(), Member::Data(bytes.into()))
}

fn big_layer() -> Layer {
    let text = "0123456789abcdef".repeat(200_000);
    Layer::plain(&[("big", &text)])
}

/// What `docker save` wrote before version 25: layers are named by what is no digest of theirs.
fn old_docker() -> (Vec<Layer>, Vec<(String, Member)>) {
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

#[test]
fn old_archives_of_docker() {
    let (layers, mut members) = old_docker();
    for reversed in [false, true] {
        if reversed {
            members.reverse();
        }
        let (got, memory) = loaded(&archive(&members), None).unwrap();
        assert_eq!((got.len(), &*got[0].names), (1, &["old:1".to_owned()][..]));
        for (got, layer) in got[0].layers.iter().zip(&layers) {
            assert_eq!(got.diff_id, got.digest);
            assert_eq!(got.media_type, LAYER);
            assert!(memory.blobs[&got.digest] == layer.tar);
        }
        let manifest: Value = serde_json::from_slice(&got[0].manifest).unwrap();
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 3);
        assert_eq!(manifest["config"]["digest"], got[0].id.to_string());
    }
}

#[test]
fn compressed_layers_in_an_archive_of_docker() {
    // As crane and jib write them.
    let layers = two_layers();
    let config = config(&layers, "linux", "amd64").to_string();
    let names = [
        format!("{}.tar.gz", hex(&layers[0].blob)),
        "second".to_owned(),
    ];
    let id = sha256(config.as_bytes());
    let list = json!([{ "Config": id, "RepoTags": null, "Layers": names }]);
    let members = [
        data(&id, config),
        data(&names[0], layers[0].blob.clone()),
        data(&names[1], layers[1].blob.clone()),
        data("manifest.json", list.to_string()),
    ];
    let (got, _) = loaded(&archive(&members), None).unwrap();
    let types: Vec<_> = got[0].layers.iter().map(|l| &*l.media_type).collect();
    assert_eq!(types, [format!("{LAYER}+gzip"), format!("{LAYER}+zstd")]);
    assert!(got[0].names.is_empty());
}

#[test]
fn docker_25_lists_layers_in_one_place_only() {
    let layers = two_layers();
    let config = config(&layers, "linux", "amd64").to_string();
    let empty = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": { "mediaType": CONFIG, "digest": sha256(config.as_bytes()), "size": config.len() },
    })
    .to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    let entry = json!({
        "mediaType": MANIFEST, "digest": sha256(empty.as_bytes()), "size": empty.len(),
        "annotations": { REF_NAME: "1" },
    });
    let list = json!([{
        "Config": blob(config.as_bytes()), "RepoTags": ["x:1"],
        "Layers": [blob(&layers[0].tar), blob(&layers[1].tar)],
    }]);
    let mut members = vec![
        data(blob(config.as_bytes()), config),
        data(blob(empty.as_bytes()), empty),
        data(blob(&layers[0].tar), layers[0].tar.clone()),
        data(blob(&layers[1].tar), layers[1].tar.clone()),
        data(
            "index.json",
            json!({ "schemaVersion": 2, "manifests": [entry] }).to_string(),
        ),
        data("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        data("manifest.json", list.to_string()),
    ];
    let (got, _) = loaded(&archive(&members), None).unwrap();
    assert_eq!(
        (got.len(), got[0].layers.len(), got[0].is_new),
        (1, 2, true)
    );
    assert_eq!(got[0].names, ["x:1"]);
    members.pop();
    let e = loaded(&archive(&members), None).map(drop).unwrap_err();
    assert_eq!(e.kind(), Kind::Integrity);
}

#[test]
fn an_index_of_platforms() {
    let layout = Layout::new();
    let layers = two_layers();
    let amd = platform(
        layout.image_for(&layers, "linux", "amd64"),
        "linux",
        "amd64",
    );
    let arm = platform(
        layout.image_for(&layers[..1], "linux", "arm64"),
        "linux",
        "arm64",
    );
    let absent = json!({
        "mediaType": MANIFEST, "digest": sha256(b"absent"), "size": 6,
        "platform": { "os": "linux", "architecture": "s390x" },
    });
    let inner = layout.nested(&[amd, arm, absent]);
    layout.index(&[named(layout.nested(&[inner]), "docker.io/library/x:1")]);
    for (platform, count) in [("linux/amd64", 2), ("linux/arm64", 1)] {
        let platform = platform.parse().unwrap();
        let (got, _) = loaded(&layout.archive(), Some(&platform)).unwrap();
        assert_eq!((got.len(), got[0].layers.len()), (1, count));
        assert_eq!(got[0].names, ["docker.io/library/x:1"]);
    }
    for platform in ["linux/s390x", "linux/riscv64"] {
        let platform = platform.parse().unwrap();
        let e = loaded(&layout.archive(), Some(&platform))
            .map(drop)
            .unwrap_err();
        assert_eq!(
            (e.kind(), e.hint().is_some()),
            (Kind::BadInput, true),
            "{e}"
        );
    }
    // From a directory, only what is needed is taken.
    let (got, memory) = from_dir(layout.path()).unwrap();
    assert_eq!(got.len(), 1);
    assert!(!memory.begun.contains(&sha256(b"absent").parse().unwrap()));
}

#[test]
fn hostile_archives() {
    let (_, good) = old_docker();
    let changed = |change: &dyn Fn(&mut Members)| {
        let (_, mut members) = old_docker();
        change(&mut members);
        let e = loaded(&archive(&members), None).map(drop).unwrap_err();
        assert!(e.hint().is_some(), "{e}");
        (e.kind(), e.message().to_owned())
    };
    let first = format!("{:064}/layer.tar", 0);
    let wrong_name = format!("blobs/sha256/{}", hex(b"other"));
    for (change, kind, part) in [
        (
            Box::new(|m: &mut Vec<_>| m.push(data(&first, "x"))) as Box<dyn Fn(&mut Vec<_>)>,
            Kind::BadInput,
            "there twice",
        ),
        (
            Box::new(|m| m.push(data("manifest.json", "[]"))),
            Kind::BadInput,
            "there twice",
        ),
        (
            Box::new(|m| m.push(data("index.json", vec![b' '; 5 << 20]))),
            Kind::Limit,
            "bytes",
        ),
        (
            Box::new(|m| m.push(data("index.json", r#"{"schemaVersion":2,"manifests":[]}"#))),
            Kind::BadInput,
            "`oci-layout` is missing",
        ),
        (
            Box::new(|m| m.push(data(&wrong_name, "x"))),
            Kind::Integrity,
            "has the digest",
        ),
        (
            Box::new(|m| m.retain(|(n, _)| !n.starts_with(&first[..64]))),
            Kind::BadInput,
            "is not in the archive",
        ),
        (
            Box::new(|m| m.retain(|(n, _)| n != "manifest.json")),
            Kind::BadInput,
            "neither",
        ),
        (
            Box::new(|m| {
                m.retain(|(n, _)| *n != first);
                m.push((first.clone(), Member::Link("../../etc/passwd".into())));
            }),
            Kind::BadInput,
            "out of the archive",
        ),
        (
            Box::new(|m| {
                m.retain(|(n, _)| *n != first);
                m.push((first.clone(), Member::Link("layer.tar".into())));
            }),
            Kind::BadInput,
            "too many links",
        ),
    ] {
        let (is, message) = changed(&*change);
        assert_eq!(is, kind, "{message}");
        assert!(message.contains(part), "{message}");
    }
    let whole = archive(&good);
    for cut in [10, 600, whole.len() / 2] {
        assert!(loaded(&whole[..cut], None).is_err(), "{cut}");
    }
    let packed = gzip(&whole);
    assert!(loaded(&packed[..packed.len() - 9], None).is_err());
    for nothing in [&b""[..], b"no archive", &gzip(b"")] {
        assert!(loaded(nothing, None).is_err());
    }
    // Many layers, and a bomb.
    let layer = Layer::plain(&[]);
    let many = to_save(&vec![layer; 101], "amd64", &["x:1"]);
    let e = loaded(&saved(&[many], Format::Docker), None)
        .map(drop)
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Limit);
    let zeroes = vec![0; 16 << 20];
    let mut bomb = zstd::Encoder::new(Vec::new(), 3).unwrap();
    for _ in 0..8 {
        bomb.write_all(&zeroes).unwrap();
    }
    let e = loaded(&bomb.finish().unwrap(), None).map(drop).unwrap_err();
    assert_eq!(e.kind(), Kind::Limit);
}

#[test]
fn a_plain_tar_becomes_an_image() {
    let layer = Layer::gzip(&[("etc/", ""), ("etc/x", "y")]);
    let (limits, scratch, cancel) = (Limits::default(), Scratch::system(), Cancel::new());
    let take = |bytes: &[u8]| import(Dribble(bytes, 1), &scratch, &limits, &cancel);
    for (bytes, suffix) in [(&layer.blob, "+gzip"), (&layer.tar, "")] {
        let mut got = take(bytes).unwrap();
        let mut back = Vec::new();
        got.file.read_to_end(&mut back).unwrap();
        assert!(back == **bytes);
        assert_eq!(got.layer.digest.to_string(), sha256(bytes));
        assert_eq!(got.layer.diff_id.to_string(), sha256(&layer.tar));
        assert_eq!(got.layer.media_type, format!("{LAYER}{suffix}"));
        let changes = ["CMD [\"/bin/sh\"]".to_owned(), "ENV A=1".to_owned()];
        let platform: Platform = "linux/arm64".parse().unwrap();
        let now = "2024-01-02T03:04:05Z".parse().unwrap();
        let image = new_image(&got.layer, &changes, Some("note"), &platform, now).unwrap();
        let config: Value = serde_json::from_slice(&image.config).unwrap();
        let want = json!({
            "created": "2024-01-02T03:04:05Z", "architecture": "arm64", "variant": "v8", "os": "linux",
            "comment": "note", "config": { "Env": ["A=1"], "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": [sha256(&layer.tar)] },
            "history": [{ "created": "2024-01-02T03:04:05Z", "comment": "note" }],
        });
        assert_eq!(config, want);
        assert_eq!(sha256(&image.config), image.id.to_string());
        let layer = LayerToSave {
            digest: got.layer.digest,
            size: got.layer.size,
            open: Box::new(move || Ok(Box::new(io::Cursor::new(back.clone())))),
        };
        let image = ImageToSave {
            names: vec![],
            media_type: image.media_type,
            manifest: image.manifest,
            config: image.config,
            layers: vec![layer],
        };
        checks(
            &loaded(&saved(&[image], Format::Docker), None).unwrap().0[..0],
            &[],
        );
    }
    for bad in [
        &b""[..],
        b"not a tar",
        &layer.blob[..layer.blob.len() - 4],
        &layer.tar[..700],
    ] {
        assert!(take(bad).is_err());
    }
    let e = new_image(
        &take(&layer.tar).unwrap().layer,
        &["RUN x".to_owned()],
        None,
        &Platform::host(),
        jiff::Timestamp::UNIX_EPOCH,
    );
    assert_eq!(e.unwrap_err().kind(), Kind::BadInput);
}

/// A command's output; `None`, with the reason printed, if the tool is not there.
fn peer(test: &str, tool: &str, args: &[&str]) -> Option<String> {
    if Command::new(tool).arg("--version").output().is_err() {
        eprintln!("skipped {test}: {tool} is not installed");
        return None;
    }
    let out = Command::new(tool).args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{tool} {args:?}: {}",
        text(&out.stderr)
    );
    Some(text(&out.stdout))
}

#[test]
fn peer_skopeo_reads_and_writes() {
    let test = "peer_skopeo_reads_and_writes";
    let dir = temp();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let images = three_images();
    fs::write(at("d.tar"), saved(&images, Format::Docker)).unwrap();
    fs::write(at("o.tar"), saved(&images[..1], Format::Oci)).unwrap();
    let copy = |from: String, to: String, more: &[&str]| {
        let args = [
            &["copy", "-q", "--insecure-policy"][..],
            more,
            &[&from, &to],
        ]
        .concat();
        peer(test, "skopeo", &args)
    };
    // The archive for Docker, by each of its names.
    for (name, image) in [("one:latest", &images[0]), ("two:x", &images[1])] {
        let from = format!("docker-archive:{}:{name}", at("d.tar"));
        let Some(raw) = peer(test, "skopeo", &["inspect", "--config", "--raw", &from]) else {
            return;
        };
        assert_eq!(raw.as_bytes(), image.config);
    }
    // The layout keeps every byte.
    copy(
        format!("oci-archive:{}:latest", at("o.tar")),
        format!("dir:{}", at("dir")),
        &[],
    );
    assert!(fs::read(at("dir/manifest.json")).unwrap() == images[0].manifest);
    // What skopeo writes; it cannot write zstd into an archive for Docker.
    fs::write(at("g.tar"), saved(&images[1..2], Format::Oci)).unwrap();
    copy(
        format!("oci-archive:{}:x", at("g.tar")),
        format!("docker-archive:{}:some/name:3", at("w.tar")),
        &[],
    );
    let (got, _) = loaded(&fs::read(at("w.tar")).unwrap(), None).unwrap();
    assert!(
        got[0].names[0].ends_with("some/name:3"),
        "{:?}",
        got[0].names
    );
    let ids: Vec<String> = got[0]
        .layers
        .iter()
        .map(|l| l.diff_id.to_string())
        .collect();
    let tars = [two_layers()[0].tar.clone(), Layer::plain(&[("a", "b")]).tar];
    assert_eq!(ids, tars.map(|tar| sha256(&tar)));
    let from = format!("oci-archive:{}:1", at("o.tar"));
    copy(from.clone(), format!("oci-archive:{}:n", at("v.tar")), &[]);
    let (got, _) = loaded(&fs::read(at("v.tar")).unwrap(), None).unwrap();
    assert_eq!(
        (&*got[0].manifest, &*got[0].names),
        (&*images[0].manifest, &["n".to_owned()][..])
    );
    copy(from, format!("oci:{}:n", at("layout")), &[]);
    assert!(from_dir(Path::new(&at("layout"))).unwrap().0[0].manifest == images[0].manifest);
}

#[test]
fn peer_podman_loads_and_saves() {
    let test = "peer_podman_loads_and_saves";
    if !skip_unless_root(test) {
        let dir = temp();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (root, run, tmp) = (at("root"), at("run"), at("tmp"));
        let podman = |more: &[&str]| {
            let store = ["--root", &root, "--runroot", &run, "--tmpdir", &tmp];
            let args = [&store[..], &["--storage-driver", "vfs"], more].concat();
            peer(test, "podman", &args)
        };
        fs::write(at("d.tar"), saved(&three_images()[..2], Format::Docker)).unwrap();
        let Some(said) = podman(&["load", "-q", "-i", &at("d.tar")]) else {
            return;
        };
        assert!(
            said.contains("one:latest") && said.contains("two:x"),
            "{said}"
        );
        let ids = podman(&["images", "--no-trunc", "-q"]).unwrap();
        for image in &three_images()[..2] {
            assert!(ids.contains(&sha256(&image.config)), "{ids}");
        }
        for (format, archive) in [("docker-archive", "p.tar"), ("oci-archive", "q.tar")] {
            podman(&[
                "save",
                "-q",
                "--format",
                format,
                "-o",
                &at(archive),
                "one:1",
            ]);
            let (got, _) = loaded(&fs::read(at(archive)).unwrap(), None).unwrap();
            assert_eq!(got.len(), 1);
            let ids: Vec<String> = got[0]
                .layers
                .iter()
                .map(|l| l.diff_id.to_string())
                .collect();
            let want: Vec<String> = two_layers().iter().map(|l| sha256(&l.tar)).collect();
            assert_eq!(ids, want, "{format}");
            assert!(
                got[0].names.iter().any(|n| n.contains("one:1")),
                "{:?}",
                got[0].names
            );
        }
        podman(&["save", "-q", "-m", "-o", &at("m.tar"), "one:1", "two:x"]);
        let (got, _) = loaded(&fs::read(at("m.tar")).unwrap(), None).unwrap();
        assert_eq!(got.len(), 2);
    }
}
