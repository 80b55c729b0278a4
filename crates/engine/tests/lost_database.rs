//! A database that is lost: containers, networks and volumes are there again, or what is left of
//! them is told of and removed by those who want to.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod machine;

use std::fs;

use common::text;
use machine::{Machine, NETWORKED, can_run};
use serde_json::Value;

fn lose(m: &Machine) {
    for name in ["unlade.db", "unlade.db-wal", "unlade.db-shm"] {
        let _ = fs::remove_file(m.store().join(name));
    }
    let out = m.command(&["ps", "-a"]).output().unwrap();
    let said = text(&out.stderr);
    assert!(!out.status.success() && said.contains("--repair"), "{said}");
}

#[test]
fn containers_and_networks_are_there_again() {
    if !can_run("containers_and_networks_are_there_again", &NETWORKED) {
        return;
    }
    let m = Machine::new();
    m.ok(&[
        "network",
        "create",
        "--subnet",
        "10.99.0.0/24",
        "--label",
        "k=v",
        "mine",
    ]);
    m.ok(&["network", "create", "gone"]);
    m.ok(&["network", "rm", "gone"]);
    m.ok(&["volume", "create", "--label", "a=b", "data"]);
    let run = ["run", "-d", "--runtime", "runc", "box", "sh", "-c"];
    let run = |flags: &[&str], script: &str| {
        let args = [&run[..4], flags, &run[4..], &[script]].concat();
        m.ok(&args)
    };
    run(
        &[
            "--name",
            "first",
            "--network",
            "mine",
            "-p",
            "8080:80",
            "-v",
            "data:/data",
            "-v",
            "/own",
        ],
        "echo kept > /data/file; echo own > /own/file; echo layer > /file; sleep 100000",
    );
    run(
        &["--name", "second", "--network", "none"],
        "echo some > /file; exit 3",
    );
    m.ok(&["wait", "second"]);
    machine::until("its end is recorded", || !m.has_run("second"));
    m.ok(&["rename", "second", "renamed"]);
    m.ok(&["update", "-m", "64m", "first"]);
    m.ok(&["create", "--name", "removed", "box", "true"]);
    m.ok(&["rm", "removed"]);
    let before = ["first", "renamed"].map(|name| m.inspect(name));
    let network = m.ok(&["network", "inspect", "mine"]);
    let port = m.ok(&["port", "first"]);
    assert!(port.starts_with("80/tcp -> 0.0.0.0:8080\n"), "{port}");
    let volumes = m.lines(&["volume", "ls", "-q"]);
    assert_eq!(volumes.len(), 2);

    lose(&m);
    let said = m.ok(&["system", "check", "--repair"]);
    assert!(said.contains("2 containers, 4 networks"), "{said}");
    // Names of images are in the database alone.
    m.ok(&["tag", before[0]["Image"].as_str().unwrap(), "box"]);
    let names = m.lines(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    assert_eq!(names, ["first running", "renamed exited"]);
    let after = ["first", "renamed"].map(|name| m.inspect(name));
    for (before, after) in before.iter().zip(&after) {
        for part in [
            "Id",
            "Name",
            "Created",
            "Image",
            "Config",
            "HostConfig",
            "Mounts",
        ] {
            assert_eq!(before[part], after[part], "{part}");
        }
        for part in ["Status", "Pid", "ExitCode", "StartedAt"] {
            assert_eq!(before["State"][part], after["State"][part], "{part}");
        }
    }
    assert_eq!(m.ok(&["network", "inspect", "mine"]), network);
    assert_eq!(m.ok(&["port", "first"]), port);
    // Its port and its address are its own still.
    let out = m
        .command(&["run", "--rm", "-p", "8080:80", "box", "true"])
        .output()
        .unwrap();
    assert!(
        text(&out.stderr).contains("has it"),
        "{}",
        text(&out.stderr)
    );
    let address =
        |name: &str| m.inspect(name)["NetworkSettings"]["Networks"]["mine"]["IPAddress"].clone();
    run(&["--name", "third", "--network", "mine"], "sleep 100000");
    assert_ne!(address("first"), address("third"));
    assert_eq!(
        m.ok(&["exec", "first", "cat", "/data/file", "/own/file", "/file"]),
        "kept\nown\nlayer\n"
    );
    assert_eq!(m.lines(&["volume", "ls", "-q"]), volumes);
    // The image is kept for them, and volumes are in use.
    assert!(
        !m.command(&["rmi", "box"])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(
        !m.command(&["volume", "rm", "data"])
            .output()
            .unwrap()
            .status
            .success()
    );
    m.ok(&["restart", "-t", "0", "first"]);
    assert_eq!(
        m.ok(&["exec", "first", "cat", "/data/file", "/file"]),
        "kept\nlayer\n"
    );
    m.ok(&["start", "renamed"]);
    m.ok(&["rm", "-f", "-v", "first", "third", "renamed"]);
    assert_eq!(m.ok(&["volume", "ls", "-q"]), "data\n");
    assert_eq!(
        fs::read_to_string(m.store().join("volumes/data/_data/file")).unwrap(),
        "kept\n"
    );
    m.ok(&["network", "rm", "mine"]);
    m.ok(&["system", "check"]);
    m.end();
}

/// Of one whose file is damaged too, what it has written stays until somebody says otherwise.
#[test]
fn what_is_left_is_told_of_and_goes_when_asked_for() {
    if !can_run(
        "what_is_left_is_told_of_and_goes_when_asked_for",
        &["busybox", "runc", "ip"],
    ) {
        return;
    }
    let m = Machine::new();
    let common = ["run", "-d", "--network", "none", "--name"];
    let script = "echo kept > /own/file; echo layer > /file";
    m.ok(&[
        &common[..],
        &["one", "-v", "/own", "box", "sh", "-c", script],
    ]
    .concat());
    m.ok(&["wait", "one"]);
    machine::until("its end is recorded", || !m.has_run("one"));
    let id = m.id("one");
    let volume = m.ok(&["volume", "ls", "-q"]).trim().to_owned();
    let image = m.inspect("one")["Image"].as_str().unwrap().to_owned();
    fs::write(
        m.store().join("containers").join(&id).join("record.json"),
        "{",
    )
    .unwrap();
    lose(&m);
    let out = m
        .command(&["system", "check", "--repair", "--format", "json"])
        .output()
        .unwrap();
    let found: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(found["rebuilt"]["containers"], 0);
    let left = &found["left"]["findings"][0];
    assert_eq!(left["object"]["kind"], "snapshot");
    assert_eq!(
        (&left["object"]["name"], &left["remedy"]),
        (&id.clone().into(), &"prune".into())
    );
    let said = text(&out.stderr);
    assert!(
        !out.status.success() && said.contains("`unlade system prune`"),
        "{said}"
    );

    // Nothing of it goes by itself, nor with what else is done.
    let snapshot = m.store().join("graph/overlay/snapshots").join(&id);
    let data = m.store().join("volumes").join(&volume).join("_data/file");
    m.ok(&["tag", &image, "box"]);
    m.ok(&["run", "--rm", "--network", "none", "box", "true"]);
    m.ok(&["container", "prune", "-f"]);
    m.ok(&["image", "prune", "-f"]);
    assert!(snapshot.exists());
    assert_eq!(fs::read_to_string(&data).unwrap(), "kept\n");
    let said = m.ok(&["system", "prune", "-f"]);
    assert!(
        said.contains(&format!("Deleted Snapshots:\n{id}\n")),
        "{said}"
    );
    assert!(!snapshot.exists() && !m.store().join("containers").join(&id).exists());
    m.ok(&["system", "check"]);
    // The volume has a name by which it can be used and removed.
    assert_eq!(fs::read_to_string(&data).unwrap(), "kept\n");
    m.ok(&["volume", "rm", &volume]);
    m.end();
}
