//! Commands that are killed while they start a container: before its shim was told what to do, and
//! after.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod machine;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use machine::{Machine, NETWORKED, can_run, until};

/// A configuration whose shim is a script; `$REAL` is the real one, `$RUN` the run root.
fn config(m: &Machine, script: &str) -> PathBuf {
    let (path, shim) = (m.dir.path().join("config.toml"), m.dir.path().join("shim"));
    let (real, run) = (env!("CARGO_BIN_EXE_unlade-shim"), m.run_root());
    let text = format!("#!/bin/sh\nREAL={real}\nRUN={}\n{script}\n", run.display());
    fs::write(&shim, text).unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&path, format!("shim = \"{}\"\n", shim.display())).unwrap();
    path
}

/// A command that is killed, which is waited for.
fn killed(mut command: Command) {
    let status = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn what_a_killed_start_has_set_up_goes() {
    if !can_run("what_a_killed_start_has_set_up_goes", &NETWORKED) {
        return;
    }
    let m = Machine::new();
    m.ok(&[
        "create", "--name", "web", "-p", "8080:80", "box", "sleep", "1000",
    ]);
    let script = "until ls $RUN/containers/*/config.json; do sleep 0.05; done >/dev/null 2>&1\n\
                  kill -9 $PPID";
    let config = config(&m, script);
    let links = || {
        let out = m.inside("ip").args(["-o", "link"]).output().unwrap();
        common::text(&out.stdout).lines().count()
    };
    // The bridge of the default network stays.
    m.ok(&["run", "--rm", "box", "true"]);
    let before = links();
    for args in [
        &["start", "web"][..],
        &["run", "-d", "--name", "new", "box", "sleep", "1000"],
        &["run", "--rm", "--name", "gone", "box", "sleep", "1000"],
    ] {
        let mut command = m.command(args);
        command.env("UNLADE_CONFIG", &config);
        killed(command);
        assert!(links() > before, "{args:?}: nothing to take away");
        // What stood in for the shim ends a moment after the command that it killed.
        until("all is gone", || {
            m.ok(&["ps"]);
            // Of the networks there is their lock.
            [("containers", 0), ("netns", 0), ("network", 1)]
                .iter()
                .all(|(dir, most)| count(&m.run_root().join(dir)) == *most)
        });
        // netavark takes an unused bridge away with ports.
        assert!([before, before - 1].contains(&links()), "{args:?}");
        assert!(m.is_free(8080));
    }
    assert_eq!(
        m.lines(&["ps", "-a", "--format", "{{.Names}}"]),
        ["new", "web"]
    );
    for name in ["new", "web"] {
        assert!(!m.inspect(name)["State"]["Running"].as_bool().unwrap());
        m.ok(&["start", name]);
        m.ok(&["exec", name, "true"]);
    }
    m.end();
}

/// What a shim was told is done, however late it comes to it, and other commands let it.
#[test]
fn a_shim_that_was_told_goes_on() {
    if !can_run("a_shim_that_was_told_goes_on", &NETWORKED) {
        return;
    }
    let m = Machine::new();
    let script = "until ls $RUN/containers/*/config.json; do sleep 0.05; done >/dev/null 2>&1\n\
                  sleep 2; kill -9 $PPID\n\
                  until [ -e $RUN/go ]; do sleep 0.05; done\n\
                  exec $REAL";
    let config = config(&m, script);
    for flags in [&["--rm"][..], &["-d"]] {
        let mut command = m.command(&["run", "--name", "late"]);
        command.args(flags).args(["box", "sleep", "1000"]);
        command.env("UNLADE_CONFIG", &config);
        killed(command);
        m.ok(&["ps"]);
        assert_eq!(m.lines(&["ps", "-a", "--format", "{{.Names}}"]), ["late"]);
        fs::write(m.run_root().join("go"), "").unwrap();
        until("it runs", || {
            m.lines(&["ps", "--format", "{{.Names}}"]) == ["late"]
        });
        m.ok(&["exec", "late", "true"]);
        m.ok(&["rm", "-f", "late"]);
        fs::remove_file(m.run_root().join("go")).unwrap();
    }
    m.end();
}

/// A shim cleans up after its container; killed with it, it leaves that to the next command.
#[test]
fn what_a_killed_shim_has_left_goes() {
    if !can_run("what_a_killed_shim_has_left_goes", &NETWORKED) {
        return;
    }
    let m = Machine::new();
    // The bridge of the default network stays.
    m.ok(&["run", "--rm", "box", "true"]);
    m.ok(&["create", "--name", "first", "box", "true"]);
    let links = || {
        let out = m.inside("ip").args(["-o", "link"]).output().unwrap();
        common::text(&out.stdout).lines().count()
    };
    let before = links();
    for (name, flags) in [
        ("web", &["-d", "-p", "8080:80"][..]),
        ("gone", &["-d", "--rm"]),
    ] {
        let args = [
            &["run", "--name", name][..],
            flags,
            &["box", "sleep", "1000"],
        ];
        m.ok(&args.concat());
        let path = m.run_root().join("containers").join(m.id(name));
        let state = fs::read(path.join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        for who in ["shim", "init"] {
            let pid = state[who]["pid"].as_i64().unwrap();
            machine::kill(pid);
            until("it dies", || !machine::lives(pid));
        }
        assert!(links() > before && path.exists(), "nothing to take away");
        m.ok(&["ps"]);
        for (dir, most) in [("containers", 0), ("netns", 0), ("network", 1)] {
            assert_eq!(count(&m.run_root().join(dir)), most, "{name}: {dir}");
        }
        // netavark takes an unused bridge away with ports.
        assert!([before, before - 1].contains(&links()), "{name}");
        assert!(m.is_free(8080));
    }
    assert_eq!(
        m.lines(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]),
        ["first created", "web exited"]
    );
    assert!(
        m.inspect("web")["State"]["Error"]
            .as_str()
            .unwrap()
            .contains("shim")
    );
    m.ok(&["start", "web"]);
    m.ok(&["exec", "web", "true"]);
    m.end();
}

/// What a process in a container has in its directory is there as long as its command.
#[test]
fn what_a_killed_exec_has_left_goes() {
    if !can_run("what_a_killed_exec_has_left_goes", &NETWORKED) {
        return;
    }
    let m = Machine::new();
    m.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "none",
        "box",
        "sleep",
        "1000",
    ]);
    let dir = m
        .run_root()
        .join("containers")
        .join(m.id("web"))
        .join("exec");
    let mut command = m.command(&["exec", "web", "sleep", "1000"]);
    let mut client = command.stdout(Stdio::null()).spawn().unwrap();
    until("it runs", || {
        m.ok(&["top", "web"]).matches("sleep").count() == 2
    });
    m.ok(&["exec", "web", "true"]);
    assert_eq!(count(&dir), 1, "that of one that runs");
    client.kill().unwrap();
    client.wait().unwrap();
    m.ok(&["exec", "-d", "web", "true"]);
    // The detached one's is left to the next.
    until("both are swept", || {
        m.ok(&["exec", "web", "true"]);
        count(&dir) == 0
    });
    m.end();
}
