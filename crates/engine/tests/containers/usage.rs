//! What everything takes of the disk, and the removal of what nobody needs.

use std::io::Write;

use crate::*;

const WRITES: &str = "head -c 1048576 /dev/zero > /file; head -c 2097152 /dev/zero > /d/file";

/// What `system df` says of a kind: how many, in use, size, what can be had back.
fn share(h: &Host, kind: &str) -> Vec<String> {
    let format = "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Size}}|{{.Reclaimable}}";
    let all = h.ok(&["system", "df", "--format", format]);
    let line = all.lines().find(|l| l.starts_with(kind)).unwrap();
    line.split('|').skip(1).map(str::to_owned).collect()
}

#[test]
fn disk_usage_of_containers_and_volumes() {
    hosts("disk_usage_of_containers_and_volumes", |h| {
        let run = ["run", "--network", "none", "--name"];
        let wrote = ["wrote", "-v", "data:/d", "box", "sh", "-c", WRITES];
        h.ok(&[&run[..], &wrote].concat());
        h.ok(&[&run[..], &["runs", "-d", "box", "sleep", "1000"]].concat());
        h.ok(&["volume", "create", "idle"]);

        let of = share(h, "Containers");
        assert_eq!(of[..2], ["2", "1"]);
        assert!(of[2].starts_with("1.0") && of[2].ends_with("MB"), "{of:?}");
        assert!(of[3].starts_with("1.0") && of[3].ends_with("%)"), "{of:?}");
        let of = share(h, "Local Volumes");
        assert_eq!(of[..2], ["2", "1"]);
        assert!(of[2].starts_with("2.") && of[2].ends_with("MB"), "{of:?}");
        // Only that of the empty directory.
        assert!(of[3].ends_with(" (0%)"), "{of:?}");
        h.ok(&["rm", "-f", "runs"]);
        assert_eq!(share(h, "Containers")[..2], ["1", "0"]);

        h.ok(&["commit", "wrote", "more"]);
        let text = h.ok(&["system", "df", "-v"]);
        let row = |start: &str| -> Vec<&str> {
            let found = text.lines().find(|l| l.starts_with(start));
            let found = found.unwrap_or_else(|| panic!("{start}: {text}"));
            found
                .split("  ")
                .map(str::trim)
                .filter(|w| !w.is_empty())
                .collect()
        };
        let titles: Vec<&str> = text.lines().filter(|l| l.ends_with("usage:")).collect();
        let want = ["Images", "Containers", "Local Volumes"];
        assert_eq!(titles, want.map(|t| format!("{t} space usage:")));
        // All of `box` is in `more` too, which has one layer of its own; a container of `box`.
        let [whole, more] = [row("box"), row("more")];
        assert_eq!(
            (whole[5], whole[6], whole[7]),
            (more[5], "0B", "1"),
            "{text}"
        );
        assert!(more[6].starts_with("1.0") && more[7] == "0", "{text}");
        let id = h.inspect("wrote")["Id"].as_str().unwrap()[..12].to_owned();
        let wrote = row(&id);
        assert!(wrote[3] == "1" && wrote[4].starts_with("1.0"), "{text}");
        assert_eq!(*wrote.last().unwrap(), "wrote");
        assert!(row("data")[1] == "1" && row("data")[2].starts_with("2."));
        assert_eq!(row("idle")[1], "0");

        let format = "{{range .Volumes}}{{.Name}} {{.Links}},{{end}}{{len .Images}}";
        let shown = h.ok(&["system", "df", "-v", "--format", format]);
        assert_eq!(shown, "data 1,idle 0,2\n");
        let json = h.ok(&["system", "df", "-v", "--format", "json"]);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["Containers"][0]["Names"], "wrote");
        assert_eq!(json["Containers"][0]["ID"].as_str().unwrap().len(), 64);
        for line in h.ok(&["system", "df", "--format", "json"]).lines() {
            assert!(serde_json::from_str::<Value>(line).unwrap()["Type"].is_string());
        }
        h.ok(&["rm", "wrote"]);
    });
}

/// What a prune asks, and what it prints after that answer.
fn answered(h: &Host, args: &[&str], answer: &str) -> (String, String) {
    let mut child = h.command(args);
    child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(answer.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    (text(&out.stderr), text(&out.stdout))
}

#[test]
fn prune_removes_what_no_container_uses() {
    hosts("prune_removes_what_no_container_uses", |h| {
        let create = ["create", "--network", "none", "--name"];
        let kept = h.ok(&[&create[..], &["kept", "-l", "keep=yes", "box"]].concat());
        let gone = h.ok(&[&create[..], &["gone", "-v", "/anonymous", "box"]].concat());
        let run = ["run", "-d", "--network", "none", "--name", "runs", "box"];
        h.ok(&[&run[..], &["sleep", "1000"]].concat());
        h.ok(&["network", "create", "mine"]);
        h.ok(&["import", &h.path("box.tar")]);
        let names = || h.ok(&["ps", "-a", "--format", "{{.Names}}"]);

        let prune = ["system", "prune", "-a", "--filter", "label=x"];
        let (asked, said) = answered(h, &prune, "n\n");
        let want = "WARNING! This will remove:
  - all stopped containers
  - all networks not used by at least one container
  - all images without at least one container associated to them
  - layers, blobs and partial downloads that nothing needs

  Items to be pruned will be filtered with:
  - label=x

Are you sure you want to continue? [y/N] ";
        assert_eq!((&*asked, &*said), (want, ""));
        assert_eq!(names(), "runs\ngone\nkept\n");
        h.ok(&["system", "prune", "-a", "-f", "--filter", "until=24h"]);
        h.ok(&["system", "prune", "-a", "-f", "--filter", "label=x"]);
        assert_eq!(names(), "runs\ngone\nkept\n");
        assert_eq!(h.ok(&["images", "-q"]).lines().count(), 2);
        let both = ["system", "prune", "-f", "--volumes", "--filter", "until=1h"];
        assert!(
            h.fails(1, &both)
                .contains("\"until\" filter is not supported")
        );

        let (_, said) = answered(h, &["system", "prune", "--filter", "label!=keep"], "y\n");
        let want = format!("Deleted Containers:\n{gone}\nDeleted Networks:\nmine\n\n");
        assert!(
            said.starts_with(&format!("{want}Deleted Images:\ndeleted: ")),
            "{said}"
        );
        assert_eq!(names(), "runs\nkept\n");
        assert_eq!(h.ok(&["images", "--format", "{{.Repository}}"]), "box\n");
        let volume = h.ok(&["volume", "ls", "-q"]);
        assert_eq!(volume.trim().len(), 64);

        let said = h.ok(&["system", "prune", "-f", "--volumes"]);
        let want = format!("Deleted Containers:\n{kept}\nDeleted Volumes:\n{volume}\n");
        assert!(said.starts_with(&want), "{said}");
        assert_eq!(
            (names(), h.ok(&["volume", "ls", "-q"])),
            ("runs\n".into(), String::new())
        );
        h.ok(&["rm", "-f", "runs"]);
        let said = h.ok(&["system", "prune", "-a", "-f"]);
        assert!(
            said.starts_with("Deleted Images:\nuntagged: box:latest\n"),
            "{said}"
        );
        assert_eq!(h.ok(&["images", "-q"]), "");
    });
}
