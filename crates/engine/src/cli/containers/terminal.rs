//! The caller's terminal: raw while a container has it, and back again; and the keys that let go
//! of the container.

use std::io;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use super::parse::bad;
use crate::{
    error::{Error, Result},
    image::json::show,
    shim::Size,
};

/// Docker's keys: ctrl-p, ctrl-q.
const KEYS: &str = "ctrl-p,ctrl-q";

/// Whether standard input is a terminal.
pub(super) fn stdin_is() -> bool {
    isatty(io::stdin())
}

/// What is said where `-t` and `-i` are given without one.
pub(super) fn none(instead: &str) -> Error {
    bad(
        "the input device is not a TTY",
        &format!("{instead}, or do it from a terminal"),
    )
}

/// The size of the terminal; zeroes where there is none.
pub(super) fn size() -> Size {
    match tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())) {
        Ok(size) => Size {
            rows: size.ws_row,
            columns: size.ws_col,
        },
        Err(_) => Size::default(),
    }
}

/// A terminal in raw mode; dropped, it is as it was.
pub(super) struct Raw(Termios);

impl Raw {
    /// Makes standard input's terminal raw; `None` if it is none.
    pub(super) fn enter() -> Result<Option<Self>> {
        if !stdin_is() {
            return Ok(None);
        }
        let failed = |e: rustix::io::Errno| Error::host("set the terminal", e);
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone away needs no setting back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Looks for the keys that let go of a container.
#[derive(Debug)]
pub(super) struct Keys {
    keys: Vec<u8>,
    matched: usize,
}

impl Keys {
    /// `ctrl-X`s and letters with commas between; docker's for `None` or nothing.
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        let text = text.filter(|t| !t.is_empty()).unwrap_or(KEYS);
        let key = |word: &str| -> Option<u8> {
            if let [byte] = word.as_bytes() {
                return byte.is_ascii().then_some(*byte);
            }
            match word.strip_prefix("ctrl-")?.as_bytes() {
                [c @ b'a'..=b'z'] => Some(c - b'a' + 1),
                b"@" => Some(0),
                b"[" => Some(27),
                b"\\" => Some(28),
                b"]" => Some(29),
                b"^" => Some(30),
                b"_" => Some(31),
                _ => None,
            }
        };
        let keys = text.split(',').map(key).collect::<Option<Vec<u8>>>();
        let keys = keys.ok_or_else(|| {
            bad(
                format!("invalid detach keys provided: {}", show(text)),
                "write keys such as ctrl-p,ctrl-q or a,ctrl-x",
            )
        })?;
        Ok(Self { keys, matched: 0 })
    }

    /// What of `input` goes to the container, and whether the keys were pressed.
    pub(super) fn pass(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        out.clear();
        for byte in input {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return true;
                }
                continue;
            }
            // They were typed, not meant.
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0] && self.keys.len() > 1);
            if self.matched == 0 {
                out.push(*byte);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_let_go() {
        let mut keys = Keys::parse(None).unwrap();
        let mut out = Vec::new();
        assert!(!keys.pass(b"ab\x10c", &mut out));
        assert_eq!(out, b"ab\x10c");
        assert!(!keys.pass(b"\x10", &mut out) && out.is_empty());
        assert!(!keys.pass(b"\x10x", &mut out));
        assert_eq!(out, b"\x10\x10x");
        assert!(!keys.pass(b"x\x10", &mut out));
        assert!(keys.pass(b"\x11", &mut out));
        let mut one = Keys::parse(Some("q")).unwrap();
        assert!(!one.pass(b"ab", &mut out) && one.pass(b"aqb", &mut out));
        assert_eq!(
            Keys::parse(Some("ctrl-@,ctrl-[,a")).unwrap().keys,
            [0, 27, b'a']
        );
        for wrong in ["ctrl-", "ctrl-é", "ab", "ctrl-p,,", "é"] {
            let e = Keys::parse(Some(wrong)).unwrap_err();
            assert!(e.message().contains("invalid detach keys"), "{e}");
        }
    }
}
