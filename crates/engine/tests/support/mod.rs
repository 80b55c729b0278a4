//! Images built by code, and the command to run on them.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use unlade_unpack::{Algorithm, Digest};

/// The built command; `UNLADE_BIN` names another copy of it.
pub fn unlade() -> Command {
    let built = env!("CARGO_BIN_EXE_unlade");
    Command::new(std::env::var_os("UNLADE_BIN").unwrap_or_else(|| built.into()))
}

pub fn run(args: &[&str]) -> Output {
    unlade().args(args).output().unwrap()
}

pub fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A tar of files; a name that ends in `/` is a directory.
pub fn tar(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, data) in entries {
        let mut h = tar::Header::new_ustar();
        let dir = name.ends_with('/');
        h.set_entry_type(if dir {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        h.set_mode(if dir { 0o755 } else { 0o644 });
        h.set_mtime(1_600_000_000);
        h.set_size(data.len() as u64);
        // Not through `append_data`, which refuses hostile names.
        h.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        h.set_cksum();
        out.append(&h, data.as_bytes()).unwrap();
    }
    out.into_inner().unwrap()
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    gzip_at(6, data)
}

pub fn gzip_at(level: u32, data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    w.write_all(data).unwrap();
    w.finish().unwrap()
}

pub fn sha(data: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, data)
}

/// An OCI layout of gzip layers at `dir`, tagged `latest`.
pub fn layout(dir: &Path, layers: &[Vec<u8>]) {
    layout_at(6, dir, layers);
}

/// As [`layout`], compressed at that level.
pub fn layout_at(level: u32, dir: &Path, layers: &[Vec<u8>]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |data: &[u8], media: &str| {
        let d = sha(data);
        fs::write(blobs.join(d.hex()), data).unwrap();
        serde_json::json!({"mediaType": media, "digest": d.to_string(), "size": data.len()})
    };
    let oci = |what: &str| format!("application/vnd.oci.image.{what}");
    let diff_ids: Vec<String> = layers.iter().map(|t| sha(t).to_string()).collect();
    let descriptors: Vec<_> = layers
        .iter()
        .map(|t| put(&gzip_at(level, t), &oci("layer.v1.tar+gzip")))
        .collect();
    let config = serde_json::json!({
        "os": "linux", "architecture": arch(), "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": oci("manifest.v1+json"),
        "config": put(config.to_string().as_bytes(), &oci("config.v1+json")),
        "layers": descriptors});
    let mut top = put(manifest.to_string().as_bytes(), &oci("manifest.v1+json"));
    top["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "latest"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [top]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// A docker archive in the old style: `manifest.json` and plain layers.
pub fn docker_archive(file: &Path, layers: &[Vec<u8>]) {
    let mut out = tar::Builder::new(fs::File::create(file).unwrap());
    let mut add = |name: &str, data: &[u8]| {
        let mut h = tar::Header::new_ustar();
        h.set_mode(0o644);
        h.set_size(data.len() as u64);
        out.append_data(&mut h, name, data).unwrap();
    };
    let diff_ids: Vec<String> = layers.iter().map(|t| sha(t).to_string()).collect();
    let config = serde_json::json!({"os": "linux", "architecture": arch(),
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string();
    let config_name = format!("{}.json", sha(config.as_bytes()).hex());
    add(&config_name, config.as_bytes());
    let names: Vec<String> = layers
        .iter()
        .map(|t| format!("{}/layer.tar", sha(t).hex()))
        .collect();
    for (name, layer) in names.iter().zip(layers) {
        add(name, layer);
    }
    let manifest = serde_json::json!([
        {"Config": config_name, "RepoTags": ["test:latest"], "Layers": names}]);
    add("manifest.json", manifest.to_string().as_bytes());
    out.finish().unwrap();
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Two layers: the second replaces one file, hides another and empties a directory.
pub fn two_layers() -> Vec<Vec<u8>> {
    vec![
        tar(&[
            ("etc/", ""),
            ("etc/kept", "1"),
            ("etc/gone", "2"),
            ("d/", ""),
            ("d/old", "3"),
        ]),
        tar(&[
            ("etc/.wh.gone", ""),
            ("etc/new", "4"),
            ("d/.wh..wh..opq", ""),
            ("d/n", "5"),
        ]),
    ]
}

pub fn check_two_layers(root: &Path) {
    let read = |p: &str| fs::read_to_string(root.join(p)).unwrap();
    assert_eq!(
        (read("etc/kept"), read("etc/new"), read("d/n")),
        ("1".into(), "4".into(), "5".into())
    );
    assert!(!root.join("etc/gone").exists() && !root.join("d/old").exists());
}

/// Names in a directory.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub fn temp() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    (dir, path)
}
