//! Devices of vendors, described in files of CDI, and limits of disks, seen from inside.

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

/// A disk of this machine: its node, and its numbers as control groups write them.
fn disk() -> (String, String) {
    let disks = fs::read_dir("/sys/block").unwrap().flatten();
    let mut disks = disks.map(|d| {
        let node = format!("/dev/{}", d.file_name().to_string_lossy());
        let numbers = fs::read_to_string(d.path().join("dev")).unwrap();
        let size = fs::read_to_string(d.path().join("size")).unwrap();
        (node, numbers.trim().to_owned(), size.trim() != "0")
    });
    let (node, numbers, _) = disks
        .find(|(node, _, filled)| *filled && Path::new(node).exists())
        .expect("no disk on this machine");
    (node, numbers)
}

#[test]
fn disks_are_limited() {
    hosts("disks_are_limited", |h| {
        let (node, numbers) = disk();
        let [bytes, number] = ["2mb", "300"].map(|rate| format!("{node}:{rate}"));
        for (flag, rate, old, new) in [
            ("--device-read-bps", &bytes, "read_bps", "rbps"),
            ("--device-write-bps", &bytes, "write_bps", "wbps"),
            ("--device-read-iops", &number, "read_iops", "riops"),
            ("--device-write-iops", &number, "write_iops", "wiops"),
        ] {
            let said = h.sh(
                &[flag, rate],
                &format!("cat /sys/fs/cgroup/blkio/blkio.throttle.{old}_device /sys/fs/cgroup/io.max 2>/dev/null"),
            );
            let rate = if rate == &bytes { "2097152" } else { "300" };
            let (v1, v2) = (format!("{numbers} {rate}"), format!("{new}={rate}"));
            let v2 = said.starts_with(&format!("{numbers} ")) && said.contains(&v2);
            assert!(said == v1 || v2, "{flag}: {said}");
        }
        // Where no scheduler weighs, docker and unlade say so and go on.
        let files = "cat /sys/fs/cgroup/blkio/blkio.weight /sys/fs/cgroup/blkio/blkio.bfq.weight \
            /sys/fs/cgroup/io.bfq.weight 2>/dev/null";
        let plain = h.sh(&[], files);
        let weighted = h.sh(&["--blkio-weight", "300"], files);
        assert!(
            plain.is_empty() && weighted.is_empty()
                || plain != weighted && weighted.trim_start_matches("default ") == "300",
            "{plain:?} {weighted:?}"
        );
        for (flag, value, part) in [
            ("--device-read-bps", "/dev/null:1mb", "no block device"),
            ("--device-read-bps", "/dev/nosuch:1mb", "/dev/nosuch"),
            ("--blkio-weight-device", "/dev/vda:5", "invalid weight"),
            ("--device-write-iops", "vda:5", "bad format"),
        ] {
            let said = h.fails(125, &["run", "--rm", flag, value, "box"]);
            assert!(said.contains(part), "{flag}: {said}");
        }
    });
}
