//! One file of CDI: JSON or YAML, as the vendor's installer wrote it.
//!
//! Source: the Container Device Interface's specification, versions 0.1.0 to 1.0.0.

use std::{fs::File, io::Read, os::unix::fs::OpenOptionsExt, path::Path};

use serde::{Deserialize, de::DeserializeOwned};

use super::name;
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Longest file, in bytes: that of a host with many GPUs has some hundred kilobytes.
const MAX_FILE: u64 = 8 << 20;
/// Versions of the specification that are known.
const VERSIONS: [&str; 9] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0",
];

/// A file. What it says that is not known is an error: a device without a part of its edits is
/// worse than none.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Document {
    cdi_version: String,
    pub(super) kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    pub(super) devices: Vec<Device>,
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, rename = "annotations")]
    _annotations: serde::de::IgnoredAny,
    pub(super) container_edits: ContainerEdits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ContainerEdits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<Node>,
    pub(super) mounts: Vec<Bind>,
    pub(super) hooks: Vec<Hook>,
    pub(super) additional_gids: Vec<u32>,
    pub(super) intel_rdt: Option<Rdt>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Node {
    pub(super) path: String,
    #[serde(default)]
    pub(super) host_path: String,
    #[serde(default, rename = "type")]
    pub(super) typ: String,
    #[serde(default)]
    pub(super) major: u32,
    #[serde(default)]
    pub(super) minor: u32,
    pub(super) file_mode: Option<u32>,
    #[serde(default)]
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Bind {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(default)]
    pub(super) options: Vec<String>,
    #[serde(default, rename = "type")]
    pub(super) typ: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<String>,
    pub(super) timeout: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rdt {
    #[serde(default, rename = "closID")]
    pub(super) clos_id: String,
    #[serde(default, rename = "l3CacheSchema")]
    pub(super) l3: String,
    #[serde(default, rename = "memBwSchema")]
    pub(super) bandwidth: String,
    #[serde(default, rename = "enableCMT")]
    pub(super) cmt: bool,
    #[serde(default, rename = "enableMBM")]
    pub(super) mbm: bool,
}

/// Reads a file of CDI.
///
/// # Errors
/// [`Kind::BadInput`] for what is none, [`Kind::Limit`] for what is too long, [`Kind::Host`] if it
/// cannot be read; all with its name.
pub(super) fn read(path: &Path) -> Result<Document> {
    parse(path).map_err(|e| e.context(format!("the CDI file `{}`", path.display())))
}

fn parse(path: &Path) -> Result<Document> {
    let text = text(path)?;
    let document: Document = match path.extension().is_some_and(|e| e == "json") {
        true => serde_json::from_str(&text).map_err(bad)?,
        false => yaml(&text)?,
    };
    check(&document)?;
    Ok(document)
}

/// YAML as the vendors' tools write it: `0660` is octal. Depth, aliases and anchors are bounded by
/// the library.
fn yaml<T: DeserializeOwned>(text: &str) -> Result<T> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(bad)
}

fn text(path: &Path) -> Result<String> {
    let failed = |e| Error::host("read it", e);
    // A pipe that somebody put there must not hold up a start.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(bad("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::new(
            Kind::Limit,
            format!("longer than {MAX_FILE} bytes"),
        ));
    }
    String::from_utf8(bytes).map_err(|_| bad("not UTF-8 text"))
}

fn bad(why: impl std::fmt::Display) -> Error {
    // The parser of YAML shows the lines around a mistake: the first says what it is.
    let why = why.to_string();
    Error::new(Kind::BadInput, show(why.lines().next().unwrap_or_default()))
}

fn check(document: &Document) -> Result<()> {
    let version = document.cdi_version.trim_start_matches('v');
    if !VERSIONS.contains(&version) {
        let m = format!("version {} is not known", show(version));
        let hint = format!("versions are {}", VERSIONS.join(", "));
        return Err(Error::new(Kind::Unsupported, m).with_hint(hint));
    }
    if !name::is_kind(&document.kind) {
        return Err(bad(format!(
            "`{}` is no kind: write vendor.com/class",
            document.kind
        )));
    }
    if document.devices.is_empty() {
        return Err(bad("no devices"));
    }
    edits(&document.container_edits)?;
    let mut seen = std::collections::HashSet::new();
    for device in &document.devices {
        if !name::is_device(&device.name) {
            return Err(bad(format!("`{}` is no name of a device", device.name)));
        }
        if !seen.insert(&device.name) {
            return Err(bad(format!("the device {} is there twice", device.name)));
        }
        edits(&device.container_edits).map_err(|e| e.context(format!("device {}", device.name)))?;
    }
    Ok(())
}

