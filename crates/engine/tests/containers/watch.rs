//! What is seen of containers that run: their processes, what they use, what happens to them.

use std::{
    io::{BufRead, BufReader, Read},
    process::Child,
};

use crate::*;

const RUN: &[&str] = &["run", "-d", "--network", "none", "--name"];

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn processes_by_the_options_of_ps() {
    hosts("processes_by_the_options_of_ps", |h| {
        let script = "sleep 1000 & exec sleep 2000";
        h.ok(&[RUN, &["one", "box", "sh", "-c", script]].concat());
        h.until("both", || h.ok(&["top", "one"]).lines().count() == 3);
        let all = h.ok(&["top", "one", "-o", "pid,args"]);
        let lines: Vec<Vec<&str>> = all.lines().map(words).collect();
        assert_eq!(lines[0], ["PID", "COMMAND"]);
        let mut commands: Vec<&[&str]> = lines[1..].iter().map(|l| &l[1..]).collect();
        commands.sort();
        assert_eq!(commands, [["sleep", "1000"], ["sleep", "2000"]]);
        let pid = h.inspect("one")["State"]["Pid"].to_string();
        assert!(lines.iter().any(|l| l[0] == pid), "{all}");
        let aux = h.ok(&["top", "one", "aux"]);
        assert!(aux.starts_with("USER") && aux.lines().count() == 3, "{aux}");
        let said = h.fails(1, &["top", "one", "-o", "args"]);
        assert!(said.contains("Couldn't find PID field"), "{said}");
        let said = h.fails(1, &["top", "one", "--no-such"]);
        assert!(said.contains("ps: "), "{said}");
        h.ok(&["stop", "-t", "0", "one"]);
        assert!(h.fails(1, &["top", "one"]).contains("is not running"));
        h.ok(&["rm", "one"]);
    });
}

