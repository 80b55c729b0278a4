//! Extended attributes as Linux would hold them after [`DirSink`](unlade_unpack::DirSink) had set
//! them: which a file of a type may have, and access lists as `chmod` leaves them.
//!
//! Linux, fs/posix_acl.c; include/uapi/linux/posix_acl_xattr.h.

use unlade_unpack::{
    entry::{Entry, EntryKind, Xattrs},
    xattr_refusal,
};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const NOT_ITS_TYPE: &str = "this user or file type may not have it";
const INVALID: &str = "the kernel takes its value for invalid";
/// Bytes of the longest value that EROFS can hold.
const VALUE_MAX: usize = 65535;

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

/// The permissions and attributes that the entry's inode gets. `note` is told what is left out,
/// and why.
pub fn effective(entry: &Entry, note: &mut dyn FnMut(&[u8], &'static str)) -> (u32, Xattrs) {
    let mut mode = entry.meta.mode;
    let mut out = Xattrs::new();
    for (name, value) in &entry.meta.xattrs {
        if let Some(why) = refusal(&entry.kind, name, value) {
            note(name, why);
            continue;
        }
        if !matches!(&**name, ACCESS | DEFAULT) {
            out.push((name.clone(), value.clone()));
            continue;
        }
        let Some(mut acl) = Acl::parse(value) else {
            note(name, INVALID);
            continue;
        };
        if acl.0.is_empty() {
            continue;
        }
        if **name == *ACCESS {
            match entry.kind {
                // Their mode is set before, and follows the list.
                EntryKind::Char { .. } | EntryKind::Block { .. } | EntryKind::Fifo => {
                    mode = mode & !0o777 | acl.mode();
                }
                _ => acl.chmod(mode),
            }
            if acl.is_mode_only() {
                continue;
            }
        }
        out.push((name.clone(), acl.bytes()));
    }
    (mode, out)
}

/// Why an entry's attribute is not stored.
fn refusal(kind: &EntryKind, name: &[u8], value: &[u8]) -> Option<&'static str> {
    if let Some(why) = xattr_refusal(name, value) {
        return Some(why);
    }
    let (file, dir) = (
        matches!(kind, EntryKind::File { .. }),
        matches!(kind, EntryKind::Dir),
    );
    let link = matches!(kind, EntryKind::Symlink { .. });
    match name {
        _ if name.starts_with(b"user.") && !file && !dir => Some(NOT_ITS_TYPE),
        ACCESS | DEFAULT if link => Some("the file system does not support it"),
        DEFAULT if !dir && !value.is_empty() => Some(NOT_ITS_TYPE),
        _ if value.len() > VALUE_MAX => Some("its value is longer than EROFS's 65535 bytes"),
        _ => None,
    }
}

/// An access list: (tag, permissions, id) each.
struct Acl(Vec<(u16, u16, u32)>);

impl Acl {
    /// Reads a list that the kernel would take. An empty one removes the list.
    fn parse(value: &[u8]) -> Option<Self> {
        if value.is_empty() {
            return Some(Self(Vec::new()));
        }
        let (version, entries) = value.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != 2 || !entries.len().is_multiple_of(8) {
            return None;
        }
        let list: Vec<_> = entries
            .as_chunks::<8>()
            .0
            .iter()
            .map(|&[a, b, c, d, id @ ..]| {
                let (tag, perm) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
                (tag, perm, u32::from_le_bytes(id))
            })
            .collect();
        (list.is_empty() || valid(&list)).then_some(Self(list))
    }

    fn perm(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|e| e.0 == tag).map(|e| e.1)
    }

    fn mode(&self) -> u32 {
        let group = self.perm(MASK).or(self.perm(GROUP_OBJ)).unwrap_or(0);
        let owner = self.perm(USER_OBJ).unwrap_or(0);
        let other = self.perm(OTHER).unwrap_or(0);
        u32::from(owner) << 6 | u32::from(group) << 3 | u32::from(other)
    }

    fn chmod(&mut self, mode: u32) {
        let has_mask = self.perm(MASK).is_some();
        for (tag, perm, _) in &mut self.0 {
            let shift = match *tag {
                USER_OBJ => 6,
                MASK => 3,
                GROUP_OBJ if !has_mask => 3,
                OTHER => 0,
                _ => continue,
            };
            *perm = u16::try_from(mode >> shift & 7).unwrap_or(0);
        }
    }

    fn is_mode_only(&self) -> bool {
        (self.0.iter()).all(|e| matches!(e.0, USER_OBJ | GROUP_OBJ | OTHER))
    }

    fn bytes(&self) -> Box<[u8]> {
        let mut out = 2_u32.to_le_bytes().to_vec();
        for &(tag, perm, id) in &self.0 {
            // Entries without a name have none in what the kernel gives back.
            let id = if matches!(tag, USER | GROUP) {
                id
            } else {
                u32::MAX
            };
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&perm.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out.into()
    }
}

