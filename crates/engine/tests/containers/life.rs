//! Lives of containers, and what commands say of them.

use crate::*;

#[test]
fn a_container_lives_and_is_seen() {
    hosts("a_container_lives_and_is_seen", |h| {
        let script = "trap 'exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.05; done";
        let id = h.ok(&[
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "one",
            "-e",
            "A=b",
            "-l",
            "k=v",
            "--stop-signal",
            "TERM",
            "box",
            "sh",
            "-c",
            script,
        ]);
        let id = id.trim();
        assert_eq!(id.len(), 64);
        let said = h.fails(125, &["run", "--name", "one", "box"]);
        assert!(
            said.contains("The container name \"/one\" is already in use"),
            "{said}"
        );
        let doc = h.inspect("one");
        assert_eq!(
            (doc["Id"].as_str(), doc["Name"].as_str()),
            (Some(id), Some("/one"))
        );
        assert_eq!(doc["State"]["Running"], true);
        assert_eq!(doc["Config"]["Labels"]["k"], "v");
        assert_eq!(doc["HostConfig"]["NetworkMode"], "none");
        let pid = doc["State"]["Pid"].as_i64().unwrap();
        assert!(
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .unwrap()
                .contains("trap")
        );
        assert_eq!(
            h.ok(&[
                "ps",
                "--format",
                "{{.Names}} {{.Image}} {{.State}} {{.Labels}}"
            ])
            .trim(),
            "one box running k=v"
        );
        let format = "table {{.Label \"k\"}}\\t{{.Platform}}\\t{{slice .ID 0 4}}{{.Label \"no\"}}";
        let shown = h.ok(&["ps", "--format", format]);
        let words: Vec<Vec<&str>> = shown
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let platform = h.ok(&["image", "inspect", "-f", "{{.Os}}/{{.Architecture}}", "box"]);
        assert_eq!(words[1], ["v", platform.trim(), &id[..4]], "{shown}");
        assert_eq!(words[0][..2], ["k", "PLATFORM"], "{shown}");
        for (filter, lines) in [
            ("name=on", 1),
            ("name=two", 0),
            ("label=k=v", 1),
            ("status=exited", 0),
            ("ancestor=box", 1),
        ] {
            assert_eq!(
                h.ok(&["ps", "-q", "-f", filter]).lines().count(),
                lines,
                "{filter}"
            );
        }
        h.until("the log", || h.ok(&["logs", "one"]).contains("out"));
        let out = h.output(&["logs", "one"]);
        assert_eq!(
            (text(&out.stdout), text(&out.stderr)),
            ("out\n".into(), "err\n".into())
        );
        assert_eq!(h.ok(&["logs", "--tail", "0", "one"]), "");
        assert!(h.ok(&["logs", "-t", "one"]).contains("Z out"));

        assert_eq!(
            h.ok(&[
                "exec",
                "-e",
                "B=c",
                "-w",
                "/tmp",
                "one",
                "sh",
                "-c",
                "echo $A$B; pwd"
            ]),
            "bc\n/tmp\n"
        );
        assert_eq!(h.ok(&["exec", "-u", "ann", "one", "id", "-u"]), "7\n");
        assert_eq!(
            h.output(&["exec", "one", "sh", "-c", "exit 9"])
                .status
                .code(),
            Some(9)
        );
        h.fails(127, &["exec", "one", "nosuch"]);
        // What is there for who is inside, and for nobody else.
        h.ok(&["exec", "-w", "/proc/self", "one", "true"]);
        h.ok(&["exec", "-d", "one", "touch", "/tmp/there"]);
        h.until("a detached process", || {
            h.output(&["exec", "one", "ls", "/tmp/there"])
                .status
                .success()
        });
        let execs = h.run.path().join("containers").join(id).join("exec");
        h.until("those before it are gone", || {
            h.ok(&["exec", "-d", "one", "true"]);
            fs::read_dir(&execs).unwrap().count() == 1
        });
        assert!(h.ok(&["top", "one"]).contains("trap"));
        let stats = h.ok(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]);
        assert!(
            stats.starts_with("one ") && !stats.contains("--"),
            "{stats}"
        );

        h.ok(&["pause", "one"]);
        assert_eq!(h.status("one"), "paused");
        assert!(h.fails(1, &["exec", "one", "true"]).contains("is paused"));
        assert!(h.fails(1, &["pause", "one"]).contains("already paused"));
        h.ok(&["unpause", "one"]);
        h.ok(&["update", "--pids-limit", "50", "one"]);
        assert_eq!(h.inspect("one")["HostConfig"]["PidsLimit"], 50);
        h.ok(&["rename", "one", "uno"]);
        assert!(h.fails(1, &["rm", "uno"]).contains("container is running"));
        assert!(
            h.fails(1, &["rmi", "box"])
                .contains("is using its referenced image")
        );
        let image = h.ok(&["images", "-q", "box"]).trim().to_owned();
        assert!(
            h.fails(1, &["rmi", "-f", &image])
                .contains("(cannot be forced) - image is being used by running container")
        );
        assert_eq!(h.ok(&["rmi", "-f", "box"]), "Untagged: box:latest\n");
        // Nor does it go with what nobody needs, though it has no name now.
        for prune in [
            &["image", "prune", "-f"][..],
            &["image", "prune", "-a", "-f"],
        ] {
            h.ok(prune);
        }
        h.ok(&["system", "prune", "-a", "-f"]);
        h.ok(&["tag", &image, "box"]);
        assert_eq!(h.ok(&["stop", "-t", "5", "uno"]), "uno\n");
        assert_eq!(h.inspect("uno")["State"]["ExitCode"], 3);
        assert_eq!(h.ok(&["wait", "uno"]), "3\n");
        h.ok(&["restart", "uno"]);
        assert_eq!(h.status("uno"), "running");
        h.ok(&["kill", "uno"]);
        assert_eq!(h.ok(&["wait", "uno"]), "137\n");
        h.until("the end", || h.status("uno") == "exited");
        assert!(
            h.ok(&["ps", "-a", "--format", "{{.Status}}"])
                .starts_with("Exited (137)")
        );
        let events = h.ok(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--format",
            "{{.Action}}",
        ]);
        let format =
            "{{.ID}} {{.Status}} {{.Type}} {{.Actor.Attributes.name}} {{gt .TimeNano .Time}}";
        let pause = [
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "-f",
            "event=pause",
        ];
        let pause = h.ok(&[&pause[..], &["--format", format]].concat());
        assert_eq!(pause, format!("{id} pause container one true\n"));
        for action in [
            "create", "start", "pause", "unpause", "update", "rename", "kill", "die", "stop",
            "restart",
        ] {
            assert!(events.lines().any(|l| l == action), "{action}: {events}");
        }
        assert_eq!(h.ok(&["rm", "uno"]), "uno\n");
        assert!(
            h.fails(1, &["inspect", "uno"])
                .contains("No such object: uno")
        );
    });
}

