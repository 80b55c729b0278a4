//! How a user names an image on this machine: `oci:DIR:REF` and its relatives.
//!
//! Paths may hold colons and at-signs. What follows the scheme is taken as a path if it exists
//! as it stands; otherwise it is split at the last `:` or `@` before which there is something
//! that exists. So `oci:/images/a:b:latest` is the image `latest` of `/images/a:b` if that is
//! there, and the image `b:latest` of `/images/a` if not.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use unlade_unpack::{Digest, Error, Kind, Result};

use crate::image::json::show;

/// Kinds of places that images are unpacked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// An OCI image layout: a directory.
    Oci,
    /// A tar file of an OCI image layout.
    OciArchive,
    /// What `docker save` and `podman save` write.
    DockerArchive,
    /// One layer's blob.
    Layer,
}

/// A source as it was typed; whether it exists is found out by [`Source::locate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    scheme: Scheme,
    rest: OsString,
}

/// Which image of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The only one.
    Only,
    /// By name.
    Name(String),
    /// By the digest of the manifest (or index; in a Docker archive of the config).
    Digest(Digest),
}

impl Scheme {
    const ALL: [(Self, &str); 4] = [
        (Self::Oci, "oci"),
        (Self::OciArchive, "oci-archive"),
        (Self::DockerArchive, "docker-archive"),
        (Self::Layer, "layer"),
    ];
}

impl Source {
    /// Splits off the scheme.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for text without a known scheme or without a path.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let hint = "write oci:DIR[:REF], oci-archive:FILE[:REF], docker-archive:FILE[:REF], \
                    layer:FILE or layer:-";
        let bytes = text.as_bytes();
        let (name, rest) = match bytes.iter().position(|&b| b == b':') {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (bytes, &bytes[bytes.len()..]),
        };
        let shown = show(&text.to_string_lossy());
        let Some(&(scheme, _)) = Scheme::ALL.iter().find(|(_, n)| n.as_bytes() == name) else {
            let m = format!("`{shown}` does not say what kind of source it is");
            return Err(Error::new(Kind::BadInput, m).with_hint(hint));
        };
        if rest.is_empty() {
            let m = format!("`{shown}` names no path");
            return Err(Error::new(Kind::BadInput, m).with_hint(hint));
        }
        Ok(Self {
            scheme,
            rest: OsStr::from_bytes(rest).to_owned(),
        })
    }

    /// The kind of source.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether the source is standard input.
    pub fn is_stdin(&self) -> bool {
        self.scheme == Scheme::Layer && self.rest == "-"
    }

    /// Finds where the path ends and the image's name begins.
    ///
    /// # Errors
    /// [`Kind::Host`] if no part of it exists, [`Kind::BadInput`] if what follows the path is
    /// neither a name nor a digest.
    pub fn locate(&self) -> Result<(PathBuf, Pick)> {
        let exists = |path: &[u8]| !path.is_empty() && as_path(path).exists();
        let rest = self.rest.as_bytes();
        if self.scheme == Scheme::Layer || exists(rest) {
            return Ok((as_path(rest).to_owned(), Pick::Only));
        }
        let splits = rest
            .iter()
            .enumerate()
            .rev()
            .filter(|&(_, b)| b":@".contains(b));
        for (at, separator) in splits {
            let (path, name) = (&rest[..at], &rest[at + 1..]);
            if !exists(path) {
                continue;
            }
            let text = std::str::from_utf8(name).ok().filter(|n| !n.is_empty());
            let Some(text) = text else {
                let m = format!("`{self}` has no valid image name after its path");
                return Err(
                    Error::new(Kind::BadInput, m).with_hint("leave out the last `:` or `@`")
                );
            };
            let pick = match separator {
                b'@' => Pick::Digest(text.parse().map_err(|e: Error| {
                    e.in_part(self.to_string())
                        .with_hint("after `@` write sha256:HEX")
                })?),
                _ => Pick::Name(text.to_owned()),
            };
            return Ok((as_path(path).to_owned(), pick));
        }
        let path = rest.split(|b| *b == b':').next().unwrap_or(rest);
        let e = std::io::Error::from_raw_os_error(libc::ENOENT);
        Err(Error::host(
            format!("open `{}`", show(&as_path(path).to_string_lossy())),
            e,
        )
        .with_hint("check the path; no part of the source before a `:` exists"))
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Scheme::ALL
            .iter()
            .find(|(s, _)| *s == self.scheme)
            .map_or("", |(_, n)| n);
        write!(f, "{name}:{}", show(&self.rest.to_string_lossy()))
    }
}

