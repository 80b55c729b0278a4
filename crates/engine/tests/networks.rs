//! `unlade network` and `unlade volume`: what they print, and what they refuse.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{fs, path::Path, process::Command};

use common::*;
use serde_json::Value;

/// Runs the command on a store of its own; what it printed and its complaint.
fn unlade(dir: &Path, args: &[&str]) -> (bool, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_unlade"))
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--run-root")
        .arg(dir.join("run"))
        .args(["--graph-driver", "copy"])
        .args(args)
        .env("UNLADE_CONFIG", "")
        .env("TZ", "UTC")
        .output()
        .unwrap();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}

fn good(dir: &Path, args: &[&str]) -> String {
    let (done, out, complaint) = unlade(dir, args);
    assert!(done && complaint.is_empty(), "{args:?}: {complaint}");
    out
}

fn bad(dir: &Path, args: &[&str]) -> String {
    let (done, _, complaint) = unlade(dir, args);
    assert!(!done, "{args:?}");
    complaint
}

#[test]
fn networks_as_docker_shows_them() {
    let temp = temp();
    let dir = temp.path();
    let names = "bridge bridge local\nhost host local\nnone null local\n";
    let format = "{{.Name}} {{.Driver}} {{.Scope}}";
    assert_eq!(good(dir, &["network", "ls", "--format", format]), names);
    let table = good(dir, &["network", "ls"]);
    let mut lines = table.lines();
    assert_eq!(
        lines.next(),
        Some("NETWORK ID     NAME      DRIVER    SCOPE")
    );
    let bridge = lines.next().unwrap();
    assert!(
        bridge.ends_with("   bridge    bridge    local") && bridge.len() == 40,
        "{bridge}"
    );

    let id = good(
        dir,
        &[
            "network",
            "create",
            "--subnet=10.77.0.0/24",
            "--gateway",
            "10.77.0.9",
            "--label",
            "a=b",
            "--ip-range=10.77.0.128/25",
            "--aux-address",
            "r=10.77.0.7",
            "-o",
            "mtu=1400",
            "mine",
        ],
    );
    assert_eq!(id.trim().len(), 64);
    let ls = |filter: &str| {
        good(
            dir,
            &["network", "ls", "-f", filter, "--format", "{{.Name}}"],
        )
    };
    for (filter, want) in [
        ("type=custom", "mine\n"),
        ("type=builtin", "bridge\nhost\nnone\n"),
        ("driver=null", "none\n"),
        ("label=a=b", "mine\n"),
        ("label=a=c", ""),
        ("name=in", "mine\n"),
        ("dangling=true", "mine\n"),
        ("dangling=false", "bridge\nhost\nnone\n"),
        ("scope=swarm", ""),
        (&format!("id={}", &id[..9]), "mine\n"),
    ] {
        assert_eq!(ls(filter), want, "{filter}");
    }
    assert_eq!(
        good(dir, &["network", "ls", "-qf", "name=mine"]).trim(),
        &id[..12]
    );
    let json = good(
        dir,
        &["network", "ls", "-f", "name=mine", "--format", "json"],
    );
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["IPv6"], &json["Labels"]),
        (&"false".into(), &"a=b".into())
    );
    assert!(
        json["CreatedAt"].as_str().unwrap().ends_with(" +0000 UTC"),
        "{json}"
    );

    let inspected = good(dir, &["network", "inspect", "mine", &id[..6]]);
    let all: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(all[0], all[1]);
    let net = &all[0];
    assert_eq!(net["Id"], id.trim());
    let config = &net["IPAM"]["Config"][0];
    assert_eq!(config["Subnet"], "10.77.0.0/24");
    assert_eq!(config["Gateway"], "10.77.0.9");
    assert_eq!(config["IPRange"], "10.77.0.128/25");
    assert_eq!(config["AuxiliaryAddresses"]["r"], "10.77.0.7");
    assert_eq!(net["Options"]["mtu"], "1400");
    assert!(net["Containers"].as_object().unwrap().is_empty());
    let gateway = "{{range .IPAM.Config}}{{.Gateway}}{{end}} {{.Labels.a}}";
    assert_eq!(
        good(dir, &["network", "inspect", "-f", gateway, "mine"]),
        "10.77.0.9 b\n"
    );

    for (args, want) in [
        (
            &["network", "create", "mine"][..],
            "network with name mine already exists",
        ),
        (
            &["network", "create", "bridge"],
            "not permitted on predefined bridge network",
        ),
        (
            &["network", "create", "-d", "overlay", "x"],
            "network driver `overlay` is not supported",
        ),
        (
            &["network", "create", "--subnet", "10.77.0.0/16", "x"],
            "Pool overlaps with other one",
        ),
        (
            &["network", "create", "-o", "x=y", "x"],
            "network option `x` is not supported",
        ),
        (
            &["network", "rm", "host"],
            "host is a pre-defined network and cannot be removed",
        ),
        (&["network", "rm", "nowhere"], "network nowhere not found"),
        (
            &["network", "inspect", "nowhere"],
            "network nowhere not found",
        ),
        (&["network", "ls", "-f", "x=y"], "invalid filter 'x'"),
        (&["network", "ls", "-f", "type=x"], "invalid filter"),
        (
            &["network", "connect", "mine", "nobody"],
            "No such container: nobody",
        ),
        (
            &["network", "disconnect", "nowhere", "nobody"],
            "network nowhere not found",
        ),
    ] {
        let complaint = bad(dir, args);
        assert!(complaint.contains(want), "{args:?}: {complaint}");
    }
    assert_eq!(good(dir, &["network", "rm", "-f", "nowhere"]), "");
    let old = ["network", "prune", "-f", "--filter", "until=24h"];
    assert_eq!(good(dir, &old), "");
    assert_eq!(
        good(dir, &["network", "prune", "-f"]),
        "Deleted Networks:\nmine\n\n"
    );
    let created = good(dir, &["network", "create", "--ipv6", "six"]);
    let six = "{{.EnableIPv6}} {{len .IPAM.Config}}";
    assert_eq!(
        good(dir, &["network", "inspect", "-f", six, created.trim()]),
        "true 2\n"
    );
    assert_eq!(good(dir, &["network", "rm", "six"]), "six\n");
}

