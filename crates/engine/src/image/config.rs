//! The image config: of its many fields, those that unpacking needs.

use serde::Deserialize;
use unlade_unpack::{Digest, Error, Kind, Result};

use super::{
    json::{self, Object, Rules, show},
    platform::Platform,
};

/// Largest config that is read, in bytes.
pub const MAX_BYTES: u64 = 8 << 20;

const RULES: Rules = Rules {
    known: &[
        "architecture",
        "os",
        "variant",
        "rootfs",
        "type",
        "diff_ids",
    ],
    free: &["config", "container_config", "history", "annotations"],
};

/// A checked image config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What the image runs on, if the config says so.
    pub platform: Option<Platform>,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Raw {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    rootfs: Option<Object<RawRootfs>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    r#type: String,
    diff_ids: Option<Vec<String>>,
}

impl Config {
    /// Parses a config document.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for a document that is not a config or is ambiguous,
    /// [`Kind::Unsupported`] for a rootfs other than layers.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let Object(raw): Object<Raw> = json::parse("image config", bytes, &RULES)?;
        let Object(rootfs) = raw.rootfs.ok_or_else(|| {
            let e = Error::new(Kind::BadInput, "the config has no `rootfs`");
            e.with_hint("this is not the config of a container image (an artifact?)")
        })?;
        if rootfs.r#type != "layers" {
            let m = format!("rootfs type `{}` is not `layers`", show(&rootfs.r#type));
            return Err(Error::new(Kind::Unsupported, m)
                .with_hint("only images whose root is made of layers can be unpacked"));
        }
        let diff_ids = rootfs.diff_ids.unwrap_or_default();
        let diff_ids = diff_ids
            .iter()
            .map(|d| json::digest(d))
            .collect::<Result<_>>()?;
        let platform = match (raw.os, raw.architecture) {
            (Some(os), Some(arch)) if !os.is_empty() && !arch.is_empty() => {
                Some(Platform::new(&os, &arch, raw.variant.as_deref()))
            }
            _ => None,
        };
        Ok(Self { platform, diff_ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_needed() {
        let d = Digest::of(unlade_unpack::Algorithm::Sha256, b"x");
        let text = format!(
            r#"{{"architecture":"arm64","os":"linux","variant":"v8","created":"x","config":
               {{"Labels":{{"OS":"1"}}}},"rootfs":{{"type":"layers","diff_ids":["{d}"]}}}}"#
        );
        let c = Config::parse(text.as_bytes()).unwrap();
        assert_eq!(c.diff_ids, [d]);
        assert_eq!(c.platform.unwrap().to_string(), "linux/arm64/v8");
        let c = Config::parse(br#"{"rootfs":{"type":"layers","diff_ids":null}}"#).unwrap();
        assert!(c.diff_ids.is_empty() && c.platform.is_none());
    }

    #[test]
    fn refuses() {
        for (text, part) in [
            ("{}", "no `rootfs`"),
            (
                r#"{"rootfs":{"type":"layers+base","diff_ids":[]}}"#,
                "layers+base",
            ),
            (
                r#"{"rootfs":{"type":"layers","diff_ids":["sha256:AB"]}}"#,
                "sha256:AB",
            ),
            (
                r#"{"rootfs":{"type":"layers","Diff_ids":[]}}"#,
                "another spelling",
            ),
            ("[]", "invalid type"),
        ] {
            let e = Config::parse(text.as_bytes()).unwrap_err();
            assert!(e.message().contains(part), "{text}: {e}");
        }
    }
}
