//! Names of images: Docker's grammar of references, normalised as Docker does.
//!
//! `alpine` is `docker.io/library/alpine`; what stands before the first slash is a registry only
//! if it has a dot, a colon or an upper-case letter in it, or is `localhost`.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use unlade_unpack::Digest;

use super::json::show;
use crate::error::{Error, Kind, Result};

/// The registry meant where none is named.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag meant where neither tag nor digest is given.
pub const DEFAULT_TAG: &str = "latest";
/// Longest path of a repository, in bytes.
pub const MAX_PATH: usize = 255;
/// Longest tag, in bytes.
pub const MAX_TAG: usize = 128;

const LEGACY_DOMAIN: &str = "index.docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
const OFFICIAL: &str = "library/";

/// A name of an image: a repository, and a tag, a digest, both or neither.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises what a user typed.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for what Docker's grammar does not allow, [`Kind::Unsupported`] for a
    /// digest of an unknown algorithm.
    pub fn parse(text: &str) -> Result<Self> {
        if is_identifier(text) {
            let m = format!("`{text}` reads as an image ID, not as a name");
            return Err(Error::new(Kind::BadInput, m)
                .with_hint("a name of 64 hexadecimal digits is not allowed"));
        }
        let (domain, rest) = split_domain(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') && !path.is_empty() {
            format!("{OFFICIAL}{path}")
        } else {
            path.to_owned()
        };
        check_domain(domain).map_err(|why| bad(text, why))?;
        check_path(&path).map_err(|why| {
            let e = bad(text, why);
            let lower = path.to_ascii_lowercase();
            if lower != path && check_path(&lower).is_ok() {
                e.with_hint(format!("repository names are lower-case: `{lower}`"))
            } else {
                e
            }
        })?;
        if let Some(tag) = tag {
            check_tag(tag).map_err(|why| bad(text, why))?;
        }
        let digest = digest.map(str::parse).transpose().map_err(|e| {
            Error::from(e)
                .context(format!("image reference `{}`", show(text)))
                .with_hint("a digest is written as sha256: and 64 lower-case hexadecimal digits")
        })?;
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The registry's name: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and repository: `docker.io/library/alpine`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if one is given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one is given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The host, with port, that answers for the registry: `registry-1.docker.io`.
    pub fn registry_host(&self) -> &str {
        match &*self.domain {
            DEFAULT_DOMAIN => HUB_HOST,
            domain => domain,
        }
    }

    /// With the tag `latest` where there is neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with `tag` and no digest.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for what is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        check_tag(tag).map_err(|why| bad(tag, why))?;
        Ok(Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// The same repository with `digest` and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The whole of it, nothing implied but the tag: `docker.io/library/alpine:3.20`.
    pub fn canonical(&self) -> String {
        self.to_string()
    }

    /// The repository in Docker's short form: `alpine`, `user/image`, `localhost:5000/x`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        let short = match self.path.strip_prefix(OFFICIAL) {
            Some(name) if !name.contains('/') => name,
            _ => &self.path,
        };
        // What would be read as something else keeps the registry's name.
        match split_domain(short) {
            (DEFAULT_DOMAIN, rest) if rest == short && !is_identifier(short) => short.to_owned(),
            _ => self.repository(),
        }
    }

    /// Docker's short form: `alpine:3.20`.
    pub fn familiar(&self) -> String {
        let mut out = self.familiar_repository();
        self.push_rest(&mut out);
        out
    }

    fn push_rest(&self, out: &mut String) {
        if let Some(tag) = &self.tag {
            out.push(':');
            out.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            out.push('@');
            out.push_str(&digest.to_string());
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = self.repository();
        self.push_rest(&mut out);
        f.write_str(&out)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reference({self})")
    }
}

fn bad(text: &str, why: String) -> Error {
    let m = format!("`{}` is not an image reference: {why}", show(text));
    Error::new(Kind::BadInput, m)
        .with_hint("write [REGISTRY/]REPOSITORY[:TAG][@DIGEST], for example alpine:3.20")
}

/// 64 lower-case hexadecimal digits.
fn is_identifier(text: &str) -> bool {
    text.len() == 64 && (text.bytes()).all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    }
}

