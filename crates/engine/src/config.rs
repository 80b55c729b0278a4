//! The configuration file, `/etc/unlade/config.toml`, and the environment that overrides it.
//!
//! `UNLADE_CONFIG` names another file, `UNLADE_ROOT` and `UNLADE_RUN_ROOT` other directories,
//! `UNLADE_FLUSH` another value of `flush`. A key that is not known is an error: a setting that is
//! passed over in silence helps nobody.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    error::{Error, Kind, Result},
    user::{self, Directories},
};

/// Where the configuration is unless the environment says otherwise.
pub const PATH: &str = "/etc/unlade/config.toml";
/// The machine's own run root.
pub const RUN_ROOT: &str = "/run/unlade";
/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The graph drivers that there are.
const DRIVERS: [&str; 5] = ["overlay", "erofs", "btrfs", "reflink", "copy"];

/// What is configured, with the defaults where nothing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What must survive a reboot: images, layers, blobs. Default `/var/lib/unlade`, for ordinary
    /// users `$XDG_DATA_HOME/unlade`.
    pub root: PathBuf,
    /// What need not. Default `/run/unlade`, for ordinary users `$XDG_RUNTIME_DIR/unlade`.
    pub run_root: PathBuf,
    /// The graph driver. Default: the best that works under the root.
    pub graph_driver: Option<String>,
    /// Whether compressed blobs are kept. Default: always.
    pub keep_blobs: KeepBlobs,
    /// What a pull waits for. Default: fenced.
    pub durability: Durability,
    /// Who waits for the disk after a pull that did not. Default: a process started for that.
    pub flush: Flush,
    /// Layers that are fetched at once. Default 6.
    pub max_concurrent_downloads: usize,
    /// Name or path of the OCI runtime. Default: `runc`, or else `crun`.
    pub runtime: Option<String>,
    /// The shim's program. Default: `unlade-shim` beside this one, or else in `PATH`.
    pub shim: Option<PathBuf>,
    /// Directories with files of CDI; the last comes first. Default: `/etc/cdi`, `/var/run/cdi`.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// How registries are reached.
    pub registry: Registry,
    /// How containers get a network.
    pub network: Network,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
}

/// Whether compressed blobs are kept once their layers are unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepBlobs {
    /// They are: `push` and `save` give back the bytes that were pulled.
    #[default]
    Always,
    /// They are not: less disk, but `push` has to compress again.
    Never,
}

/// What a pull waits for before its image is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Nothing: after a power cut, layers that had not reached the disk are verified or fetched
    /// again before they are trusted.
    #[default]
    Fenced,
    /// That all of it is on the disk.
    Sync,
}

/// Who waits for the disk to have what a pull, load or import has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flush {
    /// A process of its own, at once, beside whatever comes next.
    #[default]
    Soon,
    /// The next command that works on the store, beside its work.
    Later,
}

/// How registries are reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Registry {
    /// Mirrors of Docker Hub, tried in order before it, as URLs or hosts.
    pub mirrors: Vec<String>,
    /// Registries that may be spoken to without TLS or with a certificate that does not verify:
    /// hosts with or without a port, and networks such as `10.0.0.0/8`.
    pub insecure_registries: Vec<String>,
    /// Directories with one directory a host, which holds `hosts.toml` or certificates. Default:
    /// those of containerd, Docker and Podman.
    pub certs_dirs: Option<Vec<PathBuf>>,
    /// Podman's configuration of registries. Default: where Podman has it.
    pub registries_conf: Option<PathBuf>,
}

