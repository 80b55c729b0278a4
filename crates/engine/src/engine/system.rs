//! The store as a whole: what it is, and whether it is sound.

use std::path::PathBuf;

use unlade_graph::probe::Reason;
use unlade_unpack::{Cancel, Digest};

use super::Engine;
use crate::{
    container::Status,
    error::Result,
    image::name::Reference,
    pull::PullRequest,
    rootless,
    store::{BrokenImage, CheckOptions, CheckReport, Repaired},
};

/// What an engine is and has.
#[derive(Debug)]
pub struct Info {
    /// The graph driver.
    pub driver: &'static str,
    /// How it works here.
    pub driver_notes: Vec<String>,
    /// Which drivers were tried, and why each was taken or not.
    pub reasons: Vec<String>,
    /// Where the store is.
    pub root: PathBuf,
    /// The configuration file, if one was read.
    pub config_file: Option<PathBuf>,
    /// Whether a pull waits for the disk.
    pub durability: &'static str,
    /// Whether blobs are kept.
    pub keep_blobs: &'static str,
    /// How it works for an ordinary user; empty for root.
    pub rootless: Vec<String>,
    /// Containers, by how they are.
    pub containers: Counts,
    /// Images that are listed.
    pub images: usize,
    /// Where images are mounted.
    pub mounts: Vec<(PathBuf, Digest)>,
}

/// How many containers there are of each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Of those that run and are not frozen.
    pub running: usize,
    /// Of those that are frozen.
    pub paused: usize,
    /// Of all others.
    pub stopped: usize,
}

/// A check of the store, and what became of it.
#[derive(Debug)]
pub struct Checked {
    /// What was wrong.
    pub found: CheckReport,
    /// What was repaired.
    pub repaired: Option<Repaired>,
    /// Images that were fetched again.
    pub fetched: Vec<String>,
    /// Images that could not be, and why.
    pub lost: Vec<(String, String)>,
    /// What is still wrong.
    pub left: Option<CheckReport>,
}

impl Checked {
    /// Whether nothing is wrong in the end.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.left.as_ref().unwrap_or(&self.found).is_clean()
    }
}

impl Engine {
    /// What this engine is and has.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn info(&self) -> Result<Info> {
        Ok(Info {
            driver: self.driver.kind().name(),
            driver_notes: self.driver.notes(),
            reasons: self.reasons.iter().map(reason).collect(),
            root: self.store.root().to_owned(),
            config_file: self.config.file.clone(),
            durability: match self.config.durability {
                crate::config::Durability::Fenced => "fenced",
                crate::config::Durability::Sync => "sync",
            },
            keep_blobs: if self.keep_blobs() { "always" } else { "never" },
            rootless: rootless::notes(),
            containers: self.counts()?,
            images: self.store.images()?.len(),
            mounts: self.mounts()?,
        })
    }

    fn counts(&self) -> Result<Counts> {
        let mut counts = Counts::default();
        for listed in self.containers()?.list()? {
            match listed.view.status {
                Status::Running => counts.running += 1,
                Status::Paused => counts.paused += 1,
                _ => counts.stopped += 1,
            }
        }
        Ok(counts)
    }

    /// Checks the whole store. With `repair`, what is damaged goes, and is fetched again from
    /// where it came.
    ///
    /// # Errors
    /// If the host refuses; what is wrong with the store is not an error.
    pub fn check(&self, repair: Option<PullRequest>, cancel: &Cancel) -> Result<Checked> {
        let options = CheckOptions {
            cancel: cancel.clone(),
            ..CheckOptions::default()
        };
        let found = self.beside_flush(|| self.store.check(&*self.driver, &options))?;
        let mut checked = Checked {
            found,
            repaired: None,
            fetched: Vec::new(),
            lost: Vec::new(),
            left: None,
        };
        let broken = self.store.broken_images()?;
        let Some(pull) = repair.filter(|_| !checked.found.is_clean() || !broken.is_empty()) else {
            return Ok(checked);
        };
        let repaired = self.store.repair(&*self.driver, &checked.found, cancel)?;
        for image in &repaired.images {
            let shown = name_of(image);
            match self.refetch(image, &pull) {
                Ok(()) => checked.fetched.push(shown),
                Err(e) => checked.lost.push((shown, e.to_string())),
            }
        }
        checked.repaired = Some(repaired);
        checked.left = Some(self.store.check(&*self.driver, &options)?);
        Ok(checked)
    }

    /// Pulls a broken image again, by a digest that it came by, also where the name that it had
    /// then was taken away.
    fn refetch(&self, broken: &BrokenImage, like: &PullRequest) -> Result<()> {
        let image = &broken.image;
        let mut last = None;
        for (repository, digest) in &broken.origins {
            let reference = Reference::parse(repository)?.with_digest(*digest);
            let request = PullRequest {
                reference,
                cancel: Cancel::new(),
                platform: image.platform.clone(),
                complete: true,
                ..like.clone()
            };
            match self.pull(&request) {
                Ok(pulled) if pulled.id == image.id => return Ok(()),
                Ok(_) => {}
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| {
            let m = "it came from no registry";
            crate::error::Error::new(crate::error::Kind::NotFound, m)
                .with_hint("load or build it again")
        }))
    }
}

fn reason(reason: &Reason) -> String {
    let works = if reason.works {
        "works"
    } else {
        "does not work"
    };
    format!("{} {works}: {}", reason.kind, reason.why)
}

fn name_of(broken: &BrokenImage) -> String {
    let image = &broken.image;
    image
        .names
        .first()
        .cloned()
        .unwrap_or_else(|| image.id.to_string())
}
