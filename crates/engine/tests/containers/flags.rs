//! What flags say, seen from inside.

use crate::*;

#[test]
fn run_gives_output_and_exit_codes() {
    hosts("run_gives_output_and_exit_codes", |h| {
        let run = |words: &[&str]| {
            let mut args = vec!["run", "--rm", "--network", "none", "box"];
            args.extend(words);
            h.output(&args)
        };
        let out = run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(
            (text(&out.stdout), text(&out.stderr)),
            ("out\n".into(), "err\n".into())
        );
        assert_eq!(out.status.code(), Some(7));
        assert_eq!(
            run(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"])
                .status
                .code(),
            Some(137)
        );
        assert_eq!(run(&["nosuch"]).status.code(), Some(127));
        assert_eq!(run(&["/etc"]).status.code(), Some(126));
        assert!(
            h.fails(125, &["run", "--rm", "--nonsense", "box"])
                .contains("--nonsense")
        );
        let said = h.fails(125, &["run", "--rm", "--pull", "never", "nosuch:1"]);
        assert!(said.to_lowercase().contains("no such image"), "{said}");
        // Input goes in, all of it.
        let mut command = h.command(&["run", "--rm", "-i", "--network", "none", "box", "wc", "-c"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        thread::spawn(move || std::io::Write::write_all(&mut stdin, &vec![b'x'; 3 << 20]).unwrap());
        let out = child.wait_with_output().unwrap();
        assert_eq!(text(&out.stdout).trim(), (3 << 20).to_string());
    });
}

#[test]
fn flags_are_seen_inside() {
    hosts("flags_are_seen_inside", |h| {
        let file = h.path("env");
        fs::write(&file, "# no\nF=file\nE=lost\n").unwrap();
        let env = h.sh(
            &["--env-file", &file, "-e", "E=1", "-w", "/tmp"],
            "echo $F $E $PATH; pwd",
        );
        let want = "file 1 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/tmp";
        assert_eq!(env, want);
        assert_eq!(h.sh(&["-w", "/made/for/it"], "pwd"), "/made/for/it");
        let mount = "type=image,src=box,dst=/i,image-subpath=etc";
        assert_eq!(
            h.sh(&["--mount", mount], "cmp /etc/group /i/group && echo same"),
            "same"
        );
        assert_eq!(
            h.sh(&["-u", "ann"], "id -u; id -g; id -G; echo $HOME"),
            "7\n8\n8 9\n/home/ann"
        );
        assert_eq!(
            h.sh(&["-u", "5:6", "--group-add", "more"], "id -u; id -g; id -G"),
            "5\n6\n6 9"
        );
        assert!(
            h.fails(
                125,
                &["run", "--rm", "--network", "none", "-u", "nobody9", "box"]
            )
            .contains("nobody9")
        );
        assert_eq!(
            h.sh(&["-h", "here"], "hostname; cat /etc/hostname"),
            "here\nhere"
        );
        assert_eq!(h.sh(&["--entrypoint", "echo"], "x"), "sh -c x\ntrue");
        assert_eq!(
            h.sh(
                &["--add-host", "far:1.2.3.4"],
                "grep far /etc/hosts | tr '\\t' ' '"
            ),
            "1.2.3.4 far"
        );
        assert_eq!(
            h.sh(&["--read-only"], "touch /x 2>/dev/null || echo no"),
            "no"
        );
        assert_eq!(
            h.sh(&["--tmpfs", "/t:size=1m"], "mount | grep -c ' /t '"),
            "1"
        );
        assert_eq!(
            h.sh(
                &["--shm-size", "1m"],
                "mount | grep -c ' /dev/shm .*size=1024k'"
            ),
            "1"
        );
        assert_eq!(
            h.sh(&["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn"),
            "100\n200"
        );
        let caps = "grep CapEff /proc/self/status";
        assert_eq!(
            h.sh(&["--cap-drop", "ALL"], caps),
            "CapEff:\t0000000000000000"
        );
        assert_eq!(
            h.sh(&["--cap-drop", "ALL", "--cap-add", "CHOWN"], caps),
            "CapEff:\t0000000000000001"
        );
        assert_eq!(
            h.sh(
                &["--security-opt", "no-new-privileges"],
                "grep NoNewPrivs /proc/self/status"
            ),
            "NoNewPrivs:\t1"
        );
        assert_eq!(
            h.sh(
                &["--security-opt", "seccomp=unconfined"],
                "grep Seccomp: /proc/self/status"
            ),
            "Seccomp:\t0"
        );
        assert_eq!(h.sh(&[], "grep Seccomp: /proc/self/status"), "Seccomp:\t2");
        assert_eq!(
            h.sh(
                &["--pids-limit", "20"],
                "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null"
            ),
            "20"
        );
        assert_eq!(h.sh(&["-m", "64m"], "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"), (64 << 20).to_string());
        assert_eq!(h.sh(&["--cpuset-cpus", "0"], "nproc"), "1");
        assert_eq!(
            h.sh(&["--oom-score-adj", "100"], "cat /proc/self/oom_score_adj"),
            "100"
        );
        assert_eq!(
            h.sh(
                &["--sysctl", "net.ipv4.ip_forward=1"],
                "cat /proc/sys/net/ipv4/ip_forward"
            ),
            "1"
        );
        assert_ne!(h.sh(&["--init"], "cat /proc/1/comm"), "sh");
        let pid = h
            .sh(&["--pid", "host"], "ls -d /proc/[0-9]* | wc -l")
            .parse::<u32>()
            .unwrap();
        assert!(pid > 5, "{pid}");
        assert_eq!(
            h.sh(&["--uts", "host"], "hostname"),
            text(&fs::read("/proc/sys/kernel/hostname").unwrap()).trim()
        );
        assert_eq!(
            h.sh(
                &["-v", &format!("{}:/m:ro", h.path("tree/data"))],
                "cat /m/file; touch /m/x 2>/dev/null || echo ro"
            ),
            "keptro"
        );
        assert_eq!(
            h.sh(
                &["--mount", "type=tmpfs,target=/q"],
                "mount | grep -c ' /q '"
            ),
            "1"
        );
        assert_eq!(
            h.sh(&["--device", "/dev/null:/dev/mine"], "ls /dev/mine"),
            "/dev/mine"
        );
        assert_eq!(
            h.sh(&["--privileged"], "ls /dev/loop-control"),
            "/dev/loop-control"
        );
        assert_eq!(h.sh(&["--ipc", "none"], "mount | grep -c /dev/shm"), "0");
        assert_eq!(
            h.sh(
                &["--volume-driver", "local", "-v", "/v"],
                "mount | grep -c ' /v '"
            ),
            "1"
        );
        let said = h.fails(125, &["run", "--rm", "--volume-driver", "nfs", "box"]);
        assert!(said.contains("no volume driver `nfs`"), "{said}");
        // What needs docker's daemon or its networks is refused by name.
        for (flags, part) in [
            (&["--use-api-socket"][..], "no API socket"),
            (&["--link-local-ip", "169.254.1.1"], "link-local"),
            (&["--storage-opt", "size=1g"], "quota"),
        ] {
            let said = h.fails(125, &[&["run", "--rm"], flags, &["box"]].concat());
            assert!(said.contains(part), "{flags:?}: {said}");
        }
        assert_eq!(h.sh(&["--log-opt", "mode=blocking"], "echo x"), "x");
        let id = h.path("cid");
        h.sh(&["--cidfile", &id], "true");
        assert_eq!(fs::read_to_string(&id).unwrap().len(), 64);
        assert!(
            h.fails(125, &["run", "--rm", "--cidfile", &id, "box"])
                .contains("container ID file found")
        );
        // Nothing of the host's is open in it.
        assert_eq!(h.sh(&[], "ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3");
    });
}

/// What the files of control groups say inside, of version 1 or 2: the first that is there.
fn group(h: &Host, flags: &[&str], files: &[&str]) -> String {
    let paths: Vec<String> = files
        .iter()
        .map(|f| format!("/sys/fs/cgroup/{f}"))
        .collect();
    let said = h.sh(flags, &format!("cat {} 2>/dev/null", paths.join(" ")));
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn limits_are_seen_inside() {
    hosts("limits_are_seen_inside", |h| {
        let v1 = !Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let is = |flags: &[&str], files: &[&str], old: &str, new: &str| {
            let want = if v1 { old } else { new };
            assert_eq!(group(h, flags, files), want, "{flags:?}");
        };
        let quota = ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpu.max"];
        let (half, fifths) = ("50000 100000", "20000 50000");
        is(&["--cpus", "0.5"], &quota, half, half);
        let flags = ["--cpu-period", "50000", "--cpu-quota", "20000"];
        is(&flags, &quota, fifths, fifths);
        let shares = ["cpu/cpu.shares", "cpu.weight"];
        is(&["-c", "512"], &shares, "512", "20");
        let soft = ["memory/memory.soft_limit_in_bytes", "memory.low"];
        let bytes = (32 << 20).to_string();
        is(&["--memory-reservation", "32m"], &soft, &bytes, &bytes);
        let mems = ["cpuset/cpuset.mems", "cpuset.mems"];
        is(&["--cpuset-mems", "0"], &mems, "0", "0");
        if !v1 || Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists() {
            let swap = ["memory/memory.memsw.limit_in_bytes", "memory.swap.max"];
            let (both, swapped) = ((96 << 20).to_string(), (32 << 20).to_string());
            is(
                &["-m", "64m", "--memory-swap", "96m"],
                &swap,
                &both,
                &swapped,
            );
        }
        if v1 {
            let swappiness = ["memory/memory.swappiness"];
            is(&["--memory-swappiness", "10"], &swappiness, "10", "");
            let said = group(
                h,
                &["-m", "64m", "--oom-kill-disable"],
                &["memory/memory.oom_control"],
            );
            assert!(said.starts_with("oom_kill_disable 1"), "{said}");
        }
        let parent = format!("unlade-parent-{}-{}", h.driver, std::process::id());
        let at = format!("/{parent}");
        let said = h.sh(
            &["--cgroup-parent", &at, "--cgroupns", "host"],
            "cat /proc/self/cgroup",
        );
        assert!(said.contains(&format!(":{at}/")), "{said}");
        for dir in fs::read_dir("/sys/fs/cgroup").unwrap() {
            let _ = fs::remove_dir(dir.unwrap().path().join(&parent));
        }
        let _ = fs::remove_dir(format!("/sys/fs/cgroup/{parent}"));
        let said = h.sh(&["--cgroupns", "private"], "cat /proc/self/cgroup");
        assert!(said.lines().all(|l| l.ends_with(":/")), "{said}");
    });
}

#[test]
fn names_logs_and_policies() {
    hosts("names_logs_and_policies", |h| {
        let flags = [
            "--dns",
            "9.9.9.9",
            "--dns-search",
            "corp",
            "--dns-option",
            "ndots:3",
        ];
        let said = h.sh(&flags, "cat /etc/resolv.conf");
        for line in ["nameserver 9.9.9.9", "search corp", "options ndots:3"] {
            assert!(said.lines().any(|l| l == line), "{line}: {said}");
        }
        let said = h.sh(
            &["--domainname", "example.org"],
            "cat /proc/sys/kernel/domainname",
        );
        assert_eq!(said, "example.org");
        let tty = "test -t 0 && test -t 1 && echo terminal";
        assert_eq!(h.sh(&["-t"], tty), "terminal");
        assert_eq!(h.sh(&[], &format!("{tty} || echo none")), "none");

        let file = h.path("labels");
        fs::write(&file, "# no\na=1\nb=two words\nc\n").unwrap();
        h.ok(&[
            "create",
            "--name",
            "labelled",
            "--label-file",
            &file,
            "-l",
            "a=2",
            "box",
        ]);
        let labels = &h.inspect("labelled")["Config"]["Labels"];
        assert_eq!(
            *labels,
            serde_json::json!({ "a": "2", "b": "two words", "c": "" })
        );
        h.ok(&["rm", "labelled"]);

        h.ok(&[
            "run",
            "--network",
            "none",
            "--name",
            "owner",
            "-v",
            "/mine",
            "box",
            "sh",
            "-c",
            "echo kept > /mine/f",
        ]);
        assert_eq!(h.sh(&["--volumes-from", "owner"], "cat /mine/f"), "kept");
        let read = "cat /mine/f; touch /mine/x 2>/dev/null || echo ro";
        assert_eq!(h.sh(&["--volumes-from", "owner:ro"], read), "kept\nro");
        h.ok(&["rm", "-v", "owner"]);

        let detached = ["run", "-d", "--network", "none", "--name", "one"];
        let up = |more: &[&str]| h.ok(&[&detached[..], more].concat());
        up(&["--restart", "on-failure:2", "box", "false"]);
        h.until("it is started again twice", || {
            let doc = h.inspect("one");
            doc["RestartCount"] == 2 && doc["State"]["Status"] == "exited"
        });
        assert_eq!(h.inspect("one")["State"]["ExitCode"], 1);
        h.ok(&["rm", "one"]);
        up(&["--log-driver", "none", "box", "echo", "lost"]);
        h.ok(&["wait", "one"]);
        let said = h.fails(1, &["logs", "one"]);
        assert!(said.contains("log"), "{said}");
        h.ok(&["rm", "one"]);
        up(&[
            "--health-cmd",
            "test -e /well",
            "--health-interval",
            "1s",
            "box",
            "sleep",
            "100",
        ]);
        assert_eq!(h.inspect("one")["State"]["Health"]["Status"], "starting");
        h.ok(&["exec", "one", "touch", "/well"]);
        h.until("it is well", || {
            h.inspect("one")["State"]["Health"]["Status"] == "healthy"
        });
        h.ok(&["rm", "-f", "one"]);
    });
}
