//! skopeo and podman read what is written, and what they wrote loads.

use std::{fs, path::Path, process::Command};

use unlade_engine::archive::Format;

use crate::{
    common::*,
    support::{from_dir, loaded, saved, three_images},
};

/// A command's output; `None`, with the reason printed, if the tool is not there.
fn peer(test: &str, tool: &str, args: &[&str]) -> Option<String> {
    if Command::new(tool).arg("--version").output().is_err() {
        eprintln!("skipped {test}: {tool} is not installed");
        return None;
    }
    let out = Command::new(tool).args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{tool} {args:?}: {}",
        text(&out.stderr)
    );
    Some(text(&out.stdout))
}

#[test]
fn peer_skopeo_reads_and_writes() {
    let test = "peer_skopeo_reads_and_writes";
    let dir = temp();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let images = three_images();
    fs::write(at("d.tar"), saved(&images, Format::Docker)).unwrap();
    fs::write(at("o.tar"), saved(&images[..1], Format::Oci)).unwrap();
    let copy = |from: String, to: String, more: &[&str]| {
        let args = [
            &["copy", "-q", "--insecure-policy"][..],
            more,
            &[&from, &to],
        ]
        .concat();
        peer(test, "skopeo", &args)
    };
    // The archive for Docker, by each of its names.
    for (name, image) in [("one:latest", &images[0]), ("two:x", &images[1])] {
        let from = format!("docker-archive:{}:{name}", at("d.tar"));
        let Some(raw) = peer(test, "skopeo", &["inspect", "--config", "--raw", &from]) else {
            return;
        };
        assert_eq!(raw.as_bytes(), image.config);
    }
    // The layout keeps every byte.
    copy(
        format!("oci-archive:{}:latest", at("o.tar")),
        format!("dir:{}", at("dir")),
        &[],
    );
    assert!(fs::read(at("dir/manifest.json")).unwrap() == images[0].manifest);
    // What skopeo writes; it cannot write zstd into an archive for Docker.
    fs::write(at("g.tar"), saved(&images[1..2], Format::Oci)).unwrap();
    copy(
        format!("oci-archive:{}:x", at("g.tar")),
        format!("docker-archive:{}:some/name:3", at("w.tar")),
        &[],
    );
    let (got, _) = loaded(&fs::read(at("w.tar")).unwrap(), None).unwrap();
    assert!(
        got[0].names[0].ends_with("some/name:3"),
        "{:?}",
        got[0].names
    );
    let ids: Vec<String> = got[0]
        .layers
        .iter()
        .map(|l| l.diff_id.to_string())
        .collect();
    let tars = [two_layers()[0].tar.clone(), Layer::plain(&[("a", "b")]).tar];
    assert_eq!(ids, tars.map(|tar| sha256(&tar)));
    let from = format!("oci-archive:{}:1", at("o.tar"));
    copy(from.clone(), format!("oci-archive:{}:n", at("v.tar")), &[]);
    let (got, _) = loaded(&fs::read(at("v.tar")).unwrap(), None).unwrap();
    assert_eq!(
        (&*got[0].manifest, &*got[0].names),
        (&*images[0].manifest, &["n".to_owned()][..])
    );
    copy(from, format!("oci:{}:n", at("layout")), &[]);
    assert!(from_dir(Path::new(&at("layout"))).unwrap().0[0].manifest == images[0].manifest);
}

#[test]
fn peer_podman_loads_and_saves() {
    let test = "peer_podman_loads_and_saves";
    if !skip_unless_root(test) {
        let dir = temp();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (root, run, tmp) = (at("root"), at("run"), at("tmp"));
        let podman = |more: &[&str]| {
            let store = ["--root", &root, "--runroot", &run, "--tmpdir", &tmp];
            let args = [&store[..], &["--storage-driver", "vfs"], more].concat();
            peer(test, "podman", &args)
        };
        fs::write(at("d.tar"), saved(&three_images()[..2], Format::Docker)).unwrap();
        let Some(said) = podman(&["load", "-q", "-i", &at("d.tar")]) else {
            return;
        };
        assert!(
            said.contains("one:latest") && said.contains("two:x"),
            "{said}"
        );
        let ids = podman(&["images", "--no-trunc", "-q"]).unwrap();
        for image in &three_images()[..2] {
            assert!(ids.contains(&sha256(&image.config)), "{ids}");
        }
        for (format, archive) in [("docker-archive", "p.tar"), ("oci-archive", "q.tar")] {
            podman(&[
                "save",
                "-q",
                "--format",
                format,
                "-o",
                &at(archive),
                "one:1",
            ]);
            let (got, _) = loaded(&fs::read(at(archive)).unwrap(), None).unwrap();
            assert_eq!(got.len(), 1);
            let ids: Vec<String> = got[0]
                .layers
                .iter()
                .map(|l| l.diff_id.to_string())
                .collect();
            let want: Vec<String> = two_layers().iter().map(|l| sha256(&l.tar)).collect();
            assert_eq!(ids, want, "{format}");
            assert!(
                got[0].names.iter().any(|n| n.contains("one:1")),
                "{:?}",
                got[0].names
            );
        }
        podman(&["save", "-q", "-m", "-o", &at("m.tar"), "one:1", "two:x"]);
        let (got, _) = loaded(&fs::read(at("m.tar")).unwrap(), None).unwrap();
        assert_eq!(got.len(), 2);
    }
}
