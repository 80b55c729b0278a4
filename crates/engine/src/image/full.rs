//! The whole image config, as Docker and OCI have it.
//!
//! [`Config`] has what unpacking needs; this has the rest, for people and for
//! containers. Fields that are not known are passed over, and the bytes are kept as they came:
//! they are the image's identity.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};
use unlade_unpack::Digest;

use super::{
    Config, Platform,
    json::{self, Object, Rules},
};
use crate::error::{Error, Kind, Result};

/// Most entries of an image's history.
const MAX_HISTORY: usize = 10_000;

const RULES: Rules = Rules {
    known: &[
        "architecture",
        "author",
        "config",
        "created",
        "diff_ids",
        "docker_version",
        "history",
        "os",
        "os.version",
        "rootfs",
        "type",
        "variant",
    ],
    free: &["config", "container_config", "history", "annotations"],
};

/// A checked image config with all that a user sees of it.
#[derive(Debug, Clone, PartialEq)]
pub struct FullConfig {
    /// When the image was made, as the config says it (RFC 3339).
    pub created: Option<String>,
    /// Who made it.
    pub author: String,
    /// The operating system, as the config spells it.
    pub os: String,
    /// The architecture, as the config spells it.
    pub architecture: String,
    /// The architecture's variant.
    pub variant: String,
    /// The version of the operating system.
    pub os_version: String,
    /// The version of Docker that made it.
    pub docker_version: String,
    /// What was said when the image was made by `commit` or `import`.
    pub comment: String,
    /// How its containers run.
    pub config: Option<ContainerConfig>,
    /// How its layers came about, the oldest first.
    pub history: Vec<History>,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
    /// The document itself.
    pub raw: Bytes,
}

/// How containers of an image run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// User, or user and group, by name or number.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// Ports that are listened on, such as `80/tcp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Nothing>>,
    /// Environment, as `NAME=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// What is run.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments, or what is run where there is no entrypoint.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths that get a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Nothing>>,
    /// The directory to start in.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Free-form notes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The signal that asks it to stop.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
    /// How its health is found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The shell of commands that are not lists.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Instructions for builds upon this image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// Windows: the command line is escaped already.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
}

/// How a container's health is found out. Times are in nanoseconds; 0 stands for the default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`, or `CMD` or `CMD-SHELL` with a command.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub test: Option<Vec<String>>,
    /// Time between two tests.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time until a test counts as failed.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between two tests in that time.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// How many failures make it unhealthy.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// An entry of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, as RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub created_by: String,
    /// By whom.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// A note.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// No layer came of it.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

/// The value of a set's members in JSON: `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Nothing;

impl Serialize for Nothing {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        serde::ser::SerializeMap::end(s.serialize_map(Some(0))?)
    }
}

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(d).map(|_| Self)
    }
}

fn is_false(b: &bool) -> bool {
    !b
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// `null` is the empty value.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// A list, or one text as old versions of Docker wrote it.
fn words<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        List(Vec<String>),
        One(String),
    }
    Ok(Option::deserialize(d)?.map(|words| match words {
        Words::List(list) => list,
        Words::One(one) => vec![one],
    }))
}

#[derive(Deserialize)]
struct Raw {
    created: Option<String>,
    author: Option<String>,
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    docker_version: Option<String>,
    comment: Option<String>,
    config: Option<Object<ContainerConfig>>,
    history: Option<Vec<Object<History>>>,
}

impl FullConfig {
    /// Parses a config document.
    ///
    /// # Errors
    /// Whatever [`Config::parse`] refuses, [`Kind::Limit`] for a document or a history that is
    /// too long, [`Kind::BadInput`] for fields of the wrong type.
    pub fn parse(raw: impl Into<Bytes>) -> Result<Self> {
        let raw: Bytes = raw.into();
        if raw.len() as u64 > super::config::MAX_BYTES {
            let m = format!("an image config of {} bytes", raw.len());
            return Err(Error::new(Kind::Limit, m)
                .with_hint("no tool writes documents of this size: do not trust this image"));
        }
        let checked = Config::parse(&raw)?;
        let Object(doc): Object<Raw> = json::parse("image config", &raw, &RULES)?;
        let history = doc.history.unwrap_or_default();
        if history.len() > MAX_HISTORY {
            let m = format!("an image's history has {} entries", history.len());
            return Err(Error::new(Kind::Limit, m)
                .with_hint("no tool writes histories of this length: do not trust this image"));
        }
        let text = Option::unwrap_or_default;
        Ok(Self {
            created: doc.created.filter(|t| !t.is_empty()),
            author: text(doc.author),
            os: text(doc.os),
            architecture: text(doc.architecture),
            variant: text(doc.variant),
            os_version: text(doc.os_version),
            docker_version: text(doc.docker_version),
            comment: text(doc.comment),
            config: doc.config.map(|Object(config)| config),
            history: history.into_iter().map(|Object(entry)| entry).collect(),
            diff_ids: checked.diff_ids,
            raw,
        })
    }

    /// What the image runs on, if the config says so.
    pub fn platform(&self) -> Option<Platform> {
        let said = !self.os.is_empty() && !self.architecture.is_empty();
        said.then(|| Platform::new(&self.os, &self.architecture, Some(&self.variant)))
    }

    /// When the image was made, in seconds since 1970; `None` if the config does not say.
    pub fn created_seconds(&self) -> Option<i64> {
        seconds(self.created.as_deref())
    }

