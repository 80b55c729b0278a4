//! What everything takes of the disk.

use super::Engine;
use crate::{
    container::Listed,
    error::Result,
    store::{Df, Image, Share},
    volume::Volume,
};

/// What everything takes of the disk.
#[derive(Debug)]
pub struct Usage {
    /// Images, layers and blobs together, by the store's records.
    pub store: Df,
    /// Each image.
    pub images: Vec<ImageUsage>,
    /// Each container.
    pub containers: Vec<ContainerUsage>,
    /// Each volume.
    pub volumes: Vec<VolumeUsage>,
}

/// What an image takes.
#[derive(Debug)]
pub struct ImageUsage {
    /// The image.
    pub image: Image,
    /// How much of its size it has in common with other images, in bytes.
    pub shared: u64,
    /// How many containers were made from it.
    pub containers: u64,
}

/// What a container takes.
#[derive(Debug)]
pub struct ContainerUsage {
    /// The container.
    pub listed: Listed,
    /// What was written to its root, in bytes.
    pub bytes: u64,
}

/// What a volume takes.
#[derive(Debug)]
pub struct VolumeUsage {
    /// The volume.
    pub volume: Volume,
    /// How many containers use it.
    pub users: u64,
    /// What is in it, in bytes; `None` if it is a directory of the host's.
    pub bytes: Option<u64>,
}

impl Usage {
    /// All containers; in use are those that run.
    pub fn all_containers(&self) -> Share {
        let each = self.containers.iter();
        together(each.map(|c| (c.listed.view.is_active(), c.bytes)))
    }

    /// All volumes; in use are those of a container, running or not.
    pub fn all_volumes(&self) -> Share {
        let each = self.volumes.iter();
        together(each.map(|v| (v.users > 0, v.bytes.unwrap_or(0))))
    }
}

/// The sum of what is in use or not, with its bytes.
fn together(each: impl Iterator<Item = (bool, u64)>) -> Share {
    let mut share = Share::default();
    for (is_active, bytes) in each {
        share.count += 1;
        share.active += u64::from(is_active);
        share.bytes += bytes;
        share.reclaimable += if is_active { 0 } else { bytes };
    }
    share
}

impl Engine {
    /// What everything takes of the disk. Roots of containers and volumes are walked.
    ///
    /// # Errors
    /// If the store cannot be read, or a volume cannot be walked.
    pub fn df(&self) -> Result<Usage> {
        let all = self.containers()?;
        let mut containers = Vec::new();
        for listed in all.list()? {
            // One that is removed meanwhile takes nothing.
            let bytes = all.size(&listed.record).map_or(0, |(own, _)| own);
            containers.push(ContainerUsage { listed, bytes });
        }
        let shared = self.store.shared_sizes()?;
        let images = self.store.images()?.into_iter().map(|image| {
            let of_it = containers.iter();
            let of_it = of_it.filter(|c| c.listed.record.image == image.id);
            ImageUsage {
                shared: shared.get(&image.id).copied().unwrap_or(0),
                containers: of_it.count() as u64,
                image,
            }
        });
        let images = images.collect();
        let known = self.volumes();
        let used = known.used()?;
        let mut volumes = Vec::new();
        for volume in known.list()? {
            volumes.push(VolumeUsage {
                users: used.get(&volume.name).map_or(0, |ids| ids.len() as u64),
                bytes: known.size(&volume)?,
                volume,
            });
        }
        Ok(Usage {
            store: self.store.df()?,
            images,
            containers,
            volumes,
        })
    }
}
