//! What is shown of an image: docker's `image inspect` document, and the rows of `history`.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use unlade_unpack::Digest;

use super::full::{ContainerConfig, FullConfig, Healthcheck, Nothing};

/// Name of the newtype that a list which is `null` is written as; templates show it as `[]`.
pub const NIL_LIST: &str = "unlade nil list";
/// Name of the newtype that a map which is `null` is written as; templates show it as `map[]`.
pub const NIL_MAP: &str = "unlade nil map";

/// What is known of an image beside its config.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The image's id.
    pub id: Digest,
    /// Names with tags, in docker's short form.
    pub repo_tags: Vec<String>,
    /// Names with digests, in docker's short form.
    pub repo_digests: Vec<String>,
    /// The size of its layers, in bytes.
    pub size: u64,
    /// The graph driver, and what it says of the image.
    pub driver: (String, BTreeMap<String, String>),
    /// The manifest: media type, digest, size in bytes.
    pub manifest: Option<(String, Digest, u64)>,
    /// When it was tagged last, as RFC 3339; `None` for never.
    pub last_tagged: Option<String>,
}

/// The document of `image inspect`, field by field as Docker 28 has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspect {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: &'static str,
    comment: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    docker_version: String,
    author: String,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    os_version: String,
    size: u64,
    graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<Descriptor>,
    config: Option<RunConfig>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    data: BTreeMap<String, String>,
    name: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

/// Docker sorts these, and always has some of them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RunConfig {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    args_escaped: bool,
    #[serde(serialize_with = "list")]
    cmd: Option<Vec<String>>,
    #[serde(serialize_with = "list")]
    entrypoint: Option<Vec<String>>,
    #[serde(serialize_with = "list")]
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<BTreeMap<String, Nothing>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Healthcheck>,
    #[serde(serialize_with = "map")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(serialize_with = "list")]
    on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    stop_signal: String,
    user: String,
    #[serde(serialize_with = "map")]
    volumes: Option<BTreeMap<String, Nothing>>,
    working_dir: String,
}

fn list<S: Serializer>(list: &Option<Vec<String>>, s: S) -> Result<S::Ok, S::Error> {
    match list {
        Some(list) => list.serialize(s),
        None => s.serialize_newtype_struct(NIL_LIST, &()),
    }
}

fn map<S: Serializer, V: Serialize>(
    map: &Option<BTreeMap<String, V>>,
    s: S,
) -> Result<S::Ok, S::Error> {
    match map {
        Some(map) => map.serialize(s),
        None => s.serialize_newtype_struct(NIL_MAP, &()),
    }
}

/// The document of `image inspect`.
pub fn inspect(facts: Facts, config: &FullConfig) -> Inspect {
    let run = |c: ContainerConfig| RunConfig {
        args_escaped: c.args_escaped,
        cmd: c.cmd,
        entrypoint: c.entrypoint,
        env: c.env,
        exposed_ports: c.exposed_ports.filter(|p| !p.is_empty()),
        healthcheck: c.healthcheck,
        labels: c.labels,
        on_build: c.on_build,
        shell: c.shell,
        stop_signal: c.stop_signal,
        user: c.user,
        volumes: c.volumes,
        working_dir: c.working_dir,
    };
    // Like docker: without a comment of its own, the last entry of the history has it.
    let comment = match &*config.comment {
        "" => config.history.last().map_or("", |h| &h.comment),
        comment => comment,
    };
    Inspect {
        id: facts.id.to_string(),
        repo_tags: facts.repo_tags,
        repo_digests: facts.repo_digests,
        parent: "",
        comment: comment.to_owned(),
        created: config.created.clone(),
        docker_version: config.docker_version.clone(),
        author: config.author.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        os_version: config.os_version.clone(),
        size: facts.size,
        graph_driver: GraphDriver {
            data: facts.driver.1,
            name: facts.driver.0,
        },
        root_fs: RootFs {
            r#type: "layers",
            layers: config.diff_ids.iter().map(Digest::to_string).collect(),
        },
        metadata: Metadata {
            last_tag_time: facts
                .last_tagged
                .unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned()),
        },
        descriptor: facts.manifest.map(|(media_type, digest, size)| Descriptor {
            media_type,
            digest: digest.to_string(),
            size,
        }),
        config: config.config.clone().map(run),
    }
}

