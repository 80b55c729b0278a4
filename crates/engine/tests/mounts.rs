//! Images, and volumes on devices, in containers.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod machine;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::{Command, Stdio},
};

use machine::{Machine, can_run, kill, lives, until};

const NEEDED: [&str; 1] = ["runc"];

/// An image with files of its own.
fn image(m: &Machine, name: &str) {
    let tree = m.dir.path().join(name);
    fs::create_dir_all(tree.join("etc/deep")).unwrap();
    fs::write(tree.join("etc/deep/file"), format!("{name}\n")).unwrap();
    symlink("/etc/deep", tree.join("link")).unwrap();
    symlink("/../../../../proc", tree.join("out")).unwrap();
    let tar = m.dir.path().join(format!("{name}.tar"));
    let packed = Command::new("tar")
        .arg("-C")
        .arg(&tree)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    m.ok(&["import", tar.to_str().unwrap(), name]);
}

fn fails(m: &Machine, args: &[&str]) -> String {
    let out = m.command(args).output().unwrap();
    assert!(!out.status.success(), "{args:?}");
    common::text(&out.stderr)
}

/// What of ours is mounted now on the machine for containers.
fn mounted(m: &Machine) -> Vec<String> {
    let (run, store) = (m.run_root().join("subpaths"), m.store().join("volumes"));
    let mut points = m.mount_points();
    points
        .retain(|p| p.starts_with(run.to_str().unwrap()) || p.starts_with(store.to_str().unwrap()));
    points
}

fn is_clean(m: &Machine) -> bool {
    let count = |dir: &str| fs::read_dir(m.run_root().join(dir)).map_or(0, Iterator::count);
    mounted(m).is_empty() && count("subpaths") == 0 && count("mounted") == 0
}

/// Kills a container with its shim.
fn kill_all(m: &Machine) {
    for (_, state) in m.states() {
        for who in ["shim", "init"] {
            let pid = state[who]["pid"].as_i64().unwrap();
            kill(pid);
            until("it dies", || !lives(pid));
        }
    }
}

/// A configuration whose shim kills the command that starts it, once it has set up everything.
fn killing(m: &Machine) -> std::path::PathBuf {
    let (path, shim) = (m.dir.path().join("kill.toml"), m.dir.path().join("shim"));
    let text = format!(
        "#!/bin/sh\nuntil ls {}/containers/*/config.json; do sleep 0.05; done >/dev/null 2>&1\n\
         kill -9 $PPID\n",
        m.run_root().display()
    );
    fs::write(&shim, text).unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&path, format!("shim = \"{}\"\n", shim.display())).unwrap();
    path
}

fn start_killed(m: &Machine, name: &str) {
    let mut command = m.command(&["start", name]);
    command.env("UNLADE_CONFIG", killing(m));
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(!status.unwrap().success());
    assert!(!is_clean(m), "nothing to take away");
    until("all is gone", || {
        m.ok(&["ps"]);
        is_clean(m)
    });
}

