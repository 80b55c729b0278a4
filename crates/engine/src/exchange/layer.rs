//! What changed in a container, as docker lists it and as a layer of an image has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat, fstat, openat},
    io::Errno,
};
use unlade_graph::{
    driver::{Change, ChangeKind},
    walk::{self, show},
};
use unlade_unpack::entry::split;

use super::resolve::open_in;
use crate::{
    error::{Error, Result},
    tarball::{HANDLE, Packer},
};

/// What the engine mounts into every container. Where an image has no such path, the runtime makes
/// it when the container starts.
const OWN: [&str; 11] = [
    "dev",
    "dev/console",
    "dev/mqueue",
    "dev/pts",
    "dev/shm",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "proc",
    "sbin/docker-init",
    "sys",
];

/// Takes out of `changes` what the container did not do: the places of the engine's own mounts,
/// and directories in which nothing else changed. `now` is the merged root, `before` that of the
/// layers below.
pub(crate) fn hide_own(
    changes: Vec<Change>,
    now: BorrowedFd<'_>,
    before: &dyn Fn() -> Result<OwnedFd>,
) -> Result<Vec<Change>> {
    let mut kept: BTreeMap<Vec<u8>, ChangeKind> =
        changes.into_iter().map(|c| (c.path, c.kind)).collect();
    let added = |kept: &BTreeMap<Vec<u8>, ChangeKind>, path: &[u8]| {
        kept.get(path) == Some(&ChangeKind::Added)
    };
    let mut above: BTreeSet<Vec<u8>> = BTreeSet::new();
    for path in OWN.iter().rev().map(|p| p.as_bytes()) {
        let (mut path, place) = (path, path);
        // Then the directories above that were made for it.
        while !path.is_empty()
            && added(&kept, path)
            && !has_below(&kept, path)
            && is_empty(now, path)?
        {
            kept.remove(path);
            path = split(path).0;
        }
        if path != place && !path.is_empty() {
            above.insert(path.to_vec());
        }
    }
    above.retain(|dir| kept.get(dir) == Some(&ChangeKind::Modified) && !has_in(&kept, dir));
    if !above.is_empty() {
        let before = before()?;
        for dir in above {
            let is_dir = |s: &Stat| FileType::from_raw_mode(s.st_mode) == FileType::Directory;
            if let (Some(a), Some(b)) = (look(before.as_fd(), &dir)?, look(now, &dir)?)
                && is_dir(&a.0)
                && is_dir(&b.0)
                && same(&a, &b)
            {
                kept.remove(&dir);
            }
        }
    }
    Ok(kept
        .into_iter()
        .map(|(path, kind)| Change { path, kind })
        .collect())
}

/// Whether a root directory has other attributes than the one of the layers below.
pub(super) fn root_differs(before: BorrowedFd<'_>, now: BorrowedFd<'_>) -> Result<bool> {
    Ok(match (look(before, b"")?, look(now, b"")?) {
        (Some(a), Some(b)) => !same(&a, &b),
        _ => true,
    })
}

type Looked = (Stat, walk::Xattrs);

/// The same but for its time, which changes with the names in it.
fn same(a: &Looked, b: &Looked) -> bool {
    let of = |s: &Stat| (s.st_mode, s.st_uid, s.st_gid);
    of(&a.0) == of(&b.0) && a.1 == b.1
}

fn look(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Looked>> {
    let host = |e: Errno| Error::host(format!("look at `{}`", show(path)), e);
    let handle = match open_in(root, path, HANDLE) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        opened => opened.map_err(host)?,
    };
    let stat = fstat(&handle).map_err(host)?;
    Ok(Some((stat, walk::xattrs_of(handle.as_fd()).map_err(host)?)))
}

/// Whether it is as the runtime makes places for mounts: a directory, or an empty file.
fn is_empty(root: BorrowedFd<'_>, path: &[u8]) -> Result<bool> {
    Ok(
        look(root, path)?.is_some_and(|(stat, _)| match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => true,
            FileType::RegularFile => stat.st_size == 0,
            _ => false,
        }),
    )
}

fn has_below(kept: &BTreeMap<Vec<u8>, ChangeKind>, dir: &[u8]) -> bool {
    let from = [dir, b"/"].concat();
    kept.range(from.clone()..)
        .next()
        .is_some_and(|(path, _)| path.starts_with(&from))
}

fn has_in(kept: &BTreeMap<Vec<u8>, ChangeKind>, dir: &[u8]) -> bool {
    let from = if dir.is_empty() {
        Vec::new()
    } else {
        [dir, b"/"].concat()
    };
    kept.range(from.clone()..)
        .take_while(|(path, _)| path.starts_with(&from))
        .any(|(path, _)| !path.is_empty() && split(path).0 == dir)
}

