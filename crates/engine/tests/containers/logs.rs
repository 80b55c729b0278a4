//! Drivers of logs and their options, with real disks that are slow and shims that are killed.

use std::io::{BufRead, BufReader, Read};

use crate::*;

const CREATE: &[&str] = &["create", "--network", "none", "--name", "one"];
const NON_BLOCKING: &[&str] = &[
    "--log-opt",
    "mode=non-blocking",
    "--log-opt",
    "max-buffer-size=64k",
];

/// The directory of its log.
fn place(h: &Host) -> PathBuf {
    let id = h.inspect("one")["Id"].as_str().unwrap().to_owned();
    h.dir.path().join("store/containers").join(id)
}

/// Names of the log's files.
fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    entries.map(|n| n.into_string().unwrap()).collect()
}

fn count(script: &str, to: usize) -> String {
    format!("i=0; while [ $i -lt {to} ]; do echo line $i; i=$((i + 1)); {script} done")
}

/// Makes `one` whose log is a pipe: a disk that takes 64 KiB until it is read.
fn stuck(h: &Host, options: &[&str], script: &str) -> PathBuf {
    h.ok(&[CREATE, options, &["box", "sh", "-c", script]].concat());
    let dir = place(h);
    fs::create_dir_all(&dir).unwrap();
    let id = dir.file_name().unwrap().to_str().unwrap();
    let log = dir.join(format!("{id}-json.log"));
    let made = Command::new("mkfifo").arg(&log).status().unwrap();
    assert!(made.success());
    log
}

/// Each line of that JSON without its newline.
fn messages(json: &str) -> Vec<String> {
    json.lines()
        .map(|l| {
            let value: Value = serde_json::from_str(l).unwrap();
            value["log"].as_str().unwrap().trim_end().to_owned()
        })
        .collect()
}

