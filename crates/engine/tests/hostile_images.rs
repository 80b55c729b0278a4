//! Images that want more than their own root: what the host has stays unread and as it was.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{collections::BTreeMap, fs, path::Path, process::Output};

use common::{
    CONFIG, LAYER, Layer, Layout, MANIFEST, named, sha256, skip_unless_root, store::Store, text,
};
use serde_json::{Value, json};

/// What is in the host's file that links lead to.
const OUTSIDE: &str = "unlade: this is outside";
const TOOLS: [&str; 8] = ["cat", "env", "grep", "id", "ls", "pwd", "sh", "touch"];

enum Entry<'a> {
    File(&'a str),
    Link(&'a str),
}
use Entry::{File, Link};

/// A directory of the host, and a store with hostile images.
struct Host {
    store: Store,
}

impl Host {
    fn outside(&self) -> String {
        self.store.arg("outside")
    }

    /// An image of busybox, these entries and this configuration.
    fn image(&self, entries: &[(&str, Entry<'_>)], config: &Value) -> String {
        let mut out = tar::Builder::new(Vec::new());
        let mut add = |path: &str, link: Option<&str>, mode, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(mode);
            header.set_size(data.len() as u64);
            match link {
                Some(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    out.append_link(&mut header, path, target).unwrap();
                }
                None => out.append_data(&mut header, path, data).unwrap(),
            }
        };
        add(
            "bin/busybox",
            None,
            0o755,
            &fs::read("/bin/busybox").unwrap(),
        );
        for tool in TOOLS {
            add(&format!("bin/{tool}"), Some("busybox"), 0o777, b"");
        }
        for (path, entry) in entries {
            match entry {
                File(data) => add(path, None, 0o644, data.as_bytes()),
                Link(target) => add(path, Some(target), 0o777, b""),
            }
        }
        let tar = out.into_inner().unwrap();
        let layer = Layer {
            blob: tar.clone(),
            tar,
            media_type: LAYER.into(),
        };
        let layout = Layout::new();
        let document = json!({
            "os": "linux", "architecture": "amd64", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [sha256(&layer.tar)] },
        });
        let manifest = layout.manifest(&[layer], &document);
        assert!(manifest["config"]["mediaType"] == CONFIG);
        layout.index(&[named(layout.put_json(&manifest, MANIFEST), "latest")]);
        let archive = self.store.path("image.tar");
        fs::write(&archive, layout.archive()).unwrap();
        let said = self.store.ok(&["load", "-i", &self.store.arg("image.tar")]);
        said.split_whitespace().last().unwrap().to_owned()
    }

    fn run(&self, image: &str, words: &[&str]) -> Output {
        let args = [&["run", "--rm", "--network", "none", image], words].concat();
        // What an image may not take from the environment of whoever runs it.
        let mut command = self.store.command(&args);
        command.env("INHERITED", "from the host").output().unwrap()
    }

    /// What it prints, or that it is refused; nothing of the host in either.
    fn contained(&self, what: &str, image: &str, script: &str) -> Option<String> {
        let out = self.run(image, &["sh", "-c", script]);
        let (said, error) = (text(&out.stdout), text(&out.stderr));
        assert!(!said.contains(OUTSIDE), "{what}: {said}");
        let files: Vec<String> = common::names(Path::new(&self.outside()));
        assert_eq!(files, ["secret"], "{what}: {said}{error}");
        let secret = fs::read_to_string(self.store.path("outside/secret")).unwrap();
        assert_eq!(secret, OUTSIDE, "{what}");
        match out.status.code() {
            Some(0) => Some(said),
            Some(125..=127) => {
                assert!(!error.is_empty(), "{what}");
                None
            }
            code => panic!("{what}: {code:?} {said}{error}"),
        }
    }
}

fn hosts(test: &str, body: impl Fn(&Host)) {
    if skip_unless_root(test) {
        return;
    }
    if !Path::new("/bin/busybox").exists() || !Path::new("/usr/sbin/runc").exists() {
        eprintln!("skipped {test}: busybox-static or runc is not installed");
        return;
    }
    for driver in ["overlay", "erofs"] {
        let store = Store::new("/var/tmp", driver, "", &[("UNLADE_FLUSH", "later")]);
        let host = Host { store };
        fs::create_dir(host.outside()).unwrap();
        fs::write(host.store.path("outside/secret"), OUTSIDE).unwrap();
        body(&host);
        assert_eq!(host.store.ok(&["ps", "-aq"]), "");
    }
}

#[test]
fn links_of_a_root_lead_nowhere_else() {
    hosts("links_of_a_root_lead_nowhere_else", |h| {
        let outside = h.outside();
        let up = format!("../../../../../../../..{outside}");
        for to in [&*outside, &up] {
            let ran = |what: &str, entries: &[(&str, Entry<'_>)], config: &Value, script: &str| {
                let image = h.image(entries, config);
                h.contained(what, &image, script)
            };
            let work = json!({ "WorkingDir": "/w/deep" });
            ran("workdir", &[("w", Link(to))], &work, "touch made; pwd");
            let volume = json!({ "Volumes": { "/v": {} } });
            let script = "ls /v; cat /v/secret; touch /v/made; true";
            ran("volume", &[("v", Link(to))], &volume, script);
            let below = json!({ "Volumes": { "/v/deep": {} } });
            ran(
                "volume below a link",
                &[("v", Link(to))],
                &below,
                "touch /v/deep/made; true",
            );
            for dir in ["etc", "dev", "proc", "sys", "tmp"] {
                let script = format!("cat /{dir}/secret; touch /{dir}/made; true");
                ran(dir, &[(dir, Link(to))], &json!({}), &script);
            }
            for file in [
                "etc/hosts",
                "etc/resolv.conf",
                "etc/hostname",
                "dev/null",
                "dev/shm",
            ] {
                let secret = format!("{to}/secret");
                ran(
                    file,
                    &[(file, Link(&secret))],
                    &json!({}),
                    &format!("cat /{file}; true"),
                );
            }
        }
    });
}

#[test]
fn users_are_of_the_image_alone() {
    hosts("users_are_of_the_image_alone", |h| {
        // Outside is a file that would make everybody root.
        let ann = "ann:x:0:0::/:\n4294967296:x:0:0::/:\n2147483648:x:0:0::/:\n-1:x:0:0::/:\n";
        let passwd = h.store.path("passwd");
        fs::write(&passwd, ann).unwrap();
        let to = h.store.arg("passwd");
        let up = format!("../../../../../../../..{to}");
        for to in [&*to, &up] {
            let image = h.image(&[("etc/passwd", Link(to))], &json!({ "User": "ann" }));
            assert_eq!(h.contained("passwd", &image, "id -u"), None);
            let above = Path::new(to).parent().unwrap().to_str().unwrap();
            let image = h.image(&[("etc", Link(above))], &json!({ "User": "ann" }));
            assert_eq!(h.contained("etc", &image, "id -u"), None);
        }
        // Digits are a number or an error, whatever names there are.
        for user in ["4294967296", "2147483648", "-1", "0:4294967296"] {
            let image = h.image(&[("etc/passwd", File(ann))], &json!({ "User": user }));
            assert_eq!(h.contained(user, &image, "id -u"), None, "{user}");
        }
        let image = h.image(
            &[("etc/passwd", File(ann))],
            &json!({ "User": "2147483647" }),
        );
        let said = h.contained("the last", &image, "id -u").unwrap();
        assert_eq!(said, "2147483647\n");
        // Nobody reads for ever.
        let line = "a:x:1:1::/:\n".repeat(200_000);
        for file in ["etc/passwd", "etc/group"] {
            let image = h.image(&[(file, File(&line))], &json!({ "User": "last:last" }));
            let out = h.run(&image, &["id"]);
            let said = text(&out.stderr);
            assert_eq!(out.status.code(), Some(125), "{said}");
            assert!(
                said.contains("hint: ") || said.contains("MiB"),
                "{file}: {said}"
            );
        }
    });
}

#[test]
fn configurations_give_nothing_away() {
    hosts("configurations_give_nothing_away", |h| {
        let env = ["PATH=/bin", "INHERITED", "=x", "A=b=c", ""];
        let image = h.image(&[], &json!({ "Env": env }));
        let said = h.contained("environment", &image, "env").unwrap();
        let set: BTreeMap<&str, &str> = said.lines().filter_map(|l| l.split_once('=')).collect();
        assert_eq!(
            (set.get("PATH"), set.get("A")),
            (Some(&"/bin"), Some(&"b=c"))
        );
        assert!(
            !said.contains("from the host") && !set.contains_key(""),
            "{said}"
        );

        let plain = h.image(&[], &json!({}));
        let status = "grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; ls /dev";
        let want = h.contained("no labels", &plain, status).unwrap();
        let hook = format!("{}/made", h.outside());
        let image = h.image(
            &[],
            &json!({ "Labels": {
                "run.oci.hooks.stdout": hook, "run.oci.keep_original_groups": "1",
                "io.podman.annotations.privileged": "TRUE", "unlade.privileged": "true",
                "io.containers.capabilities": "SYS_ADMIN,CHOWN,NOT_ONE",
                "org.systemd.property.Foo": "1", "io.kubernetes.cri-o.Devices": "/dev/kmsg",
            }}),
        );
        if let Some(said) = h.contained("labels", &image, status) {
            let eff = |t: &str| {
                let line = t.lines().find_map(|l| l.strip_prefix("CapEff:\t"));
                u64::from_str_radix(line.unwrap(), 16).unwrap()
            };
            assert_eq!(eff(&said) & !eff(&want), 0, "{said}");
            let rest = |t: &str| t.lines().filter(|l| !l.starts_with("Cap")).count();
            assert_eq!(rest(&said), rest(&want), "{said}");
        }
        for config in [
            json!({ "Entrypoint": ["sh", "-c", "echo \u{0}"] }),
            json!({ "WorkingDir": "/a\u{0}b" }),
            json!({ "WorkingDir": "../../.." }),
            json!({ "StopSignal": "99999999999" }),
            json!({ "ExposedPorts": { "70000/tcp": {} } }),
            json!({ "Volumes": { "/": {} } }),
            json!({ "Volumes": { "/v/../..": {} } }),
        ] {
            let image = h.image(&[], &config);
            h.contained(&config.to_string(), &image, "ls / >/dev/null");
        }
    });
}
