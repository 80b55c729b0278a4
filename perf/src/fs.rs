//! Freshly made file systems on a loop device, one per timed run.
//!
//! Everything is mounted in a mount namespace of this process (see [`crate::sys::private_mounts`])
//! by `mount -o loop`: however the process ends, the kernel unmounts and releases the loop device.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::{machine, sys};

/// Bytes of the file system image. The same for every workload, and so the same geometry.
const IMAGE_BYTES: u64 = 6 << 30;
/// Room for the image and its metadata in the tmpfs.
const TMPFS_SIZE: &std::ffi::CStr = c"size=6400m,mode=700";
/// Memory that has to be available, in KiB, before the image is put into memory: its worst case,
/// as much again in the page cache of the file system on it, and room for sources and contestants.
const MEMORY_NEEDED_KIB: u64 = 14 << 20;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FsKind {
    /// ext4, with all its tables written at once by mkfs.
    Ext4,
    /// xfs as mkfs makes it.
    Xfs,
    /// btrfs as mkfs makes it.
    Btrfs,
    /// No file system of our own: a new directory where the workloads lie (works without root).
    Plain,
}

impl FsKind {
    /// Its name as mount knows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Plain => "plain",
        }
    }

    fn mkfs(self) -> Result<Command> {
        let (program, args): (_, &[&str]) = match self {
            Self::Ext4 => (
                "mkfs.ext4",
                &[
                    "-q",
                    "-F",
                    "-E",
                    "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
                ],
            ),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
            Self::Plain => bail!("a plain directory is not made by mkfs"),
        };
        let mut command = Command::new(program);
        command.args(args);
        Ok(command)
    }
}

/// Where the image file of the file systems lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backing {
    /// In memory if there is enough of it, else on disk.
    Auto,
    /// In a tmpfs of our own.
    Tmpfs,
    /// In the workload directory.
    Disk,
}

/// The place where file systems are made.
#[derive(Debug)]
pub(crate) struct Lab {
    root: PathBuf,
    /// Never `Auto`.
    pub(crate) backing: Backing,
    mounts: bool,
}

impl Lab {
    /// Prepares a lab in `root`. Enters a private mount namespace unless only plain directories
    /// are wanted, so no other thread may run yet.
    pub(crate) fn new(root: &Path, kinds: &[FsKind], backing: Backing) -> Result<Self> {
        sweep(root);
        let mounts = kinds.iter().any(|&kind| kind != FsKind::Plain);
        let enough = machine::meminfo_kib("MemAvailable").unwrap_or(0) >= MEMORY_NEEDED_KIB;
        let backing = match backing {
            Backing::Auto if enough => Backing::Tmpfs,
            Backing::Auto => Backing::Disk,
            chosen => chosen,
        };
        let lab = Self {
            root: root.to_owned(),
            backing,
            mounts,
        };
        if !mounts {
            return Ok(lab);
        }
        ensure!(
            is_root(),
            "loop file systems need root (as an ordinary user: --fs plain)"
        );
        sys::private_mounts()?;
        fs::create_dir_all(lab.mount_dir())?;
        rustix::mount::mount(
            "tmpfs",
            lab.mount_dir(),
            "tmpfs",
            MountFlags::empty(),
            TMPFS_SIZE,
        )
        .context("mount a tmpfs")?;
        fs::create_dir(lab.mount_point())?;
        fs::create_dir(lab.scratch())?;
        Ok(lab)
    }

    /// Makes a new, empty file system (or directory).
    pub(crate) fn fresh(&self, kind: FsKind) -> Result<Fresh> {
        if kind == FsKind::Plain {
            let dir = tempfile::Builder::new()
                .prefix(&format!("plain-{}-", std::process::id()))
                .tempdir_in(&self.root)?;
            return Ok(Fresh {
                path: dir.path().to_owned(),
                plain: Some(dir),
            });
        }
        let image = self.image();
        let file = File::create(&image).with_context(|| format!("create {}", image.display()))?;
        file.set_len(IMAGE_BYTES)?;
        drop(file);
        quietly(kind.mkfs()?.arg(&image))?;
        let path = self.mount_point();
        quietly(
            Command::new("mount")
                .args(["-t", kind.name(), "-o", "loop"])
                .arg(&image)
                .arg(&path),
        )?;
        Ok(Fresh { path, plain: None })
    }

    /// A directory in memory for what does not belong to a store: sockets, logs, mount points.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.mount_dir().join("scratch")
    }

    fn mount_dir(&self) -> PathBuf {
        self.root.join("mnt")
    }

    fn mount_point(&self) -> PathBuf {
        self.mount_dir().join("fs")
    }

    fn image(&self) -> PathBuf {
        match self.backing {
            Backing::Disk => self.root.join(format!("loop-{}.img", std::process::id())),
            _ => self.mount_dir().join("fs.img"),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.mounts {
            let _ = fs::remove_file(self.image());
            let _ = rustix::mount::unmount(self.mount_dir(), UnmountFlags::DETACH);
        }
    }
}

/// A freshly made file system; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Fresh {
    path: PathBuf,
    plain: Option<tempfile::TempDir>,
}

impl Fresh {
    /// Its root directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes everything back.
    pub(crate) fn flush(&self) -> Result<()> {
        let dir = File::open(&self.path)?;
        rustix::fs::syncfs(&dir).context("syncfs")
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if self.plain.is_some() {
            return;
        }
        // Until a process that flushes what was pulled is through.
        for _ in 0..600 {
            match rustix::mount::unmount(&self.path, UnmountFlags::empty()) {
                Err(rustix::io::Errno::BUSY) => std::thread::sleep(Duration::from_millis(50)),
                _ => return,
            }
        }
        eprintln!("perf: {} stays busy, detaching it", self.path.display());
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// Whether this process may mount.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Removes image files and directories of earlier runs whose process is gone.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some((kind, rest)) = name.split_once('-') else {
            continue;
        };
        if !["loop", "plain", "log", "registry"].contains(&kind) {
            continue;
        }
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if pid.is_empty() || Path::new("/proc").join(&pid).exists() {
            continue;
        }
        let path = entry.path();
        let _ = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
    }
}

fn quietly(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("start {name} (is it installed?)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name}: {}: {}",
        output.status,
        said.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_lab_makes_and_removes_directories() {
        let temp = tempfile::tempdir().unwrap();
        let lab = Lab::new(temp.path(), &[FsKind::Plain], Backing::Auto).unwrap();
        let fresh = lab.fresh(FsKind::Plain).unwrap();
        let path = fresh.path().to_owned();
        assert!(path.is_dir());
        drop(fresh);
        assert!(!path.exists());
    }

    #[test]
    fn leftovers_of_dead_processes_are_swept() {
        let temp = tempfile::tempdir().unwrap();
        let dead = temp.path().join("loop-4194305.img");
        let ours = temp.path().join(format!("loop-{}.img", std::process::id()));
        let other = temp.path().join("loop-x");
        for path in [&dead, &ours, &other] {
            fs::write(path, "").unwrap();
        }
        sweep(temp.path());
        assert!(!dead.exists() && ours.exists() && other.exists());
    }
}
