//! User names and passwords: the files of Docker and of Podman, and their helper programs.

use std::{
    env, fmt, fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{helper::Helper, secret::Secret};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Under which Docker Hub's credentials are kept.
pub const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Largest credential file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// The user name that stands for an identity token.
const TOKEN_USER: &str = "<token>";

/// What a registry is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User name and password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that the registry's token server gave at a login.
    IdentityToken(Secret),
    /// A token to send as it is.
    RegistryToken(Secret),
}

/// Where credentials come from. May block.
pub trait CredentialSource: Send + Sync + fmt::Debug {
    /// Those for `repository` of the registry `host` (with port; `docker.io` for Docker Hub).
    ///
    /// # Errors
    /// When there may be some, but they cannot be read.
    fn find(&self, host: &str, repository: &str) -> Result<Option<Credentials>>;
}

/// The same credentials for one registry, as with `--creds` or over an API.
#[derive(Debug, Clone)]
pub struct Fixed {
    /// The registry, as [`CredentialSource::find`] gets it.
    pub host: String,
    /// Its credentials.
    pub credentials: Credentials,
}

impl CredentialSource for Fixed {
    fn find(&self, host: &str, _: &str) -> Result<Option<Credentials>> {
        Ok((host == self.host).then(|| self.credentials.clone()))
    }
}

/// Credential files in the order in which they are searched.
#[derive(Debug, Clone)]
pub struct CredentialFiles {
    /// `config.json` of Docker, `auth.json` of Podman, and `.dockercfg`.
    pub files: Vec<PathBuf>,
    /// The file that a login is written to.
    pub store: Option<PathBuf>,
    /// Where `docker-credential-*` are looked for, as in `PATH`.
    pub helper_path: Option<std::ffi::OsString>,
    /// How long a helper may take. Default: 30 s.
    pub helper_timeout: Duration,
}

impl Default for CredentialFiles {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            store: None,
            helper_path: None,
            helper_timeout: Duration::from_secs(30),
        }
    }
}