/// Whether `domain` can be a registry's name: a host name, an IPv4 address or an IPv6 address in
/// brackets, and perhaps a port.
pub(crate) fn check_domain(domain: &str) -> std::result::Result<(), String> {
    let wrong = |what: &str| Err(format!("{what} `{}`", show(domain)));
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return wrong("no `]` in registry");
        };
        if address.parse::<Ipv6Addr>().is_err() {
            return wrong("no IPv6 address in registry");
        }
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return wrong("something follows `]` in registry"),
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    if let Some(port) = port
        && !(port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p != 0))
    {
        return wrong("no port between 1 and 65535 in registry");
    }
    let label = |l: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(inner)
    };
    match host {
        Some(host) if host.len() > 253 || !host.split('.').all(label) => {
            wrong("not a host name: registry")
        }
        _ => Ok(()),
    }
}

fn check_path(path: &str) -> std::result::Result<(), String> {
    if path.is_empty() {
        return Err("it names no repository".to_owned());
    }
    if path.len() > MAX_PATH {
        return Err(format!(
            "repository of {} characters, where {MAX_PATH} are allowed",
            path.len()
        ));
    }
    if let Some(part) = path.split('/').find(|part| !is_component(part)) {
        let part = show(part);
        return Err(format!(
            "`{part}` in the repository is not lower-case letters and digits, joined by \
             `.`, `_`, `__` or hyphens"
        ));
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let word = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    let bytes = part.as_bytes();
    if !(bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b))) {
        return false;
    }
    part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> std::result::Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let rest = |b: u8| word(b) || b == b'.' || b == b'-';
    if tag.len() > MAX_TAG {
        return Err(format!(
            "tag of {} characters, where {MAX_TAG} are allowed",
            tag.len()
        ));
    }
    match tag.as_bytes() {
        [first, more @ ..] if word(*first) && more.iter().all(|b| rest(*b)) => Ok(()),
        _ => Err(format!(
            "tag `{}` is not letters, digits, `_`, `.` and `-`",
            show(tag)
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    #[test]
    fn names_are_normalised_as_docker_does() {
        let digest = format!("@sha256:{HEX}");
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine", "alpine"),
            (
                "alpine:3.20",
                "docker.io/library/alpine:3.20",
                "alpine:3.20",
            ),
            ("user/app", "docker.io/user/app", "user/app"),
            ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
            (
                "docker.io/library/alpine",
                "docker.io/library/alpine",
                "alpine",
            ),
            ("index.docker.io/u/a:b", "docker.io/u/a:b", "u/a:b"),
            (
                "index.docker.io/alpine",
                "docker.io/library/alpine",
                "alpine",
            ),
            ("library/alpine", "docker.io/library/alpine", "alpine"),
            ("library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost/x", "localhost/x", "localhost/x"),
            (
                "localhost:5000/x:1",
                "localhost:5000/x:1",
                "localhost:5000/x:1",
            ),
            ("localhost", "docker.io/library/localhost", "localhost"),
            ("UPPER/x", "UPPER/x", "UPPER/x"),
            ("quay.io/a/b/c", "quay.io/a/b/c", "quay.io/a/b/c"),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
            (
                "[2001:db8::1]/a/b:c",
                "[2001:db8::1]/a/b:c",
                "[2001:db8::1]/a/b:c",
            ),
            ("10.0.0.1/x", "10.0.0.1/x", "10.0.0.1/x"),
            (
                "xn--7o8h.com/myimage",
                "xn--7o8h.com/myimage",
                "xn--7o8h.com/myimage",
            ),
            ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f", "a__b/c--d.e_f"),
            ("x:_T.a-G", "docker.io/library/x:_T.a-G", "x:_T.a-G"),
            // A dot would make it a registry.
            ("docker.io/a.b/c", "docker.io/a.b/c", "docker.io/a.b/c"),
            (
                "docker.io/localhost/c",
                "docker.io/localhost/c",
                "docker.io/localhost/c",
            ),
        ] {
            for more in ["", &digest] {
                let r = parse(&format!("{text}{more}"));
                assert_eq!(r.canonical(), format!("{full}{more}"), "{text}");
                assert_eq!(r.familiar(), format!("{familiar}{more}"), "{text}");
                assert_eq!(parse(&r.canonical()), r);
                assert_eq!(parse(&r.familiar()), r);
            }
        }
    }

    #[test]
    fn parts() {
        let r = parse(&format!("alpine:3@sha256:{HEX}"));
        assert_eq!((r.domain(), r.path()), ("docker.io", "library/alpine"));
        assert_eq!(r.repository(), "docker.io/library/alpine");
        assert_eq!(
            (r.tag(), r.registry_host()),
            (Some("3"), "registry-1.docker.io")
        );
        assert_eq!(r.digest().unwrap().hex(), HEX);
        assert_eq!(r.clone().with_default_tag(), r);
        assert_eq!(parse("alpine").with_default_tag().tag(), Some("latest"));
        assert_eq!(parse("h:1/x").registry_host(), "h:1");
        assert_eq!(
            r.with_tag("9").unwrap().to_string(),
            "docker.io/library/alpine:9"
        );
        assert!(r.with_tag("-").is_err());
        let by_digest = parse("alpine:3").with_digest(*r.digest().unwrap());
        assert_eq!(by_digest.familiar(), format!("alpine@sha256:{HEX}"));
    }

    #[test]
    fn what_the_grammar_refuses() {
        let long_path = format!("h.io/{}", "a".repeat(256));
        let long_tag = format!("x:{}", "t".repeat(129));
        for text in [
            "",
            "/",
            ":tag",
            "@sha256:00",
            "h.io/",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a._b",
            "x:",
            "x:-a",
            "x:.a",
            "x:a b",
            "x:a:b",
            "x@",
            "x@sha256:zz",
            "a\n",
            "h.io:0/x",
            "h.io:70000/x",
            "h.io:x/y",
            "-h.io/x",
            "h..io/x",
            "[::1/x",
            "[::g]/x",
            "[::1]x/y",
            "[fe80::1%eth0]/x",
            "a b/c",
            "ä/b",
            "http://h.io/x",
            &long_path,
            &long_tag,
        ] {
            let e = Reference::parse(text).unwrap_err();
            assert_eq!(e.kind(), Kind::BadInput, "{text}");
            assert!(e.hint().is_some(), "{text}");
        }
        let e = Reference::parse("x@md5:00").unwrap_err();
        assert_eq!(e.kind(), Kind::Unsupported);
    }

    #[test]
    fn limits_to_the_character() {
        parse(&format!("h.io/{}", "a".repeat(255)));
        parse(&format!("x:{}", "t".repeat(128)));
        // `library/` counts.
        parse(&"a".repeat(247));
        assert!(Reference::parse(&"a".repeat(248)).is_err());
    }

    #[test]
    fn identifiers_are_not_names() {
        let e = Reference::parse(HEX).unwrap_err();
        assert!(e.message().contains("image ID"), "{e}");
        let r = parse(&format!("library/{HEX}"));
        assert_eq!(r.familiar(), format!("docker.io/library/{HEX}"));
        assert_eq!(parse(&r.familiar()), r);
        parse(&format!("{HEX}:x"));
        parse(&HEX[1..]);
    }

    #[test]
    fn upper_case_is_explained() {
        let e = Reference::parse("Alpine:3").unwrap_err();
        assert_eq!(
            e.hint(),
            Some("repository names are lower-case: `library/alpine`")
        );
    }

    fn reference() -> impl Strategy<Value = String> {
        let domain = prop_oneof![
            Just(String::new()),
            Just("localhost/".to_owned()),
            "[a-zA-Z0-9]{1,5}(-[a-z0-9]{1,3})?\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?/",
            "\\[[1-9a-f]{1,4}::[1-9a-f]{1,4}\\](:[1-9][0-9]{0,3})?/",
        ];
        let path = "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,4}){0,3}";
        let tag = "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?";
        let digest = "(@sha256:[0-9a-f]{64})?";
        // Without a registry, the first part must not read as one.
        (domain, path, tag, digest)
            .prop_filter("reads as a registry", |(d, p, ..)| {
                !d.is_empty() || !p.split('/').next().is_some_and(|first| first.contains('.'))
            })
            .prop_map(|(d, p, t, g)| format!("{d}{p}{t}{g}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn display_parses_to_the_same(text in reference()) {
            let r = Reference::parse(&text).unwrap();
            prop_assert_eq!(&Reference::parse(&r.to_string()).unwrap(), &r);
            prop_assert_eq!(&Reference::parse(&r.familiar()).unwrap(), &r);
            prop_assert!(r.to_string().ends_with(&text) || text.contains("docker.io"));
        }

        #[test]
        fn any_text_is_refused_or_round_trips(text in "\\PC{0,40}|[a-zA-Z0-9./:@_\\[\\]-]{0,60}") {
            if let Ok(r) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&r.to_string()).unwrap(), &r);
                prop_assert_eq!(&Reference::parse(&r.familiar()).unwrap(), &r);
            }
        }
    }
}
