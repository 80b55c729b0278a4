//! Commands that are given several names.

use crate::*;

#[test]
fn each_name_has_an_end() {
    hosts("each_name_has_an_end", |h| {
        for volume in ["va", "vb", "vc"] {
            h.ok(&["volume", "create", volume]);
        }
        let mounts = ["-v", "va:/a", "-v", "vb:/b"];
        let run = ["run", "-d", "--network", "none", "--name"];
        h.ok(&[&run[..], &["one"], &mounts, &["box", "sleep", "1000"]].concat());
        h.ok(&[&run[..], &["two", "box", "sleep", "1000"]].concat());
        h.ok(&["create", "--network", "none", "--name", "three", "box"]);
        for (args, parts) in [
            (
                &["volume", "rm", "va", "vc", "vb", "vd"][..],
                &["va", "vb", "vd"][..],
            ),
            (&["volume", "inspect", "ve", "vf"], &["ve", "vf"]),
            (
                &["network", "rm", "bridge", "na", "host"],
                &["bridge", "na", "host"],
            ),
            (&["network", "inspect", "na", "nb"], &["na", "nb"]),
            (&["rm", "one", "na", "two"], &["one", "na", "two"]),
            (&["rmi", "na", "nb"], &["na", "nb"]),
            (&["inspect", "na", "nb"], &["na", "nb"]),
            (&["inspect", "--explain", "na", "nb"], &["na", "nb"]),
            (&["image", "inspect", "na", "nb"], &["na", "nb"]),
            (&["stop", "na", "nb"], &["na", "nb"]),
            (&["restart", "na", "nb"], &["na", "nb"]),
            (&["start", "na", "nb"], &["na", "nb"]),
            (&["unpause", "one", "na"], &["is not paused", "na"]),
            (&["kill", "three", "na"], &["three", "na"]),
            (&["wait", "na", "nb"], &["na", "nb"]),
            (&["update", "-m", "64m", "na", "nb"], &["na", "nb"]),
        ] {
            let said = h.fails(1, args);
            let lines: Vec<&str> = said.lines().filter(|l| l.starts_with("unlade: ")).collect();
            assert_eq!(lines.len(), parts.len(), "{args:?}: {said}");
            for (line, part) in lines.iter().zip(parts) {
                assert!(line.contains(part), "{args:?}: {said}");
            }
        }
        // What could be done was.
        assert_eq!(h.ok(&["volume", "ls", "-q"]), "va\nvb\n");
        h.ok(&["pause", "two"]);
        let counts = "{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}} {{.Images}}";
        assert_eq!(h.ok(&["info", "-f", counts]), "3 1 1 1 1\n");
        let info = h.ok(&["info"]);
        assert!(
            info.contains("Containers: 3\n Running: 1\n Paused: 1\n Stopped: 1\n"),
            "{info}"
        );
        h.ok(&["rm", "-f", "one", "two", "three"]);
        h.ok(&["volume", "rm", "va", "vb"]);
    });
}

#[test]
fn restarts_side_by_side() {
    hosts("restarts_side_by_side", |h| {
        let shared = h.path("shared");
        fs::create_dir(&shared).unwrap();
        // Each ends only once the other was asked to.
        let script = "trap 'touch /s/$A; until [ -e /s/$B ]; do sleep 0.05; done; touch /s/$A.end; \
                      exit' TERM; touch /s/$A.up; while :; do sleep 0.05; done";
        for (a, b) in [("one", "two"), ("two", "one")] {
            let (a_is, b_is) = (format!("A={a}"), format!("B={b}"));
            let flags = [
                "run",
                "-d",
                "--network",
                "none",
                "--name",
                a,
                "-e",
                &a_is,
                "-e",
                &b_is,
            ];
            let mount = format!("{shared}:/s");
            h.ok(&[&flags[..], &["-v", &mount, "box", "sh", "-c", script]].concat());
        }
        let there = |name: &str| Path::new(&shared).join(name).exists();
        h.until("both listen", || there("one.up") && there("two.up"));
        assert_eq!(h.ok(&["restart", "-t", "60", "one", "two"]), "one\ntwo\n");
        assert!(there("one.end") && there("two.end"));
        for name in ["one", "two"] {
            assert_eq!(h.status(name), "running");
        }
        h.ok(&["rm", "-f", "one", "two"]);
    });
}
