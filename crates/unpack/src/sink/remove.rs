//! Removing a tree below a directory descriptor, however deep it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use crate::root::chmod_handle;

const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Removes the directory `name` in `parent` with all that is in it. Follows no symlink, does
/// not need a descriptor for each level, and stops at other file systems.
pub(crate) fn tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let device = fs::fstat(parent)?.st_dev;
    let mut names = vec![name.to_vec()];
    let mut dir = open(parent, name, device)?;
    loop {
        match first_subdir(dir.as_fd())? {
            Some(sub) => {
                dir = open(dir.as_fd(), &sub, device)?;
                names.push(sub);
            }
            None => {
                let Some(name) = names.pop() else {
                    return Ok(());
                };
                if names.is_empty() {
                    return fs::unlinkat(parent, &*name, AtFlags::REMOVEDIR);
                }
                dir = fs::openat(&dir, "..", FLAGS, Mode::empty())?;
                fs::unlinkat(&dir, &*name, AtFlags::REMOVEDIR)?;
            }
        }
    }
}

fn open(parent: BorrowedFd<'_>, name: &[u8], device: u64) -> Result<OwnedFd, Errno> {
    let dir = match fs::openat(parent, name, FLAGS, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let handle = fs::openat(parent, name, FLAGS | OFlags::PATH, Mode::empty())?;
            chmod_handle(handle.as_fd(), 0o700)?;
            fs::openat(parent, name, FLAGS, Mode::empty())?
        }
        done => done?,
    };
    let st = fs::fstat(&dir)?;
    if st.st_dev != device {
        return Err(Errno::XDEV);
    }
    if st.st_mode & 0o300 != 0o300 && !rustix::process::geteuid().is_root() {
        fs::fchmod(&dir, Mode::RWXU)?;
    }
    Ok(dir)
}

/// Removes what is not a directory; returns the first name that is one.
fn first_subdir(dir: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            return Ok(Some(name.to_vec()));
        }
        match fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => return Ok(Some(name.to_vec())),
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn deep_trees_go_and_symlinks_are_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let outside = top.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let fd: OwnedFd = std::fs::File::open(top.path()).unwrap().into();
        fs::mkdirat(&fd, "t", Mode::RWXU).unwrap();
        let mut dir = fs::openat(&fd, "t", FLAGS, Mode::empty()).unwrap();
        symlink(&outside, top.path().join("t/link")).unwrap();
        for _ in 0..3000 {
            fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = fs::openat(&dir, "d", FLAGS, Mode::empty()).unwrap();
        }
        tree(fd.as_fd(), b"t").unwrap();
        assert!(!top.path().join("t").exists());
        assert!(outside.join("kept").exists());
    }
}