/// Writes a layer of `changes`, whose files are in the merged tree `now`; the root's own entry only
/// if it differs from that of `before`.
pub(crate) fn pack_changes(
    packer: &mut Packer<'_>,
    changes: &[Change],
    now: BorrowedFd<'_>,
    before: BorrowedFd<'_>,
) -> Result<bool> {
    let mut any = false;
    if root_differs(before, now)? {
        let root = openat(now, c".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let root = root.map_err(|e| Error::host("open the container's root", e))?;
        packer.add(root.as_fd(), b".")?;
        any = true;
    }
    let mut last: Option<(Vec<u8>, OwnedFd)> = None;
    for change in changes {
        let path = &*change.path;
        let (dir, name) = split(path);
        if path.starts_with(b".wh.") || path.windows(5).any(|w| w == b"/.wh.") {
            tracing::warn!(
                path = show(path),
                "left out: in a layer the name means something else"
            );
            continue;
        }
        if change.kind == ChangeKind::Deleted {
            packer.whiteout(path)?;
            any = true;
            continue;
        }
        let host = |e: Errno| Error::host(format!("open `{}`", show(path)), e);
        let at = match last.take().filter(|(known, _)| known == dir) {
            Some(at) => at,
            None => match walk::open(now, dir) {
                // Somebody works in it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                opened => (dir.to_vec(), opened.map_err(host)?),
            },
        };
        match openat(&at.1, name, HANDLE, Mode::empty()) {
            Err(Errno::NOENT) => {}
            opened => {
                packer.add(opened.map_err(host)?.as_fd(), path)?;
                any = true;
            }
        }
        last = Some(at);
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rustix::fs::CWD;
    use unlade_unpack::Cancel;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        openat(CWD, path, walk::DIRECTORY, Mode::empty()).unwrap()
    }

    fn changes(list: &[(&str, ChangeKind)]) -> Vec<Change> {
        let of = |(path, kind): &(&str, ChangeKind)| Change {
            path: path.as_bytes().to_vec(),
            kind: *kind,
        };
        list.iter().map(of).collect()
    }

    #[test]
    fn places_of_mounts_are_not_changes() {
        use ChangeKind::{Added, Deleted, Modified};
        let (now, before) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in ["etc", "proc", "dev", "sbin", "sys", "home"] {
            fs::create_dir_all(now.path().join(dir)).unwrap();
        }
        for file in ["etc/hosts", "etc/hostname", "sbin/docker-init"] {
            fs::write(now.path().join(file), b"").unwrap();
        }
        fs::write(now.path().join("etc/resolv.conf"), b"own").unwrap();
        fs::create_dir_all(before.path().join("etc")).unwrap();
        fs::create_dir_all(before.path().join("sys")).unwrap();
        let fd = open(now.path());
        let hidden = |list: &[(&str, ChangeKind)]| {
            let open = || Ok(open(before.path()));
            hide_own(changes(list), fd.as_fd(), &open).unwrap()
        };
        let all = [
            ("dev", Added),
            ("etc", Modified),
            ("etc/hostname", Added),
            ("etc/hosts", Added),
            ("proc", Added),
            ("sbin", Added),
            ("sbin/docker-init", Added),
        ];
        assert_eq!(hidden(&all), []);
        // What is not empty, or was there, is the container's doing.
        let own = [
            ("etc", Modified),
            ("etc/resolv.conf", Added),
            ("home", Added),
            ("sys", Modified),
            ("sys/x", Deleted),
        ];
        assert_eq!(hidden(&own), changes(&own));
        fs::set_permissions(
            now.path().join("etc"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        let mode = [("etc", Modified), ("etc/hosts", Added)];
        assert_eq!(hidden(&mode), changes(&mode[..1]));
    }

    #[test]
    fn a_layer_of_changes() {
        use ChangeKind::{Added, Deleted, Modified};
        let now = tempfile::tempdir().unwrap();
        fs::create_dir_all(now.path().join("d")).unwrap();
        fs::write(now.path().join("d/f"), b"x").unwrap();
        fs::write(now.path().join(".wh.x"), b"").unwrap();
        let list = changes(&[
            (".wh.x", Added),
            ("d", Modified),
            ("d/f", Added),
            ("d/gone", Deleted),
            ("d/went", Added),
            ("no/dir", Added),
        ]);
        let cancel = Cancel::new();
        let mut out = Vec::new();
        let mut packer = Packer::new(&mut out, true, &cancel);
        let fd = open(now.path());
        assert!(pack_changes(&mut packer, &list, fd.as_fd(), fd.as_fd()).unwrap());
        packer.finish().unwrap();
        let mut archive = tar::Archive::new(&out[..]);
        let names = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path_bytes().into_owned());
        let names: Vec<String> = names.map(|n| String::from_utf8(n).unwrap()).collect();
        assert_eq!(names, ["d/", "d/f", "d/.wh.gone"]);
    }
}
