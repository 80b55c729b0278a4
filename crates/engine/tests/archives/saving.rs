//! What is written: reads back, is to the letter as docker has it, and is never damage.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use serde_json::{Value, json};
use unlade_engine::{
    archive::{Format, ImageToSave, LayerToSave, OpenLayer, write, write_dir},
    error::{Error, Kind, Result},
};
use unlade_unpack::Cancel;

use crate::{
    common::*,
    support::{checks, from_dir, loaded, members, saved, three_images, to_save},
};

#[test]
fn round_trip() {
    let images = three_images();
    for format in [Format::Docker, Format::Oci] {
        let archive = saved(&images, format);
        assert!(
            archive == saved(&three_images(), format),
            "not the same bytes"
        );
        let names: Vec<String> = members(&archive).into_iter().map(|(n, _)| n).collect();
        assert!(names.is_sorted());
        // Three manifests, three configs, three different layers.
        assert_eq!(
            names.iter().filter(|n| n.len() > 20).count(),
            9,
            "{names:?}"
        );
        let (got, _) = loaded(&archive, None).unwrap();
        checks(&got, &images);
        assert_eq!(
            got[0].names,
            ["docker.io/library/one:1", "docker.io/library/one:latest"]
        );
        assert_eq!(got[1].names, ["docker.io/library/two:x"]);
        assert!(got[2].names.is_empty());
        for packed in [gzip(&archive), zstd::encode_all(&archive[..], 1).unwrap()] {
            checks(&loaded(&packed, None).unwrap().0, &images);
        }
    }
    let dir = temp();
    let at = dir.path().join("layout");
    write_dir(&images, &at, &Cancel::new()).unwrap();
    checks(&from_dir(&at).unwrap().0, &images);
    let e = write_dir(&images, &at, &Cancel::new()).unwrap_err();
    assert!(
        e.message().contains("not empty") && e.hint().is_some(),
        "{e}"
    );
}

#[test]
fn a_layout_appears_whole_or_not_at_all() {
    let mut images = vec![to_save(&two_layers(), "amd64", &["one:1"])];
    let dir = temp();
    let at = dir.path().join("layout");
    let whole = std::mem::replace(
        &mut images[0].layers[1].open,
        Box::new(|| Ok(Box::new(&b"short"[..]))),
    );
    for there in [false, true] {
        if there {
            fs::create_dir(&at).unwrap();
        }
        let e = write_dir(&images, &at, &Cancel::new()).unwrap_err();
        assert_eq!(e.kind(), Kind::Integrity);
        // Nor is anything left beside it.
        let left = fs::read_dir(dir.path()).unwrap();
        assert_eq!(left.count(), usize::from(there));
    }
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
    images[0].layers[1].open = whole;
    write_dir(&images, &at, &Cancel::new()).unwrap();
    checks(&from_dir(&at).unwrap().0, &images);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// What a kill would leave in a directory that was there is hidden, nobody else's, and swept by the
/// next.
#[test]
fn a_directory_that_is_there_is_filled() {
    let mut images = vec![to_save(&two_layers(), "amd64", &["one:1"])];
    let dir = temp();
    let at = dir.path().to_owned();
    let names = |at: &Path| -> Vec<String> {
        let entries = fs::read_dir(at).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let dead = at.join(".new.unlade-abcdef");
    fs::create_dir_all(dead.join("tree/blobs")).unwrap();
    fs::set_permissions(&dead, fs::Permissions::from_mode(0o700)).unwrap();
    let top = images[0].layers.pop().unwrap();
    let (size, digest, inside) = (top.size, top.digest, at.clone());
    let open: OpenLayer = Box::new(move || {
        let there = names(&inside);
        assert!(
            there.len() == 1 && there[0].starts_with(".new.unlade-") && !dead.exists(),
            "{there:?}"
        );
        let mode = fs::metadata(inside.join(&there[0])).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        (top.open)()
    });
    images[0].layers.push(LayerToSave { digest, size, open });
    write_dir(&images, &at.join("."), &Cancel::new()).unwrap();
    assert_eq!(names(&at), ["blobs", "index.json", "oci-layout"]);
    assert_eq!(
        fs::metadata(at.join("blobs")).unwrap().mode() & 0o777,
        0o755
    );
    checks(&from_dir(&at).unwrap().0, &images);
}

/// The documents, to the letter.
#[test]
fn documents_as_docker_writes_them() {
    let images = [to_save(&two_layers(), "amd64", &["one:1"])];
    let members: BTreeMap<_, _> = members(&saved(&images, Format::Docker))
        .into_iter()
        .collect();
    let get = |name: &str| -> Value { serde_json::from_slice(&members[name]).unwrap() };
    let (config, manifest) = (hex(&images[0].config), sha256(&images[0].manifest));
    let layers: Vec<String> = images[0]
        .layers
        .iter()
        .map(|l| format!("blobs/sha256/{}", l.digest.hex()))
        .collect();
    let want = json!([{ "Config": format!("blobs/sha256/{config}"), "RepoTags": ["one:1"], "Layers": layers }]);
    assert_eq!(get("manifest.json"), want);
    let top = images[0].layers[1].digest.hex();
    assert_eq!(get("repositories"), json!({ "one": { "1": top } }));
    assert_eq!(get("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }));
    let entry = json!({
        "mediaType": MANIFEST, "digest": manifest, "size": images[0].manifest.len(),
        "platform": { "architecture": "amd64", "os": "linux" },
        "annotations": {
            "io.containerd.image.name": "docker.io/library/one:1", REF_NAME: "1",
        },
    });
    let want = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    assert_eq!(get("index.json"), want);
}

#[test]
fn damage_is_not_saved() {
    let broken = |what: &dyn Fn(&mut ImageToSave)| {
        let mut image = to_save(&two_layers(), "amd64", &["x:1"]);
        what(&mut image);
        write(&[image], Format::Docker, &mut Vec::new(), &Cancel::new()).unwrap_err()
    };
    let gives = |bytes: Vec<u8>| -> Box<dyn Fn() -> Result<Box<dyn Read>>> {
        Box::new(move || Ok(Box::new(io::Cursor::new(bytes.clone()))))
    };
    let whole = two_layers()[1].blob.clone();
    let mut other = whole.clone();
    other[20] ^= 1;
    let e = broken(&|i| i.layers[1].open = gives(other.clone()));
    assert_eq!((e.kind(), e.hint().is_some()), (Kind::Integrity, true));
    for bytes in [whole[1..].to_vec(), [&whole[..], b"x"].concat()] {
        assert_eq!(
            broken(&|i| i.layers[1].open = gives(bytes.clone())).kind(),
            Kind::Integrity
        );
    }
    assert_eq!(broken(&|i| drop(i.layers.pop())).kind(), Kind::Integrity);
    assert_eq!(broken(&|i| i.config.push(b' ')).kind(), Kind::Integrity);
    let e = broken(&|i| i.layers[0].open = Box::new(|| Err(Error::new(Kind::NotFound, "gone"))));
    assert_eq!(e.kind(), Kind::NotFound);
    let cancel = Cancel::new();
    cancel.cancel();
    let e = write(&three_images(), Format::Oci, &mut Vec::new(), &cancel).unwrap_err();
    assert_eq!(e.kind(), Kind::Cancelled);
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(28))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let e = write(&three_images(), Format::Oci, &mut Full, &Cancel::new()).unwrap_err();
    assert_eq!(e.kind(), Kind::Host);
}