/// The kernel's rules: in this order, one of each unnamed kind, a mask where there are names.
fn valid(list: &[(u16, u16, u32)]) -> bool {
    let mut state = USER_OBJ;
    let mut needs_mask = false;
    for &(tag, perm, id) in list {
        if perm > 7 {
            return false;
        }
        state = match (tag, state) {
            (USER_OBJ, USER_OBJ) => USER,
            (USER, USER) if id != u32::MAX => {
                needs_mask = true;
                USER
            }
            (GROUP_OBJ, USER) => GROUP,
            (GROUP, GROUP) if id != u32::MAX => {
                needs_mask = true;
                GROUP
            }
            (MASK, GROUP) => OTHER,
            (OTHER, OTHER) => 0,
            (OTHER, GROUP) if !needs_mask => 0,
            _ => return false,
        };
    }
    state == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use unlade_unpack::entry::Meta;

    fn acl(list: &[(u16, u16, u32)]) -> Box<[u8]> {
        let mut out = 2_u32.to_le_bytes().to_vec();
        for (tag, perm, id) in list {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&perm.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out.into()
    }

    fn entry(kind: EntryKind, mode: u32, xattrs: Xattrs) -> Entry {
        let meta = Meta {
            mode,
            xattrs,
            ..Meta::default()
        };
        Entry {
            index: 0,
            offset: 0,
            payload: 0,
            path: b"a".as_slice().into(),
            kind,
            meta,
        }
    }

    const FILE: EntryKind = EntryKind::File {
        size: 0,
        sparse: None,
    };

    fn run(kind: EntryKind, name: &[u8], value: &[u8]) -> (u32, Xattrs, usize) {
        let mut notes = 0;
        let entry = entry(kind, 0o640, vec![(name.into(), value.into())]);
        let (mode, xattrs) = effective(&entry, &mut |_, _| notes += 1);
        (mode, xattrs, notes)
    }

    #[test]
    fn types_decide() {
        assert_eq!(run(FILE, b"user.a", b"x").1.len(), 1);
        assert_eq!(run(EntryKind::Dir, b"user.a", b"x").1.len(), 1);
        assert_eq!(run(EntryKind::Fifo, b"user.a", b"x").2, 1);
        assert_eq!(run(FILE, b"trusted.a", b"x").2, 1);
        assert_eq!(run(FILE, b"user.a", &[0; 65536]).2, 1);
        let link = EntryKind::Symlink {
            target: b"x".as_slice().into(),
        };
        assert_eq!(run(link, ACCESS, b"").2, 1);
    }

    #[test]
    fn lists_are_left_as_chmod_leaves_them() {
        let full = acl(&[
            (USER_OBJ, 7, 0),
            (USER, 6, 5),
            (GROUP_OBJ, 5, 0),
            (MASK, 7, 0),
            (OTHER, 4, 0),
        ]);
        let want = acl(&[
            (USER_OBJ, 6, u32::MAX),
            (USER, 6, 5),
            (GROUP_OBJ, 5, u32::MAX),
            (MASK, 4, u32::MAX),
            (OTHER, 0, u32::MAX),
        ]);
        let (mode, xattrs, _) = run(FILE, ACCESS, &full);
        assert_eq!((mode, &xattrs[0].1), (0o640, &want));
        let (mode, ..) = run(EntryKind::Fifo, ACCESS, &full);
        assert_eq!(mode, 0o774);
        let plain = acl(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 4, 0)]);
        assert!(run(FILE, ACCESS, &plain).1.is_empty());
        assert_eq!(run(EntryKind::Dir, DEFAULT, &plain).1.len(), 1);
        assert_eq!(run(FILE, DEFAULT, &plain).2, 1);
    }

    #[test]
    fn bad_lists_are_left_out() {
        for bad in [
            acl(&[(USER_OBJ, 7, 0)]),
            acl(&[(USER_OBJ, 8, 0), (GROUP_OBJ, 5, 0), (OTHER, 4, 0)]),
            acl(&[
                (USER_OBJ, 7, 0),
                (USER, 7, 1),
                (GROUP_OBJ, 5, 0),
                (OTHER, 4, 0),
            ]),
            acl(&[(GROUP_OBJ, 5, 0), (USER_OBJ, 7, 0), (OTHER, 4, 0)]),
            b"xxxxx".as_slice().into(),
        ] {
            assert_eq!(run(FILE, ACCESS, &bad).2, 1, "{bad:?}");
        }
        assert_eq!(run(FILE, ACCESS, b"").2, 0);
        assert_eq!(run(FILE, ACCESS, &acl(&[])).2, 0);
    }
}
