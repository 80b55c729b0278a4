//! Lower symlinks that a layer's entries went through.

use std::{collections::BTreeSet, ops::Bound};

use crate::error::{Error, Result, show};

/// Real paths of symlinks of lower layers through which entries of a layer were found. A whiteout
/// or opaque marker that hides such a symlink would have given another tree had it come before
/// those entries: there is no one reading of the layer, and it is refused.
#[derive(Debug, Default)]
pub struct Passed {
    links: BTreeSet<Box<[u8]>>,
    bytes: usize,
}

impl Passed {
    /// An entry of the layer goes through the symlink at `real`, which is no entry of the layer.
    pub fn note(&mut self, real: &[u8]) {
        if !self.links.contains(real) {
            self.links.insert(real.into());
            self.bytes += real.len() + 48;
        }
    }

    /// A layer begins.
    pub fn clear(&mut self) {
        self.links.clear();
        self.bytes = 0;
    }

    /// Whether no entry went through any.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// A whiteout hides what lower layers have at `real`.
    ///
    /// # Errors
    /// If an entry before went through a symlink that is there, or below it.
    pub fn check_whiteout(&self, real: &[u8]) -> Result<()> {
        match self.links.contains(real) {
            true => Err(refused(real)),
            false => self.check_opaque(real),
        }
    }

    /// An opaque marker hides what lower layers have in `real`.
    ///
    /// # Errors
    /// As [`Passed::check_whiteout`].
    pub fn check_opaque(&self, real: &[u8]) -> Result<()> {
        let mut inside = real.to_vec();
        if !inside.is_empty() {
            inside.push(b'/');
        }
        let from = (Bound::Included(&*inside), Bound::Unbounded);
        match self.links.range::<[u8], _>(from).next() {
            Some(link) if link.starts_with(&inside) => Err(refused(link)),
            _ => Ok(()),
        }
    }

    /// Memory in use, in bytes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn refused(link: &[u8]) -> Error {
    let message = format!(
        "it hides the symlink `{}` of a lower layer, through which an entry before it went",
        show(link)
    );
    Error::bad(message).with_hint("what such a layer means depends on the order of its entries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_at_and_below_a_path() {
        let mut passed = Passed::default();
        for path in ["a/l", "a-b", "x"] {
            passed.note(path.as_bytes());
        }
        let whiteout = |p: &str| passed.check_whiteout(p.as_bytes()).is_err();
        let opaque = |p: &str| passed.check_opaque(p.as_bytes()).is_err();
        for (path, hides, hides_inside) in [
            ("a", true, true),
            ("a/l", true, false),
            ("a/l/m", false, false),
            ("a/k", false, false),
            ("x", true, false),
            ("y", false, false),
            ("", true, true),
        ] {
            assert_eq!(
                (whiteout(path), opaque(path)),
                (hides, hides_inside),
                "{path}"
            );
        }
        passed.clear();
        assert!(passed.check_opaque(b"").is_ok());
    }
}
