//! `registries.conf`, version 2: Podman's rules for registries.
//!
//! Short names are not looked up here: what has no registry is Docker Hub's, as with Docker.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    error::{Error, Kind, Result},
    image::{Reference, json::show},
};

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Entry>,
    registries: Option<toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorEntry {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<String>,
}

/// What a mirror is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pull {
    All,
    DigestOnly,
    TagOnly,
}

/// All rules, of all files.
#[derive(Debug, Default)]
pub struct Registries(Vec<Registry>);

/// The rules for what starts with a prefix.
#[derive(Debug)]
pub(super) struct Registry {
    prefix: String,
    /// What stands instead of the prefix; empty if it stays.
    pub(super) location: String,
    pub(super) insecure: bool,
    pub(super) blocked: bool,
    pub(super) mirror_by_digest_only: bool,
    pub(super) mirrors: Vec<Mirror>,
}

#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) location: String,
    pub(super) insecure: bool,
    pub(super) pull: Pull,
}

impl Registries {
    /// Reads files and directories of files; what is not there is left out.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Self::default();
        for path in paths {
            match fs::read_dir(path) {
                Ok(entries) => {
                    let mut files: Vec<_> = entries.flatten().map(|e| e.path()).collect();
                    files.retain(|p| p.extension().is_some_and(|e| e == "conf"));
                    files.sort();
                    for file in files {
                        all.add_file(&file)?;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotADirectory => all.add_file(path)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::host(format!("read {}", path.display()), e)),
            }
        }
        Ok(all)
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let doing = || format!("read {}", path.display());
        let size = fs::metadata(path)
            .map_err(|e| Error::host(doing(), e))?
            .len();
        if size > MAX_FILE {
            let m = format!("{} is too large", path.display());
            return Err(Error::new(Kind::Limit, m).with_hint("is it a registries.conf?"));
        }
        let text = fs::read_to_string(path).map_err(|e| Error::host(doing(), e))?;
        self.add(&text).map_err(|e| e.context(path.display()))
    }

    /// Adds a file's rules; they win over earlier ones of the same prefix.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for what is not TOML of version 2.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let hint = "see containers-registries.conf(5)";
        let bad = |m: String| Error::new(Kind::BadInput, m).with_hint(hint);
        let file: File = toml::from_str(text).map_err(|e| bad(show(e.message())))?;
        if file.registries.is_some() {
            return Err(bad("version 1 of registries.conf is not read".to_owned()));
        }
        for entry in file.registry {
            let trimmed = |text: String| text.trim_end_matches('/').to_owned();
            let location = trimmed(entry.location.unwrap_or_default());
            let prefix = entry.prefix.map(trimmed).filter(|p| !p.is_empty());
            let prefix = prefix.unwrap_or_else(|| location.clone());
            if prefix.is_empty() {
                return Err(bad("an entry has neither prefix nor location".to_owned()));
            }
            if prefix.contains("://") || location.contains("://") {
                let m = format!("`{}` has a scheme, which it must not", show(&prefix));
                return Err(bad(m));
            }
            let mut mirrors = Vec::new();
            for mirror in entry.mirror {
                let pull = match mirror.pull_from_mirror.as_deref() {
                    None | Some("" | "all") => Pull::All,
                    Some("digest-only") => Pull::DigestOnly,
                    Some("tag-only") => Pull::TagOnly,
                    Some(word) => {
                        let m = format!("pull-from-mirror is `{}`", show(word));
                        return Err(bad(m));
                    }
                };
                let location = trimmed(mirror.location);
                if location.is_empty() || location.contains("://") {
                    let m = format!("`{}` is no location of a mirror", show(&location));
                    return Err(bad(m));
                }
                mirrors.push(Mirror {
                    location,
                    insecure: mirror.insecure,
                    pull,
                });
            }
            self.0.retain(|known| known.prefix != prefix);
            self.0.push(Registry {
                prefix,
                location,
                insecure: entry.insecure,
                blocked: entry.blocked,
                mirror_by_digest_only: entry.mirror_by_digest_only,
                mirrors,
            });
        }
        Ok(())
    }

    /// Where `reference`'s repository is looked for, in order: host and path of its mirrors and
    /// of the registry. Nothing if no rule is for it, or it is blocked.
    pub fn locations(&self, reference: &Reference) -> Vec<String> {
        let Some(rules) = self.find(reference).filter(|r| !r.blocked) else {
            return Vec::new();
        };
        let mirrors = rules.mirrors.iter().map(|m| &m.location);
        mirrors
            .chain([&rules.location])
            .map(|location| rules.rewrite(location, reference))
            .collect()
    }

    /// The rules with the longest prefix of `reference`.
    pub(super) fn find(&self, reference: &Reference) -> Option<&Registry> {
        let name = reference.to_string();
        let matching = self.0.iter().filter(|r| r.matched(&name).is_some());
        matching.max_by_key(|r| r.prefix.len())
    }
}

impl Registry {
    /// How much of `name` the prefix stands for.
    fn matched(&self, name: &str) -> Option<usize> {
        let end = match self.prefix.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') => {
                let at = name.find(suffix)?;
                if at == 0 || name[..at].contains('/') {
                    return None;
                }
                at + suffix.len()
            }
            _ => {
                name.strip_prefix(&*self.prefix)?;
                self.prefix.len()
            }
        };
        matches!(name[end..].chars().next(), None | Some('/' | ':' | '@')).then_some(end)
    }

    /// `reference`'s repository with `location` for the prefix: host and path.
    pub(super) fn rewrite(&self, location: &str, reference: &Reference) -> String {
        let name = reference.repository();
        match self.matched(&name) {
            Some(end) if !location.is_empty() => format!("{location}{}", &name[end..]),
            // A prefix with a tag in it stands for the whole repository.
            None if !location.is_empty() => location.to_owned(),
            _ => name,
        }
    }
}
