//! Published ports, which the machine's other programs cannot have while the container runs.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod machine;

use std::fs;

use machine::{Machine, NETWORKED, can_run, kill, lives, until};

const PORT: u16 = 8080;

#[test]
fn a_published_port_is_taken_as_long_as_it_runs() {
    if !can_run("a_published_port_is_taken_as_long_as_it_runs", &NETWORKED) {
        return;
    }
    let m = Machine::new();
    let script = "echo $(ls -l /proc/self/fd | grep -c socket); while :; do sleep 1; done";
    let web = [
        "run",
        "-d",
        "--runtime",
        "runc",
        "--name",
        "web",
        "-p",
        "8080:80",
        "--restart",
        "always",
        "box",
        "sh",
        "-c",
        script,
    ];
    assert!(m.is_free(PORT));
    m.ok(&web);
    assert!(!m.is_free(PORT));
    // No socket of the machine is inside, neither at its start nor in what is run later.
    until("its output", || !m.ok(&["logs", "web"]).is_empty());
    assert_eq!(m.ok(&["logs", "web"]), "0\n");
    assert_eq!(
        m.ok(&[
            "exec",
            "web",
            "sh",
            "-c",
            "ls -l /proc/1/fd | grep -c socket; true"
        ]),
        "0\n"
    );
    let shim = || m.states().remove(0).1["shim"]["pid"].as_i64().unwrap();
    let links = || {
        let fds = fs::read_dir(format!("/proc/{}/fd", shim())).unwrap();
        let links = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        links
            .filter(|l| l.to_string_lossy().starts_with("socket:"))
            .count()
    };
    // Both families, and the socket that clients connect to.
    assert_eq!(links(), 3);

    // Another container cannot have it, and is told who does.
    let out = m
        .command(&["run", "--rm", "-p", "8080:80", "box", "true"])
        .output()
        .unwrap();
    let said = common::text(&out.stderr);
    assert!(
        said.contains("port is already allocated") && said.contains("has it"),
        "{said}"
    );

    // Its policy starts it again, and so does a user.
    let pid = m.inspect("web")["State"]["Pid"].as_i64().unwrap();
    kill(pid);
    until("it runs again", || {
        let state = &m.inspect("web")["State"];
        state["Running"] == true && state["Pid"] != pid
    });
    assert!(!m.is_free(PORT));
    m.ok(&["restart", "-t", "0", "web"]);
    assert!(!m.is_free(PORT));
    m.ok(&["stop", "-t", "0", "web"]);
    assert!(m.is_free(PORT));
    m.ok(&["start", "web"]);
    assert!(!m.is_free(PORT));

    // Out of the network through which it is published, it is published no more.
    m.ok(&["network", "create", "second"]);
    m.ok(&["network", "connect", "second", "web"]);
    assert!(!m.is_free(PORT));
    m.ok(&["network", "disconnect", "second", "web"]);
    assert!(!m.is_free(PORT));
    m.ok(&["network", "disconnect", "bridge", "web"]);
    assert!(m.is_free(PORT));
    assert_eq!(m.ok(&["port", "web"]), "");
    assert_eq!(links(), 1);
    m.ok(&["network", "connect", "bridge", "web"]);
    m.ok(&["restart", "-t", "0", "web"]);
    assert!(!m.is_free(PORT));

    // With its shim goes the last who holds it; the record keeps it from other containers.
    let killed = shim();
    kill(killed);
    until("it goes", || !lives(killed));
    m.ok(&["rm", "-f", "web"]);
    assert!(m.is_free(PORT));
    m.ok(&web);
    m.end();
}
