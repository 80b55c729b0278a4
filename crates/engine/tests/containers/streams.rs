//! What containers write, and who hears of it: logs, attach, wait, signals.

use std::{
    io::{BufRead, BufReader, Write},
    process::Child,
};

use crate::*;

const RUN: &[&str] = &["run", "--network", "none", "--name"];

fn spawn(h: &Host, args: &[&str]) -> Child {
    let mut command = h.command(args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits for that line on its standard output.
fn line(child: &mut Child, wanted: &str) -> BufReader<std::process::ChildStdout> {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while text.trim_end() != wanted {
        text.clear();
        assert_ne!(out.read_line(&mut text).unwrap(), 0, "no {wanted}");
    }
    out
}

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
}

#[test]
fn logs_are_followed_to_the_end() {
    hosts("logs_are_followed_to_the_end", |h| {
        // Some ten lines a file: it is rotated many times while it is read.
        let script = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i + 1)); \
                      [ $((i % 20)) -ne 0 ] || sleep 0.05; done; echo end >&2";
        let options = ["--log-opt", "max-size=1k", "--log-opt", "max-file=100"];
        let detached = [RUN, &["one", "-d"], &options, &["box", "sh", "-c", script]].concat();
        h.ok(&detached);
        let out = h.output(&["logs", "-f", "one"]);
        assert_eq!(out.status.code(), Some(0));
        let want: String = (0..300).map(|n| format!("line {n}\n")).collect();
        assert_eq!(
            (text(&out.stdout), text(&out.stderr)),
            (want.clone(), "end\n".into())
        );
        let dir = h.dir.path().join("store/containers");
        let id = h.inspect("one")["Id"].as_str().unwrap().to_owned();
        let files = walk(&dir.join(id));
        assert!(files > 10, "{files} files of logs");
        // After the end it is all there too, and following ends at once.
        assert_eq!(h.ok(&["logs", "-f", "one"]), want);
        assert_eq!(
            h.ok(&["logs", "-f", "-n", "3", "one"]),
            "line 298\nline 299\n"
        );
        assert_eq!(h.ok(&["logs", "--tail", "2", "one"]), "line 299\n");
        h.ok(&["rm", "one"]);
    });
}

fn walk(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries
        .map(|path| if path.is_dir() { walk(&path) } else { 1 })
        .sum()
}

#[test]
fn logs_of_a_time() {
    hosts("logs_of_a_time", |h| {
        let script = "for i in 1 2 3 4 5; do echo $i; sleep 0.02; done";
        let carried = ["-e", "A=b", "-l", "k=v"];
        let options = ["--log-opt", "env=A", "--log-opt", "labels=k"];
        let run = [
            RUN,
            &["one"],
            &carried,
            &options,
            &["box", "sh", "-c", script],
        ];
        h.ok(&run.concat());
        let timed = h.ok(&["logs", "-t", "one"]);
        let times: Vec<&str> = timed
            .lines()
            .map(|l| l.split_once(' ').unwrap().0)
            .collect();
        assert_eq!(times.len(), 5);
        assert_eq!(h.ok(&["logs", "--since", times[2], "one"]), "3\n4\n5\n");
        assert_eq!(h.ok(&["logs", "--until", times[2], "one"]), "1\n2\n3\n");
        // As docker: the last lines of all, and of those what was written in that time.
        let between = [
            "logs", "--since", times[1], "--until", times[3], "-n", "3", "one",
        ];
        assert_eq!(h.ok(&between), "3\n4\n");
        assert_eq!(h.ok(&["logs", "--since", "10m", "one"]).lines().count(), 5);
        assert_eq!(h.ok(&["logs", "--until", "10m", "one"]), "");
        assert_eq!(
            h.ok(&["logs", "--details", "-n", "1", "one"]),
            "A=b,k=v 5\n"
        );
        h.ok(&["rm", "one"]);
    });
}

