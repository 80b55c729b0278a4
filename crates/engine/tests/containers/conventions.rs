//! What docker's users expect of values, conflicts and errors.

use crate::*;

const NONE: [&str; 2] = ["--network", "none"];

/// `run --rm` without a network.
fn run<'a>(flags: &[&'a str], words: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--rm", "--network", "none"][..], flags, words].concat()
}

#[test]
fn conflicts_and_warnings() {
    hosts("conflicts_and_warnings", |h| {
        let names = ["--uts", "host", "-h", "x"];
        let said = h.fails(125, &run(&names, &["box"]));
        assert!(
            said.contains("conflicting options: hostname and the UTS mode"),
            "{said}"
        );
        let said = h.fails(1, &[&["create"][..], &NONE, &names, &["box"]].concat());
        assert!(said.contains("hostname and the UTS mode"), "{said}");
        let said = h.fails(125, &run(&["--uts", "host", "--domainname", "x"], &["box"]));
        assert!(said.contains("domainname and the UTS mode"), "{said}");

        let out = h.output(&[
            "run",
            "--rm",
            "--network",
            "host",
            "-p",
            "1:80",
            "box",
            "echo",
            "hi",
        ]);
        assert_eq!(
            (out.status.code(), text(&out.stdout)),
            (Some(0), "hi\n".to_owned())
        );
        let said = text(&out.stderr);
        assert!(
            said.contains("warning: published ports are discarded"),
            "{said}"
        );
        let out = h.output(&["run", "--rm", "--network", "host", "box"]);
        assert!(out.stderr.is_empty(), "{}", text(&out.stderr));

        for (flags, part) in [
            (&["-it"][..], "not a TTY"),
            (&["-t", "-a", "stdin"], "not a TTY"),
        ] {
            let said = h.fails(1, &run(flags, &["box"]));
            assert!(said.contains(part), "{said}");
        }
        h.ok(&[
            &["run", "-d", "--name", "one"][..],
            &NONE,
            &["box", "sleep", "1000"],
        ]
        .concat());
        let said = h.fails(1, &["exec", "-it", "one", "true"]);
        assert!(said.contains("not a TTY"), "{said}");
        let said = h.fails(1, &["rm", "--link", "one"]);
        assert!(
            said.contains("cannot remove the default link name"),
            "{said}"
        );
        for link in ["one/x", "none/x", "none"] {
            let said = h.fails(1, &["rm", "--link", link]);
            assert!(
                said.contains(&format!("No such container: {link}")),
                "{said}"
            );
        }
        let said = h.fails(125, &["events", "-f", "x"]);
        assert!(
            said.contains("bad format of filter (expected name=value)"),
            "{said}"
        );
        assert!(h.ok(&["ps", "-q", "-f", "is-task=true"]).is_empty());
        assert_eq!(
            h.ok(&["ps", "-q", "-f", "is-task=false"]).lines().count(),
            1
        );
        let said = h.fails(1, &["ps", "-f", "is-task=x"]);
        assert!(said.contains("invalid filter 'is-task=x'"), "{said}");
        h.ok(&["rm", "-f", "one"]);
    });
}

#[test]
fn flags_that_docker_takes() {
    hosts("flags_that_docker_takes", |h| {
        let long = "published=8080-8081,target=80-81,protocol=udp,mode=host";
        let create = [
            "create",
            "--network",
            "host",
            "--name",
            "one",
            "-p",
            long,
            "box",
        ];
        h.ok(&create);
        let bound = h.inspect("one")["HostConfig"]["PortBindings"].to_string();
        let want = r#"{"80/udp":[{"HostIp":"","HostPort":"8080"}],"81/udp":[{"HostIp":"","HostPort":"8081"}]}"#;
        assert_eq!(bound, want);
        h.ok(&["rm", "one"]);
        for (text, part) in [
            ("published=80", "target"),
            ("target=80,protocol=icmp", "protocol"),
            ("target=80,mode=x", "mode"),
            ("target=80,what=x", "`what`"),
        ] {
            let said = h.fails(125, &run(&["-p", text], &["box"]));
            assert!(said.contains(part), "{said}");
        }

        let out = h.output(&run(&["--kernel-memory", "10m"], &["box"]));
        assert!(
            out.status.success() && text(&out.stderr).contains("--kernel-memory is deprecated")
        );
        h.fails(125, &run(&["--kernel-memory", "x"], &["box"]));
        for flags in [
            &["--disable-content-trust"][..],
            &["--disable-content-trust=true"],
            &["--isolation", "default"],
        ] {
            let out = h.output(&run(flags, &["box"]));
            assert!(
                out.status.success() && out.stderr.is_empty(),
                "{}",
                text(&out.stderr)
            );
        }
        let said = h.fails(125, &run(&["--disable-content-trust=false"], &["box"]));
        assert!(said.contains("no signatures"), "{said}");
        let said = h.fails(1, &["pull", "--disable-content-trust=false", "box"]);
        assert!(said.contains("no signatures"), "{said}");
        let said = h.fails(125, &run(&["--isolation", "hyperv"], &["box"]));
        assert!(said.contains("invalid isolation: \"hyperv\""), "{said}");
    });
}

