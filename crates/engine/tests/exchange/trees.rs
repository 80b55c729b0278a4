//! Tars and directories, made and looked at.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use crate::common::{self, text};

/// Every entry of a tar with all that it says.
pub(crate) fn listed(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = text(&entry.path_bytes());
        let header = entry.header().clone();
        let link = entry
            .link_name_bytes()
            .map(|l| text(&l))
            .unwrap_or_default();
        let pax: Vec<String> = match entry.pax_extensions().unwrap() {
            Some(records) => records
                .map(|r| r.unwrap())
                .filter(|r| r.key_bytes() != b"path")
                .map(|r| format!("{}={:?}", text(r.key_bytes()), r.value_bytes()))
                .collect(),
            None => Vec::new(),
        };
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let line = format!(
            "{:?} {:o} {}:{} {} {link} {pax:?} {}",
            header.entry_type(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mtime().unwrap(),
            common::sha256(&content),
        );
        found.insert(path, line);
    }
    found
}

/// A tar by a list of names, types, targets and contents.
pub(crate) fn made(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, kind, what) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_mtime(1_600_000_000);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
        let content: &[u8] = if link { b"" } else { what.as_bytes() };
        if link {
            header.as_old_mut().linkname[..what.len()].copy_from_slice(what.as_bytes());
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        out.append(&header, content).unwrap();
    }
    out.into_inner().unwrap()
}

/// What a directory is, with all that `cp` is to keep.
pub(crate) fn seen(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    let mut inodes: BTreeMap<u64, String> = BTreeMap::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let content = if kind.is_dir() {
                todo.push(path.clone());
                String::new()
            } else if kind.is_file() {
                common::sha256(&fs::read(&path).unwrap())
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                format!("{:x}", meta.rdev())
            };
            let size = if kind.is_dir() { 0 } else { meta.size() };
            let line = format!(
                "{:o} {size} {}.{} {content}",
                meta.mode(),
                meta.mtime(),
                meta.mtime_nsec()
            );
            if meta.nlink() > 1 && !kind.is_dir() {
                let names = inodes.entry(meta.ino()).or_default();
                names.push_str(&name);
            }
            found.insert(name, line);
        }
    }
    found.insert("links".into(), format!("{}", inodes.len()));
    found
}

/// A directory with all that there is.
pub(crate) fn everything(at: &Path) {
    fs::create_dir_all(at.join("d/empty")).unwrap();
    fs::write(at.join("d/file"), "hello").unwrap();
    fs::set_permissions(at.join("d/file"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::hard_link(at.join("d/file"), at.join("d/hard")).unwrap();
    symlink("/etc/passwd", at.join("d/link")).unwrap();
    let sparse = File::create(at.join("d/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"x", 32 << 20).unwrap();
    drop(sparse);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at.join("d/null"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at.join("d/file"), "user.a", b"\0v", flags).unwrap();
    let long = "n".repeat(200);
    fs::write(at.join("d").join(&long), "long").unwrap();
    rustix::fs::chownat(
        rustix::fs::CWD,
        at.join("d").join(&long),
        Some(rustix::fs::Uid::from_raw(3_000_000)),
        Some(rustix::fs::Gid::from_raw(7)),
        rustix::fs::AtFlags::empty(),
    )
    .unwrap();
}
