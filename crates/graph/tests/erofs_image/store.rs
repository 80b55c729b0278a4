//! Layers in files and both kinds of images of them.

use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
};

use unlade_graph::erofs::{build, content::Placer, scan::scan};
use unlade_unpack::{Limits, Result, Unpacker};

use crate::{
    kernel::{self, apply, differences, facts_on_disk},
    memory::Facts,
};

/// Layers in files, with what they spill.
pub(crate) struct Store {
    dir: tempfile::TempDir,
    layers: Vec<(File, Option<File>)>,
}

/// Writes tars to files.
pub(crate) fn write(tars: &[Vec<u8>]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let paths: Vec<PathBuf> = (0..tars.len())
        .map(|i| dir.path().join(format!("{i}.tar")))
        .collect();
    for (path, tar) in paths.iter().zip(tars) {
        fs::write(path, tar).unwrap();
    }
    (dir, paths)
}

impl Store {
    pub(crate) fn over(paths: Vec<PathBuf>) -> Result<Self> {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let mut layers = Vec::new();
        for (i, path) in paths.iter().enumerate() {
            let tar = File::open(path).unwrap();
            let mut placer = Placer::new();
            scan(&tar, &Limits::default(), |entry| {
                placer.place(&entry);
                Ok(())
            })?;
            let mut spilled = None;
            if placer.spill_bytes() > 0 {
                let path = dir.path().join(format!("{i}.spill"));
                let out = File::create_new(&path).unwrap();
                build::spill(&tar, &placer, &out)?;
                spilled = Some(File::open(&path).unwrap());
            }
            layers.push((tar, spilled));
        }
        Ok(Self { dir, layers })
    }

    pub(crate) fn layers(&self) -> Vec<build::Layer<'_>> {
        self.layers
            .iter()
            .map(|(tar, spill)| build::Layer {
                tar,
                spill: spill.as_ref(),
                entries: None,
                tag: [b't'; 64],
            })
            .collect()
    }

    pub(crate) fn mount_index(&self) -> Result<OwnedFd> {
        let layers = self.layers();
        let tree = build::tree(&layers, &Limits::default())?;
        let devices = build::devices(&tree, &layers)?;
        let (extras, files): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
        let path = self.dir.path().join("index.erofs");
        build::index(&tree, &extras, File::create(&path).unwrap())?;
        let bytes = fs::read(&path).unwrap();
        unlade_graph::erofs::reader::Image::open(&bytes)?.check()?;
        kernel::mount(&File::open(&path).unwrap(), &files)
    }

    /// An index, mounted, and a full image, mounted: what the kernel sees of both.
    pub(crate) fn facts(&self, hash_most: u64) -> Result<Vec<Facts>> {
        let mount = self.mount_index()?;
        let mut out = vec![facts_on_disk(&kernel::path_of(&mount), hash_most)];
        let layers = self.layers();
        let tree = build::tree(&layers, &Limits::default())?;
        let path = self.dir.path().join("full.erofs");
        build::full(&tree, &layers, &File::create(&path).unwrap())?;
        fsck(&path);
        let mount = kernel::mount(&File::open(&path).unwrap(), &[])?;
        out.push(facts_on_disk(&kernel::path_of(&mount), hash_most));
        Ok(out)
    }
}

/// `fsck.erofs` before 1.6 knows blocks of 4096 bytes alone, so it is asked about full images.
pub(crate) fn fsck(image: &Path) {
    match Command::new("fsck.erofs").arg(image).output() {
        Ok(out) => assert!(
            out.status.success(),
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        ),
        Err(e) => eprintln!("fsck.erofs did not check it: {e}"),
    }
}

/// Both ways of making an image give what applying the layers gives, or all refuse.
pub(crate) fn compare_store(
    store: Result<Store>,
    paths: &[PathBuf],
    hash_most: u64,
) -> Result<bool, String> {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    let unpacker = Unpacker::new().memory_budget_bytes(16 << 20);
    let applied = apply(paths, root.path(), &unpacker);
    let images = store.and_then(|store| store.facts(hash_most));
    match (applied, images) {
        (Ok(()), Ok(images)) => {
            let want = facts_on_disk(root.path(), hash_most);
            for (image, which) in images.iter().zip(["index", "full image"]) {
                let differ = differences(&want, image);
                if !differ.is_empty() {
                    return Err(format!("{which}: {}", differ.join("\n")));
                }
            }
            Ok(true)
        }
        (Err(e), Err(_)) => {
            eprintln!("refused: {e}");
            Ok(false)
        }
        (applied, images) => Err(format!("applied {applied:?}, images {:?}", images.err())),
    }
}

pub(crate) fn compare(tars: &[Vec<u8>]) {
    let (_dir, paths) = write(tars);
    compare_paths(&paths, u64::MAX);
}

/// All of them accept the layers, and agree.
pub(crate) fn compare_paths(paths: &[PathBuf], hash_most: u64) {
    if kernel::may_mount() {
        let store = Store::over(paths.to_vec());
        let same = compare_store(store, paths, hash_most);
        assert!(
            same == Ok(true),
            "{}",
            same.map_or_else(|e| e, |_| "all refuse".into())
        );
    }
}