#[test]
fn real_time_cpu_time() {
    hosts("real_time_cpu_time", |h| {
        const TOP: &str = "/sys/fs/cgroup/cpu";
        let asks = ["--cpu-rt-period", "500000", "--cpu-rt-runtime", "1000"];
        let said = h.fails(125, &run(&asks, &["box"]));
        assert!(
            said.contains("--cpu-rt-runtime: the control group"),
            "{said}"
        );
        if !Path::new(TOP).join("cpu.rt_runtime_us").exists() {
            assert!(said.contains("give no real-time"), "{said}");
            return;
        }
        assert!(said.contains("/unlade has 0 microseconds"), "{said}");
        let parent = format!("unlade-rt-{}", std::process::id());
        let group = Path::new(TOP).join(&parent);
        fs::create_dir(&group).unwrap();
        fs::write(group.join("cpu.rt_runtime_us"), "2000").unwrap();
        let flags = [&asks[..], &["--cgroup-parent", &parent]].concat();
        let script = "cd /sys/fs/cgroup/cpu; cat cpu.rt_period_us cpu.rt_runtime_us";
        let got = h.sh(&flags, script);
        let more = ["--cpu-rt-runtime", "3000", "--cgroup-parent", &parent];
        let said = h.fails(125, &run(&more, &["box"]));
        // The others are of hierarchies in which nothing was written.
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let _ = fs::remove_dir(entry.unwrap().path().join(&parent));
        }
        assert_eq!(got, "500000\n1000");
        assert!(
            said.contains("2000 microseconds") && said.contains("3000"),
            "{said}"
        );
        assert!(!group.exists());
    });
}

#[test]
fn inspect_shows_what_counts() {
    hosts("inspect_shows_what_counts", |h| {
        h.ok(&[
            &["run", "-d", "--name", "one"][..],
            &NONE,
            &["box", "sleep", "1000"],
        ]
        .concat());
        let shown = h.inspect("one")["HostConfig"].clone();
        assert_eq!(shown["IpcMode"], "private");
        assert_eq!(shown["ShmSize"], 64 << 20);
        assert_eq!(shown["LogConfig"]["Type"], "json-file");
        assert_eq!(shown["Runtime"], "runc");
        assert_eq!(shown["RestartPolicy"]["Name"], "no");
        // Against what the container has.
        let pid = h.inspect("one")["State"]["Pid"].to_string();
        let own = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/cgroup")).unwrap();
        let private = own(&pid) != own("self");
        let mode = if private { "private" } else { "host" };
        assert_eq!(shown["CgroupnsMode"], mode);
        let id = h.inspect("one")["Id"].as_str().unwrap().to_owned();
        let spec = h.run.path().join("containers").join(id).join("config.json");
        let spec: Value = serde_json::from_slice(&fs::read(spec).unwrap()).unwrap();
        assert_eq!(shown["MaskedPaths"], spec["linux"]["maskedPaths"]);
        assert_eq!(shown["ReadonlyPaths"], spec["linux"]["readonlyPaths"]);
        assert!(shown["MaskedPaths"].as_array().unwrap().len() > 5);
        // It is shown, and not taken for what the user asked for.
        h.ok(&["update", "-m", "64m", "one"]);
        h.ok(&["restart", "-t", "0", "one"]);
        let told = h.ok(&["inspect", "--explain", "one"]);
        for line in told
            .lines()
            .filter(|l| l.contains("/dev/shm") || l.contains("maskedPaths"))
        {
            assert!(!line.contains("user: "), "{line}");
        }
        let asked = [
            "--ipc",
            "shareable",
            "--shm-size",
            "1m",
            "--log-driver",
            "none",
        ];
        h.ok(&[
            &["create", "--name", "two", "--privileged"][..],
            &NONE,
            &asked,
            &["box"],
        ]
        .concat());
        let shown = h.inspect("two")["HostConfig"].clone();
        assert_eq!(shown["IpcMode"], "shareable");
        assert_eq!(shown["ShmSize"], 1 << 20);
        assert_eq!(shown["LogConfig"]["Type"], "none");
        assert_eq!(shown["MaskedPaths"], Value::Null);
        h.ok(&["rm", "-f", "one", "two"]);
    });
}

