//! Making a layer: its tar stream goes to a file as it arrives, its entries are looked at in
//! passing.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use unlade_unpack::{
    Applied, Digest, Error, Hasher, Kind, LayerReport, Notes, NullSink, Result, Sink, Want,
    entry::{Entry, EntryKind, Role},
    fault,
};

use super::open_file;
use crate::{
    driver::{Finding, LayerId, LayerInfo, LayerKey, LayerTxn, Usage, check_report},
    erofs::{build, content::Placer, xattrs::effective},
    info,
    layout::{Place, Shelf},
    verify,
};

/// Names of a layer's files.
pub(super) const TAR: &str = "tar";
pub(super) const SPILL: &str = "spill";
const SPILL_SUM: &str = "spill.blake3";

/// Bytes of entries that are kept for the index, over all layers. What is over it is read from
/// the tars again.
const RECENT_BYTES: usize = 32 << 20;

/// Entries of layers that were made just now: the next thing to happen is an index over them.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    layers: VecDeque<(LayerId, Arc<[Entry]>, usize)>,
    bytes: usize,
}

impl Recent {
    fn put(&self, id: &LayerId, entries: Vec<Entry>, bytes: usize) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes;
        kept.layers.push_back((id.clone(), entries.into(), bytes));
        while kept.bytes > RECENT_BYTES {
            let Some((_, _, bytes)) = kept.layers.pop_front() else {
                break;
            };
            kept.bytes -= bytes;
        }
    }

    /// The layer's entries, which are forgotten.
    pub(super) fn take(&self, id: &LayerId) -> Option<Arc<[Entry]>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.layers.iter().position(|l| l.0 == *id)?;
        let (_, entries, bytes) = kept.layers.remove(at)?;
        kept.bytes -= bytes;
        Some(entries)
    }
}

/// A layer being made.
#[derive(Debug)]
pub(super) struct Txn {
    sink: TarSink,
    place: Place,
    recent: Recent,
}

impl Txn {
    pub(super) fn new(place: Place, recent: Recent) -> Result<Self> {
        let sink = TarSink {
            tar: place.file(TAR)?,
            written: 0,
            rules: NullSink::new(),
            placer: Placer::new(),
            notes: Notes::default(),
            lists_root: false,
            entries: Some((Vec::new(), 0)),
        };
        Ok(Self {
            sink,
            place,
            recent,
        })
    }
}

impl LayerTxn for Txn {
    fn sink(&mut self) -> &mut dyn Sink {
        &mut self.sink
    }

    fn commit(self: Box<Self>, key: &LayerKey, report: &LayerReport) -> Result<LayerInfo> {
        check_report(key, report)?;
        let Self {
            sink,
            place,
            recent,
        } = *self;
        if sink.written != report.tar_bytes {
            let message = format!(
                "{} bytes of a tar of {} were kept",
                sink.written, report.tar_bytes
            );
            return Err(Error::new(Kind::Bug, message));
        }
        let host = |e| Error::host("look at a new layer's files", e);
        let mut usage = Usage {
            bytes: sink.tar.metadata().map_err(host)?.blocks() * 512,
            inodes: 3,
        };
        if sink.placer.spill_bytes() > 0 {
            let spill = place.file(SPILL)?;
            build::spill(&sink.tar, &sink.placer, &spill)?;
            let sum = sum(&spill).map_err(host)?;
            place.write(SPILL_SUM, sum.to_hex().as_bytes())?;
            usage.bytes += spill.metadata().map_err(host)?.blocks() * 512;
            usage.inodes += 2;
        }
        let id = LayerId::of(&key.diff_id);
        let info = info::Layer {
            usage,
            lists_root: sink.lists_root,
            depends: false,
            below: 0,
        };
        info.write(&place)?;
        place.publish(Shelf::Layers, id.as_str())?;
        if let Some((entries, bytes)) = sink.entries {
            recent.put(&id, entries, bytes);
        }
        Ok(LayerInfo { id, usage })
    }
}

/// Keeps the tar stream.
#[derive(Debug)]
struct TarSink {
    tar: File,
    written: u64,
    /// Counts, and holds entries to the rules that need no tree.
    rules: NullSink,
    placer: Placer,
    notes: Notes,
    lists_root: bool,
    /// All entries and about how many bytes they take, unless those are too many.
    entries: Option<(Vec<Entry>, usize)>,
}