#[test]
fn namespaces_of_another_are_joined() {
    hosts("namespaces_of_another_are_joined", |host| {
        let other = ["run", "-d", "--network", "none", "--hostname", "first"];
        let more = ["--name", "first", "--ipc", "shareable", "box"];
        let script = "echo seen > /dev/shm/note; exec sleep 1000";
        host.ok(&[&other[..], &more, &["sh", "-c", script]].concat());
        host.until("its note", || {
            let looked = host.output(&["exec", "first", "cat", "/dev/shm/note"]);
            text(&looked.stdout) == "seen\n"
        });
        let joined = host.sh(&["--ipc", "container:first"], "cat /dev/shm/note");
        assert_eq!(joined, "seen");
        let joined = host.sh(&["--pid", "container:first"], "ps");
        assert!(joined.contains("sleep 1000"), "{joined}");
        let run = ["run", "--rm", "--network", "container:first", "box"];
        assert_eq!(host.ok(&[&run[..], &["hostname"]].concat()), "first\n");
        host.ok(&["rm", "-f", "first"]);
        let run = ["run", "--rm", "--ipc", "container:first", "box", "true"];
        assert!(host.fails(125, &run).contains("first"));
        host.assert_empty();
    });
}

#[test]
fn create_start_attach_and_prune() {
    hosts("create_start_attach_and_prune", |h| {
        h.ok(&[
            "create",
            "--name",
            "c1",
            "--network",
            "none",
            "box",
            "sh",
            "-c",
            "echo ran; exit 4",
        ]);
        assert_eq!(h.status("c1"), "created");
        let out = h.output(&["start", "-a", "c1"]);
        assert_eq!(
            (text(&out.stdout), out.status.code()),
            ("ran\n".into(), Some(4))
        );
        assert_eq!(h.inspect("c1")["State"]["ExitCode"], 4);
        // Changes stay from one start to the next.
        h.ok(&[
            "create",
            "--name",
            "c2",
            "--network",
            "none",
            "box",
            "sh",
            "-c",
            "ls /mark 2>/dev/null; touch /mark",
        ]);
        assert_eq!(h.ok(&["start", "-a", "c2"]), "");
        assert_eq!(h.ok(&["start", "-a", "c2"]), "/mark\n");
        assert_eq!(h.ok(&["ps", "-aq"]).lines().count(), 2);
        assert_eq!(
            h.ok(&["ps", "-q", "-n", "1", "--format", "{{.Names}}"]),
            "c2\n"
        );
        // Without its image a container that does not run keeps the layers that it needs.
        h.ok(&["rmi", "-f", "box"]);
        h.ok(&["image", "prune", "-a", "-f"]);
        assert_eq!(h.ok(&["start", "-a", "c2"]), "/mark\n");
        h.ok(&["import", &h.path("box.tar"), "box", "-c", "CMD [\"true\"]"]);
        let pruned = h.ok(&["container", "prune", "-f"]);
        assert!(pruned.starts_with("Deleted Containers:\n"), "{pruned}");
        // One that goes by itself.
        h.ok(&[
            "run",
            "-d",
            "--rm",
            "--network",
            "none",
            "box",
            "sleep",
            "0.3",
        ]);
        h.until("a removal", || h.ok(&["ps", "-aq"]).is_empty());
        let explained = h.ok(&["create", "--explain", "--read-only", "box", "true"]);
        assert!(
            explained
                .lines()
                .any(|l| l.starts_with("root.readonly") && l.contains("user")),
            "{explained}"
        );
    });
}
