//! EROFS images of layers in memory.

use unlade_graph::erofs::{
    content::Placer,
    tree::Tree,
    writer::{self, Extra, Payload},
};
use unlade_unpack::{
    Limits, Result,
    tar::{Reader, Step},
};

/// The index over layers, each a tar stream.
///
/// # Errors
/// If a layer is refused.
pub fn index(layers: &[&[u8]]) -> Result<Vec<u8>> {
    let tree = tree(layers)?;
    let sources = tree.sources().into_iter();
    let extra = |source| Extra {
        source,
        bytes: 0,
        tag: [b'x'; 64],
    };
    let devices: Vec<Extra> = sources.map(extra).collect();
    let mut out = Vec::new();
    writer::write(&tree, Payload::Devices(&devices), &mut out)?;
    Ok(out)
}

/// The metadata of a full image of layers.
///
/// # Errors
/// If a layer is refused.
pub fn full(layers: &[&[u8]]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    writer::write(&tree(layers)?, Payload::Inside, &mut out)?;
    Ok(out)
}

fn tree(layers: &[&[u8]]) -> Result<Tree> {
    let mut tree = Tree::new();
    for layer in layers {
        tree.begin_layer()?;
        let mut placer = Placer::new();
        let mut reader = Reader::new(Limits::default());
        let mut rest = *layer;
        loop {
            let (used, step) = reader.step(rest)?;
            rest = &rest[used..];
            match step {
                Step::NeedMore => break,
                Step::Entry(entry) => {
                    let content = placer.place(&entry);
                    tree.apply(&entry, content)?;
                }
                _ => {}
            }
        }
        reader.finish()?;
    }
    Ok(tree)
}
