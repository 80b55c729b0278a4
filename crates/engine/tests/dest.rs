//! DEST appears whole or not at all, whatever is there and whatever happens meanwhile.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::*;
use rustix::process::{Pid, Signal, kill_process};

#[track_caller]
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An unpack that waits for more of its layer, with a file already on its way.
fn hanging(dir: &Path, name: &str) -> (Child, std::process::ChildStdin) {
    let mut child = Command::new(binary())
        .args(["unpack", "layer:-", name])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let tar = tar(&[("a", "1"), ("b", &"x".repeat(4 << 20))]);
    pipe.write_all(&tar[..3 << 20]).unwrap();
    pipe.flush().unwrap();
    let prefix = format!(".{name}.unlade-");
    wait_for("the staging directory", || {
        names(dir).iter().any(|n| n.starts_with(&prefix))
    });
    (child, pipe)
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn signals_leave_nothing() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let dir = temp();
        let (child, _pipe) = hanging(dir.path(), "root");
        assert_eq!(names(dir.path()).len(), 1);
        let at = Instant::now();
        send(&child, signal);
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{}", text(&out.stderr));
        assert!(
            text(&out.stderr).contains("cancelled"),
            "{}",
            text(&out.stderr)
        );
        assert!(at.elapsed() < Duration::from_secs(2), "{:?}", at.elapsed());
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    }
}

#[test]
fn the_next_run_removes_what_a_killed_one_left() {
    let dir = temp();
    let layout = Layout::with(&two_layers());
    let (mut killed, pipe) = hanging(dir.path(), "root");
    send(&killed, Signal::KILL);
    killed.wait().unwrap();
    drop(pipe);
    assert_eq!(
        names(dir.path()).len(),
        1,
        "SIGKILL cannot be cleaned up after"
    );

    // Beside it one for the same DEST that is alive, and one for another DEST.
    let (alive, alive_pipe) = hanging(dir.path(), "root");
    assert_eq!(
        names(dir.path()).len(),
        1,
        "the leftover is gone, the living one is there"
    );
    let (other, other_pipe) = hanging(dir.path(), "root2");
    unpack(&layout.source(""), &dir.path().join("root"), &[]);
    assert_eq!(tree(&dir.path().join("root")), two_layers_tree());
    assert_eq!(names(dir.path()).len(), 3, "{:?}", names(dir.path()));
    for (child, pipe) in [(alive, alive_pipe), (other, other_pipe)] {
        drop(pipe);
        assert_eq!(
            child.wait_with_output().unwrap().status.code(),
            Some(1),
            "a cut layer"
        );
    }
    assert_eq!(names(dir.path()), ["root"]);
}

