//! What images, tars and containers hold leads nowhere else.

use std::{fs, os::unix::fs::symlink, path::Path};

use crate::{FILE, HARD, LINK, OUTSIDE, common::text, stores, trees::made};

#[test]
fn links_lead_nowhere_else() {
    stores("links_lead_nowhere_else", |store, host| {
        let outside = host.display().to_string();
        fs::write(store.path("f"), "inside").unwrap();
        let f = store.arg("f");
        let hostile = |name: &str| {
            // Into: the links' targets are in the container, or nowhere.
            for to in ["out/x", "rel/x", "out/secret", "out/"] {
                let said = store.fails(&["cp", &f, &format!("{name}:/{to}")]);
                assert!(
                    said.contains("Could not find") || said.contains("no such"),
                    "{to}: {said}"
                );
            }
            for from in ["out/secret", "rel/secret", "out/"] {
                let said = store.fails(&["cp", &format!("{name}:/{from}"), "-"]);
                assert!(said.contains("Could not find the file"), "{from}: {said}");
            }
            let tar = made(&[
                ("evil", LINK, &outside),
                ("evil/x", FILE, "x"),
                ("climb", LINK, "../../../../.."),
                ("climb/var/tmp/unlade-escaped", FILE, "x"),
            ]);
            let fed = store.feed(&["cp", "-", &format!("{name}:/opt")], &tar);
            assert!(!Path::new("/var/tmp/unlade-escaped").exists());
            assert!(!host.join("x").exists(), "{}", text(&fed.stderr));
            let hard = made(&[("h", HARD, &format!("..{outside}/secret"))]);
            let fed = store.feed(&["cp", "-", &format!("{name}:/opt")], &hard);
            assert_eq!(fed.status.code(), Some(1), "{}", text(&fed.stderr));
            let dots = made(&[("../../x", FILE, "x")]);
            let fed = store.feed(&["cp", "-", &format!("{name}:/opt")], &dots);
            assert_eq!(fed.status.code(), Some(1), "{}", text(&fed.stderr));
        };
        store.create("cc", &[]);
        hostile("cc");
        store.start("rr", &[]);
        hostile("rr");
        for from in [
            "proc/1/root/etc/passwd",
            "proc/self/exe",
            "proc/version",
            "proc/1/cwd/",
        ] {
            let said = store.fails(&["cp", &format!("rr:/{from}"), "-"]);
            assert!(
                said.contains("Could not find") || said.contains("open `"),
                "{from}: {said}"
            );
        }
        let said = store.fails(&["cp", &f, "rr:/proc/1/root/x"]);
        assert!(
            said.contains("open `") || said.contains("Could not find"),
            "{said}"
        );
        // Out: a link in the destination is not gone through.
        let dest = store.path("dest");
        fs::create_dir(&dest).unwrap();
        symlink(host, dest.join("opt")).unwrap();
        let said = store.fails(&["cp", "cc:/opt", &store.arg("dest")]);
        assert!(said.contains("cannot overwrite non-directory"), "{said}");
    });
}

#[test]
fn renames_meanwhile_lead_nowhere_else() {
    stores("renames_meanwhile_lead_nowhere_else", |store, host| {
        let script = format!(
            "cd /; while true; do busybox rm -rf race; busybox mkdir -p race/d; \
             echo inside > race/d/secret; busybox sleep 0.002; \
             busybox mv race/d race/e; busybox ln -s {0} race/d; busybox ln -s ../../../..{0} l; \
             busybox mv -T l race/d; busybox rm race/d; busybox mv race/e race/d; done",
            host.display()
        );
        let args = [
            "run",
            "-d",
            "--name",
            "race",
            "--network",
            "none",
            "base",
            "sh",
            "-c",
        ];
        store.ok(&[&args[..], &[&script]].concat());
        fs::write(store.path("f"), "inside").unwrap();
        let (f, out) = (store.arg("f"), store.arg("out"));
        let (mut copied, mut read) = (0, 0);
        for _ in 0..25 {
            copied += usize::from(store.run(&["cp", &f, "race:/race/d/x"]).status.success());
            if store
                .run(&["cp", "race:/race/d/secret", &out])
                .status
                .success()
            {
                read += 1;
                assert!(fs::read_to_string(&out).unwrap().starts_with("inside"));
            }
            store.run(&["cp", "race:/race", "-"]);
        }
        eprintln!("{copied} of 25 copied in, {read} out");
        let all = store.run(&["export", "race"]);
        assert!(all.status.success(), "{}", text(&all.stderr));
        assert!(!text(&all.stdout).contains(OUTSIDE));
    });
}
