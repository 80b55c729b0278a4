//! Specs for many requests, each as it was reviewed: `tests/specs/NAME.json`, and for some where
//! each field comes from, `NAME.txt`. After a change that is meant, run with `UPDATE=1`, and
//! review the difference.
//!
//! In the documents `linux.seccomp` is `"default"` where it is that of `default.json`. The same
//! requests are given to Podman by `scripts/podman-specs.py`; `docs/specs.md` explains where the
//! two differ.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use proptest::{collection::vec, prelude::*, sample::Index};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use unlade_engine::spec::{
    Assembled, HostFacts, ImageConfig, Placement, Request, assemble, merge,
    request::{ContainerConfig, HostConfig},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// The same for Podman; for the script.
    #[serde(default, rename = "flags")]
    _flags: IgnoredAny,
    #[serde(default)]
    image: Value,
    #[serde(default)]
    config: ContainerConfig,
    #[serde(default)]
    host_config: HostConfig,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    place: Value,
    /// Part of the message it is refused with.
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    explain: bool,
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs")
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(dir().join("requests.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn hosts() -> BTreeMap<String, HostFacts> {
    let text = fs::read_to_string(dir().join("hosts.json")).unwrap();
    let mut hosts: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let all = capability_names();
    for host in hosts.values_mut().filter(|h| h["bounding"] == "ALL") {
        host["bounding"] = json!(all);
    }
    let parse = |(name, host)| (name, serde_json::from_value(host).unwrap());
    hosts.into_iter().map(parse).collect()
}

fn capability_names() -> Vec<String> {
    let names = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP \
        LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER \
        SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE \
        SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP \
        MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF \
        CHECKPOINT_RESTORE";
    names
        .split_whitespace()
        .map(|n| format!("CAP_{n}"))
        .collect()
}

/// Puts `over` over `under`, key by key.
fn overlay(mut under: Value, over: &Value) -> Value {
    for (key, value) in over.as_object().into_iter().flatten() {
        under[key] = value.clone();
    }
    under
}

fn image(case: &Case) -> ImageConfig {
    let config = overlay(json!({"Cmd": ["sh"]}), &case.image);
    let document = json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    ImageConfig::parse(document.to_string().as_bytes()).unwrap()
}

fn place(case: &Case) -> Placement {
    let run = "/run/unlade/containers/ID";
    let base = json!({
        "id": ID, "name": case.name, "rootfs": "rootfs", "cgroup-path": format!("/unlade/{ID}"),
        "user": {"uid": 0, "gid": 0, "additional-gids": [0], "home": "/root"},
        "files": {"hostname": format!("{run}/hostname"), "hosts": format!("{run}/hosts"),
            "resolv-conf": format!("{run}/resolv.conf")},
        "network": {"path": "/run/unlade/netns/ID"},
        "runtime": {"recursive-read-only": true},
    });
    serde_json::from_value(overlay(base, &case.place)).unwrap()
}

fn made(
    case: &Case,
    hosts: &BTreeMap<String, HostFacts>,
) -> unlade_engine::error::Result<Assembled> {
    let image = image(case);
    let mut request = Request {
        config: case.config.clone(),
        host_config: case.host_config.clone(),
        ..Request::default()
    };
    merge(&image, &mut request)?;
    let host = &hosts[case.host.as_deref().unwrap_or("v1")];
    assemble(&image, &request, host, &place(case))
}

/// Holds `text` against the file; the difference is for people.
fn holds(file: &Path, text: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(file, text).unwrap();
        return;
    }
    let want = fs::read_to_string(file).unwrap_or_default();
    if want == text {
        return;
    }
    let (old, new): (BTreeSet<&str>, BTreeSet<&str>) =
        (want.lines().collect(), text.lines().collect());
    let mut out = format!("{}:\n", file.display());
    for line in old.difference(&new) {
        writeln!(out, "  - {line}").unwrap();
    }
    for line in new.difference(&old) {
        writeln!(out, "  + {line}").unwrap();
    }
    wrong.push(out);
}

