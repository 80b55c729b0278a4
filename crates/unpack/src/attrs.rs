//! Extended attributes: which of a layer's are applied, and how.
//!
//! A layer may set `user.*`, file capabilities and POSIX access lists. All else belongs to the
//! host (labels, signatures) or to a file system (`*.overlay.*` would let a layer speak to
//! overlayfs) and is left out, with a note in the report.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::{
    fs::{self, XattrFlags},
    io::Errno,
};

use crate::{
    entry::Xattrs,
    error::{Error, Result, show},
    fault,
};

pub(crate) const ACL_ACCESS: &str = "system.posix_acl_access";
pub(crate) const ACL_DEFAULT: &str = "system.posix_acl_default";
pub(crate) const CAPABILITY: &str = "security.capability";
/// Marks an opaque directory of an overlay layer, and the same for mounts with `userxattr`.
pub(crate) const TRUSTED_OPAQUE: &str = "trusted.overlay.opaque";
pub(crate) const USER_OPAQUE: &str = "user.overlay.opaque";

/// Takes notes of attributes left out: (attribute, why).
pub(crate) type Note<'a> = dyn FnMut(&[u8], &'static str) + 'a;

/// Why a layer's extended attribute is not applied; `None` if it is, as far as the file's type and
/// the host allow.
pub fn refusal(name: &[u8], value: &[u8]) -> Option<&'static str> {
    if name.len() > 255 {
        return Some("its name is longer than the kernel's 255 bytes");
    }
    if name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.") {
        return Some("a layer may not give orders to overlayfs");
    }
    if name.starts_with(b"user.") && name.len() > 5 {
        return None;
    }
    if name == CAPABILITY.as_bytes() {
        // Linux capability.h: revision 2 has two 32-bit sets twice, revision 3 a root uid more.
        let valid = match value {
            [_, _, _, 2, ..] => value.len() == 20,
            [_, _, _, 3, ..] => value.len() == 24,
            _ => false,
        };
        return (!valid).then_some("not a valid file capability");
    }
    if name == ACL_ACCESS.as_bytes() || name == ACL_DEFAULT.as_bytes() {
        return None;
    }
    match name {
        _ if name.starts_with(b"security.") => Some("security labels belong to the host"),
        _ if name.starts_with(b"trusted.") => Some("trusted attributes belong to the host"),
        _ if name.starts_with(b"system.") => Some("it belongs to the host's file system"),
        _ => Some("it is in no namespace that Linux knows"),
    }
}

/// Whether `name` is of a kind that [`refusal`] lets layers set.
fn ours(name: &[u8]) -> bool {
    name == CAPABILITY.as_bytes() || refusal(name, b"").is_none()
}

/// Sets `xattrs` on an open file or directory. What this host or user cannot set is noted.
pub(crate) fn apply_xattrs(fd: BorrowedFd<'_>, xattrs: &Xattrs, note: &mut Note<'_>) -> Result<()> {
    for (name, value) in xattrs {
        if let Some(why) = refusal(name, value) {
            note(name, why);
            continue;
        }
        fault::point("setxattr").map_err(|e| Error::host("set an extended attribute", e))?;
        match fs::fsetxattr(fd, &**name, value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(e) => failed(name, e, note)?,
        }
    }
    Ok(())
}

/// What to make of a failed `setxattr`: a note if it can never work here, else an error.
pub(crate) fn failed(name: &[u8], e: Errno, note: &mut Note<'_>) -> Result<()> {
    match e {
        Errno::PERM | Errno::ACCESS => note(name, "this user or file type may not have it"),
        Errno::OPNOTSUPP => note(name, "the file system does not support it"),
        Errno::INVAL => note(name, "the kernel takes its value for invalid"),
        _ => {
            let doing = format!("set the extended attribute `{}`", show(name));
            let failed = Error::host(doing, e);
            // What ext4 says, with all the disk free, when a file's attributes do not fit a block.
            return Err(match e {
                Errno::NOSPC | Errno::TOOBIG => failed.with_hint(
                    "the file system is full, or cannot hold attributes that large (ext4: 4 KiB \
                     in all): free space, or unpack to xfs or btrfs",
                ),
                _ => failed,
            });
        }
    }
    Ok(())
}

