//! What others wrote loads: docker of every age, and indexes of platforms.

use serde_json::{Value, json};
use unlade_engine::error::Kind;

use crate::{
    common::*,
    support::{from_dir, loaded, old_docker},
};

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
