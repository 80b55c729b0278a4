//! What the kernel sees: real mounts and real directories, path by path.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use unlade_graph::mount::{Setting, file_system};
use unlade_unpack::{
    Algorithm, Compression, DirOptions, Expect, Hasher, Result, Unpacker, source::FileSource,
};

use crate::memory::Facts;

/// Whether tests that mount may run; says why not.
pub(crate) fn may_mount() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may mount");
        return false;
    }
    match rustix::mount::fsopen("erofs", rustix::mount::FsOpenFlags::empty()) {
        Ok(_) => true,
        Err(e) => {
            eprintln!("skipped: no erofs in this kernel: {e}");
            false
        }
    }
}

/// Mounts an image in a file over devices in files.
pub(crate) fn mount(image: &File, devices: &[&File]) -> Result<OwnedFd> {
    let mut settings = vec![Setting::Path("source", image.as_fd())];
    settings.extend(devices.iter().map(|d| Setting::Path("device", d.as_fd())));
    file_system("erofs", &settings, true)
}

/// A path to what a descriptor stands for.
pub(crate) fn path_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}/.", fd.as_raw_fd()).into()
}

/// Applies layers to a directory.
pub(crate) fn apply(layers: &[PathBuf], root: &Path, unpacker: &Unpacker) -> Result<()> {
    let root = File::open(root).unwrap();
    let mut sink = unpacker.dir_sink(root.into(), DirOptions::default())?;
    for layer in layers {
        let source = FileSource::new(File::open(layer).unwrap()).unwrap();
        let expect = Expect {
            compression: Some(Compression::None),
            ..Expect::default()
        };
        unpacker.run(source, expect, &mut sink)?;
    }
    Ok(())
}

/// All paths below a root. Contents over `hash_most` bytes are told by their size, and by what
/// is at the places where data begins.
pub(crate) fn facts_on_disk(root: &Path, hash_most: u64) -> Facts {
    // By descriptors: paths may be longer than the kernel takes.
    let mut todo: Vec<(Vec<u8>, Rc<OwnedFd>)> =
        vec![(Vec::new(), Rc::new(File::open(root).unwrap().into()))];
    let mut found = Vec::new();
    while let Some((name, dir)) = todo.pop() {
        let here = path_of(&dir);
        if name.is_empty() {
            let meta = fs::metadata(&here).unwrap();
            found.push((Vec::new(), facts_of(&here, &meta, hash_most), meta));
        }
        for entry in fs::read_dir(&here).unwrap() {
            let entry = entry.unwrap().file_name();
            let at = here.join(&entry);
            let meta =
                fs::symlink_metadata(&at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
            let mut path = name.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.as_bytes());
            if meta.is_dir() {
                todo.push((path.clone(), Rc::new(File::open(&at).unwrap().into())));
            }
            found.push((path, facts_of(&at, &meta, hash_most), meta));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut out = Facts::new();
    for (name, facts, meta) in found {
        let link = first
            .entry(meta.ino())
            .or_insert_with(|| name.clone())
            .clone();
        let link = if meta.is_dir() {
            String::new()
        } else {
            link.escape_ascii().to_string()
        };
        out.insert(name, format!("{facts} ={link}"));
    }
    out
}

fn facts_of(at: &Path, meta: &fs::Metadata, hash_most: u64) -> String {
    let kind = meta.file_type();
    let what = if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        format!(
            "-> {}",
            fs::read_link(at)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .escape_ascii()
        )
    } else if kind.is_file() {
        format!("file {} {}", meta.len(), content(at, meta.len(), hash_most))
    } else {
        format!("special {:x}", meta.rdev())
    };
    format!(
        "{what} {:o} {}:{} {}.{:09} links {} {:?}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.nlink(),
        xattrs(at),
    )
}

static ZEROS: [u8; 512] = [0; 512];

fn content(path: &Path, size: u64, hash_most: u64) -> String {
    let mut file = File::open(path).unwrap();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    if size <= hash_most {
        let mut bytes = Vec::new();
        if let Err(e) = file.read_to_end(&mut bytes) {
            return format!("unreadable: {e}");
        }
        hasher.update(&bytes);
    } else {
        // Data alone, with its offsets; a hole that is stored as zeros counts as a hole.
        let mut block = vec![0; 1 << 20];
        let mut at = 0;
        while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            at = data;
            let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(at)).unwrap();
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(at)).unwrap();
            let mut left = usize::try_from(end - at).unwrap();
            while left > 0 {
                let n = left.min(block.len());
                file.read_exact(&mut block[..n]).unwrap();
                for (i, page) in block[..n].chunks(512).enumerate() {
                    if *page != ZEROS[..page.len()] {
                        hasher.update(&(at + i as u64 * 512).to_le_bytes());
                        hasher.update(page);
                    }
                }
                at += n as u64;
                left -= n;
            }
        }
    }
    hasher.finish().to_string()
}

fn xattrs(path: &Path) -> Vec<(String, String)> {
    let mut names = vec![0_u8; 65536];
    let n = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(n) => n,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(e) => panic!("{}: {e}", path.display()),
    };
    let mut out = Vec::new();
    for name in names[..n].split(|&b| b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0_u8; 65536];
        let n = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])
            .unwrap_or_else(|e| panic!("{} {}: {e}", path.display(), name.escape_ascii()));
        out.push((
            name.escape_ascii().to_string(),
            value[..n].escape_ascii().to_string(),
        ));
    }
    out.sort();
    out
}

/// What differs, at most ten lines.
pub(crate) fn differences(want: &Facts, got: &Facts) -> Vec<String> {
    let mut out = Vec::new();
    for (path, line) in want {
        match got.get(path) {
            Some(other) if other == line => {}
            other => out.push(format!(
                "{}:\n  want {line}\n  got  {other:?}",
                path.escape_ascii()
            )),
        }
    }
    for (path, line) in got.iter().filter(|(path, _)| !want.contains_key(*path)) {
        out.push(format!("{}: not wanted: {line}", path.escape_ascii()));
    }
    out.truncate(10);
    for line in &mut out {
        line.truncate(600);
    }
    out
}
