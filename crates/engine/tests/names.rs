//! Names of containers in their networks.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod machine;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Stdio},
};

use machine::{Machine, NETWORKED, can_run, until};

/// What a name leads to in a container; empty if to nothing.
fn resolve(m: &Machine, from: &str, name: &str) -> String {
    let out = m
        .command(&["exec", from, "busybox", "nslookup", "-type=a", name])
        .output()
        .unwrap();
    let out = common::text(&out.stdout);
    // The first address is the server's.
    let mut found = out.lines().filter_map(|l| l.strip_prefix("Address:"));
    found.nth(1).unwrap_or_default().trim().to_owned()
}

fn run(m: &Machine, name: &str, flags: &[&str]) {
    let args = [
        &["run", "-d", "--name", name][..],
        flags,
        &["box", "sleep", "1000"],
    ];
    m.ok(&args.concat());
}

fn address(m: &Machine, name: &str, network: &str) -> String {
    let networks = &m.inspect(name)["NetworkSettings"]["Networks"];
    networks[network]["IPAddress"].as_str().unwrap().to_owned()
}

/// A connection from one container to a server in another, which says back what it hears.
fn connection(m: &Machine, from: &str, to: &str, address: &str) -> Child {
    m.ok(&[
        "exec", "-d", to, "busybox", "nc", "-l", "-p", "7", "-e", "cat",
    ]);
    until("it listens", || {
        let listening = [
            "exec",
            to,
            "sh",
            "-c",
            "grep -q ':0007 .* 0A ' /proc/net/tcp*",
        ];
        m.command(&listening).status().unwrap().success()
    });
    let mut command = m.command(&["exec", "-i", from, "busybox", "nc", address, "7"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn echoes(child: &mut Child, word: &str) {
    writeln!(child.stdin.as_mut().unwrap(), "{word}").unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.as_mut().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), word);
}

/// Containers that come and go do not change the hardware address by which others know the gateway.
#[test]
fn a_gateway_stays_where_it_is() {
    if !can_run("a_gateway_stays_where_it_is", &NETWORKED) {
        return;
    }
    let m = Machine::new();
    m.ok(&["network", "create", "--subnet", "10.78.0.0/24", "back"]);
    run(&m, "peer", &["--network", "back"]);
    let gateway = || {
        let ping = "busybox ping -c 1 -w 5 10.78.0.1 >/dev/null && grep 10.78.0.1 /proc/net/arp";
        let arp = m.ok(&["exec", "peer", "sh", "-c", ping]);
        arp.split_whitespace().nth(3).unwrap().to_owned()
    };
    assert_eq!(gateway(), "02:42:0a:4e:00:01");
    for _ in 0..5 {
        run(&m, "web", &["--network", "back"]);
        assert_eq!(gateway(), "02:42:0a:4e:00:01");
        let there = m.inside("ip").args(["-o", "link"]).output().unwrap();
        assert!(common::text(&there.stdout).contains("link/ether 02:42:0a:4e:00:01"));
        m.ok(&["rm", "-f", "web"]);
        assert_eq!(gateway(), "02:42:0a:4e:00:01");
    }
    m.end();
}

#[test]
fn a_renamed_container_is_found_by_its_name() {
    if !can_run("a_renamed_container_is_found_by_its_name", &NETWORKED) {
        return;
    }
    let m = Machine::new();
    m.ok(&["network", "create", "back"]);
    m.ok(&["network", "create", "front.end"]);
    run(&m, "web", &["--network", "back", "--network-alias", "www"]);
    m.ok(&["network", "connect", "front.end", "web"]);
    run(&m, "peer", &["--network", "back"]);
    run(&m, "far", &["--network", "front.end"]);
    let (near, other) = (address(&m, "web", "back"), address(&m, "web", "front.end"));
    for (from, name, want) in [
        ("peer", "web", &near),
        ("peer", "web.back", &near),
        ("peer", "www.back", &near),
        ("far", "web.front.end", &other),
        // It is in that network, but who asks is not.
        ("peer", "web.front.end", &String::new()),
    ] {
        until(name, || resolve(&m, from, name) == *want);
    }

    let mut talk = connection(&m, "peer", "web", &near);
    echoes(&mut talk, "before");
    m.ok(&["rename", "web", "site"]);
    until("it has its new name", || {
        resolve(&m, "peer", "site") == near
    });
    until("there, too", || {
        resolve(&m, "far", "site.front.end") == other
    });
    for (from, name, want) in [
        ("peer", "site.back", &*near),
        ("peer", "www", &near),
        ("peer", "web", ""),
        ("peer", "web.back", ""),
        ("far", "site", &other),
        ("far", "web", ""),
    ] {
        // A query may come while aardvark-dns reads its files.
        until(name, || resolve(&m, from, name) == want);
    }
    echoes(&mut talk, "after");
    talk.kill().unwrap();
    talk.wait().unwrap();
    let shown = m.ok(&["network", "inspect", "back"]);
    assert!(
        shown.contains("\"site\"") && !shown.contains("\"web\""),
        "{shown}"
    );
    let names = &m.inspect("site")["NetworkSettings"]["Networks"]["back"]["DNSNames"];
    assert!(
        names.to_string().starts_with("[\"site\",\"www\","),
        "{names}"
    );
    assert_eq!(address(&m, "site", "back"), near);

    // Back again, and with a name that it has as an alias.
    m.ok(&["rename", "site", "www"]);
    m.ok(&["rename", "www", "web"]);
    until("it is back", || resolve(&m, "peer", "web") == near);
    until("and has its alias", || resolve(&m, "peer", "www") == near);
    // One that does not run gets no directory.
    m.ok(&["stop", "-t", "0", "web"]);
    m.ok(&["rename", "web", "again"]);
    assert!(!m.has_run("again"));
    m.ok(&["start", "again"]);
    let now = address(&m, "again", "back");
    until("it is there", || resolve(&m, "peer", "again") == now);
    let out = m.command(&["rename", "again", "peer"]).output().unwrap();
    assert!(!out.status.success());
    until("it keeps its name", || resolve(&m, "peer", "again") == now);
    m.end();
}

/// Killed at each of its calls that change something, the command has done it or the next one
/// finishes it: name and networks agree.
#[test]
fn a_killed_rename_is_finished() {
    if !can_run("a_killed_rename_is_finished", &NETWORKED) {
        return;
    }
    let m = Machine::new();
    if !m
        .inside("strace")
        .arg("-V")
        .output()
        .is_ok_and(|o| o.status.success())
    {
        eprintln!("skipped: strace is not installed");
        return;
    }
    m.ok(&["network", "create", "back"]);
    run(&m, "web0", &["--network", "back"]);
    let renames = m.run_root().join("renames");
    let (mut kills, mut halves) = (0, 0);
    for call in [
        "rename,renameat,renameat2",
        "unlink,unlinkat",
        "pwrite64",
        "write",
        "pidfd_send_signal",
    ] {
        for at in 1.. {
            let old = m.lines(&["ps", "--format", "{{.Names}}"]).remove(0);
            let new = format!("web{}", old[3..].parse::<u32>().unwrap() + 1);
            let command = m.command(&["rename", &old, &new]);
            let mut traced = m.inside("strace");
            let inject = format!("inject={call}:signal=KILL:when={at}");
            traced.args(["-f", "-qq", "-o", "/dev/null"]);
            traced.args(["-e", &format!("trace={call}"), "-e", &inject]);
            // What comes after `nsenter`'s own words.
            traced
                .arg(common::binary())
                .args(command.get_args().skip(5));
            let done = traced
                .env("UNLADE_CONFIG", "")
                .env("UNLADE_FLUSH", "later")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            let noted = fs::read_dir(&renames).is_ok_and(|mut d| d.next().is_some());
            halves += u32::from(noted);
            let now = m.lines(&["ps", "--format", "{{.Names}}"]).remove(0);
            assert!(now == old || now == new, "{now}");
            assert_eq!(fs::read_dir(&renames).map_or(0, Iterator::count), 0);
            let state = m
                .run_root()
                .join("network")
                .join(format!("{}.json", m.id(&now)));
            let state: serde_json::Value =
                serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
            assert_eq!(state["name"], *now, "{call} {at}");
            let net = &m.inspect(&now)["NetworkSettings"]["Networks"]["back"]["DNSNames"];
            assert_eq!(net[0], *now, "{call} {at}");
            let files = m.resolver().with_file_name("");
            let texts = fs::read_dir(files)
                .unwrap()
                .map(|f| fs::read_to_string(f.unwrap().path()).unwrap());
            let text: String = texts.collect();
            let (has, gone) = (format!(" {now},"), if now == new { &old } else { &new });
            assert!(
                text.contains(&has) && !text.contains(&format!(" {gone},")),
                "{call} {at}: {text}"
            );
            if done.success() {
                assert_eq!(now, new);
                break;
            }
            assert_eq!(done.code(), None, "it was not killed");
            kills += 1;
            assert!(at < 200);
        }
    }
    assert!(
        kills > 10 && halves > 3,
        "{kills} kills, {halves} in the middle"
    );
    let name = m.lines(&["ps", "--format", "{{.Names}}"]).remove(0);
    run(&m, "peer", &["--network", "back"]);
    until("it is found", || {
        resolve(&m, "peer", &name) == address(&m, &name, "back")
    });
    m.end();
}

#[test]
fn links_lead_to_other_containers() {
    if !can_run("links_lead_to_other_containers", &NETWORKED) {
        return;
    }
    let m = Machine::new();
    let fails = |args: &[&str]| {
        let out = m.command(args).output().unwrap();
        assert_eq!(out.status.code(), Some(125), "{args:?}");
        common::text(&out.stderr)
    };
    let linked = |link: &str, script: &str| {
        m.ok(&[
            "run", "--rm", "--name", "web", "--link", link, "box", "sh", "-c", script,
        ])
    };
    let said = fails(&["run", "--rm", "--link", "db", "box", "true"]);
    assert!(
        said.contains("could not get container for db: No such container: db"),
        "{said}"
    );
    run(
        &m,
        "db",
        &[
            "--expose", "5432", "--expose", "53/udp", "-e", "KEY=a b", "-h", "base",
        ],
    );
    let address = address(&m, "db", "bridge");
    let hosts = linked("db:my-store", "cat /etc/hosts");
    assert!(
        hosts.contains(&format!("{address}\tmy-store base db\n")),
        "{hosts}"
    );
    let env = linked("db:my-store", "busybox env | grep MY_STORE");
    let want = format!(
        "MY_STORE_ENV_KEY=a b\nMY_STORE_NAME=/web/my-store\nMY_STORE_PORT=udp://{address}:53\n\
         MY_STORE_PORT_53_UDP=udp://{address}:53\nMY_STORE_PORT_53_UDP_ADDR={address}\n\
         MY_STORE_PORT_53_UDP_PORT=53\nMY_STORE_PORT_53_UDP_PROTO=udp\n\
         MY_STORE_PORT_5432_TCP=tcp://{address}:5432\nMY_STORE_PORT_5432_TCP_ADDR={address}\n\
         MY_STORE_PORT_5432_TCP_PORT=5432\nMY_STORE_PORT_5432_TCP_PROTO=tcp\n"
    );
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&env), sorted(&want));
    linked("db", "busybox ping -c 1 -w 5 db");
    // What the user says counts more, and further networks change nothing.
    run(&m, "web", &["--link", "db", "-e", "DB_NAME=mine"]);
    let name = ["exec", "web", "sh", "-c", "echo $DB_NAME"];
    assert_eq!(m.ok(&name), "mine\n");
    assert_eq!(m.inspect("web")["HostConfig"]["Links"][0], "/db:/web/db");
    m.ok(&[
        "create",
        "--name",
        "less",
        "--link",
        "db:x",
        "--link",
        "db:y",
        "box",
        "cat",
        "/etc/hosts",
    ]);
    assert_eq!(m.ok(&["rm", "--link", "/less/x"]), "/less/x\n");
    let links = &m.inspect("less")["HostConfig"]["Links"];
    assert_eq!(links, &serde_json::json!(["/db:/less/y"]));
    let hosts = m.ok(&["start", "-a", "less"]);
    assert!(hosts.contains("\ty ") && !hosts.contains("\tx "), "{hosts}");
    m.ok(&["rm", "less"]);
    m.ok(&["network", "create", "back"]);
    m.ok(&["network", "connect", "back", "web"]);
    assert!(
        m.ok(&["exec", "web", "cat", "/etc/hosts"])
            .contains("\tdb base\n")
    );

    m.ok(&["stop", "-t", "0", "db", "web"]);
    let said = fails(&[
        "run", "--rm", "--name", "new", "--link", "db:x", "box", "true",
    ]);
    assert!(
        said.contains("Cannot link to a non running container: /db AS /new/x"),
        "{said}"
    );
    m.ok(&["start", "db"]);
    let said = fails(&[
        "run",
        "--rm",
        "--network",
        "back",
        "--link",
        "db",
        "box",
        "true",
    ]);
    assert!(
        said.contains("Cannot link to /db, as it is in no network of"),
        "{said}"
    );
    m.ok(&["network", "connect", "back", "db"]);
    let words = [
        "run",
        "--rm",
        "--network",
        "back",
        "--link",
        "db:x",
        "box",
        "sh",
        "-c",
    ];
    let out = m.ok(&[&words[..], &["busybox env; busybox ping -c 1 -w 5 x"]].concat());
    assert!(
        !out.contains("X_NAME") && out.contains("1 packets received"),
        "{out}"
    );
    let said = fails(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--link",
        "db",
        "box",
        "true",
    ]);
    assert!(said.contains("can't be used with links"), "{said}");
    m.end();
}
