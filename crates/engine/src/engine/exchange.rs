//! Files and containers: copied in and out, listed, exported.

use std::{
    io::{Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{
    AtFlags, StatVfsMountFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW, fstatvfs, futimens,
    statx,
};
use unlade_graph::driver::{Change, MountOf};
use unlade_unpack::Cancel;

use super::Engine;
use crate::{
    container::{Containers, Record, Root, With},
    error::{Error, Kind, Result},
    exchange::{
        self, Asked, Dest, Extract, Owner, Source, dest_in_root, dest_on_host, hide_own,
        source_in_root, source_on_host, transfer,
    },
    spec,
    store::Image,
    tarball::{Enter, Packer},
    volume::What,
};

/// How files are copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyWays {
    /// A link at the end of the source is followed.
    pub follow: bool,
    /// Into a container: the files become its user's. Out of one: they keep their owners.
    pub archive: bool,
}

impl Engine {
    /// What changed in a container's own files since it was made.
    ///
    /// # Errors
    /// If there is no such container, or it cannot be read.
    pub fn container_changes(&self, name: &str) -> Result<Vec<Change>> {
        let containers = self.containers()?;
        let record = containers.find(name)?;
        let root = containers.root(&record, With::Nothing)?;
        self.changes_of(&containers, &record, &root)
    }

    pub(super) fn changes_of(
        &self,
        containers: &Containers<'_>,
        record: &Record,
        root: &Root,
    ) -> Result<Vec<Change>> {
        let changes = containers.raw_changes(record)?;
        hide_own(changes, root.fd(), &|| self.below(record))
    }

    /// The merged tree of the layers that a container is upon.
    pub(super) fn below(&self, record: &Record) -> Result<OwnedFd> {
        let layers = self.layer_ids(&self.image_of(record)?)?;
        Ok(self.driver.mount(MountOf::Layers(&layers))?)
    }

    pub(super) fn image_of(&self, record: &Record) -> Result<Image> {
        self.store.image(&record.image)?.ok_or_else(|| {
            let m = format!(
                "the image {} of container {} is gone",
                record.image, record.name
            );
            Error::new(Kind::NotFound, m).with_hint("pull it again")
        })
    }

    /// Writes a tar of a container's own files to `out`.
    ///
    /// # Errors
    /// If there is no such container, or reading or writing fails.
    pub fn export_container(&self, name: &str, out: &mut dyn Write, cancel: &Cancel) -> Result<()> {
        let containers = self.containers()?;
        let record = containers.find(name)?;
        let root = containers.root(&record, With::Nothing)?;
        // Nothing is mounted in it, and all of it is the container's own.
        let mut packer = Packer::new(out, false, cancel);
        packer.tree(root.fd(), b"", &|_, _| true)?;
        packer.finish()?;
        containers.note("export", &record);
        Ok(())
    }

    /// Copies files of this machine into a container; how many bytes of tar that took.
    ///
    /// # Errors
    /// In docker's words, if that cannot be done.
    pub fn copy_in(
        &self,
        from: &[u8],
        (name, to): (&str, &[u8]),
        ways: CopyWays,
        cancel: &Cancel,
    ) -> Result<u64> {
        let containers = self.containers()?;
        let record = containers.find(name)?;
        let source = source_on_host(from, ways.follow)?;
        let root = containers.root(&record, With::Mounts)?;
        let dest = dest_in_root(root.fd(), to, name)?;
        let placed = exchange::place(
            &source.asked,
            source.is_dir,
            dest.there,
            dest.asked.dir,
            dest.asked.base(),
        )?;
        let mut sink = self.extraction(&record, &root, &dest, placed.inside, ways)?;
        let bytes = transfer(
            &self.unpacker,
            |out| pack(&source, out, &placed.top, cancel, &|_, _| true),
            &mut sink,
        )?;
        touch(&dest);
        containers.note("extract-to-dir", &record);
        Ok(bytes)
    }

    /// Puts a tar into a directory of a container.
    ///
    /// # Errors
    /// In docker's words, if that cannot be done.
    pub fn put_tar(
        &self,
        from: impl Read + Send + 'static,
        (name, to): (&str, &[u8]),
        ways: CopyWays,
    ) -> Result<()> {
        let containers = self.containers()?;
        let record = containers.find(name)?;
        let root = containers.root(&record, With::Mounts)?;
        let dest = dest_in_root(root.fd(), to, name)?;
        if !dest.is_dir() {
            let m = format!(
                "destination \"{name}:{}\" must be a directory",
                dest.shown()
            );
            return Err(
                Error::new(Kind::BadInput, m).with_hint("a tar is put into one that is there")
            );
        }
        let mut sink = self.extraction(&record, &root, &dest, true, ways)?;
        exchange::receive(&self.unpacker, from, &mut sink)?;
        touch(&dest);
        containers.note("extract-to-dir", &record);
        Ok(())
    }

    fn extraction(
        &self,
        record: &Record,
        root: &Root,
        dest: &Dest,
        inside: bool,
        ways: CopyWays,
    ) -> Result<Extract> {
        writable(record, root, dest)?;
        let user = &record.request.config.user;
        let owner = if ways.archive && !user.is_empty() {
            let user = spec::user::resolve(root.fd(), user, &[])?;
            Owner::Of(user.uid, user.gid)
        } else {
            Owner::Archive
        };
        let below = if inside {
            &dest.asked.path[..]
        } else {
            dest.asked.parent()
        };
        let host = |e| Error::host("open the container's root", e);
        let root = root.dir.try_clone().map_err(host)?;
        Ok(Extract::new(&self.unpacker, root, below, owner)?)
    }

    /// Copies files of a container to this machine; how many bytes of tar that took.
    ///
    /// # Errors
    /// In docker's words, if that cannot be done.
    pub fn copy_out(
        &self,
        (name, from): (&str, &[u8]),
        to: &[u8],
        ways: CopyWays,
        cancel: &Cancel,
    ) -> Result<u64> {
        let containers = self.containers()?;
        let record = containers.find(name)?;
        let root = containers.root(&record, With::Mounts)?;
        let dest = dest_on_host(to)?;
        let source = source_in_root(root.fd(), from, ways.follow, name)?;
        let placed = exchange::place(
            &source.asked,
            source.is_dir,
            dest.there,
            dest.asked.dir,
            dest.asked.base(),
        )?;
        let owner = if ways.archive {
            Owner::Archive
        } else {
            Owner::Caller
        };
        let host = |e| Error::host("open the destination", e);
        let dir = dest.dir.try_clone().map_err(host)?;
        let mut sink = Extract::new(&self.unpacker, dir, b"", owner)?;
        let enter = entered(&record, &source);
        let bytes = transfer(
            &self.unpacker,
            |out| pack(&source, out, &placed.top, cancel, &enter),
            &mut sink,
        )?;
        touch(&dest);
        containers.note("archive-path", &record);
        Ok(bytes)
    }

    /// Writes a tar of files of a container to `out`.
    ///
    /// # Errors
    /// In docker's words, if that cannot be done.
    pub fn take_tar(
        &self,
        (name, from): (&str, &[u8]),
        out: &mut dyn Write,
        ways: CopyWays,
        cancel: &Cancel,
    ) -> Result<()> {
        let containers = self.containers()?;
        let record = containers.find(name)?;
        let root = containers.root(&record, With::Mounts)?;
        let source = source_in_root(root.fd(), from, ways.follow, name)?;
        let mut packer = Packer::new(out, false, cancel);
        let enter = entered(&record, &source);
        packer.tree(source.handle.as_fd(), source.asked.top(), &enter)?;
        packer.finish()?;
        containers.note("archive-path", &record);
        Ok(())
    }
}

fn pack(
    source: &Source,
    out: &mut dyn Write,
    top: &[u8],
    cancel: &Cancel,
    enter: Enter<'_>,
) -> Result<u64> {
    let mut packer = Packer::new(out, true, cancel);
    packer.tree(source.handle.as_fd(), top, enter)?;
    packer.finish()
}

/// Which directories below a source in a container are gone into: all but those where the kernel or
/// memory is mounted, unless it was the user who had that mounted.
fn entered<'a>(
    record: &'a Record,
    source: &'a Source,
) -> impl Fn(&[u8], BorrowedFd<'_>) -> bool + Sync + 'a {
    let mounts = record.facts.mounts.iter().filter(|m| m.what != What::Tmpfs);
    let mounts: Vec<&[u8]> = mounts.map(|m| m.target.as_bytes()).collect();
    move |path, handle| {
        let full = [&source.asked.path[..], b"/", path].concat();
        let full = Asked::new(&full, b"").path;
        let users = |to: &&[u8]| {
            full.strip_prefix(*to)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        mounts.iter().any(users) || !exchange::is_of_memory(handle, source.handle.as_fd())
    }
}

/// Refuses what is not to be written, in docker's words.
fn writable(record: &Record, root: &Root, dest: &Dest) -> Result<()> {
    let read_only = fstatvfs(&dest.dir).is_ok_and(|s| s.f_flag.contains(StatVfsMountFlags::RDONLY));
    let mount = |fd: BorrowedFd<'_>| {
        statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|s| s.stx_mnt_id)
    };
    let in_root = matches!((mount(root.fd()), mount(dest.dir.as_fd())), (Ok(a), Ok(b)) if a == b);
    let m = match in_root {
        true if read_only || record.request.host_config.readonly_rootfs => {
            "container rootfs is marked read-only"
        }
        false if read_only => "mounted volume is marked read-only",
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Denied, m).with_hint("copy to a place that can be written"))
}

/// The time of a directory that something was put into.
fn touch(dest: &Dest) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    if let Err(e) = futimens(&dest.dir, &times) {
        tracing::debug!(error = %e, "the time of the directory stays as it was");
    }
}