#[test]
fn the_first_of_two_wins() {
    let dir = temp();
    let layout = Layout::with(&two_layers());
    let (child, mut pipe) = hanging(dir.path(), "root");
    unpack(&layout.source(""), &dir.path().join("root"), &[]);
    let all = tar(&[("a", "1"), ("b", &"x".repeat(4 << 20))]);
    pipe.write_all(&all[3 << 20..]).unwrap();
    drop(pipe);
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("not empty"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(tree(&dir.path().join("root")), two_layers_tree());
    assert_eq!(names(dir.path()), ["root"]);
}

#[test]
fn what_must_not_be_replaced() {
    let layout = Layout::with(&two_layers());
    let dir = temp();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "mine").unwrap();
    fs::create_dir_all(at("full/x")).unwrap();
    symlink("full", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    let before = (names(dir.path()), tree(dir.path()));
    for (name, force, part) in [
        ("file", true, "not a directory"),
        ("link", true, "symbolic link"),
        ("link/", true, "symbolic link"),
        ("dangling", true, "symbolic link"),
        ("full", false, "--force"),
        ("no/root", false, "mkdir -p"),
        ("file/root", false, "not a directory"),
        (".", true, "cannot be replaced"),
        ("..", true, "cannot be replaced"),
    ] {
        let mut command = Command::new(binary());
        command
            .args(["unpack", &layout.source(""), name])
            .current_dir(dir.path());
        if force {
            command.arg("--force");
        }
        let out = command.output().unwrap();
        let e = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{name}: {e}");
        assert!(e.contains(part) && e.contains("\nhint: "), "{name}: {e}");
        assert_eq!((names(dir.path()), tree(dir.path())), before, "{name}");
    }
}

#[test]
fn force_removes_the_old_tree_and_a_failure_keeps_it() {
    let layout = Layout::with(&two_layers());
    let dir = temp();
    let dest = dir.path().join("root");
    fs::create_dir_all(dest.join("old/deep")).unwrap();
    fs::write(dest.join("old/deep/file"), "x").unwrap();
    symlink("/", dest.join("old/link")).unwrap();
    let before = tree(&dest);
    assert_eq!(
        try_unpack(&layout.source(":no"), &dest, &["--force"])
            .status
            .code(),
        Some(1)
    );
    let e = try_unpack(&layout.source(""), &dest, &["--force", "--limit-entries=1"]);
    assert_eq!(e.status.code(), Some(1));
    assert_eq!(
        (tree(&dest), names(dir.path())),
        (before, vec!["root".to_owned()])
    );
    unpack(&layout.source(""), &dest, &["--force"]);
    assert_eq!(
        (tree(&dest), names(dir.path())),
        (two_layers_tree(), vec!["root".to_owned()])
    );
}

#[test]
fn long_odd_and_relative_names() {
    let layout = Layout::with(&two_layers());
    let dir = temp();
    let long = "n".repeat(255);
    for name in [&long, "with space\nand line", ".hidden", "-q", "a/", "./b"] {
        let status = Command::new(binary())
            .args(["unpack", "-q", &layout.source(""), "--", name])
            .current_dir(dir.path())
            .status()
            .unwrap();
        assert!(status.success(), "{name}");
        assert_eq!(tree(&dir.path().join(name)), two_layers_tree(), "{name}");
    }
    assert_eq!(names(dir.path()).len(), 6);
    let e = try_unpack(&layout.source(""), &dir.path().join("n".repeat(256)), &[]);
    assert_eq!(e.status.code(), Some(1));
}

#[test]
fn the_root_is_0755_whatever_the_umask() {
    let layout = Layout::with(&two_layers());
    let dir = temp();
    let with_entry = Layout::with(&[Layer::plain(&[("./", ""), ("a", "1")])]);
    for (n, (layout, umask)) in [(&layout, 0o077), (&layout, 0), (&with_entry, 0o077)]
        .into_iter()
        .enumerate()
    {
        let dest = dir.path().join(n.to_string());
        let out = Command::new("sh")
            .args([
                "-c",
                &format!("umask {umask:o}; exec \"$0\" \"$@\""),
                &binary(),
                "unpack",
                "-q",
            ])
            .arg(layout.source(""))
            .arg(&dest)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        assert_eq!(fs::metadata(&dest).unwrap().mode() & 0o7777, 0o755);
    }
}

#[test]
fn half_a_tree_is_out_of_reach_of_others() {
    let dir = temp();
    let (child, _pipe) = hanging(dir.path(), "root");
    let staging = dir.path().join(&names(dir.path())[0]);
    assert_eq!(fs::metadata(staging).unwrap().mode() & 0o7777, 0o700);
    send(&child, Signal::TERM);
    child.wait_with_output().unwrap();
}

/// A file system of its own, mounted where only this thread and its children see it.
fn in_private_mounts(test: impl FnOnce(&Path) + Send + 'static) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let run = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        let dir = temp();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        open_up(dir.path());
        test(dir.path());
    };
    std::thread::spawn(run).join().unwrap();
}

