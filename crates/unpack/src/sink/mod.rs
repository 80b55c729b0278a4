//! Where entries go: the [`Sink`] trait and the sinks of this crate.

mod copy_up;
mod dir;
mod passed;
mod remove;
mod tree;
mod whiteout;

use bytes::Bytes;

pub use self::{
    dir::{DirOptions, DirSink, IdMap, IdRange, Owners, Whiteouts, only_own_id},
    passed::Passed,
    tree::{Node, NodeKind, TreeSink},
};
use crate::{
    entry::{Entry, EntryKind, Role},
    error::Result,
    report::{Counts, Skipped},
};

/// What a sink wants of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Its payload, if it has any.
    Payload,
    /// Nothing more: payload is passed over (it is still decoded and hashed).
    Skip,
}

/// What a sink has done with a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Applied {
    /// Entries by type.
    pub counts: Counts,
    /// What was left out, and why.
    pub skipped: Vec<Skipped>,
}

/// Receives a layer, entry by entry, in archive order, on the thread that called
/// [`Layer::apply`](crate::Layer::apply).
///
/// The calls of a layer are: `begin`, then `tar` for each piece of the stream, for every entry in it `entry` and, for a file whose payload
/// is wanted, any number of `payload` and one `end_entry`; last `finish`. An error from any of
/// them, or in the stream itself, ends the layer with `abort` instead.
///
/// Payload shares the decoder's memory budget: a sink that needs bytes for longer than until
/// `finish` copies them.
pub trait Sink {
    /// A layer begins.
    ///
    /// # Errors
    /// Ends the layer.
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// Bytes of the tar stream itself, all of them in order, each before the entries that begin
    /// in it are given. For sinks that keep the stream.
    ///
    /// # Errors
    /// Ends the layer.
    fn tar(&mut self, bytes: &Bytes) -> Result<()> {
        let _ = bytes;
        Ok(())
    }

    /// An entry, with a name that is safe to use under a root: see [`Entry::path`].
    ///
    /// # Errors
    /// Ends the layer.
    fn entry(&mut self, entry: Entry) -> Result<Want>;

    /// Bytes of the last entry's file, at `at` in it. Pieces come in order and may leave holes.
    ///
    /// # Errors
    /// Ends the layer.
    fn payload(&mut self, at: u64, bytes: Bytes) -> Result<()>;

    /// The last entry's file is complete.
    ///
    /// # Errors
    /// Ends the layer.
    fn end_entry(&mut self) -> Result<()> {
        Ok(())
    }

    /// The stream is complete and both digests hold. Waits for all that is under way.
    ///
    /// # Errors
    /// Ends the layer: nothing of it may be used.
    fn finish(&mut self) -> Result<Applied>;

    /// The layer failed or was cancelled. Must stop all that is under way; what was built is
    /// the caller's to remove.
    fn abort(&mut self) {}
}

/// Counts an entry, and checks that its name plays by the rules of whiteouts.
fn count(counts: &mut Counts, entry: &Entry) -> Result<()> {
    match entry.role()? {
        Role::Whiteout { .. } => counts.whiteouts += 1,
        Role::Opaque => counts.opaques += 1,
        Role::AufsResidue => {}
        Role::Plain => count_kind(counts, entry),
    }
    Ok(())
}

/// Counts an entry by its type alone.
fn count_kind(counts: &mut Counts, entry: &Entry) {
    let slot = match &entry.kind {
        EntryKind::File { size, .. } => {
            counts.file_bytes += size;
            &mut counts.files
        }
        EntryKind::Dir => &mut counts.directories,
        EntryKind::Symlink { .. } => &mut counts.symlinks,
        EntryKind::HardLink { .. } => &mut counts.hard_links,
        EntryKind::Char { .. } | EntryKind::Block { .. } => &mut counts.devices,
        EntryKind::Fifo => &mut counts.fifos,
    };
    *slot += 1;
}

/// Rules on entries that hold for every sink.
fn check(entry: &Entry) -> Result<()> {
    use crate::error::Error;
    match entry.kind {
        EntryKind::Dir => Ok(()),
        _ if entry.path.is_empty() => Err(Error::bad("the root of an image must be a directory")),
        EntryKind::Char { major: 0, minor: 0 } => Err(Error::bad(
            "character device 0:0 is overlayfs's whiteout, not a device",
        )
        .with_hint("the layer was made from an overlay directory by a broken tool")),
        _ => Ok(()),
    }
}

/// Verifies a layer without keeping anything.
///
/// ```
/// # use unlade_unpack::{Expect, NullSink, Unpacker, source::BytesSource};
/// let tar = vec![0_u8; 1024];
/// let report =
///     Unpacker::new().run(BytesSource::new(tar), Expect::default(), &mut NullSink::new())?;
/// assert_eq!(report.tar_bytes, 1024);
/// # Ok::<(), unlade_unpack::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct NullSink {
    counts: Counts,
}

impl NullSink {
    /// A sink that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Sink for NullSink {
    fn begin(&mut self) -> Result<()> {
        self.counts = Counts::default();
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<Want> {
        check(&entry)?;
        count(&mut self.counts, &entry)?;
        Ok(Want::Skip)
    }

    fn payload(&mut self, _at: u64, _bytes: Bytes) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<Applied> {
        Ok(Applied {
            counts: std::mem::take(&mut self.counts),
            skipped: Vec::new(),
        })
    }
}