#[test]
fn images_are_mounted() {
    if !can_run("images_are_mounted", &NEEDED) {
        return;
    }
    let mut m = Machine::new();
    image(&m, "tools");
    let run = |mount: &str, script: &str| {
        let mount = format!("type=image,{mount}");
        let args = [
            "run",
            "--rm",
            "--network",
            "none",
            "--mount",
            &mount,
            "box",
            "sh",
            "-c",
            script,
        ];
        m.command(&args).output().unwrap()
    };
    let said = |mount: &str, script: &str| {
        let out = run(mount, script);
        assert!(
            out.status.success(),
            "{mount}: {}",
            common::text(&out.stderr)
        );
        common::text(&out.stdout)
    };
    assert_eq!(said("src=tools,dst=/t", "cat /t/etc/deep/file"), "tools\n");
    assert_eq!(
        said(
            "source=tools,target=/t,image-subpath=etc/deep",
            "cat /t/file"
        ),
        "tools\n"
    );
    assert_eq!(
        said("src=tools,dst=/t,subpath=etc/deep/file", "cat /t"),
        "tools\n"
    );
    // Links lead nowhere but in the image.
    assert_eq!(
        said("src=tools,dst=/t,image-subpath=link", "cat /t/file"),
        "tools\n"
    );
    let out = run("src=tools,dst=/t,image-subpath=out", "true");
    assert!(common::text(&out.stderr).contains("find `out` in the image tools"));
    let out = run("src=tools,dst=/t,readonly=false", "echo x > /t/new");
    assert!(common::text(&out.stderr).contains("Read-only file system"));
    let out = run("src=nothing,dst=/t", "true");
    let text = common::text(&out.stderr);
    assert!(
        out.status.code() == Some(125) && text.contains("no such image: nothing"),
        "{text}"
    );
    // The same image twice.
    let both = [
        "tools,dst=/a,image-subpath=etc",
        "tools,dst=/b,image-subpath=etc/deep",
    ];
    let [a, b] = both.map(|mount| format!("type=image,src={mount}"));
    let run = [
        "run",
        "--rm",
        "--network",
        "none",
        "--mount",
        &a,
        "--mount",
        &b,
    ];
    let cat = ["box", "cat", "/a/deep/file", "/b/file"];
    assert_eq!(m.ok(&[&run[..], &cat].concat()), "tools\ntools\n");
    assert!(is_clean(&m));

    // As long as the container is there, so is the image.
    let mount = [
        "create",
        "--network",
        "none",
        "--restart",
        "always",
        "--mount",
        "type=image,src=tools,dst=/t,image-subpath=etc",
    ];
    let words = [
        "--name",
        "app",
        "box",
        "sh",
        "-c",
        "cat /t/deep/file; exec sleep 1000",
    ];
    m.ok(&[&mount[..], &words[..]].concat());
    let refused = fails(&m, &["rmi", "tools"]);
    assert!(refused.contains(&m.id("app")[..12]), "{refused}");
    m.ok(&["image", "prune", "-af"]);
    let point = &m.inspect("app")["Mounts"][0];
    for (key, want) in [("Type", "image"), ("Name", "tools"), ("Destination", "/t")] {
        assert_eq!(point[key], want);
    }
    assert_eq!(point["RW"], false);
    start_killed(&m, "app");
    m.ok(&["rmi", "-f", "tools"]);
    m.ok(&["system", "prune", "-f", "--filter", "label=none"]);
    m.ok(&["start", "app"]);
    until("its output", || m.ok(&["logs", "app"]) == "tools\n");
    // Its policy starts it again, with what is mounted.
    kill(m.inspect("app")["State"]["Pid"].as_i64().unwrap());
    until("it runs again", || {
        m.ok(&["logs", "app"]) == "tools\ntools\n"
    });
    assert_eq!(mounted(&m).len(), 1);
    kill_all(&m);
    m.ok(&["ps"]);
    assert!(is_clean(&m), "{:?}", mounted(&m));
    m.ok(&["start", "app"]);
    m.crash();
    m.boot();
    m.ok(&["ps"]);
    assert!(is_clean(&m), "{:?}", mounted(&m));
    m.ok(&["start", "app"]);
    m.ok(&["exec", "app", "cat", "/t/deep/file"]);
    m.ok(&["rm", "-f", "app"]);
    assert!(is_clean(&m));
    let tar = m.dir.path().join("tools.tar");
    m.ok(&["import", tar.to_str().unwrap(), "tools"]);
    m.ok(&["rmi", "tools"]);
    m.end();
}

