//! The floor: bundles prepared by hand, and a network description for netavark.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::oci::{Blob, Compression};

/// Where the bundles of an image lie.
#[derive(Debug, Clone)]
pub(crate) struct Bundles {
    root: PathBuf,
    /// `true` without a network.
    pub(crate) none: PathBuf,
    /// `true` in perf's network namespace.
    pub(crate) host: PathBuf,
    /// Goes on, without a network.
    pub(crate) sleep: PathBuf,
    /// A network for netavark.
    pub(crate) netavark: PathBuf,
    /// The network namespace it is set up in.
    pub(crate) netns: String,
}

impl Bundles {
    /// Names the places.
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            none: root.join("none"),
            host: root.join("host"),
            sleep: root.join("sleep"),
            netavark: root.join("netavark.json"),
            netns: "/run/netns/perf".to_owned(),
        }
    }

    /// Makes all bundles of an image on one root directory.
    pub(crate) fn make(&self, blobs: &[Blob]) -> Result<()> {
        let rootfs = self.root.join("rootfs");
        fs::create_dir_all(&rootfs)?;
        for blob in blobs {
            unpack(blob, &rootfs)?;
        }
        let plain = self.runtime_spec()?;
        let bundles = [
            (&self.none, json!(["true"]), false),
            (&self.host, json!(["true"]), true),
            (&self.sleep, json!(["sleep", "100000"]), false),
        ];
        for (dir, args, host) in bundles {
            fs::create_dir(dir)?;
            let spec = adapt(plain.clone(), &rootfs, args, host)?;
            fs::write(dir.join("config.json"), serde_json::to_vec(&spec)?)?;
        }
        Ok(())
    }

    /// What the runtime itself proposes.
    fn runtime_spec(&self) -> Result<Value> {
        let propose = |runtime: &str| {
            Command::new(runtime)
                .arg("spec")
                .current_dir(&self.root)
                .output()
        };
        let output = propose("runc")
            .or_else(|_| propose("crun"))
            .context("start runc or crun")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "spec: {}", said.trim());
        Ok(serde_json::from_slice(&fs::read(
            self.root.join("config.json"),
        )?)?)
    }

    /// Makes netavark's network namespace and its file.
    pub(crate) fn make_network(&self) -> Result<()> {
        fs::create_dir_all(&self.root)?;
        fs::write(&self.netavark, serde_json::to_vec(&network())?)?;
        if !Path::new(&self.netns).exists() {
            let status = Command::new("ip").args(["netns", "add", "perf"]).status()?;
            ensure!(status.success(), "ip netns add: {status}");
        }
        Ok(())
    }
}

/// The proposed configuration with what is to run, where, and on which network.
fn adapt(mut spec: Value, rootfs: &Path, args: Value, host: bool) -> Result<Value> {
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = args;
    spec["root"] = json!({ "path": rootfs, "readonly": false });
    let namespaces = spec["linux"]["namespaces"].as_array_mut();
    let namespaces = namespaces.context("no namespaces in the proposed configuration")?;
    namespaces.retain(|one| !host || one["type"] != "network");
    Ok(spec)
}

fn network() -> Value {
    json!({
        "container_id": "perf",
        "container_name": "perf",
        "networks": { "perf": { "interface_name": "eth0", "static_ips": ["10.99.0.2"] } },
        "network_info": { "perf": {
            "name": "perf",
            "id": "1".repeat(64),
            "driver": "bridge",
            "network_interface": "perf0",
            "subnets": [{ "subnet": "10.99.0.0/16", "gateway": "10.99.0.1" }],
            "ipv6_enabled": false,
            "internal": false,
            "dns_enabled": false,
            "ipam_options": { "driver": "host-local" },
        } },
    })
}

/// Unpacks a layer with GNU tar. The images made here have no whiteouts.
fn unpack(blob: &Blob, rootfs: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-p"]);
    match blob.compression {
        Compression::Tar => &mut tar,
        Compression::Gzip => tar.arg("-z"),
        Compression::Zstd => tar.args(["-I", "zstd"]),
    };
    tar.arg("-C").arg(rootfs).arg("-xf").arg(&blob.path);
    let output = tar.output().context("start tar")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tar: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_on_the_host_network_has_no_network_namespace() {
        let plain = json!({
            "process": { "terminal": true, "args": ["sh"] },
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "network" }] },
        });
        let made = |host| adapt(plain.clone(), Path::new("/r"), json!(["true"]), host).unwrap();
        let spec = made(false);
        assert_eq!(
            spec["process"],
            json!({ "terminal": false, "args": ["true"] })
        );
        assert_eq!(spec["root"]["path"], "/r");
        assert_eq!(spec["linux"]["namespaces"].as_array().unwrap().len(), 2);
        let namespaces = &made(true)["linux"]["namespaces"];
        assert_eq!(*namespaces, json!([{ "type": "pid" }]));
    }
}
