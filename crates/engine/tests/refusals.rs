//! Images whose documents are wrong are refused with the part that is wrong, and leave nothing.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;

use common::*;
use serde_json::{Value, json};

/// Changes the manifest of a sound image; the message.
fn refused_manifest(edit: impl FnOnce(&Layout, &mut Value)) -> String {
    let layout = Layout::new();
    let layers = two_layers();
    let mut manifest = layout.manifest(&layers, &config(&layers, "linux", "amd64"));
    edit(&layout, &mut manifest);
    layout.index(&[layout.put_json(&manifest, MANIFEST)]);
    refuse(&layout.source(""), &[])
}

fn refused_config(edit: impl FnOnce(&mut Value)) -> String {
    let layout = Layout::new();
    let layers = two_layers();
    let mut config = config(&layers, "linux", "amd64");
    edit(&mut config);
    let manifest = layout.manifest(&layers, &config);
    layout.index(&[layout.put_json(&manifest, MANIFEST)]);
    refuse(&layout.source(""), &[])
}

#[track_caller]
fn says(e: &str, parts: &[&str]) {
    for part in parts {
        assert!(e.contains(part), "{part}: {e}");
    }
}

#[test]
fn manifests() {
    let manifest = "manifest sha256:";
    let e = refused_manifest(|_, m| m["manifests"] = json!([]));
    says(&e, &[manifest, "fields of an index"]);
    let e = refused_manifest(|_, m| m["mediaType"] = INDEX.into());
    says(&e, &[manifest, "document says mediaType"]);
    let e = refused_manifest(|_, m| m["schemaVersion"] = 1.into());
    says(&e, &[manifest, "schema 1"]);
    let e = refused_manifest(|_, m| m["config"]["mediaType"] = "application/octet-stream".into());
    says(&e, &[manifest, "application/octet-stream"]);
    let e = refused_manifest(|_, m| m["layers"][0]["size"] = (-1).into());
    says(&e, &[manifest, "`-1`"]);
    let e = refused_manifest(|_, m| m["layers"][0]["digest"] = "sha256:ABCD".into());
    says(&e, &[manifest, "sha256:ABCD"]);
    let e = refused_manifest(|_, m| m["layers"][0] = json!([LAYER, "sha256:x", 1]));
    says(&e, &[manifest, "expected an object"]);
    let e = refused_manifest(|_, m| m["annotations"] = json!({ "pad": "x".repeat(5 << 20) }));
    says(&e, &[manifest, "documents of up to 4194304 bytes"]);
}

#[test]
fn documents_that_cannot_be_written_as_a_value() {
    let layout = Layout::with(&two_layers());
    let index = fs::read_to_string(layout.path().join("index.json")).unwrap();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (from, to, part) in [
        (
            "{\"manifests\"",
            "{\"manifests\":[],\"manifests\"".to_owned(),
            "there twice",
        ),
        (
            "{\"manifests\"",
            "{\"Manifests\":[],\"manifests\"".to_owned(),
            "another spelling",
        ),
        (
            "{\"manifests\"",
            format!("{{\"x\":{deep},\"manifests\""),
            "recursion limit",
        ),
        ("}", "} x".to_owned(), "trailing"),
    ] {
        let at = if from == "}" {
            index.rfind(from)
        } else {
            index.find(from)
        }
        .unwrap();
        let text = format!("{}{to}{}", &index[..at], &index[at + from.len()..]);
        fs::write(layout.path().join("index.json"), text).unwrap();
        says(&refuse(&layout.source(""), &[]), &["index.json: ", part]);
    }
}

