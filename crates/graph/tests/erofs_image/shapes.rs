//! Layers of every shape that is hard: wide, deep, long, large, sparse, many.

use std::{
    fs::{self, File},
    os::{fd::AsRawFd, unix::fs::FileExt},
};

use unlade_graph::erofs::{build, dump::dump, reader::Image};
use unlade_unpack::Limits;

use crate::{
    kernel, memory,
    store::{Store, compare, compare_paths, fsck},
    tars::{Tar, acl},
};

/// What must be the same for ever: an image is known by its layers.
#[test]
fn the_bytes_of_an_image_never_change() {
    let mut one = Tar::new();
    one.dir("d")
        .xattr("user.k", b"v")
        .file("d/f", b"hello")
        .file("empty", b"");
    one.link("d/link", b'1', "d/f").link("s", b'2', "d/f");
    one.full("null", b'3', 0o666, "", (1, 3), b"")
        .add("pipe", b'6', 0o600, b"");
    one.sparse("sparse", "gnu", 5000, &[(100, 10), (4096, 4)]);
    one.pax("mtime", b"-1.5").file("old", b"x");
    let mut two = Tar::new();
    two.file(".wh.s", b"").file("new/f", b"top");
    let tars = [one.bytes, two.bytes];
    let built = memory::build(&tars).unwrap();
    let text = dump(&Image::open(&built.image).unwrap()).unwrap();
    let want = include_str!("image.txt");
    assert_eq!(text, want, "{text}");
    assert_eq!(built.image, memory::build(&tars).unwrap().image);
    let sum = blake3::hash(&built.image).to_hex();
    assert_eq!(
        &sum[..16],
        "42be0679d2e68415",
        "the dump holds, the bytes do not"
    );
    let full = blake3::hash(&memory::build_full(&tars).unwrap()).to_hex();
    assert_eq!(
        &full[..16],
        "ec9b62280c06cc08",
        "the bytes of the full image"
    );
}

#[test]
fn every_type_with_every_attribute() {
    let mut tar = Tar::new();
    let long = "n".repeat(255);
    for (dir, name) in [("a", "f"), (&*long, &*long), ("b c\n\u{e9}", "\u{1}")] {
        tar.dir(dir).file(&format!("{dir}/{name}"), b"data");
        tar.link(&format!("{dir}/hard"), b'1', &format!("{dir}/{name}"));
        tar.link(&format!("{dir}/soft"), b'2', "../x");
    }
    for (name, len) in [("l400", 400), ("l500", 500), ("l600", 600), ("l4095", 4095)] {
        tar.link(name, b'2', &"t".repeat(len));
    }
    for (name, kind, device) in [
        ("c", b'3', (4095, 1_048_575)),
        ("b", b'4', (8, 300)),
        ("n", b'3', (1, 3)),
    ] {
        tar.full(name, kind, 0o640, "", device, b"");
    }
    tar.add("p", b'6', 0o622, b"");
    for (i, mode) in (0..).zip([0, 0o7777, 0o4755, 0o2755, 0o1777]) {
        tar.add(&format!("m{i}"), b'0', mode, b"m")
            .add(&format!("md{i}"), b'5', mode, b"");
    }
    for (i, time) in (0..).zip([
        "0",
        "-1.25",
        "1.000000001",
        "5000000000.5",
        "99999999999",
        "-99999999999",
    ]) {
        tar.pax("mtime", time.as_bytes())
            .file(&format!("t{i}"), b"");
    }
    for (i, id) in (0..).zip([65535_u32, 65536, 4_294_967_294]) {
        let id = id.to_string();
        tar.pax("uid", id.as_bytes())
            .pax("gid", id.as_bytes())
            .file(&format!("u{i}"), b"");
        tar.pax("uid", id.as_bytes())
            .link(&format!("ul{i}"), b'2', "x");
    }
    compare(&[tar.bytes]);
}

