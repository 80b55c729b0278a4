//! Every kind of source gives the same tree, and the image that was meant.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use common::*;
use serde_json::{Value, json};

fn gives(source: &str, extra: &[&str]) {
    let dir = temp();
    let dest = dir.path().join("root");
    unpack(source, &dest, extra);
    assert_eq!(tree(&dest), two_layers_tree(), "{source}");
    assert_eq!(names(dir.path()), ["root"]);
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> String {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// What `docker save` wrote before version 25; the base layer is there twice, once as a link.
fn old_docker(layers: &[Layer], tags: &Value) -> Vec<(String, Member)> {
    let config = config(layers, "linux", "amd64").to_string();
    let config_name = format!("{}.json", hex(config.as_bytes()));
    let mut members = vec![data(&config_name, config)];
    let mut names = Vec::new();
    for (n, layer) in layers.iter().enumerate() {
        let id = format!("{n:064}");
        members.push(data(format!("{id}/VERSION"), "1.0"));
        members.push(data(format!("{id}/json"), "not even JSON"));
        let stored = format!("{id}-stored");
        members.push(data(format!("{stored}/layer.tar"), layer.tar.clone()));
        let link = Member::Link(format!("../{stored}/layer.tar"));
        members.push((format!("{id}/layer.tar"), link));
        names.push(format!("{id}/layer.tar"));
    }
    let list = json!([{ "Config": config_name, "RepoTags": tags, "Layers": names }]);
    members.push(data("manifest.json", list.to_string()));
    members.push(data("repositories", "{}"));
    members
}

#[test]
fn oci_layout() {
    let layout = Layout::with(&two_layers());
    gives(&layout.source(""), &[]);
    gives(&layout.source(":latest"), &[]);
    gives(
        &layout.source(":latest"),
        &["--threads=1", "--memory=16MiB", "--no-sandbox"],
    );
    let digest =
        serde_json::from_slice::<Value>(&fs::read(layout.path().join("index.json")).unwrap())
            .unwrap()["manifests"][0]["digest"]
            .as_str()
            .unwrap()
            .to_owned();
    gives(&layout.source(&format!("@{digest}")), &[]);
    let out = unlade(&["unpack", &layout.source(""), "--verify"]);
    let line = text(&out.stdout);
    assert!(
        line.starts_with(&format!("{digest}: verified 2 layers, 7 entries, ")),
        "{line}"
    );
}

#[test]
fn docker_schema_2_in_a_layout() {
    let layout = Layout::new();
    let mut layers = two_layers();
    layers[0].media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip".into();
    layers[1].media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd".into();
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let mut manifest = layout.manifest(&layers, &config(&layers, "linux", "amd64"));
    manifest["mediaType"] = docker.into();
    manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json".into();
    let manifest = layout.put_json(&manifest, docker);
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let entries = [platform(manifest, "linux", "amd64")];
    let doc = json!({ "schemaVersion": 2, "mediaType": list, "manifests": entries });
    layout.index(&[layout.put_json(&doc, list)]);
    gives(&layout.source(""), &["--platform=linux/amd64"]);
}

#[test]
fn sha512_digests() {
    let layout = Layout::new();
    let layers = two_layers();
    fs::create_dir(layout.path().join("blobs/sha512")).unwrap();
    let sha512 = |bytes: &[u8]| {
        unlade_unpack::Digest::of(unlade_unpack::Algorithm::Sha512, bytes).to_string()
    };
    let mut manifest = layout.manifest(&layers, &config(&layers, "linux", "amd64"));
    for (n, layer) in layers.iter().enumerate() {
        let digest = sha512(&layer.blob);
        fs::write(layout.blob_path(&digest), &layer.blob).unwrap();
        manifest["layers"][n]["digest"] = digest.into();
    }
    let bytes = manifest.to_string();
    let digest = sha512(bytes.as_bytes());
    fs::write(layout.blob_path(&digest), &bytes).unwrap();
    layout.index(&[json!({ "mediaType": MANIFEST, "digest": digest, "size": bytes.len() })]);
    gives(&layout.source(""), &[]);
}

#[test]
fn oci_archive_plain_and_compressed() {
    let layout = Layout::with(&two_layers());
    let tar = layout.archive();
    let dir = temp();
    for (name, bytes) in [
        ("a.tar", tar.clone()),
        ("a.tar.gz", gzip(&tar)),
        ("a.tar.zst", zstd::encode_all(&tar[..], 1).unwrap()),
    ] {
        let path = write(dir.path(), name, &bytes);
        gives(&format!("oci-archive:{path}"), &[]);
        gives(&format!("oci-archive:{path}:latest"), &[]);
        let out = unlade(&["unpack", &format!("oci-archive:{path}"), "--verify", "-q"]);
        assert!(out.status.success() && out.stdout.is_empty());
    }
    let e = refuse(
        &format!("docker-archive:{}/a.tar", dir.path().display()),
        &[],
    );
    assert!(
        e.contains("manifest.json") && e.contains("oci-archive:"),
        "{e}"
    );
    let bomb = gzip(&vec![0; 80 << 20]);
    let path = write(dir.path(), "bomb.gz", &bomb);
    let e = refuse(&format!("oci-archive:{path}"), &["--limit-ratio=10"]);
    assert!(e.contains("--limit-ratio"), "{e}");
}

#[test]
fn docker_archive_old() {
    let dir = temp();
    let members = old_docker(&two_layers(), &json!(["demo:1", "example.org/demo:2"]));
    let tar = archive(&members);
    let path = write(dir.path(), "old.tar", &tar);
    for name in [
        "",
        ":demo:1",
        ":docker.io/library/demo:1",
        ":example.org/demo:2",
    ] {
        gives(&format!("docker-archive:{path}{name}"), &[]);
    }
    let config_digest = sha256(match &members[0].1 {
        Member::Data(bytes) => bytes,
        Member::Link(_) => unreachable!(),
    });
    gives(
        &format!("docker-archive:{path}@{config_digest}"),
        &["--platform=linux/amd64"],
    );
    let e = refuse(&format!("docker-archive:{path}:demo"), &[]);
    assert!(
        e.contains("manifest.json") && e.contains("`demo:1`, `example.org/demo:2`"),
        "{e}"
    );
    let e = refuse(
        &format!("docker-archive:{path}"),
        &["--platform=linux/arm64"],
    );
    assert!(e.contains("linux/amd64, not for linux/arm64"), "{e}");
    let gz = write(dir.path(), "old.tar.gz", &gzip(&tar));
    gives(&format!("docker-archive:{gz}:demo:1"), &[]);
    let e = refuse(&format!("oci-archive:{path}"), &[]);
    assert!(
        e.contains("oci-layout") && e.contains("docker-archive:"),
        "{e}"
    );
}

#[test]
fn docker_archive_new() {
    // Since version 25 it is an OCI layout too; layers may stay compressed.
    let layers = two_layers();
    let layout = Layout::with(&layers);
    let config = config(&layers, "linux", "amd64").to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    let list = json!([{
        "Config": blob(config.as_bytes()),
        "RepoTags": null,
        "Layers": layers.iter().map(|l| blob(&l.blob)).collect::<Vec<_>>(),
        "LayerSources": { sha256(&layers[0].tar): { "mediaType": LAYER, "size": 1 } },
    }]);
    fs::write(layout.path().join("manifest.json"), list.to_string()).unwrap();
    let dir = temp();
    let path = write(dir.path(), "new.tar", &layout.archive());
    gives(&format!("docker-archive:{path}"), &[]);
    gives(&format!("oci-archive:{path}"), &[]);
    // A blob that is not what its name says.
    fs::write(layout.blob_path(&sha256(&layers[0].blob)), &layers[1].blob).unwrap();
    let path = write(dir.path(), "bad.tar", &layout.archive());
    let e = refuse(&format!("docker-archive:{path}"), &[]);
    assert!(e.contains("layer 1 of 2"), "{e}");
}

#[test]
fn docker_archives_that_are_wrong() {
    let dir = temp();
    let base = || old_docker(&two_layers(), &json!(["demo:1"]));
    let refuse_members = |members: &[(String, Member)], part: &str| {
        let path = write(dir.path(), "bad.tar", &archive(members));
        let e = refuse(&format!("docker-archive:{path}"), &[]);
        assert!(e.contains(part), "{part}: {e}");
    };
    let edit = |from: &str, to: &str| -> Vec<(String, Member)> {
        let edit = |(name, member): (String, Member)| match member {
            Member::Data(bytes) if name == "manifest.json" => {
                let text = String::from_utf8(bytes).unwrap();
                assert!(text.contains(from));
                data(name, text.replace(from, to))
            }
            member => (name, member),
        };
        base().into_iter().map(edit).collect()
    };
    let mut members = base();
    members[0].1 = Member::Data(b"{}".to_vec());
    refuse_members(&members, "have the digest");
    let mut members = base();
    members.push(data("manifest.json", "[]"));
    refuse_members(&members, "there twice");
    let mut members = base();
    members.retain(|(name, _)| !name.contains("1-stored"));
    refuse_members(&members, "layer 2 of 2: `");
    refuse_members(
        &edit("\"Layers\":[", "\"Layers\":[\"../x\","),
        "for 3 layers",
    );
    let zeros = "0".repeat(64);
    refuse_members(
        &edit(&format!("{zeros}/layer.tar"), "../../etc/passwd"),
        "out of the archive",
    );
    refuse_members(
        &edit("\"RepoTags\"", "\"repotags\""),
        "another spelling of `RepoTags`",
    );
    refuse_members(&[data("x", "y")], "layer:FILE");
    let truncated = archive(&base());
    let path = write(dir.path(), "cut.tar", &truncated[..truncated.len() / 2]);
    assert!(refuse(&format!("docker-archive:{path}"), &[]).contains("cut.tar"));
    let swapped = {
        let mut layers = two_layers();
        layers.swap(0, 1);
        let mut members = base();
        let other = old_docker(&layers, &json!(null));
        members.truncate(1);
        members.extend(
            other
                .into_iter()
                .skip(1)
                .filter(|(n, _)| n != "manifest.json"),
        );
        members.extend(base().into_iter().filter(|(n, _)| n == "manifest.json"));
        members
    };
    refuse_members(&swapped, "layer 1 of 2: diffID");
}

#[test]
fn single_layers() {
    let dir = temp();
    let layer = Layer::gzip(&[("a", "1")]);
    for (n, blob) in [
        layer.tar.clone(),
        layer.blob.clone(),
        zstd::encode_all(&layer.tar[..], 1).unwrap(),
    ]
    .iter()
    .enumerate()
    {
        let path = write(dir.path(), "layer", blob);
        let dest = dir.path().join(format!("file{n}"));
        let out = unpack(&format!("layer:{path}"), &dest, &[]);
        assert!(text(&out.stdout).starts_with(&sha256(blob)));
        assert_eq!(
            tree(&dest).into_iter().collect::<Vec<_>>(),
            [("a".into(), "1".into())]
        );

        let piped = dir.path().join(format!("pipe{n}"));
        let mut child = Command::new(binary())
            .args(["unpack", "layer:-", piped.to_str().unwrap(), "-q"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(blob).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(tree(&piped), tree(&dest));

        // A file on standard input is read from where it stands.
        let mut file =
            fs::File::open(write(dir.path(), "x", &[b"skip", &blob[..]].concat())).unwrap();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(4)).unwrap();
        let redirected = dir.path().join(format!("redirected{n}"));
        let status = Command::new(binary())
            .args(["unpack", "layer:-", redirected.to_str().unwrap(), "-q"])
            .stdin(file)
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(tree(&redirected), tree(&dest));
    }
    let e = refuse(&format!("layer:{}", dir.path().display()), &[]);
    assert!(e.contains("is a directory"), "{e}");
}

#[test]
fn paths_with_colons() {
    let dir = temp();
    let layout = Layout::with(&two_layers());
    let odd = dir.path().join("a:b@c:latest");
    fs::create_dir(&odd).unwrap();
    let status = Command::new("cp")
        .arg("-r")
        .arg(layout.path())
        .arg(odd.join("in"))
        .status();
    assert!(status.unwrap().success());
    gives(&format!("oci:{}/in:latest", odd.display()), &[]);
}

#[test]
fn choice_by_platform() {
    let layout = Layout::new();
    let layers = two_layers();
    let other = [Layer::plain(&[("other", "")])];
    let wanted = layout.image_for(&layers, "linux", "arm64");
    let wrong = layout.image_for(&other, "linux", "arm");
    let attestation = |d: Value, annotation: bool| {
        let d = platform(d, "unknown", "unknown");
        let note = json!({ "vnd.docker.reference.type": "attestation-manifest" });
        if annotation {
            with(d, "annotations", note)
        } else {
            d
        }
    };
    let docs = layout.put(b"not an image", MANIFEST);
    let nested = layout.nested(&[
        attestation(docs.clone(), false),
        attestation(docs.clone(), true),
        platform(wrong.clone(), "linux", "arm"),
        // No platform here: the config tells.
        wanted.clone(),
        platform(wrong.clone(), "windows", "arm64"),
    ]);
    let wrapped = layout.nested(&[nested]);
    layout.index(&[named(wrapped, "multi")]);
    gives(&layout.source(":multi"), &["--platform=linux/aarch64"]);
    gives(&layout.source(""), &["--platform=linux/arm64/v8"]);
    let digest = wanted["digest"].as_str().unwrap();
    gives(&layout.source(&format!("@{digest}")), &[]);
    let e = refuse(&layout.source(""), &["--platform=linux/s390x"]);
    let all = "there is linux/arm/v7, linux/arm64/v8, windows/arm64/v8";
    assert!(e.contains("index.json") && e.contains(all), "{e}");
}

#[test]
fn the_host_is_the_default_platform() {
    let layout = Layout::new();
    let host = std::env::consts::ARCH;
    let mine = layout.image_for(&two_layers(), "linux", host);
    let other = layout.image_for(&[Layer::plain(&[("other", "")])], "linux", "s390x");
    layout.index(&[layout.nested(&[
        platform(other.clone(), "linux", "s390x"),
        platform(mine.clone(), "linux", host),
    ])]);
    gives(&layout.source(""), &[]);
    // The only image is taken as it is, unless a platform is asked for.
    layout.index(&[layout.image_for(&two_layers(), "plan9", "mips")]);
    gives(&layout.source(""), &[]);
    let e = refuse(&layout.source(""), &["--platform=linux/amd64"]);
    assert!(e.contains("the image is for plan9/mips"), "{e}");
}

#[test]
fn choice_by_name() {
    let layout = Layout::new();
    let good = layout.image(&two_layers());
    let other = layout.image(&[Layer::plain(&[("other", "")])]);
    let docker = |d: Value, name: &str| {
        with(
            d,
            "annotations",
            json!({ "io.containerd.image.name": name, REF_NAME: "latest" }),
        )
    };
    layout.index(&[
        docker(good.clone(), "docker.io/library/demo:latest"),
        docker(good.clone(), "docker.io/library/again:latest"),
        docker(other.clone(), "docker.io/library/other:latest"),
    ]);
    for name in [
        "demo",
        "demo:latest",
        "docker.io/library/demo:latest",
        "again",
    ] {
        gives(&layout.source(&format!(":{name}")), &[]);
    }
    let e = refuse(&layout.source(""), &[]);
    assert!(
        e.contains("more than one image") && e.contains("`docker.io/library/demo:latest`"),
        "{e}"
    );
    let e = refuse(&layout.source(":nothing"), &[]);
    assert!(
        e.contains("no image `nothing`") && e.contains("demo"),
        "{e}"
    );
    let e = refuse(&layout.source(":latest"), &[]);
    assert!(e.contains("could be meant"), "{e}");
    // One image under two names is one image.
    layout.index(&[named(good.clone(), "a"), named(good, "b")]);
    gives(&layout.source(""), &[]);
    layout.index(&[]);
    assert!(refuse(&layout.source(""), &[]).contains("there is none"));
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    let layout = Layout::with(&[]);
    let dir = temp();
    let dest = dir.path().join("root");
    unpack(&layout.source(""), &dest, &[]);
    assert!(tree(&dest).is_empty());
}

#[test]
fn peer_archives_of_skopeo() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skipped peer_archives_of_skopeo: skopeo is not installed");
        return;
    }
    let mut layers = two_layers();
    layers[1] = Layer::gzip(&[("etc/hostname", "high"), (".wh.gone", ""), ("new", "z")]);
    let layout = Layout::with(&layers);
    let dir = temp();
    for (kind, name) in [
        ("docker-archive", "demo:1"),
        ("oci-archive", "latest"),
        ("oci", "latest"),
    ] {
        let to = format!("{kind}:{}/{kind}:{name}", dir.path().display());
        let out = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "-q"])
            .arg(layout.source(":latest"))
            .arg(&to)
            .output()
            .unwrap();
        assert!(out.status.success(), "{to}: {}", text(&out.stderr));
        gives(&to, &[]);
    }
}