/// The attributes of an open file or directory that a layer could have set.
pub(crate) fn read_xattrs(fd: BorrowedFd<'_>) -> Result<Xattrs> {
    read_with(
        |names| fs::flistxattr(fd, names),
        |name, value| fs::fgetxattr(fd, name, value),
    )
}

/// Copies the attributes that a layer could have set between what two `O_PATH` descriptors stand
/// for. It was there once: what cannot be set was noted then.
pub(crate) fn copy_by_handle(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // The kernel takes these links to their ends and no further, also where that is a symlink.
    let path = |fd: BorrowedFd<'_>| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let (from, to) = (path(from), path(to));
    let xattrs = read_with(
        |names| fs::listxattr(&*from, names),
        |name, value| fs::getxattr(&*from, name, value),
    )?;
    for (name, value) in &xattrs {
        if let Err(e) = fs::setxattr(&*to, &**name, value, XattrFlags::empty()) {
            failed(name, e, &mut |_, _| {})?;
        }
    }
    Ok(())
}

fn read_with(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs> {
    let host = |e| Error::host("read extended attributes", e);
    let mut names = vec![0_u8; 4096];
    let len = loop {
        match list(&mut names) {
            Ok(len) => break len,
            Err(Errno::RANGE) => names = vec![0; 65536],
            Err(Errno::OPNOTSUPP) => break 0,
            Err(e) => return Err(host(e)),
        }
    };
    let mut out = Xattrs::new();
    for name in names[..len]
        .split(|&b| b == 0)
        .filter(|n| !n.is_empty() && ours(n))
    {
        let mut value = vec![0_u8; 256];
        let len = loop {
            match get(name, &mut value) {
                Ok(len) => break len,
                Err(Errno::RANGE) if value.len() < 65536 => value = vec![0; 65536],
                Err(e) => return Err(host(e)),
            }
        };
        value.truncate(len);
        out.push((name.into(), value.into()));
    }
    out.sort();
    Ok(out)
}

/// Removes attributes that are not in `keep`, of those a layer could have set.
pub(crate) fn remove_others(fd: BorrowedFd<'_>, keep: &Xattrs) -> Result<()> {
    for (name, _) in read_xattrs(fd)? {
        if !keep.iter().any(|(n, _)| *n == name) {
            let gone = fs::fremovexattr(fd, &*name);
            gone.map_err(|e| Error::host("remove an extended attribute", e))?;
        }
    }
    Ok(())
}

/// Takes away the access lists that a new file or directory inherited.
pub(crate) fn drop_acls(fd: BorrowedFd<'_>) {
    // Absent is the usual case, and what is wanted.
    let _ = fs::fremovexattr(fd, ACL_ACCESS);
    let _ = fs::fremovexattr(fd, ACL_DEFAULT);
}

/// Makes a directory opaque to overlayfs.
pub(crate) fn mark_opaque(fd: BorrowedFd<'_>, name: &str) -> Result<()> {
    fs::fsetxattr(fd, name, b"y", XattrFlags::empty())
        .map_err(|e| Error::host(format!("set the extended attribute `{name}`"), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_do_not_fit_are_an_error_with_a_hint() {
        for e in [Errno::NOSPC, Errno::TOOBIG] {
            let e = failed(b"user.a", e, &mut |_, _| {}).unwrap_err();
            assert!(e.hint().is_some_and(|h| h.contains("xfs")), "{e}");
        }
        assert!(failed(b"user.a", Errno::OPNOTSUPP, &mut |_, _| {}).is_ok());
    }

    #[test]
    fn the_allow_list() {
        let v2 = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for (name, value, allowed) in [
            ("user.a", b"x".as_slice(), true),
            ("user.", b"x", false),
            ("user.overlay.opaque", b"y", false),
            ("trusted.overlay.opaque", b"y", false),
            ("trusted.overlay.overlay.opaque", b"y", false),
            ("trusted.x", b"", false),
            ("security.capability", &v2, true),
            ("security.capability", &v2[..19], false),
            ("security.selinux", b"x", false),
            ("security.ima", b"x", false),
            ("system.posix_acl_access", b"", true),
            ("system.nfs4_acl", b"", false),
            ("nonamespace", b"", false),
        ] {
            assert_eq!(refusal(name.as_bytes(), value).is_none(), allowed, "{name}");
        }
    }
}