impl Sink for TarSink {
    fn begin(&mut self) -> Result<()> {
        self.rules.begin()
    }

    fn tar(&mut self, bytes: &Bytes) -> Result<()> {
        let host = |e| Error::host("write a layer's tar", e);
        fault::point("tar").map_err(host)?;
        self.tar.write_all(bytes).map_err(host)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn entry(&mut self, entry: Entry) -> Result<Want> {
        self.placer.place(&entry);
        self.lists_root |= entry.path.is_empty();
        if !entry.meta.xattrs.is_empty() {
            let what = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
            let notes = &mut self.notes;
            effective(&entry, &mut |name, why| {
                notes.add(&what(name), why, &entry.path)
            });
        }
        if matches!(entry.role(), Ok(Role::AufsResidue)) {
            let why = "bookkeeping of AUFS without content";
            self.notes.add("aufs", why, &entry.path);
        }
        if let Some((entries, bytes)) = &mut self.entries {
            *bytes += bytes_of(&entry);
            if *bytes < RECENT_BYTES {
                entries.push(entry.clone());
            } else {
                self.entries = None;
            }
        }
        self.rules.entry(entry)
    }

    fn payload(&mut self, _at: u64, _bytes: Bytes) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<Applied> {
        let mut applied = self.rules.finish()?;
        applied.skipped = self.notes.take();
        Ok(applied)
    }
}

fn bytes_of(entry: &Entry) -> usize {
    let extra = match &entry.kind {
        EntryKind::Symlink { target } | EntryKind::HardLink { target } => target.len(),
        EntryKind::File {
            sparse: Some(map), ..
        } => size_of_val(&**map),
        _ => 0,
    };
    let xattrs = entry
        .meta
        .xattrs
        .iter()
        .map(|(n, v)| n.len() + v.len() + 64);
    size_of::<Entry>() + entry.path.len() + extra + xattrs.sum::<usize>()
}

/// Opens a file of a layer that must be there.
pub(super) fn open(dir: &OwnedFd, name: &str, id: &LayerId) -> Result<File> {
    open_file(dir, name)?.ok_or_else(|| info::damaged(&format!("the layer `{id}`")))
}

fn sum(mut file: &File) -> std::io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    std::io::Seek::rewind(&mut file)?;
    hasher.update_reader(file)?;
    Ok(hasher.finalize())
}

/// Compares a layer's files with their digests.
pub(super) fn verify(dir: &OwnedFd, id: &LayerId) -> Result<Vec<Finding>> {
    let mut out = Vec::new();
    let mut of_file = |name: &str, what: &str| {
        out.push(verify::of_layer(&format!("its {name} {what}")));
    };
    let Ok(want) = id.as_str().replacen('-', ":", 1).parse::<Digest>() else {
        return Ok(vec![verify::of_layer("its name is none of this driver's")]);
    };
    match open_file(dir, TAR)? {
        None => of_file(TAR, "is gone"),
        Some(mut tar) => {
            let mut hasher = Hasher::new(want.algorithm());
            let mut block = vec![0; 1 << 20];
            loop {
                match tar.read(&mut block) {
                    Ok(0) => break,
                    Ok(n) => hasher.update(&block[..n]),
                    Err(e) => {
                        of_file(TAR, &format!("cannot be read: {e}"));
                        return Ok(out);
                    }
                }
            }
            if hasher.finish() != want {
                of_file(TAR, "is not what its digest says");
            }
        }
    }
    let kept = open_file(dir, SPILL_SUM)?;
    match (open_file(dir, SPILL)?, kept) {
        (None, None) => {}
        (Some(spill), Some(mut kept)) => {
            let mut text = String::new();
            let read = kept.read_to_string(&mut text).is_ok();
            let sum = sum(&spill).map(|s| s.to_hex());
            if !read || !sum.is_ok_and(|s| *s.as_str() == text) {
                of_file(SPILL, "is not what its digest says");
            }
        }
        _ => of_file(SPILL, "or its digest is gone"),
    }
    Ok(out)
}
