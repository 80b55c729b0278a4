//! Finds a runtime and looks at its version, once for each program file.

use std::{
    env,
    fs::{self, Metadata},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Flavor, Runtime, bounded, cgroup};
use crate::{
    config::Config,
    error::{Error, Kind, Result},
};

/// Where programs are looked for beside `PATH`.
const BESIDE: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a runtime may take to tell its version.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What a program said of itself, and which file said it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    path: PathBuf,
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    flavor: Flavor,
    version: String,
}

impl Runtime {
    /// The runtime of that name or path, or the configured one, or the first of `runc` and `crun`
    /// that there is. Its version is asked for once for each program file, and remembered in the
    /// run root.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if it is not there, [`Kind::Unsupported`] if it is too old or not known,
    /// [`Kind::Host`] if it cannot be run.
    pub fn find(name: Option<&str>, config: &Config) -> Result<Self> {
        let wanted = name.filter(|n| !n.is_empty()).or(config.runtime.as_deref());
        let (path, meta) = match wanted {
            Some(name) => program(name).ok_or_else(|| missing(name))?,
            None => program("runc")
                .or_else(|| program("crun"))
                .ok_or_else(|| missing("runc"))?,
        };
        if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            let m = format!("the runtime `{}` is not a program", path.display());
            return Err(Error::new(Kind::Denied, m).with_hint("is it executable (chmod +x)?"));
        }
        let known = known(&path, &meta, &config.run_root)?;
        let through = match known.flavor {
            Flavor::Crun if cgroup::hybrid() => Some(shim_binary(config)?),
            _ => None,
        };
        Ok(Self {
            root: config.run_root.join("runtime").join(known.flavor.name()),
            path,
            flavor: known.flavor,
            version: known.version,
            through,
        })
    }
}

/// The program `unlade-shim`: what `UNLADE_SHIM` or the configuration says, beside this program,
/// or in `PATH`.
///
/// # Errors
/// [`Kind::NotFound`] if it is nowhere.
pub fn shim_binary(config: &Config) -> Result<PathBuf> {
    let set = env::var_os("UNLADE_SHIM").filter(|v| !v.is_empty());
    if let Some(path) = set.map(PathBuf::from).or_else(|| config.shim.clone()) {
        return match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(path),
            _ => {
                let m = format!("the shim `{}` is not there", path.display());
                Err(Error::new(Kind::NotFound, m)
                    .with_hint("correct UNLADE_SHIM, or `shim` in the configuration"))
            }
        };
    }
    const NAME: &str = "unlade-shim";
    let own = env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(|d| d.join(NAME));
    beside
        .filter(|path| path.is_file())
        .or_else(|| program(NAME).map(|(path, _)| path))
        .ok_or_else(|| {
            Error::new(Kind::NotFound, "the program `unlade-shim` is not there")
                .with_hint("install it beside `unlade`, or set UNLADE_SHIM")
        })
}

fn missing(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no runtime `{name}`"))
        .with_hint("install runc or crun (Debian: apt-get install runc), or name one with --runtime, or `runtime` in the configuration")
}

/// The file that `name` stands for: a path, or a name that is looked for.
fn program(name: &str) -> Option<(PathBuf, Metadata)> {
    if name.contains('/') {
        let path = std::path::absolute(name).ok()?;
        let meta = fs::metadata(&path).ok()?;
        return Some((path, meta));
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    let beside = env::split_paths(BESIDE);
    env::split_paths(&paths)
        .chain(beside)
        .filter(|dir| dir.is_absolute())
        .find_map(|dir| {
            let path = dir.join(name);
            let meta = fs::metadata(&path).ok()?;
            (meta.is_file() && meta.permissions().mode() & 0o111 != 0).then_some((path, meta))
        })
}

/// What that file says of itself, from memory where it said so before.
fn known(path: &Path, meta: &Metadata, run_root: &Path) -> Result<Known> {
    let name = path.as_os_str().to_string_lossy().replace(['/', '%'], "%");
    let dir = run_root.join("runtime");
    let cache = dir.join(format!("version{name}"));
    let remembered = fs::read(&cache).ok();
    let remembered: Option<Known> = remembered.and_then(|b| serde_json::from_slice(&b).ok());
    if let Some(known) = remembered
        && known == Known::now(path, meta, known.flavor, known.version.clone())
    {
        return Ok(known);
    }
    let (flavor, version) = ask(path)?;
    let known = Known::now(path, meta, flavor, version);
    if let Err(e) = remember(&dir, &cache, &known) {
        tracing::debug!(error = %e, "the version of the runtime is asked for each time");
    }
    Ok(known)
}

fn remember(dir: &Path, cache: &Path, known: &Known) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let new = cache.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, serde_json::to_vec(known)?)?;
    fs::rename(&new, cache)
}

