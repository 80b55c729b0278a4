//! A plain tar becomes an image.

use std::io::{self, Read};

use serde_json::{Value, json};
use unlade_engine::{
    archive::{Format, ImageToSave, LayerToSave, import, new_image},
    error::Kind,
    image::Platform,
    source::Scratch,
};
use unlade_unpack::{Cancel, Limits};

use crate::{
    common::*,
    support::{Dribble, checks, loaded, saved},
};

#[test]
fn a_plain_tar_becomes_an_image() {
    let layer = Layer::gzip(&[("etc/", ""), ("etc/x", "y")]);
    let (limits, scratch, cancel) = (Limits::default(), Scratch::system(), Cancel::new());
    let take = |bytes: &[u8]| import(Dribble(bytes, 1), &scratch, &limits, &cancel);
    for (bytes, suffix) in [(&layer.blob, "+gzip"), (&layer.tar, "")] {
        let mut got = take(bytes).unwrap();
        let mut back = Vec::new();
        got.file.read_to_end(&mut back).unwrap();
        assert!(back == **bytes);
        assert_eq!(got.layer.digest.to_string(), sha256(bytes));
        assert_eq!(got.layer.diff_id.to_string(), sha256(&layer.tar));
        assert_eq!(got.layer.media_type, format!("{LAYER}{suffix}"));
        let changes = ["CMD [\"/bin/sh\"]".to_owned(), "ENV A=1".to_owned()];
        let platform: Platform = "linux/arm64".parse().unwrap();
        let now = "2024-01-02T03:04:05Z".parse().unwrap();
        let image = new_image(&got.layer, &changes, Some("note"), &platform, now).unwrap();
        let config: Value = serde_json::from_slice(&image.config).unwrap();
        let want = json!({
            "created": "2024-01-02T03:04:05Z", "architecture": "arm64", "variant": "v8", "os": "linux",
            "comment": "note", "config": { "Env": ["A=1"], "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": [sha256(&layer.tar)] },
            "history": [{ "created": "2024-01-02T03:04:05Z", "comment": "note" }],
        });
        assert_eq!(config, want);
        assert_eq!(sha256(&image.config), image.id.to_string());
        let layer = LayerToSave {
            digest: got.layer.digest,
            size: got.layer.size,
            open: Box::new(move || Ok(Box::new(io::Cursor::new(back.clone())))),
        };
        let image = ImageToSave {
            names: vec![],
            media_type: image.media_type,
            manifest: image.manifest,
            config: image.config,
            layers: vec![layer],
        };
        checks(
            &loaded(&saved(&[image], Format::Docker), None).unwrap().0[..0],
            &[],
        );
    }
    for bad in [
        &b""[..],
        b"not a tar",
        &layer.blob[..layer.blob.len() - 4],
        &layer.tar[..700],
    ] {
        assert!(take(bad).is_err());
    }
    let e = new_image(
        &take(&layer.tar).unwrap().layer,
        &["RUN x".to_owned()],
        None,
        &Platform::host(),
        jiff::Timestamp::UNIX_EPOCH,
    );
    assert_eq!(e.unwrap_err().kind(), Kind::BadInput);
}
