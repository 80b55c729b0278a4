//! What kills and failures leave.

use super::*;
use crate::error::Kind;

#[test]
fn what_a_kill_leaves_is_removed() {
    isolated(|| {
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        let published = on("bridge", &["80"]);
        nets.predefine().unwrap();
        let alive = |_: &str| Ok(true);
        let dead = |_: &str| Ok(false);
        // After each of the steps of an attachment.
        for step in 0..4 {
            let netns = world.netns(A);
            if step == 3 {
                nets.attach(&who(A, "a"), &published).unwrap();
                // And the namespace went on its own.
                netns::remove(&netns).unwrap();
            } else {
                let (state, _) = nets.take(&who(A, "a"), &published).unwrap();
                if step > 0 {
                    nets.places.write(&state).unwrap();
                }
                if step > 1 {
                    netns::create(&netns).unwrap();
                }
            }
            let swept = nets.sweep(&alive).unwrap();
            assert!(swept.detached.is_empty() && swept.forgotten.is_empty());
            // A process that another test starts may have the lock for a moment.
            let mut all = Vec::new();
            for _ in 0..100 {
                let swept = nets.sweep(&dead).unwrap();
                all.extend([swept.detached, swept.forgotten].concat());
                if !all.is_empty() {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(all, [A], "{step}");
            world.assert_clean();
        }
        // A namespace without a state, and one that was not mounted yet.
        netns::create(&world.netns(A)).unwrap();
        fs::write(world.netns(B), "").unwrap();
        // While somebody attaches, nothing is swept.
        let lock = nets.places.lock(false).unwrap();
        assert!(nets.sweep(&dead).unwrap().detached.is_empty());
        drop(lock);
        assert_eq!(nets.sweep(&dead).unwrap().detached, [A, B]);
        world.assert_clean();
        // What a run has left is no obstacle to the next.
        nets.attach(&who(A, "a"), &published).unwrap();
        nets.attach(&who(A, "a"), &published).unwrap();
        nets.detach(A).unwrap();
        world.assert_clean();
    });
}

#[test]
fn a_netavark_that_fails_leaves_nothing() {
    isolated(|| {
        let bin = tempfile::tempdir().unwrap();
        let script = bin.path().join("netavark");
        fs::write(
            &script,
            "#!/bin/sh\necho '{\"error\":\"no bridges today\"}'\nexit 1\n",
        )
        .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, mode).unwrap();
        for (path, want) in [
            (script, "network bridge: netavark setup: no bridges today"),
            (
                "/nonexistent".into(),
                "which connects containers to networks, `/nonexistent` is not",
            ),
        ] {
            let world = World::new(&config::Network {
                netavark: Some(path),
                ..config::Network::default()
            });
            let nets = &world.networks;
            let e = nets
                .attach(&who(A, "a"), &on("bridge", &["80"]))
                .unwrap_err();
            assert!(e.message().contains(want) && e.hint().is_some(), "{e:?}");
            assert_eq!(e.kind(), Kind::Host);
            world.assert_clean();
        }
        let world = World::new(&config::Network {
            aardvark_dns: Some("/nonexistent".into()),
            ..config::Network::default()
        });
        let nets = &world.networks;
        nets.create(&called("mine")).unwrap();
        let e = nets.attach(&who(A, "a"), &on("mine", &[])).unwrap_err();
        assert!(e.message().contains("aardvark-dns"), "{e}");
        world.assert_clean();
        // Networks without names do without it.
        nets.attach(&who(A, "a"), &on("bridge", &[])).unwrap();
        nets.detach(A).unwrap();
        world.assert_clean();
    });
}

/// What [`a_killed_command_is_undone`] starts and kills; by itself it does nothing.
#[test]
fn attached_and_killed() {
    let Ok(dir) = std::env::var("UNLADE_TEST_ATTACH") else {
        return;
    };
    let dir = Path::new(&dir);
    let store = Store::open(&StoreOptions::new(dir.join("root"), "copy")).unwrap();
    let config = config::Network {
        netavark: Some(dir.join("netavark")),
        ..config::Network::default()
    };
    let networks = Networks::new(&store, &dir.join("run"), &config);
    let done = networks.attach(&who(A, "a"), &on("mine", &["80"]));
    panic!("it was not killed: {done:?}");
}

#[test]
fn a_killed_command_is_undone() {
    isolated(|| {
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        nets.create(&called("mine")).unwrap();
        let programs = netavark::Programs::new(&config::Network::default());
        let real = programs.netavark().unwrap();
        let (script, mark) = (
            world.dir.path().join("netavark"),
            world.dir.path().join("mark"),
        );
        let slow = format!(
            "echo $$ > {0}.new; mv {0}.new {0}; sleep 100",
            mark.display()
        );
        // Before netavark has done anything, and after all that it does.
        for before in [true, false] {
            let all = format!("{} \"$@\" > /dev/null", real.display());
            let text = if before {
                format!("{slow}; {all}")
            } else {
                format!("{all}; {slow}")
            };
            fs::write(&script, format!("#!/bin/sh\n{text}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&script, mode).unwrap();
            let mut command = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "network::tests::faults::attached_and_killed",
                    "--nocapture",
                ])
                .env("UNLADE_TEST_ATTACH", world.dir.path())
                .spawn()
                .unwrap();
            while !mark.exists() {
                assert!(command.try_wait().unwrap().is_none(), "it has ended");
                thread::sleep(Duration::from_millis(10));
            }
            let pid = fs::read_to_string(&mark).unwrap();
            fs::remove_file(&mark).unwrap();
            assert!(world.netns(A).exists());
            // It is at work, and so nobody sweeps.
            assert!(nets.sweep(&|_| Ok(false)).unwrap().detached.is_empty());
            command.kill().unwrap();
            command.wait().unwrap();
            let path = format!("/proc/{}/status", pid.trim());
            let gone = (0..200).any(|_| {
                thread::sleep(Duration::from_millis(10));
                let text = fs::read_to_string(&path).unwrap_or_default();
                text.is_empty() || text.contains("State:\tZ")
            });
            assert!(gone, "netavark goes on");
            assert_eq!(nets.sweep(&|_| Ok(false)).unwrap().detached, [A]);
            world.assert_clean();
            let left = fs::read_dir(world.dir.path().join("run/netavark/aardvark-dns"));
            let left = left.map(|d| d.flatten().map(|e| e.file_name()).collect::<Vec<_>>());
            assert!(left.as_ref().is_ok_and(|l| l.is_empty()), "{left:?}");
        }
        nets.remove("mine").unwrap();
    });
}

/// At messages to the kernel and at programs that it starts, while it makes a network and while it
/// undoes one.
#[test]
fn a_killed_netavark_is_undone() {
    isolated(|| {
        if !has("strace") {
            eprintln!("skipped: strace is not installed");
            return;
        }
        let real = netavark::Programs::new(&config::Network::default());
        let real = real.netavark().unwrap();
        let bin = tempfile::tempdir().unwrap();
        let [script, mark, over] = ["netavark", "mark", "over"].map(|name| bin.path().join(name));
        let world = World::new(&config::Network {
            netavark: Some(script.clone()),
            ..config::Network::default()
        });
        let nets = &world.networks;
        for verb in ["setup", "teardown"] {
            let mut killed = 0;
            for (call, step) in [("sendto", 2), ("?vfork,?clone,clone3", 6)] {
                let _ = fs::remove_file(&over);
                for at in (1..).step_by(step) {
                    let text = format!(
                        "#!/bin/sh\nif [ \"$5\" = {verb} ] && rm {mark} 2>/dev/null; then\n\
                         strace -qq -o /dev/null -e trace={call} \
                         -e inject={call}:signal=KILL:when={at} {real} \"$@\"\n\
                         status=$?\n[ $status = 137 ] || echo > {over}\nexit $status\nfi\n\
                         exec {real} \"$@\"\n",
                        mark = mark.display(),
                        over = over.display(),
                        real = real.display()
                    );
                    fs::write(&script, text).unwrap();
                    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                    fs::set_permissions(&script, mode).unwrap();
                    fs::write(&mark, "").unwrap();
                    // In vain, where this is what is killed.
                    drop(nets.attach(&who(A, "a"), &on("bridge", &["80"])));
                    nets.detach(A).unwrap();
                    assert!(!mark.exists(), "{verb}: it was not run");
                    world.assert_clean();
                    if over.exists() {
                        break;
                    }
                    killed += 1;
                }
            }
            assert!(killed > 3, "{verb}: killed {killed} times");
        }
    });
}