#[test]
fn a_stuck_disk_holds_up_who_blocks_and_no_other() {
    const LINES: usize = 5000;
    let sync = ["--log-opt", "mode=blocking"];
    hosts("a_stuck_disk_holds_up_who_blocks_and_no_other", |h| {
        for (options, blocks) in [(&sync[..], true), (NON_BLOCKING, false)] {
            let log = stuck(h, options, &count("", LINES));
            let mut attached = h
                .command(&["start", "-a", "one"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut out = BufReader::new(attached.stdout.take().unwrap());
            let mut got = String::new();
            let mut more = |until: &str| {
                while !got.ends_with(until) {
                    assert_ne!(out.read_line(&mut got).unwrap(), 0, "no {until}");
                }
            };
            let last = format!("line {}\n", LINES - 1);
            if blocks {
                // Clients get what is in the log, so nothing need have come yet.
                thread::sleep(Duration::from_millis(700));
                assert_eq!(h.status("one"), "running");
            } else {
                // Attached clients get all, while not one byte of the log is read.
                more(&last);
            }
            // The disk goes on. Opened before the shim closes it, so that its end is seen.
            let mut json = String::new();
            fs::File::open(&log)
                .unwrap()
                .read_to_string(&mut json)
                .unwrap();
            more(&last);
            assert_eq!(attached.wait().unwrap().code(), Some(0));
            let want: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
            assert_eq!(got, want);
            let kept = messages(&json);
            if blocks {
                assert_eq!(kept.join("\n") + "\n", want);
            } else {
                let said = kept.iter().filter_map(|l| l.strip_prefix("unlade: "));
                let dropped: usize = said
                    .clone()
                    .map(|l| l.split(' ').next().unwrap().parse::<usize>().unwrap())
                    .sum();
                assert!(dropped > 0);
                assert_eq!(kept.len() - said.count() + dropped, LINES);
            }
            h.ok(&["rm", "one"]);
        }
    });
}

/// A disk that never goes on holds up the end of a container for some seconds, and then is left
/// alone.
#[test]
fn a_stuck_disk_does_not_hold_up_an_end_for_ever() {
    hosts("a_stuck_disk_does_not_hold_up_an_end_for_ever", |h| {
        if h.driver != "overlay" {
            return;
        }
        stuck(h, NON_BLOCKING, &count("", 5000));
        h.ok(&["start", "one"]);
        let began = Instant::now();
        assert_eq!(h.ok(&["wait", "one"]), "0\n");
        assert!(began.elapsed() < Duration::from_secs(30));
        h.until("it is cleaned up", || h.status("one") == "exited");
        h.ok(&["rm", "one"]);
    });
}

const COMPRESSED: [&[&str]; 2] = [
    &["--log-driver", "local", "-e", "A=b"],
    &[
        "--log-driver",
        "json-file",
        "--log-opt",
        "compress=true",
        "-e",
        "A=b",
    ],
];
const SMALL: &[&str] = &[
    "--log-opt",
    "max-size=10k",
    "--log-opt",
    "max-file=1000",
    "--log-opt",
    "env=A",
];

#[test]
fn compressed_logs_are_read_back_to_the_byte() {
    const LINES: usize = 4000;
    hosts("compressed_logs_are_read_back_to_the_byte", |h| {
        let modes: [&[&str]; 2] = [&[], &["--log-opt", "mode=non-blocking"]];
        for (driver, mode) in COMPRESSED.iter().flat_map(|d| modes.map(|m| (*d, m))) {
            let script = count("[ $((i % 200)) -ne 0 ] || sleep 0.02;", LINES);
            let script = format!("trap 'exit 0' TERM; {script}; while :; do sleep 0.05; done");
            let options = [driver, SMALL, mode].concat();
            h.ok(&[CREATE, &options, &["box", "sh", "-c", &script]].concat());
            h.ok(&["start", "one"]);
            let want: String = (0..LINES).map(|n| format!("line {n}\n")).collect();
            // While it is written, rotated and compressed.
            let follows = h
                .command(&["logs", "-f", "one"])
                .stdout(Stdio::piped())
                .spawn();
            let dir = place(h);
            // Full ones, and whether they are compressed.
            let full = || {
                let mut names = files(&dir);
                names.retain(|n| n.contains(".log."));
                let packed = names.iter().filter(|n| n.ends_with(".gz")).count();
                (names.len(), packed)
            };
            let end = format!("line {}\n", LINES - 1);
            h.until("all is compressed", || {
                let (all, packed) = full();
                all == packed && h.ok(&["logs", "-n", "1", "one"]) == end
            });
            assert_eq!(h.ok(&["logs", "one"]), want);
            h.ok(&["stop", "one"]);
            let out = follows.unwrap().wait_with_output().unwrap();
            assert_eq!(out.status.code(), Some(0));
            assert_eq!(text(&out.stdout), want);
            assert_eq!(h.ok(&["logs", "one"]), want);
            for tail in [1, 500, 3000] {
                let n = tail.to_string();
                let want: String = (LINES - tail..LINES)
                    .map(|n| format!("line {n}\n"))
                    .collect();
                assert_eq!(h.ok(&["logs", "-n", &n, "one"]), want);
            }
            let first = h.ok(&["logs", "-t", "--details", "one"]);
            let (time, rest) = first.lines().next().unwrap().split_once(' ').unwrap();
            assert_eq!(rest, "A=b line 0");
            assert!(
                h.ok(&["logs", "--until", time, "one"])
                    .starts_with("line 0\n")
            );
            assert_eq!(h.ok(&["logs", "--since", "1h", "one"]), want);

            assert!(full().0 > 5);
            for name in files(&dir).iter().filter(|n| n.ends_with(".gz")) {
                // For everyone else it is gzip.
                let tested = Command::new("gzip").arg("-t").arg(dir.join(name)).status();
                assert!(tested.unwrap().success(), "{name}");
            }
            let shown = h.inspect("one");
            let log = &shown["HostConfig"]["LogConfig"];
            assert_eq!(log["Type"], driver[1]);
            assert_eq!(log["Config"]["max-size"], "10k");
            assert_eq!(shown["LogPath"] == "", driver[1] == "local");
            h.ok(&["rm", "one"]);
            assert!(!dir.exists());
        }
    });
}

#[test]
fn killed_shims_lose_and_double_no_line() {
    hosts("killed_shims_lose_and_double_no_line", |h| {
        for driver in COMPRESSED {
            let script = count("[ $((i % 100)) -ne 0 ] || sleep 0.01;", 1_000_000);
            h.ok(&[CREATE, driver, SMALL, &["box", "sh", "-c", &script]].concat());
            let dir = place(h);
            for run in 2..6 {
                h.ok(&["start", "one"]);
                let id = dir.file_name().unwrap();
                let state = h.run.path().join("containers").join(id).join("state.json");
                let state: Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
                let shim = state["shim"]["pid"].as_i64().unwrap();
                thread::sleep(Duration::from_millis(150 * run + 7 * run));
                let killed = Command::new("kill")
                    .args(["-9", &shim.to_string()])
                    .status();
                assert!(killed.unwrap().success());
                h.until("its death is seen", || {
                    h.output(&["kill", "one"]);
                    h.status("one") == "exited"
                });
            }
            let left = files(&dir);
            assert!(left.iter().any(|n| n.ends_with(".gz")), "{left:?}");
            // Each run's lines, from the first on and without a gap.
            let all = h.ok(&["logs", "one"]);
            let (mut next, mut runs) = (0, 0);
            for line in all.lines() {
                let n: usize = line.strip_prefix("line ").unwrap().parse().unwrap();
                if n == 0 {
                    (next, runs) = (0, runs + 1);
                }
                assert_eq!(n, next);
                next += 1;
            }
            assert_eq!(runs, 4);
            h.ok(&["rm", "-f", "one"]);
        }
    });
}

#[test]
fn log_options_that_there_are_not() {
    hosts("log_options_that_there_are_not", |h| {
        for (options, want) in [
            (
                &["--log-opt", "invalid=true"][..],
                "unknown log opt 'invalid' for json-file log driver",
            ),
            (
                &["--log-driver", "local", "--log-opt", "x=1"],
                "unknown log opt 'x' for log driver local",
            ),
            (
                &["--log-opt", "max-buffer-size=1m"],
                "max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            (
                &["--log-opt", "mode=slow"],
                "logging mode not supported: slow",
            ),
            (
                &["--log-driver", "journal"],
                "no log driver named 'journal'",
            ),
        ] {
            let said = h.fails(125, &[&["run", "--rm"], options, &["box"]].concat());
            assert!(said.contains(want), "{said}");
        }
    });
}
