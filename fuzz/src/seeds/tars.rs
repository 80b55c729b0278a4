//! Archives of every feature that the reader knows.

use crate::archive::{fix_sum, header, push, record};

const END: [u8; 1024] = [0; 1024];

fn pax(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let body: Vec<u8> = records.iter().flat_map(|(k, v)| record(k, v)).collect();
    let mut out = Vec::new();
    push(&mut out, &header(b'x', b"pax", body.len() as u64), &body);
    out
}

fn file(name: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push(&mut out, &header(b'0', name, payload.len() as u64), payload);
    out
}

fn link(typeflag: u8, name: &[u8], to: &[u8]) -> Vec<u8> {
    let mut h = header(typeflag, name, 0);
    h.set_link_name_literal(to).expect("short");
    h.set_cksum();
    let mut out = Vec::new();
    push(&mut out, &h, &[]);
    out
}

fn gnu_long(typeflag: u8, name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let body = [name, b"\0"].concat();
    push(
        &mut out,
        &header(typeflag, b"././@LongLink", body.len() as u64),
        &body,
    );
    out
}

/// An old GNU sparse file: (offset, length) pairs, the payload, and the file's size.
fn old_sparse(map: &[(u64, u64)], real_size: u64) -> Vec<u8> {
    let stored: u64 = map.iter().map(|s| s.1).sum();
    let mut h = tar::Header::new_gnu();
    h.as_mut_bytes()[..129].copy_from_slice(&header(b'S', b"sparse", stored).as_bytes()[..129]);
    h.set_size(stored);
    h.set_mtime(0);
    h.set_entry_type(tar::EntryType::GNUSparse);
    let field = |n: u64| format!("{n:011o}\0").into_bytes();
    let pairs: Vec<u8> = map
        .iter()
        .flat_map(|s| [field(s.0), field(s.1)].concat())
        .collect();
    let (first, more) = pairs.split_at(pairs.len().min(96));
    let block = h.as_mut_bytes();
    block[386..386 + first.len()].copy_from_slice(first);
    block[482] = u8::from(!more.is_empty());
    block[483..495].copy_from_slice(&field(real_size));
    fix_sum(block);
    let mut out = block.to_vec();
    let count = more.chunks(504).len();
    for (i, chunk) in more.chunks(504).enumerate() {
        let mut block = [0; 512];
        block[..chunk.len()].copy_from_slice(chunk);
        block[504] = u8::from(i + 1 < count);
        out.extend_from_slice(&block);
    }
    out.resize(
        out.len()
            + usize::try_from(stored)
                .expect("small")
                .next_multiple_of(512),
        7,
    );
    out
}

fn streams() -> Vec<Vec<u8>> {
    let sparse: (&[u8], &[u8]) = (b"GNU.sparse.realsize", b"3000");
    vec![
        [file(b"a", b"hello"), file(b"d/b", &[1; 700]), END.to_vec()].concat(),
        [
            link(b'5', b"d/", b""),
            link(b'2', b"l", b"../d"),
            link(b'1', b"h", b"a"),
        ]
        .concat(),
        [
            link(b'6', b"fifo", b""),
            link(b'3', b"char", b""),
            link(b'4', b"block", b""),
        ]
        .concat(),
        [
            gnu_long(b'L', &[b'n'; 150]),
            gnu_long(b'K', &[b't'; 150]),
            link(b'2', b"x", b"y"),
        ]
        .concat(),
        [
            pax(&[
                (b"path", b"long/name"),
                (b"size", b"3"),
                (b"mtime", b"-1.5"),
                (b"uid", b"70000"),
            ]),
            file(b"b", b"abc"),
            END.to_vec(),
        ]
        .concat(),
        [
            pax(&[
                (b"SCHILY.xattr.user.a", b"1"),
                (b"SCHILY.xattr.user.b", b"\0\n="),
                (b"linkpath", b"t"),
            ]),
            link(b'2', b"s", b"x"),
        ]
        .concat(),
        [
            pax(&[(b"comment", b"x")]).into_iter().collect(),
            file(b"c", b""),
        ]
        .concat(),
        [old_sparse(&[(0, 5), (1000, 600)], 3000), END.to_vec()].concat(),
        old_sparse(&[(0, 1), (2, 1), (4, 1), (6, 1), (8, 1), (10, 1)], 20),
        [
            pax(&[
                (b"GNU.sparse.size", b"9"),
                (b"GNU.sparse.offset", b"1"),
                (b"GNU.sparse.numbytes", b"3"),
            ]),
            file(b"s", b"abc"),
        ]
        .concat(),
        [
            pax(&[
                (b"GNU.sparse.size", b"9"),
                (b"GNU.sparse.map", b"1,3"),
                (b"GNU.sparse.name", b"n"),
            ]),
            file(b"s", b"abc"),
        ]
        .concat(),
        [
            pax(&[
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", b"n"),
                sparse,
            ]),
            file(
                b"s",
                &[b"1\n10\n3\n".as_slice(), &[0; 505], b"abc"].concat(),
            ),
        ]
        .concat(),
        [file(b"a/.wh.b", b""), file(b"a/.wh..wh..opq", b"")].concat(),
        END.to_vec(),
    ]
}

/// For `tar_reader`: flags, cuts, stream.
pub fn reader() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (i, stream) in streams().into_iter().enumerate() {
        for flags in [1, 3] {
            let cut = u8::try_from(i * 17 % 256).unwrap_or_default();
            all.push([&[flags, cut, 0, 200, 63], &stream[..]].concat());
        }
    }
    all
}

/// For `oracle`: a zero for "as it stands", then the stream.
pub fn oracle() -> Vec<Vec<u8>> {
    let streams = streams().into_iter();
    streams.map(|s| [vec![0], s].concat()).collect()
}

/// For `pax`: cuts, the entry's type, whether records are built, and keyword, length, value.
pub fn pax_headers() -> Vec<Vec<u8>> {
    let values: &[&[u8]] = &[b"1", b"a/b", b"-1.5", b"0,1,2,2", b"3", b"x\ny=z"];
    let mut all = Vec::new();
    for kind in 0..8 {
        for key in 0..25 {
            let mut input = vec![9, 0, 255, 70, kind, 1];
            for value in [values[usize::from(key) % 6], values[usize::from(kind) % 6]] {
                let len = u8::try_from(value.len()).expect("short");
                input.extend_from_slice(&[key, len]);
                input.extend_from_slice(value);
            }
            all.push(input);
        }
        let body = [
            record(b"path", b"a\nb"),
            record(b"mtime", b"1.5"),
            record(b"uid", b"7"),
        ];
        all.push([vec![9, 0, 255, 70, kind, 0], body.concat()].concat());
    }
    all
}

/// For `sparse`: cuts, flags, size, count, and pairs of gap and length.
pub fn sparse() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for flags in [0, 1, 3, 7] {
        for count in [0, 1, 4, 5, 25, 26, 47] {
            let pairs = (0..count).flat_map(|n| [n * 3, n * 4]);
            all.push(
                [9, 0, 255, 70, flags, 20, count]
                    .into_iter()
                    .chain(pairs)
                    .collect(),
            );
        }
    }
    all
}