#[test]
fn signals_reach_the_container_or_do_not() {
    hosts("signals_reach_the_container_or_do_not", |h| {
        let script = "trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.02; done";
        let command = ["box", "sh", "-c", script];
        let mut run = spawn(h, &[RUN, &["one"], &command].concat());
        let mut out = line(&mut run, "up");
        terminate(&run);
        let mut rest = String::new();
        out.read_line(&mut rest).unwrap();
        assert_eq!(
            (rest.as_str(), run.wait().unwrap().code()),
            ("got\n", Some(7))
        );
        h.ok(&["rm", "one"]);

        let mut run = spawn(h, &[RUN, &["two", "--sig-proxy=false"], &command].concat());
        let _out = line(&mut run, "up");
        terminate(&run);
        assert_eq!(run.wait().unwrap().code(), Some(143));
        assert_eq!(h.status("two"), "running");

        let mut attach = spawn(h, &["attach", "--sig-proxy=false", "two"]);
        h.until("it is attached", || {
            let events = ["events", "--since", "1h", "--until", "0s", "--format"];
            let all = h.ok(&[&events[..], &["{{.Action}} {{.Actor.Attributes.name}}"]].concat());
            all.lines().filter(|l| *l == "attach two").count() == 2
        });
        terminate(&attach);
        assert_eq!(attach.wait().unwrap().code(), Some(143));
        assert_eq!(h.status("two"), "running");
        h.ok(&["kill", "-s", "TERM", "two"]);
        assert_eq!(h.ok(&["wait", "two"]), "7\n");
        h.ok(&["rm", "two"]);
    });
}

#[test]
fn attached_streams_and_exit_codes() {
    hosts("attached_streams_and_exit_codes", |h| {
        let script = "read x; echo out:$x; echo err:$x >&2; exit 5";
        let detached = [RUN, &["one", "-d", "-i", "box", "sh", "-c", script]];
        h.ok(&detached.concat());
        // One only listens: both hear it, and both give its exit code.
        let listens = spawn(h, &["attach", "--no-stdin", "one"]);
        h.until("it listens", || {
            let events = [
                "events",
                "--since",
                "1h",
                "--until",
                "0s",
                "-f",
                "event=attach",
            ];
            h.ok(&events).lines().count() == 1
        });
        let mut attach = spawn(h, &["attach", "one"]);
        attach.stdin.take().unwrap().write_all(b"hello\n").unwrap();
        for child in [attach, listens] {
            let out = child.wait_with_output().unwrap();
            assert_eq!(
                (text(&out.stdout), text(&out.stderr)),
                ("out:hello\n".into(), "err:hello\n".into())
            );
            assert_eq!(out.status.code(), Some(5));
        }
        let said = h.fails(1, &["attach", "one"]);
        assert!(
            said.contains("annot attach to a stopped container"),
            "{said}"
        );
        h.ok(&["rm", "one"]);
    });
}

#[test]
fn ends_are_waited_for() {
    hosts("ends_are_waited_for", |h| {
        // Right at the end, whatever is still to be cleaned up.
        for n in 0..5 {
            let name = format!("w{n}");
            let code = format!("exit {n}");
            h.ok(&[RUN, &[&name, "-d", "box", "sh", "-c", &code]].concat());
            assert_eq!(h.ok(&["wait", &name]), format!("{n}\n"));
        }
        assert_eq!(h.ok(&["wait", "w3", "w1", "w4"]), "3\n1\n4\n");
        h.ok(&[RUN, &["long", "-d", "box", "sleep", "1000"]].concat());
        let waits: Vec<Child> = (0..3).map(|_| spawn(h, &["wait", "w2", "long"])).collect();
        // That they wait is seen by what they have printed.
        h.ok(&["kill", "long"]);
        for wait in waits {
            let out = wait.wait_with_output().unwrap();
            assert_eq!(
                (text(&out.stdout), out.status.code()),
                ("2\n137\n".into(), Some(0))
            );
        }
        let some = h.output(&["wait", "none", "w4"]);
        assert_eq!(
            (text(&some.stdout), some.status.code()),
            ("4\n".into(), Some(1))
        );
        assert!(text(&some.stderr).contains("No such container: none"));
        h.ok(&["container", "prune", "-f"]);
    });
}
