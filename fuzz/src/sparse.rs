//! Sparse files in the four formats, written without regard to whether they make sense.

use crate::archive::{fix_sum, header, push, record};

/// A sparse file as an archive describes it.
#[derive(Debug)]
pub struct Sparse {
    pub real_size: u64,
    /// Bytes of payload that the header promises.
    pub stored: u64,
    pub map: Vec<(u64, u64)>,
}

/// Most bytes of payload that are really written.
const PAYLOAD_MOST: u64 = 4096;

impl Sparse {
    pub fn is_all_there(&self) -> bool {
        self.stored <= PAYLOAD_MOST
    }

    /// Bytes that all differ from their neighbours, and from a hole's.
    pub fn payload(&self) -> impl Iterator<Item = u8> + use<> {
        (0..self.stored.min(PAYLOAD_MOST)).map(|n| (n % 255).to_le_bytes()[0] + 1)
    }
}

/// A numeric field: octal where it fits, else base-256.
fn field(n: u64) -> [u8; 12] {
    let mut out = [0; 12];
    if n < 1 << 33 {
        out[..11].copy_from_slice(format!("{n:011o}").as_bytes());
    } else {
        out[0] = 0x80;
        out[4..].copy_from_slice(&n.to_be_bytes());
    }
    out
}

fn entry_header(typeflag: u8, name: &[u8], size: u64) -> [u8; 512] {
    let mut block = *header(typeflag, name, 0).as_bytes();
    block[124..136].copy_from_slice(&field(size));
    fix_sum(&mut block);
    block
}

fn payload(out: &mut Vec<u8>, file: &Sparse) {
    out.extend(file.payload());
    // Where not all is there the stream ends in its middle, whatever the format.
    if file.is_all_there() {
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

pub fn old_gnu(file: &Sparse) -> Vec<u8> {
    let pair = |s: &(u64, u64)| [field(s.0), field(s.1)].concat();
    let (first, more) = file.map.split_at(file.map.len().min(4));
    let mut block = entry_header(b'S', b"sparse", file.stored);
    block[257..265].copy_from_slice(b"ustar  \0");
    for (i, s) in first.iter().enumerate() {
        block[386 + 24 * i..][..24].copy_from_slice(&pair(s));
    }
    block[482] = u8::from(!more.is_empty());
    block[483..495].copy_from_slice(&field(file.real_size));
    fix_sum(&mut block);
    let mut out = block.to_vec();
    let mut chunks = more.chunks(21).peekable();
    while let Some(chunk) = chunks.next() {
        let mut block = [0; 512];
        for (i, s) in chunk.iter().enumerate() {
            block[24 * i..][..24].copy_from_slice(&pair(s));
        }
        block[504] = u8::from(chunks.peek().is_some());
        out.extend_from_slice(&block);
    }
    payload(&mut out, file);
    out
}

/// An `x` header of the records and the file's own header.
fn with_pax(records: &[(&str, String)], size: u64) -> Vec<u8> {
    let body = records
        .iter()
        .flat_map(|(k, v)| record(k.as_bytes(), v.as_bytes()));
    let body: Vec<u8> = body.collect();
    let mut out = Vec::new();
    push(&mut out, &header(b'x', b"pax", body.len() as u64), &body);
    out.extend_from_slice(&entry_header(b'0', b"sparse", size));
    out
}

pub fn pax_0_0(file: &Sparse) -> Vec<u8> {
    let mut records = vec![("GNU.sparse.size", file.real_size.to_string())];
    for (offset, len) in &file.map {
        records.push(("GNU.sparse.offset", offset.to_string()));
        records.push(("GNU.sparse.numbytes", len.to_string()));
    }
    let mut out = with_pax(&records, file.stored);
    payload(&mut out, file);
    out
}

pub fn pax_0_1(file: &Sparse) -> Vec<u8> {
    let map: Vec<String> = file
        .map
        .iter()
        .map(|s| format!("{},{}", s.0, s.1))
        .collect();
    let records = [
        ("GNU.sparse.size", file.real_size.to_string()),
        ("GNU.sparse.numblocks", file.map.len().to_string()),
        ("GNU.sparse.map", map.join(",")),
        ("GNU.sparse.name", "sparse".to_owned()),
    ];
    let mut out = with_pax(&records, file.stored);
    payload(&mut out, file);
    out
}

pub fn pax_1_0(file: &Sparse) -> Vec<u8> {
    let mut map = format!("{}\n", file.map.len());
    for (offset, len) in &file.map {
        map.push_str(&format!("{offset}\n{len}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(512), 0);
    let records = [
        ("GNU.sparse.major", "1".to_owned()),
        ("GNU.sparse.minor", "0".to_owned()),
        ("GNU.sparse.name", "sparse".to_owned()),
        ("GNU.sparse.realsize", file.real_size.to_string()),
    ];
    let mut out = with_pax(&records, file.stored.saturating_add(map.len() as u64));
    out.extend_from_slice(&map);
    payload(&mut out, file);
    out
}
