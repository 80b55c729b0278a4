//! Images as a pull makes them, in a store with the fake driver.

use std::{fs, path::Path};

use unlade_engine::{
    error::Result,
    store::{GcOptions, ImageLayer, Ingest, Lease, NewImage, NewLayer, Store, StoreOptions},
};
use unlade_graph::driver::{Driver, LayerId};
use unlade_unpack::{Algorithm, Cancel, Digest};

use super::driver::FakeDriver;

pub fn sha(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

pub struct Home {
    pub options: StoreOptions,
    pub store: Store,
    pub driver: FakeDriver,
}

/// Opens the store in `root` in that boot, as every command does.
pub fn open_in(root: &Path, boot: &str) -> Result<Home> {
    let mut options = StoreOptions::new(root, "copy");
    options.boot_id = Some(boot.to_owned());
    open(options)
}

pub fn open(options: StoreOptions) -> Result<Home> {
    let store = Store::open(&options)?;
    let driver = FakeDriver::new(&options.root);
    store.recover(&driver, &Cancel::new())?;
    Ok(Home {
        options,
        store,
        driver,
    })
}

/// An image of layers with these contents; a layer's blob is its content.
pub struct Recipe {
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

const OCI: &str = "application/vnd.oci.image";

pub fn recipe(salt: &str, layers: &[&str]) -> Recipe {
    let layers: Vec<Vec<u8>> = layers.iter().map(|l| l.as_bytes().to_vec()).collect();
    let diff_ids: Vec<String> = layers.iter().map(|l| sha(l).to_string()).collect();
    let config = serde_json::json!({"os": "linux", "architecture": "amd64", "author": salt,
        "created": "2024-05-06T07:08:09Z", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string().into_bytes();
    let blobs: Vec<_> = layers
        .iter()
        .map(|l| {
            serde_json::json!({"mediaType": format!("{OCI}.layer.v1.tar"),
            "digest": sha(l).to_string(), "size": l.len()})
        })
        .collect();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": format!("{OCI}.manifest.v1+json"),
        "config": {"mediaType": format!("{OCI}.config.v1+json"), "digest": sha(&config).to_string(),
            "size": config.len()},
        "layers": blobs});
    Recipe {
        layers,
        config,
        manifest: manifest.to_string().into_bytes(),
    }
}

impl Recipe {
    pub fn id(&self) -> Digest {
        sha(&self.config)
    }

    pub fn manifest_digest(&self) -> Digest {
        sha(&self.manifest)
    }

    pub fn image(&self, names: &[&str], repos: &[&str]) -> NewImage {
        let layers = self.layers.iter().map(|l| ImageLayer {
            layer: LayerId::of(&sha(l)).to_string(),
            diff_id: sha(l),
            blob: sha(l),
            blob_size: l.len() as u64,
            media_type: format!("{OCI}.layer.v1.tar"),
        });
        NewImage {
            id: self.id(),
            config_size: self.config.len() as u64,
            manifest: self.manifest_digest(),
            manifest_type: format!("{OCI}.manifest.v1+json"),
            manifest_size: self.manifest.len() as u64,
            platform: Some("linux/amd64".parse().unwrap()),
            created: Some(1_714_979_289),
            size: self.layers.iter().map(|l| l.len() as u64).sum(),
            layers: layers.collect(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            repo_digests: repos
                .iter()
                .map(|r| ((*r).to_owned(), self.manifest_digest()))
                .collect(),
        }
    }
}

impl Home {
    /// Fetches a blob in pieces.
    pub fn fetch(&self, lease: &Lease, bytes: &[u8]) -> Result<bool> {
        let digest = sha(bytes);
        match self
            .store
            .ingest(lease, &digest, bytes.len() as u64, &Cancel::new())?
        {
            Ingest::Present => Ok(false),
            Ingest::Write(mut writer) => {
                let at = usize::try_from(writer.resume_at()).unwrap();
                for piece in bytes[at..].chunks(5) {
                    writer.write(piece)?;
                }
                writer.verify_and_commit(&Cancel::new())?;
                Ok(true)
            }
        }
    }

    pub fn add_layer(&self, lease: &Lease, content: &[u8]) -> Result<()> {
        let id = LayerId::of(&sha(content));
        if self.store.find_layer(lease, &[id.to_string()])?.is_some() {
            return Ok(());
        }
        let _guard = self.store.commit_guard(lease)?;
        self.driver
            .publish(&id, content)
            .map_err(|e| unlade_engine::error::Error::host("publish a layer", e))?;
        let layer = NewLayer {
            id: id.to_string(),
            diff_id: sha(content),
            chain_id: None,
            bytes: content.len() as u64,
            inodes: 3,
            tar_bytes: content.len() as u64,
            blob: Some((sha(content), content.len() as u64)),
        };
        self.store.add_layer(lease, &layer)
    }

    /// What a pull does, one step after the other.
    pub fn pull(&self, recipe: &Recipe, names: &[&str], repos: &[&str]) -> Result<()> {
        let lease = self.store.lease("pull")?;
        self.store
            .put_blob(&lease, &recipe.manifest_digest(), &recipe.manifest)?;
        self.store.put_blob(&lease, &recipe.id(), &recipe.config)?;
        for layer in &recipe.layers {
            self.fetch(&lease, layer)?;
            self.add_layer(&lease, layer)?;
        }
        self.store.add_image(&lease, &recipe.image(names, repos))
    }

    pub fn gc(&self) -> unlade_engine::store::GcReport {
        self.store.gc(&self.driver, &GcOptions::default()).unwrap()
    }

    pub fn check(&self) -> unlade_engine::store::CheckReport {
        self.store.check(&self.driver, &Default::default()).unwrap()
    }

    pub fn assert_clean(&self) {
        let report = self.check();
        assert!(report.is_clean(), "{:#?}", report.findings);
    }

    pub fn names(&self) -> Vec<String> {
        let images = self.store.images().unwrap();
        let mut names: Vec<_> = images.into_iter().flat_map(|i| i.names).collect();
        names.sort();
        names
    }

    pub fn blobs_on_disk(&self) -> usize {
        fs::read_dir(self.store.root().join("blobs/sha256"))
            .unwrap()
            .count()
    }

    pub fn layers_on_disk(&self) -> usize {
        self.driver.list().unwrap().len()
    }

    pub fn partials(&self) -> usize {
        fs::read_dir(self.store.root().join("blobs/ingest"))
            .unwrap()
            .count()
    }
}

/// Records of that many images with layers of their own, and no objects.
pub fn fill(root: &Path, images: usize, layers: usize) {
    let mut db = rusqlite::Connection::open(root.join("unlade.db")).unwrap();
    let tx = db.transaction().unwrap();
    for n in 0..images {
        let (id, manifest) = (
            sha(format!("c{n}").as_bytes()),
            sha(format!("m{n}").as_bytes()),
        );
        let (id, manifest) = (id.to_string(), manifest.to_string());
        let key = i64::try_from(n).unwrap() + 1;
        let run = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
            tx.prepare_cached(sql).unwrap().execute(params).unwrap();
        };
        run(
            "INSERT INTO images VALUES (?1, 'copy', ?2, 10, ?3, 'linux/amd64', ?1, 1000, 0, 0)",
            &[&key, &id, &manifest],
        );
        run(
            "INSERT INTO manifests VALUES (?1, ?2, 'application/vnd.oci.image.manifest.v1+json', 10)",
            &[&key, &manifest],
        );
        for blob in [&id, &manifest] {
            run("INSERT INTO blobs VALUES (?1, 10, NULL, 0)", &[blob]);
        }
        for at in 0..layers {
            let diff = sha(format!("l{n}.{at}").as_bytes());
            let (layer, diff, at) = (
                LayerId::of(&diff).to_string(),
                diff.to_string(),
                i64::try_from(at).unwrap(),
            );
            run(
                "INSERT INTO layers VALUES ('copy', ?1, ?2, NULL, 1000, 10, 1000, ?2, 500, NULL, 0)",
                &[&layer, &diff],
            );
            run(
                "INSERT INTO image_layers VALUES (?1, ?2, ?3, ?4)",
                &[&key, &at, &layer, &diff],
            );
            run(
                "INSERT INTO manifest_layers VALUES (?1, ?2, ?3, ?4, 500, 'application/vnd.oci.image.layer.v1.tar+gzip')",
                &[&key, &manifest, &at, &diff],
            );
            run("INSERT INTO blobs VALUES (?1, 500, NULL, 0)", &[&diff]);
        }
        let repo = format!("registry.example/r{}/image", n % 100);
        run(
            "INSERT INTO names VALUES ('copy', ?1, ?2, ?3, 0)",
            &[&format!("{repo}:v{n}"), &key, &manifest],
        );
        run(
            "INSERT INTO repo_digests VALUES ('copy', ?1, ?2, ?3)",
            &[&repo, &manifest, &key],
        );
    }
    tx.commit().unwrap();
}
