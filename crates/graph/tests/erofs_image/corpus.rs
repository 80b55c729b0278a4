//! Every case of the corpus: the same tree as applied, or refused by both.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use unlade_unpack::{Result, Unpacker};

use crate::{
    kernel,
    store::{Store, compare_store},
};

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
        match compare_store(Store::over(tars.clone()), &tars, u64::MAX) {
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
