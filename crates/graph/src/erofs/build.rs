//! From layers on disk to their merged tree, and to an image of it.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::fd::AsFd,
};

use rustix::fs::{copy_file_range, ftruncate};
use unlade_unpack::{Error, Kind, Limits, Result, entry::Entry};

use super::{
    content::{Copy, Placer},
    scan::scan,
    tree::{Node, Source, Tree},
    writer::{self, Extra, Payload, Written},
};

/// A layer to be merged.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Its tar stream.
    pub tar: &'a File,
    /// What it spilled, if it did.
    pub spill: Option<&'a File>,
    /// Its entries, if they are known already; else they are read from the tar.
    pub entries: Option<&'a [Entry]>,
    /// Text to know it by, see [`Extra::tag`].
    pub tag: [u8; 64],
}

/// The merged tree of layers, lowest first.
///
/// # Errors
/// If a tar cannot be read, or a layer does not fit those below it.
pub fn tree(layers: &[Layer<'_>], limits: &Limits) -> Result<Tree> {
    let mut tree = Tree::new();
    for layer in layers {
        tree.begin_layer()?;
        let mut placer = Placer::new();
        let mut apply = |entry: &Entry| {
            let content = placer.place(entry);
            tree.apply(entry, content)
        };
        match layer.entries {
            Some(entries) => entries.iter().try_for_each(&mut apply)?,
            None => scan(layer.tar, limits, |entry| apply(&entry))?,
        }
    }
    Ok(tree)
}

/// The devices that an index of `tree` needs, in the order of their numbers, each with its file.
///
/// # Errors
/// If a file's size cannot be told.
pub fn devices<'a>(tree: &Tree, layers: &[Layer<'a>]) -> Result<Vec<(Extra, &'a File)>> {
    let sources = tree.sources().into_iter();
    sources
        .map(|source| {
            let file = file_of(layers, source)?;
            let meta = file.metadata();
            let bytes = meta
                .map_err(|e| Error::host("look at a layer's file", e))?
                .len();
            let (Source::Tar(n) | Source::Spill(n)) = source;
            let tag = layers.get(usize::from(n)).map_or([0; 64], |l| l.tag);
            Ok((Extra { source, bytes, tag }, file))
        })
        .collect()
}

fn file_of<'a>(layers: &[Layer<'a>], source: Source) -> Result<&'a File> {
    let file = match source {
        Source::Tar(n) => layers.get(usize::from(n)).map(|l| l.tar),
        Source::Spill(n) => layers.get(usize::from(n)).and_then(|l| l.spill),
    };
    file.ok_or_else(|| {
        Error::new(Kind::Integrity, "a layer's spill file is missing")
            .with_hint("`unlade system check --repair` fetches again what is broken")
    })
}

/// Writes the index of `tree` over `devices`.
///
/// # Errors
/// If `out` fails.
pub fn index(tree: &Tree, devices: &[Extra], out: impl Write) -> Result<Written> {
    let mut out = BufWriter::with_capacity(256 << 10, out);
    let written = writer::write(tree, Payload::Devices(devices), &mut out)?;
    out.flush()
        .map_err(|e| Error::host("write an EROFS image", e))?;
    Ok(written)
}

/// Writes an image of `tree` with all data in it into an empty file.
///
/// # Errors
/// If a file cannot be read or written.
pub fn full(tree: &Tree, layers: &[Layer<'_>], out: &File) -> Result<Written> {
    let host = |e| Error::host("write an EROFS image", e);
    let mut buffered = BufWriter::with_capacity(256 << 10, out);
    let written = writer::write(tree, Payload::Inside, &mut buffered)?;
    buffered.flush().map_err(host)?;
    ftruncate(out, written.total).map_err(|e| host(e.into()))?;
    for placed in &written.data {
        let Node::File(data) = tree.node(placed.inode) else {
            continue;
        };
        for (offset, len, source, from) in data.pieces(placed.size) {
            let to = placed.at + offset;
            copy(file_of(layers, source)?, out, Copy { from, to, len }).map_err(host)?;
        }
    }
    Ok(written)
}

/// Makes a layer's spill from its tar.
///
/// # Errors
/// If a file cannot be read or written.
pub fn spill(tar: &File, placer: &Placer, out: &File) -> Result<()> {
    let host = |e: io::Error| Error::host("write a layer's spill", e);
    ftruncate(out, placer.spill_bytes()).map_err(|e| host(e.into()))?;
    placer
        .copies
        .iter()
        .try_for_each(|c| copy(tar, out, *c))
        .map_err(host)
}

fn copy(from: &File, to: &File, what: Copy) -> io::Result<()> {
    let Copy {
        from: mut at,
        to: mut dest,
        mut len,
    } = what;
    while len > 0 {
        let step = usize::try_from(len).unwrap_or(usize::MAX).min(1 << 30);
        let n = copy_file_range(
            from.as_fd(),
            Some(&mut at),
            to.as_fd(),
            Some(&mut dest),
            step,
        )?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        len -= n as u64;
    }
    Ok(())
}
