//! Unpacks one layer from a file: `unpack_file LAYER DIR`.

use std::fs::File;

use unlade_unpack::{DirOptions, Expect, Unpacker, source::FileSource};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(layer), Some(dir)) = (args.next(), args.next()) else {
        return Err("usage: unpack_file LAYER DIR".into());
    };
    std::fs::create_dir_all(&dir)?;
    let unpacker = Unpacker::new();
    let mut tree = unpacker.dir_sink(File::open(&dir)?.into(), DirOptions::default())?;
    let report = unpacker.run(
        FileSource::new(File::open(layer)?)?,
        Expect::default(),
        &mut tree,
    )?;
    eprintln!(
        "{} entries, diffID {}",
        report.counts.entries(),
        report.diff_id
    );
    Ok(())
}