#[test]
fn errors_of_programs_and_directories() {
    hosts("errors_of_programs_and_directories", |h| {
        for runtime in ["runc", "crun"] {
            if !["/usr/sbin", "/usr/bin"]
                .iter()
                .any(|d| Path::new(d).join(runtime).exists())
            {
                eprintln!("skipped in part: no {runtime}");
                continue;
            }
            let name = ["--name", "one", "--runtime", runtime];
            h.ok(&[&["run", "-d"][..], &NONE, &name, &["box", "sleep", "1000"]].concat());
            let dir = "the working directory `/data/file` is not a directory in the container";
            for (code, flags, words, message) in [
                (125, &["-w", "/data/file"][..], &["true"][..], dir),
                (
                    127,
                    &[],
                    &["nosuch"],
                    "exec: \"nosuch\": executable file not found in $PATH",
                ),
                (
                    127,
                    &[],
                    &["/nosuch"],
                    "exec: \"/nosuch\": no such file or directory",
                ),
                (
                    126,
                    &[],
                    &["/data/file"],
                    "exec: \"/data/file\": permission denied",
                ),
            ] {
                let flags = [&["--runtime", runtime][..], flags].concat();
                let said = h.fails(code, &run(&flags, &[&["box"][..], words].concat()));
                let first = said.lines().next().unwrap();
                assert!(
                    first.starts_with("unlade: start ") && first.ends_with(message),
                    "{said}"
                );
                assert!(
                    said.contains("\nhint: ") && said.lines().count() == 2,
                    "{said}"
                );
            }
            for (code, flags, words, message) in [
                (126, &["-w", "/data/file"][..], &["true"][..], dir),
                (
                    127,
                    &["-w", "/nosuch"],
                    &["true"],
                    "the working directory `/nosuch` is not there in the container",
                ),
                (
                    127,
                    &[],
                    &["nosuch"],
                    "exec: \"nosuch\": executable file not found in $PATH",
                ),
                (
                    127,
                    &["-e", "PATH=/data"],
                    &["sh"],
                    "exec: \"sh\": executable file not found in $PATH",
                ),
                (
                    127,
                    &[],
                    &["/nosuch"],
                    "exec: \"/nosuch\": no such file or directory",
                ),
                (
                    126,
                    &[],
                    &["/data/file"],
                    "exec: \"/data/file\": permission denied",
                ),
                (126, &[], &["/data"], "exec: \"/data\": permission denied"),
                (
                    126,
                    &["-w", "/data"],
                    &["./file"],
                    "exec: \"./file\": permission denied",
                ),
            ] {
                let said = h.fails(code, &[&["exec"][..], flags, &["one"], words].concat());
                let first = said.lines().next().unwrap();
                assert_eq!(first, format!("unlade: exec in one: {message}"));
                assert!(
                    said.contains("\nhint: ") && said.lines().count() == 2,
                    "{said}"
                );
            }
            // What is there is found as before.
            for words in [
                &["exec", "-w", "/bin", "one", "./true"][..],
                &["exec", "-e", "PATH=/nosuch:/bin", "one", "true"],
            ] {
                h.ok(words);
            }
            h.ok(&["rm", "-f", "one"]);
        }
    });
}
