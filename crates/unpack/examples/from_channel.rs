//! Unpacks a layer while another thread receives it: here that thread reads standard input.
//! `from_channel DIR < LAYER`

use std::{
    fs::File,
    io::{Read, stdin},
    thread,
};

use unlade_unpack::{DirOptions, Expect, Unpacker, source::channel};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os()
        .nth(1)
        .ok_or("usage: from_channel DIR < LAYER")?;
    std::fs::create_dir_all(&dir)?;
    // At most 16 pieces wait: then the receiver is slowed to the disk's pace.
    let (writer, source) = channel(16, None);
    let receiver = thread::spawn(move || {
        loop {
            let mut piece = vec![0; 64 << 10];
            match stdin().read(&mut piece) {
                Ok(0) => return writer.finish(),
                Ok(n) => piece.truncate(n),
                Err(e) => return writer.fail(e),
            }
            if !writer.send(piece.into()) {
                return;
            }
        }
    });
    let unpacker = Unpacker::new();
    let mut tree = unpacker.dir_sink(File::open(&dir)?.into(), DirOptions::default())?;
    let report = unpacker.run(source, Expect::default(), &mut tree)?;
    receiver.join().map_err(|_| "the receiver panicked")?;
    eprintln!("{} entries, blob {}", report.counts.entries(), report.blob);
    Ok(())
}
