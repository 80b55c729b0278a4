//! Who is measured, and how each is called.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::fs::is_root;
use crate::oci::{Blob, Compression};

/// A program and the way it is called.
#[derive(Debug, Clone)]
pub(crate) struct Contestant {
    /// Name in reports.
    pub(crate) name: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Unlade { binary: PathBuf, extra: Vec<String> },
    Tar,
    TarPigz,
    Bsdtar,
    Umoci,
    UmociRaw,
}

/// Who takes part unless told otherwise, unlade first.
pub(crate) const DEFAULT: [&str; 7] = [
    "unlade",
    "unlade-ring",
    "unlade-16m",
    "tar",
    "tar-pigz",
    "bsdtar",
    "umoci",
];

/// Everyone by name.
pub(crate) const ALL: [&str; 8] = [
    "unlade",
    "unlade-ring",
    "unlade-16m",
    "tar",
    "tar-pigz",
    "bsdtar",
    "umoci",
    "umoci-raw",
];

impl Contestant {
    /// Looks a contestant up by name.
    pub(crate) fn named(name: &str, unlade: &Path) -> Result<Self> {
        let ours = |extra: &[&str]| Kind::Unlade {
            binary: unlade.to_owned(),
            extra: extra.iter().map(|&word| word.to_owned()).collect(),
        };
        let kind = match name {
            "unlade" => ours(&[]),
            "unlade-ring" => ours(&["--io", "ring"]),
            "unlade-16m" => ours(&["--memory", "16MiB"]),
            "tar" => Kind::Tar,
            "tar-pigz" => Kind::TarPigz,
            "bsdtar" => Kind::Bsdtar,
            "umoci" => Kind::Umoci,
            "umoci-raw" => Kind::UmociRaw,
            other => bail!(
                "no contestant called {other:?}; there are: {}",
                ALL.join(" ")
            ),
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
        })
    }

    /// A build of unlade under a name of its own.
    pub(crate) fn build(name: &str, binary: &Path, extra: &[String]) -> Self {
        let kind = Kind::Unlade {
            binary: binary.to_owned(),
            extra: extra.to_vec(),
        };
        Self {
            name: name.to_owned(),
            kind,
        }
    }

    /// What it restores beside contents, types, modes, times and links; what else it does.
    pub(crate) fn note(&self) -> &'static str {
        match self.kind {
            Kind::Unlade { .. } => "owners and xattrs; verifies every digest and diffID",
            Kind::Tar => {
                "owners and xattrs (--xattrs-include=*); verifies nothing but the gzip CRC"
            }
            Kind::TarPigz => {
                "as tar, inflating with pigz (one thread inflates, others read, write, check)"
            }
            Kind::Bsdtar => "owners, xattrs, ACLs, flags (-p); verifies nothing but the gzip CRC",
            Kind::Umoci => {
                "owners and xattrs; verifies digests; also writes a runtime bundle with an mtree \
                 manifest (a hash of every file)"
            }
            Kind::UmociRaw => "as umoci, without bundle and manifest (`umoci raw unpack`)",
        }
    }

    /// The programs it needs; a path for a build of unlade.
    fn programs(&self, compression: Compression) -> Vec<String> {
        let names: &[&str] = match (&self.kind, compression) {
            (Kind::Unlade { binary, .. }, _) => return vec![binary.display().to_string()],
            (Kind::Tar, Compression::Zstd) => &["tar", "zstd"],
            (Kind::Tar, _) => &["tar", "gzip"],
            (Kind::TarPigz, _) => &["tar", "pigz"],
            (Kind::Bsdtar, _) => &["bsdtar"],
            (Kind::Umoci | Kind::UmociRaw, _) => &["umoci"],
        };
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// Why it cannot take part, if it cannot.
    pub(crate) fn obstacle(&self, compression: Compression) -> Option<String> {
        match (&self.kind, compression) {
            (Kind::TarPigz, Compression::Tar | Compression::Zstd) => {
                return Some("pigz decodes gzip only".to_owned());
            }
            (Kind::Umoci | Kind::UmociRaw, Compression::Zstd) => {
                return Some("umoci 0.4 knows no zstd".to_owned());
            }
            _ => {}
        }
        let missing = |program: &String| Command::new(program).arg("--version").output().is_err();
        let program = self.programs(compression).into_iter().find(missing)?;
        let name = Path::new(&program).file_name().unwrap_or(program.as_ref());
        Some(format!("{} is not there", name.display()))
    }

    /// Whether it wants the destination directory to exist.
    pub(crate) fn wants_dest(&self) -> bool {
        matches!(self.kind, Kind::Tar | Kind::TarPigz | Kind::Bsdtar)
    }

    /// The command lines, with unlade's own report of its stages; nothing for others.
    pub(crate) fn reporting(&self, image: &Path, dest: &Path, to: &Path) -> Option<Vec<String>> {
        let Kind::Unlade { .. } = self.kind else {
            return None;
        };
        let mut line = self.steps(image, &[], dest).pop()?;
        line.extend(words(&["--report", &to.display().to_string()]));
        Some(line)
    }

    /// Where the tree is in the end.
    pub(crate) fn tree(&self, dest: &Path) -> PathBuf {
        match self.kind {
            Kind::Umoci => dest.join("rootfs"),
            _ => dest.to_owned(),
        }
    }

    /// The command lines that unpack an image to `dest`.
    pub(crate) fn steps(&self, image: &Path, blobs: &[Blob], dest: &Path) -> Vec<Vec<String>> {
        let (image, dest) = (image.display().to_string(), dest.display().to_string());
        let tagged = format!("{image}:latest");
        let rootless: &[&str] = if is_root() { &[] } else { &["--rootless"] };
        match &self.kind {
            Kind::Unlade { binary, extra } => {
                let mut line = words(&[&binary.display().to_string(), "unpack"]);
                line.extend(words(&[&format!("oci:{tagged}"), &dest]));
                line.extend_from_slice(extra);
                vec![line]
            }
            Kind::Umoci => {
                let head = words(&["umoci", "unpack", "--image", &tagged]);
                vec![[head, words(rootless), words(&[&dest])].concat()]
            }
            Kind::UmociRaw => {
                let head = words(&["umoci", "raw", "unpack", "--image", &tagged]);
                vec![[head, words(rootless), words(&[&dest])].concat()]
            }
            _ => blobs
                .iter()
                .map(|blob| self.tar_step(blob, &dest))
                .collect(),
        }
    }

    fn tar_step(&self, blob: &Blob, dest: &str) -> Vec<String> {
        let path = blob.path.display().to_string();
        if matches!(self.kind, Kind::Bsdtar) {
            return words(&["bsdtar", "--numeric-owner", "-xp", "-f", &path, "-C", dest]);
        }
        let inflate: &[&str] = match (&self.kind, blob.compression) {
            (Kind::TarPigz, _) => &["-I", "pigz"],
            (_, Compression::Gzip) => &["-z"],
            (_, Compression::Zstd) => &["-I", "zstd"],
            (_, Compression::Tar) => &[],
        };
        let head = words(&[
            "tar",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "-p",
        ]);
        [
            head,
            words(inflate),
            words(&["-x", "-f", &path, "-C", dest]),
        ]
        .concat()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_and_defaults_are_among_them() {
        for name in ALL {
            assert_eq!(Contestant::named(name, Path::new("u")).unwrap().name, name);
        }
        assert!(DEFAULT.iter().all(|name| ALL.contains(name)));
        assert!(Contestant::named("rar", Path::new("u")).is_err());
    }

    #[test]
    fn unlade_is_called_once_and_tar_once_a_layer() {
        let blob = Blob {
            path: "/b".into(),
            compression: Compression::Gzip,
            size: 1,
        };
        let blobs = [blob.clone(), blob];
        let ours = Contestant::named("unlade-ring", Path::new("u")).unwrap();
        let steps = ours.steps(Path::new("/i"), &blobs, Path::new("/d"));
        assert_eq!(
            steps,
            [words(&[
                "u",
                "unpack",
                "oci:/i:latest",
                "/d",
                "--io",
                "ring"
            ])]
        );
        let tar = Contestant::named("tar", Path::new("u")).unwrap();
        let steps = tar.steps(Path::new("/i"), &blobs, Path::new("/d"));
        assert_eq!(steps.len(), 2);
        assert!(steps[0].contains(&"-z".to_owned()));
    }
}
