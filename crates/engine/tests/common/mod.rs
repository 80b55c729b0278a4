//! Images made by code, and the command run on them.
#![allow(
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "every test binary uses a part"
)]

pub mod store;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use unlade_unpack::{Algorithm, Digest};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub fn sha256(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha256, bytes).to_string()
}

pub fn hex(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha256, bytes).hex()
}

/// A tar stream of files and, where the name ends with `/`, directories.
pub fn tar(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut b = tar::Builder::new(Vec::new());
    for (name, text) in entries {
        let mut h = tar::Header::new_gnu();
        h.set_mtime(1_600_000_000);
        if name.ends_with('/') {
            h.set_entry_type(tar::EntryType::Directory);
            h.set_mode(0o755);
            h.set_size(0);
        } else {
            h.set_mode(0o644);
            h.set_size(text.len() as u64);
        }
        // As it stands: the crate's own way refuses the names that hostile layers have.
        h.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        h.set_cksum();
        b.append(&h, text.as_bytes()).unwrap();
    }
    b.into_inner().unwrap()
}

/// Members of a tar file: content, or the target of a symbolic link.
pub enum Member {
    Data(Vec<u8>),
    Link(String),
}

/// A tar file of these.
pub fn archive(members: &[(String, Member)]) -> Vec<u8> {
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

/// A member with content.
pub fn data(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> (String, Member) {
    (name.into(), Member::Data(bytes.into()))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(bytes).unwrap();
    e.finish().unwrap()
}

/// A layer: what is in it, its blob and its media type.
#[derive(Clone)]
pub struct Layer {
    pub tar: Vec<u8>,
    pub blob: Vec<u8>,
    pub media_type: String,
}

impl Layer {
    pub fn plain(entries: &[(&str, &str)]) -> Self {
        let tar = tar(entries);
        Self {
            blob: tar.clone(),
            tar,
            media_type: LAYER.into(),
        }
    }

    pub fn gzip(entries: &[(&str, &str)]) -> Self {
        let tar = tar(entries);
        Self {
            blob: gzip(&tar),
            tar,
            media_type: format!("{LAYER}+gzip"),
        }
    }

    pub fn zstd(entries: &[(&str, &str)]) -> Self {
        let tar = tar(entries);
        let blob = zstd::encode_all(&tar[..], 1).unwrap();
        Self {
            blob,
            tar,
            media_type: format!("{LAYER}+zstd"),
        }
    }
}

/// The two layers that most tests use, and the tree that they give.
pub fn two_layers() -> Vec<Layer> {
    vec![
        Layer::gzip(&[
            ("etc/", ""),
            ("etc/hostname", "low"),
            ("gone", "x"),
            ("kept", "y"),
        ]),
        Layer::zstd(&[("etc/hostname", "high"), (".wh.gone", ""), ("new", "z")]),
    ]
}

pub fn two_layers_tree() -> BTreeMap<String, String> {
    [
        ("etc", "/"),
        ("etc/hostname", "high"),
        ("kept", "y"),
        ("new", "z"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

pub fn config(layers: &[Layer], os: &str, arch: &str) -> Value {
    let ids: Vec<String> = layers.iter().map(|l| sha256(&l.tar)).collect();
    json!({
        "os": os, "architecture": arch, "config": { "Labels": { "Os": "free" } },
        "rootfs": { "type": "layers", "diff_ids": ids },
    })
}

/// An OCI layout in a directory.
pub struct Layout {
    pub dir: TempDir,
}

impl Layout {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        open_up(dir.path());
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(
            dir.path().join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
        Self { dir }
    }

    /// A layout with one image, `latest`.
    pub fn with(layers: &[Layer]) -> Self {
        let layout = Self::new();
        let manifest = layout.image(layers);
        layout.index(&[named(manifest, "latest")]);
        layout
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.path().join("blobs").join(digest.replace(':', "/"))
    }

    /// Stores a blob; its descriptor.
    pub fn put(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = sha256(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    pub fn put_json(&self, doc: &Value, media_type: &str) -> Value {
        self.put(doc.to_string().as_bytes(), media_type)
    }

    /// The manifest of an image, not stored yet.
    pub fn manifest(&self, layers: &[Layer], config: &Value) -> Value {
        let config = self.put_json(config, CONFIG);
        let layers: Vec<Value> = layers
            .iter()
            .map(|l| self.put(&l.blob, &l.media_type))
            .collect();
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers })
    }

    /// Stores an image for linux/amd64; its descriptor.
    pub fn image(&self, layers: &[Layer]) -> Value {
        self.image_for(layers, "linux", "amd64")
    }

    pub fn image_for(&self, layers: &[Layer], os: &str, arch: &str) -> Value {
        let manifest = self.manifest(layers, &config(layers, os, arch));
        self.put_json(&manifest, MANIFEST)
    }

    /// Stores a nested index; its descriptor.
    pub fn nested(&self, manifests: &[Value]) -> Value {
        let doc = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.put_json(&doc, INDEX)
    }

    /// Writes `index.json`.
    pub fn index(&self, manifests: &[Value]) {
        let doc = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.path().join("index.json"), doc.to_string()).unwrap();
    }

    pub fn source(&self, name: &str) -> String {
        format!("oci:{}{name}", self.path().display())
    }

    /// The layout as a tar file.
    pub fn archive(&self) -> Vec<u8> {
        let mut b = tar::Builder::new(Vec::new());
        b.append_dir_all(".", self.path()).unwrap();
        b.into_inner().unwrap()
    }
}

pub fn with(mut descriptor: Value, key: &str, value: Value) -> Value {
    descriptor[key] = value;
    descriptor
}

pub fn named(descriptor: Value, name: &str) -> Value {
    with(descriptor, "annotations", json!({ REF_NAME: name }))
}

pub fn platform(descriptor: Value, os: &str, arch: &str) -> Value {
    with(
        descriptor,
        "platform",
        json!({ "os": os, "architecture": arch }),
    )
}

/// Temporary directories that ordinary users may enter too.
pub fn open_up(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub fn temp() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    open_up(dir.path());
    dir
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Prints why a test is skipped.
pub fn skip_unless_root(test: &str) -> bool {
    if !is_root() {
        eprintln!("skipped {test}: needs root");
    }
    !is_root()
}

/// The built command; `UNLADE_BIN` names another copy of it, for users who cannot reach that.
pub fn binary() -> String {
    std::env::var("UNLADE_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_unlade").to_owned())
}

/// The command, with its output captured.
pub fn unlade<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    Command::new(binary()).args(args).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `unpack SOURCE DEST EXTRA…`, which must succeed.
pub fn unpack(source: &str, dest: &Path, extra: &[&str]) -> Output {
    let out = try_unpack(source, dest, extra);
    assert!(out.status.success(), "{source}: {}", text(&out.stderr));
    out
}

pub fn try_unpack(source: &str, dest: &Path, extra: &[&str]) -> Output {
    let dest = dest.to_str().unwrap();
    unlade(&[&["unpack", source, dest], extra].concat())
}

/// Runs an unpack that must fail with exit code 1, a message and a hint, and leave nothing.
pub fn refuse(source: &str, extra: &[&str]) -> String {
    let dir = temp();
    let out = try_unpack(source, &dir.path().join("root"), extra);
    let stderr = text(&out.stderr);
    assert_eq!(
        out.status.code(),
        Some(1),
        "{source}: {stderr}{}",
        text(&out.stdout)
    );
    assert!(out.stdout.is_empty(), "{}", text(&out.stdout));
    assert!(stderr.starts_with("unlade: "), "{stderr}");
    assert!(stderr.lines().any(|l| l.starts_with("hint: ")), "{stderr}");
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    stderr
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Paths and contents below `root`; `/` is the content of a directory.
pub fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let content = if kind.is_dir() {
                open.push(path);
                "/".to_owned()
            } else if kind.is_file() {
                fs::read_to_string(&path).unwrap()
            } else {
                format!("{:o}", kind.mode())
            };
            found.insert(name, content);
        }
    }
    found
}