fn edits(edits: &ContainerEdits) -> Result<()> {
    let whole = |what: &str, path: &str| match path.starts_with('/')
        && !path.chars().any(char::is_control)
    {
        true => Ok(()),
        false => Err(bad(format!("{what} `{path}` is no absolute path"))),
    };
    for env in &edits.env {
        if env.find('=').is_none_or(|at| at == 0) || env.contains('\0') {
            return Err(bad(format!("`{env}` is no variable: write NAME=VALUE")));
        }
    }
    for node in &edits.device_nodes {
        whole("the device node", &node.path)?;
        if !node.host_path.is_empty() {
            whole("the device node", &node.host_path)?;
        }
        if !matches!(&*node.typ, "" | "b" | "c" | "u") {
            let m = format!("device node {}: type `{}`", node.path, node.typ);
            return Err(Error::new(Kind::Unsupported, show(&m)).with_hint("types are b, c and u"));
        }
        if !node.permissions.bytes().all(|b| b"rwm".contains(&b)) {
            return Err(bad(format!(
                "device node {}: permissions `{}` are not of r, w and m",
                node.path, node.permissions
            )));
        }
    }
    for mount in &edits.mounts {
        whole("the mount's target", &mount.container_path)?;
        if mount.host_path.is_empty() || mount.host_path.contains('\0') {
            return Err(bad(format!(
                "the mount on {} has no source",
                mount.container_path
            )));
        }
    }
    for hook in &edits.hooks {
        whole("the hook", &hook.path)?;
        if !super::apply::HOOKS.contains(&&*hook.hook_name) {
            return Err(bad(format!("there is no hook `{}`", hook.hook_name)));
        }
        if hook.timeout.is_some_and(|t| t <= 0) {
            return Err(bad(format!("the hook {} has no time to run", hook.path)));
        }
    }
    if let Some(rdt) = &edits.intel_rdt {
        let id = &rdt.clos_id;
        if id.len() >= 4096 || matches!(&**id, "." | "..") || id.contains(['/', '\n', '\0']) {
            return Err(bad(format!("`{id}` is no class of service")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &str, text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let said = read(&path).map_or_else(|e| e.to_string(), |d| d.kind);
        said.replace(&path.display().to_string(), "FILE")
    }

    #[test]
    fn both_languages() {
        let json = r#"{"cdiVersion": "0.6.0", "kind": "v.com/c", "annotations": {"a": "b"},
            "devices": [{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/null"}]}}]}"#;
        assert_eq!(said("a.json", json), "v.com/c");
        assert_eq!(said("a.yaml", json), "v.com/c");
        let yaml = "cdiVersion: 1.0.0\nkind: v.com/c\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/null\n      fileMode: 0660\n";
        assert_eq!(said("a.yaml", yaml), "v.com/c");
        let document: Document = super::yaml(yaml).unwrap();
        let node = &document.devices[0].container_edits.device_nodes[0];
        assert_eq!(node.file_mode, Some(0o660));
    }

    #[test]
    fn what_is_wrong_is_said_with_the_file() {
        let with = |key: &str, value: &str| {
            let mut doc = serde_json::json!({"cdiVersion": "1.0.0", "kind": "v.com/c",
                "devices": [{"name": "0", "containerEdits": {}}]});
            doc[key] = serde_json::from_str(value).unwrap();
            doc.to_string()
        };
        for (text, part) in [
            (String::new(), "EOF"),
            (with("cdiVersion", "\"2.0.0\""), "version 2.0.0"),
            (with("kind", "\"x\""), "no kind"),
            (with("devices", "[]"), "no devices"),
            (with("more", "1"), "unknown field `more`"),
            (
                with("devices", r#"[{"name": "a/b", "containerEdits": {}}]"#),
                "no name",
            ),
            (
                with(
                    "devices",
                    r#"[{"name": "a", "containerEdits": {}}, {"name": "a", "containerEdits": {}}]"#,
                ),
                "twice",
            ),
            (with("containerEdits", r#"{"env": ["X"]}"#), "no variable"),
            (
                with("containerEdits", r#"{"deviceNodes": [{"path": "x"}]}"#),
                "absolute",
            ),
            (
                with(
                    "containerEdits",
                    r#"{"deviceNodes": [{"path": "/x", "type": "p"}]}"#,
                ),
                "type `p`",
            ),
            (
                with(
                    "containerEdits",
                    r#"{"hooks": [{"hookName": "x", "path": "/x"}]}"#,
                ),
                "no hook",
            ),
            (
                with("containerEdits", r#"{"intelRdt": {"closID": "../x"}}"#),
                "class of service",
            ),
        ] {
            let said = said("a.json", &text);
            assert!(
                said.contains("FILE") && said.contains(part),
                "{part}: {said}"
            );
        }
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let last = format!("*a{}", n - 1);
            bomb += &format!("a{n}: &a{n} [{}]\n", [last.as_str(); 9].join(", "));
        }
        assert!(said("a.yaml", &bomb).contains("FILE"));
        let long = " ".repeat(usize::try_from(MAX_FILE).unwrap() + 1);
        assert!(said("a.json", &long).contains("longer"));
    }
}
