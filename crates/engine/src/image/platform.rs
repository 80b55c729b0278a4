//! Platforms: their spellings, and which image runs where.

use std::{fmt, str::FromStr};

use unlade_unpack::{Error, Kind, Result};

/// What an image runs on, in the field's canonical spelling (`linux/arm64/v8`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    os: String,
    arch: String,
    variant: String,
}

impl Platform {
    /// A platform from its parts, in any spelling (`Linux`, `x86_64`, `aarch64`, `armhf`).
    pub fn new(os: &str, arch: &str, variant: Option<&str>) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let (arch, variant) = (
            arch.to_ascii_lowercase(),
            variant.unwrap_or_default().to_ascii_lowercase(),
        );
        let (arch, variant) = match (arch.as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1" | "1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
            ("aarch64" | "arm64", "" | "8") => ("arm64", "v8"),
            ("aarch64" | "arm64", v) => ("arm64", v),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            (arch, v) => (arch, v),
        };
        Self {
            os,
            arch: arch.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// The platform of this machine.
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, Some(host_variant()))
    }

    /// Operating system, architecture and variant, which may be empty.
    pub fn parts(&self) -> (&str, &str, &str) {
        (&self.os, &self.arch, &self.variant)
    }

    /// Whether this is the `unknown/unknown` that attestations in an index bear.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.arch == "unknown"
    }

    /// How well an image for `image` runs on this platform: `None` for not at all, and the
    /// lower the better.
    pub fn rank(&self, image: &Self) -> Option<usize> {
        let level = |v: &str| v.strip_prefix('v').unwrap_or(v).parse::<usize>().ok();
        if self.os != image.os {
            return None;
        }
        match (self.arch.as_str(), image.arch.as_str()) {
            // x86-64 levels: the best that is not above ours, and 32-bit images last.
            ("amd64", "amd64") => {
                let of = |p: &Self| {
                    if p.variant.is_empty() {
                        Some(1)
                    } else {
                        level(&p.variant)
                    }
                };
                match (of(self), of(image)) {
                    (Some(host), Some(image)) => host.checked_sub(image),
                    _ => (self.variant == image.variant).then_some(0),
                }
            }
            ("amd64", "386") => Some(100),
            // arm: each runs what is below it; 64-bit runs the 32-bit ones last.
            ("arm", "arm") => level(&self.variant)?.checked_sub(level(&image.variant)?),
            ("arm64", "arm64") => {
                let of = |p: &Self| arm_level(&p.variant);
                match (of(self), of(image)) {
                    (Some(host), Some(image)) if host.0 == image.0 => host.1.checked_sub(image.1),
                    (Some(host), Some((8, image))) if host.0 > 8 => {
                        // v9.n contains v8.(n+5).
                        (host.1 + 5).checked_sub(image).map(|d| 20 + d)
                    }
                    _ => (self.variant == image.variant).then_some(0),
                }
            }
            ("arm64", "arm") => 8_usize.checked_sub(level(&image.variant)?).map(|d| 100 + d),
            (host, image_arch) if host == image_arch => {
                (self.variant == image.variant || image.variant.is_empty()).then_some(0)
            }
            _ => None,
        }
    }
}

/// `v8.2` as (8, 2).
fn arm_level(variant: &str) -> Option<(usize, usize)> {
    let v = variant.strip_prefix('v')?;
    let (major, minor) = v.split_once('.').unwrap_or((v, "0"));
    let (major, minor) = (major.parse().ok()?, minor.parse::<usize>().ok()?);
    (major < 100 && minor < 100).then_some((major, minor))
}

#[cfg(target_arch = "x86_64")]
fn host_variant() -> &'static str {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse4.2") && has!("ssse3");
    let v3 = has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("fma");
    let v3 = v3 && has!("lzcnt") && has!("movbe");
    let v4 = has!("avx512f") && has!("avx512bw") && has!("avx512cd");
    let v4 = v4 && has!("avx512dq") && has!("avx512vl");
    match (v2, v3, v4) {
        (true, true, true) => "v4",
        (true, true, false) => "v3",
        (true, false, _) => "v2",
        _ => "v1",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn host_variant() -> &'static str {
    ""
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = super::json::show;
        write!(f, "{}/{}", show(&self.os), show(&self.arch))?;
        if self.variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", show(&self.variant))
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Parses `os/arch` or `os/arch/variant`.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for anything else.
    fn from_str(text: &str) -> Result<Self> {
        let fine = |s: &&str| {
            !s.is_empty()
                && s.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [os, arch, ref rest @ ..] if rest.len() < 2 && parts.iter().all(fine) => {
                Ok(Self::new(os, arch, rest.first().copied()))
            }
            _ => {
                let m = format!("`{}` is not a platform", super::json::show(text));
                Err(Error::new(Kind::BadInput, m)
                    .with_hint("write it as os/arch or os/arch/variant, such as linux/arm64"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn spellings() {
        for (text, want) in [
            ("Linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64/v8"),
            ("linux/arm64/8", "linux/arm64/v8"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/i686", "linux/386"),
            ("linux/ppc64le", "linux/ppc64le"),
        ] {
            assert_eq!(p(text).to_string(), want);
        }
        for bad in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm/v7/x",
            "a b/c",
            "linux/am\nd64",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn chains_in_order() {
        // Host, then what it runs, best first.
        for (host, chain) in [
            (
                "linux/arm64",
                &[
                    "linux/arm64/v8",
                    "linux/arm/v8",
                    "linux/arm/v7",
                    "linux/arm/v6",
                ][..],
            ),
            (
                "linux/arm64/v9",
                &[
                    "linux/arm64/v9",
                    "linux/arm64/v8.5",
                    "linux/arm64",
                    "linux/arm",
                ],
            ),
            (
                "linux/arm/v7",
                &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
            ),
            (
                "linux/amd64/v3",
                &[
                    "linux/amd64/v3",
                    "linux/amd64/v2",
                    "linux/amd64",
                    "linux/386",
                ],
            ),
            ("linux/s390x", &["linux/s390x"]),
            ("linux/riscv64/rva22", &["linux/riscv64"]),
        ] {
            let ranks: Vec<_> = chain.iter().map(|c| p(host).rank(&p(c)).unwrap()).collect();
            assert!(ranks.is_sorted_by(|a, b| a < b), "{host}: {ranks:?}");
        }
    }

    #[test]
    fn what_does_not_run() {
        for (host, image) in [
            ("linux/amd64", "linux/arm64"),
            ("linux/amd64", "linux/amd64/v2"),
            ("linux/amd64/v2", "linux/amd64/v3"),
            ("linux/386", "linux/amd64"),
            ("linux/arm/v6", "linux/arm/v7"),
            ("linux/arm64", "linux/arm64/v9"),
            ("linux/arm", "linux/arm64"),
            ("linux/amd64", "windows/amd64"),
            ("linux/amd64", "unknown/unknown"),
        ] {
            assert_eq!(p(host).rank(&p(image)), None, "{image} on {host}");
        }
        assert_eq!(Platform::host().rank(&Platform::host()), Some(0));
        assert!(p("unknown/unknown").is_unknown());
    }
}
