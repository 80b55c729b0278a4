//! Archives that break the rules.

use std::io::Write;

use unlade_engine::{archive::Format, error::Kind};

use crate::{
    common::*,
    support::{Members, loaded, old_docker, saved, to_save},
};

#[test]
fn hostile_archives() {
    let (_, good) = old_docker();
    let changed = |change: &dyn Fn(&mut Members)| {
        let (_, mut members) = old_docker();
        change(&mut members);
        let e = loaded(&archive(&members), None).map(drop).unwrap_err();
        assert!(e.hint().is_some(), "{e}");
        (e.kind(), e.message().to_owned())
    };
    let first = format!("{:064}/layer.tar", 0);
    let wrong_name = format!("blobs/sha256/{}", hex(b"other"));
    for (change, kind, part) in [
        (
            Box::new(|m: &mut Vec<_>| m.push(data(&first, "x"))) as Box<dyn Fn(&mut Vec<_>)>,
            Kind::BadInput,
            "there twice",
        ),
        (
            Box::new(|m| m.push(data("manifest.json", "[]"))),
            Kind::BadInput,
            "there twice",
        ),
        (
            Box::new(|m| m.push(data("index.json", vec![b' '; 5 << 20]))),
            Kind::Limit,
            "bytes",
        ),
        (
            Box::new(|m| m.push(data("index.json", r#"{"schemaVersion":2,"manifests":[]}"#))),
            Kind::BadInput,
            "`oci-layout` is missing",
        ),
        (
            Box::new(|m| m.push(data(&wrong_name, "x"))),
            Kind::Integrity,
            "has the digest",
        ),
        (
            Box::new(|m| m.retain(|(n, _)| !n.starts_with(&first[..64]))),
            Kind::BadInput,
            "is not in the archive",
        ),
        (
            Box::new(|m| m.retain(|(n, _)| n != "manifest.json")),
            Kind::BadInput,
            "neither",
        ),
        (
            Box::new(|m| {
                m.retain(|(n, _)| *n != first);
                m.push((first.clone(), Member::Link("../../etc/passwd".into())));
            }),
            Kind::BadInput,
            "out of the archive",
        ),
        (
            Box::new(|m| {
                m.retain(|(n, _)| *n != first);
                m.push((first.clone(), Member::Link("layer.tar".into())));
            }),
            Kind::BadInput,
            "too many links",
        ),
    ] {
        let (is, message) = changed(&*change);
        assert_eq!(is, kind, "{message}");
        assert!(message.contains(part), "{message}");
    }
    let whole = archive(&good);
    for cut in [10, 600, whole.len() / 2] {
        assert!(loaded(&whole[..cut], None).is_err(), "{cut}");
    }
    let packed = gzip(&whole);
    assert!(loaded(&packed[..packed.len() - 9], None).is_err());
    for nothing in [&b""[..], b"no archive", &gzip(b"")] {
        assert!(loaded(nothing, None).is_err());
    }
    // Many layers, and a bomb.
    let layer = Layer::plain(&[]);
    let many = to_save(&vec![layer; 101], "amd64", &["x:1"]);
    let e = loaded(&saved(&[many], Format::Docker), None)
        .map(drop)
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Limit);
    let zeroes = vec![0; 16 << 20];
    let mut bomb = zstd::Encoder::new(Vec::new(), 3).unwrap();
    for _ in 0..8 {
        bomb.write_all(&zeroes).unwrap();
    }
    let e = loaded(&bomb.finish().unwrap(), None).map(drop).unwrap_err();
    assert_eq!(e.kind(), Kind::Limit);
}
