//! Room on disk for a decoded archive: a file without a name, gone with its last descriptor.

use std::{fs::File, io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat},
    io::Errno,
};

/// A directory that takes temporary files.
#[derive(Debug)]
pub struct Scratch(OwnedFd);

impl Scratch {
    /// Temporary files in `dir`.
    pub fn new(dir: OwnedFd) -> Self {
        Self(dir)
    }

    /// Temporary files in `$TMPDIR` or `/tmp`.
    ///
    /// # Errors
    /// If the directory cannot be opened.
    pub fn system() -> io::Result<Self> {
        let dir = std::env::temp_dir();
        Self::at(&dir)
    }

    fn at(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, dir, flags, Mode::empty())?))
    }

    /// A new, empty file that nobody else can open.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn file(&self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match openat(
            &self.0,
            c".",
            flags | OFlags::TMPFILE,
            Mode::RUSR | Mode::WUSR,
        ) {
            Ok(fd) => Ok(fd.into()),
            // File systems and kernels without O_TMPFILE.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => self.named(flags),
            Err(e) => Err(e.into()),
        }
    }

    fn named(&self, flags: OFlags) -> io::Result<File> {
        for n in 0..100 {
            let name = format!(".unlade-scratch-{}-{n}", std::process::id());
            let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            match openat(&self.0, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    unlinkat(&self.0, &name, AtFlags::empty())?;
                    return Ok(fd.into());
                }
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(Errno::EXIST.into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_have_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::at(dir.path()).unwrap();
        for file in [
            scratch.file().unwrap(),
            scratch.named(OFlags::RDWR).unwrap(),
        ] {
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
