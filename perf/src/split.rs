//! Splits the entries of several tars into a number of layers of similar size.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use tar::EntryType;

use crate::tarhop::{Hop, trim};

/// One entry of the inputs, by position.
#[derive(Debug)]
struct Item<'a> {
    raw: &'a [u8],
    path: Vec<u8>,
    is_dir: bool,
    /// No layer may begin here: a hard link that follows points at an entry before.
    tied: bool,
}

/// Writes `outputs.len()` layers that hold the inputs' entries in order. Hard links stay in the
/// layer of their target, and each layer begins with the directories its first entry lies in.
pub(crate) fn split(inputs: &[&[u8]], outputs: &[PathBuf]) -> Result<()> {
    let items = items(inputs)?;
    let total: usize = items.iter().map(|item| item.raw.len()).sum();
    let cuts = cuts(&items, total.div_ceil(outputs.len().max(1)));
    let dirs: HashMap<&[u8], &[u8]> = items
        .iter()
        .filter(|i| i.is_dir)
        .map(|i| (&*i.path, i.raw))
        .collect();
    for (number, output) in outputs.iter().enumerate() {
        let from = if number == 0 {
            0
        } else {
            cuts.get(number - 1).copied().unwrap_or(items.len())
        };
        let to = if number + 1 == outputs.len() {
            items.len()
        } else {
            *cuts.get(number).unwrap_or(&items.len())
        };
        let partial = output.with_extension("tar.partial");
        let file =
            File::create(&partial).with_context(|| format!("create {}", partial.display()))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        if let Some(first) = items.get(from) {
            for (at, _) in first
                .path
                .iter()
                .enumerate()
                .filter(|&(_, &byte)| byte == b'/')
            {
                if let Some(raw) = dirs.get(&first.path[..at]) {
                    file.write_all(raw)?;
                }
            }
        }
        for item in &items[from..to] {
            file.write_all(item.raw)?;
        }
        file.write_all(&[0; 1024])?;
        file.into_inner().context("write a layer")?;
        fs::rename(&partial, output)?;
    }
    Ok(())
}

fn items<'a>(inputs: &[&'a [u8]]) -> Result<Vec<Item<'a>>> {
    let mut items: Vec<Item<'a>> = Vec::new();
    let mut position: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut ties = Vec::new();
    for tar in inputs {
        let mut hop = Hop::new(tar);
        while let Some(entry) = hop.next_entry()? {
            let kind = entry.header.entry_type();
            if kind == EntryType::Link
                && let Some(&target) = position.get(trim(&entry.link))
            {
                ties.push((target, items.len()));
            }
            position.insert(entry.path.to_vec(), items.len());
            items.push(Item {
                raw: &tar[entry.start..entry.end],
                path: entry.path.into_owned(),
                is_dir: kind.is_dir(),
                tied: false,
            });
        }
    }
    for (target, link) in ties {
        for item in &mut items[target + 1..=link] {
            item.tied = true;
        }
    }
    Ok(items)
}

/// Where layers begin, the first one left out: each at the first place after its share that is
/// not tied to what comes before.
fn cuts(items: &[Item<'_>], share: usize) -> Vec<usize> {
    let (mut cuts, mut sum) = (Vec::new(), 0);
    for (index, item) in items.iter().enumerate() {
        if sum >= share * (cuts.len() + 1) && !item.tied {
            cuts.push(index);
        }
        sum += item.raw.len();
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::Header;

    fn sample() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind, size: usize, link: &str| {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(size as u64);
            if kind == EntryType::Link {
                builder.append_link(&mut header, path, link).unwrap();
            } else {
                builder
                    .append_data(&mut header, path, &vec![1; size][..])
                    .unwrap();
            }
        };
        add("d/", EntryType::Directory, 0, "");
        add("d/a", EntryType::Regular, 4000, "");
        add("d/b", EntryType::Regular, 4000, "");
        add("d/c", EntryType::Link, 0, "d/a");
        add("d/e", EntryType::Regular, 4000, "");
        add("d/f", EntryType::Regular, 4000, "");
        builder.into_inner().unwrap()
    }

    fn paths(tar: &[u8]) -> Vec<String> {
        let mut hop = Hop::new(tar);
        std::iter::from_fn(|| hop.next_entry().unwrap())
            .map(|entry| String::from_utf8(entry.path.into_owned()).unwrap())
            .collect()
    }

    #[test]
    fn layers_keep_order_parents_and_hard_links() {
        let temp = tempfile::tempdir().unwrap();
        let outputs: Vec<_> = (0..4)
            .map(|n| temp.path().join(format!("x.{n}.tar")))
            .collect();
        split(&[&sample()], &outputs).unwrap();
        let layers: Vec<_> = outputs
            .iter()
            .map(|o| paths(&fs::read(o).unwrap()))
            .collect();
        assert_eq!(layers[0], ["d", "d/a", "d/b", "d/c"]);
        assert_eq!(layers[1], ["d", "d/e"]);
        assert_eq!(layers[2], ["d", "d/f"]);
        assert!(layers[3].is_empty());
    }
}
