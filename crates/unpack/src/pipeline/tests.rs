use std::{
    io,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::*;
use crate::{entry::Entry, sink::Applied};

const PAYLOAD: usize = 48 << 20;

/// A tar of one file of zeros, in pieces of `piece` bytes; counts the bytes taken.
struct Plain {
    at: usize,
    piece: usize,
    taken: Arc<AtomicUsize>,
}

impl BlobSource for Plain {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let mut chunk = vec![0; self.piece.min(PAYLOAD + 1536 - self.at)];
        if self.at == 0 {
            let mut h = tar::Header::new_ustar();
            h.set_path("zeros").unwrap();
            h.set_mode(0o644);
            h.set_size(PAYLOAD as u64);
            h.set_cksum();
            chunk[..512].copy_from_slice(h.as_bytes());
        }
        self.at += chunk.len();
        self.taken.fetch_add(chunk.len(), Ordering::SeqCst);
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }
}

/// Holds up the first payload until nothing more is taken from the source.
struct Stalls {
    taken: Arc<AtomicUsize>,
    most: usize,
    bytes: Arc<AtomicU64>,
}

impl Sink for Stalls {
    fn entry(&mut self, _: Entry) -> Result<Want> {
        Ok(Want::Payload)
    }

    fn payload(&mut self, _: u64, bytes: Bytes) -> Result<()> {
        if self.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst) == 0 {
            let taken = settled(&self.taken);
            assert!(taken <= self.most, "{taken} bytes taken ahead");
        }
        Ok(())
    }

    fn end_entry(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<Applied> {
        Ok(Applied::default())
    }

    fn abort(&mut self) {}
}

/// The count once it stands still.
fn settled(count: &AtomicUsize) -> usize {
    let mut seen = usize::MAX;
    loop {
        let now = count.load(Ordering::SeqCst);
        if now == seen && now > 0 {
            return now;
        }
        seen = now;
        thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn plain_layers_stay_in_the_memory_budget() {
    // Pieces that are copied into blocks, that stand for blocks, and that are larger than blocks.
    for (memory, piece) in [
        (8 << 20, 100_000),
        (16 << 20, 1000),
        (16 << 20, 128 << 10),
        (16 << 20, 3 << 20),
    ] {
        let unpacker = Unpacker::new().memory_budget_bytes(memory);
        let taken = Arc::new(AtomicUsize::new(0));
        let source = Plain {
            at: 0,
            piece,
            taken: taken.clone(),
        };
        let layer = unpacker.start(source, Expect::default(), None).unwrap();
        // Half of the blocks, which are half of the budget; a piece and a block under way.
        let ahead = settled(&taken);
        assert!(ahead <= memory / 4 + piece + (256 << 10), "{ahead}");
        let bytes = Arc::new(AtomicU64::new(0));
        let mut sink = Stalls {
            taken,
            most: memory / 2 + piece + (256 << 10),
            bytes: bytes.clone(),
        };
        let report = layer.apply(&mut sink).unwrap();
        assert_eq!(bytes.load(Ordering::SeqCst), PAYLOAD as u64);
        assert_eq!(report.tar_bytes, PAYLOAD as u64 + 1536);
    }
}

fn run(source: impl BlobSource, expect: Expect) -> Result<LayerReport> {
    let mut sink = crate::sink::TreeSink::default();
    Unpacker::new().run(source, expect, &mut sink)
}

#[test]
fn no_bytes_are_no_layer() {
    let nothing = || crate::source::BytesSource::new(Bytes::new());
    let e = run(nothing(), Expect::default()).unwrap_err();
    assert_eq!(e.message(), "the source is empty");
    assert!(e.hint().is_some());
    for compression in [Compression::Gzip, Compression::Zstd] {
        let expect = Expect {
            compression: Some(compression),
            ..Expect::default()
        };
        let e = run(nothing(), expect).unwrap_err();
        assert!(e.message().contains("is empty"), "{e}");
    }
    // An empty tar is odd, but whole.
    let expect = Expect {
        compression: Some(Compression::None),
        ..Expect::default()
    };
    assert_eq!(run(nothing(), expect).unwrap().tar_bytes, 0);
}

struct Panics;

impl BlobSource for Panics {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        panic!("a panic that the test asks for");
    }
}

#[test]
fn a_panic_is_no_end_of_a_blob() {
    let e = run(Panics, Expect::default()).unwrap_err();
    assert_eq!(e.kind(), Kind::Bug);
    assert_eq!(e.message(), "a thread of the pipeline panicked");
}

/// Reports what a writer found wrong with an entry before, or with this one.
struct Late(bool);

impl Sink for Late {
    fn entry(&mut self, entry: Entry) -> Result<Want> {
        match entry.index {
            0 => Ok(Want::Skip),
            _ if self.0 => Err(Error::bad("late").at_entry(0, b"first")),
            _ => Err(Error::bad("now")),
        }
    }

    fn payload(&mut self, _: u64, _: Bytes) -> Result<()> {
        Ok(())
    }

    fn end_entry(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<Applied> {
        Ok(Applied::default())
    }

    fn abort(&mut self) {}
}

#[test]
fn an_offset_is_that_of_the_entry_named() {
    let mut out = tar::Builder::new(Vec::new());
    for name in ["first", "second"] {
        let mut h = tar::Header::new_ustar();
        h.set_mode(0o644);
        out.append_data(&mut h, name, io::empty()).unwrap();
    }
    let blob = Bytes::from(out.into_inner().unwrap());
    for (late, entry, offset) in [(true, 0, None), (false, 1, Some((Stream::Tar, 512)))] {
        let source = crate::source::BytesSource::new(blob.clone());
        let e = Unpacker::new()
            .run(source, Expect::default(), &mut Late(late))
            .unwrap_err();
        assert_eq!(e.place().entry, Some(entry));
        assert_eq!(e.place().offset, offset);
    }
}
