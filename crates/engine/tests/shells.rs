//! What shells and `man` make of what `unlade completion` and `unlade man` write.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use common::*;

/// What bash completes the last of these words with.
fn completed(path: &Path, words: &[&str]) -> Vec<String> {
    let script = r#"
        set -e
        source <(unlade completion bash)
        [[ $(complete -p unlade) == *"-F _unlade unlade" ]]
        COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; COMP_WORDS=()
        for word; do
            # As bash does it, which keeps colons as words.
            while [[ $word == *:* ]]; do
                before=${word%%:*}
                COMP_WORDS+=(${before:+"$before"} ":")
                word=${word#*:}
                [[ -n $word ]] || continue 2
            done
            COMP_WORDS+=("$word")
        done
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _unlade unlade "" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let inherited = std::env::var("PATH").unwrap();
    let out = Command::new("bash")
        .args(["--norc", "-c", script, "bash", "unlade"])
        .args(words)
        .env("PATH", format!("{}:{inherited}", path.display()))
        .env("UNLADE_CONFIG", path.join("config.toml"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{words:?}: {}", text(&out.stderr));
    let all = text(&out.stdout);
    all.lines()
        .filter(|l| !l.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A directory for `PATH` with the command in it.
fn path() -> tempfile::TempDir {
    let dir = temp();
    symlink(
        fs::canonicalize(binary()).unwrap(),
        dir.path().join("unlade"),
    )
    .unwrap();
    fs::write(dir.path().join("config.toml"), "").unwrap();
    dir
}

#[test]
fn bash_completes_commands_and_flags() {
    let dir = path();
    let of = |words: &[&str]| completed(dir.path(), words);
    assert_eq!(of(&["netw"]), ["network"]);
    assert_eq!(of(&["run", "--pul"]), ["--pull"]);
    assert_eq!(
        of(&["network", "c"]),
        ["connect", "create"],
        "commands of commands"
    );
    assert_eq!(of(&["inspect", "--type", "im"]), ["image"]);
    assert_eq!(of(&["completion", "ba"]), ["bash"]);
    assert_eq!(of(&["run", "--no-such"]), [""; 0]);
    // What shims call is nobody's business.
    assert!(!of(&["c"]).contains(&"cleanup".to_owned()));
    let file = dir.path().join("config").display().to_string();
    assert_eq!(of(&["load", "-i", &file]), [format!("{file}.toml")]);
}

#[test]
fn bash_completes_names() {
    if skip_unless_root("bash_completes_names") {
        return;
    }
    let dir = path();
    let store = store::Store::new("/var/tmp", "copy", "", &[("UNLADE_FLUSH", "later")]);
    let at = [
        "--root",
        &store.arg("store"),
        "--run-root",
        &store.arg("run"),
    ];
    let of = |words: &[&str]| {
        let here = ["--graph-driver", "copy"];
        completed(dir.path(), &[&at[..], &here, words].concat())
    };
    assert_eq!(of(&["inspect", "a"]), [""; 0]);
    assert!(!store.path("store").exists(), "a look has made a store");

    let archive = store.path("root.tar");
    fs::write(&archive, tar(&[("file", "x")])).unwrap();
    let archive = archive.display().to_string();
    store.ok(&["import", &archive, "apple:1", "-c", "CMD [\"true\"]"]);
    store.ok(&["volume", "create", "avocado"]);
    store.ok(&["volume", "create", "banana"]);
    store.ok(&["network", "create", "apricot"]);
    assert_eq!(of(&["rmi", "a"]), ["apple:1"]);
    assert_eq!(of(&["run", "--rm", "a"]), ["apple:1"]);
    // What is before a colon is on the line already.
    store.ok(&["tag", "apple:1", "localhost:5000/apple:12"]);
    for (word, rest) in [
        ("apple:", "1"),
        ("apple:1", "1"),
        ("localhost:", "5000/apple:12"),
        ("localhost:5000/apple:1", "12"),
    ] {
        assert_eq!(of(&["rmi", word]), [rest], "{word}");
        assert_eq!(of(&["rmi", "apple:1", word]), [rest], "{word}");
    }
    assert_eq!(of(&["run", "localhost:5000/apple:12", "a"]), [""; 0]);
    store.ok(&["rmi", "localhost:5000/apple:12"]);
    assert_eq!(of(&["run", "apple:1", "a"]), [""; 0], "a command's word");
    assert_eq!(of(&["run", "--network", "a"]), ["apricot"]);
    assert_eq!(
        of(&["volume", "rm", "avocado", ""])[..2],
        ["avocado", "banana"]
    );
    assert_eq!(of(&["volume", "create", "a"]), [""; 0]);
    assert_eq!(of(&["inspect", "a"]), ["apple:1", "apricot", "avocado"]);
    assert_eq!(of(&["logs", "a"]), [""; 0]);
}

#[test]
fn every_shell_gets_a_script() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let out = Command::new(binary())
            .args(["completion", shell])
            .output()
            .unwrap();
        assert!(out.status.success(), "{shell}");
        let script = text(&out.stdout);
        assert!(script.contains("UNLADE_COMPLETE"), "{shell}: {script}");
    }
    let out = Command::new(binary())
        .args(["completion", "csh"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
}

#[test]
fn manual_pages() {
    let dir = temp();
    let pages = dir.path().join("share/man1");
    let out = Command::new(binary()).arg("man").arg(&pages).output();
    let out = out.unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let mut names: Vec<_> = fs::read_dir(&pages)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for page in ["unlade.1", "unlade-run.1", "unlade-network-create.1"] {
        assert!(
            names.iter().any(|n| n == page),
            "{page} is not in {names:?}"
        );
    }
    assert!(!names.iter().any(|n| n.contains("cleanup")), "{names:?}");
    if Command::new("groff").arg("--version").output().is_err() {
        eprintln!("skipped: no groff to read them with");
        return;
    }
    for name in &names {
        let out = Command::new("groff")
            .args(["-man", "-Kutf8", "-Tutf8", "-ww", "-P-cbou"])
            .arg(pages.join(name))
            .output()
            .unwrap();
        let said = text(&out.stderr);
        assert!(out.status.success() && said.is_empty(), "{name}: {said}");
        if name == "unlade-rm.1" {
            // Lines are stretched to the same width.
            let shown = text(&out.stdout);
            let shown = shown
                .split(' ')
                .filter(|w| !w.is_empty())
                .collect::<Vec<_>>()
                .join(" ");
            for part in [
                "NAME\n unlade-rm - Remove containers\n",
                "SYNOPSIS\n unlade rm [-f|--force]",
                " -f, --force[=<BOOL>]\n",
            ] {
                assert!(shown.contains(part), "{part:?} is not in {shown}");
            }
        }
    }
}
