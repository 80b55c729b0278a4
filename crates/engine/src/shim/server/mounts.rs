//! The mount namespace of a shim, and the root's mount in it.

use std::{fs::File, io, os::fd::OwnedFd, path::PathBuf};

use rustix::{
    fs::CWD,
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_change,
        move_mount, unmount,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::os::fd::AsFd;

use super::job::Job;
use crate::{
    runtime::cgroup::{self, UNIFIED},
    shim::Mounts,
    sys,
};

/// Where this shim's mounts are.
#[derive(Default)]
pub(super) struct Namespaces {
    /// The host's namespace, while we are in one of our own.
    host: Option<File>,
    /// The root's mount in the host's.
    mounted: Option<PathBuf>,
}

impl Namespaces {
    /// Puts the root's mount below the bundle.
    pub(super) fn enter(
        job: &mut Job,
        mounts: Mounts,
        rootfs: Option<&OwnedFd>,
    ) -> io::Result<Self> {
        let Some(bundle) = job.container().map(|c| c.bundle.clone()) else {
            return Ok(Self::default());
        };
        let mut spaces = Self::default();
        if mounts == Mounts::Own && rustix::process::geteuid().is_root() {
            let host = File::open("/proc/self/ns/mnt")?;
            unshare()?;
            if job.runtime.through.is_some() {
                // Ours alone: the host's stays where it is.
                hide_unified()?;
                job.runtime = job.runtime.unaided();
            }
            spaces.host = Some(host);
        }
        if let Some(rootfs) = rootfs {
            let target = bundle.join("rootfs");
            move_mount(
                rootfs,
                "",
                CWD,
                &target,
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            )?;
            if spaces.host.is_none() {
                spaces.mounted = Some(target);
            }
        }
        Ok(spaces)
    }

    /// Goes back to the host's namespace and drops the root's mount. Ours ends with its mounts,
    /// since nobody else is in it.
    pub(super) fn leave(&mut self) {
        if let Some(host) = self.host.take() {
            let kind = Some(LinkNameSpaceType::Mount);
            let _ = move_into_link_name_space(host.as_fd(), kind);
        }
        if let Some(path) = self.mounted.take() {
            let _ = unmount(&path, UnmountFlags::DETACH);
        }
    }
}

/// Gives this process a mount namespace that gets what is mounted on the host later.
fn unshare() -> io::Result<()> {
    sys::unshare_mounts()?;
    let how = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change("/", how)?)
}

/// Takes the second version's groups out of this mount namespace.
fn hide_unified() -> io::Result<()> {
    match unmount(UNIFIED, UnmountFlags::DETACH) {
        // Of a user namespace: what came from outside stays, and is covered.
        Err(Errno::INVAL) => {
            let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
            Ok(mount("tmpfs", UNIFIED, "tmpfs", flags, c"size=4k")?)
        }
        done => Ok(done?),
    }
}

/// Leaves out the second version's groups where they are mounted beside the first's, for whatever
/// this process becomes.
pub(super) fn without_unified() -> io::Result<()> {
    if cgroup::hybrid() {
        unshare()?;
        hide_unified()?;
    }
    Ok(())
}
