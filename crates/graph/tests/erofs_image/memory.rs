//! Images made in memory from tars, for tests of the EROFS parts.
use std::collections::BTreeMap;

use unlade_graph::erofs::{
    content::Placer,
    reader::Image,
    tree::{Source, Tree},
    writer::{self, Extra, Payload},
};
use unlade_unpack::{
    Algorithm, Digest, Expect, Node, NodeKind, Result, Sink, TreeSink, Unpacker,
    entry::Entry,
    source::BytesSource,
    tar::{Reader, Step},
};

/// The entries of a tar.
pub(crate) fn entries(tar: &[u8]) -> Result<Vec<Entry>> {
    let mut reader = Reader::new(Default::default());
    let (mut out, mut at) = (Vec::new(), 0);
    loop {
        let (used, step) = reader.step(&tar[at..])?;
        at += used;
        match step {
            Step::NeedMore => break,
            Step::Entry(entry) => out.push(entry),
            _ => {}
        }
    }
    reader.finish()?;
    Ok(out)
}

/// An index over layers, and what it points into.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) image: Vec<u8>,
    /// The bytes of each extra device.
    pub(crate) devices: Vec<Vec<u8>>,
}

pub(crate) fn tree(layers: &[Vec<u8>]) -> Result<(Tree, BTreeMap<Source, Vec<u8>>)> {
    let mut tree = Tree::new();
    let mut sources = BTreeMap::new();
    for (number, tar) in (0..).zip(layers) {
        tree.begin_layer()?;
        let mut placer = Placer::new();
        for entry in entries(tar)? {
            let content = placer.place(&entry);
            tree.apply(&entry, content)?;
        }
        let mut spill = vec![0; placer.spill_bytes() as usize];
        for c in &placer.copies {
            let [from, to, len] = [c.from, c.to, c.len].map(|n| n as usize);
            spill[to..to + len].copy_from_slice(&tar[from..from + len]);
        }
        sources.insert(Source::Tar(number), tar.clone());
        sources.insert(Source::Spill(number), spill);
    }
    Ok((tree, sources))
}

pub(crate) fn build(layers: &[Vec<u8>]) -> Result<Built> {
    let (tree, sources) = tree(layers)?;
    let mut devices = Vec::new();
    let mut extras = Vec::new();
    for source in tree.sources() {
        extras.push(Extra {
            source,
            bytes: sources[&source].len() as u64,
            tag: [b'x'; 64],
        });
        devices.push(sources[&source].clone());
    }
    let mut image = Vec::new();
    let written = writer::write(&tree, Payload::Devices(&extras), &mut image)?;
    assert_eq!(written.bytes, image.len() as u64);
    Ok(Built { image, devices })
}

/// A full image with all data in it.
pub(crate) fn build_full(layers: &[Vec<u8>]) -> Result<Vec<u8>> {
    let (tree, sources) = tree(layers)?;
    let mut image = Vec::new();
    let written = writer::write(&tree, Payload::Inside, &mut image)?;
    image.resize(written.total as usize, 0);
    for placed in &written.data {
        let unlade_graph::erofs::tree::Node::File(data) = tree.node(placed.inode) else {
            panic!("data of no file");
        };
        for (offset, len, source, at) in data.pieces(placed.size) {
            let [to, len, at] = [placed.at + offset, len, at].map(|n| n as usize);
            image[to..to + len].copy_from_slice(&sources[&source][at..at + len]);
        }
    }
    Ok(image)
}

/// One line of facts a path, with hard links told by the first of their names.
pub(crate) type Facts = BTreeMap<Vec<u8>, String>;

/// What our reader sees.
pub(crate) fn facts_of_image(image: &[u8], devices: &[Vec<u8>]) -> Result<Facts> {
    let image = Image::open(image)?;
    image.check()?;
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut links: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    let mut out = Facts::new();
    let bytes_of = |device: u16| match device {
        0 => None,
        n => Some(&devices[usize::from(n) - 1]),
    };
    let mut found = Vec::new();
    image.walk(|f| {
        found.push(f.clone());
        Ok(())
    })?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    for f in found {
        let inode = &f.inode;
        let name = first
            .entry(inode.nid)
            .or_insert_with(|| f.path.clone())
            .clone();
        let what = match inode.mode & 0o170_000 {
            0o040_000 => "dir".to_owned(),
            0o120_000 => format!("-> {}", image.target(inode)?.escape_ascii()),
            0o020_000 => format!("char {:?}", image.device(inode)),
            0o060_000 => format!("block {:?}", image.device(inode)),
            0o010_000 => "fifo".to_owned(),
            _ => {
                let mut content = vec![0; inode.size as usize];
                for p in image.pieces(inode)? {
                    let [offset, len, at] = [p.offset, p.len, p.at].map(|n| n as usize);
                    let from = bytes_of(p.device).unwrap();
                    content[offset..offset + len].copy_from_slice(&from[at..at + len]);
                }
                format!(
                    "file {} {}",
                    inode.size,
                    Digest::of(Algorithm::Sha256, &content)
                )
            }
        };
        if inode.mode & 0o170_000 != 0o040_000 {
            links.entry(inode.nid).or_insert((0, inode.links)).0 += 1;
        }
        let facts = facts(
            &what,
            inode.mode,
            (inode.uid, inode.gid),
            inode.mtime,
            &name,
            &image.xattrs(inode)?,
        );
        out.insert(f.path.clone(), facts);
    }
    for (names, links) in links.into_values() {
        assert_eq!(names, links, "a wrong count of links");
    }
    Ok(out)
}

fn facts(
    what: &str,
    mode: u32,
    owner: (u32, u32),
    mtime: unlade_unpack::entry::Time,
    name: &[u8],
    xattrs: &unlade_unpack::entry::Xattrs,
) -> String {
    let mode = if what.starts_with("->") {
        0
    } else {
        mode & 0o7777
    };
    let link = if what == "dir" {
        String::new()
    } else {
        name.escape_ascii().to_string()
    };
    format!(
        "{what} {mode:o} {owner:?} {}.{} ={link} {xattrs:?}",
        mtime.secs, mtime.nanos
    )
}

/// What `TreeSink` sees. Of attributes it keeps all that a layer has, so there must be none that
/// are left out.
pub(crate) fn facts_of_model(tree: &TreeSink) -> Facts {
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut out = Facts::new();
    for (path, node) in tree.nodes() {
        let Node {
            inode, kind, meta, ..
        } = node;
        let name = first.entry(*inode).or_insert_with(|| path.to_vec()).clone();
        let what = match kind {
            NodeKind::File { size, content } => format!("file {size} {content}"),
            NodeKind::Dir => "dir".into(),
            NodeKind::Symlink { target } => format!("-> {}", target.escape_ascii()),
            NodeKind::Char { major, minor } => format!("char {:?}", (major, minor)),
            NodeKind::Block { major, minor } => format!("block {:?}", (major, minor)),
            NodeKind::Fifo => "fifo".into(),
            other => panic!("{other:?}"),
        };
        out.insert(
            path.to_vec(),
            facts(
                &what,
                meta.mode,
                (meta.uid, meta.gid),
                meta.mtime,
                &name,
                &meta.xattrs,
            ),
        );
    }
    out
}

/// The layers in a `TreeSink`.
pub(crate) fn model(layers: &[Vec<u8>], unpacker: &Unpacker) -> Result<TreeSink> {
    let mut tree = TreeSink::new();
    for layer in layers {
        let sink: &mut dyn Sink = &mut tree;
        unpacker.run(BytesSource::new(layer.clone()), Expect::default(), sink)?;
    }
    Ok(tree)
}
