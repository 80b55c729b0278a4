//! The catalogue of workloads, and the directory in which they are made once and kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use crate::layers::{LayerRecord, ensure_layers};
use crate::oci::{Compression, Layer, write_layout};
use crate::trees::TREES;

/// Images that are the entries of other layers, split into layers of similar size:
/// name, inputs, layers.
pub(crate) const SPLITS: [(&str, [&str; 2], usize); 5] = [
    ("node-many", ["debian", "node"], 8),
    ("python-many", ["debian", "python"], 8),
    ("node-60", ["debian", "node"], 60),
    ("pyds-60", ["debian", "python"], 60),
    ("smoke-60", ["smoke-a", "smoke-b"], 60),
];

/// Every image, in the order in which they are made.
pub(crate) const IMAGES: [&str; 17] = [
    "tiny",
    "busybox",
    "smoke",
    "smoke-60",
    "smoke-60-busybox",
    "debian",
    "python",
    "node",
    "pyds",
    "nodeapp",
    "three",
    "node-many",
    "python-many",
    "node-60",
    "node-60-busybox",
    "pyds-60",
    "big",
];

/// The directory that holds trees, layers and images.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens `dir`, or `$UNLADE_PERF_DIR`, or the default place, and creates it if need be.
    pub(crate) fn open(dir: Option<PathBuf>) -> Result<Self> {
        let root = dir
            .or_else(|| std::env::var_os("UNLADE_PERF_DIR").map(PathBuf::from))
            .unwrap_or_else(|| "/var/tmp/unlade-perf".into());
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        let root = fs::canonicalize(root)?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where trees lie while layers are made of them.
    pub(crate) fn trees(&self) -> PathBuf {
        self.root.join("trees")
    }

    /// Where layer files lie.
    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// A file of a layer.
    pub(crate) fn layer(&self, name: &str, extension: &str) -> PathBuf {
        self.layers().join(format!("{name}.{extension}"))
    }

    /// An image's layout: `NAME`, `NAME-zstd` or `NAME-tar`.
    pub(crate) fn image(&self, workload: &str) -> PathBuf {
        self.root.join("images").join(workload)
    }
}

/// The layers of an image, lowest first.
fn layers_of(image: &str) -> Result<Vec<String>> {
    if let Some(below) = image.strip_suffix("-busybox") {
        let mut layers = layers_of(below)?;
        layers.push("busybox".to_owned());
        return Ok(layers);
    }
    let names: &[&str] = match image {
        "debian" | "python" | "node" | "big" | "tiny" | "busybox" => {
            return Ok(vec![image.to_owned()]);
        }
        "pyds" => &["debian", "python"],
        "nodeapp" => &["debian", "node"],
        "three" => &["debian", "python", "node"],
        "smoke" => &["smoke-a", "smoke-b"],
        other => {
            let found = SPLITS.iter().find(|(name, ..)| *name == other);
            let (_, _, parts) = found.with_context(|| {
                format!(
                    "no workload called {other:?}; there are: {}",
                    IMAGES.join(" ")
                )
            })?;
            return Ok((0..*parts).map(|part| format!("{image}.{part}")).collect());
        }
    };
    Ok(names.iter().map(|&name| name.to_owned()).collect())
}

/// `nodeapp-zstd` is the image `nodeapp` with zstd layers.
pub(crate) fn parse(workload: &str) -> Result<(&str, Compression)> {
    let kinds = [Compression::Tar, Compression::Zstd];
    let found = kinds
        .into_iter()
        .find_map(|kind| Some((workload.strip_suffix(kind.suffix())?, kind)))
        .unwrap_or((workload, Compression::Gzip));
    layers_of(found.0)?;
    Ok(found)
}

/// Makes what is missing of the workloads named (all if none), in all three compressions.
pub(crate) fn ensure(store: &Store, workloads: &[String]) -> Result<()> {
    let all = workloads.is_empty();
    let mut images: Vec<&str> = if all { IMAGES.to_vec() } else { Vec::new() };
    for workload in workloads {
        images.push(parse(workload)?.0);
    }
    images.sort_unstable();
    images.dedup();
    let present = |image: &&str| {
        Compression::ALL
            .iter()
            .all(|k| store.image(&format!("{image}{}", k.suffix())).exists())
    };
    images.retain(|image| !present(image));
    if images.is_empty() {
        return Ok(());
    }
    let lock = fs::File::open(&store.root)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).context("lock")?;
    let mut names = Vec::new();
    for image in &images {
        names.extend(layers_of(image)?);
    }
    names.sort();
    names.dedup();
    fs::create_dir_all(store.trees())?;
    fs::create_dir_all(store.root.join("images"))?;
    let records = ensure_layers(store, &names)?;
    for image in images {
        let wanted = layers_of(image)?;
        let layers: Vec<_> = wanted
            .iter()
            .filter_map(|name| records.iter().find(|record| record.name == *name))
            .collect();
        for kind in Compression::ALL {
            let dir = store.image(&format!("{image}{}", kind.suffix()));
            write_layout(&dir, &oci_layers(store, &layers, kind)?)?;
        }
    }
    if TREES
        .iter()
        .chain(&["big"])
        .all(|name| store.layer(name, "json").exists())
    {
        fs::remove_dir_all(store.trees())?;
    }
    summarise(store)
}

