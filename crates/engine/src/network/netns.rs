//! Network namespaces that stay without a process: files on which they are mounted.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::Path,
    thread,
};

use rustix::{
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::link;
use crate::{
    error::{Error, Kind, Result},
    sys,
};

fn failed<E: Into<io::Error>>(doing: &str, path: &Path) -> impl FnOnce(E) -> Error {
    let doing = format!("{doing} `{}`", path.display());
    move |e| Error::host(doing, e)
}

/// Makes a directory that only we can read, with its parents.
pub(super) fn directory(path: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(path)
        .map_err(failed("make the directory", path))
}

/// Makes a new namespace at `path`. One that is there is removed first.
pub(super) fn create(path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        directory(dir)?;
    }
    remove(path)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o444);
    options.open(path).map_err(failed("make the file", path))?;
    let made = apart(|| {
        sys::unshare_network()?;
        Ok(mount_bind("/proc/thread-self/ns/net", path)?)
    });
    if let Err(e) = made {
        let _ = fs::remove_file(path);
        let e = failed("make the network namespace", path)(e);
        return Err(match rustix::process::geteuid().is_root() {
            true => e,
            false => Error::new(Kind::Denied, e.message().to_owned())
                .with_hint("networks need root; --network none and host do not"),
        });
    }
    Ok(())
}

/// Does `f` in a thread that ends right after it, so that no other code runs in the namespace that
/// it goes to.
fn apart(f: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned());
        let done = thread.spawn_scoped(scope, f)?.join();
        done.unwrap_or_else(|_| Err(io::Error::other("the thread in it panicked")))
    })
}

/// Removes an interface of the namespace at `path`, in which processes may still be. A namespace
/// or an interface that is not there is fine.
pub(super) fn remove_interface(path: &Path, name: &str) -> Result<()> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(failed("open the network namespace", path))?,
    };
    apart(|| {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(link::remove(name)?)
    })
    .map_err(failed("remove the interface in", path))
}

/// Removes the namespace at `path`; whether there was one. It lives on as long as processes are
/// in it.
pub(super) fn remove(path: &Path) -> Result<bool> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Mounted more than once.
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(false),
            // Not mounted: a kill came between the file and the mount.
            Err(Errno::INVAL) => break,
            Err(e) => return Err(failed("unmount the network namespace", path)(e)),
        }
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("remove the network namespace", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn come_and_go() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make network namespaces");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netns/abc");
        create(&path).unwrap();
        let ours = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let inode = |p: &Path| fs::metadata(p).unwrap().ino();
        let first = inode(&path);
        assert_ne!(first, ours);
        assert_eq!(
            fs::metadata("/proc/thread-self/ns/net").unwrap().ino(),
            ours
        );
        // Again: another one, and nothing is left of the first.
        create(&path).unwrap();
        assert!(remove(&path).unwrap() && !path.exists());
        assert!(!remove(&path).unwrap());
        // A file that is none yet goes too.
        fs::write(&path, "").unwrap();
        assert!(remove(&path).unwrap());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(dir.path().to_str().unwrap()));
    }
}