#[test]
fn attributes_shared_and_single_short_and_long() {
    let mut tar = Tar::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for i in 0..20 {
        tar.xattr("user.same", b"value")
            .xattr("security.capability", &capability);
        tar.xattr(&format!("user.{i}"), &vec![b'v'; i * 37]);
        tar.file(&format!("f{i}"), b"x");
    }
    for i in 0..200 {
        tar.xattr(&format!("user.many{i}"), format!("{i}").as_bytes());
    }
    tar.file("many", b"");
    tar.xattr("user.long", &vec![b'l'; 60000])
        .xattr("user.empty", b"")
        .file("long", b"");
    tar.xattr(&format!("user.{}", "n".repeat(250)), b"v")
        .file("longest", b"");
    tar.xattr(&format!("user.{}", "n".repeat(251)), b"v")
        .file("too-long", b"");
    tar.xattr("trusted.x", b"no")
        .xattr("security.selinux", b"no")
        .xattr("user.overlay.x", b"no")
        .file("no", b"");
    tar.xattr("user.x", b"no")
        .link("s", b'2', "t")
        .xattr("user.x", b"no")
        .add("p", b'6', 0o600, b"");
    tar.xattr("security.capability", &capability)
        .add("pcap", b'6', 0o600, b"");
    let full = acl(&[
        (1, 7, u32::MAX),
        (2, 6, 1000),
        (4, 5, u32::MAX),
        (8, 1, 7),
        (16, 7, u32::MAX),
        (32, 4, u32::MAX),
    ]);
    let plain = acl(&[(1, 6, u32::MAX), (4, 4, u32::MAX), (32, 0, u32::MAX)]);
    for (name, value) in [
        ("full", &full),
        ("plain", &plain),
        ("bad", &acl(&[(1, 7, 0)])),
        ("none", &acl(&[])),
    ] {
        for (kind, at) in [(b'0', "f"), (b'5', "d"), (b'6', "p")] {
            tar.xattr("system.posix_acl_access", value).add(
                &format!("{at}-{name}"),
                kind,
                0o750,
                b"",
            );
            tar.xattr("system.posix_acl_default", value).add(
                &format!("{at}-{name}-d"),
                kind,
                0o750,
                b"",
            );
        }
    }
    tar.dir("d-full-d/inherits").file("d-full-d/file", b"");
    compare(&[tar.bytes]);
}

#[test]
fn sparse_files_of_all_formats() {
    let mut tar = Tar::new();
    let maps: [(u64, &[(u64, u64)]); 9] = [
        (10_000, &[]),
        (4096, &[(0, 4096)]),
        (1 << 20, &[(4096, 4096), (65536, 8192)]),
        (1 << 20, &[(512, 512), (1536, 512), (4096, 100)]),
        (5000, &[(1, 1), (4999, 1)]),
        (
            100_000,
            &[(0, 10), (100, 1000), (5000, 512), (90_000, 10_000)],
        ),
        (
            7 << 30,
            &[(0, 1), ((1 << 32) + 512, 512), ((7 << 30) - 1, 1)],
        ),
        (6 << 30, &[((6 << 30) - 4096, 4096)]),
        (1000, &[(0, 0), (1000, 0)]),
    ];
    for format in ["gnu", "0.0", "0.1", "1.0"] {
        for (i, (size, map)) in maps.iter().enumerate() {
            // In format 0.0 nothing would say that it is sparse.
            let nothing = map.is_empty() && format == "0.0";
            // Holes of gigabytes once: they take long to read.
            if !nothing && (*size < 1 << 30 || format == "1.0") {
                tar.sparse(&format!("{format}-{i}"), format, *size, map);
            }
        }
        let many: Vec<(u64, u64)> = (0..300).map(|i| (i * 1024 + i % 3 * 7, 512)).collect();
        tar.sparse(&format!("{format}-many"), format, 400_000, &many);
    }
    let (_dir, paths) = crate::store::write(&[tar.bytes]);
    compare_paths(&paths, 1 << 24);
}

/// A file of 5 GiB in one piece, in the tar mostly a hole.
#[test]
fn a_file_over_four_gib() {
    if !kernel::may_mount() {
        return;
    }
    let size = 5_u64 << 30;
    let mut tar = Tar::new();
    tar.file("before", b"1");
    tar.block("large", b'0', 0o644, "", (0, 0), size, &[]);
    let start = tar.bytes.len() as u64;
    let mut after = Tar::new();
    after.file("after", b"2");
    let (_dir, paths) = crate::store::write(&[tar.bytes]);
    let file = File::options().write(true).open(&paths[0]).unwrap();
    let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).unwrap();
    put(start, b"begin");
    put(start + size - 3, b"end");
    put(start + size, &after.bytes);
    let store = Store::over(paths).unwrap();
    let mount = store.mount_index().unwrap();
    let root = kernel::path_of(&mount);
    let large = File::open(root.join("large")).unwrap();
    assert_eq!(large.metadata().unwrap().len(), size);
    for (at, want) in [(0, b"begin"), (size - 5, b"\0\0end"), (1 << 32, &[0; 5])] {
        let mut got = [0; 5];
        large.read_exact_at(&mut got, at).unwrap();
        assert_eq!(&got, want);
    }
    assert_eq!(fs::read(root.join("after")).unwrap(), b"2");
}

