//! A tree, entry by entry, for comparison.

use std::{
    collections::BTreeMap,
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};

/// All that can be seen of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub kind: FileType,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u64),
    pub size: i64,
    pub rdev: u64,
    /// Content or target.
    pub content: blake3::Hash,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Facts by path, and which paths are one file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub facts: BTreeMap<Vec<u8>, Facts>,
    pub links: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Tree {
    /// Reads all below a directory, and itself.
    pub fn read(root: impl AsFd) -> Self {
        let mut this = Self::default();
        let mut inodes: BTreeMap<(u64, u64), Vec<Vec<u8>>> = BTreeMap::new();
        let top = openat(root, ".", DIRECTORY, Mode::empty()).unwrap();
        let stat = rustix::fs::fstat(&top).unwrap();
        this.facts.insert(Vec::new(), facts(&top, b".", &stat));
        let mut todo = vec![(Vec::new(), top)];
        while let Some((path, dir)) = todo.pop() {
            for entry in Dir::read_from(&dir).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let full = if path.is_empty() {
                    name.to_vec()
                } else {
                    [&path, b"/".as_slice(), name].concat()
                };
                let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                    .unwrap_or_else(|e| panic!("{}: {e}", full.escape_ascii()));
                this.facts.insert(full.clone(), facts(&dir, name, &stat));
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    let sub = openat(&dir, name, DIRECTORY, Mode::empty())
                        .unwrap_or_else(|e| panic!("{}: {e}", full.escape_ascii()));
                    todo.push((full, sub));
                } else {
                    inodes
                        .entry((stat.st_dev, stat.st_ino))
                        .or_default()
                        .push(full);
                }
            }
        }
        for mut names in inodes.into_values() {
            names.sort();
            for name in &names {
                this.links.insert(name.clone(), names.clone());
            }
        }
        this
    }

    /// What differs, a line each. With `split`, the names of one file may be those of several:
    /// see docs/decisions/0005-overlay-link-counts.md.
    pub fn differences(&self, want: &Self, split: bool) -> Vec<String> {
        let mut out = Vec::new();
        for (path, facts) in &want.facts {
            match self.facts.get(path) {
                None => out.push(format!("{}: missing", path.escape_ascii())),
                Some(got) if got != facts => {
                    out.push(format!("{}: {got:?}, want {facts:?}", path.escape_ascii()));
                }
                Some(_) => {}
            }
        }
        for path in self.facts.keys().filter(|p| !want.facts.contains_key(*p)) {
            out.push(format!("{}: not wanted", path.escape_ascii()));
        }
        for (path, names) in &self.links {
            let Some(wanted) = want.links.get(path) else {
                continue;
            };
            let same = names == wanted || (split && names.iter().all(|n| wanted.contains(n)));
            if !same {
                out.push(format!(
                    "{}: one file with {} names, want {}",
                    path.escape_ascii(),
                    names.len(),
                    wanted.len()
                ));
            }
        }
        out
    }
}

fn facts(dir: &OwnedFd, name: &[u8], stat: &Stat) -> Facts {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let content = match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = std::fs::File::from(openat(dir, name, flags, Mode::empty()).unwrap());
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; 64 << 10];
            loop {
                match file.read(&mut buffer).unwrap() {
                    0 => break hasher.finalize(),
                    n => hasher.update(&buffer[..n]),
                };
            }
        }
        FileType::Symlink => blake3::hash(readlinkat(dir, name, Vec::new()).unwrap().as_bytes()),
        _ => blake3::hash(b""),
    };
    Facts {
        kind,
        mode: stat.st_mode & 0o7777,
        owner: (stat.st_uid, stat.st_gid),
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        size: match kind {
            FileType::Directory => 0,
            _ => stat.st_size,
        },
        rdev: match kind {
            FileType::CharacterDevice | FileType::BlockDevice => stat.st_rdev,
            _ => 0,
        },
        content,
        xattrs: xattrs(dir, name),
    }
}

fn xattrs(dir: &OwnedFd, name: &[u8]) -> Vec<(String, Vec<u8>)> {
    let path = [
        format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(),
        name,
    ]
    .concat();
    let mut names = vec![0_u8; 65536];
    let len = match rustix::fs::llistxattr(&*path, &mut names[..]) {
        Ok(len) => len,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(e) => panic!("{}: {e}", path.escape_ascii()),
    };
    let mut out = Vec::new();
    for name in names[..len].split(|&b| b == 0) {
        let host = [
            &b"trusted.overlay."[..],
            b"trusted.SGI_ACL",
            b"security.selinux",
        ];
        if name.is_empty() || host.iter().any(|h| name.starts_with(h)) {
            continue;
        }
        let mut value = vec![0_u8; 65536];
        let len = rustix::fs::lgetxattr(&*path, name, &mut value[..]).unwrap();
        value.truncate(len);
        out.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    out.sort();
    out
}

/// Reads the tree at a path.
pub fn at(path: &std::path::Path) -> Tree {
    Tree::read(openat(CWD, path, DIRECTORY, Mode::empty()).unwrap())
}
