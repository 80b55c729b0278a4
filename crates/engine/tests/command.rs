//! What the command prints, reports and returns.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    process::{Command, Stdio},
};

use common::*;
use serde_json::Value;

fn report(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("{e}: {}", text(bytes)))
}

#[test]
fn one_line_or_a_report_on_stdout() {
    let layers = two_layers();
    let layout = Layout::with(&layers);
    let dir = temp();
    let dest = dir.path().join("root");
    let line = text(&unpack(&layout.source(""), &dest, &[]).stdout);
    assert!(line.starts_with("sha256:") && line.ends_with(&format!(" to {}\n", dest.display())));
    assert!(line.contains(": unpacked 2 layers, 7 entries, ") && line.lines().count() == 1);
    assert!(
        unpack(&layout.source(""), &dest, &["--force", "-q"])
            .stdout
            .is_empty()
    );

    let out = unpack(&layout.source(""), &dest, &["--force", "--report=-"]);
    assert!(out.stderr.is_empty(), "{}", text(&out.stderr));
    let r = report(&out.stdout);
    assert!(line.starts_with(r["manifest_digest"].as_str().unwrap()));
    assert_eq!((&r["ok"], &r["report_version"]), (&true.into(), &1.into()));
    assert_eq!(
        (&r["platform"], &r["verified_only"]),
        (&"linux/amd64".into(), &false.into())
    );
    assert_eq!(r["dest"], dest.to_str().unwrap());
    assert_eq!(r["entries"]["total"], 7);
    assert_eq!(
        (&r["entries"]["files"], &r["entries"]["whiteouts"]),
        (&5.into(), &1.into())
    );
    assert!(r["peak_rss_bytes"].as_u64().unwrap() > 0 && r["seconds"].as_f64().unwrap() > 0.0);
    for (n, layer) in layers.iter().enumerate() {
        let l = &r["layers"][n];
        assert_eq!(l["digest"], sha256(&layer.blob));
        assert_eq!(l["diff_id"], sha256(&layer.tar));
        assert_eq!(l["media_type"], *layer.media_type);
        assert_eq!(l["compression"], ["gzip", "zstd"][n]);
        assert_eq!(l["compressed_bytes"], layer.blob.len());
        assert_eq!(l["tar_bytes"], layer.tar.len());
        assert!(l["decoder"].is_string() && l["io"].is_string() && l["skipped"].is_array());
        for stage in ["read", "decode", "digest", "apply", "write"] {
            for field in ["seconds", "cpu_seconds", "bytes"] {
                assert!(l["stages"][stage][field].is_number(), "{stage} {field}");
            }
        }
    }
}

