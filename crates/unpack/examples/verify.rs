//! Verifies a layer against its diffID without writing anything: `verify LAYER DIFFID`.

use std::fs::File;

use unlade_unpack::{Expect, NullSink, Unpacker, source::FileSource};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [layer, diff_id] = &args[..] else {
        return Err("usage: verify LAYER DIFFID".into());
    };
    let expect = Expect {
        diff_id: Some(diff_id.parse()?),
        ..Expect::default()
    };
    let source = FileSource::new(File::open(layer)?)?;
    let report = Unpacker::new().run(source, expect, &mut NullSink::new())?;
    eprintln!("{layer}: {} entries, all well", report.counts.entries());
    Ok(())
}
