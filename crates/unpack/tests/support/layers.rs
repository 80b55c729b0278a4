//! Layers made of operations, and whether a `TreeSink` and real directories agree on them. Used
//! by `tests/model.rs` and by the fuzz target `layer_model`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use unlade_unpack::{
    Algorithm, Digest, DirOptions, Expect, IoChoice, Node, NodeKind, Owners, Result, TreeSink,
    Unpacker, source::BytesSource,
};

#[derive(Debug, Clone)]
pub(crate) enum What {
    File(u16),
    /// Up to four segments as (hole before it, length), and the hole at the end.
    Sparse(Vec<(u16, u16)>, u16),
    Dir,
    Symlink(String),
    HardLink(String),
    Fifo,
    Whiteout,
    Opaque,
}

#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) path: String,
    pub(crate) what: What,
    pub(crate) mode: u32,
}

fn set_octal(field: &mut [u8; 12], n: u64) {
    field[..11].copy_from_slice(format!("{n:011o}").as_bytes());
}

/// A tar stream of the operations; times count up so that every entry differs.
pub(crate) fn layer(ops: &[Op]) -> Vec<u8> {
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
            What::Sparse(map, end) => {
                h = tar::Header::new_gnu();
                let gnu = h.as_gnu_mut().unwrap();
                let mut at = 0;
                for (segment, (gap, len)) in gnu.sparse.iter_mut().zip(map) {
                    at += u64::from(*gap);
                    set_octal(&mut segment.offset, at);
                    set_octal(&mut segment.numbytes, u64::from(*len));
                    at += u64::from(*len);
                    data.resize(data.len() + usize::from(*len), b'd');
                }
                set_octal(&mut gnu.realsize, at + u64::from(*end));
                tar::EntryType::GNUSparse
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
            // Its mode is noted; only root can look into a directory of any mode.
            if !owners {
                fs::set_permissions(&at, fs::Permissions::from_mode(0o700)).unwrap();
            }
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
            if !owners {
                fs::set_permissions(&at, fs::Permissions::from_mode(0o600)).unwrap();
            }
            let data = fs::read(&at).unwrap();
            fs::set_permissions(&at, meta.permissions()).unwrap();
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

/// What layers are applied with, kept for many of them.
pub(crate) struct Rig {
    root: bool,
    base: PathBuf,
    model: Unpacker,
    disks: [(IoChoice, Unpacker); 2],
}

impl Rig {
    /// Directories are made in memory, or where `base` says.
    pub(crate) fn new(base: Option<PathBuf>) -> Self {
        let base = base.unwrap_or_else(|| {
            let shm = Path::new("/dev/shm");
            if shm.is_dir() {
                shm.to_owned()
            } else {
                std::env::temp_dir()
            }
        });
        let unpacker = || Unpacker::new().memory_budget_bytes(8 << 20);
        Self {
            root: rustix::process::geteuid().is_root(),
            base,
            model: unpacker().threads(1),
            disks: [IoChoice::Threads, IoChoice::Ring].map(|io| (io, unpacker().threads(2).io(io))),
        }
    }

    /// Why all of them refuse these layers; `None` if they take them.
    #[allow(dead_code, reason = "not every test asks")]
    pub(crate) fn refusal(&self, layers: &[Vec<Op>]) -> Option<String> {
        self.compare(layers).unwrap();
        let tars: Vec<Vec<u8>> = layers.iter().map(|ops| layer(ops)).collect();
        let done = apply(&tars, &mut TreeSink::new(), &self.model);
        done.err().map(|e| e.to_string())
    }

    /// Applies the layers every way, and says what differs.
    pub(crate) fn compare(&self, layers: &[Vec<Op>]) -> Result<(), String> {
        let tars: Vec<Vec<u8>> = layers.iter().map(|ops| layer(ops)).collect();
        let mut model = TreeSink::new();
        let modelled = apply(&tars, &mut model, &self.model);
        for (io, unpacker) in &self.disks {
            let dir = tempfile::tempdir_in(&self.base).unwrap();
            let mut options = DirOptions::default();
            options.owners = if self.root {
                Owners::Archive
            } else {
                Owners::Caller
            };
            let mut sink = unpacker
                .dir_sink(File::open(dir.path()).unwrap().into(), options)
                .unwrap();
            let applied = apply(&tars, &mut sink, unpacker);
            drop(sink);
            match (&modelled, &applied) {
                (Ok(()), Ok(())) => {
                    let want = facts_of_model(&model, self.root);
                    let got = facts_on_disk(dir.path(), self.root);
                    if want != got {
                        return Err(format!("{io:?}: model {want:#?}, disk {got:#?}"));
                    }
                }
                (Err(_), Err(_)) => {}
                (model, disk) => return Err(format!("{io:?}: model {model:?}, disk {disk:?}")),
            }
        }
        Ok(())
    }
}

fn op_of(path: &str, what: What) -> Op {
    Op {
        path: path.to_owned(),
        what,
        mode: 0o755,
    }
}

/// Over a layer with the symlink `d/l` to `../b`: layers whose meaning depends on the order of
/// their entries, which are refused, and some whose does not. `said` tells why two layers are
/// refused, lower and upper.
#[allow(dead_code, reason = "the fuzz target has no use for it")]
pub(crate) fn symlinks_hidden_after_use(said: impl Fn(&[Vec<Op>; 2]) -> Option<String>) {
    let lower = vec![
        op_of("b", What::Dir),
        op_of("d", What::Dir),
        op_of("d/l", What::Symlink("../b".to_owned())),
    ];
    let file = || op_of("d/l/f", What::File(3));
    let link = || op_of("x", What::HardLink("d/l/f".to_owned()));
    let hidden = || op_of("d/l", What::Whiteout);
    let cases = [
        (vec![file(), hidden()], true),
        (vec![file(), op_of("d/x", What::Opaque)], true),
        (vec![file(), op_of("d", What::Whiteout)], true),
        (vec![op_of("d/l/c", What::Whiteout), hidden()], true),
        (vec![file(), link(), hidden()], true),
        // The marker first: then the link is gone, and a directory is made.
        (vec![hidden(), file()], false),
        (vec![op_of("d/x", What::Opaque), file()], false),
        // What is hidden is not the link.
        (vec![file(), op_of("b/f", What::Whiteout)], false),
        (vec![file(), op_of("b/x", What::Opaque)], false),
        // A link of the layer's own is not hidden.
        (
            vec![
                op_of("d/l", What::Symlink("../b".to_owned())),
                file(),
                hidden(),
            ],
            false,
        ),
    ];
    for (upper, refused) in cases {
        let layers = [lower.clone(), upper];
        let said = said(&layers);
        let right = match &said {
            Some(text) => refused && text.contains("the symlink `d/l` of a lower layer"),
            None => !refused,
        };
        assert!(right, "{:?}: {said:?}", layers[1]);
    }
}
