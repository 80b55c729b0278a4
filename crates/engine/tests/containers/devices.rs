//! Devices that vendors describe in files of CDI, seen from inside.

use crate::*;

/// Two directories of CDI, of which the second counts more, in the configuration of `h`.
fn vendors(h: &Host) -> [String; 2] {
    let dirs = [h.path("cdi-low"), h.path("cdi")];
    for dir in &dirs {
        fs::create_dir_all(dir).unwrap();
    }
    let line = format!("cdi-spec-dirs = [\"{}\", \"{}\"]\n", dirs[0], dirs[1]);
    fs::write(h.config(), line).unwrap();
    dirs
}

#[test]
fn devices_of_vendors_are_there_whole() {
    hosts("devices_of_vendors_are_there_whole", |h| {
        let [low, high] = vendors(h);
        let hooked = h.path("hooked");
        let yaml = format!(
            "cdiVersion: 0.7.0
kind: test.example/thing
containerEdits:
  env: [WHOLE=yes]
  hooks:
  - hookName: createRuntime
    path: /bin/sh
    args: [sh, -c, 'echo once >> {hooked}']
devices:
- name: one
  containerEdits:
    env: [ONE=1, PATH=/bin]
    additionalGids: [4242]
    deviceNodes:
    - path: /dev/one
      hostPath: /dev/loop-control
      permissions: r
      fileMode: 0640
      gid: 6
    mounts:
    - hostPath: {}
      containerPath: /vendor
      options: [ro, nosuid]
- name: two
  containerEdits:
    env: [TWO=2]
",
            h.path("tree/data")
        );
        fs::write(Path::new(&high).join("thing.yaml"), &yaml).unwrap();
        let lower = yaml.replace("ONE=1", "ONE=0").replace("two", "low");
        fs::write(Path::new(&low).join("thing.yaml"), lower).unwrap();
        let flags = [
            "--device",
            "test.example/thing=one",
            "--device",
            "test.example/thing=two",
            "--device",
            "/dev/null:/dev/mine",
        ];
        let script = "echo $WHOLE $ONE $TWO $PATH; id -G; stat -c '%a %g' /dev/one; \
            (: < /dev/one) && echo opened; (: > /dev/one) 2>/dev/null || echo not written; \
            cat /vendor/file; echo; touch /vendor/x 2>/dev/null || echo ro; ls /dev/mine";
        let want = "yes 1 2 /bin\n0 4242\n640 6\nopened\nnot written\nkept\nro\n/dev/mine";
        assert_eq!(h.sh(&flags, script), want);
        assert_eq!(fs::read_to_string(&hooked).unwrap(), "once\n");
        assert_eq!(
            h.sh(&["--device", "test.example/thing=low"], "echo $TWO"),
            "2"
        );
        let ask = |device: &str| h.fails(125, &["run", "--rm", "--device", device, "box"]);
        let said = ask("test.example/thing=three");
        assert!(
            said.contains("unresolvable CDI device test.example/thing=three"),
            "{said}"
        );
        // A second file beside the first makes both useless.
        fs::write(Path::new(&high).join("again.yaml"), &yaml).unwrap();
        let said = ask("test.example/thing=one");
        assert!(
            said.contains("again.yaml") && said.contains("thing.yaml"),
            "{said}"
        );
        fs::write(Path::new(&high).join("again.yaml"), "kind: [").unwrap();
        assert_eq!(
            h.sh(&["--device", "test.example/thing=one"], "echo $ONE"),
            "1"
        );
        let said = ask("other.example/thing=one");
        assert!(said.contains("again.yaml"), "{said}");
    });
}

#[test]
fn gpus_come_through_cdi() {
    hosts("gpus_come_through_cdi", |h| {
        let [low, _] = vendors(h);
        let said = h.fails(125, &["run", "--rm", "--gpus", "all", "box"]);
        assert!(
            said.contains("nvidia.com/gpu=all") && said.contains("nvidia-ctk"),
            "{said}"
        );
        let devices = ["0", "1", "all"].map(|name| {
            let env = format!("GPU_{name}=yes");
            serde_json::json!({"name": name, "containerEdits": {"env": [env]}})
        });
        let doc = serde_json::json!({"cdiVersion": "1.0.0", "kind": "nvidia.com/gpu",
            "devices": devices});
        fs::write(Path::new(&low).join("nvidia.json"), doc.to_string()).unwrap();
        let seen = |gpus: &str| {
            let said = h.sh(&["--gpus", gpus], "env | grep ^GPU_");
            let mut names: Vec<&str> = said.lines().map(|l| l.trim_end_matches("=yes")).collect();
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(seen("all"), "GPU_all");
        assert_eq!(seen("1"), "GPU_0");
        assert_eq!(seen("2"), "GPU_0 GPU_1");
        assert_eq!(seen("device=1"), "GPU_1");
        assert_eq!(seen("\"device=0,1\""), "GPU_0 GPU_1");
        let said = h.fails(125, &["run", "--rm", "--gpus", "3", "box"]);
        assert!(said.contains("nvidia.com/gpu=2"), "{said}");
    });
}
