//! Processes that are killed.

use crate::*;

#[test]
fn a_killed_run_leaves_nothing() {
    hosts("a_killed_run_leaves_nothing", |h| {
        for ms in [0, 10, 20, 40, 60, 80, 120, 160, 240] {
            let mut child = h
                .command(&["run", "--rm", "--network", "none", "box", "sleep", "0.1"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            thread::sleep(Duration::from_millis(ms));
            child.kill().unwrap();
            child.wait().unwrap();
            // Whatever had run by then ends, and goes.
            h.until("nothing is left", || h.ok(&["ps", "-aq"]).is_empty());
        }
    });
}

#[test]
fn a_killed_shim_is_noticed() {
    hosts("a_killed_shim_is_noticed", |h| {
        let id = h.ok(&[
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            "lost",
            "box",
            "sleep",
            "60",
        ]);
        let state = h
            .run
            .path()
            .join("containers")
            .join(id.trim())
            .join("state.json");
        let state: Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
        let shim = state["shim"]["pid"].as_i64().unwrap();
        assert!(
            Command::new("kill")
                .args(["-9", &shim.to_string()])
                .status()
                .unwrap()
                .success()
        );
        h.until("the death of the shim", || {
            h.status("lost") == "dead" || h.status("lost") == "exited"
        });
        assert!(
            h.inspect("lost")["State"]["Error"]
                .as_str()
                .unwrap()
                .contains("shim")
        );
        h.ok(&["rm", "-f", "lost"]);
        let pid = state["init"]["pid"].as_i64().unwrap();
        h.until("its process", || {
            !Path::new(&format!("/proc/{pid}")).exists()
        });
    });
}

#[test]
fn a_state_that_cannot_be_read() {
    hosts("a_state_that_cannot_be_read", |h| {
        for shim_lives in [false, true] {
            let run = ["run", "-d", "--network", "none", "--name"];
            let id = h.ok(&[&run[..], &["odd", "box", "sleep", "60"]].concat());
            h.ok(&[&run[..], &["other", "box", "sleep", "60"]].concat());
            let dir = h.run.path().join("containers").join(id.trim());
            let state = fs::read(dir.join("state.json")).unwrap();
            let state: Value = serde_json::from_slice(&state).unwrap();
            if !shim_lives {
                let shim = state["shim"]["pid"].to_string();
                let killed = Command::new("kill").args(["-9", &shim]).status();
                assert!(killed.unwrap().success());
            }
            fs::write(dir.join("state.json"), "{").unwrap();
            let format = ["ps", "-a", "--format", "{{.Names}} {{.State}}"];
            let out = h.command(&format).output().unwrap();
            assert_eq!(text(&out.stdout), "other running\nodd dead\n");
            h.ok(&["info"]);
            h.fails(1, &["rm", "odd"]);
            h.ok(&["rm", "-f", "odd"]);
            let pid = state["init"]["pid"].to_string();
            h.until("its process", || !Path::new("/proc").join(&pid).exists());
            h.ok(&["rm", "-f", "other"]);
        }
    });
}
