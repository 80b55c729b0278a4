//! Everything a [`Client`](super::Client) depends on, so that tests and callers can replace it.

use std::{env, path::PathBuf, sync::Arc, time::Duration};

use super::{
    credentials::{CredentialFiles, CredentialSource},
    daemon_json,
};

/// How registries are found and talked to.
///
/// [`RegistryConfig::isolated`] looks at nothing of this machine;
/// [`RegistryConfig::from_environment`] reads what Docker, containerd and Podman read.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Sent with every request.
    pub user_agent: String,
    /// Directories in containerd's form: `<host>/hosts.toml`. The first that knows a host decides.
    pub hosts_dirs: Vec<PathBuf>,
    /// `registries.conf` files, and directories of such `*.conf` files; later ones win.
    pub registries_conf: Vec<PathBuf>,
    /// Directories in Docker's form: `<host[:port]>/{*.crt,*.cert,*.key}`.
    pub cert_dirs: Vec<PathBuf>,
    /// Mirrors of `docker.io`, tried in order before it, as Docker's `registry-mirrors`.
    pub mirrors: Vec<String>,
    /// Hosts (`host`, `host:port`) and networks (`10.0.0.0/8`, for hosts written as addresses)
    /// whose certificates are not checked and that may speak plain HTTP.
    pub insecure: Vec<String>,
    /// Hosts (`host`, `host:port`) that any registry may name as its token server or redirect to,
    /// wherever they lie.
    pub trusted_hosts: Vec<String>,
    /// Where user names and passwords come from.
    pub credentials: Arc<dyn CredentialSource>,
    /// Whether layers may be fetched from the URLs in a manifest (`urls`).
    pub foreign_layers: bool,
    /// Whether the certificates that this machine trusts are trusted.
    pub system_roots: bool,
    /// Which proxies to use.
    pub proxies: Proxies,
    /// Longest time until a connection stands. Default: 10 s.
    pub connect_timeout: Duration,
    /// Longest time without progress. Default: 30 s.
    pub stall_timeout: Duration,
    /// Fewest bytes of a body within `stall_timeout` that count as progress. Default: 1 KiB.
    pub stall_bytes: u64,
    /// How often a request is tried. Default: 5.
    pub max_tries: u32,
    /// First pause between two tries; each is twice the one before. Default: 500 ms.
    pub backoff: Duration,
    /// Longest pause, and longest `Retry-After` that is waited for. Default: 60 s.
    pub max_backoff: Duration,
    /// When one blob is fetched by several requests at once.
    pub parallel: ParallelRanges,
    /// Blobs over this size are uploaded in chunks of it, so that an upload can go on where it
    /// broke off. Default: 64 MiB.
    pub upload_chunk_bytes: u64,
    /// Makes pauses the same in every run.
    pub seed: Option<u64>,
}

/// When one blob is fetched by several requests at once: only where the network, not what is
/// done with the bytes, has been waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParallelRanges {
    /// How many at once; 1 switches it off. Default: 4.
    pub streams: usize,
    /// How much is asked for in one request. Default: 4 MiB. As much as `streams` of these is
    /// kept in memory for one blob.
    pub part_bytes: u64,
    /// How much must still be missing. Default: 16 MiB.
    pub threshold_bytes: u64,
    /// How long the network must have been waited for. Default: 1 s.
    pub after: Duration,
}

impl Default for ParallelRanges {
    fn default() -> Self {
        Self {
            streams: 4,
            part_bytes: 4 << 20,
            threshold_bytes: 16 << 20,
            after: Duration::from_secs(1),
        }
    }
}

/// Proxies, as URLs. Loopback hosts are never asked for through one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For plain HTTP.
    pub http: Option<String>,
    /// For HTTPS.
    pub https: Option<String>,
    /// Hosts, domains and networks that are reached without, separated by commas.
    pub no_proxy: String,
}

// A proxy's URL may hold a password.
impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set = |p: &Option<String>| p.as_ref().map(|_| "***");
        f.debug_struct("Proxies")
            .field("http", &set(&self.http))
            .field("https", &set(&self.https))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

impl Proxies {
    /// From `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in either case.
    pub fn from_environment() -> Self {
        let get = |name: &str| {
            [name.to_owned(), name.to_ascii_lowercase()]
                .into_iter()
                .filter_map(|n| env::var(n).ok())
                .find(|v| !v.trim().is_empty())
        };
        let all = get("ALL_PROXY");
        Self {
            http: get("HTTP_PROXY").or_else(|| all.clone()),
            https: get("HTTPS_PROXY").or(all),
            no_proxy: get("NO_PROXY").unwrap_or_default(),
        }
    }
}

impl RegistryConfig {
    /// Nothing of this machine: no files, no proxies, no credentials; its trusted certificates
    /// alone.
    pub fn isolated() -> Self {
        Self {
            user_agent: concat!("unlade/", env!("CARGO_PKG_VERSION")).to_owned(),
            hosts_dirs: Vec::new(),
            registries_conf: Vec::new(),
            cert_dirs: Vec::new(),
            mirrors: Vec::new(),
            insecure: Vec::new(),
            trusted_hosts: Vec::new(),
            credentials: Arc::new(CredentialFiles::default()),
            foreign_layers: false,
            system_roots: true,
            proxies: Proxies::default(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            stall_bytes: 1024,
            max_tries: 5,
            backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(60),
            parallel: ParallelRanges::default(),
            upload_chunk_bytes: 64 << 20,
            seed: None,
        }
    }

    /// What this machine and this user have set up for containerd, Podman and Docker.
    pub fn from_environment() -> Self {
        let home = env::var_os("HOME").map(PathBuf::from);
        let config = env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|h| h.join(".config")));
        let of_user = |dir: &Option<PathBuf>, rest: &str| dir.as_ref().map(|d| d.join(rest));
        let mut registries_conf = vec![
            PathBuf::from("/etc/containers/registries.conf"),
            PathBuf::from("/etc/containers/registries.conf.d"),
        ];
        // The user's file stands instead of the machine's.
        if let Some(own) = of_user(&config, "containers/registries.conf").filter(|p| p.exists()) {
            registries_conf[0] = own;
        }
        registries_conf.extend(of_user(&config, "containers/registries.conf.d"));
        if let Some(file) = env::var_os("CONTAINERS_REGISTRIES_CONF") {
            registries_conf = vec![file.into()];
        }
        let mut cert_dirs: Vec<PathBuf> = Vec::new();
        cert_dirs.extend(of_user(&config, "containers/certs.d"));
        cert_dirs.extend(of_user(&home, ".docker/certs.d"));
        cert_dirs.extend(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from));
        let mut this = Self {
            hosts_dirs: ["/etc/unlade/certs.d", "/etc/containerd/certs.d"]
                .map(PathBuf::from)
                .to_vec(),
            registries_conf,
            cert_dirs,
            credentials: Arc::new(CredentialFiles::from_environment()),
            proxies: Proxies::from_environment(),
            ..Self::isolated()
        };
        // That of a rootless daemon stands instead of the machine's.
        let own = of_user(&config, "docker/daemon.json").filter(|p| p.exists());
        let daemon = own.unwrap_or_else(|| "/etc/docker/daemon.json".into());
        daemon_json::add(&mut this, &daemon);
        this
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self::from_environment()
    }
}
