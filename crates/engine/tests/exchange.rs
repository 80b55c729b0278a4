//! `cp`, `diff`, `export` and `commit`, as a user calls them: on containers that never ran, that
//! ran and that run, over layers of two drivers, with what hostile images and containers hold
//! against them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use common::{binary, skip_unless_root, text};
use tempfile::TempDir;

/// A store of its own, with the image `base`.
struct Store {
    dir: TempDir,
    driver: &'static str,
}

impl Store {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(["--root", &self.arg("store"), "--run-root", &self.arg("run")])
            .args(["--graph-driver", self.driver])
            .args(args)
            .env("UNLADE_CONFIG", self.path("config.toml"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    /// What a command that fails complains of.
    fn fails(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("hint: "), "{args:?}: {said}");
        said
    }

    /// Gives a command a tar.
    fn feed(&self, args: &[&str], tar: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that refuses may not read it.
        let _ = child.stdin.take().unwrap().write_all(tar);
        child.wait_with_output().unwrap()
    }

    fn create(&self, name: &str, more: &[&str]) {
        let args = [
            &["create", "--name", name, "--network", "none"],
            more,
            &["base"],
        ]
        .concat();
        self.ok(&args);
    }

    /// A container that runs until it is removed.
    fn start(&self, name: &str, more: &[&str]) {
        let args = [&["run", "-d", "--name", name, "--network", "none"], more].concat();
        self.ok(&[&args[..], &["base", "sleep", "600"]].concat());
    }

    /// What is in a file of a container.
    fn read(&self, of: &str) -> String {
        let tar = self.run(&["cp", of, "-"]);
        assert!(tar.status.success(), "{of}: {}", text(&tar.stderr));
        let mut archive = tar::Archive::new(&tar.stdout[..]);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        content
    }

    /// What a container's own files are.
    fn exported(&self, name: &str) -> BTreeMap<String, String> {
        let tar = self.run(&["export", name]);
        assert!(tar.status.success(), "{}", text(&tar.stderr));
        listed(&tar.stdout)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let names = self.run(&["ps", "-aq"]);
        for name in text(&names.stdout).lines() {
            self.run(&["rm", "-f", "-v", name]);
        }
    }
}

/// Every entry of a tar with all that it says.
fn listed(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = text(&entry.path_bytes());
        let header = entry.header().clone();
        let link = entry
            .link_name_bytes()
            .map(|l| text(&l))
            .unwrap_or_default();
        let pax: Vec<String> = match entry.pax_extensions().unwrap() {
            Some(records) => records
                .map(|r| r.unwrap())
                .filter(|r| r.key_bytes() != b"path")
                .map(|r| format!("{}={:?}", text(r.key_bytes()), r.value_bytes()))
                .collect(),
            None => Vec::new(),
        };
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let line = format!(
            "{:?} {:o} {}:{} {} {link} {pax:?} {}",
            header.entry_type(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mtime().unwrap(),
            common::sha256(&content),
        );
        found.insert(path, line);
    }
    found
}

/// A tar by a list of names, types, targets and contents.
fn made(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, kind, what) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_mtime(1_600_000_000);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
        let content: &[u8] = if link { b"" } else { what.as_bytes() };
        if link {
            header.as_old_mut().linkname[..what.len()].copy_from_slice(what.as_bytes());
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        out.append(&header, content).unwrap();
    }
    out.into_inner().unwrap()
}

/// What is in the host's file that links lead to.
const OUTSIDE: &str = "unlade: this is outside";
const FILE: tar::EntryType = tar::EntryType::Regular;
const DIR: tar::EntryType = tar::EntryType::Directory;
const LINK: tar::EntryType = tar::EntryType::Symlink;
const HARD: tar::EntryType = tar::EntryType::Link;

