//! What changed in a container is listed, exported and becomes an image.

use std::{collections::BTreeMap, fs};

use crate::{
    stores,
    trees::{everything, listed},
};

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
