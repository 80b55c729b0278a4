//! The command with few descriptors: it makes do with them, or fails and leaves nothing.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{fs, path::Path, process::Command};

use common::*;

fn with_descriptors(most: u32, layer: &Path, dest: &Path, io: &str) -> std::process::Output {
    Command::new("sh")
        .args(["-c", &format!("ulimit -n {most} && exec \"$@\""), "sh"])
        .args([&binary(), "unpack", "-q", "--io", io])
        .arg(format!("layer:{}", layer.display()))
        .arg(dest)
        .output()
        .unwrap()
}

/// A file alone in each of many directories: each keeps its directory open while it waits.
#[test]
fn directories_of_waiting_files_stay_within_the_limit() {
    let names: Vec<[String; 2]> = (0..6000)
        .map(|n| [format!("d{n}/"), format!("d{n}/f")])
        .collect();
    let text = "x".repeat(2000);
    let entries: Vec<_> = names
        .iter()
        .flat_map(|[d, f]| [(d.as_str(), ""), (f.as_str(), text.as_str())])
        .collect();
    let dir = temp();
    let (layer, dest) = (dir.path().join("layer"), dir.path().join("tree"));
    fs::write(&layer, tar(&entries)).unwrap();
    for io in ["threads", "ring"] {
        let out = with_descriptors(256, &layer, &dest, io);
        assert!(out.status.success(), "{io}: {}", text_of(&out));
        assert_eq!(fs::read_dir(&dest).unwrap().count(), 6000);
        fs::remove_dir_all(&dest).unwrap();
    }
}

/// A tree deeper than there are descriptors, which the clean-up must remove all the same.
#[test]
fn a_failure_for_want_of_descriptors_leaves_nothing() {
    let deep = "d/".repeat(40);
    let wide: Vec<String> = (0..40).map(|n| format!("{deep}{n}/")).collect();
    let entries: Vec<_> = wide.iter().map(|name| (name.as_str(), "")).collect();
    let dir = temp();
    let layer = dir.path().join("layer");
    fs::write(&layer, tar(&entries)).unwrap();
    let out_dir = dir.path().join("out");
    fs::create_dir(&out_dir).unwrap();
    let mut failed = 0;
    for most in 5..40 {
        let dest = out_dir.join("tree");
        let out = with_descriptors(most, &layer, &dest, "threads");
        if out.status.success() {
            fs::remove_dir_all(&dest).unwrap();
        } else if !text_of(&out).contains("shared libraries") {
            assert_eq!(out.status.code(), Some(1), "{most}: {}", text_of(&out));
            assert!(text_of(&out).contains("ulimit -n"), "{}", text_of(&out));
            failed += 1;
        }
        assert_eq!(names(&out_dir), [""; 0], "{most}: {}", text_of(&out));
    }
    assert!(failed > 3, "{failed}");
}

fn text_of(out: &std::process::Output) -> String {
    text(&out.stderr)
}