/// Runs `body` over stores of two drivers; `host` is a directory of the host whose files must stay
/// as they are, and that links in the image lead to.
fn stores(test: &str, body: impl Fn(&Store, &Path)) {
    if skip_unless_root(test) {
        return;
    }
    for driver in ["overlay", "erofs"] {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = Store { dir, driver };
        let config = if driver == "erofs" {
            "keep-blobs = \"never\""
        } else {
            ""
        };
        fs::write(store.path("config.toml"), config).unwrap();
        let host = store.path("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("secret"), OUTSIDE).unwrap();
        let busybox = fs::read("/bin/busybox").unwrap();
        let outside = host.display().to_string();
        let up = format!("../../../../../../../..{outside}");
        let mut out = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_path("bin/busybox").unwrap();
        header.set_mode(0o755);
        header.set_size(busybox.len() as u64);
        header.set_cksum();
        out.append(&header, &busybox[..]).unwrap();
        let mut tar = out.into_inner().unwrap();
        tar.truncate(tar.len() - 1024);
        tar.extend(made(&[
            ("bin/sh", LINK, "busybox"),
            ("bin/sleep", LINK, "busybox"),
            ("out", LINK, &outside),
            ("rel", LINK, &up),
            ("etc/", DIR, ""),
            (
                "etc/passwd",
                FILE,
                "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n",
            ),
            ("etc/group", FILE, "root:x:0:\napp:x:1001:\n"),
            ("opt/", DIR, ""),
            ("opt/kept", FILE, "kept"),
            ("opt/gone", FILE, "gone"),
            ("opt/dir/", DIR, ""),
            ("opt/dir/old", FILE, "old"),
            ("opt/twin", HARD, "opt/kept"),
            ("work", LINK, "opt"),
        ]));
        let file = store.path("base.tar");
        fs::write(&file, tar).unwrap();
        store.ok(&[
            "import",
            "-c",
            "CMD [\"sleep\", \"600\"]",
            "-c",
            "ENV A=b",
            &store.arg("base.tar"),
            "base",
        ]);
        body(&store, &host);
        assert_eq!(fs::read_to_string(host.join("secret")).unwrap(), OUTSIDE);
        assert_eq!(common::names(&host), ["secret"]);
    }
}

/// What a directory is, with all that `cp` is to keep.
fn seen(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    let mut inodes: BTreeMap<u64, String> = BTreeMap::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let content = if kind.is_dir() {
                todo.push(path.clone());
                String::new()
            } else if kind.is_file() {
                common::sha256(&fs::read(&path).unwrap())
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                format!("{:x}", meta.rdev())
            };
            let size = if kind.is_dir() { 0 } else { meta.size() };
            let line = format!(
                "{:o} {size} {}.{} {content}",
                meta.mode(),
                meta.mtime(),
                meta.mtime_nsec()
            );
            if meta.nlink() > 1 && !kind.is_dir() {
                let names = inodes.entry(meta.ino()).or_default();
                names.push_str(&name);
            }
            found.insert(name, line);
        }
    }
    found.insert("links".into(), format!("{}", inodes.len()));
    found
}

