//! File systems of their own, on sparse files.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

/// A directory on a fresh file system; gone when it is dropped.
#[derive(Debug)]
pub struct Fs {
    dir: tempfile::TempDir,
    mounted: bool,
}

impl Fs {
    /// `None`, with a word why, if this user or machine cannot make it.
    pub fn new(kind: &str) -> Option<Self> {
        Self::sized(kind, 3 << 30)
    }

    pub fn sized(kind: &str, bytes: u64) -> Option<Self> {
        Self::made(kind, bytes, &[], "loop")
    }

    /// One that holds projects, or with btrfs subvolumes, to their limits.
    pub fn with_quotas(kind: &str) -> Option<Self> {
        let (mkfs, mount): (&[&str], _) = match kind {
            "ext4" => (
                &["-O", "quota,project", "-E", "quotatype=prjquota"],
                "prjquota",
            ),
            "xfs" => (&[], "pquota"),
            _ => (&[], "rw"),
        };
        let this = Self::made(kind, 1 << 30, mkfs, &format!("loop,{mount}"))?;
        if kind == "btrfs" {
            let mut enable = Command::new("btrfs");
            enable.args(["quota", "enable"]).arg(this.path());
            assert!(enable.status().unwrap().success());
        }
        Some(this)
    }

    fn made(kind: &str, bytes: u64, options: &[&str], mount_options: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may mount");
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("unlade-graph-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(bytes).unwrap();
        let quiet = if kind == "ext4" { "-Fq" } else { "-fq" };
        let mut mkfs = Command::new(format!("mkfs.{kind}"));
        match mkfs.arg(quiet).args(options).arg(&image).output() {
            Ok(out) => assert!(out.status.success(), "{out:?}"),
            Err(e) => {
                eprintln!("skipped: mkfs.{kind}: {e}");
                return None;
            }
        }
        let mut this = Self {
            dir,
            mounted: false,
        };
        std::fs::create_dir(this.path()).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", kind, "-o", mount_options]).arg(&image);
        let out = mount.arg(this.path()).output().unwrap();
        if mount_options.contains("quota") && !out.status.success() {
            let why = format!("this kernel has no quotas for {kind}: {out:?}");
            assert!(std::env::var_os("UNLADE_TEST_QUOTAS").is_none(), "{why}");
            eprintln!("skipped: {why}");
            return None;
        }
        assert!(out.status.success(), "{out:?}");
        this.mounted = true;
        Some(this)
    }

    /// The numbers of projects that have a limit, or a file.
    pub fn projects(&self) -> Vec<u32> {
        let mut report = Command::new("xfs_quota");
        report.args(["-x", "-f", "-c", "report -p -n -N"]);
        let out = report.arg(self.path()).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let text = String::from_utf8(out.stdout).unwrap();
        let parse = |line: &str| {
            let mut words = line.split_whitespace();
            let number = words.next()?.strip_prefix('#')?.parse().ok()?;
            // Used, soft and hard.
            let taken = words.take(3).any(|n| n != "0");
            (taken && number != 0).then_some(number)
        };
        text.lines().filter_map(parse).collect()
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("fs")
    }

    pub fn at(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Fs {
    fn drop(&mut self) {
        if self.mounted {
            let flags = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(self.path(), flags).unwrap();
        }
    }
}

/// Names in a directory.
pub fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}
