//! Extended attributes as an image holds them: what several inodes have is stored once.

use std::collections::HashMap;

use unlade_unpack::{Error, Kind, Result, entry::Xattrs};
use zerocopy::IntoBytes;

use super::format::{XATTR_PREFIXES, XattrEntry, XattrHead};

/// Shared attributes that one inode can name.
const SHARED_MOST: usize = 255;

/// The bytes of all sets of attributes, and of the shared ones.
#[derive(Debug, Default)]
pub(super) struct XattrArea {
    shared: Vec<u8>,
    sets: Vec<Box<[u8]>>,
}

impl XattrArea {
    /// Lays out the sets with these numbers of users; sets without a user are empty.
    pub(super) fn new(sets: &[(&Xattrs, u32)]) -> Result<Self> {
        let mut uses: HashMap<(&[u8], &[u8]), u64> = HashMap::new();
        for (set, users) in sets {
            for (name, value) in *set {
                *uses.entry((name, value)).or_default() += u64::from(*users);
            }
        }
        let mut this = Self::default();
        let mut numbers: HashMap<(&[u8], &[u8]), u32> = HashMap::new();
        for (set, users) in sets {
            let (mut inline, mut shared) = (Vec::new(), Vec::new());
            for (name, value) in set.iter().filter(|_| *users > 0) {
                let key = (&**name, &**value);
                let often = uses.get(&key).is_some_and(|n| *n > 1);
                // A full inode has no room for many long values of its own.
                if !(often || value.len() > 1024) || shared.len() == SHARED_MOST {
                    write_entry(&mut inline, name, value)?;
                } else if let Some(&number) = numbers.get(&key) {
                    shared.push(number);
                } else {
                    let number = u32::try_from(this.shared.len() / 4).map_err(|_| too_many())?;
                    write_entry(&mut this.shared, name, value)?;
                    numbers.insert(key, number);
                    shared.push(number);
                }
            }
            let mut bytes = Vec::new();
            if !(inline.is_empty() && shared.is_empty()) {
                let head = XattrHead {
                    filter: 0.into(),
                    shared: u8::try_from(shared.len()).unwrap_or(0),
                    reserved: [0; 7],
                };
                bytes.extend_from_slice(head.as_bytes());
                for number in shared {
                    bytes.extend_from_slice(&number.to_le_bytes());
                }
                bytes.extend_from_slice(&inline);
            }
            this.sets.push(bytes.into());
        }
        Ok(this)
    }

    pub(super) fn shared_bytes(&self) -> &[u8] {
        &self.shared
    }

    /// What stands behind an inode with this set.
    pub(super) fn of(&self, set: u32) -> &[u8] {
        self.sets.get(set as usize).map_or(&[], |b| b)
    }
}

fn write_entry(out: &mut Vec<u8>, name: &[u8], value: &[u8]) -> Result<()> {
    let split = |(number, prefix): &(u8, &[u8])| Some((*number, name.strip_prefix(*prefix)?));
    let bug = || Error::new(Kind::Bug, "an attribute that EROFS cannot hold");
    let (prefix, rest) = XATTR_PREFIXES.iter().find_map(split).ok_or_else(bug)?;
    let head = XattrEntry {
        name_len: u8::try_from(rest.len()).map_err(|_| bug())?,
        prefix,
        value_len: u16::try_from(value.len()).map_err(|_| bug())?.into(),
    };
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(rest);
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

fn too_many() -> Error {
    Error::new(
        Kind::Limit,
        "the image has too many extended attributes for EROFS",
    )
}
