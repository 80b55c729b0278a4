//! What an ordinary user gets: the tests make one of their own, who is in no account file, and look
//! from inside of containers and at what lies in the store. As root they take such a user; as an
//! ordinary user they are it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{binary, text};
use tempfile::TempDir;

/// In no account file, and so without further ids.
const NOBODY_ELSE: u32 = 4_242;

/// A container that ends by itself and leaves nothing.
const RUN: [&str; 4] = ["run", "--rm", "--network", "none"];

/// A user with a home directory and a store.
struct User {
    dir: TempDir,
    uid: u32,
    /// Whether the machine's files give him further ids.
    ids: bool,
}

impl User {
    /// `None` where nothing of this can be.
    fn new(test: &str) -> Option<Self> {
        let there = ["/bin/busybox", "/usr/sbin/runc"]
            .iter()
            .all(|p| Path::new(p).exists());
        let most = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
        if !there || most.trim() == "0" {
            eprintln!(
                "skipped {test}: busybox-static or runc is not installed, or no user namespaces"
            );
            return None;
        }
        let own = rustix::process::geteuid().as_raw();
        let uid = if own == 0 { NOBODY_ELSE } else { own };
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let user = Self {
            dir,
            uid,
            ids: false,
        };
        // The programs may lie where only root may go.
        for name in ["unlade", "unlade-shim"] {
            let from = Path::new(&binary()).with_file_name(name);
            if !from.exists() {
                eprintln!("skipped {test}: there is no {name}");
                return None;
            }
            fs::copy(from, user.path(name)).unwrap();
        }
        for name in ["home", "run", "tree"] {
            fs::create_dir(user.path(name)).unwrap();
        }
        for name in ["home", "run"] {
            fs::set_permissions(user.path(name), fs::Permissions::from_mode(0o700)).unwrap();
            chown(user.path(name), Some(uid), Some(uid)).unwrap();
        }
        user.tree();
        Some(user)
    }