fn oci_layers(store: &Store, records: &[&LayerRecord], kind: Compression) -> Result<Vec<Layer>> {
    records
        .iter()
        .map(|record| {
            let blob = record
                .files
                .get(kind.extension())
                .context("layer file on record")?;
            let tar = record.files.get("tar").context("tar on record")?;
            Ok(Layer {
                file: store.layer(&record.name, kind.extension()),
                compression: kind,
                digest: blob.sha256.clone(),
                size: blob.size,
                diff_id: tar.sha256.clone(),
            })
        })
        .collect()
}

/// Figures of an image as a whole, from the records of its layers.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Summary {
    /// Name without compression suffix.
    pub(crate) image: String,
    /// Layers.
    pub(crate) layers: usize,
    /// Tar entries, all layers.
    pub(crate) entries: u64,
    /// Bytes by file extension, all layers.
    pub(crate) bytes: std::collections::BTreeMap<String, u64>,
}

/// Sums up an image that has been made.
pub(crate) fn summary(store: &Store, image: &str) -> Result<Summary> {
    let names = layers_of(image)?;
    let layers = names.len();
    let mut sum = Summary {
        image: image.to_owned(),
        layers,
        entries: 0,
        bytes: Default::default(),
    };
    for record in ensure_layers(store, &names)? {
        sum.entries += record.entries;
        for (extension, file) in record.files {
            *sum.bytes.entry(extension).or_default() += file.size;
        }
    }
    Ok(sum)
}

fn summarise(store: &Store) -> Result<()> {
    let mut images = Vec::new();
    for image in IMAGES.iter().filter(|image| store.image(image).exists()) {
        images.push(summary(store, image)?);
    }
    let mut packages = serde_json::Map::new();
    for tree in TREES {
        if let Ok(bytes) = fs::read(store.layer(tree, "packages.json")) {
            packages.insert(tree.to_owned(), serde_json::from_slice(&bytes)?);
        }
    }
    let json = json!({ "images": images, "packages": packages });
    let path = store.root.join("workloads.json");
    fs::write(&path, serde_json::to_vec_pretty(&json)?)
        .with_context(|| format!("write {}", path.display()))
}

/// Prints the images made so far as a table.
pub(crate) fn print(store: &Store) -> Result<()> {
    println!(
        "{:<14}{:>7}{:>9}{:>10}{:>10}{:>10}",
        "image", "layers", "entries", "tar MB", "gzip MB", "zstd MB"
    );
    for image in IMAGES.iter().filter(|image| store.image(image).exists()) {
        let sum = summary(store, image)?;
        let mb = |kind: Compression| sum.bytes.get(kind.extension()).map_or(0, |b| b / 1_000_000);
        let [tar, gzip, zstd] = Compression::ALL.map(mb);
        println!(
            "{image:<14}{:>7}{:>9}{tar:>10}{gzip:>10}{zstd:>10}",
            sum.layers, sum.entries
        );
    }
    println!("in {}", store.root.join("images").display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workload_names_parse() {
        assert_eq!(parse("node").unwrap(), ("node", Compression::Gzip));
        assert_eq!(
            parse("node-many-zstd").unwrap(),
            ("node-many", Compression::Zstd)
        );
        assert_eq!(parse("big-tar").unwrap(), ("big", Compression::Tar));
        assert!(parse("nothing").is_err());
    }

    #[test]
    fn every_image_has_layers() {
        for image in IMAGES {
            assert!(!layers_of(image).unwrap().is_empty(), "{image}");
        }
        for (image, _, parts) in SPLITS {
            assert_eq!(layers_of(image).unwrap().len(), parts);
        }
    }

    #[test]
    fn an_image_of_sixty_layers_is_made() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(Some(temp.path().to_owned())).unwrap();
        ensure(&store, &["smoke-60".to_owned()]).unwrap();
        let blobs = crate::oci::read_layers(&store.image("smoke-60")).unwrap();
        assert_eq!(blobs.len(), 60);
        // A layer begins with the directories above its first entry, so entries grow.
        let [split, whole] = ["smoke-60", "smoke"].map(|name| {
            if name == "smoke" {
                ensure(&store, &[name.to_owned()]).unwrap();
            }
            summary(&store, name).unwrap().entries
        });
        assert!(split > whole && split < whole + 180, "{split} and {whole}");
    }

    #[test]
    fn generated_images_are_made_and_kept() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(Some(temp.path().to_owned())).unwrap();
        ensure(&store, &["tiny".to_owned()]).unwrap();
        let blobs = crate::oci::read_layers(&store.image("tiny-zstd")).unwrap();
        assert_eq!(blobs.len(), 1);
        assert_eq!(blobs[0].compression, Compression::Zstd);
        let sum = summary(&store, "tiny").unwrap();
        assert_eq!(sum.entries, 4);
    }
}
