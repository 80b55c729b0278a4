//! An OCI image layout on disk. Its files are opened below a directory descriptor, component by
//! component, and no symbolic link in it is followed.

use std::{
    collections::HashMap,
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex},
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};
use unlade_unpack::{Algorithm, Digest, Error, Kind, Result};

use super::blob::Part;

/// An opened layout.
#[derive(Debug)]
pub(crate) struct Layout {
    root: OwnedFd,
    /// `blobs/ALGORITHM`, opened when first needed; `None` where it does not exist.
    blobs: Mutex<HashMap<Algorithm, Option<Arc<OwnedFd>>>>,
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Layout {
    /// Opens the directory at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let root = openat(CWD, path, DIRECTORY, Mode::empty()).map_err(|e| {
            let shown = path.display();
            let e = if e == Errno::NOTDIR {
                Error::new(Kind::BadInput, format!("`{shown}` is not a directory"))
            } else {
                return Error::host(format!("open `{shown}`"), e);
            };
            e.with_hint("oci: needs a directory; for a tar file use oci-archive:")
        })?;
        Ok(Self {
            root,
            blobs: Mutex::default(),
        })
    }

    /// A file at the top of the layout.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Part>> {
        regular(self.root.as_fd(), name)
    }

    /// The blob with this digest.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<Part>> {
        match self.directory(digest.algorithm())? {
            Some(dir) => regular(dir.as_fd(), &digest.hex()),
            None => Ok(None),
        }
    }

    fn directory(&self, algorithm: Algorithm) -> Result<Option<Arc<OwnedFd>>> {
        let mut known = self
            .blobs
            .lock()
            .map_err(|_| Error::new(Kind::Bug, "poisoned lock"))?;
        if let Some(dir) = known.get(&algorithm) {
            return Ok(dir.clone());
        }
        let below = |dir: &OwnedFd, name: &str| match openat(
            dir,
            name,
            DIRECTORY | OFlags::NOFOLLOW,
            Mode::empty(),
        ) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => Err(symlink(format!(
                "`{name}` in the layout is not a directory"
            ))),
            Err(e) => Err(Error::host(format!("open `{name}` in the layout"), e)),
        };
        let dir = match below(&self.root, "blobs")? {
            Some(blobs) => below(&blobs, algorithm.name())?.map(Arc::new),
            None => None,
        };
        known.insert(algorithm, dir.clone());
        Ok(dir)
    }
}

fn symlink(message: String) -> Error {
    Error::new(Kind::BadInput, message)
        .with_hint("symbolic links in a layout are not followed: copy it with `cp -rL`")
}

/// Opens a regular file; `None` if there is none.
fn regular(dir: std::os::fd::BorrowedFd<'_>, name: &str) -> Result<Option<Part>> {
    let doing = || format!("open `{name}` in the layout");
    // O_NONBLOCK: a fifo must not hold us up before it is seen to be one.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat(dir, name, flags | OFlags::NOCTTY, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(symlink(format!("`{name}` is a symbolic link"))),
        Err(e) => return Err(Error::host(doing(), e)),
    };
    let metadata = file.metadata().map_err(|e| Error::host(doing(), e))?;
    if !metadata.is_file() {
        return Err(symlink(format!("`{name}` is not a regular file")));
    }
    Ok(Some(Part {
        len: metadata.len(),
        start: 0,
        file: Arc::new(file),
    }))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn finds_blobs_and_follows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        let sha256 = Digest::of(Algorithm::Sha256, b"x");
        let l = Layout::open(dir.path()).unwrap();
        assert!(l.blob(&sha256).unwrap().is_none() && l.file("index.json").unwrap().is_none());

        fs::create_dir_all(at("blobs/sha512")).unwrap();
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/x"), b"x").unwrap();
        symlink(at("real"), at("blobs/sha256")).unwrap();
        let l = Layout::open(dir.path()).unwrap();
        assert!(l.blob(&sha256).unwrap_err().message().contains("sha256"));
        let sha512 = Digest::of(Algorithm::Sha512, b"x");
        symlink(at("real/x"), at("blobs/sha512").join(sha512.hex())).unwrap();
        assert!(
            l.blob(&sha512)
                .unwrap_err()
                .hint()
                .is_some_and(|h| h.contains("cp -rL"))
        );
        fs::remove_file(at("blobs/sha512").join(sha512.hex())).unwrap();
        fs::write(at("blobs/sha512").join(sha512.hex()), b"x").unwrap();
        assert_eq!(l.blob(&sha512).unwrap().unwrap().read(1).unwrap(), b"x");
        assert_eq!(
            l.blob(&sha512)
                .unwrap()
                .unwrap()
                .read(0)
                .unwrap_err()
                .kind(),
            Kind::Limit
        );
        fs::create_dir(at("index.json")).unwrap();
        assert!(l.file("index.json").is_err());
        assert!(Layout::open(&at("real/x")).unwrap_err().hint().is_some());
    }
}