#[test]
fn layers() {
    let e = refused_manifest(|_, m| m["layers"][1]["mediaType"] = format!("{LAYER}+brotli").into());
    says(&e, &["layer 2 of 2: ", "tar+brotli"]);
    let e = refused_manifest(|_, m| m["layers"][0]["size"] = 0.into());
    says(&e, &["layer 1 of 2: sha256:", "the image says 0"]);
    let e = refused_manifest(|l, m| {
        let digest = m["layers"][1]["digest"].as_str().unwrap();
        fs::remove_file(l.blob_path(digest)).unwrap();
    });
    says(
        &e,
        &["layer 2 of 2: sha256:", "not in the image", "incomplete"],
    );
    let e = refused_manifest(|l, m| {
        let digest = m["layers"][1]["digest"].as_str().unwrap().to_owned();
        fs::remove_file(l.blob_path(&digest)).unwrap();
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        m["layers"][1]["mediaType"] = foreign.into();
    });
    says(&e, &["layer 2 of 2: ", "`urls`"]);
    let e = refused_manifest(|l, m| {
        let path = l.blob_path(m["layers"][1]["digest"].as_str().unwrap());
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    });
    says(&e, &["layer 2 of 2: sha256:"]);
    let e = refused_manifest(|l, m| {
        let path = l.blob_path(m["layers"][1]["digest"].as_str().unwrap());
        fs::rename(&path, l.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../../elsewhere", path).unwrap();
    });
    says(&e, &["symbolic link", "cp -rL"]);
}

#[test]
fn configs() {
    let e = refused_config(|c| {
        c["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    });
    says(&e, &["manifest sha256:", "1 diff_ids for 2 layers"]);
    let e = refused_config(|c| c["rootfs"]["diff_ids"].as_array_mut().unwrap().swap(0, 1));
    says(&e, &["layer 1 of 2: sha256:", "diffID"]);
    let e = refused_config(|c| c["rootfs"]["type"] = "windows".into());
    says(&e, &["config sha256:", "`windows`"]);
    let e = refused_config(|c| c["Rootfs"] = json!({}));
    says(&e, &["config sha256:", "another spelling of `rootfs`"]);
    let e = refused_config(|c| c["pad"] = "x".repeat(9 << 20).into());
    says(&e, &["config sha256:", "documents of up to"]);
}

#[test]
fn damaged_documents() {
    let layout = Layout::with(&two_layers());
    let index: Value =
        serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let sound = fs::read(layout.blob_path(digest)).unwrap();
    let mut bad = sound.clone();
    bad[5] ^= 1;
    fs::write(layout.blob_path(digest), bad).unwrap();
    says(
        &refuse(&layout.source(""), &[]),
        &["manifest sha256:", "have the digest sha256:"],
    );
    fs::write(layout.blob_path(digest), &sound[1..]).unwrap();
    says(
        &refuse(&layout.source(""), &[]),
        &["manifest sha256:", "bytes long, the image says"],
    );
    fs::write(
        layout.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .unwrap();
    says(&refuse(&layout.source(""), &[]), &["oci-layout: ", "2.0.0"]);
    fs::remove_file(layout.path().join("oci-layout")).unwrap();
    says(
        &refuse(&layout.source(""), &[]),
        &["oci-layout: the file is missing"],
    );
}

#[test]
fn indexes() {
    let layout = Layout::new();
    let image = platform(layout.image(&two_layers()), "linux", "amd64");
    let amd64 = &["--platform=linux/amd64"];
    let mut nested = image.clone();
    for _ in 0..8 {
        nested = layout.nested(&[nested]);
    }
    layout.index(std::slice::from_ref(&nested));
    let dir = temp();
    unpack(&layout.source(""), &dir.path().join("eight"), amd64);
    layout.index(&[layout.nested(&[nested])]);
    says(
        &refuse(&layout.source(""), amd64),
        &["index sha256:", "more than 8 deep"],
    );

    let other = |n: usize| platform(image.clone(), "plan9", &format!("cpu{n}"));
    let mut wide: Vec<Value> = (0..9_998).map(other).collect();
    wide.push(image.clone());
    layout.index(&[layout.nested(&wide)]);
    unpack(&layout.source(""), &dir.path().join("wide"), amd64);
    wide.splice(0..0, [other(0), other(1)]);
    layout.index(&[layout.nested(&wide)]);
    says(
        &refuse(&layout.source(""), amd64),
        &["more than 10000 index entries"],
    );
    // Few documents, but each leads to the next one many times: each is read once.
    let mut fan = image.clone();
    for _ in 0..8 {
        fan = layout.nested(&vec![fan; 30]);
    }
    layout.index(&[fan]);
    unpack(&layout.source(""), &dir.path().join("fan"), amd64);
    let far = with(
        image.clone(),
        "annotations",
        json!({ "pad": "x".repeat(3 << 20) }),
    );
    let large = layout.nested(&[platform(far, "plan9", "mips")]);
    layout.index(&[layout.nested(&vec![large; 9_990])]);
    let refused = refuse(&layout.source(""), amd64);
    says(&refused, &["no image for linux/amd64", "plan9/mips"]);
    let e = refuse(
        &layout.source(&format!("@sha256:{}", "0".repeat(64))),
        amd64,
    );
    says(&e, &["no image sha256:0000"]);
    // Many large ones.
    let many: Vec<Value> = (0..22)
        .map(|n| {
            let pad = format!("{n}{}", "x".repeat(3 << 20));
            let far = with(image.clone(), "annotations", json!({ "pad": pad }));
            layout.nested(&[platform(far, "plan9", "mips")])
        })
        .collect();
    layout.index(&[layout.nested(&many)]);
    says(
        &refuse(&layout.source(""), amd64),
        &["more than 64 MiB of indexes"],
    );
}

#[test]
fn a_platform_that_only_the_index_says() {
    let layout = Layout::new();
    let arm = platform(
        layout.image_for(&two_layers(), "linux", "arm64"),
        "linux",
        "amd64",
    );
    layout.index(&[layout.nested(std::slice::from_ref(&arm))]);
    let amd64 = &["--platform=linux/amd64"];
    let e = refuse(&layout.source(""), amd64);
    says(
        &e,
        &["is for linux/arm64/v8, not for linux/amd64", "@DIGEST"],
    );
    layout.index(&[arm]);
    let e = refuse(&layout.source(""), amd64);
    says(&e, &["is for linux/arm64/v8, not for linux/amd64"]);
    // Configs leave out variants.
    let v6 = layout.image_for(&two_layers(), "linux", "arm");
    let v6 = with(
        v6,
        "platform",
        json!({ "os": "linux", "architecture": "arm", "variant": "v6" }),
    );
    layout.index(&[layout.nested(&[v6])]);
    let dir = temp();
    unpack(
        &layout.source(""),
        &dir.path().join("arm"),
        &["--platform=linux/arm/v6"],
    );
}

#[test]
fn limits_of_the_command() {
    let layout = Layout::with(&two_layers());
    says(
        &refuse(&layout.source(""), &["--limit-layers=1"]),
        &["2 layers", "--limit-layers"],
    );
    says(
        &refuse(&layout.source(""), &["--limit-entries=2"]),
        &["layer 1 of 2: sha256:"],
    );
}

#[test]
fn labels_of_layers() {
    let mut layers = two_layers();
    layers[0].media_type = format!("{LAYER}+zstd");
    let layout = Layout::with(&layers);
    says(
        &refuse(&layout.source(""), &[]),
        &["layer 1 of 2: ", "says zstd", "gzip", "--sniff"],
    );
    let dir = temp();
    let dest = dir.path().join("root");
    unpack(&layout.source(""), &dest, &["--sniff"]);
    assert_eq!(tree(&dest), two_layers_tree());
}
