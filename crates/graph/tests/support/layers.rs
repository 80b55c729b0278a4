//! Layers built by code.

use std::path::Path;

use tar::{Builder, EntryType, Header};
use unlade_unpack::{DirOptions, Expect, Result, Unpacker, source::BytesSource};

/// One entry.
#[derive(Debug, Clone)]
pub struct Op {
    pub name: String,
    pub kind: EntryType,
    /// Content or link.
    pub what: Vec<u8>,
    pub mode: u32,
    pub xattr: Option<(String, String)>,
    /// Of a device.
    pub minor: u32,
}

impl Op {
    pub fn new(name: &str, kind: EntryType, what: &[u8], mode: u32) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            what: what.to_vec(),
            mode,
            xattr: None,
            minor: 3,
        }
    }
}

pub fn dir(name: &str) -> Op {
    Op::new(name, EntryType::Directory, b"", 0o755)
}

pub fn file(name: &str, text: &str) -> Op {
    Op::new(name, EntryType::Regular, text.as_bytes(), 0o644)
}

pub fn symlink(name: &str, to: &str) -> Op {
    Op::new(name, EntryType::Symlink, to.as_bytes(), 0o777)
}

pub fn link(name: &str, to: &str) -> Op {
    Op::new(name, EntryType::Link, to.as_bytes(), 0o644)
}

/// The tar of a layer; entry N has the time `start + N`, and nanoseconds too.
pub fn tar(ops: &[Op], start: u64) -> Vec<u8> {
    tar_of(ops, start, |n| (n % 3, 7))
}

/// The same with `owner` of each entry.
pub fn tar_of(ops: &[Op], start: u64, owner: impl Fn(u64) -> (u64, u64)) -> Vec<u8> {
    let mut out = Builder::new(Vec::new());
    for (n, op) in ops.iter().enumerate() {
        let n = n as u64;
        let mut header = Header::new_ustar();
        header.set_entry_type(op.kind);
        header.set_mode(op.mode);
        let (uid, gid) = owner(n);
        header.set_uid(uid);
        header.set_gid(gid);
        let time = format!("{}.{:09}", 1_600_000_000 + start + n, 7 * n + 1);
        let mut pax = vec![("mtime".to_owned(), time)];
        if let Some((key, value)) = &op.xattr {
            pax.push((format!("SCHILY.xattr.{key}"), value.clone()));
        }
        out.append_pax_extensions(pax.iter().map(|(k, v)| (k.as_str(), v.as_bytes())))
            .unwrap();
        let link = matches!(op.kind, EntryType::Symlink | EntryType::Link);
        let data: &[u8] = if link { b"" } else { &op.what };
        if link {
            header.as_old_mut().linkname[..op.what.len()].copy_from_slice(&op.what);
        }
        if op.kind == EntryType::Char {
            header.set_device_major(1).unwrap();
            header.set_device_minor(op.minor).unwrap();
        }
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..op.name.len()].copy_from_slice(op.name.as_bytes());
        header.set_cksum();
        out.append(&header, data).unwrap();
    }
    out.into_inner().unwrap()
}

/// Numbers that are the same each time.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        let names: Vec<&str> = (0..depth)
            .map(|_| *self.pick(&["a", "b", "c", "d"]))
            .collect();
        names.join("/")
    }
}

/// One to five layers of random entries, few names, much replaced. The rules for what a hard link
/// may mean are a guess, so that not all is refused.
pub fn random(seed: u64) -> Vec<Vec<Op>> {
    let mut r = Random::new(seed);
    let mut files: Vec<String> = Vec::new();
    let count = 1 + r.below(5);
    (0..count)
        .map(|_| random_layer(&mut r, &mut files))
        .collect()
}

fn random_layer(r: &mut Random, files: &mut Vec<String>) -> Vec<Op> {
    let mut own: Vec<String> = Vec::new();
    let mut ops = Vec::new();
    if r.below(4) == 0 {
        let mode = *r.pick(&[0o700, 0o755, 0o1777]);
        ops.push(Op::new("./", EntryType::Directory, b"", mode));
    }
    for _ in 0..1 + r.below(10) {
        let path = r.path();
        let mode = *r.pick(&[0o644, 0o755, 0o700, 0o4755, 0o1777, 0]);
        let (above, base) = path.rsplit_once('/').unwrap_or(("", &path));
        let beside = |name: &str| match above {
            "" => name.to_owned(),
            _ => format!("{above}/{name}"),
        };
        const KINDS: &[&str] = &[
            "file", "file", "file", "file", "file", "file", "big", "dir", "dir", "dir", "dir",
            "dir", "symlink", "symlink", "link", "link", "link", "link", "fifo", "char", "white",
            "white", "white", "white", "opaque", "opaque", "opaque",
        ];
        let kind = *r.pick(KINDS);
        let under = |f: &String, path: &str| format!("{f}/").starts_with(&format!("{path}/"));
        if !matches!(kind, "white" | "opaque") {
            files.retain(|f| !under(f, &path) && !under(&path, f));
        }
        let mut op = match kind {
            "file" | "big" => {
                files.push(path.clone());
                own.push(path.clone());
                let len = if kind == "big" { 600_000 } else { r.below(900) };
                let byte = u8::try_from(r.below(256)).unwrap();
                let data = vec![byte; usize::try_from(len).unwrap()];
                Op::new(&path, EntryType::Regular, &data, mode)
            }
            "dir" => Op::new(&path, EntryType::Directory, b"", mode),
            "symlink" => {
                let to = match r.below(5) {
                    0 => r.path(),
                    1 => format!("/{}", r.path()),
                    2 => format!("../{}", r.path()),
                    3 => ".".to_owned(),
                    _ => "..".to_owned(),
                };
                files.push(path.clone());
                symlink(&path, &to)
            }
            "link" => {
                let to = match files.is_empty() || r.below(20) == 0 {
                    true => r.path(),
                    false => r.pick(files).clone(),
                };
                files.push(path.clone());
                own.push(path.clone());
                link(&path, &to)
            }
            "white" => {
                files.retain(|f| own.contains(f) || !under(f, &path));
                let name = beside(&format!(".wh.{base}"));
                Op::new(&name, EntryType::Regular, b"", 0o600)
            }
            "opaque" => {
                files.retain(|f| own.contains(f) || !f.starts_with(&beside("")));
                Op::new(&beside(".wh..wh..opq"), EntryType::Regular, b"", 0o600)
            }
            other => {
                files.push(path.clone());
                let kind = match other {
                    "fifo" => EntryType::Fifo,
                    _ => EntryType::Char,
                };
                Op::new(&path, kind, b"", mode)
            }
        };
        if matches!(kind, "file" | "dir") && r.below(5) == 0 {
            let key = format!("user.{}", r.pick(&["k", "l"]));
            op.xattr = Some((key, (*r.pick(&["v", "w"])).to_owned()));
        }
        ops.push(op);
    }
    ops
}

/// The tree that the unpacker makes of all layers, in one directory.
pub fn applied(at: &Path, blobs: &[Vec<u8>]) -> Result<()> {
    let unpacker = Unpacker::new().threads(2);
    let root = std::fs::File::open(at).unwrap();
    let mut sink = unpacker.dir_sink(root.into(), DirOptions::default())?;
    for blob in blobs {
        unpacker.run(BytesSource::new(blob.clone()), Expect::default(), &mut sink)?;
    }
    Ok(())
}
