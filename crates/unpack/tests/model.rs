//! Random layers over a small set of names, applied to a `TreeSink` and to a real directory with
//! both I/O engines: all accept or refuse alike, and the trees are equal.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use proptest::prelude::*;
use unlade_unpack::{
    Algorithm, Digest, DirOptions, Expect, IoChoice, Node, NodeKind, Owners, Result, TreeSink,
    Unpacker, source::BytesSource,
};

#[derive(Debug, Clone)]
enum What {
    File(u16),
    Dir,
    Symlink(String),
    HardLink(String),
    Fifo,
    Whiteout,
    Opaque,
}

#[derive(Debug, Clone)]
struct Op {
    path: String,
    what: What,
    mode: u32,
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|p| p.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let target = prop_oneof![
        path(),
        path().prop_map(|p| format!("/{p}")),
        path().prop_map(|p| format!("../{p}")),
        Just(".".to_owned()),
    ];
    let what = prop_oneof![
        5 => (0_u16..2000).prop_map(What::File),
        4 => Just(What::Dir),
        2 => target.prop_map(What::Symlink),
        2 => path().prop_map(What::HardLink),
        1 => Just(What::Fifo),
        3 => Just(What::Whiteout),
        2 => Just(What::Opaque),
    ];
    let mode = prop::sample::select(vec![0o644, 0o755, 0o700, 0o4755]);
    (path(), what, mode).prop_map(|(path, what, mode)| Op { path, what, mode })
}

/// A tar stream of the operations; times count up so that every entry differs.
fn layer(ops: &[Op]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (i, op) in ops.iter().enumerate() {
        let mut h = tar::Header::new_ustar();
        let (dir, name) = op.path.rsplit_once('/').unwrap_or(("", &op.path));
        let in_dir = |n: String| {
            if dir.is_empty() {
                n
            } else {
                format!("{dir}/{n}")
            }
        };
        let mut data = Vec::new();
        let mut path = op.path.clone();
        let kind = match &op.what {
            What::File(n) => {
                data = vec![u8::try_from(i & 0xff).unwrap(); usize::from(*n)];
                tar::EntryType::Regular
            }
            What::Dir => tar::EntryType::Directory,
            What::Symlink(to) => {
                h.set_link_name_literal(to).unwrap();
                tar::EntryType::Symlink
            }
            What::HardLink(to) => {
                h.set_link_name_literal(to).unwrap();
                tar::EntryType::Link
            }
            What::Fifo => tar::EntryType::Fifo,
            What::Whiteout => {
                path = in_dir(format!(".wh.{name}"));
                tar::EntryType::Regular
            }
            What::Opaque => {
                path = in_dir(".wh..wh..opq".into());
                tar::EntryType::Regular
            }
        };
        h.set_path(path).unwrap();
        h.set_entry_type(kind);
        h.set_mode(op.mode);
        h.set_uid(u64::try_from(i % 3).unwrap());
        h.set_gid(7);
        h.set_mtime(1_600_000_000 + i as u64);
        h.set_size(data.len() as u64);
        h.set_cksum();
        out.append(&h, &data[..]).unwrap();
    }
    out.into_inner().unwrap()
}

/// One line of facts a path, with hard links told by the first of their names.
type Facts = BTreeMap<String, String>;

fn facts_of_model(tree: &TreeSink, owners: bool) -> Facts {
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    let mut out = Facts::new();
    for (
        path,
        Node {
            inode, kind, meta, ..
        },
    ) in tree.nodes()
    {
        let name = String::from_utf8(path.to_vec()).unwrap();
        let link = first.entry(*inode).or_insert_with(|| name.clone()).clone();
        let what = match kind {
            NodeKind::File { size, content } => format!("file {size} {content} ={link}"),
            NodeKind::Dir => "dir".into(),
            NodeKind::Symlink { target } => {
                format!("symlink {} ={link}", String::from_utf8_lossy(target))
            }
            NodeKind::Fifo => format!("fifo ={link}"),
            other => format!("{other:?}"),
        };
        let mode = if matches!(kind, NodeKind::Symlink { .. }) {
            0
        } else {
            meta.mode
        };
        let owner = if owners { (meta.uid, meta.gid) } else { (0, 0) };
        out.insert(
            name,
            format!("{what} {mode:o} {owner:?} {}", meta.mtime.secs),
        );
    }
    out
}