    /// An image with a file of somebody else's.
    fn tree(&self) {
        let tree = self.path("tree");
        for dir in ["bin", "etc", "srv"] {
            fs::create_dir(tree.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
        for tool in [
            "sh", "id", "cat", "ls", "sleep", "echo", "true", "stat", "touch",
        ] {
            symlink("busybox", tree.join("bin").join(tool)).unwrap();
        }
        fs::write(
            tree.join("etc/passwd"),
            "root:x:0:0::/:/bin/sh\nweb:x:33:33::/srv:\n",
        )
        .unwrap();
        fs::write(tree.join("etc/group"), "root:x:0:\nweb:x:33:\n").unwrap();
        fs::write(tree.join("srv/page"), "kept").unwrap();
        let tar = Command::new("tar")
            .args(["--owner=33", "--group=33", "-cf"])
            .arg(self.path("box.tar"))
            .arg("-C")
            .arg(&tree)
            .arg(".")
            .status();
        assert!(tar.unwrap().success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// With accounts of the tests' own over the machine's, in a mount namespace.
    fn with_ids(test: &str) -> Option<Self> {
        let mut user = Self::new(test)?;
        let there = [
            "/usr/bin/newuidmap",
            "/usr/bin/newgidmap",
            "/etc/subuid",
            "/etc/subgid",
        ]
        .iter()
        .all(|p| Path::new(p).exists());
        if !there || user.uid != NOBODY_ELSE {
            eprintln!("skipped {test}: not root, or uidmap is not installed");
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = format!("unlade-test:x:{0}:{0}::/:/bin/sh\n", user.uid);
        fs::write(user.path("passwd"), passwd + &line).unwrap();
        for file in ["subuid", "subgid"] {
            fs::write(user.path(file), "unlade-test:700000:65536\n").unwrap();
        }
        user.ids = true;
        Some(user)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("unlade"));
        if self.ids {
            let script = "for f in passwd subuid subgid; do mount --bind \"$0/$f\" /etc/$f; done\n\
                          exec setpriv --reuid \"$1\" --regid \"$1\" --clear-groups -- \"$0/unlade\" \"${@:2}\"";
            command = Command::new("/usr/bin/unshare");
            command.args(["-m", "/bin/bash", "-ec", script]);
            command.arg(self.dir.path()).arg(self.uid.to_string());
        }
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("UNLADE_FLUSH", "later")
            .current_dir(self.path("home"))
            .stdin(Stdio::null());
        if rustix::process::geteuid().is_root() && !self.ids {
            command.uid(self.uid).gid(self.uid);
        }
        command
    }

    /// A command as `by` runs it, with all else as it was.
    fn like(&self, command: &Command, mut by: Command) -> Command {
        by.arg(command.get_program()).args(command.get_args());
        by.env_clear().stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            by.env(name, value.unwrap_or_default());
        }
        by.current_dir(self.path("home"));
        by
    }

    /// Where the kernel lets nobody make user namespaces: in one of our own, so that the machine
    /// keeps its setting.
    fn without_namespaces(&self, args: &[&str]) -> Output {
        // Powers come with the second program, when there is a root in the namespace.
        let script = "read -r go && exec /bin/bash -c ' \
                      echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --reuid \"$1\" \
                      --regid \"$1\" --clear-groups -- \"${@:2}\" < /dev/null' - \"$@\"";
        let mut nested = Command::new("/usr/bin/unshare");
        nested.args(["--user", "/bin/bash", "-c", script, "-"]);
        nested.arg(self.uid.to_string());
        let mut nested = self.like(&self.command(args), nested);
        nested.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = nested.stderr(Stdio::piped()).spawn().unwrap();
        let ours = fs::read_link("/proc/self/ns/user").unwrap();
        let its = format!("/proc/{}", child.id());
        self.until("no namespace", || {
            fs::read_link(format!("{its}/ns/user")).is_ok_and(|ns| ns != ours)
        });
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("{its}/{map}"), "0 0 4294967295\n").unwrap();
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        child.wait_with_output().unwrap()
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.output(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout).trim_end().to_owned()
    }

    /// What a container says that ends by itself; `more` are further options, the image, a command.
    fn run(&self, more: &[&str]) -> String {
        self.ok(&[&RUN, more].concat())
    }

    /// Starts one that sleeps; its id.
    fn sleeper(&self, name: &str, network: &str) -> String {
        let sleeps = ["box", "sh", "-c", "echo said; sleep 1000"];
        let run = ["run", "-d", "--name", name, "--network", network];
        self.ok(&[&run[..], &sleeps].concat())
    }

    /// What a command that fails with `code` says.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let out = self.output(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        said
    }

    fn import(&self) {
        let tar = self.path("box.tar");
        self.ok(&[
            "import",
            tar.to_str().unwrap(),
            "box",
            "-c",
            "CMD [\"true\"]",
        ]);
    }

    /// Processes that hold this user's namespaces.
    fn holders(&self) -> usize {
        let run = self.path("run/unlade").display().to_string();
        let is_one = |line: &[u8]| {
            let words: Vec<_> = line.split(|b| *b == 0).collect();
            words.contains(&b"hold-namespaces".as_slice()) && words.contains(&run.as_bytes())
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter(|p| fs::read(p.path().join("cmdline")).is_ok_and(|l| is_one(&l)))
            .count()
    }

    /// The process that holds them.
    fn holder(&self) -> i32 {
        let text = fs::read_to_string(self.path("run/unlade/holder")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    /// Kills the shims and the holder, not their containers.
    fn kill_shims(&self) {
        let mut killed = 0;
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let program = fs::read_link(entry.path().join("exe"));
            if program.is_ok_and(|program| program == self.path("unlade-shim")) {
                let pid = entry.file_name().to_str().unwrap().parse().unwrap();
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                killed += 1;
            }
        }
        assert!(killed > 0);
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Nothing runs, nothing lies in the run directory, and what is in the store goes away.
    fn assert_nothing_left(&self) {
        assert_eq!(self.ok(&["ps", "-aq"]), "");
        self.until("a holder stays", || self.holders() == 0);
        let left = fs::read_dir(self.path("run/unlade/containers"));
        assert_eq!(left.map_or(0, Iterator::count), 0);
        let snapshots = self.path("home/.local/share/unlade/graph/overlay/snapshots");
        assert_eq!(fs::read_dir(snapshots).unwrap().count(), 0);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Ok(out) = self.command(&["ps", "-aq"]).output() {
            for id in text(&out.stdout).lines() {
                let _ = self.command(&["rm", "-f", id]).output();
            }
        }
    }
}

#[test]
fn a_user_with_one_id() {
    let Some(user) = User::new("a_user_with_one_id") else {
        return;
    };
    user.import();
    let said = user.output(&[&RUN[..], &["box", "cat", "/proc/self/uid_map"]].concat());
    let map = text(&said.stdout);
    let words: Vec<&str> = map.split_whitespace().collect();
    if words.len() > 3 {
        return eprintln!("skipped: this user has further ids");
    }
    assert_eq!(
        words,
        ["0", &user.uid.to_string(), "1"],
        "{}",
        text(&said.stderr)
    );
    let said = text(&said.stderr);
    assert!(
        said.contains("only your own id is mapped") && said.contains("/etc/subuid"),
        "{said}"
    );
    // All files are the user's own, inside as root's and outside by his number.
    assert_eq!(
        user.run(&["box", "stat", "-c", "%u:%g", "/srv/page"]),
        "0:0"
    );
    assert!(
        user.run(&["box", "id"])
            .starts_with("uid=0(root) gid=0(root)")
    );
    let store = user.path("home/.local/share/unlade");
    assert_eq!(fs::metadata(&store).unwrap().uid(), user.uid);
    assert_eq!(fs::metadata(&store).unwrap().mode() & 0o777, 0o700);
    user.assert_nothing_left();
    // One that ends when no command is there any more.
    user.run(&["-d", "box", "sleep", "1"]);
    user.until("it stays", || user.ok(&["ps", "-aq"]).is_empty());
    user.assert_nothing_left();
}

#[test]
fn owners_are_subordinate_ids() {
    let Some(user) = User::with_ids("owners_are_subordinate_ids") else {
        return;
    };
    user.import();
    for runtime in ["runc", "crun"] {
        if !Path::new("/usr/bin").join(runtime).exists() && runtime == "crun" {
            eprintln!("skipped crun: it is not installed");
            continue;
        }
        let with = |more: &[&str]| user.run(&[&["--runtime", runtime], more].concat());
        let map = with(&["box", "cat", "/proc/self/uid_map"]);
        let words: Vec<&str> = map.split_whitespace().collect();
        let own = user.uid.to_string();
        assert_eq!(words, ["0", &own, "1", "1", "700000", "65536"]);
        assert_eq!(with(&["box", "stat", "-c", "%u:%g", "/srv/page"]), "33:33");
        assert!(with(&["-u", "web", "box", "id"]).starts_with("uid=33(web) gid=33(web)"));
        // Bound directories have the owners of the host, through the same map.
        let home = user.path("home").display().to_string();
        let bind = format!("{home}:/mnt");
        with(&["-v", &bind, "box", "touch", "/mnt/made"]);
        let made = user.path("home/made");
        assert_eq!(fs::metadata(&made).unwrap().uid(), user.uid);
        fs::remove_file(made).unwrap();
    }
    let layers = user.path("home/.local/share/unlade/graph/overlay/layers");
    let pages: Vec<_> = fs::read_dir(layers)
        .unwrap()
        .flatten()
        .map(|l| l.path().join("tree/srv/page"))
        .collect();
    assert!(!pages.is_empty());
    for page in pages {
        let meta = fs::metadata(page).unwrap();
        // 0 is the user, 1 the first of his range.
        assert_eq!((meta.uid(), meta.gid()), (700_032, 700_032));
    }
    user.assert_nothing_left();
}

#[test]
fn one_pair_of_namespaces_for_all_commands() {
    let Some(user) = User::new("one_pair_of_namespaces_for_all_commands") else {
        return;
    };
    user.import();
    assert_eq!(user.sleeper("one", "none").len(), 64);
    assert_eq!(user.holders(), 1);
    let namespace =
        |name: &str| user.ok(&["exec", name, "stat", "-Lc", "%i", "/proc/self/ns/user"]);
    let first = namespace("one");
    user.sleeper("two", "none");
    assert_eq!((namespace("two"), user.holders()), (first.clone(), 1));
    assert_eq!(user.ok(&["logs", "one"]), "said");
    assert!(user.ok(&["exec", "one", "id"]).starts_with("uid=0(root)"));
    // Files in and out, and an image of the change.
    fs::write(user.path("file"), "text").unwrap();
    let file = user.path("file").display().to_string();
    user.ok(&["cp", &file, "one:/srv/new"]);
    assert_eq!(user.ok(&["exec", "one", "cat", "/srv/new"]), "text");
    assert!(user.ok(&["diff", "one"]).contains("A /srv/new"));
    user.ok(&["commit", "one", "changed"]);
    assert_eq!(user.run(&["changed", "cat", "/srv/new"]), "text");
    assert!(user.ok(&["top", "one"]).contains("sleep"));
    // The holder is killed: those who are there are found, and get another.
    let pid = rustix::process::Pid::from_raw(user.holder()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    user.until("the holder stays", || user.holders() == 0);
    assert_eq!(namespace("one"), first);
    assert_eq!(user.holders(), 1);
    // All who know of them are killed, and a container shows a file with the lock's path.
    let lock = user.path("run/unlade/users.lock").display().to_string();
    let script = format!("mkdir -p $(dirname {lock}); exec 9>{lock}; echo open; sleep 1000");
    user.ok(&[
        "run",
        "-d",
        "--name",
        "liar",
        "--network",
        "none",
        "box",
        "sh",
        "-c",
        &script,
    ]);
    user.until("it is open", || user.ok(&["logs", "liar"]) == "open");
    user.kill_shims();
    user.until("a holder stays", || user.holders() == 0);
    assert!(user.ok(&["ps", "-a"]).contains("liar"));
    // The holder of new ones may have ended again: nobody needed it for long.
    let holder = fs::read_to_string(user.path("run/unlade/holder")).unwrap();
    let (_, namespace) = holder.trim().split_once(' ').unwrap();
    assert_ne!(namespace, first);
    user.ok(&["rm", "-f", "one", "two", "liar"]);
    user.assert_nothing_left();
}

#[test]
fn a_killed_command_leaves_nothing() {
    let Some(user) = User::new("a_killed_command_leaves_nothing") else {
        return;
    };
    user.import();
    for millis in [0, 20, 60, 150, 400] {
        let args = [&RUN[..], &["box", "sleep", "1000"]].concat();
        let mut child = user.command(&args).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        child.wait().unwrap();
        for id in user.ok(&["ps", "-aq"]).lines() {
            user.ok(&["rm", "-f", id]);
        }
        user.assert_nothing_left();
    }
}

#[test]
fn mounted_images_are_seen_by_the_next_command() {
    let Some(user) = User::new("mounted_images_are_seen_by_the_next_command") else {
        return;
    };
    user.import();
    let at = user.path("home/at");
    user.ok(&["unshare", "/bin/busybox", "mkdir", at.to_str().unwrap()]);
    assert_eq!(fs::metadata(&at).unwrap().uid(), user.uid);
    let at = at.to_str().unwrap();
    let said = text(&user.output(&["image", "mount", "box", at]).stderr);
    assert!(said.contains("unlade unshare"), "{said}");
    // Nobody uses the namespaces, and they stay: in them alone there is something to see.
    assert_eq!(fs::read_dir(at).unwrap().count(), 0);
    let page = format!("{at}/srv/page");
    assert_eq!(user.ok(&["unshare", "/bin/busybox", "cat", &page]), "kept");
    assert!(user.ok(&["info"]).contains(at));
    user.ok(&["image", "unmount", at]);
    user.assert_nothing_left();
}

#[test]
fn what_an_ordinary_user_cannot_have_is_said() {
    let Some(user) = User::new("what_an_ordinary_user_cannot_have_is_said") else {
        return;
    };
    user.import();
    let said = user.output(&[&RUN[..], &["-m", "64m", "box", "true"]].concat());
    assert!(said.status.success());
    assert!(text(&said.stderr).contains("the memory limit is passed over"));
    let said = user.fails(125, &["run", "--rm", "box", "true"]);
    assert!(
        said.contains("need root") && said.contains("--network none"),
        "{said}"
    );
    user.sleeper("one", "host");
    for verb in ["pause", "stats"] {
        let said = user.fails(1, &[verb, "one"]);
        assert!(said.contains("has no control group"), "{said}");
    }
    user.ok(&["rm", "-f", "one"]);
    let info = user.ok(&["info"]);
    assert!(
        info.contains("Rootless: yes") && info.contains("ids: "),
        "{info}"
    );
    assert_eq!(user.ok(&["info", "--format", "{{.Rootless}}"]), "true");
    user.assert_nothing_left();
}

/// Who is root in a namespace of somebody else's making is root, and gets nothing of the user's.
#[test]
fn root_elsewhere_makes_nothing_of_the_users() {
    let Some(user) = User::new("root_elsewhere_makes_nothing_of_the_users") else {
        return;
    };
    let mut unshare = Command::new("/usr/bin/unshare");
    unshare.args(["--user", "--map-root-user"]);
    let unlade = user.command(&["--root", "store", "--run-root", "elsewhere", "images"]);
    let mut elsewhere = user.like(&unlade, unshare);
    if rustix::process::geteuid().is_root() {
        elsewhere.uid(user.uid).gid(user.uid);
    }
    let out = elsewhere.output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(user.path("home/store").exists());
    assert_eq!(fs::read_dir(user.path("run")).unwrap().count(), 0);
}

#[test]
fn without_user_namespaces() {
    let Some(user) = User::new("without_user_namespaces") else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can take them from a user");
    }
    let tar = user.path("box.tar").display().to_string();
    let without = |code: i32, args: &[&str]| {
        let out = user.without_namespaces(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {said}");
        (text(&out.stdout), said)
    };
    without(0, &["import", &tar, "box"]);
    assert!(without(0, &["images"]).0.contains("box"));
    let info = without(0, &["info"]).0;
    assert!(info.contains("no namespaces"), "{info}");
    let saved = user.path("home/saved.tar").display().to_string();
    without(0, &["save", "-o", &saved, "box"]);
    assert!(fs::metadata(&saved).unwrap().len() > 1 << 20);
    for (code, args) in [
        (125, &[&RUN[..], &["box", "true"]].concat()[..]),
        (1, &["create", "box", "true"]),
    ] {
        let said = without(code, args).1;
        assert!(
            said.contains("no more user namespaces") && said.contains("max_user_namespaces"),
            "{said}"
        );
    }
    without(1, &["image", "mount", "box", "at"]);
    assert_eq!(without(0, &["ps", "-aq"]).0, "");
    without(0, &["rmi", "box"]);
    assert_eq!(user.holders(), 0);
}

#[test]
fn a_run_directory_of_somebody_else_is_refused() {
    let Some(user) = User::new("a_run_directory_of_somebody_else_is_refused") else {
        return;
    };
    let open = user.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    for (dir, why) in [
        (open.as_path(), "is open to others"),
        (Path::new("/proc/1"), "belongs to another user"),
    ] {
        if why.starts_with("is open") {
            chown(dir, Some(user.uid), Some(user.uid)).unwrap();
        }
        let out = user
            .command(&["ps"])
            .env("XDG_RUNTIME_DIR", dir)
            .output()
            .unwrap();
        let said = text(&out.stderr);
        assert!(!out.status.success() && said.contains(why), "{said}");
    }
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
}
