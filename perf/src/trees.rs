//! Makes root trees from real packages (Debian, PyPI, npm) and packs them as layers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::workloads::Store;

/// The Debian release of the `debian` tree.
const SUITE: &str = "bookworm";

/// What goes into the `python` tree. What these pull in floats and is recorded.
const PYTHON: &[&str] = &[
    "numpy==2.4.6",
    "scipy==1.17.1",
    "pandas==3.1.1",
    "pyarrow==26.0.1",
    "scikit-learn==1.9.1",
    "matplotlib==3.11.2",
];

/// What goes into the `node` tree. What these pull in floats and is recorded.
const NODE: &[&str] = &[
    "webpack@5.112.2",
    "typescript@7.0.2",
    "react@19.3.1",
    "next@16.4.6",
    "eslint@10.15.0",
    "jest@30.5.2",
    "@babel/core@7.29.13",
    "@babel/preset-env@7.29.14",
];

/// The trees that exist as directories while layers are made.
pub(crate) const TREES: [&str; 3] = ["debian", "python", "node"];

/// Makes the named tree under the store's `trees` directory unless it is there: out of its own
/// layer if that was kept, else out of packages.
pub(crate) fn ensure_tree(store: &Store, name: &str) -> Result<()> {
    let tree = store.trees().join(name);
    if tree.exists() {
        return Ok(());
    }
    let partial = store.trees().join(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let layer = store.layer(name, "tar");
    eprintln!("perf: making the {name} tree");
    if layer.exists() {
        run(Command::new("tar")
            .args(["-x", "--numeric-owner", "-p", "-C"])
            .arg(&partial)
            .arg("-f")
            .arg(&layer))?;
    } else {
        match name {
            "debian" => debian(&partial)?,
            "python" => python(&partial)?,
            "node" => node(&partial)?,
            other => bail!("no tree called {other:?}"),
        }
    }
    fs::rename(&partial, &tree)?;
    Ok(())
}

fn debian(tree: &Path) -> Result<()> {
    let mirror = apt_mirror()?;
    run(Command::new("debootstrap")
        .args(["--variant=minbase", SUITE])
        .arg(tree)
        .arg(&mirror))?;
    for cache in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        for entry in fs::read_dir(tree.join(cache))? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?
            } else {
                fs::remove_file(path)?
            }
        }
    }
    Ok(())
}

fn python(tree: &Path) -> Result<()> {
    let target = tree.join("opt/python");
    fs::create_dir_all(&target)?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-cache-dir",
        "--target",
    ];
    run(Command::new("python3").args(pip).arg(&target).args(PYTHON))
}

fn node(tree: &Path) -> Result<()> {
    let app = tree.join("opt/app");
    fs::create_dir_all(&app)?;
    fs::write(
        app.join("package.json"),
        r#"{"name":"app","version":"1.0.0","private":true}"#,
    )?;
    let npm = ["install", "--no-audit", "--no-fund", "--loglevel=error"];
    run(Command::new("npm").args(npm).args(NODE).current_dir(&app))
}

/// The first mirror that this machine's apt would take the suite's `main` from.
fn apt_mirror() -> Result<String> {
    let etc = Path::new("/etc/apt");
    let mut texts = vec![fs::read_to_string(etc.join("sources.list")).unwrap_or_default()];
    for entry in fs::read_dir(etc.join("sources.list.d"))
        .into_iter()
        .flatten()
    {
        texts.push(fs::read_to_string(entry?.path()).unwrap_or_default());
    }
    texts
        .iter()
        .find_map(|text| mirror_in(text, SUITE))
        .with_context(|| format!("no mirror for {SUITE} under /etc/apt"))
}

