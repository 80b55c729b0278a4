//! What the erofs driver alone does: tars that stay, images that are made anew.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::Read,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use support::{
    apply,
    layers::{Op, dir, file, link, tar},
    mount_layers, sha,
    tree::Tree,
};
use tar::EntryType;
use unlade_graph::{
    driver::{Driver, LayerId, MountOf, NodeId},
    erofs_driver::{ErofsDriver, Way},
};

/// Where it is, the driver, the tars of two layers, and their names in it.
type Rig = (tempfile::TempDir, ErofsDriver, Vec<Vec<u8>>, Vec<LayerId>);

/// A driver on an ordinary directory, and two layers in it.
fn driver() -> Option<Rig> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may mount");
        return None;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let driver = ErofsDriver::open(&dir.path().join("graph"), None).unwrap();
    if driver.way().unwrap() != Way::Index {
        eprintln!("skipped: this kernel mounts no index: {:?}", driver.notes());
        return None;
    }
    let tars = vec![
        layer_with_sparse_file(),
        tar(&[file("top", "2"), link("l", "f")], 50),
    ];
    let layers = apply(&driver, &tars).unwrap();
    Some((dir, driver, tars, layers))
}

/// Its segments are out of step with the blocks of the tar.
fn layer_with_sparse_file() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_path("sparse").unwrap();
    header.set_mode(0o644);
    header.set_mtime(1);
    let gnu = header.as_gnu_mut().unwrap();
    for (i, offset) in [(0, 100), (1, 5000)] {
        gnu.sparse[i].offset[..11].copy_from_slice(format!("{offset:011o}").as_bytes());
        gnu.sparse[i].numbytes[..11].copy_from_slice(format!("{:011o}", 10).as_bytes());
    }
    gnu.realsize[..11].copy_from_slice(format!("{:011o}", 6000).as_bytes());
    header.set_size(20);
    header.set_cksum();
    let mut out = tar::Builder::new(Vec::new());
    out.append(&header, &b"0123456789abcdefghij"[..]).unwrap();
    let mut bytes = out.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes.extend_from_slice(&tar(&[dir("d"), file("d/f", "1"), file("f", "f")], 0));
    bytes
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
    names.sort();
    names
}

fn image_of(driver: &ErofsDriver) -> PathBuf {
    let images = driver.root().join("images");
    let names = files(&images);
    assert_eq!(names.len(), 1, "{names:?}");
    images.join(&names[0])
}

#[test]
fn a_layer_is_its_tar() {
    let Some((_dir, driver, tars, layers)) = driver() else {
        return;
    };
    for (id, tar) in layers.iter().zip(&tars) {
        assert_eq!(*id, LayerId::of(&sha(tar)));
        let mut kept = Vec::new();
        driver
            .tar(id)
            .unwrap()
            .unwrap()
            .read_to_end(&mut kept)
            .unwrap();
        assert_eq!(kept, *tar);
        assert!(driver.usage(&NodeId::Layer(id.clone())).unwrap().bytes >= tar.len() as u64);
    }
    let at = |n: usize| driver.root().join("layers").join(layers[n].as_str());
    assert_eq!(files(&at(0)), ["info", "spill", "spill.blake3", "tar"]);
    assert_eq!(files(&at(1)), ["info", "tar"]);
    let root = mount_layers(&driver, &layers);
    let path = format!("/proc/self/fd/{}/sparse", root.as_raw_fd());
    let mut want = vec![0; 6000];
    want[100..110].copy_from_slice(b"0123456789");
    want[5000..5010].copy_from_slice(b"abcdefghij");
    assert_eq!(fs::read(path).unwrap(), want);

    for (name, bytes) in [("spill", &b"x"[..]), ("spill.blake3", b"0")] {
        let path = at(0).join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let findings = driver.verify(&layers[0]).unwrap();
        assert!(findings[0].what.contains("spill"), "{findings:?}");
        fs::remove_file(&path).unwrap();
        assert!(!driver.verify(&layers[0]).unwrap().is_empty());
        fs::write(&path, before).unwrap();
        assert_eq!(driver.verify(&layers[0]).unwrap(), []);
    }
}

#[test]
fn the_same_image_from_memory_and_from_disk() {
    let Some((dir, first, tars, layers)) = driver() else {
        return;
    };
    let index = |driver: &ErofsDriver| fs::read(image_of(driver).join("index.erofs")).unwrap();
    let from_memory = index(&first);
    fs::remove_dir_all(first.root().join("images")).unwrap();
    let second = ErofsDriver::open(&first.root(), None).unwrap();
    second.prepare(&layers).unwrap();
    assert_eq!(index(&second), from_memory, "read from the tars");
    let other = ErofsDriver::open(&dir.path().join("other"), None).unwrap();
    assert_eq!(apply(&other, &tars).unwrap(), layers);
    assert_eq!(index(&other), from_memory, "on another day, elsewhere");
    for driver in [&second, &other] {
        assert_eq!(driver.verify_merged(&layers).unwrap(), []);
        assert_eq!(driver.verify_merged(&layers[..1]).unwrap(), []);
    }
}

