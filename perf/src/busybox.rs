//! The layer with something to run: busybox, one static binary, and names for what it can do.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::workloads::Store;

/// Where Debian puts it.
const PLACES: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
/// Directories of the layer, with their modes. `usr/sbin` is a directory in every Debian, `bin` is
/// not, and it comes first in the PATH of images made here.
const DIRS: [(&str, u32); 7] = [
    ("dev/", 0o755),
    ("etc/", 0o755),
    ("proc/", 0o755),
    ("sys/", 0o755),
    ("tmp/", 0o1777),
    ("usr/", 0o755),
    ("usr/sbin/", 0o755),
];
/// The program header that names a dynamic loader.
const PT_INTERP: u32 = 3;
/// What it is called as.
const APPLETS: [&str; 4] = ["cat", "sh", "sleep", "true"];

/// Writes the layer.
pub(crate) fn pack(store: &Store, out: &Path) -> Result<()> {
    let partial = out.with_extension("tar.partial");
    write(&static_binary(store)?, &partial)?;
    Ok(fs::rename(&partial, out)?)
}

fn write(binary: &[u8], to: &Path) -> Result<()> {
    let mut builder = tar::Builder::new(File::create(to)?);
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    for (dir, mode) in DIRS {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        builder.append_data(&mut header, dir, std::io::empty())?;
    }
    let mut file = header(tar::EntryType::Regular, 0o755, binary.len() as u64);
    builder.append_data(&mut file, "usr/sbin/busybox", binary)?;
    for name in APPLETS {
        let mut link = header(tar::EntryType::Symlink, 0o777, 0);
        builder.append_link(&mut link, format!("usr/sbin/{name}"), "busybox")?;
    }
    builder.into_inner()?;
    Ok(())
}

/// The binary of this machine, else that of the Debian package, which is not installed for it: it
/// would take the place of another busybox.
fn static_binary(store: &Store) -> Result<Vec<u8>> {
    for place in PLACES {
        if let Ok(bytes) = fs::read(place)
            && is_static(&bytes)
        {
            return Ok(bytes);
        }
    }
    eprintln!("perf: fetching the package busybox-static");
    let dir = tempfile::tempdir_in(store.root())?;
    run(Command::new("apt-get")
        .args(["-q", "download", "busybox-static"])
        .current_dir(dir.path()))
    .context("busybox-static is not installed, and cannot be fetched")?;
    let package = fs::read_dir(dir.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded nothing")?;
    let tree: PathBuf = dir.path().join("tree");
    run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&tree))?;
    let found = PLACES
        .iter()
        .find_map(|place| fs::read(tree.join(&place[1..])).ok());
    let bytes = found.context("no busybox in the package")?;
    ensure!(is_static(&bytes), "the package's busybox is not static");
    Ok(bytes)
}

/// Whether a 64-bit little-endian ELF program asks for no dynamic loader.
fn is_static(program: &[u8]) -> bool {
    fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
        bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }
    let interpreted = || {
        let table = usize::try_from(u64::from_le_bytes(field(program, 32)?)).ok()?;
        let size = usize::from(u16::from_le_bytes(field(program, 54)?));
        for number in 0..usize::from(u16::from_le_bytes(field(program, 56)?)) {
            let at = table.checked_add(number * size)?;
            if u32::from_le_bytes(field(program, at)?) == PT_INTERP {
                return Some(true);
            }
        }
        Some(false)
    };
    program.starts_with(b"\x7fELF\x02\x01") && interpreted() == Some(false)
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loader_is_noticed() {
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[32], elf[54], elf[56]) = (64, 56, 1);
        elf[64] = 1;
        assert!(is_static(&elf));
        elf[64] = 3;
        assert!(!is_static(&elf));
        assert!(!is_static(&elf[..64]));
        assert!(!is_static(b"#!/bin/sh"));
    }

    #[test]
    fn the_layer_has_the_binary_under_every_name() {
        let temp = tempfile::tempdir().unwrap();
        let out = temp.path().join("busybox.tar");
        write(b"\x7fELF", &out).unwrap();
        let mut archive = tar::Archive::new(File::open(&out).unwrap());
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let link = entry.link_name().unwrap().map(|to| to.into_owned());
                (entry.path().unwrap().into_owned(), link)
            })
            .collect();
        assert_eq!(entries.len(), DIRS.len() + 1 + APPLETS.len());
        let to_it = |name: &str| {
            let wanted = (format!("usr/sbin/{name}").into(), Some("busybox".into()));
            entries.contains(&wanted)
        };
        assert!(APPLETS.iter().all(|name| to_it(name)));
    }
}