#[test]
fn root_mount_points() {
    if skip_unless_root("root_mount_points") {
        return;
    }
    in_private_mounts(|top| {
        let layout = Layout::with(&two_layers());
        // DEST's parent is the root of a mounted file system.
        let dest = top.join("root");
        unpack(&layout.source(""), &dest, &[]);
        assert_eq!(
            (tree(&dest), names(top)),
            (two_layers_tree(), vec!["root".to_owned()])
        );
        // DEST is one.
        let out = try_unpack(&layout.source(""), top, &["--force"]);
        let e = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1));
        assert!(
            e.contains("is a mount point") && e.contains("/rootfs"),
            "{e}"
        );
        assert_eq!(tree(&dest), two_layers_tree());
    });
}

#[test]
fn root_nothing_else_can_be_written_to() {
    if skip_unless_root("root_nothing_else_can_be_written_to") {
        return;
    }
    let layout = Layout::with(&two_layers());
    let dir = temp();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (child, mut pipe) = hanging(dir.path(), "root");
    let seen = fs::read_to_string(format!("/proc/{}/mountinfo", child.id())).unwrap();
    let writable = |info: &str| {
        let options = |l: &str| l.split(' ').nth(5).map(str::to_owned);
        info.lines()
            .filter_map(options)
            .filter(|o| !o.split(',').any(|o| o == "ro"))
            .count()
    };
    assert!(writable(&mounts) > 0);
    assert_eq!(writable(&seen), 0, "{seen}");
    // What is written still is seen outside, and our own mounts are as they were.
    let all = tar(&[("a", "1"), ("b", &"x".repeat(4 << 20))]);
    pipe.write_all(&all[3 << 20..]).unwrap();
    drop(pipe);
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(names(&dir.path().join("root")), ["a", "b"]);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);

    let report = temp();
    let json = report.path().join("report.json");
    for (extra, confined) in [(&[][..], true), (&["--no-sandbox"][..], false)] {
        let extra = [extra, &["--force", "--report", json.to_str().unwrap()]].concat();
        unpack(&layout.source(""), &dir.path().join("root"), &extra);
        let report: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        assert_eq!(report["confined"], confined);
    }
}

