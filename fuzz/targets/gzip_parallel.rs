//! Several cores on one gzip stream, and going on from a checkpoint, against decoding in order.
#![no_main]

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression as Level, write::GzEncoder};
use libfuzzer_sys::fuzz_target;
use unlade_fuzz::{
    content::content,
    decoding::decode,
    input::{Cuts, Input},
};
use unlade_unpack::{
    Compression, Error, Limits,
    decode::gzip::{Checkpoint, Decoder, Parallel},
};

/// Members of a file, flushed here and there.
fn blob(input: &mut Input<'_>) -> Vec<u8> {
    let mut blob = Vec::new();
    for _ in 0..=input.byte() % 3 {
        let flags = input.byte();
        let mut member = GzEncoder::new(Vec::new(), Level::new(u32::from(flags % 10)));
        let text = content(input, 96 << 10);
        let parts = if flags & 128 != 0 {
            1 + text.len() / 5
        } else {
            usize::MAX
        };
        for part in text.chunks(parts) {
            member.write_all(part).expect("memory");
            member.flush().expect("memory");
        }
        blob.extend_from_slice(&member.finish().expect("memory"));
    }
    // Damage: bytes changed, or the end cut off.
    for _ in 0..(input.byte() % 8).saturating_sub(4) {
        let at = usize::try_from(input.u64() % blob.len() as u64).expect("within the blob");
        match input.byte() {
            0 if at > 0 => blob.truncate(at),
            xor => blob[at] ^= xor,
        }
    }
    blob
}

fn parallel(how: Parallel, blob: &[u8], mut cuts: Cuts) -> (Vec<u8>, Result<(), Error>) {
    let mut rest = blob;
    let mut out = Vec::new();
    let mut held = std::collections::VecDeque::new();
    let done = how.run(
        &mut || {
            let mut piece = Vec::new();
            // Pieces of some KiB, as sources give them.
            for _ in 0..4 {
                piece.extend_from_slice(cuts.cut(&mut rest));
            }
            Ok((!piece.is_empty()).then(|| Bytes::from(piece)))
        },
        &mut |bytes| {
            out.extend_from_slice(&bytes);
            // A receiver holds on to some of what it was given.
            held.push_back(bytes);
            if held.len() > 3 {
                held.pop_front();
            }
            Ok(())
        },
    );
    if let Ok(done) = &done {
        assert_eq!(done.bytes, out.len() as u64);
    }
    (out, done.map(drop))
}

/// Output, and a checkpoint with how much came before it.
type Decoded = (Vec<u8>, Option<(Checkpoint, usize)>);

/// All that `decoder` gives for the input, which ends there; the checkpoint if it pauses.
fn all(mut decoder: Decoder, mut input: &[u8]) -> Result<Decoded, Error> {
    let (mut out, mut buffer, mut checkpoint) = (Vec::new(), vec![0; 5000], None);
    loop {
        let piece = &input[..input.len().min(700)];
        let done = decoder.decode(piece, &mut buffer)?;
        out.extend_from_slice(&buffer[..done.written]);
        input = &input[done.read..];
        if decoder.paused() {
            checkpoint = decoder.checkpoint().map(|c| (c, out.len()));
            decoder.pause_at(None);
        } else if input.is_empty() && done.written < buffer.len() {
            decoder.finish()?;
            return Ok((out, checkpoint));
        }
    }
}

/// Decodes with a pause, and again from there.
fn resumed(blob: &[u8], pause: u64) -> Result<Vec<u8>, Error> {
    let mut decoder = Decoder::new();
    decoder.pause_at(Some(pause));
    let (out, checkpoint) = all(decoder, blob)?;
    if let Some((checkpoint, len)) = checkpoint {
        let again = Checkpoint::from_bytes(&checkpoint.to_bytes());
        let again = again.expect("what to_bytes made");
        assert!(again == checkpoint);
        let from = usize::try_from(checkpoint.input_offset()).expect("within the blob");
        let (rest, _) = all(Decoder::resume(&again), &blob[from..])?;
        assert!(out[len..] == rest, "other bytes behind a checkpoint");
    }
    Ok(out)
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let how = Parallel {
        threads: 1 + usize::from(input.byte() % 3),
        chunk_bytes: (4 << 10) + usize::from(input.byte()) * 64,
    };
    let (cuts, pause) = (input.cuts(), input.u16());
    let blob = blob(&mut input);
    let (out, end) = parallel(how, &blob, cuts);
    let want = decode(Compression::Gzip, &blob, &Limits::default(), None);
    match (want, end, resumed(&blob, pause.into())) {
        (Ok(None), ..) => {}
        (Ok(Some(want)), Ok(()), Ok(resumed)) => {
            assert!(want == out, "parallel gives other bytes");
            assert!(want == resumed, "resumed gives other bytes");
        }
        (Err(_), Err(_), Err(_)) => {}
        (want, end, resumed) => panic!(
            "in order {:?}, parallel {end:?}, resumed {:?}",
            want.map(|w| w.map(|w| w.len())),
            resumed.map(|r| r.len())
        ),
    }
});
