//! What an unpack found and where its time went.

use crate::{decode::Compression, digest::Digest};

/// Entries of a layer, by type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Directories with an entry of their own.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Hard links.
    pub hard_links: u64,
    /// Character and block devices.
    pub devices: u64,
    /// Named pipes.
    pub fifos: u64,
    /// Whiteouts.
    pub whiteouts: u64,
    /// Opaque markers.
    pub opaques: u64,
    /// Entries for a path that had one already; the last one counts.
    pub duplicates: u64,
    /// Sizes of all files added up, in bytes.
    pub file_bytes: u64,
}

impl Counts {
    /// Entries of all types.
    pub fn entries(&self) -> u64 {
        let Self {
            files,
            directories,
            symlinks,
            hard_links,
            devices,
            fifos,
            ..
        } = self;
        files
            + directories
            + symlinks
            + hard_links
            + devices
            + fifos
            + self.whiteouts
            + self.opaques
    }
}

/// Something of the layer that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// What: `device`, `owner`, or the name of an attribute.
    pub what: String,
    /// Why.
    pub why: &'static str,
    /// How often.
    pub count: u64,
    /// The first path it happened to.
    pub first: Vec<u8>,
}

/// Adds up [`Skipped`] notes; at most [`Notes::KINDS`] different ones.
#[derive(Debug, Default)]
pub struct Notes(Vec<Skipped>);

impl Notes {
    /// Most different notes kept.
    pub const KINDS: usize = 64;

    /// Notes that `what` of `path` was left out.
    pub fn add(&mut self, what: &str, why: &'static str, path: &[u8]) {
        if let Some(known) = self.0.iter_mut().find(|s| s.what == what && s.why == why) {
            known.count += 1;
        } else if self.0.len() < Self::KINDS {
            let (what, first) = (what.to_owned(), path.to_vec());
            self.0.push(Skipped {
                what,
                why,
                count: 1,
                first,
            });
        } else if let Some(last) = self.0.last_mut() {
            // An image with endless names of attributes: only counted.
            "other".clone_into(&mut last.what);
            last.count += 1;
        }
    }

    /// All notes so far, which are forgotten.
    pub fn take(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.0)
    }
}

/// One stage of the pipeline.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Stage {
    /// `read`, `decode`, `digest`, `apply` or `write`.
    pub name: &'static str,
    /// Time that the stage was at work and not waiting for its neighbours, in seconds. For
    /// `write`, summed over the writers.
    pub seconds: f64,
    /// CPU time, in seconds.
    pub cpu_seconds: f64,
    /// Bytes that went through it.
    pub bytes: u64,
}

/// What is known of a layer after [`Layer::apply`](crate::Layer::apply).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LayerReport {
    /// Digest of the blob as stored.
    pub blob: Digest,
    /// Digest of the tar stream: the layer's diffID.
    pub diff_id: Digest,
    /// How the blob is compressed.
    pub compression: Compression,
    /// Which decoder was chosen.
    pub decoder: String,
    /// Which engine wrote the files, and why not the one asked for.
    pub io: String,
    /// Bytes of the blob.
    pub compressed_bytes: u64,
    /// Bytes of the tar stream.
    pub tar_bytes: u64,
    /// Entries by type.
    pub counts: Counts,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
    /// Time and bytes by stage. Writers are shared: with several layers in flight, `write`
    /// counts what they did while this one was applied.
    pub stages: Vec<Stage>,
}