#[test]
fn root_an_ordinary_user_can_unpack() {
    if skip_unless_root("root_an_ordinary_user_can_unpack") {
        return;
    }
    let user = 65534;
    let mut with_device = tar::Builder::new(Vec::new());
    let mut h = tar::Header::new_gnu();
    h.set_mode(0o4755);
    h.set_uid(7);
    h.set_gid(8);
    h.set_size(1);
    with_device
        .append_data(&mut h, "setuid", &b"x"[..])
        .unwrap();
    h.set_size(0);
    h.set_entry_type(tar::EntryType::Char);
    h.set_device_major(1).unwrap();
    h.set_device_minor(3).unwrap();
    with_device.append_data(&mut h, "null", &b""[..]).unwrap();
    let tar = with_device.into_inner().unwrap();
    let layer = Layer {
        blob: tar.clone(),
        tar,
        media_type: LAYER.into(),
    };
    let layout = Layout::with(&[Layer::gzip(&[("closed/", ""), ("closed/f", "1")]), layer]);
    let dir = temp();
    std::os::unix::fs::chown(dir.path(), Some(user), Some(user)).unwrap();
    let copy = dir.path().join("unlade");
    fs::copy(binary(), &copy).unwrap();
    let dest = dir.path().join("root");
    let run = |extra: &[&str]| {
        let mut c = Command::new(&copy);
        c.args(["unpack", &layout.source("")])
            .arg(&dest)
            .args(extra)
            .uid(user)
            .gid(user);
        c.output().unwrap()
    };
    let out = run(&["--report", dir.path().join("report").to_str().unwrap()]);
    let e = text(&out.stderr);
    assert!(out.status.success(), "{e}");
    assert_eq!(
        e.lines()
            .filter(|l| l.starts_with("unlade: left out: "))
            .count(),
        1,
        "{e}"
    );
    assert!(e.contains("device"), "{e}");
    let file = fs::metadata(dest.join("setuid")).unwrap();
    assert_eq!((file.uid(), file.gid()), (user, user));
    assert!(!dest.join("null").exists());
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("report")).unwrap()).unwrap();
    assert_eq!(report["confined"], false);
    assert!(
        report["skipped"]
            .as_array()
            .unwrap()
            .iter()
            .any(|s| s["count"] == 1)
    );
    // A tree without permissions is replaced and removed all the same.
    fs::set_permissions(dest.join("closed"), fs::Permissions::from_mode(0o0)).unwrap();
    let out = run(&["--force", "--whiteouts=keep"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(names(dir.path()), ["report", "root", "unlade"]);
}

/// Runs the command as an ordinary user, in a directory that is theirs.
struct AsUser {
    dir: tempfile::TempDir,
    command: std::path::PathBuf,
}

impl AsUser {
    const ID: u32 = 65534;

    fn new() -> Self {
        let dir = temp();
        let command = dir.path().join("unlade");
        fs::copy(binary(), &command).unwrap();
        if is_root() {
            std::os::unix::fs::chown(dir.path(), Some(Self::ID), Some(Self::ID)).unwrap();
        }
        Self { dir, command }
    }

    fn unpack(&self, source: &str, extra: &[&str]) -> std::process::Output {
        let mut c = Command::new(&self.command);
        c.args(["unpack", source, "root"])
            .args(extra)
            .current_dir(self.dir.path());
        if is_root() {
            c.uid(Self::ID).gid(Self::ID);
        }
        c.output().unwrap()
    }
}

#[test]
fn ordinary_users_get_roots_that_are_not_theirs_to_write() {
    let user = AsUser::new();
    let dest = user.dir.path().join("root");
    for mode in [0o555, 0, 0o2755, 0o555] {
        let mut b = tar::Builder::new(Vec::new());
        for (name, mode) in [("./", mode), ("d/", 0o555)] {
            let mut h = tar::Header::new_gnu();
            h.set_entry_type(tar::EntryType::Directory);
            h.set_mode(mode);
            h.set_size(0);
            h.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            h.set_cksum();
            b.append(&h, &b""[..]).unwrap();
        }
        let tar = b.into_inner().unwrap();
        let layer = Layer {
            blob: tar.clone(),
            tar,
            media_type: LAYER.into(),
        };
        let layout = Layout::with(&[layer, Layer::plain(&[("f", "1")])]);
        // The tree that is replaced is closed too, but for the first.
        let out = user.unpack(&layout.source(""), &["--force"]);
        assert!(out.status.success(), "{mode:o}: {}", text(&out.stderr));
        assert_eq!(out.stderr, b"", "{}", text(&out.stderr));
        assert_eq!(fs::metadata(&dest).unwrap().mode() & 0o7777, mode);
        assert_eq!(names(user.dir.path()), ["root", "unlade"]);
    }
    // For whoever removes the directory.
    fs::set_permissions(&dest, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn ordinary_users_are_told_of_the_other_overlay_attributes() {
    let user = AsUser::new();
    let layout = Layout::with(&two_layers());
    let out = user.unpack(&layout.source(""), &["--whiteouts=overlay"]);
    let e = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{e}");
    assert!(
        e.contains("\nhint: ") && e.contains("overlay-userxattr"),
        "{e}"
    );
    assert_eq!(names(user.dir.path()), ["unlade"]);
    let out = user.unpack(&layout.source(""), &["--whiteouts=overlay-userxattr"]);
    let e = text(&out.stderr);
    assert!(out.status.success() || !e.contains("trusted"), "{e}");
}

#[test]
fn the_source_and_the_report_are_spared() {
    let dir = temp();
    let layout = Layout::with(&two_layers());
    let img = dir.path().join("images/img");
    fs::create_dir_all(img.parent().unwrap()).unwrap();
    fs::rename(layout.path(), &img).unwrap();
    let before = tree_names(dir.path());
    let source = format!("oci:{}", img.display());
    let blobs = img.join("blobs");
    for dest in [&img, img.parent().unwrap(), &blobs, &blobs.join("sha256")] {
        let out = try_unpack(&source, dest, &["--force"]);
        let e = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{e}");
        assert!(
            e.contains("the image itself") && e.contains("hint: "),
            "{e}"
        );
        assert_eq!(tree_names(dir.path()), before);
    }
    let dest = dir.path().join("root");
    for made in [false, true] {
        if made {
            fs::create_dir(&dest).unwrap();
        }
        for report in ["root/report", "./root/../root/x", "root"] {
            let report = dir.path().join(report);
            let out = try_unpack(&source, &dest, &["--report", report.to_str().unwrap()]);
            let e = text(&out.stderr);
            assert_eq!(out.status.code(), Some(1), "{e}");
            assert!(e.contains("hint: "), "{e}");
            assert!(!made || e.contains("would be in the destination"), "{e}");
            assert!(!made || names(&dest).is_empty());
        }
    }
    let report = dir.path().join("report");
    unpack(&source, &dest, &["--report", report.to_str().unwrap()]);
    assert_eq!(tree(&dest), two_layers_tree());
}

fn tree_names(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            found.push(entry.path().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn fifos_can_be_cancelled_and_time_out() {
    let dir = temp();
    let fifo = dir.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, mode, 0).unwrap();
    let start = |scheme: &str, extra: &[&str]| {
        Command::new(binary())
            .args(["unpack", &format!("{scheme}:{}", fifo.display()), "root"])
            .args(extra)
            .current_dir(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    // First nobody opens it for writing, then somebody who writes nothing.
    let mut writer = None;
    for _ in 0..2 {
        for scheme in ["layer", "docker-archive", "oci-archive"] {
            let at = Instant::now();
            let child = start(scheme, &[]);
            std::thread::sleep(Duration::from_millis(300));
            send(&child, Signal::INT);
            let out = child.wait_with_output().unwrap();
            assert_eq!(out.status.code(), Some(130), "{}", text(&out.stderr));
            let out = start(scheme, &["--limit-idle=0.3"]).wait_with_output();
            let e = text(&out.unwrap().stderr);
            assert!(e.contains("gave no byte"), "{e}");
            assert!(at.elapsed() < Duration::from_secs(10), "{:?}", at.elapsed());
        }
        // Opened for both, it does not wait for a reader.
        let both = fs::OpenOptions::new().read(true).write(true).open(&fifo);
        writer = Some(both.unwrap());
    }
    drop(writer);
    assert_eq!(names(dir.path()), ["fifo"]);
}

#[test]
fn root_owners_are_mapped() {
    if skip_unless_root("root_owners_are_mapped") {
        return;
    }
    let layout = Layout::with(&two_layers());
    let dir = temp();
    for (owners, want) in [
        ("archive", Some((0, 0))),
        ("caller", Some((0, 0))),
        ("map:0:100000:65536", Some((100_000, 100_000))),
        ("map:uids=0:1000:1;gids=0:2000:1", Some((1000, 2000))),
        ("map:5:5:1", None),
    ] {
        let dest = dir.path().join(owners.replace('/', "_"));
        let out = try_unpack(&layout.source(""), &dest, &["--owners", owners]);
        match want {
            Some(want) => {
                assert!(out.status.success(), "{owners}: {}", text(&out.stderr));
                let file = fs::metadata(dest.join("new")).unwrap();
                assert_eq!((file.uid(), file.gid()), want, "{owners}");
            }
            None => assert_eq!(out.status.code(), Some(1), "{}", text(&out.stdout)),
        }
    }
}
