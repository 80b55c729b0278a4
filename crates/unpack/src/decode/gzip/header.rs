//! A member's header and trailer (RFC 1952, 2.3).

use super::stream::Sum;
use crate::{
    error::{Error, Result, Stream},
    sys::crc32,
};

/// Most bytes of a member's header, so that a name without an end cannot go on for ever.
const HEADER_MOST: u32 = 256 << 10;

const HEAD_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

pub(super) fn damaged(message: impl Into<String>) -> Error {
    Error::bad(message).with_hint("the layer is damaged: fetch or build it again")
}

/// Reads a member's header byte by byte.
#[derive(Debug)]
pub(super) struct Header {
    at: At,
    flags: u8,
    /// Bytes left of the field being read.
    left: u16,
    pub(super) seen: u32,
    crc: u32,
    want_crc: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Fixed,
    ExtraLen,
    Extra,
    Name,
    Comment,
    HeadCrc,
    Done,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            at: At::Fixed,
            flags: 0,
            left: 10,
            seen: 0,
            crc: 0,
            want_crc: 0,
        }
    }
}

impl Header {
    /// Consumes one byte; true once the header is complete.
    pub(super) fn byte(&mut self, b: u8) -> Result<bool> {
        self.seen += 1;
        if self.seen > HEADER_MOST {
            return Err(damaged("gzip header without an end"));
        }
        if self.at != At::HeadCrc {
            self.crc = crc32(self.crc, &[b]);
        }
        match self.at {
            At::Fixed => {
                let ok = match self.left {
                    10 => b == 0x1f,
                    9 => b == 0x8b,
                    8 => b == 8,
                    7 => {
                        self.flags = b;
                        b & RESERVED == 0
                    }
                    _ => true,
                };
                if !ok {
                    return Err(match self.left {
                        10 | 9 => damaged("bytes that are no gzip member"),
                        _ => damaged("gzip header with an unknown method or flag"),
                    });
                }
                self.left -= 1;
                if self.left == 0 {
                    self.go(At::ExtraLen);
                }
            }
            At::ExtraLen => {
                // `left` counts up to 2 here, then holds the length.
                self.want_crc = self.want_crc >> 8 | u16::from(b) << 8;
                self.left += 1;
                if self.left == 2 {
                    (self.left, self.want_crc) = (self.want_crc, 0);
                    self.at = At::Extra;
                    if self.left == 0 {
                        self.go(At::Name);
                    }
                }
            }
            At::Extra => {
                self.left -= 1;
                if self.left == 0 {
                    self.go(At::Name);
                }
            }
            At::Name if b == 0 => self.go(At::Comment),
            At::Comment if b == 0 => self.go(At::HeadCrc),
            At::Name | At::Comment => {}
            At::HeadCrc => {
                self.want_crc = self.want_crc >> 8 | u16::from(b) << 8;
                self.left += 1;
                if self.left == 2 {
                    if u32::from(self.want_crc) != self.crc & 0xffff {
                        return Err(damaged("wrong checksum of a gzip header"));
                    }
                    self.at = At::Done;
                }
            }
            At::Done => {}
        }
        Ok(self.at == At::Done)
    }

    /// Goes to `next` or to the first field after it that the flags announce.
    fn go(&mut self, next: At) {
        self.left = 0;
        let order = [
            (At::ExtraLen, EXTRA),
            (At::Name, NAME),
            (At::Comment, COMMENT),
            (At::HeadCrc, HEAD_CRC),
        ];
        let from = order
            .iter()
            .position(|(at, _)| *at == next)
            .unwrap_or(order.len());
        let found = order[from..]
            .iter()
            .find(|(_, flag)| self.flags & flag != 0);
        self.at = found.map_or(At::Done, |(at, _)| *at);
    }
}

pub(super) fn check_trailer(trailer: [u8; 8], sum: Sum) -> Result<()> {
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|k| trailer[i + k]));
    let (want, got) = (word(0), sum.crc);
    if want != got {
        return Err(damaged(format!(
            "wrong CRC32 of a gzip member: {want:08x}, got {got:08x}"
        )));
    }
    let (want, got) = (u64::from(word(4)), sum.length & 0xffff_ffff);
    if want != got {
        return Err(damaged(format!(
            "wrong length of a gzip member: {want}, got {got}"
        )));
    }
    Ok(())
}

/// What a stream of `read` bytes without its end gets.
pub(crate) fn cut(read: u64) -> Error {
    let message = if read == 0 {
        "the compressed stream is empty"
    } else {
        "the compressed stream is cut short"
    };
    Error::bad(message)
        .with_hint("the layer is truncated: fetch or build it again")
        .at_offset(Stream::Compressed, read)
}