/// A row of `history`, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// The image's id for the newest; the others' images are missing.
    pub id: Option<Digest>,
    /// When, in seconds since 1970; 0 if it is not said.
    pub created: i64,
    /// By which command.
    pub created_by: String,
    /// Bytes of the layer that came of it.
    pub size: u64,
    /// A note.
    pub comment: String,
}

/// The history of the image `id` whose layers have `sizes` bytes, lowest first.
pub fn history(id: Digest, config: &FullConfig, sizes: &[u64]) -> Vec<HistoryRow> {
    let mut sizes = sizes.iter();
    let row = |h: &super::full::History| HistoryRow {
        id: None,
        created: h.created_seconds().unwrap_or(0),
        created_by: h.created_by.clone(),
        // A history with more layers than there are is wrong, but does no harm.
        size: if h.empty_layer {
            0
        } else {
            sizes.next().copied().unwrap_or(0)
        },
        comment: h.comment.clone(),
    };
    let mut rows: Vec<HistoryRow> = config.history.iter().map(row).collect();
    rows.reverse();
    if let Some(newest) = rows.first_mut() {
        newest.id = Some(id);
    }
    rows
}

#[cfg(test)]
mod tests {
    use unlade_unpack::Algorithm;

    use super::*;

    fn sample(more: &str) -> FullConfig {
        let id = Digest::of(Algorithm::Sha256, b"");
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05Z",
            "rootfs":{{"type":"layers","diff_ids":["{id}","{id}"]}}{more}}}"#
        );
        FullConfig::parse(text.into_bytes()).unwrap()
    }

    fn facts() -> Facts {
        Facts {
            id: Digest::of(Algorithm::Sha256, b"id"),
            repo_tags: vec!["a:1".to_owned()],
            repo_digests: Vec::new(),
            size: 7,
            driver: ("overlay".to_owned(), BTreeMap::new()),
            manifest: Some(("m".to_owned(), Digest::of(Algorithm::Sha256, b"m"), 3)),
            last_tagged: None,
        }
    }

    fn keys(text: &str) -> Vec<String> {
        // Keys of one level, in the order in which they stand.
        text.lines()
            .filter_map(|l| l.strip_prefix("  \""))
            .filter_map(|l| l.split_once("\": ").map(|(k, _)| k.to_owned()))
            .collect()
    }

    #[test]
    fn fields_in_dockers_order() {
        let c = sample(r#","config":{"Env":["A=b"],"StopSignal":"9"},"variant":"v2""#);
        let text = serde_json::to_string_pretty(&inspect(facts(), &c)).unwrap();
        let order = "Id RepoTags RepoDigests Parent Comment Created DockerVersion Author \
                     Architecture Variant Os Size GraphDriver RootFS Metadata Descriptor Config";
        assert_eq!(keys(&text).join(" "), order);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let config = serde_json::to_string(&value["Config"]).unwrap();
        let expected = r#"{"Cmd":null,"Entrypoint":null,"Env":["A=b"],"Labels":null,"OnBuild":null,"StopSignal":"9","User":"","Volumes":null,"WorkingDir":""}"#;
        assert_eq!(config, expected);
        assert_eq!(value["RepoDigests"], serde_json::json!([]));
        assert_eq!(value["Metadata"]["LastTagTime"], "0001-01-01T00:00:00Z");
        let none = serde_json::to_value(inspect(facts(), &sample(""))).unwrap();
        assert!(none["Config"].is_null() && none.get("Variant").is_none());
    }

    #[test]
    fn history_newest_first() {
        let c = sample(
            r#","history":[{"created_by":"a"},{"created_by":"b","empty_layer":true,"created":"1970-01-01T00:00:09Z"},
            {"created_by":"c","comment":"n"},{"created_by":"one too many"}]"#,
        );
        let rows = history(facts().id, &c, &[5, 6]);
        let got: Vec<_> = rows
            .iter()
            .map(|r| (&*r.created_by, r.size, r.created))
            .collect();
        assert_eq!(
            got,
            [
                ("one too many", 0, 0),
                ("c", 6, 0),
                ("b", 0, 9),
                ("a", 5, 0)
            ]
        );
        assert_eq!(rows[0].id, Some(facts().id));
        assert!(rows[1..].iter().all(|r| r.id.is_none()));
        assert_eq!(inspect(facts(), &c).comment, "");
        assert!(history(facts().id, &sample(""), &[1, 2]).is_empty());
    }
}