#[test]
fn what_containers_use() {
    hosts("what_containers_use", |h| {
        let script = "sleep 1000 & while :; do :; done";
        let limits = ["-m", "64m", "--pids-limit", "20"];
        h.ok(&[RUN, &["busy"], &limits, &["box", "sh", "-c", script]].concat());
        h.ok(&[RUN, &["idle", "box", "sleep", "1000"]].concat());
        h.ok(&["create", "--name", "never", "--network", "none", "box"]);
        let show = |args: &[&str], format: &str| {
            let stats = ["stats", "--no-stream", "--format", format];
            h.ok(&[&stats[..], args].concat())
        };
        h.until("its second process", || {
            show(&["busy"], "{{.PIDs}}") == "2\n"
        });
        let used = show(
            &["busy", "idle"],
            "{{.Container}} {{.Name}} {{.CPUPerc}} {{.MemUsage}}",
        );
        let lines: Vec<Vec<&str>> = used.lines().map(words).collect();
        assert_eq!((lines[0][0], lines[1][1]), ("busy", "idle"));
        assert_eq!((lines[0][5], lines.len()), ("64MiB", 2), "{used}");
        let percent = |line: &[&str]| line[2].trim_end_matches('%').parse::<f64>().unwrap();
        assert!(percent(&lines[0]) > percent(&lines[1]), "{used}");
        assert_ne!(lines[0][3], "0B");
        // Without names those that run; with -a all.
        let mut names = show(&[], "{{.Name}}");
        assert_eq!(names.lines().count(), 2, "{names}");
        let id = h.inspect("never")["Id"].as_str().unwrap()[..12].to_owned();
        names = show(
            &["-a"],
            "{{.Container}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}",
        );
        assert!(names.contains(&format!("{id} -- -- / -- --\n")), "{names}");
        let table = h.ok(&["stats", "--no-stream"]);
        assert!(table.starts_with("CONTAINER ID   NAME"), "{table}");
        let json = h.ok(&["stats", "--no-stream", "--format", "json", "idle"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["PIDs"], "1");
        h.ok(&["rm", "-f", "busy", "idle", "never"]);
    });
}

struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn events_of_all_kinds() {
    hosts("events_of_all_kinds", |h| {
        let bridge = Path::new("/usr/lib/podman/netavark").exists();
        if !bridge {
            eprintln!("skipped events of networks: netavark is not installed");
        }
        h.ok(&["tag", "box", "boxed:1"]);
        h.ok(&["volume", "create", "vol"]);
        let mut run = vec!["run", "-d", "--name", "one", "-v", "vol:/v"];
        if bridge {
            h.ok(&["network", "create", "--subnet", "10.213.7.0/24", "net"]);
            run.extend(["--network", "net"]);
        } else {
            run.extend(["--network", "none"]);
        }
        h.ok(&[&run[..], &["boxed:1", "sleep", "60"]].concat());
        h.fails(4, &["exec", "one", "sh", "-c", "exit 4"]);
        h.ok(&["rm", "-f", "one"]);
        h.ok(&["rmi", "boxed:1"]);
        h.ok(&["volume", "rm", "vol"]);
        if bridge {
            h.ok(&["network", "rm", "net"]);
        }
        let told = |more: &[&str]| -> Vec<String> {
            let all = ["events", "--since", "1h", "--until", "0s"];
            h.ok(&[&all[..], more].concat())
                .lines()
                .map(str::to_owned)
                .collect()
        };
        let named = [
            "--format",
            "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}",
        ];
        let kinds = |more: &[&str]| told(&[&named[..], more].concat());
        let images = kinds(&["-f", "image=boxed"]);
        let want = [
            "image tag boxed:1",
            "container create one",
            "container start one",
        ];
        assert_eq!(images[..3], want.map(str::to_owned));
        assert_eq!(images.last().unwrap(), "image untag boxed:1");
        let volumes: Vec<String> = told(&["-f", "volume=vol", "--format", "{{.Action}}"]);
        assert_eq!(volumes, ["create", "mount", "unmount", "destroy"]);
        let mounts = told(&["-f", "event=mount", "--format", "json"]);
        let mount: Value = serde_json::from_str(&mounts[0]).unwrap();
        assert_eq!(mount["Actor"]["Attributes"]["destination"], "/v");
        let ended = told(&["-f", "event=exec_die", "--format", "json"]);
        let ended: Value = serde_json::from_str(&ended[0]).unwrap();
        assert_eq!(ended["Actor"]["Attributes"]["exitCode"], "4");
        let exec = ended["Actor"]["Attributes"]["execID"].as_str().unwrap();
        assert_eq!(exec.len(), 64);
        let lines = told(&["-f", "type=volume"]);
        let shape = lines[0].split_once(" volume create vol (driver=local)");
        assert!(shape.is_some_and(|(_, rest)| rest.is_empty()), "{lines:?}");
        if bridge {
            let networks = kinds(&["-f", "network=net"]);
            let want = ["create", "connect", "disconnect", "destroy"];
            assert_eq!(networks, want.map(|w| format!("network {w} net")));
        }
    });
}

#[test]
fn events_as_they_happen_and_later() {
    hosts("events_as_they_happen_and_later", |h| {
        let format = ["--format", "{{.Action}} {{.Actor.Attributes.name}}"];
        let args = [&["events", "-f", "container=two"][..], &format].concat();
        let mut live = h.command(&args);
        let mut live = Watch(live.stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(live.0.stdout.take().unwrap()).lines();
        // It has begun once it sees what is done again and again.
        let mut next = || lines.next().unwrap().unwrap();
        let create = [
            "create",
            "--name",
            "two",
            "--network",
            "none",
            "-l",
            "k=v",
            "box",
        ];
        let script = ["sh", "-c", "exit 3"];
        let begun = thread::scope(|scope| {
            let seen = scope.spawn(&mut next);
            while !seen.is_finished() {
                h.ok(&[&create[..], &script].concat());
                h.ok(&["rm", "two"]);
            }
            seen.join().unwrap()
        });
        assert!(begun.ends_with(" two"), "{begun}");
        h.ok(&["create", "--name", "one", "--network", "none", "box"]);
        h.ok(&[&create[..], &script].concat());
        h.ok(&["start", "two"]);
        h.ok(&["wait", "two"]);
        // What was made to see that it listens may come first.
        let mut told = std::iter::repeat_with(&mut next).skip_while(|l| l != "start two");
        assert_eq!(told.next().as_deref(), Some("start two"));
        assert_eq!(told.next().as_deref(), Some("die two"));

        let id = h.inspect("two")["Id"].as_str().unwrap().to_owned();
        let past = |filters: &[&str]| -> Vec<String> {
            let mut args = vec!["events", "--since", "1h", "--until", "0s"];
            for filter in filters {
                args.extend(["-f", filter]);
            }
            args.extend(["--format", "{{.Action}} {{.ID}}"]);
            let all = h.ok(&args);
            let of_it = all.lines().filter(|l| l.contains(&id));
            of_it.map(str::to_owned).collect()
        };
        let of = |action: &str| format!("{action} {id}");
        assert_eq!(past(&[]), [of("create"), of("start"), of("die")]);
        assert_eq!(past(&["event=die"]), [of("die")]);
        let both = past(&["event=die", "event=start"]);
        assert_eq!(both, [of("start"), of("die")]);
        for (filter, fits) in [
            ("label=k=v", true),
            ("label=k=w", false),
            ("label=k", true),
            ("image=box", true),
            ("image=other", false),
            ("type=container", true),
            ("type=image", false),
            ("container=one", false),
            (&format!("container={}", &id[..12]), true),
        ] {
            assert_eq!(!past(&[filter]).is_empty(), fits, "{filter}");
        }
        let die = [
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "-f",
            "event=die",
        ];
        let json = h.ok(&[&die[..], &["--format", "json"]].concat());
        let json: Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
        assert_eq!(json["Actor"]["Attributes"]["exitCode"], "3");
        assert_eq!(json["id"].as_str(), Some(&*id));
        // From its own time on, and up to it.
        let time = json["timeNano"].as_i64().unwrap();
        let at = format!("{}.{:09}", time / 1_000_000_000, time % 1_000_000_000);
        let named = ["--format", "{{.Action}}", "-f", "container=two"];
        let events = h.ok(&[&["events", "--since", &at, "--until", "0s"][..], &named].concat());
        assert!(
            events.starts_with("die\n") && !events.contains("start"),
            "{events}"
        );
        let events = h.ok(&[&["events", "--since", "1h", "--until", &at][..], &named].concat());
        assert!(
            events.contains("create\n") && events.contains("die\n"),
            "{events}"
        );
        // Whoever ends it is not told so.
        let mut watch = h.command(&["events", "--since", "1h"]);
        let watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut watch = Watch(watch.unwrap());
        let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().is_ok());
        let pid = watch.0.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        let rest: Vec<_> = lines.collect();
        assert!(rest.iter().all(Result::is_ok));
        assert_eq!(watch.0.wait().unwrap().code(), Some(143));
        let mut said = String::new();
        watch
            .0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(said, "");
        h.ok(&["rm", "one", "two"]);
    });
}
