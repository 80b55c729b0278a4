//! Content digests: the OCI algorithms, and hashers that compute them as bytes go by.
//!
//! Grammar: OCI image-spec, descriptor.md, "Digests". Only the registered algorithms are
//! accepted, in lower-case hex of the exact length, so a digest is always a safe file name.

use std::{fmt, str::FromStr};

use sha2::Digest as _;

use crate::error::{Error, Kind, show};

/// A digest algorithm that OCI registers and unlade verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, the usual one.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The algorithm's name in a digest's text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the value in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A verified-by-grammar digest such as `sha256:e3b0…`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    value: [u8; 64],
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut h = Hasher::new(algorithm);
        h.update(bytes);
        h.finish()
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw value, [`Algorithm::size`] bytes.
    pub fn value(&self) -> &[u8] {
        &self.value[..self.algorithm.size()]
    }

    /// The value as lower-case hex.
    pub fn hex(&self) -> String {
        self.value().iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.algorithm.name())?;
        self.value().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// Parses `algorithm:hex`.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for an algorithm that is not registered, [`Kind::BadInput`] for
    /// anything else that is not a digest: upper-case hex, a wrong length.
    fn from_str(text: &str) -> Result<Self, Error> {
        let shown = || show(text.as_bytes());
        let (name, hex) = text
            .split_once(':')
            .ok_or_else(|| Error::bad(format!("`{}` is not a digest (algorithm:hex)", shown())))?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => {
                let message = format!("digest algorithm of `{}` is not supported", shown());
                return Err(Error::new(Kind::Unsupported, message)
                    .with_hint("images digested with sha256 or sha512 can be unpacked"));
            }
        };
        let mut value = [0; 64];
        let nibble = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let wrong = || {
            let want = algorithm.size() * 2;
            Error::bad(format!(
                "digest `{}` needs {want} lower-case hex digits",
                shown()
            ))
        };
        if hex.len() != algorithm.size() * 2 {
            return Err(wrong());
        }
        for (out, pair) in value.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (Some(hi), Some(lo)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(wrong());
            };
            *out = hi << 4 | lo;
        }
        Ok(Self { algorithm, value })
    }
}

/// Computes a [`Digest`] over bytes given piece by piece.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hasher").field(&self.algorithm()).finish()
    }
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::default()),
        })
    }

    /// The algorithm it was made for.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(h) => h.update(bytes),
            State::Sha512(h) => h.update(bytes),
        }
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        let mut value = [0; 64];
        match self.0 {
            State::Sha256(h) => value[..32].copy_from_slice(&h.finalize()),
            State::Sha512(h) => value.copy_from_slice(&h.finalize()),
        }
        Digest { algorithm, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_round_trip() {
        let d = Digest::of(Algorithm::Sha256, b"");
        assert_eq!(d.to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), d);
        let d = Digest::of(Algorithm::Sha512, b"abc");
        assert_eq!(d.to_string().parse::<Digest>().unwrap(), d);
        assert!(d.hex().starts_with("ddaf35a193617aba"));
    }

    #[test]
    fn grammar_is_strict() {
        let up = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for bad in [
            "",
            "sha256",
            "sha256:",
            &EMPTY[..70],
            &up,
            "sha256:../../../etc/passwd",
        ] {
            assert_eq!(
                bad.parse::<Digest>().unwrap_err().kind(),
                Kind::BadInput,
                "{bad}"
            );
        }
        assert_eq!(
            "md5:00".parse::<Digest>().unwrap_err().kind(),
            Kind::Unsupported
        );
    }
}
