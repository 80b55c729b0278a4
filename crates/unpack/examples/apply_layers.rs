//! Applies the layers of an image, lowest first, while later ones are decoded ahead.
//!
//! ```text
//! apply_layers MODE DIR MEDIATYPE=FILE[@DIFFID] ...
//! ```
//! MODE `apply` (or `naive`, as the corpus runner calls it) builds one tree in DIR; `overlay`
//! gives every layer a directory DIR/l0, DIR/l1, ... to be mounted by overlayfs.
//! `UNLADE_IO=ring` chooses the engine.

use std::{fs::File, os::fd::OwnedFd, path::Path, sync::Arc};

use unlade_unpack::{
    Compression, DirOptions, Error, Expect, IoChoice, Kind, Unpacker, Whiteouts, source::FileSource,
};

type Any = Box<dyn std::error::Error>;

fn compression(media_type: &str) -> Result<Compression, Error> {
    match media_type {
        t if t.ends_with(".tar") => Ok(Compression::None),
        t if t.ends_with("gzip") => Ok(Compression::Gzip),
        t if t.ends_with("zstd") => Ok(Compression::Zstd),
        t => Err(Error::new(Kind::Unsupported, format!("media type {t}"))),
    }
}

fn open(dir: &Path) -> Result<OwnedFd, Any> {
    Ok(File::open(dir)?.into())
}

fn main() -> Result<(), Any> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mode, dir, layers @ ..] = &args[..] else {
        return Err("usage: apply_layers MODE DIR MEDIATYPE=FILE[@DIFFID] ...".into());
    };
    let dir = Path::new(dir);
    let io = match std::env::var("UNLADE_IO").as_deref() {
        Ok("ring") => IoChoice::Ring,
        _ => IoChoice::Auto,
    };
    let unpacker = Unpacker::new().io(io);
    let mut started = Vec::new();
    for layer in layers {
        let (media_type, file) = layer.split_once('=').ok_or("MEDIATYPE=FILE")?;
        let (file, diff_id) = file.rsplit_once('@').unwrap_or((file, ""));
        let expect = Expect {
            compression: Some(compression(media_type)?),
            diff_id: (!diff_id.is_empty()).then(|| diff_id.parse()).transpose()?,
            ..Expect::default()
        };
        started.push((FileSource::new(File::open(file)?)?, expect));
    }
    if mode != "overlay" {
        let mut sink = unpacker.dir_sink(open(dir)?, DirOptions::default())?;
        for (source, expect) in started {
            unpacker.run(source, expect, &mut sink)?;
        }
        return Ok(());
    }
    let mut lowers: Vec<Arc<OwnedFd>> = Vec::new();
    for (i, (source, expect)) in started.into_iter().enumerate() {
        let layer = dir.join(format!("l{i}"));
        std::fs::create_dir(&layer)?;
        let mut options = DirOptions::default();
        options.whiteouts = Whiteouts::Overlay;
        options.lowers = lowers.clone();
        unpacker.run(
            source,
            expect,
            &mut unpacker.dir_sink(open(&layer)?, options)?,
        )?;
        lowers.insert(0, Arc::new(open(&layer)?));
    }
    Ok(())
}
