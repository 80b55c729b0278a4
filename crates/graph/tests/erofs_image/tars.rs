//! Tars with everything that layers may have.

use std::io::Write;

/// Writes a tar entry by entry.
#[derive(Debug, Default)]
pub(crate) struct Tar {
    pub(crate) bytes: Vec<u8>,
    pax: Vec<u8>,
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A pax record for the next entry.
    pub(crate) fn pax(&mut self, key: &str, value: &[u8]) -> &mut Self {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        write!(self.pax, "{len} {key}=").unwrap();
        self.pax.extend_from_slice(value);
        self.pax.push(b'\n');
        self
    }

    pub(crate) fn xattr(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// An entry with the name, mode and type given, and `data` behind it.
    pub(crate) fn add(&mut self, path: &str, kind: u8, mode: u32, data: &[u8]) -> &mut Self {
        self.full(path, kind, mode, "", (0, 0), data)
    }

    pub(crate) fn link(&mut self, path: &str, kind: u8, to: &str) -> &mut Self {
        self.full(path, kind, 0o777, to, (0, 0), b"")
    }

    pub(crate) fn full(
        &mut self,
        path: &str,
        kind: u8,
        mode: u32,
        link: &str,
        device: (u32, u32),
        data: &[u8],
    ) -> &mut Self {
        if path.len() > 100 {
            self.pax("path", path.as_bytes());
        }
        if link.len() > 100 {
            self.pax("linkpath", link.as_bytes());
        }
        let pax = std::mem::take(&mut self.pax);
        if !pax.is_empty() {
            self.block("pax", b'x', 0o644, "", (0, 0), pax.len() as u64, &[]);
            self.data(&pax);
        }
        self.block(path, kind, mode, link, device, data.len() as u64, &[]);
        self.data(data);
        self
    }

    /// A header with bytes put at offsets of it.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn block(
        &mut self,
        path: &str,
        kind: u8,
        mode: u32,
        link: &str,
        device: (u32, u32),
        size: u64,
        extra: &[(usize, &[u8])],
    ) {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &path.as_bytes()[..path.len().min(100)]);
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        if size < 1 << 33 {
            put(124, format!("{size:011o}").as_bytes());
        } else {
            put(124, &[0x80, 0, 0, 0]);
            put(128, &size.to_be_bytes());
        }
        put(136, b"13752540000");
        put(156, &[kind]);
        put(157, &link.as_bytes()[..link.len().min(100)]);
        put(
            257,
            if kind == b'S' {
                b"ustar  \0"
            } else {
                b"ustar\x0000"
            },
        );
        put(329, format!("{:07o}", device.0).as_bytes());
        put(337, format!("{:07o}", device.1).as_bytes());
        for (at, bytes) in extra {
            put(*at, bytes);
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&block);
    }

    pub(crate) fn data(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        let end = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(end, 0);
    }

    pub(crate) fn dir(&mut self, path: &str) -> &mut Self {
        self.add(path, b'5', 0o755, b"")
    }

    pub(crate) fn file(&mut self, path: &str, data: &[u8]) -> &mut Self {
        self.add(path, b'0', 0o644, data)
    }

    /// A sparse file in one of the four formats, its segments filled with `x`.
    pub(crate) fn sparse(&mut self, path: &str, format: &str, size: u64, map: &[(u64, u64)]) {
        let stored: u64 = map.iter().map(|s| s.1).sum();
        let data = vec![b'x'; stored as usize];
        match format {
            "gnu" => {
                let mut fields = Vec::new();
                for (offset, len) in map.iter().take(4) {
                    fields.extend_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
                }
                fields.resize(96, 0);
                let real = format!("{size:011o}\0");
                let more = [u8::from(map.len() > 4)];
                let extra: [(usize, &[u8]); 3] =
                    [(386, &fields), (482, &more), (483, real.as_bytes())];
                self.block(path, b'S', 0o644, "", (0, 0), stored, &extra);
                let mut rest = map.iter().skip(4).peekable();
                while rest.peek().is_some() {
                    let mut block = Vec::new();
                    for (offset, len) in rest.by_ref().take(21) {
                        block.extend_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
                    }
                    block.resize(512, 0);
                    block[504] = u8::from(rest.peek().is_some());
                    self.bytes.extend_from_slice(&block);
                }
                self.data(&data);
            }
            "0.0" => {
                self.pax("GNU.sparse.size", size.to_string().as_bytes());
                self.pax("GNU.sparse.numblocks", map.len().to_string().as_bytes());
                for (offset, len) in map {
                    self.pax("GNU.sparse.offset", offset.to_string().as_bytes());
                    self.pax("GNU.sparse.numbytes", len.to_string().as_bytes());
                }
                self.file(path, &data);
            }
            "0.1" => {
                let list: Vec<String> = map.iter().map(|(o, l)| format!("{o},{l}")).collect();
                self.pax("GNU.sparse.size", size.to_string().as_bytes());
                self.pax("GNU.sparse.numblocks", map.len().to_string().as_bytes());
                self.pax("GNU.sparse.map", list.join(",").as_bytes());
                self.file(path, &data);
            }
            _ => {
                self.pax("GNU.sparse.major", b"1")
                    .pax("GNU.sparse.minor", b"0");
                self.pax("GNU.sparse.name", path.as_bytes());
                self.pax("GNU.sparse.realsize", size.to_string().as_bytes());
                let mut head = format!("{}\n", map.len());
                for (offset, len) in map {
                    head.push_str(&format!("{offset}\n{len}\n"));
                }
                let mut head = head.into_bytes();
                head.resize(head.len().next_multiple_of(512), 0);
                head.extend_from_slice(&data);
                self.file("GNUSparseFile.0/x", &head);
            }
        }
    }
}

/// An access list: (tag, permissions, id).
pub(crate) fn acl(list: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in list {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}
