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
        match mkfs.arg(quiet).arg(&image).output() {
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
        mount.args(["-t", kind, "-o", "loop"]).arg(&image);
        let out = mount.arg(this.path()).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        this.mounted = true;
        Some(this)
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