    /// The document that holds these fields, for a new image. [`FullConfig::raw`] is not looked
    /// at, and fields that were not known when it was parsed are not in it.
    pub fn to_document(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Out<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            created: &'a Option<String>,
            #[serde(skip_serializing_if = "str::is_empty")]
            author: &'a str,
            architecture: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            variant: &'a str,
            os: &'a str,
            #[serde(rename = "os.version", skip_serializing_if = "str::is_empty")]
            os_version: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            comment: &'a str,
            config: &'a ContainerConfig,
            rootfs: Rootfs,
            #[serde(skip_serializing_if = "<[History]>::is_empty")]
            history: &'a [History],
        }
        #[derive(Serialize)]
        struct Rootfs {
            r#type: &'static str,
            diff_ids: Vec<String>,
        }
        let empty = ContainerConfig::default();
        let out = Out {
            created: &self.created,
            author: &self.author,
            architecture: &self.architecture,
            variant: &self.variant,
            os: &self.os,
            os_version: &self.os_version,
            comment: &self.comment,
            config: self.config.as_ref().unwrap_or(&empty),
            rootfs: Rootfs {
                r#type: "layers",
                diff_ids: self.diff_ids.iter().map(Digest::to_string).collect(),
            },
            history: &self.history,
        };
        // Maps with keys other than text are what cannot be written, and there are none.
        serde_json::to_vec(&out).unwrap_or_default()
    }
}

impl History {
    /// When, in seconds since 1970; `None` if it is not said.
    pub fn created_seconds(&self) -> Option<i64> {
        seconds(self.created.as_deref())
    }
}

fn seconds(text: Option<&str>) -> Option<i64> {
    let time: jiff::Timestamp = text?.parse().ok()?;
    Some(time.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(more: &str) -> Result<FullConfig> {
        let text = format!(
            r#"{{"architecture":"arm64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{ID}"]}}{more}}}"#
        );
        FullConfig::parse(text.into_bytes())
    }

    #[test]
    fn all_fields() {
        let c = parse(
            r#","variant":"v8","os.version":"1","created":"2024-01-02T03:04:05.678Z","author":"me",
            "comment":"c","docker_version":"1.0","container_config":{"Env":3},"unknown":[1],
            "config":{"Hostname":"h","User":"u:g","ExposedPorts":{"80/tcp":{}},"Env":["A=b"],
            "Entrypoint":["/e"],"Cmd":"/old","Volumes":{"/v":{}},"WorkingDir":"/w",
            "Labels":{"User":"x"},"StopSignal":"9","Shell":["/bin/bash","-c"],"OnBuild":["RUN x"],
            "ArgsEscaped":true,"Healthcheck":{"Test":["NONE"],"Interval":5,"Retries":null}},
            "history":[{"created":"2024-01-02T03:04:05+02:00","created_by":"x","empty_layer":true},
            {"comment":null,"author":"a"}]"#,
        )
        .unwrap();
        assert_eq!(c.platform().unwrap().to_string(), "linux/arm64/v8");
        assert_eq!(c.created_seconds(), Some(1_704_164_645));
        assert_eq!((&*c.os_version, &*c.author, &*c.comment), ("1", "me", "c"));
        let run = c.config.as_ref().unwrap();
        assert_eq!(run.cmd.as_deref(), Some(&["/old".to_owned()][..]));
        assert_eq!(run.exposed_ports.as_ref().unwrap().len(), 1);
        assert_eq!((run.user.as_str(), run.args_escaped), ("u:g", true));
        assert_eq!(run.healthcheck.as_ref().unwrap().interval, 5);
        assert_eq!(c.history[0].created_seconds(), Some(1_704_164_645 - 7200));
        assert!(c.history[0].empty_layer && !c.history[1].empty_layer);
        assert!(c.raw.starts_with(b"{\"architecture\""));
        // What is written again says the same.
        let again = FullConfig::parse(c.to_document()).unwrap();
        let same = FullConfig {
            raw: again.raw.clone(),
            docker_version: String::new(),
            ..c
        };
        assert_eq!(again, same);
    }

    #[test]
    fn empty_and_null() {
        let c = parse("").unwrap();
        assert_eq!(
            (c.config.is_none(), c.created, c.history.len()),
            (true, None, 0)
        );
        let c = parse(
            r#","config":{"User":null,"Env":null,"Cmd":null,"Labels":null,"Volumes":null},
            "history":null,"created":null,"author":null"#,
        )
        .unwrap();
        assert_eq!(c.config, Some(ContainerConfig::default()));
        assert_eq!(
            parse(r#","created":"yesterday""#)
                .unwrap()
                .created_seconds(),
            None
        );
    }

    #[test]
    fn refuses() {
        let long = format!(r#","history":[{}{{}}]"#, "{},".repeat(MAX_HISTORY));
        for (more, kind, part) in [
            (r#","config":[]"#, Kind::BadInput, "an object"),
            (r#","config":{"Env":{}}"#, Kind::BadInput, "sequence"),
            (r#","config":{"Env":[1]}"#, Kind::BadInput, "string"),
            (r#","config":{"Env":[],"Env":[]}"#, Kind::BadInput, "twice"),
            (r#","Created":"x""#, Kind::BadInput, "another spelling"),
            (&long, Kind::Limit, "history"),
        ] {
            let e = parse(more).unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(
                e.message().contains(part) && e.hint().is_some(),
                "{more:.60}: {e}"
            );
        }
        let e = FullConfig::parse(vec![b' '; 9 << 20]).unwrap_err();
        assert_eq!(e.kind(), Kind::Limit);
    }
}
