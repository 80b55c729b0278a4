//! Containers whose own files may take so much and no more. Which file systems can do it is tested
//! in unlade-graph; what a user sees, here, on the one that every kernel can do it on.

use super::*;

/// A btrfs with its quotas on, mounted at `at` while this lives.
struct Btrfs<'a>(&'a str);

impl<'a> Btrfs<'a> {
    fn new(image: &str, at: &'a str) -> Self {
        let run = |program: &str, args: &[&str]| {
            let out = Command::new(program).args(args).output().unwrap();
            assert!(out.status.success(), "{program}: {out:?}");
        };
        fs::File::create(image).unwrap().set_len(1 << 30).unwrap();
        fs::create_dir_all(at).unwrap();
        run("mkfs.btrfs", &["-fq", image]);
        run("mount", &["-o", "loop", image, at]);
        let this = Self(at);
        run("btrfs", &["quota", "enable", at]);
        this
    }
}

impl Drop for Btrfs<'_> {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(self.0, flags).unwrap();
    }
}

#[test]
fn size_of_a_container() {
    if skip_unless_root("size_of_a_container") {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (image, mounted) = (at("image"), at("fs"));
    let _fs = Btrfs::new(&image, &mounted);
    let h = Host::new_in("btrfs", Path::new(&mounted));
    let write = |mib: u32| format!("busybox dd if=/dev/urandom of=/f bs=1M count={mib} conv=fsync");
    let run = |flags: &[&str], mib: u32| {
        let script = write(mib);
        h.output(
            &[
                &["run", "--network", "none"],
                flags,
                &["box", "sh", "-c", &script],
            ]
            .concat(),
        )
    };
    let out = run(&["--name", "small", "--storage-opt", "size=8m"], 16);
    let said = text(&out.stderr);
    assert!(!out.status.success(), "{said}");
    assert!(
        ["Disk quota exceeded", "No space left"]
            .iter()
            .any(|w| said.contains(w)),
        "{said}"
    );
    assert!(run(&["--rm"], 16).status.success());
    assert!(
        run(&["--rm", "--storage-opt", "size=0"], 16)
            .status
            .success()
    );
    let out = run(&["--rm", "--storage-opt", "SIZE=64M"], 16);
    assert!(out.status.success(), "{}", text(&out.stderr));

    assert_eq!(h.inspect("small")["HostConfig"]["StorageOpt"]["size"], "8m");
    assert!(h.ok(&["diff", "small"]).contains("A /f"));
    let big = h.path("big");
    fs::write(&big, vec![7; 16 << 20]).unwrap();
    h.fails(1, &["cp", &big, "small:/big"]);
    h.ok(&["export", "-o", &h.path("out.tar"), "small"]);
    h.ok(&["commit", "small", "made"]);
    // What is made of it is not limited.
    h.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "made",
        "sh",
        "-c",
        &write(16),
    ]);
    h.ok(&["rm", "small"]);

    for (option, words) in [
        ("size=x", "invalid size: 'x'"),
        ("Foo=1", "Unknown option foo"),
        ("size", "invalid storage option size"),
    ] {
        let said = h.fails(125, &["run", "--storage-opt", option, "box"]);
        assert!(said.contains(words), "{said}");
    }
    let off = Command::new("btrfs")
        .args(["quota", "disable", &mounted])
        .status();
    assert!(off.unwrap().success());
    let said = h.fails(125, &["run", "--storage-opt", "size=8m", "box"]);
    assert!(said.contains("btrfs quota enable"), "{said}");
    h.assert_empty();
}
