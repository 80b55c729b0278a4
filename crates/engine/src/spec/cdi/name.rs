//! Names of CDI devices: `vendor.com/class=name`.

use std::fmt;

/// A device that a file of CDI describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// `vendor.com/class`.
    pub kind: String,
    /// Unique in its kind.
    pub device: String,
}

impl Name {
    /// `None` if `text` is no name of a CDI device.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, device) = text.split_once('=')?;
        (is_kind(kind) && is_device(device)).then(|| Self {
            kind: kind.to_owned(),
            device: device.to_owned(),
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

/// Longest part of a name, in bytes.
const MOST: usize = 253;

fn is_word(text: &str, letter_first: bool, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    let begins = if letter_first {
        first.is_ascii_alphabetic()
    } else {
        first.is_ascii_alphanumeric()
    };
    begins
        && last.is_ascii_alphanumeric()
        && bytes.len() <= MOST
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || inner.contains(b))
}

/// Whether `text` is `vendor/class`.
pub(super) fn is_kind(text: &str) -> bool {
    text.split_once('/').is_some_and(|(vendor, class)| {
        is_word(vendor, true, b"_-.") && is_word(class, true, b"_-.")
    })
}

/// Whether `text` is a device's name in its kind.
pub(super) fn is_device(text: &str) -> bool {
    is_word(text, false, b"_-.:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["vendor.com/class=name", "nvidia.com/gpu=0", "a/b.c=GPU-1:2"] {
            assert_eq!(Name::parse(good).unwrap().to_string(), good);
        }
        for wrong in [
            "", "a/b", "a=b", "/b=c", "a/=c", "a/b=", "1a/b=c", "a/1b=c", "a/b=-c", "a/b=c/d",
            "a/b=c d", "a/b/c=d", "/dev/a=b", "a-/b=c",
        ] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
        assert!(Name::parse(&format!("a/b={}", "c".repeat(254))).is_none());
    }
}
