//! Image documents: no panic, and what parses has one reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use unlade_engine::image::{
    Config, Descriptor, Document, FullConfig, Index, Platform, change, full::ContainerConfig,
    media, time,
};
use unlade_fuzz::input::Input;
use unlade_unpack::Digest;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const TYPES: &[&str] = &[
    MANIFEST,
    INDEX,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// A field as a parser that ignores case would find it: there must be just one.
fn lenient<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let fields = object.as_object().expect("accepted, so an object");
    let mut found = fields.iter().filter(|(k, _)| k.eq_ignore_ascii_case(key));
    let value = found.next().map(|(_, v)| v);
    assert!(found.next().is_none(), "two readings of `{key}`");
    value.filter(|v| !v.is_null())
}

fn is_descriptor(raw: &Value, got: &Descriptor) {
    assert_eq!(lenient(raw, "mediaType"), Some(&got.media_type[..].into()));
    assert_eq!(lenient(raw, "size"), Some(&got.size.into()));
    assert_eq!(lenient(raw, "digest"), Some(&got.digest.to_string().into()));
    let platform = lenient(raw, "platform").map(|p| {
        let text = |key| lenient(p, key).and_then(Value::as_str);
        let (os, arch) = (
            text("os").expect("given"),
            text("architecture").expect("given"),
        );
        Platform::new(os, arch, text("variant"))
    });
    assert_eq!(platform, got.platform);
    let notes = lenient(raw, "annotations").and_then(Value::as_object);
    assert_eq!(notes.map_or(0, |n| n.len()), got.annotations.len());
    for (key, value) in &got.annotations {
        assert_eq!(notes.and_then(|n| n.get(key)), Some(&value[..].into()));
    }
}

fn are_descriptors(raw: Option<&Value>, got: &[Descriptor]) {
    let raw = raw.and_then(Value::as_array).expect("accepted, so a list");
    assert_eq!(raw.len(), got.len());
    for (raw, got) in raw.iter().zip(got) {
        is_descriptor(raw, got);
    }
}

fn document(bytes: &[u8], value: Option<&Value>) {
    let mut kinds = [false; 2];
    for media_type in TYPES {
        let Ok(document) = Document::parse(media_type, bytes) else {
            continue;
        };
        let value = value.expect("what is accepted is JSON");
        assert_eq!(lenient(value, "schemaVersion"), Some(&2.into()));
        let said = lenient(value, "mediaType");
        assert!(said.is_none_or(|said| said == media_type));
        match &document {
            Document::Index(index) => {
                kinds[0] = true;
                are_descriptors(lenient(value, "manifests"), &index.manifests);
                assert!(
                    lenient(value, "layers")
                        .or(lenient(value, "config"))
                        .is_none()
                );
                assert_eq!(Index::parse_top(bytes).as_ref().map_err(drop), Ok(index));
            }
            Document::Manifest(manifest) => {
                kinds[1] = true;
                is_descriptor(lenient(value, "config").expect("given"), &manifest.config);
                are_descriptors(lenient(value, "layers"), &manifest.layers);
                assert!(lenient(value, "manifests").is_none());
            }
        }
        let again = serde_json::to_vec(value).expect("a value");
        let again = Document::parse(media_type, &again);
        assert_eq!(
            again.as_ref().map_err(drop),
            Ok(&document),
            "spelling matters"
        );
    }
    // CVE-2021-41190.
    assert!(kinds != [true, true], "an index that is also a manifest");
    if let Ok(index) = Index::parse_top(bytes) {
        are_descriptors(lenient(value.expect("JSON"), "manifests"), &index.manifests);
    }
}

fn config(bytes: &[u8], value: Option<&Value>) {
    let Ok(config) = Config::parse(bytes) else {
        return;
    };
    let value = value.expect("what is accepted is JSON");
    let rootfs = lenient(value, "rootfs").expect("given");
    assert_eq!(lenient(rootfs, "type"), Some(&"layers".into()));
    let ids = lenient(rootfs, "diff_ids").and_then(Value::as_array);
    let ids = ids.map(Vec::as_slice).unwrap_or_default();
    let got: Vec<Value> = config
        .diff_ids
        .iter()
        .map(|d| d.to_string().into())
        .collect();
    assert_eq!(ids, got);
    let text = |key| {
        lenient(value, key)
            .and_then(Value::as_str)
            .filter(|t| !t.is_empty())
    };
    let platform = (text("os").zip(text("architecture"))).map(|(os, arch)| {
        Platform::new(os, arch, lenient(value, "variant").and_then(Value::as_str))
    });
    assert_eq!(platform, config.platform);
    let again = serde_json::to_vec(value).expect("a value");
    assert_eq!(Config::parse(&again).as_ref().map_err(drop), Ok(&config));
    full(bytes, &config);
}

/// What is written of a whole config says the same again.
fn full(bytes: &[u8], config: &Config) {
    let Ok(full) = FullConfig::parse(bytes.to_vec()) else {
        return;
    };
    assert_eq!((&full.diff_ids, &full.raw[..]), (&config.diff_ids, bytes));
    assert_eq!(full.platform(), config.platform);
    let again = FullConfig::parse(full.to_document()).expect("it was written by us");
    let (raw, docker_version) = (again.raw.clone(), String::new());
    let run = Some(full.config.clone().unwrap_or_default());
    let same = FullConfig {
        raw,
        docker_version,
        config: run,
        ..full
    };
    assert_eq!(again, same);
}

/// Changes as `import` takes them, and times as filters do.
fn changes(text: &str) {
    let mut run = ContainerConfig::default();
    if change::apply(&mut run, &[text.to_owned()]).is_ok() {
        let written = serde_json::to_vec(&run).expect("it can be written");
        let again: ContainerConfig = serde_json::from_slice(&written).expect("and read");
        assert_eq!(again, run);
    }
    let _ = time::go_duration(text);
    let _ = time::point(text, jiff_now(), &jiff::tz::TimeZone::UTC);
}

fn jiff_now() -> jiff::Timestamp {
    jiff::Timestamp::UNIX_EPOCH
}

fn words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    changes(text);
    // Longer ones are cut when shown.
    if let Some(platform) = text.parse::<Platform>().ok().filter(|_| text.len() < 200) {
        assert_eq!(
            platform.to_string().parse::<Platform>().ok().as_ref(),
            Some(&platform)
        );
        // Not `Some(0)` for all: some variants are not known to run even on themselves.
        assert!(platform.rank(&platform).is_none_or(|n| n == 0));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    let kinds = [
        media::document(text).is_ok(),
        media::is_config(text),
        media::layer(text).is_ok(),
    ];
    assert!(
        kinds.iter().filter(|k| **k).count() < 2,
        "a media type of two kinds"
    );
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let kind = input.byte();
    let bytes = input.0;
    let value: Option<Value> = serde_json::from_slice(bytes).ok();
    match kind % 4 {
        0 | 1 => document(bytes, value.as_ref()),
        2 => config(bytes, value.as_ref()),
        _ => words(bytes),
    }
});
