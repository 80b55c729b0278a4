//! Leftovers, removal and damage.

use super::*;

/// A file below `dir` that holds `text`.
fn find_text(dir: &Path, text: &[u8]) -> Option<(PathBuf, usize)> {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            if let Some(found) = find_text(&entry.path(), text) {
                return Some(found);
            }
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            if let Some(at) = bytes.windows(text.len()).position(|w| w == text) {
                return Some((entry.path(), at));
            }
        }
    }
    None
}

/// Makes a published layer writable, against all rules, where the driver makes that hard.
fn force_writable(tree: &Path) {
    // Only subvolumes have the property.
    let mut btrfs = Command::new("btrfs");
    let args = ["property", "set", "-f", "-ts"];
    let _ = btrfs.args(args).arg(tree).args(["ro", "false"]).output();
}

pub(crate) fn life_and_death(_: &Fs, kind: DriverKind, driver: Arc<dyn Driver>) {
    let tars = [
        tar(&[dir("d"), file("d/f", "text")], 0),
        tar(&[file("g", "g")], 9),
    ];
    let layers = apply(&*driver, &tars).unwrap();
    let root = mount_layers(&*driver, &layers);
    let made = rustix::fs::mkdirat(&root, "new", rustix::fs::Mode::RWXU);
    assert_eq!(made, Err(rustix::io::Errno::ROFS), "layers never change");
    drop(root);
    driver.flush().unwrap();
    for id in &layers {
        assert_eq!(driver.verify(id).unwrap(), []);
        let usage = driver.usage(&NodeId::Layer(id.clone())).unwrap();
        assert!(usage.bytes > 0 && usage.inodes > 0, "{usage:?}");
        assert_eq!(
            driver.tar(id).unwrap().is_some(),
            driver.features().keeps_tar
        );
    }
    // One that is begun and dropped leaves nothing; one whose process died goes with a sweep,
    // one whose process lives does not.
    let request = || LayerRequest {
        parents: Parents::known(layers.clone()),
        unpacker: Unpacker::new(),
        cancel: Cancel::new(),
    };
    drop(driver.begin_layer(request()).unwrap());
    assert_eq!(count(&driver.root().join("staging")), 0);
    let alive = driver.begin_layer(request()).unwrap();
    let died = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_dies", "--nocapture"])
        .env("UNLADE_TEST_DIE", driver.root())
        .env("UNLADE_TEST_KIND", kind.name())
        .env("UNLADE_TEST_LAYER", layers[1].as_str())
        .output()
        .unwrap();
    assert_eq!(died.status.signal(), Some(6), "{died:?}");
    assert_eq!(count(&driver.root().join("staging")), 2);
    driver.sweep().unwrap();
    assert_eq!(count(&driver.root().join("staging")), 1);
    drop(alive);
    assert_eq!(count(&driver.root().join("staging")), 0);

    let all = layers.iter().cloned().map(NodeId::Layer);
    assert_eq!(driver.list().unwrap().len(), layers.len());
    for node in all {
        driver.remove(&node).unwrap();
        driver.remove(&node).unwrap();
    }
    assert_eq!(driver.list().unwrap(), []);
    assert!(driver.mount(MountOf::Layers(&layers)).is_err());
    assert!(driver.prepare(&layers).is_err());
    assert!(!driver.verify(&layers[0]).unwrap().is_empty());
    driver.sweep().unwrap();
    assert_eq!(count(&driver.root().join("trash")), 0);
    // What was removed can be made again.
    assert_eq!(apply(&*driver, &tars).unwrap(), layers);
    assert!(driver.verify(&layers[1]).unwrap().is_empty());
}

pub(crate) fn damage(_: &Fs, _: DriverKind, driver: Arc<dyn Driver>) {
    let text = format!("the text that is looked for {}", "x".repeat(5000));
    let tars = [
        tar(&[dir("d"), file("d/f", "other"), link("l", "d/f")], 0),
        tar(
            &[file("d/text", &text), symlink("s", "t"), file(".wh.l", "")],
            9,
        ),
    ];
    for how in ["flip", "cut", "record"] {
        let layers = apply(&*driver, &tars).unwrap();
        let id = &layers[1];
        assert_eq!(driver.verify(id).unwrap(), []);
        let dir = driver.root().join("layers").join(id.as_str());
        force_writable(&dir.join("tree"));
        let damaged = if how == "record" {
            let mut records: Vec<_> = find_records(&dir);
            records.pop().unwrap_or_else(|| dir.join("info"))
        } else {
            find_text(&dir, b"the text that is looked for").unwrap().0
        };
        let bytes = std::fs::read(&damaged).unwrap();
        let time = std::fs::metadata(&damaged).unwrap().modified().unwrap();
        let open = std::fs::File::options().write(true).open(&damaged).unwrap();
        if how == "flip" {
            let at = find_text(damaged.parent().unwrap(), b"looked for")
                .unwrap()
                .1;
            std::os::unix::fs::FileExt::write_all_at(&open, b"L", at as u64).unwrap();
        } else {
            open.set_len(bytes.len() as u64 - 1).unwrap();
        }
        open.set_modified(time).unwrap();
        let findings = driver.verify(id).unwrap();
        assert!(!findings.is_empty(), "{how}");
        if how == "flip" && !driver.features().keeps_tar {
            assert_eq!(findings[0].path, b"d/text");
            assert_eq!(findings[0].what, "its content has changed");
        }
        for id in layers {
            driver.remove(&NodeId::Layer(id)).unwrap();
        }
        driver.sweep().unwrap();
    }
}

fn find_records(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().unwrap().to_str().unwrap() {
            "record" => found.push(path),
            "records" => {
                let names = std::fs::read_dir(path).unwrap();
                found.extend(names.map(|e| e.unwrap().path()));
            }
            _ => {}
        }
    }
    found
}