impl Known {
    fn now(path: &Path, meta: &Metadata, flavor: Flavor, version: String) -> Self {
        Self {
            path: path.to_owned(),
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
            flavor,
            version,
        }
    }
}

fn ask(path: &Path) -> Result<(Flavor, String)> {
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null());
    let out = bounded::run(&mut command, TIMEOUT)?;
    let text = String::from_utf8_lossy(&out.stdout);
    let Some((flavor, version)) = parse(&text).filter(|_| out.ok()) else {
        let m = format!(
            "`{} --version` does not say that it is runc or crun: {}",
            path.display(),
            out.said()
        );
        return Err(Error::new(Kind::Unsupported, m)
            .with_hint("runc from 1.1 and crun from 1.5 are supported"));
    };
    if numbers(&version) < flavor.oldest() {
        let [a, b, c] = flavor.oldest();
        let m = format!(
            "{} {version} (`{}`) is too old",
            flavor.name(),
            path.display()
        );
        return Err(
            Error::new(Kind::Unsupported, m).with_hint(format!("{a}.{b}.{c} or newer is needed"))
        );
    }
    Ok((flavor, version))
}

/// `runc version 1.1.5+ds1` on the first line.
fn parse(text: &str) -> Option<(Flavor, String)> {
    let mut words = text.lines().next()?.split_whitespace();
    let flavor = match words.next()? {
        "runc" => Flavor::Runc,
        "crun" => Flavor::Crun,
        _ => return None,
    };
    let version = words.nth(1)?;
    let starts = version.starts_with(|c: char| c.is_ascii_digit());
    (starts && version.len() < 100).then(|| (flavor, version.to_owned()))
}

/// The first three numbers of a version; what is missing is 0.
fn numbers(version: &str) -> [u32; 3] {
    let mut out = [0; 3];
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.');
    let digits = &version[..end.unwrap_or(version.len())];
    for (n, part) in out.iter_mut().zip(digits.split('.')) {
        *n = part.parse().unwrap_or(0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, name: &str, text: &str) -> String {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn versions() {
        for (text, want) in [
            (
                "runc version 1.1.5+ds1\ncommit: x",
                Some((Flavor::Runc, [1, 1, 5])),
            ),
            ("crun version 1.8.1\n", Some((Flavor::Crun, [1, 8, 1]))),
            ("runc version 1.3.0-rc.1", Some((Flavor::Runc, [1, 3, 0]))),
            ("crun version 1.20", Some((Flavor::Crun, [1, 20, 0]))),
            ("youki version 0.3", None),
            ("runc", None),
            ("runc version x", None),
            ("", None),
        ] {
            let got = parse(text).map(|(f, v)| (f, numbers(&v)));
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn asked_once_for_each_file() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            run_root: dir.path().join("run"),
            ..Config::default()
        };
        let count = dir.path().join("count");
        let says =
            |version: &str| format!("echo x >> {}; echo runc version {version}", count.display());
        let name = script(dir.path(), "r", &says("1.2.3"));
        for _ in 0..3 {
            let found = Runtime::find(Some(&name), &config).unwrap();
            assert_eq!((found.flavor, &*found.version), (Flavor::Runc, "1.2.3"));
            assert_eq!(found.root, config.run_root.join("runtime/runc"));
        }
        assert_eq!(fs::read(&count).unwrap().len(), 2);
        script(dir.path(), "r", &says("1.0.3 "));
        let e = Runtime::find(Some(&name), &config).unwrap_err();
        assert_eq!(e.kind(), Kind::Unsupported);
        assert!(e.message().contains("runc 1.0.3"), "{e}");
    }

    #[test]
    fn what_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            run_root: dir.path().join("run"),
            ..Config::default()
        };
        let find = |name: &str| Runtime::find(Some(name), &config).unwrap_err();
        let e = find("no-such-runtime");
        assert_eq!((e.kind(), e.hint().is_some()), (Kind::NotFound, true));
        let plain = dir.path().join("plain");
        fs::write(&plain, "").unwrap();
        assert_eq!(find(plain.to_str().unwrap()).kind(), Kind::Denied);
        let e = find(&script(dir.path(), "other", "echo other 1; echo why >&2"));
        assert_eq!(e.kind(), Kind::Unsupported);
        assert!(e.message().contains("why"), "{e}");
        let e = find(&script(
            dir.path(),
            "one",
            "echo runc version 1.1.5; exit 1",
        ));
        assert_eq!(e.kind(), Kind::Unsupported);
    }
}
