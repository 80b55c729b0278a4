//! Layers with more directories than are kept open: what was put into one that has been closed
//! meanwhile is still known.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{fs, path::Path};

use tar::{Builder, EntryType, Header};
use unlade_unpack::{DirOptions, Expect, IoChoice, Result, Unpacker, source::BytesSource};

struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(&mut self, name: &str, kind: EntryType, link: &str, body: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(body.len() as u64);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        self.0.append_data(&mut header, name, body).unwrap();
    }

    fn dir(&mut self, name: &str) {
        self.entry(name, EntryType::Directory, "", b"");
    }

    fn file(&mut self, name: &str) {
        self.entry(name, EntryType::Regular, "", name.as_bytes());
    }

    fn dirs(&mut self, prefix: &str, count: usize) {
        (0..count).for_each(|n| self.dir(&format!("{prefix}{n}")));
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn apply(root: &Path, io: IoChoice, layers: &[Vec<u8>]) -> Result<()> {
    let unpacker = Unpacker::new().io(io).threads(1);
    let fd = fs::File::open(root).unwrap().into();
    let mut sink = unpacker.dir_sink(fd, DirOptions::default())?;
    for layer in layers {
        let source = BytesSource::new(layer.clone());
        unpacker.run(source, Expect::default(), &mut sink)?;
    }
    Ok(())
}

fn on_both(layers: &[Vec<u8>], check: impl Fn(&Path)) {
    for io in [IoChoice::Threads, IoChoice::Ring] {
        let root = tempfile::tempdir().unwrap();
        apply(root.path(), io, layers).unwrap();
        check(root.path());
    }
}

#[test]
fn files_on_their_way_are_waited_for() {
    let mut layer = Layer::new();
    layer.dir("d");
    layer.file("d/f");
    layer.dirs("x", 600);
    layer.entry("d/f", EntryType::Symlink, "target", b"");
    on_both(&[layer.done()], |root| {
        assert_eq!(
            fs::read_link(root.join("d/f")).unwrap(),
            Path::new("target")
        );
    });
    for distance in [100, 300, 520] {
        let mut layer = Layer::new();
        for n in 0..1200 {
            layer.dir(&format!("m{n}"));
            layer.file(&format!("m{n}/f"));
            if n >= distance {
                let target = format!("m{}/f", n - distance);
                layer.entry(&format!("h{n}"), EntryType::Link, &target, b"");
            }
        }
        on_both(&[layer.done()], |root| {
            assert_eq!(
                fs::read(root.join("h1199")).unwrap(),
                format!("m{}/f", 1199 - distance).into_bytes()
            );
        });
    }
}

#[test]
fn a_directory_that_a_file_replaces_is_not_remembered() {
    let mut lower = Layer::new();
    lower.dir("x");
    lower.dir("x/sub");
    let lower = lower.done();
    for count in 505..=515 {
        let mut upper = Layer::new();
        upper.dir("p");
        upper.dirs("p/q", count);
        upper.file("x/sub/z");
        upper.file("x");
        upper.file("x/sub/y");
        on_both(&[lower.clone(), upper.done()], |root| {
            assert_eq!(
                fs::read(root.join("x/sub/y")).unwrap(),
                b"x/sub/y",
                "{count}"
            );
            assert!(!root.join("x/sub/z").exists(), "{count}");
        });
    }
}

#[test]
fn deep_and_repeated_markers_take_no_time_of_their_own() {
    let mut lower = Layer::new();
    lower.dir("d");
    lower.dirs("d/s", 300);
    let mut upper = Layer::new();
    upper.dir("d");
    upper.dirs("d/s", 300);
    upper.file("d/s0/f");
    for _ in 0..300 {
        upper.file(".wh.d");
        upper.file("d/.wh..wh..opq");
    }
    let deep = vec!["e"; 1500].join("/");
    upper.file(&format!("{deep}/f"));
    on_both(&[lower.done(), upper.done()], |root| {
        assert!(root.join("d/s0/f").exists() && root.join("d/s299").exists());
    });
}