#[test]
fn specs_are_as_reviewed() {
    let (cases, hosts) = (cases(), hosts());
    assert!(cases.len() >= 60);
    let mut expected: BTreeSet<String> = ["main.rs", "requests.json", "hosts.json"]
        .map(str::to_owned)
        .into();
    let (mut wrong, mut default) = (Vec::new(), Value::Null);
    for case in &cases {
        let name = &case.name;
        let made = made(case, &hosts);
        if let Some(part) = &case.error {
            let e = made.map(|_| ()).expect_err(name);
            assert!(
                e.message().contains(part) || e.hint().unwrap().contains(part),
                "{name}: {e:?}"
            );
            assert!(e.hint().is_some(), "{name}: {e}");
            continue;
        }
        let made = made.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let bytes = made.to_json().unwrap();
        assert_eq!(
            bytes,
            made.to_json().unwrap(),
            "{name}: the same bytes each time"
        );
        let mut spec: Value = serde_json::from_slice(&bytes).unwrap();
        always(case, &spec);
        if name == "default" {
            default = spec["linux"]["seccomp"].clone();
        } else if spec["linux"]["seccomp"] == default {
            spec["linux"]["seccomp"] = json!("default");
        }
        let document = json!({"warnings": made.warnings, "spec": spec});
        let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
        let file = format!("{name}.json");
        holds(&dir().join(&file), &text, &mut wrong);
        assert!(expected.insert(file), "{name} is there twice");
        let mut table = String::new();
        for field in made.explain().unwrap() {
            let value = match field.value.to_string() {
                long if long.len() > 120 => {
                    format!("{}…", long.chars().take(120).collect::<String>())
                }
                short => short,
            };
            let origin = serde_json::to_value(field.origin).unwrap();
            let origin = origin.as_str().unwrap();
            writeln!(table, "{}\t{origin}\t{}\t{value}", field.path, field.detail).unwrap();
        }
        if case.explain {
            let file = format!("{name}.txt");
            holds(&dir().join(&file), &table, &mut wrong);
            expected.insert(file);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
    for entry in fs::read_dir(dir()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(expected.contains(&name), "{name} is of no request");
    }
}

/// What holds whatever is asked.
fn always(case: &Case, spec: &Value) {
    let name = &case.name;
    let caps = &spec["process"]["capabilities"];
    for empty in ["inheritable", "ambient"] {
        assert_eq!(caps[empty], json!([]), "{name}: {empty}");
    }
    assert_eq!(caps["bounding"], caps["permitted"], "{name}");
    assert_eq!(caps["bounding"], caps["effective"], "{name}");
    // Programs of the host run for a container only where the host's own files say so.
    let hooks = case.place.get("cdi").is_some();
    assert_eq!(spec.get("hooks").is_some(), hooks, "{name}");
    for entry in spec["process"]["env"].as_array().unwrap() {
        let entry = entry.as_str().unwrap();
        assert!(entry.find('=').is_some_and(|at| at > 0), "{name}: {entry}");
    }
    assert!(
        spec["process"]["cwd"].as_str().unwrap().starts_with('/'),
        "{name}"
    );
    let user = &spec["process"]["user"];
    let gids = user["additionalGids"].as_array().unwrap();
    assert!(gids.contains(&user["gid"]), "{name}");
    let types: Vec<&Value> = spec["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| &n["type"])
        .collect();
    assert!(types.contains(&&json!("mount")), "{name}");
}

/// What strangers write where a name, a path or a number should be.
const HOSTILE: [&str; 24] = [
    "",
    "=",
    "A",
    "=x",
    "/",
    "/..",
    "../..",
    "/proc/self/fd/3",
    "/etc/passwd",
    "a\nb",
    "\u{0}",
    "\u{1b}[31m",
    "4294967295",
    "-1",
    "99999999999999999999",
    "0:0:0",
    "ALL",
    "container:x",
    "host",
    "{}",
    "[]",
    "SIGRTMIN+99",
    "\u{202e}x",
    "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}",
];

/// Places of all texts of a document, and of keys as well.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                places(
                    value,
                    &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")),
                    out,
                );
            }
        }
        Value::Array(list) => {
            for (n, value) in list.iter().enumerate() {
                places(value, &format!("{at}/{n}"), out);
            }
        }
        Value::String(_) => out.push(at.to_owned()),
        _ => {}
    }
}

proptest! {
    /// Requests and images with hostile texts: a spec that keeps what always holds, or an error
    /// that says what to do and shows nothing that a terminal obeys.
    #[test]
    fn hostile_texts(
        which in any::<Index>(),
        of_image in vec((0..12_usize, 0..HOSTILE.len()), 0..4),
        of_request in vec((any::<Index>(), 0..HOSTILE.len()), 0..4),
    ) {
        let cases = cases();
        let hosts = hosts();
        let mut case = cases.into_iter().nth(which.index(100)).unwrap();
        for (field, text) in of_image {
            let text = HOSTILE[text];
            let key = ["User", "WorkingDir", "StopSignal", "Env", "Cmd", "Entrypoint", "Volumes", "Labels",
                "ExposedPorts", "Healthcheck", "Labels", "Labels"][field];
            case.image[key] = match field {
                0..=2 => json!(text),
                3..=5 => json!([text, "A=1"]),
                6 | 8 => json!({ text: {} }),
                7 => json!({ text: text }),
                9 => json!({"Test": [text]}),
                10 => json!({"io.containers.seccomp.profile": text}),
                _ => json!({"io.containers.capabilities": text}),
            };
        }
        let mut config = serde_json::to_value(&case.config).unwrap();
        let mut host_config = serde_json::to_value(&case.host_config).unwrap();
        for (place, text) in of_request {
            for document in [&mut config, &mut host_config] {
                let mut all = Vec::new();
                places(document, "", &mut all);
                let at = &all[place.index(all.len())];
                *document.pointer_mut(at).unwrap() = json!(HOSTILE[text]);
            }
        }
        case.config = serde_json::from_value(config).unwrap();
        case.host_config = serde_json::from_value(host_config).unwrap();
        match made(&case, &hosts) {
            Ok(made) => {
                let spec: Value = serde_json::from_slice(&made.to_json().unwrap()).unwrap();
                always(&case, &spec);
                made.explain().unwrap();
                prop_assert!(made.warnings.iter().all(|w| !w.contains(char::is_control)), "{:?}", made.warnings);
            }
            Err(e) => {
                prop_assert!(e.hint().is_some(), "{e:?}");
                prop_assert!(!e.message().contains(char::is_control), "{e:?}");
            }
        }
    }
}
