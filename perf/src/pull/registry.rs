//! A registry on a loopback port: Debian's `docker-registry`, with images put where it keeps them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::oci::hex;
use crate::pull::daemon::Daemon;
use crate::sys;

/// The program.
const PROGRAM: &str = "docker-registry";
/// What is accepted.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, */*";
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running registry; ends when dropped, and its storage goes with it.
#[derive(Debug)]
pub(crate) struct Registry {
    port: u16,
    daemon: Daemon,
    storage: tempfile::TempDir,
}

/// An image in the registry: the digests of its layers, lowest first.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    /// Its reference, `localhost:PORT/NAME:latest`.
    pub(crate) reference: String,
    /// Paths of the blobs on the registry.
    blobs: Vec<String>,
}

impl Registry {
    /// Starts one whose storage lies in `root`, on the file system that the layers are on: blobs
    /// are then hard links, served from the page cache.
    pub(crate) fn start(root: &Path) -> Result<Self> {
        let storage = tempfile::Builder::new()
            .prefix(&format!("registry-{}-", std::process::id()))
            .tempdir_in(root)?;
        // Somebody may take the port meanwhile; then it fails to start, and says so.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let config = storage.path().join("config.yml");
        fs::write(&config, configuration(storage.path(), port))?;
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(&config);
        let stale = std::env::vars().filter(|(name, _)| name.starts_with("REGISTRY_"));
        stale.for_each(|(name, _)| {
            command.env_remove(name);
        });
        let daemon = Daemon::start(PROGRAM, &mut command, &storage.path().join("log"))?;
        let registry = Self {
            port,
            daemon,
            storage,
        };
        let begin = Instant::now();
        let answers = || registry.get(&mut registry.connect()?, "/v2/", &mut [0; 512]);
        while let Err(error) = answers() {
            registry.daemon.ensure_alive()?;
            if begin.elapsed() > PATIENCE {
                return Err(error).context("the registry does not answer");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(registry)
    }

    /// CPU seconds it has used.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        sys::cpu_seconds_of(self.daemon.pid())
    }

    /// Puts the image of a layout under a name.
    pub(crate) fn publish(&self, name: &str, layout: &Path) -> Result<Published> {
        let manifest = first_manifest(layout)?;
        self.put(name, layout, &manifest)
    }

    /// Puts an image of some of a layout's layers under a name.
    pub(crate) fn publish_part(
        &self,
        name: &str,
        layout: &Path,
        layers: std::ops::Range<usize>,
    ) -> Result<Published> {
        let mut manifest: Value = serde_json::from_slice(&first_manifest(layout)?)?;
        let config = fs::read(layout.join(blob_path(&manifest["config"])?))?;
        let mut config: Value = serde_json::from_slice(&config)?;
        let cut = |list: &mut Value| {
            let all = list.as_array().context("a list in an image")?;
            let some = all.get(layers.clone()).context("layers of an image")?;
            *list = Value::Array(some.to_vec());
            anyhow::Ok(())
        };
        cut(&mut manifest["layers"])?;
        cut(&mut config["rootfs"]["diff_ids"])?;
        cut(&mut config["history"])?;
        let config = serde_json::to_vec(&config)?;
        manifest["config"]["digest"] = json!(self.put_blob(&config)?);
        manifest["config"]["size"] = json!(config.len());
        self.put(name, layout, &serde_json::to_vec(&manifest)?)
    }

    fn put(&self, name: &str, layout: &Path, manifest: &[u8]) -> Result<Published> {
        let repository = self.tree().join("repositories").join(name);
        let digest = self.put_blob(manifest)?;
        let document: Value = serde_json::from_slice(manifest)?;
        let layers = document["layers"]
            .as_array()
            .context("manifest has no layers")?;
        for descriptor in layers.iter().chain([&document["config"]]) {
            let digest = descriptor["digest"]
                .as_str()
                .context("descriptor has no digest")?;
            let (from, to) = (layout.join(blob_path(descriptor)?), self.blob(digest)?);
            if !to.exists() && fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
            }
            link(&repository.join("_layers"), digest)?;
        }
        link(&repository.join("_manifests/revisions"), &digest)?;
        let tag = repository.join("_manifests/tags/latest");
        link(&tag.join("index"), &digest)?;
        fs::create_dir_all(tag.join("current"))?;
        fs::write(tag.join("current/link"), &digest)?;
        let blobs = layers
            .iter()
            .filter_map(|layer| Some(format!("/v2/{name}/blobs/{}", layer["digest"].as_str()?)));
        Ok(Published {
            reference: format!("localhost:{}/{name}:latest", self.port),
            blobs: blobs.collect(),
        })
    }

