//! `unlade push` of images whose compressed blobs are not kept.

use std::{fs, io::Read, process::Output, sync::Mutex};

use serde_json::Value;

use crate::{
    pushes::{Kept, good},
    server::{Server, sha},
    support,
};

struct Store {
    dir: tempfile::TempDir,
    driver: &'static str,
}

impl Store {
    fn run(&self, args: &[&str]) -> Output {
        let at = |name| support::text(&self.dir.path().join(name));
        support::unlade()
            .args(["--root", &at("store"), "--run-root", &at("run")])
            .args(["--graph-driver", self.driver])
            .args(args)
            .env("UNLADE_CONFIG", at("config"))
            .env("UNLADE_FLUSH", "later")
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", support::stderr(&out));
        String::from_utf8(out.stdout).unwrap()
    }
}

/// A store without blobs that has an image of two layers under `name`; the image's own blobs.
fn image(driver: &'static str, name: &str) -> (Store, Vec<Vec<u8>>) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(dir.path().join("config"), "keep-blobs = \"never\"\n").unwrap();
    let layout = dir.path().join("layout");
    support::layout_at(0, &layout, &support::two_layers());
    let store = Store { dir, driver };
    let said = store.ok(&["load", "-i", &support::text(&layout)]);
    let id = said.trim().strip_prefix("Loaded image ID: ").unwrap();
    store.ok(&["tag", id, name]);
    let layers = support::two_layers();
    (
        store,
        layers.iter().map(|t| support::gzip_at(0, t)).collect(),
    )
}

fn put(kept: &Mutex<Kept>, blob: &[u8]) {
    let mut kept = kept.lock().unwrap();
    kept.blobs.insert(sha(blob).to_string(), blob.to_vec());
}

/// The manifest that was pushed, by what the command said of it.
fn manifest(kept: &Mutex<Kept>, said: &str) -> (String, Value) {
    let line = said.lines().find(|l| l.starts_with("1: digest: ")).unwrap();
    let digest = line.split(' ').nth(2).unwrap().to_owned();
    let bytes = kept.lock().unwrap().blobs[&digest].clone();
    assert!(line.ends_with(&format!("size: {}", bytes.len())), "{line}");
    (digest, serde_json::from_slice(&bytes).unwrap())
}

fn sent(server: &Server) -> usize {
    let upload = |l: &&String| l.starts_with("PUT ") && l.contains("/blobs/");
    server.lines().iter().filter(upload).count()
}

#[test]
fn a_layer_is_compressed_again_from_its_tar() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may mount EROFS");
        return;
    }
    let (server, kept) = good();
    let name = format!("{}/team/app:1", server.host());
    let (store, blobs) = image("erofs", &name);
    // One of them is there already: it is used as it is.
    put(&kept, &blobs[0]);
    let said = store.ok(&["push", &name]);
    assert!(said.contains("compressed for the registry"), "{said}");
    let digests = ["images", "--format", "{{.Digest}}"];
    assert_eq!(store.ok(&digests), "<none>\n");
    let (digest, pushed) = manifest(&kept, &said);
    let layers = pushed["layers"].as_array().unwrap();
    assert_eq!(layers[0]["digest"], sha(&blobs[0]).to_string());
    let tars = support::two_layers();
    let config = pushed["config"]["digest"].as_str().unwrap();
    {
        let kept = kept.lock().unwrap();
        let config: Value = serde_json::from_slice(&kept.blobs[config]).unwrap();
        for (n, (layer, tar)) in layers.iter().zip(&tars).enumerate() {
            let blob = &kept.blobs[layer["digest"].as_str().unwrap()];
            assert_eq!(layer["size"], blob.len());
            assert_eq!(
                layer["mediaType"],
                "application/vnd.oci.image.layer.v1.tar+gzip"
            );
            let mut back = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&blob[..]);
            decoder.read_to_end(&mut back).unwrap();
            assert_eq!(&back, tar);
            assert_eq!(config["rootfs"]["diff_ids"][n], sha(tar).to_string());
        }
    }
    // The same bytes each time, so nothing is sent twice.
    let before = sent(&server);
    let said = store.ok(&["push", &name]);
    assert_eq!((manifest(&kept, &said).0, sent(&server)), (digest, before));
    // With all blobs there it is what it was.
    put(&kept, &blobs[1]);
    let said = store.ok(&["push", &name]);
    assert!(!said.contains("compressed for the registry"), "{said}");
    let (whole, pushed) = manifest(&kept, &said);
    assert_eq!(pushed["layers"][1]["digest"], sha(&blobs[1]).to_string());
    // The registry has the image under the digest it has here, and that is noted.
    assert_eq!(store.ok(&digests), format!("{whole}\n"));
    let by_digest = name.replace(":1", &format!("@{whole}"));
    store.ok(&["inspect", &by_digest]);
    assert!(!store.run(&["push", &by_digest]).status.success());
    // No temporary file is left.
    assert!(
        !support::names(&store.dir.path().join("store"))
            .iter()
            .any(|n| n.starts_with('.'))
    );
    // A damaged tar is not passed on.
    kept.lock().unwrap().blobs.clear();
    let layers = store.dir.path().join("store/graph/erofs/layers");
    let tar = layers
        .join(sha(&tars[1]).to_string().replace(':', "-"))
        .join("tar");
    let mut bytes = fs::read(&tar).unwrap();
    bytes[600] ^= 1;
    fs::remove_file(&tar).unwrap();
    fs::write(&tar, bytes).unwrap();
    let out = store.run(&["push", &name]);
    let said = support::stderr(&out);
    assert!(!out.status.success() && said.contains("--repair"), "{said}");
}

#[test]
fn without_blobs_and_tars_only_what_is_there_can_be_pushed() {
    let (server, kept) = good();
    let name = format!("{}/team/app:1", server.host());
    let (store, blobs) = image("copy", &name);
    put(&kept, &blobs[0]);
    let out = store.run(&["push", &name]);
    let said = support::stderr(&out);
    assert!(
        !out.status.success() && said.contains("keep-blobs"),
        "{said}"
    );
    put(&kept, &blobs[1]);
    let said = store.ok(&["push", &name]);
    let (_, pushed) = manifest(&kept, &said);
    assert_eq!(pushed["layers"][1]["digest"], sha(&blobs[1]).to_string());
}