impl CredentialSource for CredentialFiles {
    fn find(&self, host: &str, repository: &str) -> Result<Option<Credentials>> {
        for path in &self.files {
            let Some(file) = AuthFile::read(path)? else {
                continue;
            };
            if let Some(found) = self.find_in(&file, host, repository)? {
                tracing::debug!(host, file = %path.display(), "credentials found");
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl CredentialFiles {
    /// The files of this user: Podman's (`REGISTRY_AUTH_FILE`, `auth.json`), then Docker's
    /// (`DOCKER_CONFIG`, `~/.docker/config.json`, `~/.dockercfg`). Logins go to
    /// `REGISTRY_AUTH_FILE` if that is set, else to Docker's.
    pub fn from_environment() -> Self {
        let var = |name| {
            env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let home = var("HOME");
        let in_home = |rest: &str| home.as_ref().map(|h| h.join(rest));
        let chosen = var("REGISTRY_AUTH_FILE");
        let docker = var("DOCKER_CONFIG")
            .or_else(|| in_home(".docker"))
            .map(|d| d.join("config.json"));
        let run = var("XDG_RUNTIME_DIR").unwrap_or_else(|| {
            PathBuf::from(format!(
                "/run/containers/{}",
                rustix::process::getuid().as_raw()
            ))
        });
        let run = match env::var_os("XDG_RUNTIME_DIR") {
            Some(_) => run.join("containers/auth.json"),
            None => run.join("auth.json"),
        };
        let config = var("XDG_CONFIG_HOME").or_else(|| in_home(".config"));
        let store = chosen.clone().or_else(|| docker.clone());
        let files = [
            chosen,
            Some(run),
            config.map(|c| c.join("containers/auth.json")),
            docker,
            in_home(".dockercfg"),
        ];
        Self {
            files: files.into_iter().flatten().collect(),
            store,
            helper_path: env::var_os("PATH"),
            ..Self::default()
        }
    }

    fn helper(&self, name: &str) -> Result<Helper> {
        Helper::find(name, self.helper_path.as_deref(), self.helper_timeout)
    }

    fn find_in(
        &self,
        file: &AuthFile,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credentials>> {
        let key = server_key(host);
        let helper = file.helper_for(host).map(str::to_owned);
        if let Some(name) = &helper
            && let Some(found) = self.helper(name)?.get(key)?
        {
            return Ok(Some(found));
        }
        file.find(host, repository)
    }

    /// Keeps `credentials` for `host`, with the helper that the file names for it, if any.
    /// Returns where they went.
    ///
    /// # Errors
    /// [`Kind::Host`] if the file cannot be written or the helper fails.
    pub fn store(&self, host: &str, credentials: &Credentials) -> Result<String> {
        let path = self.store_path()?;
        let mut file = AuthFile::read(path)?.unwrap_or_else(|| AuthFile::empty(path));
        let key = server_key(host);
        if let Some(name) = file.helper_for(host).map(str::to_owned) {
            self.helper(&name)?.store(key, credentials)?;
            // As Docker does: the entry says that there is a login, and holds nothing.
            file.set(key, json!({}));
            file.write()?;
            return Ok(format!("docker-credential-{name}"));
        }
        let entry = match credentials {
            Credentials::Password { user, password } => {
                json!({"auth": STANDARD.encode(format!("{user}:{}", password.expose()))})
            }
            Credentials::IdentityToken(token) => {
                json!({"auth": STANDARD.encode("00000000-0000-0000-0000-000000000000:"), "identitytoken": token.expose()})
            }
            Credentials::RegistryToken(token) => json!({"registrytoken": token.expose()}),
        };
        file.set(key, entry);
        file.write()?;
        Ok(path.display().to_string())
    }

    /// Forgets the credentials for `host` in every file and helper. Returns whether there were
    /// any.
    ///
    /// # Errors
    /// As [`CredentialFiles::store`].
    pub fn erase(&self, host: &str) -> Result<bool> {
        let mut any = false;
        for path in self.files.iter().chain(&self.store) {
            let Some(mut file) = AuthFile::read(path)? else {
                continue;
            };
            if let Some(name) = file.helper_for(host).map(str::to_owned) {
                let helper = self.helper(&name)?;
                if helper.get(server_key(host))?.is_some() {
                    helper.erase(server_key(host))?;
                    any = true;
                }
            }
            if file.remove(host) {
                file.write()?;
                any = true;
            }
        }
        Ok(any)
    }

    fn store_path(&self) -> Result<&Path> {
        self.store.as_deref().ok_or_else(|| {
            Error::new(Kind::Host, "there is no file to keep credentials in")
                .with_hint("set HOME, DOCKER_CONFIG or REGISTRY_AUTH_FILE")
        })
    }
}

/// What stands for `host` in files and with helpers.
pub fn server_key(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB_KEY,
        host => host,
    }
}

/// A key of a file without scheme and API path, as a host or a namespace.
fn bare_key(key: &str) -> &str {
    let key = key.strip_prefix("https://").unwrap_or(key);
    let key = key
        .strip_prefix("http://")
        .unwrap_or(key)
        .trim_end_matches('/');
    let cut = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2"));
    match cut.unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        key => key,
    }
}

/// One credential file.
#[derive(Clone)]
pub struct AuthFile {
    path: PathBuf,
    root: Map<String, Value>,
    /// `.dockercfg`: what is under `auths` elsewhere is at the top.
    flat: bool,
}

impl fmt::Debug for AuthFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthFile({})", self.path.display())
    }
}

impl AuthFile {
    fn empty(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            root: Map::new(),
            flat: path.file_name().is_some_and(|n| n == ".dockercfg"),
        }
    }

    fn read(path: &Path) -> Result<Option<Self>> {
        let missing = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            )
        };
        let bytes = match fs::metadata(path) {
            Err(e) if missing(&e) => return Ok(None),
            Ok(m) if m.len() > MAX_FILE => {
                let m = format!("credential file {} is too large", path.display());
                return Err(Error::new(Kind::Limit, m).with_hint("remove it and log in again"));
            }
            _ => fs::read(path)
                .map_err(|e| Error::host(format!("read credentials in {}", path.display()), e))?,
        };
        if bytes.trim_ascii().is_empty() {
            return Ok(Some(Self::empty(path)));
        }
        Self::parse(path, &bytes).map(Some)
    }

    /// Parses a file's contents; `path` says what form they have.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for what is not a JSON object.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        // The parser's message could quote a secret: only the place is told.
        let broken = |at: String| {
            let m = format!("credential file {} is not valid{at}", path.display());
            Error::new(Kind::BadInput, m).with_hint("repair it, or remove it and log in again")
        };
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|e| broken(format!(" JSON (line {}, column {})", e.line(), e.column())))?;
        let Value::Object(root) = value else {
            return Err(broken(": it is not an object".to_owned()));
        };
        Ok(Self {
            root,
            ..Self::empty(path)
        })
    }

    fn auths(&self) -> Option<&Map<String, Value>> {
        if self.flat {
            return Some(&self.root);
        }
        self.root.get("auths")?.as_object()
    }

    /// The helper that is responsible for `host`.
    pub fn helper_for(&self, host: &str) -> Option<&str> {
        let own = self.root.get("credHelpers").and_then(Value::as_object);
        let own = own.and_then(|map| {
            map.iter()
                .find(|(key, _)| bare_key(key) == bare_key(server_key(host)))
                .and_then(|(_, name)| name.as_str())
        });
        own.or_else(|| self.root.get("credsStore")?.as_str())
            .filter(|name| !name.is_empty())
    }

    /// The credentials in the file itself: those of the longest namespace that `host/repository`
    /// lies in, else the host's.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for an entry that cannot be read.
    pub fn find(&self, host: &str, repository: &str) -> Result<Option<Credentials>> {
        let Some(auths) = self.auths() else {
            return Ok(None);
        };
        let host = bare_key(server_key(host));
        let full = format!("{host}/{repository}");
        let covers = |key: &str| {
            full.strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut found: Vec<(&str, &Value)> = auths
            .iter()
            .map(|(key, entry)| (bare_key(key), entry))
            .filter(|(key, _)| covers(key))
            .collect();
        found.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        for (key, entry) in found {
            if let Some(credentials) = self.entry(key, entry)? {
                return Ok(Some(credentials));
            }
        }
        Ok(None)
    }

    fn entry(&self, key: &str, entry: &Value) -> Result<Option<Credentials>> {
        let text = |name| {
            entry
                .get(name)
                .and_then(Value::as_str)
                .filter(|t| !t.is_empty())
        };
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credentials::IdentityToken(Secret::new(token))));
        }
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Credentials::RegistryToken(Secret::new(token))));
        }
        let Some(auth) = text("auth") else {
            let pair = text("username").zip(text("password"));
            return Ok(pair.map(|(user, password)| password_of(user, password)));
        };
        let decoded = STANDARD.decode(auth.trim()).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        match pair {
            Some((user, password)) => Ok(Some(password_of(user, password.trim_end_matches('\0')))),
            None => {
                let m = format!(
                    "the entry for `{}` in {} cannot be read",
                    show(key),
                    self.path.display()
                );
                Err(Error::new(Kind::BadInput, m).with_hint("log in again"))
            }
        }
    }

    fn set(&mut self, key: &str, entry: Value) {
        if self.flat {
            self.root.insert(key.to_owned(), entry);
            return;
        }
        let auths = self.root.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        if let Some(map) = auths.as_object_mut() {
            map.insert(key.to_owned(), entry);
        }
    }

    fn remove(&mut self, host: &str) -> bool {
        let host = bare_key(server_key(host)).to_owned();
        let map = if self.flat {
            Some(&mut self.root)
        } else {
            self.root.get_mut("auths").and_then(Value::as_object_mut)
        };
        let Some(map) = map else {
            return false;
        };
        let before = map.len();
        map.retain(|key, _| bare_key(key) != host);
        map.len() != before
    }

    /// Writes the file anew and renames it into place; nobody else can read it.
    fn write(&self) -> Result<()> {
        // A symbolic link stays one.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let doing = || format!("write credentials to {}", path.display());
        let dir = path.parent().unwrap_or(Path::new("."));
        let mut text = serde_json::to_vec_pretty(&self.root)
            .map_err(|e| Error::new(Kind::Bug, format!("{}: {e}", doing())))?;
        text.push(b'\n');
        let write = || -> io::Result<()> {
            if !dir.exists() {
                use std::os::unix::fs::DirBuilderExt as _;
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(dir)?;
            }
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(io::Error::other)?;
            let name = format!(".unlade-{:016x}", u64::from_ne_bytes(random));
            let temporary = dir.join(name);
            let done = (|| {
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&temporary)?;
                file.write_all(&text)?;
                file.sync_all()?;
                fs::rename(&temporary, &path)
            })();
            if done.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            done
        };
        write().map_err(|e| Error::host(doing(), e))
    }
}

/// Credentials of a user name and a password, either of which may be a token's.
pub(super) fn password_of(user: &str, password: &str) -> Credentials {
    if user == TOKEN_USER {
        return Credentials::IdentityToken(Secret::new(password));
    }
    Credentials::Password {
        user: user.to_owned(),
        password: Secret::new(password),
    }
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
