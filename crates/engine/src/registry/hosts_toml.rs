//! containerd's `certs.d/<host>/hosts.toml`.

use std::{
    fmt, fs, io,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use http::{HeaderName, HeaderValue};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use super::{
    config::RegistryConfig,
    hosts::{self, Endpoint, Purpose},
    tls::TlsFiles,
};
use crate::{
    error::{Error, Kind, Result},
    image::{Reference, json::show},
};

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Hosts in order, and what each is good for.
type Known = Vec<(Vec<Purpose>, Endpoint)>;

/// A parsed `hosts.toml`.
#[derive(Debug, Deserialize)]
pub struct HostsToml {
    server: Option<String>,
    #[serde(default)]
    host: InOrder<HostTable>,
    #[serde(flatten)]
    own: HostTable,
}

#[derive(Debug, Default, Deserialize)]
struct HostTable {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<String>>,
    client: Option<OneOrMany<OneOrMany<String>>>,
    #[serde(default)]
    skip_verify: bool,
    header: Option<InOrder<OneOrMany<String>>>,
    #[serde(default)]
    override_path: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A table whose order counts.
#[derive(Debug)]
struct InOrder<T>(Vec<(String, T)>);

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for InOrder<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = InOrder<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(InOrder(all))
            }
        }
        d.deserialize_map(Entries(PhantomData))
    }
}

impl HostsToml {
    /// Parses a file's text.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for what is not TOML of this form.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| {
            Error::new(Kind::BadInput, show(e.message()))
                .with_hint("see containerd's documentation of hosts.toml")
        })
    }

    /// The hosts for `reference` in order, as text: with schemes, path, and whether they are
    /// mirrors.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for a URL, capability or header that is none.
    pub fn hosts(&self, config: &RegistryConfig, reference: &Reference) -> Result<Vec<String>> {
        let all = self.endpoints(Path::new(""), config, reference)?;
        Ok(all.iter().map(|(_, e)| format!("{e:?}")).collect())
    }

    fn endpoints(
        &self,
        dir: &Path,
        config: &RegistryConfig,
        reference: &Reference,
    ) -> Result<Known> {
        let mut all = Vec::new();
        for (url, table) in &self.host.0 {
            let mut endpoint = hosts::endpoint_of_url(config, url, reference, table.override_path)?;
            table.apply(dir, &mut endpoint)?;
            endpoint.is_mirror = true;
            endpoint.ns = Some(reference.domain().to_owned());
            all.push((table.purposes()?, endpoint));
        }
        let mut server = match &self.server {
            Some(url) => hosts::endpoint_of_url(config, url, reference, self.own.override_path)?,
            None => hosts::upstream(config, reference)?,
        };
        if server.host == reference.registry_host() {
            reference.domain().clone_into(&mut server.credentials_host);
        }
        self.own.apply(dir, &mut server)?;
        all.push((self.own.purposes()?, server));
        Ok(all)
    }
}

impl HostTable {
    fn purposes(&self) -> Result<Vec<Purpose>> {
        let Some(words) = &self.capabilities else {
            return Ok(vec![Purpose::Resolve, Purpose::Pull, Purpose::Push]);
        };
        words
            .iter()
            .map(|word| match &**word {
                "pull" => Ok(Purpose::Pull),
                "resolve" => Ok(Purpose::Resolve),
                "push" => Ok(Purpose::Push),
                word => {
                    let m = format!("`{}` is no capability", show(word));
                    Err(Error::new(Kind::BadInput, m).with_hint("write pull, resolve or push"))
                }
            })
            .collect()
    }

    fn apply(&self, dir: &Path, endpoint: &mut Endpoint) -> Result<()> {
        let mut files = TlsFiles::default();
        for ca in self.ca.iter().flat_map(OneOrMany::as_slice) {
            files.ca.push(dir.join(ca));
        }
        match &self.client {
            // A list of names is a list of files that hold both.
            Some(OneOrMany::Many(all)) => {
                for pair in all {
                    match pair.as_slice() {
                        [both] => files.client.push((dir.join(both), None)),
                        [cert, key] => files.client.push((dir.join(cert), Some(dir.join(key)))),
                        _ => {
                            let m = "`client` takes files, or pairs of certificate and key";
                            return Err(Error::new(Kind::BadInput, m)
                                .with_hint("write client = [[\"cert.pem\", \"key.pem\"]]"));
                        }
                    }
                }
            }
            Some(OneOrMany::One(one)) => {
                for both in one.as_slice() {
                    files.client.push((dir.join(both), None));
                }
            }
            None => {}
        }
        if !files.is_empty() {
            files.skip_verify = endpoint.tls.skip_verify;
            endpoint.tls = files;
        }
        if self.skip_verify {
            endpoint.tls.skip_verify = true;
        }
        if !endpoint.tls.is_empty() || self.skip_verify {
            // Who says how TLS is to be checked wants TLS, unless the URL says otherwise.
            if endpoint.schemes.len() > 1 {
                endpoint.schemes = vec![hosts::Scheme::Https];
            }
        }
        for (name, values) in self.header.iter().flat_map(|h| &h.0) {
            for value in values.as_slice() {
                let (name, mut value) = header(name, value)?;
                value.set_sensitive(true);
                endpoint.headers.append(name, value);
            }
        }
        Ok(())
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue)> {
    let parsed = (
        HeaderName::try_from(name).ok(),
        HeaderValue::try_from(value).ok(),
    );
    match parsed {
        (Some(name), Some(value)) => Ok((name, value)),
        _ => {
            let m = format!("header `{}` cannot be sent", show(name));
            Err(Error::new(Kind::BadInput, m).with_hint("correct it in hosts.toml"))
        }
    }
}

/// What the directory `root` says of `reference`'s registry; nothing if it does not know it.
pub(super) fn read(
    root: &Path,
    config: &RegistryConfig,
    reference: &Reference,
) -> Result<Option<Known>> {
    for dir in dirs(root, reference.domain()) {
        let path = dir.join("hosts.toml");
        match fs::metadata(&path) {
            Ok(m) if m.len() <= MAX_FILE => {
                let text = fs::read_to_string(&path)
                    .map_err(|e| Error::host(format!("read {}", path.display()), e))?;
                let file = HostsToml::parse(&text);
                let found = file.and_then(|f| f.endpoints(&dir, config, reference));
                return found.map(Some).map_err(|e| e.context(path.display()));
            }
            Ok(_) => {
                let m = format!("{} is too large", path.display());
                return Err(Error::new(Kind::Limit, m).with_hint("is it a hosts.toml?"));
            }
            Err(e) if is_missing(&e) => {}
            Err(e) => return Err(Error::host(format!("read {}", path.display()), e)),
        }
        if dir.is_dir() && dir.file_name().is_some_and(|n| n != "_default") {
            // Certificates alone, as Docker has them.
            let mut endpoint = hosts::upstream(config, reference)?;
            endpoint.tls.add_docker_dir(&dir);
            if endpoint.tls.is_empty() {
                continue;
            }
            endpoint.schemes = vec![hosts::Scheme::Https];
            let all = vec![Purpose::Resolve, Purpose::Pull, Purpose::Push];
            return Ok(Some(vec![(all, endpoint)]));
        }
    }
    Ok(None)
}

fn is_missing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn dirs(root: &Path, domain: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    if let Some((host, port)) = domain.rsplit_once(':').filter(|(_, p)| !p.contains(']')) {
        all.push(root.join(format!("{host}_{port}_")));
    }
    all.push(root.join(domain));
    all.push(root.join("_default"));
    all
}
