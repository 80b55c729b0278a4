//! Mounts for people: an image's tree at a directory, read-only or with a layer to write to.
//!
//! A mount pins its image. The pin's owner names the directory and the snapshot, so that any
//! process can undo it; a pin whose directory is no longer mounted is dropped.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use unlade_graph::{
    driver::{MountOf, NodeId, RwOptions, SnapshotId},
    mount,
};

use super::Engine;
use crate::{
    error::{Error, Kind, Result},
    volume::is_mount,
};

/// What owners of pins of mounts begin with.
const OWNER: &str = "mount:";

/// What is to be mounted where.
#[derive(Debug, Clone)]
pub struct MountRequest {
    /// Name or id of the image.
    pub image: String,
    /// The directory, which exists.
    pub at: PathBuf,
    /// Whether changes are possible; they are lost with the mount.
    pub read_write: bool,
}

fn owner(snapshot: &str, at: &Path) -> String {
    format!("{OWNER}{snapshot}:{}", at.display())
}

/// Snapshot and directory of a mount's pin.
fn parse(owner: &str) -> Option<(&str, &Path)> {
    let (snapshot, at) = owner.strip_prefix(OWNER)?.split_once(':')?;
    Some((snapshot, Path::new(at)))
}

impl Engine {
    /// Mounts an image.
    ///
    /// # Errors
    /// If there is no such image or directory, or the kernel refuses.
    pub fn mount(&self, request: &MountRequest) -> Result<()> {
        let shown = request.at.display();
        let at = request.at.canonicalize().map_err(|e| {
            Error::host(format!("find the directory `{shown}`"), e)
                .with_hint("create it first: mkdir")
        })?;
        if at.to_str().is_none() {
            let m = format!("`{shown}` is not a name in UTF-8");
            return Err(Error::new(Kind::BadInput, m).with_hint("mount it at another directory"));
        }
        if !at.is_dir() {
            let m = format!("`{shown}` is not a directory");
            return Err(Error::new(Kind::BadInput, m).with_hint("mount it at one"));
        }
        if self.mounts()?.iter().any(|(used, _)| *used == at) && is_mount(&at)? {
            let m = format!("an image is mounted at `{shown}` already");
            return Err(Error::new(Kind::Conflict, m)
                .with_hint("unlade image unmount it first, or choose another directory"));
        }
        self.forget_stale_mounts()?;
        let image = self.store.resolve(&request.image)?;
        let layers = self.layer_ids(&image)?;
        let snapshot = if request.read_write {
            let mut random = [0_u8; 8];
            getrandom::fill(&mut random)
                .map_err(|e| Error::new(Kind::Host, format!("get random bytes: {e}")))?;
            format!("mount-{:016x}", u64::from_le_bytes(random))
        } else {
            String::new()
        };
        let owner = owner(&snapshot, &at);
        let _until_mounted = self.store.mounting()?;
        self.store.pin(&owner, &image.id)?;
        let mounted = (|| {
            let fd = match SnapshotId::parse(&snapshot) {
                Some(id) => {
                    self.driver.create_rw(&id, &layers, &RwOptions::default())?;
                    self.driver.mount(MountOf::Snapshot(&id))?
                }
                None => self.driver.mount(MountOf::Layers(&layers))?,
            };
            mount::attach(fd.as_fd(), &at)?;
            Ok(())
        })();
        if mounted.is_err() {
            self.forget(&snapshot, &owner)?;
        }
        mounted
    }

    /// Undoes [`Engine::mount`].
    ///
    /// # Errors
    /// If nothing of ours is mounted there, or it is in use.
    pub fn unmount(&self, at: &Path) -> Result<()> {
        let at = at
            .canonicalize()
            .map_err(|e| Error::host(format!("find the directory `{}`", at.display()), e))?;
        let pins = self.store.pins()?;
        let ours = pins
            .iter()
            .rev()
            .find(|(owner, _)| parse(owner).is_some_and(|(_, path)| path == at));
        let Some((owner, _)) = ours else {
            let m = format!("no image is mounted at `{}`", at.display());
            return Err(Error::new(Kind::NotFound, m).with_hint(
                "`unlade info` lists what is mounted; was it mounted with another --root?",
            ));
        };
        if is_mount(&at)? {
            mount::unmount(&at)?;
        }
        let snapshot = parse(owner).map_or("", |(snapshot, _)| snapshot);
        self.forget(snapshot, owner)
    }

    /// The directories at which images are mounted, with the images' ids.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn mounts(&self) -> Result<Vec<(PathBuf, unlade_unpack::Digest)>> {
        let pins = self.store.pins()?;
        Ok(pins
            .into_iter()
            .filter_map(|(owner, id)| parse(&owner).map(|(_, at)| (at.to_owned(), id)))
            .collect())
    }

    /// Drops the pins of mounts that are gone, after a reboot or a plain `umount`. Not while
    /// something is being mounted: its pin comes first.
    pub(super) fn forget_stale_mounts(&self) -> Result<()> {
        let Some(_nobody_mounts) = self.store.not_mounting()? else {
            return Ok(());
        };
        for (owner, _) in self.store.pins()? {
            if let Some((snapshot, at)) = parse(&owner)
                && !is_mount(at)?
            {
                self.forget(snapshot, &owner)?;
            }
        }
        Ok(())
    }

    fn forget(&self, snapshot: &str, owner: &str) -> Result<()> {
        if let Some(id) = SnapshotId::parse(snapshot) {
            self.driver.remove(&NodeId::Snapshot(id))?;
            self.driver.sweep()?;
        }
        self.store.unpin(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_name_snapshot_and_directory() {
        let owner = owner("mount-7", Path::new("/a:b/c"));
        assert_eq!(parse(&owner), Some(("mount-7", Path::new("/a:b/c"))));
        assert_eq!(
            parse(&super::owner("", Path::new("/x"))),
            Some(("", Path::new("/x")))
        );
        assert_eq!(parse("container:7"), None);
    }
}