#[test]
fn volumes_on_devices_are_mounted() {
    if !can_run("volumes_on_devices_are_mounted", &NEEDED) {
        return;
    }
    let mut m = Machine::new();
    let options = [
        "-o",
        "type=tmpfs",
        "-o",
        "device=tmpfs",
        "-o",
        "o=size=4m,uid=7,noexec",
    ];
    m.ok(&[&["volume", "create"][..], &options[..], &["memory"]].concat());
    let shown = m.ok(&["volume", "inspect", "-f", "{{json .Options}}", "memory"]);
    assert_eq!(
        shown.trim(),
        r#"{"device":"tmpfs","o":"size=4m,uid=7,noexec","type":"tmpfs"}"#
    );
    let run = |name: &str, script: &str| {
        let args = [
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            name,
            "-v",
            "memory:/v",
            "box",
            "sh",
            "-c",
            script,
        ];
        m.ok(&args);
    };
    let exec = |name: &str, script: &str| m.ok(&["exec", name, "sh", "-c", script]);
    assert!(is_clean(&m));
    run("one", "exec sleep 1000");
    let table = exec("one", "grep ' /v ' /proc/mounts");
    assert!(
        table.starts_with("tmpfs /v tmpfs") && table.contains("noexec"),
        "{table}"
    );
    assert!(
        table.contains("size=4096k") && table.contains("uid=7"),
        "{table}"
    );
    run("two", "exec sleep 1000");
    exec("one", "echo said > /v/word");
    assert_eq!(exec("two", "cat /v/word"), "said\n");
    // It stays as long as somebody has it.
    m.ok(&["stop", "-t", "0", "one"]);
    assert_eq!(exec("two", "cat /v/word"), "said\n");
    m.ok(&["start", "one"]);
    assert_eq!(exec("one", "cat /v/word"), "said\n");
    m.ok(&["rm", "-f", "one"]);
    assert_eq!(mounted(&m).len(), 1);
    m.ok(&["stop", "-t", "0", "two"]);
    assert!(is_clean(&m));
    // What was in it went with the last.
    m.ok(&["start", "two"]);
    assert_eq!(exec("two", "ls /v"), "");
    kill_all(&m);
    m.ok(&["ps"]);
    assert!(is_clean(&m), "{:?}", mounted(&m));
    start_killed(&m, "two");
    m.ok(&["start", "two"]);
    m.crash();
    m.boot();
    m.ok(&["ps"]);
    assert!(is_clean(&m), "{:?}", mounted(&m));
    // Also for a copy into a container that does not run.
    m.ok(&["cp", "/etc/hostname", "two:/v/name"]);
    assert!(is_clean(&m));
    m.ok(&["rm", "two"]);
    m.ok(&["volume", "rm", "memory"]);

    let wrong = ["-o", "type=nosuchfs", "-o", "device=/dev/null", "odd"];
    m.ok(&[&["volume", "create"][..], &wrong[..]].concat());
    let out = fails(
        &m,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "odd:/v",
            "box",
            "true",
        ],
    );
    assert!(
        out.contains("mount volume odd: `/dev/null` as nosuchfs"),
        "{out}"
    );
    assert!(
        out.contains("the kernel does not know this file system"),
        "{out}"
    );
    assert!(is_clean(&m));
    let out = fails(&m, &["volume", "create", "-o", "type=nfs", "x"]);
    assert!(out.contains("missing required option: \"device\""), "{out}");

    // A directory of the machine, to read only.
    let dir = m.dir.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "here").unwrap();
    let device = format!("device={}", dir.display());
    m.ok(&[
        "volume",
        "create",
        "-o",
        "type=none",
        "-o",
        "o=bind,ro",
        "-o",
        &device,
        "bound",
    ]);
    let script = "cat /v/file; echo x > /v/file";
    let out = m.command(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        "bound:/v",
        "box",
        "sh",
        "-c",
        script,
    ]);
    let out = { out }.output().unwrap();
    assert_eq!(common::text(&out.stdout), "here");
    assert!(common::text(&out.stderr).contains("Read-only"));
    m.end();
}

/// What is on a disk is there again for the next container, and gets what the image has at first.
#[test]
fn volumes_on_disks_are_mounted() {
    if !can_run("volumes_on_disks_are_mounted", &NEEDED) {
        return;
    }
    let m = Machine::new();
    let disk = m.dir.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&disk).status();
    let attached = Command::new("losetup")
        .args(["-f", "--show"])
        .arg(&disk)
        .output();
    let (Ok(true), Ok(attached)) = (made.map(|s| s.success()), attached) else {
        eprintln!("skipped: there is no mkfs.ext4 or losetup");
        return;
    };
    let device = common::text(&attached.stdout).trim().to_owned();
    assert!(
        device.starts_with("/dev/loop"),
        "{}",
        common::text(&attached.stderr)
    );
    let option = format!("device={device}");
    m.ok(&["volume", "create", "-o", "type=ext4", "-o", &option, "disk"]);
    let run = |script: &str| {
        m.ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "disk:/v",
            "box",
            "sh",
            "-c",
            script,
        ])
    };
    assert!(run("grep ' /v ' /proc/mounts; echo kept > /v/file").contains(" ext4 rw"));
    assert!(is_clean(&m));
    assert_eq!(run("cat /v/file"), "kept\n");
    // Only the volume goes.
    m.ok(&["volume", "rm", "disk"]);
    m.ok(&[
        "volume",
        "create",
        "-o",
        "type=ext4",
        "-o",
        &option,
        "-o",
        "o=ro",
        "again",
    ]);
    let read = [
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        "again:/v",
        "box",
        "cat",
        "/v/file",
    ];
    assert_eq!(m.ok(&read), "kept\n");
    assert!(is_clean(&m));
    let freed = Command::new("losetup").args(["-d", &device]).status();
    assert!(freed.unwrap().success());
    m.end();
}