/// Whether two image names are the same to Docker: `debian`, `debian:latest` and
/// `docker.io/library/debian:latest` are.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a == b || full_name(a) == full_name(b)
}

fn full_name(name: &str) -> String {
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (
            if host == "index.docker.io" {
                "docker.io"
            } else {
                host
            },
            path,
        ),
        _ => ("docker.io", name),
    };
    let library = if host == "docker.io" && !path.contains('/') {
        "library/"
    } else {
        ""
    };
    let last = path.rsplit('/').next().unwrap_or(path);
    let tag = if last.contains([':', '@']) {
        ""
    } else {
        ":latest"
    };
    format!("{host}/{library}{path}{tag}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn locate(text: String) -> Result<(PathBuf, Pick)> {
        Source::parse(text.as_ref())?.locate()
    }

    #[test]
    fn longest_existing_path_wins() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("a:b");
        let (a, ab) = (
            dir.path().join("a").display().to_string(),
            at.display().to_string(),
        );
        std::fs::create_dir(&a).unwrap();
        let name = |n: &str| Pick::Name(n.to_owned());
        assert_eq!(
            locate(format!("oci:{a}")).unwrap(),
            (a.clone().into(), Pick::Only)
        );
        assert_eq!(
            locate(format!("oci:{a}:b:latest")).unwrap(),
            (a.clone().into(), name("b:latest"))
        );
        std::fs::create_dir(&at).unwrap();
        assert_eq!(
            locate(format!("oci:{a}:b:latest")).unwrap(),
            (ab.clone().into(), name("latest"))
        );
        assert_eq!(
            locate(format!("oci:{a}:b")).unwrap(),
            (ab.clone().into(), Pick::Only)
        );
        let digest = Pick::Digest(D.parse().unwrap());
        assert_eq!(
            locate(format!("oci:{ab}@{D}")).unwrap(),
            (ab.clone().into(), digest)
        );
        assert_eq!(
            locate(format!("oci:{ab}:x@y")).unwrap(),
            (ab.into(), name("x@y"))
        );
        assert_eq!(
            locate(format!("oci:{a}@x")).unwrap_err().kind(),
            Kind::BadInput
        );
        assert_eq!(
            locate(format!("oci:{a}:")).unwrap_err().kind(),
            Kind::BadInput
        );
        assert_eq!(
            locate(format!("oci:{a}x:y")).unwrap_err().kind(),
            Kind::Host
        );
        assert_eq!(
            locate("layer:a:b".into()).unwrap(),
            ("a:b".into(), Pick::Only)
        );
    }

    #[test]
    fn schemes() {
        for bad in ["", "oci", "oci:", "docker://x", "/tmp", "Layer:x"] {
            assert!(
                Source::parse(bad.as_ref()).unwrap_err().hint().is_some(),
                "{bad}"
            );
        }
        assert!(Source::parse("layer:-".as_ref()).unwrap().is_stdin());
        let s = Source::parse("docker-archive:x.tar:a".as_ref()).unwrap();
        assert_eq!(
            (s.scheme(), s.to_string().as_str()),
            (Scheme::DockerArchive, "docker-archive:x.tar:a")
        );
    }

    #[test]
    fn names_as_docker_takes_them() {
        for (a, b) in [
            ("debian", "debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("a/b", "docker.io/a/b:latest"),
            ("index.docker.io/library/x:1", "x:1"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
        ] {
            assert!(same_name(a, b), "{a} {b}");
        }
        assert!(!same_name("debian:12", "debian"));
        assert!(!same_name("quay.io/library/x", "x"));
    }
}
