//! Containers at a terminal: its keys and its size.

use std::{
    io::{Read, Write},
    process::{Child, ChildStdin},
    sync::{Arc, Mutex},
};

use crate::*;

/// A command at a terminal of its own, made by script(1): 33 rows of 99 columns.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Arc<Mutex<Vec<u8>>>,
    /// Its device.
    path: String,
}

impl Terminal {
    fn new(h: &Host, args: &[&str]) -> Self {
        let path = h.path("tty");
        let _ = fs::remove_file(&path);
        let command = h.command(args);
        let quoted = |word: &std::ffi::OsStr| {
            let word = word.to_str().unwrap().replace('\'', r"'\''");
            format!("'{word}'")
        };
        let mut line = quoted(command.get_program());
        for word in command.get_args() {
            line.push(' ');
            line.push_str(&quoted(word));
        }
        // Whole at once: it is waited for.
        let line =
            format!("stty rows 33 cols 99; tty > {path}.new; mv {path}.new {path}; exec {line}");
        let mut script = Command::new("script");
        script.args(["-qefc", &line, "/dev/null"]);
        for (name, value) in command.get_envs() {
            script.env(name, value.unwrap());
        }
        script.env("SHELL", "/bin/sh");
        let piped = script.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let keys = child.stdin.take().unwrap();
        let mut out = child.stdout.take().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let shows = shown.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut buffer) {
                shows.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        h.until("its terminal", || Path::new(&path).exists());
        Self {
            child,
            keys,
            shown,
            path: fs::read_to_string(path).unwrap().trim().to_owned(),
        }
    }

    fn shown(&self) -> String {
        text(&self.shown.lock().unwrap())
    }

    fn shows(&self, h: &Host, what: &str) {
        h.until(&format!("`{what}` at the terminal"), || {
            self.shown().contains(what)
        });
    }

    fn types(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
        self.keys.flush().unwrap();
    }

    /// Its exit code, once it has ended.
    fn ends(mut self) -> Option<i32> {
        let code = self.child.wait().unwrap().code();
        drop(self.keys);
        code
    }
}

#[test]
fn keys_let_go_of_containers() {
    hosts("keys_let_go_of_containers", |h| {
        let script = "echo ready; while read x; do echo got:$x; done";
        let run = ["run", "-it", "--network", "none", "--name", "one"];
        let keys = ["--detach-keys", "ctrl-x,x", "box", "sh", "-c", script];
        let mut terminal = Terminal::new(h, &[&run[..], &keys].concat());
        terminal.shows(h, "ready");
        // The first of two keys and another go to the container.
        terminal.types(b"a\x18b\r");
        terminal.shows(h, "got:a\x18b");
        terminal.types(b"\x18x");
        assert_eq!(terminal.ends(), Some(0));
        assert_eq!(h.status("one"), "running");

        let mut terminal = Terminal::new(h, &["attach", "one"]);
        // What is typed before it is attached waits in the terminal.
        terminal.types(b"again\r");
        terminal.shows(h, "got:again");
        terminal.types(b"\x10\x11");
        assert_eq!(terminal.ends(), Some(0));
        let mut terminal = Terminal::new(h, &["attach", "--detach-keys", "Q", "one"]);
        terminal.types(b"more\r");
        terminal.shows(h, "got:more");
        terminal.types(b"Q");
        assert_eq!(terminal.ends(), Some(0));
        assert_eq!(h.status("one"), "running");

        let exec = [
            "exec",
            "-it",
            "--detach-keys",
            "ctrl-a,z",
            "one",
            "sh",
            "-c",
        ];
        let script = "echo inside; sleep 1000; true";
        let mut terminal = Terminal::new(h, &[&exec[..], &[script]].concat());
        terminal.shows(h, "inside");
        terminal.types(b"\x01z");
        assert_eq!(terminal.ends(), Some(0));
        assert!(h.ok(&["top", "one"]).contains("sleep 1000"));

        // The end of input ends what reads it, and its exit code is ours.
        let mut terminal = Terminal::new(h, &["attach", "one"]);
        terminal.types(b"last\r");
        terminal.shows(h, "got:last");
        terminal.types(b"\x04");
        assert_eq!(terminal.ends(), Some(0));
        assert_eq!(h.status("one"), "exited");
        h.ok(&["rm", "one"]);
    });
}

#[test]
fn windows_have_a_size() {
    hosts("windows_have_a_size", |h| {
        let script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done";
        let run = ["run", "-it", "--network", "none", "--name", "one", "box"];
        let terminal = Terminal::new(h, &[&run[..], &["sh", "-c", script]].concat());
        terminal.shows(h, "33 99");
        let exec = Terminal::new(h, &["exec", "-it", "one", "sh", "-c", script]);
        exec.shows(h, "33 99");
        for terminal in [&terminal, &exec] {
            let size = ["-F", &terminal.path, "rows", "40", "cols", "120"];
            assert!(Command::new("stty").args(size).status().unwrap().success());
            terminal.shows(h, "40 120");
        }
        h.ok(&["rm", "-f", "one"]);
        assert_eq!(exec.ends(), Some(137));
        assert_eq!(terminal.ends(), Some(137));
        // Asked for in a run whose terminal is nobody's, too.
        let size = [
            "run",
            "-d",
            "-t",
            "--network",
            "none",
            "--name",
            "two",
            "box",
        ];
        h.ok(&[&size[..], &["sleep", "1000"]].concat());
        let exec = Terminal::new(h, &["exec", "-t", "two", "stty", "size"]);
        exec.shows(h, "33 99");
        assert_eq!(exec.ends(), Some(0));
        h.ok(&["rm", "-f", "two"]);
    });
}
