//! `unlade unpack` as its users meet it.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::Write,
    process::Stdio,
    time::{Duration, Instant},
};

use support::*;

#[test]
fn every_source_gives_the_same_tree() {
    let (_keep, at) = temp();
    let layers = two_layers();
    layout(&at.join("img"), &layers);
    docker_archive(&at.join("docker.tar"), &layers);
    let mut archive = tar::Builder::new(fs::File::create(at.join("oci.tar")).unwrap());
    archive.append_dir_all(".", at.join("img")).unwrap();
    archive.finish().unwrap();
    let zipped = gzip(&fs::read(at.join("docker.tar")).unwrap());
    fs::write(at.join("docker.tar.gz"), zipped).unwrap();
    let sources = [
        "oci:img",
        "oci:img:latest",
        "oci-archive:oci.tar",
        "oci-archive:oci.tar:latest",
        "docker-archive:docker.tar",
        "docker-archive:docker.tar:test:latest",
        "docker-archive:docker.tar.gz",
    ];
    for (i, source) in sources.iter().enumerate() {
        let (kind, rest) = source.split_once(':').unwrap();
        let dest = at.join(format!("root{i}"));
        let out = run(&[
            "unpack",
            &format!("{kind}:{}/{rest}", text(&at)),
            &text(&dest),
        ]);
        assert!(out.status.success(), "{source}: {}", stderr(&out));
        check_two_layers(&dest);
    }
}

#[test]
fn one_layer_from_a_file_or_a_pipe() {
    let (_keep, at) = temp();
    let blob = gzip(&tar(&[("a/", ""), ("a/f", "x")]));
    fs::write(at.join("layer.tgz"), &blob).unwrap();
    let source = format!("layer:{}", text(&at.join("layer.tgz")));
    assert!(
        run(&["unpack", &source, &text(&at.join("r1"))])
            .status
            .success()
    );
    let mut child = unlade()
        .args(["unpack", "-q", "layer:-", &text(&at.join("r2"))])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&blob).unwrap();
    assert!(child.wait().unwrap().success());
    for root in ["r1", "r2"] {
        assert_eq!(fs::read_to_string(at.join(root).join("a/f")).unwrap(), "x");
    }
}

#[test]
fn dest_appears_whole_or_not_at_all() {
    let (_keep, at) = temp();
    let mut bad = gzip(&tar(&[("f", "data"), ("../out", "x")]));
    fs::write(at.join("bad.tgz"), &bad).unwrap();
    let bad_source = format!("layer:{}", text(&at.join("bad.tgz")));
    let out = run(&["unpack", &bad_source, &text(&at.join("r"))]);
    assert_eq!(out.status.code(), Some(1));
    let message = stderr(&out);
    assert!(
        message.contains("entry 1") && message.contains("../out"),
        "{message}"
    );
    assert!(
        message.contains("at byte") && message.contains("hint:"),
        "{message}"
    );
    bad.truncate(bad.len() - 3);
    fs::write(at.join("bad.tgz"), &bad).unwrap();
    assert_eq!(
        run(&["unpack", &bad_source, &text(&at.join("r"))])
            .status
            .code(),
        Some(1)
    );
    assert_eq!(names(&at), ["bad.tgz"], "leftovers");
}

#[test]
fn dest_is_not_overwritten_without_force() {
    let (_keep, at) = temp();
    layout(&at.join("img"), &two_layers());
    let source = format!("oci:{}", text(&at.join("img")));
    let dest = at.join("r");
    fs::create_dir(&dest).unwrap();
    assert!(
        run(&["unpack", &source, &text(&dest)]).status.success(),
        "an empty directory"
    );
    fs::write(dest.join("mine"), "x").unwrap();
    let out = run(&["unpack", &source, &text(&dest)]);
    assert_eq!(out.status.code(), Some(1));
    assert!(stderr(&out).contains("--force"), "{}", stderr(&out));
    assert!(dest.join("mine").exists());
    assert!(
        run(&["unpack", "--force", &source, &text(&dest)])
            .status
            .success()
    );
    check_two_layers(&dest);
    assert!(!dest.join("mine").exists());
    assert_eq!(names(&at), ["img", "r"]);
}

#[test]
fn the_chain_is_verified() {
    let (_keep, at) = temp();
    layout(&at.join("img"), &two_layers());
    let blobs = at.join("img/blobs/sha256");
    for name in names(&blobs) {
        let path = blobs.join(&name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&path, &bad).unwrap();
        let source = format!("oci:{}", text(&at.join("img")));
        for args in [
            vec!["unpack", "--verify", &source],
            vec!["unpack", &source, &text(&at.join("r"))],
        ] {
            let out = run(&args);
            assert_eq!(out.status.code(), Some(1), "{name}");
            assert!(stderr(&out).contains(&name), "{}", stderr(&out));
        }
        fs::write(&path, &good).unwrap();
    }
    assert!(!at.join("r").exists());
}

#[test]
fn usage_errors_are_told_apart() {
    for args in [&["unpack"][..], &["unpack", "oci:x", "y", "--io", "magic"]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(
        run(&["unpack", "oci:/nowhere", "/tmp/never"]).status.code(),
        Some(1)
    );
    assert!(run(&["--version"]).status.success());
}

#[test]
fn the_report_says_what_was_done() {
    let (_keep, at) = temp();
    let layers = two_layers();
    layout(&at.join("img"), &layers);
    let source = format!("oci:{}", text(&at.join("img")));
    let out = run(&[
        "unpack",
        "-q",
        "--report",
        "-",
        &source,
        &text(&at.join("r")),
    ]);
    assert!(out.status.success(), "{}", stderr(&out));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let whole = report.to_string();
    for layer in &layers {
        assert!(whole.contains(&sha(layer).to_string()), "{whole}");
    }
    for word in ["stages", "cpu_seconds", "decode", "skipped", "whiteouts"] {
        assert!(whole.contains(word), "{word}: {whole}");
    }
}

#[test]
fn overlay_directories_are_ready_to_be_lowerdirs() {
    let (_keep, at) = temp();
    layout(&at.join("img"), &two_layers());
    let source = format!("oci:{}", text(&at.join("img")));
    let how = if rustix::process::geteuid().is_root() {
        "overlay"
    } else {
        "overlay-userxattr"
    };
    let out = run(&["unpack", "--whiteouts", how, &source, &text(&at.join("r"))]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(
        fs::read_to_string(at.join("r/lowerdirs")).unwrap(),
        "001\n000\n"
    );
    assert!(at.join("r/000/etc/gone").exists() && at.join("r/001/etc/new").exists());
    use std::os::unix::fs::FileTypeExt;
    let whiteout = fs::symlink_metadata(at.join("r/001/etc/gone")).unwrap();
    assert!(whiteout.file_type().is_char_device());
}

#[test]
fn an_interrupt_leaves_nothing() {
    let (_keep, at) = temp();
    let dest = text(&at.join("r"));
    let mut child = unlade()
        .args(["unpack", "layer:-", &dest])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&gzip(&tar(&[("f", "x")]))[..20]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while names(&at).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{status}");
    assert!(names(&at).is_empty(), "{:?}", names(&at));
}
