//! Turns trees into layer files: tar, gzip -6 and zstd -3, each with its digest on record.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::oci::{Compression, hex};
use crate::split::split;
use crate::tarhop::Hop;
use crate::trees::{ensure_tree, names_in, pack, packages};
use crate::workloads::{SPLITS, Store};
use crate::{busybox, machine, sys};

/// Size and digest of one file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    /// Bytes.
    pub(crate) size: u64,
    /// Hex SHA-256.
    pub(crate) sha256: String,
}

/// What is known of a layer; kept beside it as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Name of the layer.
    pub(crate) name: String,
    /// Tar entries.
    pub(crate) entries: u64,
    /// The files, by extension (`tar`, `tar.gz`, `tar.zst`).
    pub(crate) files: BTreeMap<String, FileRecord>,
    /// Versions of the packages in it, where it was made from packages.
    pub(crate) packages: BTreeMap<String, String>,
    /// Versions of what packed it.
    pub(crate) tools: BTreeMap<String, String>,
}

/// Makes every layer named that is not finished, compressing as many at a time as there are cores.
pub(crate) fn ensure_layers(store: &Store, names: &[String]) -> Result<Vec<LayerRecord>> {
    fs::create_dir_all(store.layers())?;
    let mut jobs = Vec::new();
    for name in names {
        if store.layer(name, "json").exists() {
            continue;
        }
        ensure_tar(store, name).with_context(|| format!("make layer {name}"))?;
        for kind in [Compression::Gzip, Compression::Zstd] {
            if !store.layer(name, kind.extension()).exists() {
                jobs.push((name.clone(), kind));
            }
        }
    }
    compress_all(store, jobs)?;
    names.iter().map(|name| record(store, name)).collect()
}

/// Makes `NAME.tar`, and the package list if it holds packages.
fn ensure_tar(store: &Store, name: &str) -> Result<()> {
    let out = store.layer(name, "tar");
    if out.exists() {
        return Ok(());
    }
    match name {
        "debian" | "python" | "node" => {
            ensure_tree(store, name)?;
            let tree = store.trees().join(name);
            let list = serde_json::to_vec_pretty(&packages(name, &tree)?)?;
            fs::write(store.layer(name, "packages.json"), list)?;
            pack(&out, &[(&tree, names_in(&tree)?)])
        }
        "big" => big(store, &out),
        "busybox" => busybox::pack(store, &out),
        "tiny" => generate(&out, 3, 300, "tiny"),
        "smoke-a" => generate(&out, 600, 6_000, "a"),
        "smoke-b" => generate(&out, 200, 40_000, "b"),
        other => split_many(store, other),
    }
}

/// All three trees side by side, and one file that is the Python and the Node tar in a row.
fn big(store: &Store, out: &Path) -> Result<()> {
    for tree in crate::trees::TREES {
        ensure_tree(store, tree)?;
    }
    let staging = store.trees().join("big-staging");
    fs::create_dir_all(&staging)?;
    let mut file = File::create(staging.join("large.bin"))?;
    for part in ["python", "node"] {
        ensure_tar(store, part)?;
        std::io::copy(&mut File::open(store.layer(part, "tar"))?, &mut file)?;
    }
    let trees = crate::trees::TREES.map(Into::into).to_vec();
    pack(
        out,
        &[
            (&store.trees(), trees),
            (&staging, vec!["large.bin".into()]),
        ],
    )?;
    fs::remove_dir_all(&staging)?;
    Ok(())
}

fn split_many(store: &Store, layer: &str) -> Result<()> {
    let family = layer.rsplit_once('.').map(|(family, _)| family);
    let found = SPLITS.iter().find(|(name, ..)| Some(*name) == family);
    let (family, inputs, parts) = found.with_context(|| format!("no layer called {layer:?}"))?;
    let mut maps = Vec::new();
    for &input in inputs {
        ensure_tar(store, input)?;
        maps.push(sys::map_file(&File::open(store.layer(input, "tar"))?)?);
    }
    let outputs: Vec<_> = (0..*parts)
        .map(|n| store.layer(&format!("{family}.{n}"), "tar"))
        .collect();
    split(
        &maps.iter().map(|map| &map[..]).collect::<Vec<_>>(),
        &outputs,
    )
}

