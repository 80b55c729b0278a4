//! The tar reader by its public face: nothing depends on how the stream is cut.
#![allow(missing_docs, clippy::unwrap_used)]

use unlade_unpack::{
    Limits, Result,
    tar::{Reader, Step},
};

fn archive(files: &[(&str, usize)]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, size) in files {
        let mut h = tar::Header::new_ustar();
        h.set_size(*size as u64);
        h.set_mode(0o644);
        out.append_data(&mut h, name, &vec![1; *size][..]).unwrap();
    }
    out.into_inner().unwrap()
}

/// Names and offsets of the entries, read in pieces.
fn entries(stream: &[u8], piece: usize) -> Result<Vec<(Vec<u8>, u64)>> {
    let mut reader = Reader::new(Limits::default());
    let mut found = Vec::new();
    for mut input in stream.chunks(piece) {
        loop {
            let (used, step) = reader.step(input)?;
            input = &input[used..];
            match step {
                Step::NeedMore => break,
                Step::Entry(e) => found.push((e.path.into_vec(), e.offset)),
                _ => {}
            }
        }
    }
    reader.finish()?;
    Ok(found)
}

#[test]
fn offsets_do_not_depend_on_the_pieces() {
    let mut stream = archive(&[("a", 600), ("b", 0), ("c", 512)]);
    let want = [
        (b"a".to_vec(), 0),
        (b"b".to_vec(), 1536),
        (b"c".to_vec(), 2048),
    ];
    for piece in [1, 511, 513, 700, 10_000] {
        assert_eq!(entries(&stream, piece).unwrap(), want, "{piece}");
    }
    stream[2048] = b'x';
    for piece in [1, 511, 513, 700, 10_000] {
        let e = entries(&stream, piece).unwrap_err();
        assert_eq!(e.place().offset.unwrap().1, 2048, "{piece}");
    }
}

#[test]
fn payload_can_be_skipped_at_any_point() {
    let stream = archive(&[("a", 600), ("b", 0), ("c", 512)]);
    for fed in [0, 1, 512, 600] {
        let mut reader = Reader::new(Limits::default());
        let (mut names, mut at) = (Vec::new(), 0);
        loop {
            let (used, step) = reader.step(&stream[at..]).unwrap();
            at += used;
            match step {
                Step::NeedMore => break,
                Step::Entry(entry) => {
                    names.push(entry.path);
                    // Feeds some of the payload, where there is that much.
                    let most = usize::try_from(reader.skippable()).unwrap();
                    let (used, _) = reader.step(&stream[at..at + fed.min(most)]).unwrap();
                    at += used;
                    at += usize::try_from(reader.skippable()).unwrap();
                    reader.skip();
                    assert_eq!(reader.position(), at as u64);
                }
                _ => {}
            }
        }
        assert_eq!(names.concat(), b"abc", "{fed}");
    }
}

#[test]
fn old_sparse_maps_are_in_gnu_headers_alone() {
    let mut h = tar::Header::new_gnu();
    h.as_mut_bytes()[0] = b'a';
    h.set_entry_type(tar::EntryType::GNUSparse);
    h.set_size(0);
    h.set_cksum();
    assert_eq!(entries(h.as_bytes(), 512).unwrap().len(), 1);
    // In a POSIX header the map's place is the name's prefix.
    h.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000");
    h.set_cksum();
    assert!(entries(h.as_bytes(), 512).is_err());
}
