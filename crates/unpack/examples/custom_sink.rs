//! A sink of one's own: lists a layer like `tar -tv`, with the sizes of what would be stored.
//! `custom_sink LAYER`

use std::fs::File;

use bytes::Bytes;
use unlade_unpack::{
    Applied, Expect, Result, Sink, Unpacker, Want, entry::Entry, source::FileSource,
};

#[derive(Default)]
struct List {
    name: String,
    bytes: usize,
}

impl Sink for List {
    fn entry(&mut self, entry: Entry) -> Result<Want> {
        self.name = String::from_utf8_lossy(&entry.path).into_owned();
        self.bytes = 0;
        eprintln!(
            "{:o} {}:{} {}",
            entry.meta.mode, entry.meta.uid, entry.meta.gid, self.name
        );
        Ok(Want::Payload)
    }

    fn payload(&mut self, _at: u64, bytes: Bytes) -> Result<()> {
        self.bytes += bytes.len();
        Ok(())
    }

    fn end_entry(&mut self) -> Result<()> {
        eprintln!("    {} bytes", self.bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<Applied> {
        Ok(Applied::default())
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let layer = std::env::args_os()
        .nth(1)
        .ok_or("usage: custom_sink LAYER")?;
    let source = FileSource::new(File::open(layer)?)?;
    Unpacker::new().run(source, Expect::default(), &mut List::default())?;
    Ok(())
}
