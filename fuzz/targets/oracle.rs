//! Our reader against the `tar` crate's: archives that it writes, and any bytes that both read.
//!
//! Left out is what the two read differently on purpose. We refuse more; that is no finding for
//! bytes that no writer made. Where both accept, they differ in
//! - the payload of a hard link: we take none to follow, as GNU tar does;
//! - pax: of a repeated keyword the `tar` crate takes the first value, not the last, it ends a
//!   value at a newline, and it does not know sparse files;
//! - headers before POSIX, and those without a version: it knows no long names in the former
//!   and no prefix in the latter;
//! - global headers: it gives them out as entries.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use tar::{Builder, EntryType, Header};
use unlade_fuzz::{
    archive::{fix_sums, meta_headers},
    events::{Event, Reading},
    input::Input,
    pax::{last, records},
};
use unlade_unpack::{
    Limits,
    entry::{EntryKind, normalize},
};

/// Path, type, link target, content with holes filled.
type Fact = (Vec<u8>, u8, Vec<u8>, Vec<u8>);

/// Files larger than this are not compared byte by byte.
const MOST: u64 = 1 << 20;

fn theirs(stream: &[u8]) -> Option<Vec<Fact>> {
    let mut facts = Vec::new();
    for entry in tar::Archive::new(stream).entries().ok()? {
        let mut entry = entry.ok()?;
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let name = entry.path_bytes().into_owned();
        let path = normalize(&name, &Limits::default()).ok()?.into_vec();
        let link = entry
            .link_name_bytes()
            .map(|l| l.into_owned())
            .unwrap_or_default();
        let (kind, link) = match kind {
            EntryType::Regular if name.ends_with(b"/") => (b'5', Vec::new()),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => (b'0', Vec::new()),
            EntryType::Link => (b'1', normalize(&link, &Limits::default()).ok()?.into_vec()),
            EntryType::Symlink => (b'2', link),
            other => (other.as_byte(), Vec::new()),
        };
        if kind == b'1' && entry.size() != 0 || entry.size() > MOST {
            return None;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).ok()?;
        if content.len() as u64 != entry.size() {
            return None;
        }
        facts.push((path, kind, link, content));
    }
    Some(facts)
}

fn ours(reading: &Reading) -> Option<Vec<Fact>> {
    let mut facts: Vec<Fact> = Vec::new();
    for event in &reading.events {
        match event {
            Event::Entry(entry) => {
                let (kind, link, size) = match &entry.kind {
                    EntryKind::File { size, .. } => (b'0', Vec::new(), *size),
                    EntryKind::HardLink { target } => (b'1', target.to_vec(), 0),
                    EntryKind::Symlink { target } => (b'2', target.to_vec(), 0),
                    EntryKind::Char { .. } => (b'3', Vec::new(), 0),
                    EntryKind::Block { .. } => (b'4', Vec::new(), 0),
                    EntryKind::Dir => (b'5', Vec::new(), 0),
                    EntryKind::Fifo => (b'6', Vec::new(), 0),
                };
                if size > MOST {
                    return None;
                }
                let holes = vec![0; usize::try_from(size).ok()?];
                facts.push((entry.path.to_vec(), kind, link, holes));
            }
            Event::Data { at, bytes } => {
                let at = usize::try_from(*at).ok()?;
                facts.last_mut()?.3[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Event::EntryEnd | Event::End => {}
        }
    }
    Some(facts)
}

/// Whether the stream has what the two read differently on purpose.
fn differs_on_purpose(stream: &[u8], reading: &Reading) -> bool {
    meta_headers(stream, reading).iter().any(|(header, body)| {
        let known = header.as_gnu().is_some() || header.as_ustar().is_some();
        let pax_differs = || {
            records(body).is_none_or(|records| {
                records.iter().any(|&(key, value)| {
                    value.contains(&b'\n')
                        || key.contains(&b'\n')
                        || key.starts_with(b"GNU.sparse.")
                        || last(&records, key) != Some(value)
                })
            })
        };
        !known || header.entry_type().is_pax_local_extensions() && pax_differs()
    })
}

fn name(input: &mut Input<'_>) -> String {
    let mut name = String::new();
    for _ in 0..=input.byte() % 4 {
        let len = match input.byte() {
            n @ 0..=220 => usize::from(n % 12) + 1,
            // The first character may have two bytes, a name at most 255.
            n => usize::from(n) - 1,
        };
        if !name.is_empty() {
            name.push('/');
        }
        name.push(input.pick(&['a', 'b', 'é', '~', '\n', ' ']));
        name.extend(std::iter::repeat_n('x', len - 1));
    }
    name
}

/// An archive as the `tar` crate writes it.
fn written(mut input: Input<'_>) -> Vec<u8> {
    let mut out = Builder::new(Vec::new());
    while !input.is_empty() {
        let mut h = if input.byte() & 1 == 0 {
            Header::new_gnu()
        } else {
            Header::new_ustar()
        };
        h.set_mode(u32::from(input.u16()) & 0o7777);
        h.set_uid(input.u16().into());
        h.set_gid(u64::from(input.u16()) << (input.byte() % 16));
        h.set_mtime(input.u16().into());
        h.set_size(0);
        let (kind, name) = (input.byte() % 8, name(&mut input));
        // Names too long for ustar are refused by the writer; such entries are left out.
        let _ = match kind {
            0 | 1 => {
                let n = usize::from(input.u16() % 2000);
                let data = input.take(n);
                h.set_size(data.len() as u64);
                out.append_data(&mut h, name, data)
            }
            2 => {
                h.set_entry_type(EntryType::Directory);
                out.append_data(&mut h, name + "/", &[][..])
            }
            3 => {
                h.set_entry_type(EntryType::Symlink);
                out.append_link(&mut h, name, self::name(&mut input))
            }
            4 => {
                h.set_entry_type(EntryType::Link);
                out.append_link(&mut h, name, self::name(&mut input))
            }
            5 => {
                h.set_entry_type(EntryType::Fifo);
                out.append_data(&mut h, name, &[][..])
            }
            6 => {
                h.set_entry_type(EntryType::Char);
                let numbers = h.set_device_major(1).and_then(|()| h.set_device_minor(3));
                numbers.and_then(|()| out.append_data(&mut h, name, &[][..]))
            }
            _ => {
                let n = usize::from(input.byte());
                let data = input.take(n);
                let size = data.len().to_string();
                let path = name.replace('\n', "-");
                let pax = [("path", path.as_bytes()), ("size", size.as_bytes())];
                let pax = out.append_pax_extensions(pax);
                h.set_size(data.len() as u64);
                pax.and_then(|()| out.append_data(&mut h, "short", data))
            }
        };
    }
    out.into_inner().expect("memory")
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let flags = input.byte();
    let made = flags & 1 != 0;
    let stream = if made {
        written(input)
    } else {
        let mut stream = input.0.to_vec();
        fix_sums(&mut stream);
        stream
    };
    let reading = Reading::of(&stream, &Limits::default(), None);
    if made {
        assert_eq!(reading.end, Ok(()), "what the tar crate writes is refused");
    }
    if reading.end.is_err() || !made && differs_on_purpose(&stream, &reading) {
        return;
    }
    match (theirs(&stream), ours(&reading)) {
        (Some(theirs), Some(ours)) => assert_eq!(theirs, ours),
        (None, _) => assert!(!made, "the tar crate does not read what it wrote"),
        (_, None) => {}
    }
});