#[test]
fn networks_beside_an_interface() {
    let temp = temp();
    let dir = temp.path();
    let create = [
        "network",
        "create",
        "-d",
        "macvlan",
        "--subnet=10.79.0.0/24",
    ];
    let with = |more: &[&'static str]| [&create[..], more].concat();
    let want = "unlade: a macvlan network needs an interface of the host as its parent\n\
                hint: -o parent=NAME; `ip link` lists them\n";
    assert_eq!(bad(dir, &with(&["beside"])), want);
    let id = good(dir, &with(&["-o", "parent=lo", "beside"]));
    let format = "{{.Name}} {{.Driver}}";
    let ls = [
        "network",
        "ls",
        "--filter",
        "driver=macvlan",
        "--format",
        format,
    ];
    assert_eq!(good(dir, &ls), "beside macvlan\n");
    let shown: Value = serde_json::from_str(&good(dir, &["network", "inspect", "beside"])).unwrap();
    assert_eq!(shown[0]["Id"], id.trim());
    assert_eq!(shown[0]["Driver"], "macvlan");
    assert_eq!(shown[0]["Options"], serde_json::json!({"parent": "lo"}));
    good(dir, &["network", "rm", "beside"]);
}

#[test]
fn volumes_as_docker_shows_them() {
    let temp = temp();
    let dir = temp.path();
    assert_eq!(good(dir, &["volume", "ls"]), "DRIVER    VOLUME NAME\n");
    assert_eq!(
        good(dir, &["volume", "create", "--label", "a=b", "data"]),
        "data\n"
    );
    assert_eq!(good(dir, &["volume", "create", "data"]), "data\n");
    let anonymous = good(dir, &["volume", "create"]);
    assert_eq!(anonymous.trim().len(), 64);
    let table = good(dir, &["volume", "ls", "-f", "name=data"]);
    assert_eq!(table, "DRIVER    VOLUME NAME\nlocal     data\n");
    let ls = |filter: &str| good(dir, &["volume", "ls", "-qf", filter]);
    assert_eq!(ls("label=a"), "data\n");
    assert_eq!(ls("dangling=false"), "");
    assert_eq!(ls("dangling=true").lines().count(), 2);
    let json = good(dir, &["volume", "ls", "-f", "label=a", "--format", "json"]);
    let place = dir.join("root/volumes/data/_data");
    let want = format!(
        "{{\"Availability\":\"N/A\",\"Driver\":\"local\",\"Group\":\"N/A\",\"Labels\":\"a=b\",\
         \"Links\":\"N/A\",\"Mountpoint\":\"{}\",\"Name\":\"data\",\"Scope\":\"local\",\
         \"Size\":\"N/A\",\"Status\":\"N/A\"}}\n",
        place.display()
    );
    assert_eq!(json, want);
    let all: Value = serde_json::from_str(&good(dir, &["volume", "inspect", "data"])).unwrap();
    assert_eq!(all[0]["Mountpoint"], place.to_str().unwrap());
    assert_eq!(
        (&all[0]["Labels"]["a"], &all[0]["Options"]),
        (&"b".into(), &Value::Null)
    );
    for (args, want) in [
        (
            &["volume", "create", "x"][..],
            "`x` is no name for a volume",
        ),
        (
            &["volume", "create", "-d", "nfs", "xx"],
            "volume driver `nfs` is not supported",
        ),
        (&["volume", "create", "-o", "a=b", "xx"], "not supported"),
        (
            &[
                "volume",
                "create",
                "-o",
                "o=bind",
                "-o",
                "device=/x",
                "data",
            ],
            "with other options",
        ),
        (&["volume", "inspect", "none"], "get none: no such volume"),
        (&["volume", "rm", "none"], "get none: no such volume"),
        (&["volume", "rm", "../images"], "no such volume"),
    ] {
        let complaint = bad(dir, args);
        assert!(complaint.contains(want), "{args:?}: {complaint}");
    }
    // Of volumes with names only those that were asked for go.
    fs::write(place.join("file"), vec![7; 1 << 20]).unwrap();
    let pruned = good(dir, &["volume", "prune", "-f"]);
    assert!(
        pruned.starts_with(&format!("Deleted Volumes:\n{anonymous}\nTotal ")),
        "{pruned}"
    );
    let pruned = good(dir, &["volume", "prune", "-af"]);
    // With the blocks of its directories.
    let want = "Deleted Volumes:\ndata\n\nTotal reclaimed space: 1.05";
    assert!(pruned.starts_with(want), "{pruned}");
    assert!(!place.exists());
    // All at once, but for volumes with names.
    let anonymous = good(dir, &["volume", "create"]);
    good(dir, &["network", "create", "unused"]);
    let pruned = good(dir, &["system", "prune", "-f"]);
    assert!(
        pruned.starts_with("Deleted Networks:\nunused\n\nRemoved 0 layers"),
        "{pruned}"
    );
    assert_eq!(good(dir, &["volume", "create", "again"]), "again\n");
    let pruned = good(dir, &["system", "prune", "-f", "--volumes"]);
    assert!(
        pruned.starts_with(&format!("Deleted Volumes:\n{anonymous}\n")),
        "{pruned}"
    );
    assert_eq!(good(dir, &["volume", "rm", "again"]), "again\n");
    assert_eq!(good(dir, &["volume", "rm", "-f", "again"]), "again\n");
}

#[test]
fn inspect_finds_networks_and_volumes() {
    let temp = temp();
    let dir = temp.path();
    for (kind, names) in [("network", ["mine", "same"]), ("volume", ["data", "same"])] {
        for name in names {
            good(dir, &[kind, "create", name]);
        }
    }
    for (kind, name) in [("network", "mine"), ("volume", "data")] {
        let whole = good(dir, &[kind, "inspect", name]);
        assert_eq!(good(dir, &["inspect", name]), whole);
        assert_eq!(good(dir, &["inspect", "--type", kind, name]), whole);
    }
    let driver = ["inspect", "-f", "{{.Driver}}", "mine", "data"];
    assert_eq!(good(dir, &driver), "bridge\nlocal\n");
    // A network goes before a volume of its name.
    assert_eq!(
        good(dir, &["inspect", "-f", "{{.Driver}}", "same"]),
        "bridge\n"
    );
    let volume = ["inspect", "--type", "volume", "-f", "{{.Driver}}", "same"];
    assert_eq!(good(dir, &volume), "local\n");
    for kind in ["container", "image", "volume"] {
        assert!(bad(dir, &["inspect", "--type", kind, "mine"]).contains("hint: "));
    }
    let said = bad(dir, &["inspect", "nothing"]);
    assert!(said.contains("No such object: nothing"), "{said}");
}
