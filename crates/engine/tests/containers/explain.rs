//! `--explain`: each field of the document that the runtime gets, and who decided on it.

use crate::*;

/// Fields of the runtime's document: those of objects by name, entries of sets by theirs.
fn leaves(path: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    let name = |entry: &Value| match path {
        "mounts" => entry["destination"].as_str().map(str::to_owned),
        "linux.devices" => entry["path"].as_str().map(str::to_owned),
        "linux.namespaces" | "process.rlimits" => entry["type"].as_str().map(str::to_owned),
        _ => None,
    };
    let by_place = ["linux.seccomp.syscalls", "linux.resources.devices"].contains(&path);
    let is_set = path.starts_with("process.capabilities.")
        || ["linux.maskedPaths", "linux.readonlyPaths", "process.env"].contains(&path);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let below = match path {
                    "" => key.clone(),
                    "linux.sysctl" | "annotations" => format!("{path}[{key}]"),
                    _ => format!("{path}.{key}"),
                };
                leaves(&below, value, out);
            }
        }
        Value::Array(list) if list.iter().any(|e| name(e).is_some()) => {
            for entry in list {
                leaves(&format!("{path}[{}]", name(entry).unwrap()), entry, out);
            }
        }
        Value::Array(list) if !list.is_empty() && (by_place || is_set) => {
            for (n, entry) in list.iter().enumerate() {
                let text = entry.as_str().unwrap_or_default();
                out.push(match text.split_once('=') {
                    _ if by_place => (format!("{path}[{n}]"), entry.clone()),
                    Some((name, value)) => (format!("{path}[{name}]"), value.into()),
                    None => (format!("{path}[{text}]"), true.into()),
                });
            }
        }
        other => out.push((path.to_owned(), other.clone())),
    }
}

#[test]
fn every_field_has_a_row() {
    hosts("every_field_has_a_row", |h| {
        let bound = h.path("bound");
        fs::create_dir(&bound).unwrap();
        h.ok(&["volume", "create", "parts"]);
        let fill = ["run", "--rm", "--network", "none", "-v", "parts:/p", "box"];
        h.ok(&[&fill[..], &["mkdir", "/p/part"]].concat());
        h.ok(&[
            "import",
            "-c",
            "VOLUME /fromimage",
            &h.path("box.tar"),
            "vol",
        ]);
        h.ok(&[
            "create",
            "--name",
            "other",
            "--network",
            "none",
            "-v",
            "/shared",
            "box",
        ]);
        let flags = [
            "--network",
            "none",
            "--hostname",
            "me",
            "-v",
            "data:/named",
            "-v",
            &format!("{bound}:/bound:ro"),
            "-v",
            "/anonymous",
            "--mount",
            "type=volume,src=parts,dst=/part,volume-subpath=part",
            "--mount",
            "type=tmpfs,dst=/memory,tmpfs-size=1m",
            "--tmpfs",
            "/run/small:size=64k",
            "--volumes-from",
            "other",
            "--read-only",
            "-m",
            "64m",
            "--cap-add",
            "NET_ADMIN",
            "--ulimit",
            "nofile=64:128",
            "--annotation",
            "a.b=c",
            "-e",
            "A=b=c",
            "--sysctl",
            "net.ipv4.ip_forward=1",
        ];
        let before = h.ok(&["volume", "ls", "-q"]);
        let made_of = ["create", "--explain"];
        let could = h.ok(&[&made_of[..], &flags, &["vol", "sleep", "1000"]].concat());
        assert_eq!(h.ok(&["volume", "ls", "-q"]), before);
        h.ok(&[
            &["run", "-d", "--name", "one"],
            &flags[..],
            &["vol", "sleep", "1000"],
        ]
        .concat());
        let told = h.ok(&["container", "inspect", "--explain", "one"]);
        let id = h.inspect("one")["Id"].as_str().unwrap().to_owned();
        let document = h
            .run
            .path()
            .join("containers")
            .join(&id)
            .join("config.json");
        let document: Value = serde_json::from_slice(&fs::read(document).unwrap()).unwrap();
        let mut fields = Vec::new();
        leaves("", &document, &mut fields);
        assert!(fields.len() > 150, "{fields:?}");
        let has = |text: &str, start: &str| text.lines().any(|l| l.starts_with(start));
        for (path, value) in &fields {
            // The columns are three blanks apart or more.
            let row = told.lines().find(|l| l.starts_with(&format!("{path} ")));
            let row = row.unwrap_or_else(|| panic!("no row for {path}: {told}"));
            assert!(row.ends_with(&format!("   {value}")), "{value} at {row}");
            assert!(
                has(&could, &format!("{path} ")),
                "no row for {path}: {could}"
            );
        }
        assert_eq!(h.ok(&["inspect", "--explain", "one"]), told);
        assert_eq!(told.lines().count(), fields.len() + 1, "{told}");
        for (path, origin) in [
            ("/named", "user: -v"),
            ("/bound", "user: -v"),
            ("/anonymous", "user: -v"),
            ("/part", "user: --mount"),
            ("/memory", "user: --mount"),
            ("/run/small", "user: --tmpfs"),
            ("/shared", "user: --volumes-from"),
            ("/fromimage", "image: Volumes"),
        ] {
            for text in [&told, &could] {
                let start = format!("mounts[{path}].destination ");
                let row = text.lines().find(|l| l.starts_with(&start)).unwrap();
                assert!(row.contains(&format!("   {origin}   ")), "{origin}: {row}");
            }
        }
        h.ok(&["rm", "-fv", "one", "other"]);
        for volume in ["data", "parts"] {
            h.ok(&["volume", "rm", volume]);
        }
    });
}