/// A small layer that needs no network: text of an arithmetic kind, the same every time.
fn generate(out: &Path, files: u32, mean_bytes: u32, seed: &str) -> Result<()> {
    let partial = out.with_extension("tar.partial");
    let mut builder = tar::Builder::new(File::create(&partial)?);
    let mut state = seed
        .bytes()
        .fold(0x2545_f491_u32, |s, b| s.rotate_left(5) ^ u32::from(b));
    for number in 0..files {
        let dir = format!("{seed}/{}", number / 50);
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        if number % 50 == 0 {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            builder.append_data(&mut header.clone(), format!("{dir}/"), std::io::empty())?;
        }
        let mut text = String::new();
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bytes = (state >> 8) % (mean_bytes * 2) + 1;
        while text.len() < bytes as usize {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            text.push_str(["layer ", "blob ", "digest ", "tree "][(state >> 30) as usize]);
            text.push_str(&(state >> 20).to_string());
            text.push('\n');
        }
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, format!("{dir}/{number}.txt"), text.as_bytes())?;
    }
    builder.into_inner()?;
    fs::rename(&partial, out)?;
    Ok(())
}

fn compress_all(store: &Store, mut jobs: Vec<(String, Compression)>) -> Result<()> {
    // The slow ones first.
    jobs.sort_by_key(|(name, kind)| {
        let size = fs::metadata(store.layer(name, "tar")).map_or(0, |meta| meta.len());
        if *kind == Compression::Gzip {
            size * 10
        } else {
            size
        }
    });
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(jobs.len());
    let jobs = Mutex::new(jobs);
    let next = || jobs.lock().ok()?.pop();
    let work = || {
        while let Some((name, kind)) = next() {
            compress(store, &name, kind).with_context(|| format!("compress {name}"))?;
        }
        anyhow::Ok(())
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for handle in handles {
            handle
                .join()
                .map_err(|_| anyhow::anyhow!("a compressing thread panicked"))??;
        }
        Ok(())
    })
}

fn compress(store: &Store, name: &str, kind: Compression) -> Result<()> {
    let out = store.layer(name, kind.extension());
    let partial = store.layer(name, &format!("{}.partial", kind.extension()));
    eprintln!("perf: compressing {name} as {}", kind.extension());
    let (program, args) = match kind {
        Compression::Gzip => ("gzip", &["-n", "-6", "-c"][..]),
        Compression::Zstd => ("zstd", &["-3", "-q", "-c"][..]),
        Compression::Tar => bail!("a tar is not compressed"),
    };
    let status = Command::new(program)
        .args(args)
        .arg(store.layer(name, "tar"))
        .stdin(Stdio::null())
        .stdout(File::create(&partial)?)
        .status()
        .with_context(|| format!("start {program} (is it installed?)"))?;
    ensure!(status.success(), "{program}: {status}");
    fs::rename(&partial, &out)?;
    Ok(())
}

fn record(store: &Store, name: &str) -> Result<LayerRecord> {
    let path = store.layer(name, "json");
    if let Ok(bytes) = fs::read(&path) {
        return serde_json::from_slice(&bytes).with_context(|| format!("{}", path.display()));
    }
    let mut files = BTreeMap::new();
    for kind in Compression::ALL {
        let map = sys::map_file(&File::open(store.layer(name, kind.extension()))?)?;
        let sha256 = hex(&Sha256::digest(&map[..]));
        files.insert(
            kind.extension().to_owned(),
            FileRecord {
                size: map.len() as u64,
                sha256,
            },
        );
    }
    let tar = sys::map_file(&File::open(store.layer(name, "tar"))?)?;
    let (mut entries, mut hop) = (0, Hop::new(&tar));
    while hop.next_entry()?.is_some() {
        entries += 1;
    }
    let packages = match fs::read(store.layer(name, "packages.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => BTreeMap::new(),
    };
    let tools = machine::versions(&["tar", "gzip", "zstd", "debootstrap", "npm"]);
    let record = LayerRecord {
        name: name.to_owned(),
        entries,
        files,
        packages,
        tools,
    };
    fs::write(&path, serde_json::to_vec_pretty(&record)?)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_layers_are_the_same_every_time() {
        let temp = tempfile::tempdir().unwrap();
        let [one, two] = ["1.tar", "2.tar"].map(|name| temp.path().join(name));
        generate(&one, 120, 500, "x").unwrap();
        generate(&two, 120, 500, "x").unwrap();
        let bytes = fs::read(&one).unwrap();
        assert_eq!(bytes, fs::read(&two).unwrap());
        let mut hop = Hop::new(&bytes);
        let count = std::iter::from_fn(|| hop.next_entry().unwrap()).count();
        assert_eq!(count, 123);
    }
}
