//! Room on disk for a decoded archive: a file without a name, gone with its last descriptor.

use std::{fs::File, io, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat},
    io::Errno,
};

/// A directory that takes temporary files.
#[derive(Debug)]
pub struct Scratch(Option<OwnedFd>);

impl Scratch {
    /// Temporary files in `dir`.
    pub fn new(dir: OwnedFd) -> Self {
        Self(Some(dir))
    }

    /// Temporary files in `$TMPDIR` or `/tmp`.
    pub fn system() -> Self {
        Self(None)
    }

    /// A new, empty file that nobody else can open.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn file(&self) -> io::Result<File> {
        let system;
        let dir = match &self.0 {
            Some(dir) => dir,
            None => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                system = openat(CWD, std::env::temp_dir(), flags, Mode::empty())?;
                &system
            }
        };
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match openat(dir, c".", flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(fd.into()),
            // File systems and kernels without O_TMPFILE.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => named(dir, flags),
            Err(e) => Err(e.into()),
        }
    }
}

fn named(dir: &OwnedFd, flags: OFlags) -> io::Result<File> {
    for n in 0..100 {
        let name = format!(".unlade-scratch-{}-{n}", std::process::id());
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        match openat(dir, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                unlinkat(dir, &name, AtFlags::empty())?;
                return Ok(fd.into());
            }
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Errno::EXIST.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_have_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let fd = || OwnedFd::from(File::open(dir.path()).unwrap());
        let scratch = Scratch::new(fd());
        for file in [scratch.file().unwrap(), named(&fd(), OFlags::RDWR).unwrap()] {
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
