//! The architecture, held by reading the sources: who may import whom.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Modules in rows; a module imports only from rows above its own, and from itself.
const UNPACK: &[&[&str]] = &[
    &["error", "limits", "fault"],
    &["sys", "digest", "cancel", "entry"],
    &["pool", "attrs", "tar", "decode", "record"],
    &["source", "root", "report"],
    &["io", "plan"],
    &["sink"],
    &["pipeline", "fuzzing"],
];
const GRAPH: &[&[&str]] = &[
    &["sys"],
    &["remove"],
    &["walk", "quota"],
    &["layout"],
    &["mount", "tree"],
    &["driver", "erofs"],
    &["roots", "info", "diff", "verify"],
    &["snapshot", "copy", "btrfs"],
    &["overlay", "trees", "erofs_driver"],
    &["probe"],
];
const ENGINE: &[&[&str]] = &[
    &["error"],
    &["user"],
    &["config", "journal"],
    &["image", "sys", "tarball"],
    &["runtime"],
    &["rootless"],
    &[
        "source", "dest", "store", "registry", "spec", "shim", "exchange",
    ],
    &["network", "volume"],
    &["unpack", "pull", "push", "archive", "container"],
    &["engine"],
    &["cli"],
    &["main"],
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// First path segments after `crate::`, also of grouped imports.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' {
            continue;
        }
        let rest = &text[at + 7..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect(),
            );
            continue;
        };
        let (mut depth, mut word) = (0, String::new());
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                _ => {}
            }
            if c == ',' && depth == 0 {
                found.push(std::mem::take(&mut word));
            } else if !c.is_whitespace() {
                word.push(c);
            }
        }
        found.push(word);
    }
    let first = |w: String| w.split("::").next().unwrap_or_default().to_owned();
    found
        .into_iter()
        .map(first)
        .filter(|w| !w.is_empty())
        .collect()
}

fn check(crate_dir: &str, rows: &[&[&str]]) {
    let row: BTreeMap<&str, usize> = rows
        .iter()
        .enumerate()
        .flat_map(|(i, r)| r.iter().map(move |m| (*m, i)))
        .collect();
    let src = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(crate_dir)
        .join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 5);
    let (mut checked, mut wrong) = (0, Vec::new());
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let top = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let module = top.trim_end_matches(".rs");
        if module == "lib" || module == "bin" {
            continue;
        }
        let own = *row
            .get(module)
            .unwrap_or_else(|| panic!("{module} is in no row"));
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            // Names that lib.rs re-exports are not modules: imports name the module itself.
            let Some(&from) = row.get(import.as_str()) else {
                continue;
            };
            checked += 1;
            if from >= own && import != module {
                wrong.push(format!("{}: imports {import}", inside.display()));
            }
        }
    }
    assert!(
        checked > 10 && wrong.is_empty(),
        "{checked} imports, against the rows: {wrong:#?}"
    );
}

#[test]
fn unpack_imports_only_upwards() {
    check("unpack", UNPACK);
}

#[test]
fn graph_imports_only_upwards() {
    check("graph", GRAPH);
}

#[test]
fn engine_imports_only_upwards() {
    check("engine", ENGINE);
}

#[test]
fn unpack_and_graph_have_no_runtime_network_or_database() {
    for package in ["unlade-unpack", "unlade-graph"] {
        has_no_runtime_network_or_database(package);
    }
}

fn has_no_runtime_network_or_database(package: &str) {
    let Ok(out) = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "tree",
            "-p",
            package,
            "-e",
            "normal",
            "--prefix",
            "none",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
    else {
        eprintln!("skipped: this user has no cargo");
        return;
    };
    if !out.status.success() {
        eprintln!("skipped: {}", String::from_utf8_lossy(&out.stderr));
        return;
    }
    let tree = String::from_utf8(out.stdout).unwrap();
    assert!(tree.contains("sha2 "), "{package}");
    const BANNED: &[&str] = &[
        "tokio",
        "async-std",
        "smol",
        "futures",
        "hyper",
        "reqwest",
        "ureq",
        "curl",
        "isahc",
        "rusqlite",
        "libsqlite3-sys",
        "sled",
        "redb",
        "rocksdb",
        "sqlx",
    ];
    for line in tree.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        assert!(!BANNED.contains(&name), "{package} depends on {name}");
    }
}