fn facts_on_disk(root: &Path, owners: bool) -> Facts {
    let mut todo = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(at) = todo.pop() {
        let meta = fs::symlink_metadata(&at).unwrap();
        if meta.is_dir() {
            todo.extend(fs::read_dir(&at).unwrap().map(|e| e.unwrap().path()));
        }
        let name = at
            .strip_prefix(root)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec();
        paths.push((name, at, meta));
    }
    paths.sort_by(|a, b| a.0.cmp(&b.0));
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    let mut out = Facts::new();
    for (name, at, meta) in paths {
        let name = String::from_utf8(name).unwrap();
        let link = first
            .entry(meta.ino())
            .or_insert_with(|| name.clone())
            .clone();
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            "dir".into()
        } else if kind.is_symlink() {
            format!("symlink {} ={link}", fs::read_link(&at).unwrap().display())
        } else if kind.is_file() {
            let data = fs::read(&at).unwrap();
            format!(
                "file {} {} ={link}",
                data.len(),
                Digest::of(Algorithm::Sha256, &data)
            )
        } else {
            format!("fifo ={link}")
        };
        let mode = if kind.is_symlink() {
            0
        } else {
            meta.mode() & 0o7777
        };
        let owner = if owners {
            (meta.uid(), meta.gid())
        } else {
            (0, 0)
        };
        out.insert(name, format!("{what} {mode:o} {owner:?} {}", meta.mtime()));
    }
    out
}

fn apply(
    layers: &[Vec<u8>],
    sink: &mut dyn unlade_unpack::Sink,
    unpacker: &Unpacker,
) -> Result<()> {
    for layer in layers {
        unpacker.run(BytesSource::new(layer.clone()), Expect::default(), sink)?;
    }
    Ok(())
}

fn agree(layers: &[Vec<Op>]) -> std::result::Result<(), TestCaseError> {
    let root = rustix::process::geteuid().is_root();
    let tars: Vec<Vec<u8>> = layers.iter().map(|ops| layer(ops)).collect();
    let mut model = TreeSink::new();
    let modelled = apply(&tars, &mut model, &Unpacker::new().threads(1));
    let shm = Path::new("/dev/shm");
    for io in [IoChoice::Threads, IoChoice::Ring] {
        let unpacker = Unpacker::new().threads(2).io(io);
        let base = if shm.is_dir() {
            shm.to_owned()
        } else {
            std::env::temp_dir()
        };
        let dir = tempfile::tempdir_in(base).unwrap();
        let mut options = DirOptions::default();
        options.owners = if root {
            Owners::Archive
        } else {
            Owners::Caller
        };
        let mut sink = unpacker
            .dir_sink(File::open(dir.path()).unwrap().into(), options)
            .unwrap();
        let applied = apply(&tars, &mut sink, &unpacker);
        drop(sink);
        match (&modelled, &applied) {
            (Ok(()), Ok(())) => {
                let (want, got) = (
                    facts_of_model(&model, root),
                    facts_on_disk(dir.path(), root),
                );
                prop_assert_eq!(want, got, "{:?}", io);
            }
            (Err(_), Err(_)) => {}
            (model, disk) => {
                return Err(TestCaseError::fail(format!(
                    "{io:?}: model {model:?}, disk {disk:?}"
                )));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("UNLADE_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn model_and_directory_agree(
        layers in prop::collection::vec(prop::collection::vec(op(), 1..9), 1..4)
    ) {
        agree(&layers)?;
    }
}