/// Reads one-line (`deb URI suite component…`) and deb822 (`URIs:`, `Suites:`) sources.
fn mirror_in(text: &str, suite: &str) -> Option<String> {
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else {
            continue;
        };
        let rest = match rest.trim_start().strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let uri = words.next()?;
        if words.next() == Some(suite) && words.any(|component| component == "main") {
            return Some(uri.to_owned());
        }
    }
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::split_whitespace)
        };
        if !field("Suites:")?.any(|word| word == suite) {
            return None;
        }
        field("URIs:")?.next().map(str::to_owned)
    })
}

/// Packs directories as one layer: `(parent, entries)` pairs, sorted, numeric owners, pax with
/// extended attributes, times in whole seconds as container engines write them.
pub(crate) fn pack(out: &Path, sources: &[(&Path, Vec<OsString>)]) -> Result<()> {
    let partial = out.with_extension("tar.partial");
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--numeric-owner",
        "--format=pax",
        "--xattrs",
        "--xattrs-include=*",
    ]);
    tar.arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime,delete=mtime");
    tar.arg("-cf").arg(&partial);
    for (parent, entries) in sources {
        tar.arg("-C").arg(fs::canonicalize(parent)?).args(entries);
    }
    run(&mut tar)?;
    fs::rename(&partial, out)?;
    Ok(())
}

/// The sorted names in a directory.
pub(crate) fn names_in(dir: &Path) -> Result<Vec<OsString>> {
    let mut names = fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Package names and versions in a tree.
pub(crate) fn packages(name: &str, tree: &Path) -> Result<BTreeMap<String, String>> {
    match name {
        "debian" => dpkg_packages(&fs::read_to_string(tree.join("var/lib/dpkg/status"))?),
        "python" => Ok(names_in(&tree.join("opt/python"))?
            .iter()
            .filter_map(|dir| dir.to_str()?.strip_suffix(".dist-info")?.rsplit_once('-'))
            .map(|(package, version)| (package.to_owned(), version.to_owned()))
            .collect()),
        "node" => {
            let lock = fs::read(tree.join("opt/app/package-lock.json"))?;
            let lock: serde_json::Value = serde_json::from_slice(&lock)?;
            let packages = lock["packages"]
                .as_object()
                .context("package-lock without packages")?;
            Ok(packages
                .iter()
                .filter(|(path, _)| !path.is_empty())
                .map(|(path, package)| {
                    let short = path.strip_prefix("node_modules/").unwrap_or(path);
                    (
                        short.to_owned(),
                        package["version"].as_str().unwrap_or("?").to_owned(),
                    )
                })
                .collect())
        }
        _ => Ok(BTreeMap::new()),
    }
}

fn dpkg_packages(status: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for stanza in status
        .split("\n\n")
        .filter(|stanza| !stanza.trim().is_empty())
    {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
        let package = field("Package: ").context("dpkg stanza without a package")?;
        found.insert(
            package.to_owned(),
            field("Version: ").unwrap_or("?").to_owned(),
        );
    }
    Ok(found)
}

/// Runs a command that has to succeed; what it prints goes to standard error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("start {name} (is it installed?)"))?;
    ensure!(status.success(), "{name}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_read_in_both_formats() {
        let one_line = "# c\ndeb http://x.test/s bookworm-updates main\n\
                        deb [signed-by=/k] http://m.test/debian bookworm main contrib\n";
        assert_eq!(
            mirror_in(one_line, "bookworm").as_deref(),
            Some("http://m.test/debian")
        );
        let deb822 = "Types: deb\nURIs: http://sec.test/\nSuites: bookworm-security\n\n\
                      Types: deb\n# c\nURIs: http://m.test/debian\nSuites: bookworm x\n";
        assert_eq!(
            mirror_in(deb822, "bookworm").as_deref(),
            Some("http://m.test/debian")
        );
        assert_eq!(mirror_in(deb822, "trixie"), None);
    }

    #[test]
    fn dpkg_status_gives_versions() {
        let found =
            dpkg_packages("Package: a\nVersion: 1:2\n\nPackage: b\nVersion: 3\n\n").unwrap();
        assert_eq!(found["a"], "1:2");
        assert_eq!(found["b"], "3");
    }
}