    /// Where distribution's filesystem driver keeps everything.
    fn tree(&self) -> PathBuf {
        self.storage.path().join("docker/registry/v2")
    }

    /// The file of a blob, in a directory that exists.
    fn blob(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").context("digest")?;
        let dir = self.tree().join("blobs/sha256").join(&hex[..2]).join(hex);
        fs::create_dir_all(&dir)?;
        Ok(dir.join("data"))
    }

    fn put_blob(&self, bytes: &[u8]) -> Result<String> {
        let digest = format!("sha256:{}", hex(&Sha256::digest(bytes)));
        fs::write(self.blob(&digest)?, bytes)?;
        Ok(digest)
    }

    /// Receives every layer of an image over one connection, one after the other, and forgets it.
    /// Returns the bytes.
    pub(crate) fn receive(&self, image: &Published, buffer: &mut [u8]) -> Result<u64> {
        let mut stream = self.connect()?;
        let bytes = image
            .blobs
            .iter()
            .map(|path| self.get(&mut stream, path, buffer));
        bytes.sum()
    }

    fn connect(&self) -> Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).context("connect")?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }

    /// One GET; returns the bytes of the body.
    fn get(&self, reader: &mut BufReader<TcpStream>, path: &str, buffer: &mut [u8]) -> Result<u64> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost:{}\r\nAccept: {ACCEPT}\r\n\r\n",
            self.port
        );
        reader.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (String::new(), 0_u64);
        reader.read_line(&mut status)?;
        ensure!(
            status.split(' ').nth(1) == Some("200"),
            "{path}: {}",
            status.trim()
        );
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((key, value)) = line.split_once(':') else {
                break;
            };
            if key.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        let mut left = length;
        while left > 0 {
            let most = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = reader.read(&mut buffer[..most])?;
            ensure!(n > 0, "{path}: {left} bytes of {length} are missing");
            left -= n as u64;
        }
        Ok(length)
    }
}

fn configuration(storage: &Path, port: u16) -> String {
    format!(
        "version: 0.1\n\
         log: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: {}}}\n  cache: {{blobdescriptor: inmemory}}\n\
         http: {{addr: \"127.0.0.1:{port}\"}}\n",
        serde_json::Value::from(storage.display().to_string())
    )
}

fn first_manifest(layout: &Path) -> Result<Vec<u8>> {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let path = layout.join(blob_path(&index["manifests"][0])?);
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}

fn blob_path(descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str();
    let hex = digest.and_then(|digest| digest.strip_prefix("sha256:"));
    Ok(format!("blobs/sha256/{}", hex.context("digest")?))
}

/// A link file as the registry writes it: `DIR/sha256/HEX/link` holds the digest.
fn link(dir: &Path, digest: &str) -> Result<()> {
    let dir = dir.join(digest.replacen(':', "/", 1));
    fs::create_dir_all(&dir)?;
    Ok(fs::write(dir.join("link"), digest)?)
}

/// Why no registry can be started, if none can.
pub(crate) fn obstacle() -> Option<String> {
    let missing = Command::new(PROGRAM).arg("--version").output().is_err();
    missing.then(|| format!("{PROGRAM} is not there (Debian: docker-registry)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workloads::{self, Store};

    #[test]
    fn images_are_served_whole_and_in_part() {
        if let Some(reason) = obstacle() {
            eprintln!("skipped: {reason}");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(Some(temp.path().to_owned())).unwrap();
        workloads::ensure(&store, &["smoke".to_owned()]).unwrap();
        let registry = Registry::start(store.root()).unwrap();
        let layout = store.image("smoke");
        let whole = registry.publish("smoke", &layout).unwrap();
        let below = registry.publish_part("smoke-below", &layout, 0..1).unwrap();
        let mut buffer = vec![0; 4096];
        let sizes: Vec<_> = crate::oci::read_layers(&layout)
            .unwrap()
            .iter()
            .map(|blob| blob.size)
            .collect();
        assert_eq!(
            registry.receive(&whole, &mut buffer).unwrap(),
            sizes[0] + sizes[1]
        );
        assert_eq!(registry.receive(&below, &mut buffer).unwrap(), sizes[0]);
        for name in ["smoke", "smoke-below"] {
            let path = format!("/v2/{name}/manifests/latest");
            let mut connection = registry.connect().unwrap();
            assert!(registry.get(&mut connection, &path, &mut buffer).unwrap() > 0);
        }
        assert!(registry.cpu_seconds().unwrap() > 0.0);
    }
}
