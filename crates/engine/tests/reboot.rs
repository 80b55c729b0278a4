//! Test 30 of reliability.md: what a reboot leaves, and what is started after it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod machine;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::text;
use machine::{Machine, NETWORKED, can_run, kill, lives, until};

#[test]
fn policies_run_once_after_a_reboot() {
    if !can_run(
        "policies_run_once_after_a_reboot",
        &["busybox", "runc", "ip"],
    ) {
        return;
    }
    let mut m = Machine::new();
    let run = |m: &Machine, name: &str, flags: &[&str], words: &[&str]| {
        let mut args = vec!["run", "-d", "--runtime", "runc", "--name", name];
        if !flags.contains(&"--network") {
            args.extend(["--network", "none"]);
        }
        args.extend(flags);
        args.push("box");
        args.extend(words);
        m.ok(&args);
    };
    let sleep = ["sleep", "100000"];
    for policy in ["no", "always", "unless-stopped", "on-failure"] {
        run(&m, policy, &["--restart", policy], &sleep);
    }
    run(
        &m,
        "joined",
        &["--restart", "always", "--network", "container:always"],
        &sleep,
    );
    run(&m, "passing", &["--rm"], &sleep);
    run(&m, "done", &["--restart", "on-failure"], &["true"]);
    for policy in ["always", "unless-stopped", "on-failure"] {
        let name = format!("{policy}-stopped");
        run(&m, &name, &["--restart", policy], &sleep);
        m.ok(&["stop", "-t", "0", &name]);
    }
    m.ok(&[
        "create",
        "--name",
        "new",
        "--restart",
        "always",
        "--network",
        "none",
        "box",
        "true",
    ]);
    until("one ends by itself", || {
        m.ok(&["ps", "-q", "-f", "name=done"]).is_empty()
    });
    // In the boot in which they ran there is nothing to be done.
    assert_eq!(m.ok(&["system", "boot"]), "");
    let ids: Vec<String> = ["no", "always"].map(|name| m.id(name)).into();

    m.crash();
    m.reuse_pids();
    let torn = m
        .run_root()
        .join("containers")
        .join(&ids[0])
        .join("state.json");
    fs::write(torn, "{").unwrap();
    m.boot();
    // What mounts of an earlier boot would be, and mounts of others beside the store.
    let orphans = ids
        .iter()
        .map(|id| m.run_root().join("containers").join(id).join("rootfs"));
    let orphans: Vec<PathBuf> = orphans.collect();
    for at in &orphans {
        m.mount_tmpfs(at);
    }
    let (beside, volume) = (
        m.dir.path().join("beside"),
        m.dir.path().join("store/volumes/data/_data"),
    );
    m.ok(&["volume", "create", "data"]);
    fs::create_dir(&beside).unwrap();
    for at in [&beside, &volume] {
        m.mount_tmpfs(at);
    }

    let states = m.lines(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    let want = [
        "always exited",
        "always-stopped exited",
        "done exited",
        "joined exited",
        "new created",
        "no exited",
        "on-failure exited",
        "on-failure-stopped exited",
        "unless-stopped exited",
        "unless-stopped-stopped exited",
    ];
    assert_eq!(states, want);
    for name in ["no", "always", "on-failure"] {
        let state = &m.inspect(name)["State"];
        assert_eq!(
            (&state["ExitCode"], &state["Pid"]),
            (&255.into(), &0.into()),
            "{name}"
        );
        assert!(
            state["Error"].as_str().unwrap().contains("reboot"),
            "{state}"
        );
        assert!(
            !state["FinishedAt"].as_str().unwrap().starts_with("0001"),
            "{state}"
        );
    }
    let mounted = m.mount_points();
    let run_root = m.run_root().display().to_string();
    assert!(
        !mounted.iter().any(|at| at.starts_with(&run_root)),
        "{mounted:?}"
    );
    for at in [&beside, &volume] {
        assert!(
            mounted.iter().any(|p| Path::new(p) == at),
            "{}",
            at.display()
        );
    }
    m.assert_others_live();

    let started = [
        "always",
        "always-stopped",
        "joined",
        "on-failure",
        "unless-stopped",
    ];
    assert_eq!(m.lines(&["system", "boot"]), started);
    assert_eq!(m.lines(&["ps", "--format", "{{.Names}}"]), started);
    // Once: neither those that run, nor one that was stopped since.
    m.ok(&["stop", "-t", "0", "always-stopped"]);
    m.ok(&["stop", "-t", "0", "unless-stopped"]);
    assert_eq!(m.ok(&["system", "boot"]), "");
    m.assert_others_live();

    // Again, on a machine whose /run is in memory.
    m.crash();
    fs::remove_dir_all(m.run_root()).unwrap();
    m.boot();
    assert_eq!(m.ok(&["ps", "-q"]), "");
    assert_eq!(m.inspect("joined")["State"]["ExitCode"], 255);
    let started = ["always", "always-stopped", "joined", "on-failure"];
    assert_eq!(m.lines(&["system", "boot"]), started);
    assert_eq!(m.lines(&["ps", "--format", "{{.Names}}"]), started);
    m.end();
}

/// One that cannot be started is told of, tried once, and no obstacle to the others.
#[test]
fn a_start_that_fails_is_tried_once() {
    if !can_run(
        "a_start_that_fails_is_tried_once",
        &["busybox", "runc", "ip"],
    ) {
        return;
    }
    let mut m = Machine::new();
    let gone = m.dir.path().join("gone");
    fs::create_dir(&gone).unwrap();
    let mount = format!("type=bind,source={},target=/gone", gone.display());
    let common = ["run", "-d", "--network", "none", "--restart", "always"];
    m.ok(&[
        &common[..],
        &["--name", "bad", "--mount", &mount, "box", "sleep", "9999"],
    ]
    .concat());
    m.ok(&[&common[..], &["--name", "good", "box", "sleep", "9999"]].concat());
    m.crash();
    fs::remove_dir(&gone).unwrap();
    m.boot();
    let out = m.command(&["system", "boot"]).output().unwrap();
    let said = text(&out.stderr);
    assert_eq!(
        (out.status.code(), &*text(&out.stdout)),
        (Some(1), "good\n"),
        "{said}"
    );
    assert!(
        said.contains("start bad") && said.contains("gone"),
        "{said}"
    );
    assert_eq!(m.ok(&["system", "boot"]), "");
    m.end();
}

#[test]
fn networks_after_a_reboot() {
    if !can_run("networks_after_a_reboot", &NETWORKED) {
        return;
    }
    let mut m = Machine::new();
    m.ok(&["network", "create", "mine"]);
    m.ok(&["network", "create", "other"]);
    for (name, network, policy) in [("web", "mine", "always"), ("once", "other", "no")] {
        m.ok(&[
            "run",
            "-d",
            "--runtime",
            "runc",
            "--name",
            name,
            "--network",
            network,
            "--restart",
            policy,
            "-p",
            "80",
            "box",
            "sleep",
            "100000",
        ]);
    }
    let port = m.ok(&["port", "web"]);
    assert!(m.resolver().exists());
    m.crash();
    m.reuse_pids();
    let reused = fs::read_to_string(m.resolver()).unwrap();
    // Half made: a file on which no namespace is, and a state that was not finished.
    let half = "c".repeat(64);
    fs::write(m.run_root().join("netns").join(&half), "").unwrap();
    fs::write(m.run_root().join(format!("network/{half}.new")), "{").unwrap();
    m.boot();
    m.mount_tmpfs(&m.dir.path().join("tree"));
    // No command on containers is needed for the records to be true.
    m.ok(&["network", "rm", "other"]);
    let left = |dir: &str| fs::read_dir(m.run_root().join(dir)).unwrap().count();
    assert_eq!((left("netns"), left("network")), (0, 1), "all but the lock");
    assert_eq!(m.ok(&["system", "boot"]), "web\n");
    assert_eq!(
        m.ok(&["port", "web"]).split(':').count(),
        port.split(':').count()
    );
    assert_ne!(
        fs::read_to_string(m.resolver()).unwrap().trim(),
        reused.trim()
    );
    let out = m.inside("ip").args(["-o", "link"]).output().unwrap();
    assert!(text(&out.stdout).contains("veth"), "{}", text(&out.stdout));
    m.assert_others_live();

    // Within a boot too the number may have become another's.
    let resolver = fs::read_to_string(m.resolver())
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill(resolver);
    until("it goes", || !lives(resolver));
    let other = m.other();
    fs::write(m.resolver(), other.to_string()).unwrap();
    m.ok(&["restart", "-t", "0", "web"]);
    assert_ne!(
        fs::read_to_string(m.resolver()).unwrap().trim(),
        other.to_string()
    );
    m.assert_others_live();
    m.end();
}
