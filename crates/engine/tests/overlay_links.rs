//! `--whiteouts overlay`: hard links to what only a lower layer has.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
};

use common::*;
use tar::EntryType::{Fifo, Link, Regular, Symlink};

/// A layer of (name, type, what a link names).
fn layer(entries: &[(&str, tar::EntryType, &str)]) -> Layer {
    let mut b = tar::Builder::new(Vec::new());
    for (n, (name, kind, link)) in (1_u64..).zip(entries) {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(*kind);
        h.set_path(name).unwrap();
        if *kind == Symlink || *kind == Link {
            h.set_link_name(link).unwrap();
        }
        h.set_mode(0o640);
        h.set_mtime(1_600_000_000 + n);
        h.set_size(0);
        h.set_cksum();
        b.append(&h, &b""[..]).unwrap();
    }
    let tar = b.into_inner().unwrap();
    Layer {
        blob: tar.clone(),
        tar,
        media_type: LAYER.into(),
    }
}

const APPLY: [&str; 2] = ["--whiteouts", "apply"];
const OVERLAY: [&str; 2] = ["--whiteouts", "overlay-userxattr"];

#[test]
fn links_to_what_is_no_file_are_copied_up() {
    let layers = [
        layer(&[("s", Symlink, "to"), ("p", Fifo, ""), ("d/f", Regular, "")]),
        layer(&[("s2", Link, "s"), ("p2", Link, "p"), ("d/f2", Link, "d/f")]),
    ];
    let image = Layout::with(&layers);
    let dir = temp();
    let dest = dir.path().join("tree");
    unpack(&image.source(":latest"), &dest, &OVERLAY);
    let top = |name: &str| fs::symlink_metadata(dest.join("001").join(name)).unwrap();
    for (a, b) in [("s", "s2"), ("p", "p2"), ("d/f", "d/f2")] {
        assert_eq!(top(a).ino(), top(b).ino(), "{a}");
        let below = fs::symlink_metadata(dest.join("000").join(a)).unwrap();
        let facts = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime());
        assert_eq!(facts(&top(a)), facts(&below), "{a}");
    }
    assert!(top("p").file_type().is_fifo());
    assert_eq!(
        fs::read_link(dest.join("001/s2")).unwrap().to_str(),
        Some("to")
    );
}

#[test]
fn what_the_layer_itself_hid_cannot_be_linked_to() {
    let below = || layer(&[("x", Regular, "")]);
    for link in ["y", "x"] {
        let image = Layout::with(&[below(), layer(&[(".wh.x", Regular, ""), (link, Link, "x")])]);
        for how in [APPLY, OVERLAY] {
            let out = try_unpack(&image.source(":latest"), &temp().path().join("tree"), &how);
            assert_eq!(out.status.code(), Some(1), "{link} {how:?}");
            assert!(text(&out.stderr).contains("does not exist"));
        }
    }
}

#[test]
fn a_link_to_itself_is_fine_if_a_lower_layer_has_it() {
    for name in ["x", "d"] {
        let image = Layout::with(&[
            layer(&[("x", Regular, ""), ("d/f", Regular, "")]),
            layer(&[(name, Link, name)]),
        ]);
        for how in [APPLY, OVERLAY] {
            unpack(&image.source(":latest"), &temp().path().join("tree"), &how);
        }
    }
}
