//! Writing tar blocks, also wrong ones, and finding them again.

use crate::events::Reading;

/// Fills in the checksum of a header.
pub fn fix_sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Fills in the checksums of all blocks that bear the magic of a header, so that a mutation
/// anywhere gets further than the checksum.
pub fn fix_sums(stream: &mut [u8]) {
    for block in stream.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            fix_sum(block);
        }
    }
}

/// A header for `size` bytes of payload.
pub fn header(typeflag: u8, name: &[u8], size: u64) -> tar::Header {
    let mut h = tar::Header::new_ustar();
    let n = name.len().min(100);
    h.as_mut_bytes()[..n].copy_from_slice(&name[..n]);
    h.set_entry_type(tar::EntryType::new(typeflag));
    h.set_mode(0o644);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(0);
    h.set_size(size);
    h.set_cksum();
    h
}

/// Appends a header, its payload and the padding.
pub fn push(out: &mut Vec<u8>, header: &tar::Header, payload: &[u8]) {
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// One record of a pax header.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = [b" ", key, b"=", value, b"\n"].concat();
    let mut len = body.len() + 1;
    while len.to_string().len() + body.len() != len {
        len += 1;
    }
    [len.to_string().as_bytes(), &body].concat()
}

/// All headers of an archive that the reader accepted, those before an entry with their content.
pub fn meta_headers(stream: &[u8], reading: &Reading) -> Vec<(tar::Header, Vec<u8>)> {
    let mut found = Vec::new();
    let mut at = 0;
    for (entry, end) in reading.entries().zip(&reading.ends) {
        let own = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        while at <= own {
            let Some(block) = stream.get(at..at + 512) else {
                return found;
            };
            let header = tar::Header::from_byte_slice(block).clone();
            at += 512;
            let mut body = Vec::new();
            if at <= own {
                let size = header.entry_size().unwrap_or_default();
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                body = stream[at..].iter().copied().take(size).collect();
                at += body.len().next_multiple_of(512);
            }
            found.push((header, body));
        }
        at = end.next_multiple_of(512);
    }
    found
}