/// A directory with all that there is.
fn everything(at: &Path) {
    fs::create_dir_all(at.join("d/empty")).unwrap();
    fs::write(at.join("d/file"), "hello").unwrap();
    fs::set_permissions(at.join("d/file"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::hard_link(at.join("d/file"), at.join("d/hard")).unwrap();
    symlink("/etc/passwd", at.join("d/link")).unwrap();
    let sparse = File::create(at.join("d/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"x", 32 << 20).unwrap();
    drop(sparse);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at.join("d/null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at.join("d/file"), "user.a", b"\0v", flags).unwrap();
    let long = "n".repeat(200);
    fs::write(at.join("d").join(&long), "long").unwrap();
    rustix::fs::chownat(
        rustix::fs::CWD,
        at.join("d").join(&long),
        Some(rustix::fs::Uid::from_raw(3_000_000)),
        Some(rustix::fs::Gid::from_raw(7)),
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
}

#[test]
fn what_is_copied_in_comes_out() {
    stores("what_is_copied_in_comes_out", |store, _| {
        store.create("cc", &[]);
        let from = store.path("from");
        everything(&from);
        let said = store.run(&["cp", &store.arg("from/d"), "cc:/new"]);
        assert!(said.status.success(), "{}", text(&said.stderr));
        assert!(
            text(&said.stderr).starts_with("Successfully copied "),
            "{}",
            text(&said.stderr)
        );
        assert!(
            text(&said.stderr).ends_with(" to cc:/new\n"),
            "{}",
            text(&said.stderr)
        );
        let quiet = store.run(&["cp", "-q", "-a", "cc:/new", &store.arg("out")]);
        assert!(
            quiet.status.success() && quiet.stderr.is_empty(),
            "{}",
            text(&quiet.stderr)
        );
        assert_eq!(seen(&store.path("out")), seen(&from.join("d")));
        let meta = |path: &str| fs::metadata(store.path(path)).unwrap();
        assert!(
            meta("out/sparse").blocks() * 512 < 1 << 20,
            "holes are kept"
        );
        let owner = |path: &str| {
            let m = meta(&format!("{path}/{}", "n".repeat(200)));
            (m.uid(), m.gid())
        };
        assert_eq!(owner("out"), (3_000_000, 7));
        let mut value = [0; 8];
        let n = rustix::fs::getxattr(store.path("out/file"), "user.a", &mut value[..]).unwrap();
        assert_eq!(&value[..n], b"\0v");
        // Without -a what comes out is the caller's.
        store.ok(&["container", "cp", "cc:/new/.", &store.arg("mine")]);
        assert_eq!(owner("mine"), (0, 0));
        // The other way through a tar.
        let tar = store.run(&["cp", "cc:/new", "-"]).stdout;
        store.create("other", &[]);
        let fed = store.feed(&["cp", "-", "other:/opt"], &tar);
        assert!(fed.status.success(), "{}", text(&fed.stderr));
        store.ok(&["cp", "-q", "-a", "other:/opt/new", &store.arg("again")]);
        assert_eq!(seen(&store.path("again")), seen(&from.join("d")));
    });
}

#[test]
fn where_copies_land() {
    stores("where_copies_land", |store, _| {
        store.create("cc", &[]);
        fs::create_dir_all(store.path("dir/sub")).unwrap();
        fs::write(store.path("dir/f"), "one").unwrap();
        fs::write(store.path("f"), "two").unwrap();
        symlink("f", store.path("l")).unwrap();
        let (dir, f, l) = (store.arg("dir"), store.arg("f"), store.arg("l"));
        let cp = |from: &str, to: &str| store.ok(&["cp", "-q", from, to]);
        cp(&f, "cc:/opt");
        assert_eq!(store.read("cc:/opt/f"), "two");
        cp(&f, "cc:opt/name");
        assert_eq!(store.read("cc:/opt/name"), "two");
        cp(&dir, "cc:/opt");
        assert_eq!(store.read("cc:/opt/dir/f"), "one");
        assert_eq!(store.read("cc:/opt/dir/old"), "old");
        cp(&format!("{dir}/."), "cc:/work/");
        assert_eq!(store.read("cc:/opt/f"), "one");
        cp(&dir, "cc:/fresh");
        assert_eq!(store.read("cc:/fresh/f"), "one");
        // Links: as they are, or followed.
        cp(&l, "cc:/opt/l");
        let tar = store.run(&["cp", "cc:/opt/l", "-"]).stdout;
        assert!(
            listed(&tar)["l"].starts_with("Symlink"),
            "{:?}",
            listed(&tar)
        );
        store.ok(&["cp", "-q", "-L", &l, "cc:/opt/m"]);
        assert_eq!(store.read("cc:/opt/m"), "two");
        let tar = store.run(&["cp", "-L", "cc:/work", "-"]).stdout;
        assert!(
            listed(&tar).contains_key("work/kept"),
            "{:?}",
            listed(&tar).keys()
        );
        // A file is replaced: another name of it keeps what it had.
        cp(&f, "cc:/opt/kept");
        assert_eq!(store.read("cc:/opt/kept"), "two");
        assert_eq!(store.read("cc:/opt/twin"), "kept");
        for (from, to, words) in [
            (&*dir, "cc:/opt/twin", "cannot copy directory"),
            (&f, "cc:/nowhere/", "no such directory"),
            (
                &f,
                "cc:/no/where",
                "Could not find the file /no/where in container cc",
            ),
            (&f, "cc:/proc/x/y", "Could not find the file"),
            (
                "cc:/none",
                &f,
                "Could not find the file /none in container cc",
            ),
            ("cc:/opt/twin/", &f, "not a directory"),
            (
                "cc:/opt/twin",
                "/var/tmp/no/where",
                "directory \"/var/tmp/no\" does not exist",
            ),
            (
                "cc:/opt/twin",
                "/dev/null",
                "must be a directory or a regular file: got a device",
            ),
            ("cc:/opt", &f, "cannot copy directory"),
            (&store.arg("none"), "cc:/opt", "no such file or directory"),
            (
                "cc:/opt",
                "cc:/x",
                "copying between containers is not supported",
            ),
            (&f, &dir, "must specify at least one container source"),
            (&f, "nobody:/", "No such container: nobody"),
            ("", "cc:/", "source can not be empty"),
        ] {
            let said = store.fails(&["cp", from, to]);
            assert!(said.contains(words), "{from} {to}: {said}");
        }
        // Directories and files never take each other's places.
        fs::create_dir_all(store.path("mixed/kept")).unwrap();
        fs::write(store.path("mixed/dir"), "").unwrap();
        let said = store.fails(&["cp", &format!("{}/.", store.arg("mixed")), "cc:/opt"]);
        assert!(said.contains("cannot overwrite "), "{said}");
        assert_eq!(store.read("cc:/opt/dir/old"), "old");
        assert_eq!(store.read("cc:/opt/kept"), "two");
    });
}

#[test]
fn links_lead_nowhere_else() {
    stores("links_lead_nowhere_else", |store, host| {
        let outside = host.display().to_string();
        fs::write(store.path("f"), "inside").unwrap();
        let f = store.arg("f");
        let hostile = |name: &str| {
            // Into: the links' targets are in the container, or nowhere.
            for to in ["out/x", "rel/x", "out/secret", "out/"] {
                let said = store.fails(&["cp", &f, &format!("{name}:/{to}")]);
                assert!(
                    said.contains("Could not find") || said.contains("no such"),
                    "{to}: {said}"
                );
            }
            for from in ["out/secret", "rel/secret", "out/"] {
                let said = store.fails(&["cp", &format!("{name}:/{from}"), "-"]);
                assert!(said.contains("Could not find the file"), "{from}: {said}");
            }
            let tar = made(&[
                ("evil", LINK, &outside),
                ("evil/x", FILE, "x"),
                ("climb", LINK, "../../../../.."),
                ("climb/var/tmp/unlade-escaped", FILE, "x"),
            ]);
            let fed = store.feed(&["cp", "-", &format!("{name}:/opt")], &tar);
            assert!(!Path::new("/var/tmp/unlade-escaped").exists());
            assert!(!host.join("x").exists(), "{}", text(&fed.stderr));
            let hard = made(&[("h", HARD, &format!("..{outside}/secret"))]);
            let fed = store.feed(&["cp", "-", &format!("{name}:/opt")], &hard);
            assert_eq!(fed.status.code(), Some(1), "{}", text(&fed.stderr));
            let dots = made(&[("../../x", FILE, "x")]);
            let fed = store.feed(&["cp", "-", &format!("{name}:/opt")], &dots);
            assert_eq!(fed.status.code(), Some(1), "{}", text(&fed.stderr));
        };
        store.create("cc", &[]);
        hostile("cc");
        store.start("rr", &[]);
        hostile("rr");
        for from in [
            "proc/1/root/etc/passwd",
            "proc/self/exe",
            "proc/version",
            "proc/1/cwd/",
        ] {
            let said = store.fails(&["cp", &format!("rr:/{from}"), "-"]);
            assert!(
                said.contains("Could not find") || said.contains("open `"),
                "{from}: {said}"
            );
        }
        let said = store.fails(&["cp", &f, "rr:/proc/1/root/x"]);
        assert!(
            said.contains("open `") || said.contains("Could not find"),
            "{said}"
        );
        // Out: a link in the destination is not gone through.
        let dest = store.path("dest");
        fs::create_dir(&dest).unwrap();
        symlink(host, dest.join("opt")).unwrap();
        let said = store.fails(&["cp", "cc:/opt", &store.arg("dest")]);
        assert!(said.contains("cannot overwrite non-directory"), "{said}");
    });
}

#[test]
fn renames_meanwhile_lead_nowhere_else() {
    stores("renames_meanwhile_lead_nowhere_else", |store, host| {
        let script = format!(
            "cd /; while true; do busybox rm -rf race; busybox mkdir -p race/d; \
             echo inside > race/d/secret; busybox sleep 0.002; \
             busybox mv race/d race/e; busybox ln -s {0} race/d; busybox ln -s ../../../..{0} l; \
             busybox mv -T l race/d; busybox rm race/d; busybox mv race/e race/d; done",
            host.display()
        );
        let args = [
            "run",
            "-d",
            "--name",
            "race",
            "--network",
            "none",
            "base",
            "sh",
            "-c",
        ];
        store.ok(&[&args[..], &[&script]].concat());
        fs::write(store.path("f"), "inside").unwrap();
        let (f, out) = (store.arg("f"), store.arg("out"));
        let (mut copied, mut read) = (0, 0);
        for _ in 0..25 {
            copied += usize::from(store.run(&["cp", &f, "race:/race/d/x"]).status.success());
            if store
                .run(&["cp", "race:/race/d/secret", &out])
                .status
                .success()
            {
                read += 1;
                assert!(fs::read_to_string(&out).unwrap().starts_with("inside"));
            }
            store.run(&["cp", "race:/race", "-"]);
        }
        eprintln!("{copied} of 25 copied in, {read} out");
        let all = store.run(&["export", "race"]);
        assert!(all.status.success(), "{}", text(&all.stderr));
        assert!(!text(&all.stdout).contains(OUTSIDE));
    });
}

#[test]
fn changes_become_an_image() {
    stores("changes_become_an_image", |store, _| {
        store.create("cc", &["-e", "X=y"]);
        assert_eq!(store.ok(&["diff", "cc"]), "");
        let from = store.path("from");
        everything(&from);
        store.ok(&["cp", "-q", &store.arg("from/d"), "cc:/new"]);
        let diff = store.ok(&["container", "diff", "cc"]);
        assert!(
            diff.contains("A /new\n") && diff.contains("A /new/sparse\n"),
            "{diff}"
        );
        assert!(!diff.contains("opt"), "{diff}");
        let id = store.ok(&[
            "commit",
            "-a",
            "Ada",
            "-m",
            "words",
            "-c",
            "CMD [\"sh\"]",
            "-c",
            "LABEL l=m",
            "cc",
            "two:1",
        ]);
        assert!(id.starts_with("sha256:"), "{id}");
        let shown = |format: &str| store.ok(&["image", "inspect", "-f", format, "two:1"]);
        assert_eq!(shown("{{.Id}}"), id);
        assert_eq!(
            shown("{{.Author}} {{.Comment}} {{json .Config.Cmd}}"),
            "Ada words [\"sh\"]\n"
        );
        assert_eq!(
            shown("{{.Config.Labels.l}} {{len .RootFS.Layers}}"),
            "m 2\n"
        );
        let env = shown("{{json .Config.Env}}");
        assert!(env.contains("A=b") && env.contains("X=y"), "{env}");
        let history = store.ok(&[
            "history",
            "--format",
            "{{.CreatedBy}}|{{.Comment}}",
            "two:1",
        ]);
        assert_eq!(history.lines().next().unwrap(), "sleep 600|words");
        store.ok(&["create", "--name", "dd", "--network", "none", "two:1"]);
        let (mut before, after) = (store.exported("cc"), store.exported("dd"));
        assert!(!before.contains_key("./") && before.contains_key("new/null"));
        before.remove("none");
        assert_eq!(before, after);
        // The image holds without its container, and after its blobs were checked.
        store.ok(&["rm", "cc"]);
        let said = store.ok(&["system", "check"]);
        assert!(said.contains("all sound"), "{said}");
        // Nothing changed: no layer.
        store.ok(&["commit", "dd", "three"]);
        let layers = store.ok(&["image", "inspect", "-f", "{{len .RootFS.Layers}}", "three"]);
        assert_eq!(layers, "2\n");
        let said = store.fails(&["commit", "-c", "NOPE x", "dd"]);
        assert!(said.contains("NOPE"), "{said}");
        assert!(
            store
                .fails(&["commit", "nobody"])
                .contains("No such container: nobody")
        );
        store.ok(&["export", "-o", &store.arg("d.tar"), "dd"]);
        assert_eq!(listed(&fs::read(store.path("d.tar")).unwrap()), after);
    });
}

#[test]
fn what_a_container_did() {
    stores("what_a_container_did", |store, _| {
        store.start("rr", &["-v", "vol:/data", "--tmpfs", "/mem"]);
        let sh = |script: &str| {
            store.ok(&["exec", "rr", "busybox", "sh", "-ec", script]);
        };
        sh(
            "PATH=/bin; busybox rm /opt/gone; busybox rm -r /opt/dir; busybox mkdir /opt/dir; \
            echo new > /opt/dir/new; echo vol > /data/v; echo mem > /mem/m; \
            busybox mkdir /app; echo a > /app/a; busybox ln /app/a /app/b; \
            busybox mknod /app/null c 1 3; busybox chmod 700 /etc; busybox mkfifo /app/pipe",
        );
        let lines = |name: &str| {
            let text = store.ok(&["diff", name]);
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let want = [
            "A /app",
            "A /app/a",
            "A /app/b",
            "A /app/null",
            "A /app/pipe",
            "A /data",
            "C /etc",
            "A /mem",
            "C /opt",
            "C /opt/dir",
            "A /opt/dir/new",
            "D /opt/dir/old",
            "D /opt/gone",
        ];
        assert_eq!(lines("rr"), want);
        // Files in volumes and memory are seen, and are not the container's own.
        assert_eq!(store.read("rr:/data/v"), "vol\n");
        assert_eq!(store.read("rr:/mem/m"), "mem\n");
        fs::write(store.path("f"), "host").unwrap();
        store.ok(&["cp", "-q", &store.arg("f"), "rr:/data/f"]);
        store.ok(&["cp", "-q", &store.arg("f"), "rr:/app/f"]);
        sh("test \"$(busybox cat /data/f)$(busybox cat /app/f)\" = hosthost");
        let exported = store.exported("rr");
        assert!(exported.contains_key("data/") && !exported.contains_key("data/v"));
        assert!(
            exported["etc/hosts"].starts_with("Regular"),
            "{}",
            exported["etc/hosts"]
        );
        let tar = store.run(&["cp", "rr:/", "-"]).stdout;
        let all = listed(&tar);
        assert!(
            all.contains_key("data/v") && !all.contains_key("mem/m"),
            "{:?}",
            all.keys()
        );
        assert!(all.contains_key("proc/") && !all.keys().any(|k| k.starts_with("proc/1")));
        // It goes on after a commit, and what comes of it is the same tree.
        store.ok(&["commit", "rr", "of-r"]);
        assert_eq!(
            store.ok(&["inspect", "-f", "{{.State.Status}}", "rr"]),
            "running\n"
        );
        store.ok(&["commit", "--pause=false", "rr", "of-r"]);
        store.ok(&["create", "--name", "nn", "--network", "none", "of-r"]);
        let (own, new) = (exported, store.exported("nn"));
        let own: BTreeMap<_, _> = own
            .into_iter()
            .filter(|(k, _)| !["dev/", "proc/", "sys/"].contains(&&**k))
            .filter(|(k, _)| !["etc/hosts", "etc/hostname", "etc/resolv.conf"].contains(&&**k))
            .collect();
        assert_eq!(own, new);
        let ran = store.ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            "of-r",
            "sh",
            "-c",
            "busybox ls /opt /opt/dir; busybox stat -c %h /app/a; busybox cat /app/f",
        ]);
        assert_eq!(ran, "/opt:\ndir\nkept\ntwin\n\n/opt/dir:\nnew\n2\nhost");
        // Stopped it is the same to copy from and to.
        store.ok(&["stop", "-t", "0", "rr"]);
        assert!(lines("rr").contains(&"A /app/f".to_owned()));
        assert_eq!(store.read("rr:/data/v"), "vol\n");
        store.ok(&["cp", "-q", &store.arg("f"), "rr:/data/g"]);
        store.ok(&["cp", "-q", &store.arg("f"), "rr:/app/g"]);
        store.ok(&["start", "rr"]);
        sh("test \"$(busybox cat /data/g)$(busybox cat /app/g)\" = hosthost");
        let run = store.path("run/containers");
        assert_eq!(
            fs::read_dir(run).unwrap().count(),
            1,
            "only that of the one that runs"
        );
    });
}

#[test]
fn owners_and_what_is_read_only() {
    stores("owners_and_what_is_read_only", |store, _| {
        fs::write(store.path("f"), "f").unwrap();
        let f = store.arg("f");
        rustix::fs::chown(&f, Some(rustix::fs::Uid::from_raw(77)), None).unwrap();
        store.create("uu", &["-u", "app"]);
        let owner = |name: &str| listed(&store.run(&["cp", name, "-"]).stdout)["f"].clone();
        store.ok(&["cp", "-q", &f, "uu:/opt/"]);
        assert!(
            owner("uu:/opt/f").contains(" 77:0 "),
            "{}",
            owner("uu:/opt/f")
        );
        store.ok(&["cp", "-q", "-a", &f, "uu:/opt/"]);
        assert!(
            owner("uu:/opt/f").contains(" 1000:1001 "),
            "{}",
            owner("uu:/opt/f")
        );
        store.create(
            "ro",
            &["--read-only", "-v", "rw:/data", "-v", "other:/fixed:ro"],
        );
        let refused = |name: &str| {
            let said = store.fails(&["cp", &f, &format!("{name}:/opt/f")]);
            assert!(
                said.contains("container rootfs is marked read-only"),
                "{said}"
            );
            let said = store.fails(&["cp", &f, &format!("{name}:/fixed/f")]);
            assert!(
                said.contains("mounted volume is marked read-only"),
                "{said}"
            );
            store.ok(&["cp", "-q", &f, &format!("{name}:/data/f")]);
        };
        refused("ro");
        store.ok(&["start", "ro"]);
        refused("ro");
        let mut value = String::new();
        File::open(store.path("store/volumes/rw/_data/f"))
            .unwrap()
            .read_to_string(&mut value)
            .unwrap();
        assert_eq!(value, "f");
        let kind = fs::symlink_metadata(store.path("store/volumes/rw/_data/f"))
            .unwrap()
            .file_type();
        assert!(!kind.is_fifo() && kind.is_file());
    });
}