/// How containers get a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Network {
    /// The program that makes interfaces and firewall rules. Default: `netavark` where
    /// distributions have it, or in `PATH`.
    pub netavark: Option<PathBuf>,
    /// The program that answers for containers' names. Default: as for `netavark`.
    pub aardvark_dns: Option<PathBuf>,
    /// What networks get their subnets from, as `172.16.0.0/12 by 16`. Default: Docker's.
    pub address_pools: Vec<String>,
    /// Whether the bridge of the default network, and the firewall's rules for it, stay when the
    /// last container leaves, as Docker's do. Default: only with the machine's own run root,
    /// [`RUN_ROOT`], since those of other stores would outlive their stores.
    pub keep_bridge: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Raw {
    root: Option<PathBuf>,
    run_root: Option<PathBuf>,
    graph_driver: Option<String>,
    keep_blobs: KeepBlobs,
    durability: Durability,
    flush: Flush,
    max_concurrent_downloads: Option<usize>,
    runtime: Option<String>,
    shim: Option<PathBuf>,
    cdi_spec_dirs: Option<Vec<PathBuf>>,
    registry: Registry,
    network: Network,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/unlade".into(),
            run_root: RUN_ROOT.into(),
            graph_driver: None,
            keep_blobs: KeepBlobs::default(),
            durability: Durability::default(),
            flush: Flush::default(),
            max_concurrent_downloads: 6,
            runtime: None,
            shim: None,
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            registry: Registry::default(),
            network: Network::default(),
            file: None,
        }
    }
}

impl Config {
    /// Reads the file that the environment names, or else [`PATH`] if it is there. An ordinary
    /// user's own comes before that, and he has other directories: see [`Directories`].
    ///
    /// # Errors
    /// [`Kind::BadInput`] with file, line and key for what is not understood,
    /// [`Kind::NotFound`] if `UNLADE_CONFIG` names no file, [`Kind::Host`] if it cannot be read.
    pub fn load() -> Result<Self> {
        let environment = |name: &str| std::env::var_os(name);
        let Some(user) = user::ordinary() else {
            return Self::load_from(Path::new(PATH), environment);
        };
        let own = Directories::of(user, environment)?;
        let is_own = own.config.exists();
        let default = if is_own { &own.config } else { Path::new(PATH) };
        let mut config = Self::load_from(default, environment)?;
        // The machine's file says where root's are.
        let machine = config.file.as_deref() == Some(Path::new(PATH));
        let root = Self::default();
        let set = |name| environment(name).is_some_and(|v| !v.is_empty());
        if !set("UNLADE_ROOT") && (machine || config.root == root.root) {
            config.root = own.root;
        }
        if !set("UNLADE_RUN_ROOT") && (machine || config.run_root == root.run_root) {
            config.run_root = own.run_root;
        }
        Ok(config)
    }

    /// As [`Config::load`], with another default and another environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_from(
        default: &Path,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let set = |name: &str| environment(name).filter(|v| !v.is_empty());
        let named = set("UNLADE_CONFIG").map(PathBuf::from);
        let path = named.as_deref().unwrap_or(default);
        let mut config = match read(path)? {
            Some(text) => Self {
                file: Some(path.to_owned()),
                ..Self::parse(&text, path)?
            },
            None if named.is_none() => Self::default(),
            None => {
                let m = format!("the configuration `{}` is not there", path.display());
                return Err(Error::new(Kind::NotFound, m)
                    .with_hint("UNLADE_CONFIG names it: create the file or unset the variable"));
            }
        };
        for (name, field) in [
            ("UNLADE_ROOT", &mut config.root),
            ("UNLADE_RUN_ROOT", &mut config.run_root),
        ] {
            if let Some(value) = set(name) {
                *field = absolute(value.into(), name)?;
            }
        }
        match set("UNLADE_FLUSH").as_deref().map(|v| v.to_str()) {
            None => {}
            Some(Some("soon")) => config.flush = Flush::Soon,
            Some(Some("later")) => config.flush = Flush::Later,
            Some(_) => {
                let m = "UNLADE_FLUSH says neither soon nor later";
                return Err(Error::new(Kind::BadInput, m).with_hint("set it to one, or unset it"));
            }
        }
        Ok(config)
    }

    /// Parses the text of a configuration; `path` is for messages.
    ///
    /// # Errors
    /// [`Kind::BadInput`] with file, line and key.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let raw: Raw = toml::from_str(text).map_err(|e| syntax(&e, text, path))?;
        let wrong = |key: &str, message: String, hint: String| {
            let at = line_of(text, key).map_or_else(String::new, |n| format!(", line {n}"));
            let m = format!("`{}`{at}: `{key}`: {message}", path.display());
            Error::new(Kind::BadInput, m).with_hint(hint)
        };
        let default = Self::default();
        let directory = |key: &str, value: Option<PathBuf>, default: PathBuf| match value {
            Some(path) if !path.is_absolute() => {
                let m = format!("`{}` does not start with a slash", path.display());
                Err(wrong(key, m, "write the whole path".into()))
            }
            Some(path) => Ok(path),
            None => Ok(default),
        };
        if let Some(driver) = &raw.graph_driver
            && !DRIVERS.contains(&&**driver)
        {
            let hint = format!(
                "drivers are {}; leave the key out for the best",
                DRIVERS.join(", ")
            );
            return Err(wrong(
                "graph-driver",
                format!("there is no driver `{driver}`"),
                hint,
            ));
        }
        if raw
            .max_concurrent_downloads
            .is_some_and(|n| n == 0 || n > 64)
        {
            let m = "out of range".to_owned();
            return Err(wrong(
                "max-concurrent-downloads",
                m,
                "write a number from 1 to 64".into(),
            ));
        }
        let shim = match raw.shim {
            Some(path) => Some(directory("shim", Some(path), PathBuf::new())?),
            None => None,
        };
        let cdi = raw.cdi_spec_dirs.unwrap_or(default.cdi_spec_dirs);
        let cdi = cdi
            .into_iter()
            .map(|dir| directory("cdi-spec-dirs", Some(dir), PathBuf::new()));
        Ok(Self {
            cdi_spec_dirs: cdi.collect::<Result<_>>()?,
            root: directory("root", raw.root, default.root)?,
            run_root: directory("run-root", raw.run_root, default.run_root)?,
            graph_driver: raw.graph_driver,
            keep_blobs: raw.keep_blobs,
            durability: raw.durability,
            flush: raw.flush,
            max_concurrent_downloads: raw
                .max_concurrent_downloads
                .unwrap_or(default.max_concurrent_downloads),
            runtime: raw.runtime.filter(|name| !name.is_empty()),
            shim,
            registry: raw.registry,
            network: raw.network,
            file: None,
        })
    }
}

