//! `unlade gunzip`, and several decode threads in an unpack.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs::{self, File},
    io::Read,
    process::{Command, Stdio},
};

use common::*;

/// Text that takes several MiB compressed.
fn big() -> String {
    (0..900_000_u32)
        .map(|i| format!("{:x} {i}\n", i.wrapping_mul(i >> 3)))
        .collect()
}

#[test]
fn files_and_pipes_on_any_number_of_threads() {
    let data = big();
    let blob = [gzip(data.as_bytes()), gzip(b"and a member more\n")].concat();
    assert!(blob.len() > 3 << 20, "{}", blob.len());
    let want = data + "and a member more\n";
    let dir = temp();
    let file = dir.path().join("text.gz");
    fs::write(&file, &blob).unwrap();
    for threads in ["1", "2", "5"] {
        let out = unlade(&["gunzip", "-t", threads, file.to_str().unwrap()]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert!(out.stdout == want.as_bytes(), "{threads} threads");
        for name in [&["-"][..], &[]] {
            let out = Command::new(binary())
                .args(["gunzip", "-t", threads])
                .args(name)
                .stdin(File::open(&file).unwrap())
                .output()
                .unwrap();
            assert!(out.status.success() && out.stdout == want.as_bytes());
        }
    }
}

#[test]
fn damage_is_an_error_with_its_place() {
    let dir = temp();
    let file = dir.path().join("bad.gz");
    let good = gzip(big().as_bytes());
    for (what, blob) in [
        ("cut short", good[..good.len() - 3].to_vec()),
        ("wrong CRC32", {
            let mut bad = good.clone();
            let at = bad.len() - 8;
            bad[at] ^= 1;
            bad
        }),
        ("no gzip member", [&good[..], b"garbage"].concat()),
    ] {
        fs::write(&file, &blob).unwrap();
        let mut outs = Vec::new();
        for threads in ["1", "3"] {
            let out = unlade(&["gunzip", "-t", threads, file.to_str().unwrap()]);
            let said = text(&out.stderr);
            assert_eq!(out.status.code(), Some(1), "{what}: {said}");
            assert!(said.contains(what) && said.contains("bad.gz"), "{said}");
            assert!(said.contains("of the input") && !said.contains("layer"));
            outs.push((out.stdout, said.to_string()));
        }
        // All that came before the fault, in every mode.
        assert!(outs[0] == outs[1], "{} / {}", outs[0].1, outs[1].1);
        assert!(outs[0].0.len() + 10 > big().len(), "{what}");
    }
    let out = unlade(&["gunzip", "/no/such/file"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("/no/such/file"));
    let out = unlade(&["gunzip", "/tmp"]);
    let said = text(&out.stderr);
    assert_eq!(
        (out.status.code(), said.matches("/tmp").count()),
        (Some(1), 1)
    );
    assert!(said.contains("hint"), "{said}");
    let out = Command::new(binary())
        .arg("gunzip")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        said.contains("is empty") && said.contains("standard input"),
        "{said}"
    );
}

#[test]
fn a_reader_that_goes_ends_it_quietly() {
    let dir = temp();
    let file = dir.path().join("text.gz");
    fs::write(&file, gzip(big().as_bytes())).unwrap();
    for threads in ["1", "3"] {
        let mut child = Command::new(binary())
            .args(["gunzip", "-t", threads])
            .arg(&file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut some = [0; 100];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(141));
        assert!(out.stderr.is_empty(), "{}", text(&out.stderr));
    }
}

#[test]
fn a_layer_decoded_by_several_threads_is_the_same() {
    let data = big();
    // Above the size from which several threads are used.
    let names: Vec<String> = (0..4).map(|i| format!("file-{i}")).collect();
    let entries: Vec<_> = names.iter().map(|n| (n.as_str(), data.as_str())).collect();
    let layout = Layout::with(&[Layer::gzip(&entries)]);
    let dir = temp();
    let mut trees = Vec::new();
    for (threads, decoder) in [
        ("1", "unlade streaming"),
        ("3", "unlade parallel, 3 threads"),
    ] {
        let dest = dir.path().join(threads);
        let out = unpack(
            &layout.source(""),
            &dest,
            &["--decode-threads", threads, "--report=-"],
        );
        let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["layers"][0]["decoder"], decoder);
        trees.push(tree(&dest));
    }
    assert!(trees[0] == trees[1] && trees[0].len() >= 4);
}