#[test]
fn a_damaged_image_is_made_anew() {
    let Some((_dir, driver, _, layers)) = driver() else {
        return;
    };
    let tree = || Tree::read(mount_layers(&driver, &layers)).facts;
    let want = tree();
    let at = image_of(&driver);
    let (index, about) = (at.join("index.erofs"), at.join("about"));
    let good = fs::read(&index).unwrap();
    let say_other_boot = || {
        let text = fs::read_to_string(&about).unwrap();
        let body = &text[..text.rfind("end ").unwrap()];
        let boot = body.lines().nth(1).unwrap();
        let body = body.replace(boot, "boot another");
        let sum = blake3::hash(body.as_bytes()).to_hex();
        fs::write(&about, format!("{body}end {sum}\n")).unwrap();
    };
    // As a power cut may leave them: cut, empty, of zeros, and the text beside it too.
    let zeros = vec![0; good.len()];
    for bytes in [&good[..100], b"", &zeros] {
        fs::write(&index, bytes).unwrap();
        say_other_boot();
        assert_eq!(tree(), want);
        assert_eq!(fs::read(&index).unwrap(), good);
    }
    for text in ["", "unlade-image 1\n"] {
        fs::write(&about, text).unwrap();
        assert_eq!(tree(), want);
    }
    // Right, and from an earlier boot: looked at once.
    say_other_boot();
    assert_eq!(tree(), want);
    assert!(!fs::read_to_string(&about).unwrap().contains("boot another"));
    assert_eq!(image_of(&driver), at);

    let mut flipped = good.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    fs::write(&index, &flipped).unwrap();
    assert_eq!(driver.verify_merged(&layers).unwrap().len(), 1);
    driver.discard_merged(&layers).unwrap();
    assert!(files(&driver.root().join("images")).is_empty());
    driver.discard_merged(&layers).unwrap();
    driver.prepare(&layers).unwrap();
    assert_eq!(fs::read(&index).unwrap(), good);
    assert_eq!(driver.verify_merged(&layers).unwrap(), []);
}

#[test]
fn images_go_with_their_layers() {
    let Some((_dir, driver, _, layers)) = driver() else {
        return;
    };
    driver.prepare(&layers[..1]).unwrap();
    let images = driver.root().join("images");
    assert_eq!(files(&images).len(), 2);
    let mounted = mount_layers(&driver, &layers);
    driver.remove(&NodeId::Layer(layers[1].clone())).unwrap();
    assert!(driver.mount(MountOf::Layers(&layers)).is_err());
    driver.sweep().unwrap();
    assert_eq!(files(&images).len(), 1);
    driver.prepare(&layers[..1]).unwrap();
    // Who has it mounted keeps it.
    let path = format!("/proc/self/fd/{}/top", mounted.as_raw_fd());
    assert_eq!(fs::read(path).unwrap(), b"2");
    driver.remove(&NodeId::Layer(layers[0].clone())).unwrap();
    driver.sweep().unwrap();
    assert!(files(&images).is_empty());
}

#[test]
fn a_layer_that_does_not_fit_is_refused_when_it_is_merged() {
    let Some((_dir, driver, _, layers)) = driver() else {
        return;
    };
    let e = driver.prepare(&layers[1..]).unwrap_err();
    assert!(e.message().contains("`f`, which does not exist"), "{e}");
    let bad = tar(&[Op::new("x/.wh.", EntryType::Regular, b"", 0o644)], 0);
    assert!(apply(&driver, &[bad]).is_err());
}

#[test]
fn many_at_once_make_one_image() {
    let Some((_dir, driver, _, layers)) = driver() else {
        return;
    };
    fs::remove_dir_all(driver.root().join("images")).unwrap();
    let root = driver.root();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let driver = ErofsDriver::open(&root, None).unwrap();
                mount_layers(&driver, &layers)
            });
        }
    });
    image_of(&driver);
    assert!(files(&root.join("staging")).is_empty());
}

/// A mount outlives the process that made it, and the descriptors that it was made of.
#[test]
fn a_mount_stays_when_everything_else_goes() {
    let Some((_dir, driver, _, layers)) = driver() else {
        return;
    };
    let root = mount_layers(&driver, &layers);
    let graph = driver.root();
    drop(driver);
    fs::remove_dir_all(graph).unwrap();
    let path = format!("/proc/self/fd/{}/d/f", root.as_raw_fd());
    assert_eq!(fs::read(path).unwrap(), b"1");
}