fn absolute(path: PathBuf, variable: &str) -> Result<PathBuf> {
    if path.is_absolute() {
        return Ok(path);
    }
    let m = format!(
        "{variable}=`{}` does not start with a slash",
        path.display()
    );
    Err(Error::new(Kind::BadInput, m).with_hint("write the whole path"))
}

/// The file's text; `None` if it is not there.
fn read(path: &Path) -> Result<Option<String>> {
    let failed = |e| Error::host(format!("read the configuration `{}`", path.display()), e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        let m = format!(
            "the configuration `{}` is longer than {MAX_BYTES} bytes",
            path.display()
        );
        return Err(Error::new(Kind::Limit, m).with_hint("is this the right file?"));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| {
        let m = format!("the configuration `{}` is not UTF-8 text", path.display());
        Error::new(Kind::BadInput, m).with_hint("is this the right file?")
    })
}

/// An error of the TOML parser, with the place.
fn syntax(e: &toml::de::Error, text: &str, path: &Path) -> Error {
    let at = e.span().map_or(0, |s| s.start);
    let before = text.get(..at).unwrap_or(text);
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let key = match line.split_once('=') {
        Some((key, _)) => format!(" `{}`:", key.trim()),
        None => String::new(),
    };
    let first = e.message().lines().next().unwrap_or("not TOML");
    let m = format!("`{}`, line {number}:{key} {first}", path.display());
    let hint = if first.starts_with("unknown field") || first.starts_with("unknown variant") {
        "correct or remove it; what is not known is not passed over"
    } else {
        "the file is TOML: key = \"value\", and [registry] before that section's keys"
    };
    Error::new(Kind::BadInput, m).with_hint(hint)
}

