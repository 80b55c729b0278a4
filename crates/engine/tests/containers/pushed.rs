//! Images made of containers, in a registry.

use std::{net::TcpListener, process::Child};

use crate::*;

struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's registry and its address; `None` where it is not installed.
fn registry(h: &Host) -> Option<(Registry, String)> {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("localhost:{}", free.local_addr().unwrap().port());
    drop(free);
    let config = h.path("registry.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: \"{host}\"}}\n",
        h.path("registry")
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new("docker-registry");
    command
        .args(["serve", &config])
        .env("OTEL_TRACES_EXPORTER", "none");
    let Ok(child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        eprintln!("skipped: docker-registry is not installed");
        return None;
    };
    let registry = Registry(child);
    h.until("the registry", || {
        std::net::TcpStream::connect(&host).is_ok()
    });
    Some((registry, host))
}

#[test]
fn layers_made_here_are_compressed_for_a_registry() {
    hosts("layers_made_here_are_compressed_for_a_registry", |h| {
        let Some((_registry, host)) = registry(h) else {
            return;
        };
        let script = "head -c 3000000 /dev/zero > /zeros";
        h.ok(&[
            "run",
            "--name",
            "one",
            "--network",
            "none",
            "box",
            "sh",
            "-c",
            script,
        ]);
        let name = format!("{host}/made:1");
        h.ok(&["commit", "one", &name]);
        h.ok(&["rm", "one"]);
        let first = h.ok(&["push", "-q", &name]);
        assert_eq!(h.ok(&["push", "-q", &name]), first, "the same bytes again");
        let url = format!("http://{host}/v2/made/manifests/1");
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let out = Command::new("curl")
            .args(["-fsS", "-H", accept, &url])
            .output()
            .unwrap();
        let manifest: Value = serde_json::from_slice(&out.stdout).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        for layer in layers {
            assert_eq!(
                layer["mediaType"],
                "application/vnd.oci.image.layer.v1.tar+gzip"
            );
        }
        assert!(layers[1]["size"].as_u64().unwrap() < 100_000, "{manifest}");
        let id = h.ok(&["images", "-q", "--no-trunc", &name]);
        h.ok(&["rmi", &name]);
        h.ok(&["pull", "-q", &name]);
        assert_eq!(h.ok(&["images", "-q", "--no-trunc", &name]), id);
        let count = [
            "run",
            "--rm",
            "--network",
            "none",
            &name,
            "wc",
            "-c",
            "/zeros",
        ];
        assert_eq!(h.ok(&count), "3000000 /zeros\n");
        // What came compressed is sent on as it is.
        let other = format!("{host}/other:1");
        h.ok(&["tag", &name, &other]);
        let digest = |text: &str| text.rsplit("sha256:").next().unwrap().trim()[..64].to_owned();
        let sent = h.ok(&["push", &other]);
        assert!(!sent.contains("compressed for the registry"), "{sent}");
        let pulled = h.ok(&["images", "--digests", "--format", "{{.Digest}}", &name]);
        assert!(sent.contains(&digest(&pulled)), "{sent}: {pulled}");
    });
}