#[test]
fn wide_and_deep_directories() {
    let mut tar = Tar::new();
    for i in 0..100_000 {
        tar.file(&format!("wide/{i:x}"), b"");
    }
    let mut path = "deep".to_owned();
    for _ in 0..500 {
        path.push_str("/d");
    }
    tar.file(&format!("{path}/f"), b"x");
    let mut path = "long".to_owned();
    for i in 0..30 {
        path.push_str(&format!("/{i:0>200}"));
        tar.dir(&path);
    }
    // Around the ends of directory blocks, and before and after the dots.
    for n in 30..60 {
        for i in 0..n {
            tar.file(&format!("n{n}/{i:04}"), b"");
        }
    }
    tar.dir("dots");
    for name in ["!", "-", "...", ".a", "..a", ".-", "0", "~"] {
        tar.file(&format!("dots/{name}"), name.as_bytes());
    }
    compare(&[tar.bytes]);
}

/// `n` layers, each changing some of what is below.
fn chain(n: usize) -> Vec<Vec<u8>> {
    let layer = |i: usize| {
        let mut tar = Tar::new();
        tar.file(&format!("f{i}"), format!("layer {i}").as_bytes());
        tar.file("same", format!("{i}").as_bytes())
            .file(&format!("d{}/f{i}", i % 7), b"x");
        if i > 2 {
            tar.file(&format!(".wh.f{}", i - 2), b"");
            tar.link(&format!("link{i}"), b'1', &format!("f{}", i - 1));
        }
        if i % 50 == 49 {
            tar.file(&format!("d{}/.wh..wh..opq", i % 7), b"");
        }
        tar.bytes
    };
    (0..n).map(layer).collect()
}

#[test]
fn chains_of_sixty_and_of_five_hundred_layers() {
    compare(&chain(60));
    compare(&chain(500));
}

#[test]
fn nothing_at_all() {
    if kernel::may_mount() {
        let store = Store::over(vec![]).unwrap();
        for facts in store.facts(0).unwrap() {
            let root = "dir 40755 0:0 0.000000000 links 2 [] =".to_owned();
            assert_eq!(facts.into_values().collect::<Vec<_>>(), [root]);
        }
    }
    compare(&[vec![0; 1024]]);
}

#[test]
#[ignore = "slow: scripts/soak runs it"]
fn a_million_entries() {
    let mut tar = Tar::new();
    for i in 0..1_000_000 {
        if i % 100 == 0 {
            tar.dir(&format!("d{}/e{}", i / 10_000, i / 100));
        }
        tar.file(&format!("d{}/e{}/file{i}", i / 10_000, i / 100), b"");
    }
    let (dir, paths) = crate::store::write(&[tar.bytes]);
    let store = Store::over(paths).unwrap();
    let layers = store.layers();
    let started = std::time::Instant::now();
    let tree = build::tree(&layers, &Limits::default()).unwrap();
    let (extras, files): (Vec<_>, Vec<_>) =
        build::devices(&tree, &layers).unwrap().into_iter().unzip();
    let path = dir.path().join("index");
    let written = build::index(&tree, &extras, File::create(&path).unwrap()).unwrap();
    eprintln!("{} bytes in {:?}", written.bytes, started.elapsed());
    let bytes = fs::read(&path).unwrap();
    let image = Image::open(&bytes).unwrap();
    let mut paths = 0;
    image
        .walk(|_| {
            paths += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(paths, 1_010_101);
    if kernel::may_mount() {
        let mount = kernel::mount(&File::open(&path).unwrap(), &files).unwrap();
        let found = std::process::Command::new("find")
            .arg(format!(
                "/proc/{}/fd/{}/.",
                std::process::id(),
                mount.as_raw_fd()
            ))
            .output()
            .unwrap();
        assert_eq!(found.stdout.iter().filter(|&&b| b == b'\n').count(), paths);
        let path = dir.path().join("full");
        build::full(&tree, &layers, &File::create(&path).unwrap()).unwrap();
        fsck(&path);
    }
}