/// The line that sets `key`, from 1.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let sets = |line: &str| {
        let rest = line.trim_start().strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    text.lines().position(sets).map(|n| n + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new("c.toml"))
    }

    #[test]
    fn every_key() {
        assert_eq!(parse("").unwrap(), Config::default());
        let text = r#"
            root = "/r"
            run-root = "/rr"
            graph-driver = "erofs"
            keep-blobs = "never"
            durability = "sync"
            flush = "later"
            max-concurrent-downloads = 3
            runtime = "crun"
            shim = "/s"
            cdi-spec-dirs = ["/cdi"]
            [registry]
            mirrors = ["https://m.example"]
            insecure-registries = ["10.0.0.0/8", "host:5000"]
            certs-dirs = ["/certs"]
            registries-conf = "/c"
        "#;
        let config = parse(text).unwrap();
        let registry = Registry {
            mirrors: vec!["https://m.example".into()],
            insecure_registries: vec!["10.0.0.0/8".into(), "host:5000".into()],
            certs_dirs: Some(vec!["/certs".into()]),
            registries_conf: Some("/c".into()),
        };
        let want = Config {
            root: "/r".into(),
            run_root: "/rr".into(),
            graph_driver: Some("erofs".into()),
            keep_blobs: KeepBlobs::Never,
            durability: Durability::Sync,
            flush: Flush::Later,
            max_concurrent_downloads: 3,
            runtime: Some("crun".into()),
            shim: Some("/s".into()),
            cdi_spec_dirs: vec!["/cdi".into()],
            registry,
            network: Network::default(),
            file: None,
        };
        assert_eq!(config, want);
    }

    #[test]
    fn errors_say_where() {
        for (text, parts) in [
            (
                "\nrot = 1",
                &[
                    "`c.toml`, line 2: `rot`: unknown field `rot`",
                    "expected one of",
                ][..],
            ),
            (
                "[registry]\nmirror = []",
                &["line 2: `mirror`: unknown field"],
            ),
            ("root = 3", &["line 1: `root`: invalid type: integer"]),
            (
                "root = \"r\"",
                &["line 1: `root`: `r` does not start with a slash"],
            ),
            (
                "# x\nkeep-blobs = \"no\"",
                &["line 2: `keep-blobs`: unknown variant `no`"],
            ),
            (
                "graph-driver = \"zfs\"",
                &["line 1: `graph-driver`: there is no driver `zfs`"],
            ),
            (
                "max-concurrent-downloads = 0",
                &["`max-concurrent-downloads`: out of range"],
            ),
            (
                "max-concurrent-downloads = -1",
                &["line 1: `max-concurrent-downloads`: invalid value"],
            ),
            ("root = \"", &["line 1: `root`: "]),
            ("root", &["line 1:"]),
            (
                "root = \"/a\"\nroot = \"/b\"",
                &["line 2: `root`: duplicate key"],
            ),
        ] {
            let e = parse(text).unwrap_err();
            assert_eq!(
                (e.kind(), e.hint().is_some()),
                (Kind::BadInput, true),
                "{e:?}"
            );
            for part in parts {
                assert!(e.message().contains(part), "{text:?}: {e}");
            }
        }
    }

    #[test]
    fn environment_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        let load = |pairs: &[(&str, &str)]| {
            Config::load_from(&file, |name| {
                pairs
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| v.into())
            })
        };
        assert_eq!(load(&[("UNLADE_ROOT", "")]).unwrap(), Config::default());
        std::fs::write(&file, "root = \"/r\"\nrun-root = \"/s\"").unwrap();
        let config = load(&[("UNLADE_ROOT", "/other")]).unwrap();
        assert_eq!(
            (config.root, config.run_root),
            ("/other".into(), "/s".into())
        );
        assert_eq!(config.file.as_deref(), Some(&*file));
        let e = load(&[("UNLADE_CONFIG", "/nonexistent/x")]).unwrap_err();
        assert_eq!((e.kind(), e.hint().is_some()), (Kind::NotFound, true));
        let e = load(&[("UNLADE_RUN_ROOT", "rel")]).unwrap_err();
        assert!(e.message().contains("UNLADE_RUN_ROOT=`rel`"), "{e}");
        let e = load(&[("UNLADE_CONFIG", dir.path().to_str().unwrap())]).unwrap_err();
        assert_eq!(e.kind(), Kind::Host);
        std::fs::write(&file, b"\xff").unwrap();
        assert_eq!(load(&[]).unwrap_err().kind(), Kind::BadInput);
        std::fs::write(&file, vec![b'\n'; 2 << 20]).unwrap();
        assert_eq!(load(&[]).unwrap_err().kind(), Kind::Limit);
    }
}
