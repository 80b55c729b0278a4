//! Pax headers: what is accepted says what a plain reading of the records says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlade_fuzz::{
    archive::{header, push, record},
    events::Reading,
    input::Input,
    pax::{decimal, last, records},
};
use unlade_unpack::{
    Limits,
    entry::{Entry, EntryKind, normalize},
};

const KEYS: &[&str] = &[
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "atime",
    "comment",
    "hdrcharset",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.user.b",
    "SCHILY.xattr.",
    "LIBARCHIVE.xattr.a",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.name",
    "GNU.sparse.realsize",
    "GNU.sparse.size",
    "GNU.sparse.map",
    "GNU.sparse.offset",
    "GNU.sparse.numbytes",
    "GNU.sparse.numblocks",
    "GNU.volume.label",
    "vendor.key",
    "unknown",
];

/// The records' bytes: well-formed ones of known keywords, or whatever the input says.
fn body(input: &mut Input<'_>) -> Vec<u8> {
    if input.byte() & 1 == 0 {
        return input.0.to_vec();
    }
    let mut body = Vec::new();
    while !input.is_empty() {
        let key = input.pick(KEYS);
        let len = usize::from(input.byte());
        body.extend_from_slice(&record(key.as_bytes(), input.take(len)));
    }
    body
}

fn seconds(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let nanos: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let total =
        sign * (whole.parse::<i128>().ok()? * 1_000_000_000 + nanos.parse::<i128>().ok()?);
    let nanos = total.rem_euclid(1_000_000_000);
    Some((
        i64::try_from(total.div_euclid(1_000_000_000)).ok()?,
        u32::try_from(nanos).ok()?,
    ))
}

fn agree(entry: &Entry, typeflag: u8, records: &[(&[u8], &[u8])]) {
    let get = |key: &str| last(records, key.as_bytes());
    let path = get("GNU.sparse.name").or(get("path")).unwrap_or(b"name");
    let path = normalize(path, &Limits::default()).expect("accepted by the reader");
    assert_eq!(entry.path, path);
    if let Some(uid) = get("uid") {
        assert_eq!(decimal(uid), Some(entry.meta.uid.into()));
    }
    if let Some(gid) = get("gid") {
        assert_eq!(decimal(gid), Some(entry.meta.gid.into()));
    }
    if let Some(mtime) = get("mtime") {
        let got = (entry.meta.mtime.secs, entry.meta.mtime.nanos);
        assert_eq!(seconds(mtime), Some(got));
    }
    let link = get("linkpath");
    match (&entry.kind, link) {
        (EntryKind::Symlink { target }, Some(link)) => assert_eq!(&**target, link),
        (EntryKind::HardLink { target }, Some(link)) => {
            assert_eq!(
                Ok(target),
                normalize(link, &Limits::default()).as_ref().map_err(drop)
            );
        }
        (EntryKind::File { size, sparse: None }, _) => {
            assert_eq!(get("size").map_or(Some(3), decimal), Some(*size));
        }
        (
            EntryKind::File {
                size: 0,
                sparse: Some(_),
            },
            _,
        ) if typeflag == b'S' => {}
        (EntryKind::File { size, .. }, _) => {
            // Of `size` and `realsize` the later one counts.
            let keys: [&[u8]; 2] = [b"GNU.sparse.size", b"GNU.sparse.realsize"];
            let real = records.iter().rev().find(|r| keys.contains(&r.0));
            assert_eq!(real.and_then(|r| decimal(r.1)), Some(*size));
        }
        _ => {}
    }
    let prefix = "SCHILY.xattr.".as_bytes();
    let names = records.iter().filter_map(|r| r.0.strip_prefix(prefix));
    let mut names: Vec<&[u8]> = names.collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), entry.meta.xattrs.len());
    for (name, (got, value)) in names.iter().zip(&entry.meta.xattrs) {
        assert_eq!(*name, &**got);
        assert_eq!(last(records, &[prefix, name].concat()), Some(&**value));
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let cuts = input.cuts();
    let typeflag = input.pick(b"00125S7g");
    let body = body(&mut input);
    let mut stream = Vec::new();
    // A global header may hold comments alone, and applies to no entry.
    let global = typeflag == b'g';
    let typeflag = if global { b'0' } else { typeflag };
    let kind = if global { b'g' } else { b'x' };
    push(&mut stream, &header(kind, b"pax", body.len() as u64), &body);
    let payload: &[u8] = if matches!(typeflag, b'0' | b'7') {
        b"abc"
    } else {
        b""
    };
    let mut h = header(typeflag, b"name", payload.len() as u64);
    if typeflag == b'S' {
        h.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
        h.set_cksum();
    }
    if matches!(typeflag, b'1' | b'2') {
        h.set_link_name_literal("link").expect("short");
        h.set_cksum();
    }
    push(&mut stream, &h, payload);
    stream.resize(stream.len() + 8192, 0);

    let limits = Limits::default();
    let whole = Reading::of(&stream, &limits, None);
    assert_eq!(whole, Reading::of(&stream, &limits, Some(cuts)));
    let records = records(&body);
    let plain =
        |r: &(&[u8], &[u8])| matches!(r.0, b"comment" | b"atime") || r.0.starts_with(b"vendor.");
    match (whole.entries().next(), records) {
        (Some(entry), Some(records)) if global => {
            assert!(records.iter().all(|r| r.0 == b"comment"));
            agree(entry, typeflag, &[]);
        }
        (Some(entry), Some(records)) => agree(entry, typeflag, &records),
        (Some(_), None) => panic!("accepts records without their framing"),
        (None, Some(records)) => {
            let harmless = !global && typeflag != b'S' && records.iter().all(plain);
            assert!(
                !harmless
                    || body
                        .windows(2)
                        .any(|w| w == b" 0" || w[0] == b'+' || w[0] == b'0'),
                "{:?}",
                whole.end
            );
        }
        (None, None) => {}
    }
});