#[test]
fn a_failure_is_reported_too() {
    let layout = Layout::new();
    let image = layout.image(&[
        Layer::gzip(&[("a", "1")]),
        Layer::plain(&[("x/../../out", "")]),
    ]);
    layout.index(&[image]);
    let dir = temp();
    let file = dir.path().join("report.json");
    let args = ["--report", file.to_str().unwrap()];
    let out = try_unpack(&layout.source(""), &dir.path().join("root"), &args);
    assert_eq!(out.status.code(), Some(1));
    let r = report(&fs::read(file).unwrap());
    assert_eq!(
        (&r["ok"], &r["error"]["kind"]),
        (&false.into(), &"bad-input".into())
    );
    assert_eq!(
        (&r["error"]["part"], &r["error"]["entry"]),
        (&"layer 2 of 2".into(), &0.into())
    );
    assert!(r["error"]["blob"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(
        (&r["error"]["offset"], &r["error"]["offset_in"]),
        (&0.into(), &"tar".into())
    );
    let message = r["error"]["message"].as_str().unwrap();
    let hint = r["error"]["hint"].as_str().unwrap();
    assert_eq!(
        text(&out.stderr),
        format!("unlade: {message}\nhint: {hint}\n")
    );
    assert_eq!(names(dir.path()), ["report.json"]);
}

#[test]
fn a_report_that_cannot_be_written_is_noticed_first() {
    let layout = Layout::with(&two_layers());
    let dir = temp();
    let dest = dir.path().join("root");
    let out = try_unpack(
        &layout.source(""),
        &dest,
        &["--report", "/no/such/dir/report"],
    );
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("--report") && !dest.exists());
    if !fs::exists("/dev/full").unwrap() {
        eprintln!("skipped in part: no /dev/full");
        return;
    }
    let out = try_unpack(&layout.source(""), &dest, &["--report", "/dev/full"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stdout));
    assert!(
        text(&out.stderr).contains("write the report"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn exit_codes() {
    for (args, code) in [
        (&["--version"][..], 0),
        (&["--help"], 0),
        (&["unpack", "--help"], 0),
        (&["help", "run"], 0),
        (&[], 0),
        (&["--root", "/no/such"], 0),
        (&["network"], 0),
        (&["volume"], 0),
        (&["image"], 0),
        (&["container"], 0),
        (&["system"], 0),
        // As docker: 125 for flags, 1 for commands and numbers of arguments.
        (&["--nosuch"], 125),
        (&["ps", "--nosuch"], 125),
        (&["images", "run", "--nosuch"], 125),
        (&["run", "--nosuch", "x"], 125),
        (&["container", "run", "--nosuch"], 125),
        (&["stop", "-t", "x", "y"], 125),
        (&["ps", "--no-trunc=x"], 125),
        (&["ps", "-f"], 125),
        (&["ps", "-f", "x"], 125),
        (&["volume", "prune", "--filter", "x"], 125),
        (&["create", "--cpus=x", "y"], 125),
        (&["update", "-m", "x", "y"], 125),
        (&["pull", "--disable-content-trust=x", "y"], 125),
        (&["create", "--explain=x", "y"], 125),
        (&["run"], 1),
        (&["stop"], 1),
        (&["exec", "x"], 1),
        (&["ps", "x"], 1),
        (&["rename", "x"], 1),
        (&["nosuch"], 1),
        (&["network", "nosuch"], 1),
        (&["help", "nosuch"], 1),
        // Docker has none of these, and they keep to their own.
        (&["unpack", "layer:-"], 2),
        (&["unpack", "--nosuch"], 2),
        (&["unpack", "docker://x", "y"], 2),
        (&["unpack", "oci:x", "y", "--verify"], 2),
        (&["unpack", "oci:x", "y", "--memory=much"], 2),
        (&["unpack", "oci:x", "y", "--platform=linux"], 2),
        (&["unpack", "oci:x", "y", "--owners=me"], 2),
        (&["gunzip", "--nosuch"], 2),
        (&["unpack", "oci:/no/such", "--verify"], 1),
        (&["unpack", "layer:/no/such", "--verify"], 1),
    ] {
        let out = unlade(args);
        assert_eq!(
            out.status.code(),
            Some(code),
            "{args:?}: {}",
            text(&out.stderr)
        );
    }
}

#[test]
fn what_is_said_of_wrong_use() {
    for (args, said) in [
        (
            &["ps", "--nosuch"][..],
            "unlade: unknown flag: --nosuch\n\nUsage: unlade ps [OPTIONS]\n\nRun 'unlade ps --help' for more information\n",
        ),
        (&["ps", "-az"], "unlade: unknown shorthand flag: -z\n"),
        (&["ps", "x"], "unlade: 'unlade ps' accepts no arguments\n"),
        (
            &["container", "stop"],
            "unlade: 'unlade container stop' requires at least 1 argument\n",
        ),
        (
            &["volume", "create", "a", "b"],
            "unlade: 'unlade volume create' requires at most 1 argument\n",
        ),
        (
            &["imagess"],
            "unlade: unknown command: unlade imagess\nhint: did you mean images?\n",
        ),
        (
            &["logs", "--tial", "4", "x"],
            "unlade: unknown flag: --tial\nhint: did you mean --tail?\n",
        ),
        // What is not alike is not guessed at.
        (
            &["search", "x"],
            "unlade: unknown command: unlade search\n\nUsage: ",
        ),
        (
            &["network", "compose"],
            "unlade: unknown command: unlade network compose\n\nUsage: unlade network ",
        ),
        (
            &["stop", "-t", "x", "y"],
            "unlade: invalid argument \"x\" for \"-t, --timeout\" flag: ",
        ),
        (&["ps", "-f"], "unlade: flag needs an argument: --filter\n"),
        (
            &["inspect", "--type", "foo", "x"],
            "unlade: invalid argument \"foo\" for \"--type\" flag: must be one of container, image, network, volume\n",
        ),
        (
            &["inspect", "--explain", "-s", "x"],
            "unlade: conflicting options: --explain cannot be used with --size\n",
        ),
        (
            &["unpack", "oci:x"],
            "unlade: 'unlade unpack' requires <DEST>\n",
        ),
        (
            &["ps", "--\u{1b}[31m"],
            "unlade: unknown flag: --\\u{1b}[31m\n",
        ),
    ] {
        let out = unlade(args);
        let all = text(&out.stderr);
        assert!(all.starts_with(said), "{args:?}: {all}");
        assert!(all.contains(" --help' for more information\n"), "{all}");
        assert!(out.stdout.is_empty());
    }
    // Help that nobody asked for is not what a command prints.
    let out = unlade(&["network"]);
    assert!(out.stdout.is_empty() && text(&out.stderr).contains("disconnect"));
}

#[test]
fn flags_again_and_with_values() {
    let dir = temp();
    let store = dir.path().to_str().unwrap();
    let base = ["--root", store, "--run-root", store, "--graph-driver=copy"];
    for args in [
        &["images", "-q", "-q"][..],
        &[
            "images",
            "--format=x",
            "--format={{.Nosuch}}",
            "--format=json",
        ],
        &["images", "--no-trunc=1", "--digests=F"],
        &[
            "--graph-driver=nosuch",
            "--graph-driver=copy",
            "network",
            "ls",
            "--no-trunc=true",
        ],
    ] {
        let out = Command::new(binary())
            .args(base)
            .args(args)
            .env("UNLADE_CONFIG", "")
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    }
}

#[test]
fn templates_do_not_pass_over_what_is_not_there() {
    let dir = temp();
    let store = dir.path().to_str().unwrap();
    let base = ["--root", store, "--run-root", store, "--graph-driver=copy"];
    let run = |args: &[&str]| {
        let mut command = Command::new(binary());
        let command = command.args(base).args(args).env("UNLADE_CONFIG", "");
        command.output().unwrap()
    };
    for args in [
        &["info", "-f", "{{.Nosuch}}"][..],
        &["version", "-f", "{{.Nosuch}}"],
        &["version", "-f", "{{.Server.Nosuch}}"],
        &["network", "inspect", "-f", "{{.Nosuch}}", "bridge"],
    ] {
        let out = run(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {said}");
        assert!(
            said.contains("template parsing error") && said.contains("Nosuch"),
            "{said}"
        );
    }
    let facts = run(&[
        "info",
        "-f",
        "{{.OSType}} {{.Swarm.LocalNodeState}} {{.MemTotal}} {{json .SecurityOptions}}",
    ]);
    let (facts, said) = (text(&facts.stdout), text(&facts.stderr));
    assert!(facts.starts_with("linux inactive "), "{facts}{said}");
    assert!(
        facts.contains("\"name=seccomp,profile=builtin\""),
        "{facts}"
    );
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(facts.contains(&format!(" {} ", kib * 1024)), "{facts}");
    // Labels are a map: what is not in it is no mistake.
    let out = run(&["network", "inspect", "-f", "{{.Labels.nosuch}}", "bridge"]);
    assert_eq!(text(&out.stdout), "<no value>\n", "{}", text(&out.stderr));
}

#[test]
fn a_closed_stdout_is_no_error() {
    let layout = Layout::with(&two_layers());
    for extra in [&[][..], &["--report=-"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = Command::new(binary())
            .args(["unpack", "--verify", &layout.source("")])
            .args(extra)
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(
            out.status.success() && out.stderr.is_empty(),
            "{}",
            text(&out.stderr)
        );
    }
}

#[test]
fn verify_writes_nothing() {
    let layout = Layout::with(&two_layers());
    let before = tree_names(&layout);
    let out = unlade(&["unpack", "--verify", &layout.source("")]);
    assert!(
        text(&out.stdout).contains(": verified 2 layers"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(tree_names(&layout), before);
    let mut layers = two_layers();
    layers[1] = Layer::plain(&[("../x", "")]);
    let out = unlade(&["unpack", "--verify", &Layout::with(&layers).source("")]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("layer 2 of 2"),
        "{}",
        text(&out.stderr)
    );
}

fn tree_names(layout: &Layout) -> Vec<String> {
    [
        names(layout.path()),
        names(&layout.path().join("blobs/sha256")),
    ]
    .concat()
}

#[test]
fn overlay_directories() {
    let layout = Layout::with(&two_layers());
    let dir = temp();
    let dest = dir.path().join("root");
    let how = if is_root() {
        "overlay"
    } else {
        "overlay-userxattr"
    };
    unpack(&layout.source(""), &dest, &["--whiteouts", how]);
    assert_eq!(names(&dest), ["000", "001", "lowerdirs"]);
    assert_eq!(
        fs::read_to_string(dest.join("lowerdirs")).unwrap(),
        "001\n000\n"
    );
    assert_eq!(names(&dest.join("000")), ["etc", "gone", "kept"]);
    assert_eq!(names(&dest.join("001")), ["etc", "gone", "new"]);
    // Three digits are not the most.
    let many: Vec<Layer> = (0..3)
        .map(|n| Layer::plain(&[(&format!("f{n}"), "")]))
        .collect();
    let layout = Layout::with(&many);
    unpack(
        &layout.source(""),
        &dest,
        &["--force", "--whiteouts", how, "--threads=1"],
    );
    assert_eq!(
        fs::read_to_string(dest.join("lowerdirs")).unwrap(),
        "002\n001\n000\n"
    );
    let empty = Layout::with(&[]);
    unpack(&empty.source(""), &dest, &["--force", "--whiteouts", how]);
    assert_eq!(fs::read_to_string(dest.join("lowerdirs")).unwrap(), "");
}

#[test]
fn bars_and_logs_only_when_asked_for() {
    let layout = Layout::with(&two_layers());
    let dir = temp();
    let dest = dir.path().join("root");
    let out = unpack(&layout.source(""), &dest, &[]);
    assert!(out.stderr.is_empty(), "{}", text(&out.stderr));
    unpack(&layout.source(""), &dest, &["--force", "--progress=always"]);
    let out = Command::new(binary())
        .args(["unpack", "--verify", "-q", &layout.source("")])
        .env("UNLADE_LOG", "unlade_engine=debug")
        .output()
        .unwrap();
    assert!(
        text(&out.stderr).contains("applying"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn many_layers_and_few_descriptors() {
    let layers: Vec<Layer> = (0..300)
        .map(|n| Layer::gzip(&[(&format!("f{n}"), "x")]))
        .collect();
    let layout = Layout::with(&layers);
    let dir = temp();
    for (name, how) in [("tree", "apply"), ("overlay", "overlay-userxattr")] {
        let script = "ulimit -S -n 64; exec \"$0\" \"$@\"";
        let out = Command::new("sh")
            .args([
                "-c",
                script,
                &binary(),
                "unpack",
                "--whiteouts",
                how,
                &layout.source(""),
            ])
            .arg(dir.path().join(name))
            .output()
            .unwrap();
        assert!(out.status.success(), "{how}: {}", text(&out.stderr));
    }
    assert_eq!(names(&dir.path().join("tree")).len(), 300);
    assert_eq!(names(&dir.path().join("overlay")).len(), 301);
}

#[test]
fn versions_as_docker_has_them() {
    let version = env!("CARGO_PKG_VERSION");
    let of = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_unlade"))
            .env("UNLADE_CONFIG", "")
            .arg("version")
            .args(args)
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    let format = "{{.Client.Version}} {{.Server.Version}} {{.Server.Os}}";
    assert_eq!(of(&["-f", format]), format!("{version} {version} linux\n"));
    assert_eq!(
        of(&["--format", "{{(index .Server.Components 0).Name}}"]),
        "Engine\n"
    );
    let text = of(&[]);
    let line = format!(" Version:  {version}");
    assert_eq!(text.lines().filter(|l| **l == line).count(), 2, "{text}");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(text.contains(&format!(" Kernel:   {kernel}")), "{text}");
}
