use super::*;

fn ask(names: &[&str]) -> Vec<DeviceRequest> {
    vec![DeviceRequest {
        driver: "cdi".to_owned(),
        device_ids: names.iter().map(|n| (*n).to_owned()).collect(),
        ..DeviceRequest::default()
    }]
}

fn file(dir: &Path, name: &str, env: &str) {
    let text = format!(
        r#"{{"cdiVersion": "0.8.0", "kind": "v.com/c", "containerEdits": {{"env": ["ALL=1"]}},
            "devices": [{{"name": "a", "containerEdits": {{"env": ["A={env}"]}}}},
                {{"name": "b", "containerEdits": {{"deviceNodes": [{{"path": "/dev/x", "hostPath": "/dev/null", "permissions": "rw"}}]}}}}]}}"#
    );
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn later_directories_count_and_files_beside_each_other_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = ["low", "high", "none"].map(|d| dir.path().join(d));
    let user = ResolvedUser {
        uid: 7,
        gid: 8,
        ..ResolvedUser::default()
    };
    let find = |names: &[&str]| find(&dirs, &ask(names), &user);
    file(&dirs[0], "one.json", "low");
    assert_eq!(find(&["v.com/c=a"]).unwrap().env, ["ALL=1", "A=low"]);
    file(&dirs[0], "two.yaml", "low");
    let e = find(&["v.com/c=a"]).unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert!(e.message().contains("one.json") && e.message().contains("two.yaml"));
    file(&dirs[1], "three.json", "high");
    fs::write(dirs[1].join("broken.yaml"), "{").unwrap();
    fs::write(dirs[1].join("other.txt"), "{").unwrap();
    // What is of the whole file is there once.
    let edits = find(&["v.com/c=a", "v.com/c=b", "v.com/c=a"]).unwrap();
    assert_eq!(edits.env, ["ALL=1", "A=high"]);
    let node = &edits.devices[0];
    assert_eq!((&*node.path, node.major, node.minor), ("/dev/x", 1, 3));
    assert_eq!((node.uid, node.gid, node.mode), (7, 8, 0o666));
    assert_eq!(node.access, "rw");
    let e = find(&["v.com/c=z"]).unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound);
    let (said, high) = (e.message(), dirs[1].display());
    assert!(said.contains(&format!("{high}/broken.yaml")), "{said}");
    assert!(!said.contains("other.txt"), "{said}");
}

#[test]
fn gpus_are_devices_of_a_kind() {
    let gpus = |count: i64, ids: &[&str], driver: &str| {
        let request = DeviceRequest {
            driver: driver.to_owned(),
            count,
            device_ids: ids.iter().map(|i| (*i).to_owned()).collect(),
            capabilities: vec![vec!["gpu".to_owned()]],
            ..DeviceRequest::default()
        };
        let names = names(&[request])?;
        Ok::<_, Error>(names.iter().map(|n| n.device.clone()).collect::<Vec<_>>())
    };
    assert_eq!(gpus(-1, &[], "").unwrap(), ["all"]);
    assert_eq!(gpus(2, &[], "nvidia").unwrap(), ["0", "1"]);
    assert_eq!(gpus(0, &["GPU-1", "3"], "").unwrap(), ["GPU-1", "3"]);
    for (count, ids, driver, part) in [
        (1, &["0"][..], "", "both"),
        (-2, &[], "", "-2"),
        (1, &[], "amd", "could not select"),
        (0, &["../x"], "", "no name"),
        (1 << 40, &[], "", "no number"),
    ] {
        let e = gpus(count, ids, driver).unwrap_err();
        assert!(e.message().contains(part) && e.hint().is_some(), "{e}");
    }
    let e = find(
        &[PathBuf::from("/none")],
        &[DeviceRequest {
            count: -1,
            capabilities: vec![vec!["gpu".to_owned()]],
            ..DeviceRequest::default()
        }],
        &ResolvedUser::default(),
    );
    let e = e.unwrap_err();
    assert!(
        e.message().contains("nvidia.com/gpu=all") && e.message().contains("/none"),
        "{e}"
    );
}
