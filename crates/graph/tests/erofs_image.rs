//! Images as the kernel and `fsck.erofs` see them: every path is what `DirSink` makes of the same
//! layers in a real directory.
#![allow(missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use support::kernel::{self, apply, differences, facts_on_disk};
use unlade_graph::erofs::{build, content::Placer, scan::scan};
use unlade_unpack::{Limits, Result, Unpacker};

#[path = "../../unpack/tests/support/layers.rs"]
#[allow(dead_code)]
mod layers;
mod support;

/// Layers in files, with what they spill.
struct Store {
    dir: tempfile::TempDir,
    layers: Vec<(File, Option<File>)>,
    paths: Vec<PathBuf>,
}

impl Store {
    fn new(tars: &[Vec<u8>]) -> Result<Self> {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let paths = (0..tars.len())
            .map(|i| dir.path().join(format!("{i}.tar")))
            .collect();
        for (path, tar) in std::iter::zip(&paths as &Vec<PathBuf>, tars) {
            fs::write(path, tar).unwrap();
        }
        Self::over(dir, paths)
    }

    fn over(dir: tempfile::TempDir, paths: Vec<PathBuf>) -> Result<Self> {
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
        Ok(Self { dir, layers, paths })
    }

    fn layers(&self) -> Vec<build::Layer<'_>> {
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

    /// An index, mounted, and a full image, mounted: what the kernel sees of both.
    fn facts(&self, hash_most: u64) -> Result<Vec<support::Facts>> {
        let layers = self.layers();
        let tree = build::tree(&layers, &Limits::default())?;
        let devices = build::devices(&tree, &layers)?;
        let (extras, files): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
        let path = self.dir.path().join("index.erofs");
        build::index(&tree, &extras, File::create(&path).unwrap())?;
        let bytes = fs::read(&path).unwrap();
        unlade_graph::erofs::reader::Image::open(&bytes)?.check()?;
        let mount = kernel::mount(&File::open(&path).unwrap(), &files)?;
        let mut out = vec![facts_on_disk(&kernel::path_of(&mount), hash_most)];

        let path = self.dir.path().join("full.erofs");
        build::full(&tree, &layers, &File::create(&path).unwrap())?;
        fsck(&path);
        let mount = kernel::mount(&File::open(&path).unwrap(), &[])?;
        out.push(facts_on_disk(&kernel::path_of(&mount), hash_most));
        Ok(out)
    }
}

/// `fsck.erofs` before 1.6 knows blocks of 4096 bytes alone, so it is asked about full images.
fn fsck(image: &Path) {
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
fn compare_store(store: Result<Store>, paths: &[PathBuf], hash_most: u64) -> Result<bool, String> {
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
        (Err(_), Err(_)) => Ok(false),
        (applied, images) => Err(format!("applied {applied:?}, images {:?}", images.err())),
    }
}

fn compare(tars: &[Vec<u8>]) {
    let store = Store::new(tars).unwrap();
    let paths = store.paths.clone();
    assert_eq!(compare_store(Ok(store), &paths, u64::MAX), Ok(true));
}

fn header(path: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut h = tar::Header::new_ustar();
    h.set_path(path).unwrap();
    h.set_entry_type(kind);
    h.set_mode(0o644);
    h.set_mtime(1_600_000_000);
    h.set_size(size);
    h.set_cksum();
    h
}

#[test]
fn a_plain_layer() {
    if !kernel::may_mount() {
        return;
    }
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header("d/", tar::EntryType::Directory, 0), &[][..])
        .unwrap();
    tar.append(&header("d/f", tar::EntryType::Regular, 5), &b"hello"[..])
        .unwrap();
    compare(&[tar.into_inner().unwrap()]);
}

#[test]
fn every_case_of_the_corpus() {
    if !kernel::may_mount() {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus/cases.tar.zst");
    let done = Command::new("tar")
        .arg("-C")
        .arg(dir.path())
        .arg("--zstd")
        .arg("-xf")
        .arg(cases)
        .status();
    if !done.is_ok_and(|s| s.success()) {
        eprintln!("skipped: no tar that reads zstd");
        return;
    }
    let mut wrong = Vec::new();
    let (mut accepted, mut refused) = (0, 0);
    let mut names: Vec<_> = fs::read_dir(dir.path().join("cases"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.sort();
    for case in names {
        let mut layers: Vec<PathBuf> = fs::read_dir(&case)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| {
                p.file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with("layer")
            })
            .collect();
        layers.sort();
        if layers.is_empty() {
            continue;
        }
        // The tars of compressed layers are what a driver keeps.
        let work = tempfile::tempdir_in("/var/tmp").unwrap();
        let Some(tars) = plain(&layers, work.path()) else {
            continue;
        };
        let own = tempfile::tempdir_in("/var/tmp").unwrap();
        match compare_store(Store::over(own, tars.clone()), &tars, u64::MAX) {
            Ok(true) => accepted += 1,
            Ok(false) => refused += 1,
            Err(e) => wrong.push(format!("{}: {e}", case.file_name().unwrap().display())),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong: {}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        accepted > 150 && refused > 50,
        "{accepted} accepted, {refused} refused"
    );
}

/// Decompressed copies of layers; `None` if one cannot be.
fn plain(layers: &[PathBuf], work: &Path) -> Option<Vec<PathBuf>> {
    struct Keep(File);
    impl unlade_unpack::Sink for Keep {
        fn tar(&mut self, bytes: &bytes::Bytes) -> Result<()> {
            self.0.write_all(bytes).unwrap();
            Ok(())
        }
        fn entry(&mut self, _: unlade_unpack::entry::Entry) -> Result<unlade_unpack::Want> {
            Ok(unlade_unpack::Want::Skip)
        }
        fn payload(&mut self, _: u64, _: bytes::Bytes) -> Result<()> {
            Ok(())
        }
        fn finish(&mut self) -> Result<unlade_unpack::Applied> {
            Ok(unlade_unpack::Applied::default())
        }
    }
    let mut out = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let path = work.join(format!("{i}.tar"));
        let mut keep = Keep(File::create(&path).unwrap());
        let source = unlade_unpack::source::FileSource::new(File::open(layer).unwrap()).unwrap();
        // What the tar reader refuses stays as it is, to be refused again.
        let done = Unpacker::new().run(source, unlade_unpack::Expect::default(), &mut keep);
        if done.is_err() && fs::metadata(&path).unwrap().len() == 0 {
            return None;
        }
        out.push(path);
    }
    Some(out)
}
