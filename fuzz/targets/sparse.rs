//! One sparse file in the four formats: all are refused, or all give the right bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlade_fuzz::{
    events::{Event, Reading},
    input::{Cuts, Input},
    sparse::{Sparse, old_gnu, pax_0_0, pax_0_1, pax_1_0},
};
use unlade_unpack::{Limits, entry::EntryKind};

fn number(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        n @ 0..=199 => n.into(),
        200..=229 => input.u16().into(),
        230..=244 => u64::from(input.u16()) << 30,
        _ => input.u64(),
    }
}

fn sparse(input: &mut Input<'_>) -> Sparse {
    let flags = input.byte();
    let mut map: Vec<(u64, u64)> = Vec::new();
    let real_size = number(input);
    let count = input.byte() % 48;
    let mut at = 0_u64;
    for _ in 0..count {
        let (gap, len) = (number(input), number(input));
        // Mostly in order; without the flag anything goes.
        let offset = if flags & 1 != 0 {
            at.wrapping_add(gap)
        } else {
            gap
        };
        at = offset.wrapping_add(len);
        map.push((offset, len));
    }
    let sum = map.iter().fold(0_u64, |n, s| n.wrapping_add(s.1));
    Sparse {
        real_size: if flags & 2 != 0 {
            at.wrapping_add(real_size)
        } else {
            real_size
        },
        stored: if flags & 12 == 4 {
            sum.wrapping_add(1)
        } else {
            sum
        },
        map,
    }
}

/// The segments with data, if the file is right and all of it is there.
fn valid(sparse: &Sparse) -> Option<Vec<(u64, u64)>> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for &(offset, len) in &sparse.map {
        if offset < end {
            return None;
        }
        end = offset.checked_add(len)?;
        sum = sum.checked_add(len)?;
    }
    let fits = end <= sparse.real_size && i64::try_from(sparse.real_size).is_ok();
    (fits && sum == sparse.stored && sparse.is_all_there())
        .then(|| sparse.map.iter().copied().filter(|s| s.1 > 0).collect())
}

fn check(format: &str, stream: &[u8], want: Option<&[(u64, u64)]>, file: &Sparse, cuts: &Cuts) {
    let limits = Limits {
        layer_bytes: u64::MAX,
        ..Limits::default()
    };
    let whole = Reading::of(stream, &limits, None);
    assert_eq!(
        whole,
        Reading::of(stream, &limits, Some(cuts.clone())),
        "{format}"
    );
    let Some(want) = want else {
        assert!(whole.end.is_err(), "{format} accepts {file:?}");
        return;
    };
    assert_eq!(whole.end, Ok(()), "{format} refuses {file:?}");
    let entry = whole.entries().next().expect("an entry");
    let EntryKind::File {
        size,
        sparse: Some(map),
    } = &entry.kind
    else {
        panic!("{format}: no sparse file");
    };
    assert_eq!(
        (*size, &*entry.path),
        (file.real_size, b"sparse".as_slice())
    );
    assert!(
        map.iter()
            .map(|s| (s.offset, s.len))
            .eq(want.iter().copied()),
        "{format}"
    );
    // The n-th byte of the payload goes to the n-th place of the map.
    let places = want.iter().flat_map(|&(offset, len)| offset..offset + len);
    let mut wanted = places.zip(file.payload());
    for event in &whole.events {
        if let Event::Data { at, bytes } = event {
            for (i, &b) in bytes.iter().enumerate() {
                assert_eq!(wanted.next(), Some((at + i as u64, b)), "{format}");
            }
        }
    }
    assert_eq!(wanted.next(), None, "{format}");
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let cuts = input.cuts();
    let file = sparse(&mut input);
    let want = valid(&file);
    let want = want.as_deref();
    check("old GNU", &old_gnu(&file), want, &file, &cuts);
    // Without a record format 0.0 cannot say that there is a map at all.
    let some = want.filter(|_| !file.map.is_empty());
    check("pax 0.0", &pax_0_0(&file), some, &file, &cuts);
    check("pax 0.1", &pax_0_1(&file), want, &file, &cuts);
    check("pax 1.0", &pax_1_0(&file), want, &file, &cuts);
});
