//! The tar reader gives the same for every split of its input, keeps its limits, and skips to
//! where it would have read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlade_fuzz::{
    archive::fix_sums,
    events::{Event, Reading, skipping},
    input::Input,
};
use unlade_unpack::{Limits, entry::EntryKind};

fn limits(small: bool) -> Limits {
    if !small {
        return Limits::default();
    }
    Limits {
        entries: 5,
        path_bytes: 64,
        path_depth: 4,
        symlink_bytes: 50,
        meta_bytes: 600,
        xattr_value_bytes: 20,
        xattrs: 2,
        sparse_map_bytes: 1024,
        layer_bytes: 3000,
        ..Limits::default()
    }
}

fn hold(limits: &Limits, reading: &Reading) {
    let (mut count, mut bytes) = (0, 0);
    for entry in reading.entries() {
        count += 1;
        assert_eq!(entry.index + 1, count);
        assert!(entry.path.len() <= limits.path_bytes);
        assert!(!entry.path.contains(&0));
        let mut depth = 0;
        for part in entry.path.split(|&b| b == b'/') {
            depth += 1;
            assert!(!matches!(part, b"." | b".."));
            assert!(!part.is_empty() || entry.path.is_empty());
        }
        assert!(depth <= limits.path_depth);
        assert!(entry.meta.xattrs.len() <= limits.xattrs);
        assert!((entry.meta.xattrs.iter()).all(|(_, v)| v.len() <= limits.xattr_value_bytes));
        match &entry.kind {
            EntryKind::File { size, sparse } => {
                bytes += size;
                let map = sparse.as_deref().unwrap_or_default();
                assert!(
                    map.windows(2)
                        .all(|w| w[0].offset + w[0].len <= w[1].offset)
                );
                assert!(map.last().is_none_or(|s| s.offset + s.len <= *size));
                assert!(map.iter().all(|s| s.len > 0));
            }
            EntryKind::Symlink { target } => {
                assert!(!target.is_empty() && target.len() <= limits.symlink_bytes);
            }
            _ => {}
        }
    }
    assert!(count <= limits.entries && bytes <= limits.layer_bytes);
}

/// Every file's payload is what its size or map says, at the places it says.
fn complete(reading: &Reading) {
    let mut want = None;
    let mut seen: Vec<(u64, u64)> = Vec::new();
    for event in &reading.events {
        match event {
            Event::Entry(entry) => {
                assert_eq!(want, None, "an entry within an entry");
                if let EntryKind::File { size, sparse } = &entry.kind {
                    let map = sparse.as_deref();
                    want = Some(match map {
                        Some(map) => map.iter().map(|s| (s.offset, s.len)).collect(),
                        None => Vec::from_iter((*size > 0).then_some((0, *size))),
                    });
                }
            }
            Event::Data { at, bytes } => seen.push((*at, bytes.len() as u64)),
            Event::EntryEnd => {
                // Segments that touch were joined.
                let mut joined: Vec<(u64, u64)> = Vec::new();
                for (at, len) in want.take().expect("an end without an entry") {
                    match joined.last_mut() {
                        Some((a, l)) if *a + *l == at => *l += len,
                        _ => joined.push((at, len)),
                    }
                }
                assert_eq!(std::mem::take(&mut seen), joined);
            }
            Event::End => assert_eq!(want, None),
        }
    }
    assert!(reading.end.is_err() || want.is_none());
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let flags = input.byte();
    let cuts = input.cuts();
    let mut stream = input.0.to_vec();
    if flags & 1 != 0 {
        fix_sums(&mut stream);
    }
    let limits = limits(flags & 2 != 0);
    let whole = Reading::of(&stream, &limits, None);
    hold(&limits, &whole);
    complete(&whole);
    let split = Reading::of(&stream, &limits, Some(cuts));
    assert_eq!(whole, split);
    let (entries, end) = skipping(&stream, &limits);
    assert!(whole.entries().eq(&entries));
    assert_eq!(whole.end, end);
});
