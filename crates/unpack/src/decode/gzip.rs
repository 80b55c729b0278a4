//! gzip (RFC 1952): members, headers and trailers are read here, deflate by a library.
//!
//! Two ways: [`Gzip`] streams through zlib-ng or zlib-rs; [`one_shot`] gives a whole small blob
//! to libdeflate. Both read every member and check CRC32 and ISIZE of each: the plain readers of
//! `flate2` and `libdeflater` stop after the first member without a word.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::Progress;
use crate::{
    error::{Error, Result, Stream},
    sys::{Inflate, InflateError},
};

/// Name of the streaming decoder, for reports.
pub(super) const STREAMING: &str = if cfg!(feature = "zlib-ng") {
    "zlib-ng streaming"
} else {
    "zlib-rs streaming"
};

/// Most bytes of a member's header, so that a name without an end cannot go on for ever.
const HEADER_MOST: u32 = 256 << 10;

const HEAD_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

fn damaged(message: impl Into<String>) -> Error {
    Error::bad(message).with_hint("the layer is damaged: fetch or build it again")
}

/// Reads a member's header byte by byte.
#[derive(Debug)]
struct Header {
    at: At,
    flags: u8,
    /// Bytes left of the field being read.
    left: u16,
    seen: u32,
    crc: Crc,
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
            crc: Crc::new(),
            want_crc: 0,
        }
    }
}

impl Header {
    /// Consumes one byte; true once the header is complete.
    fn byte(&mut self, b: u8) -> Result<bool> {
        self.seen += 1;
        if self.seen > HEADER_MOST {
            return Err(damaged("gzip header without an end"));
        }
        if self.at != At::HeadCrc {
            self.crc.update(&[b]);
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
                    if u32::from(self.want_crc) != self.crc.sum() & 0xffff {
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

fn check_trailer(trailer: [u8; 8], crc: u32, len: u32) -> Result<()> {
    let word = |i: usize| u32::from_le_bytes([0, 1, 2, 3].map(|k| trailer[i + k]));
    if word(0) != crc {
        let want = word(0);
        return Err(damaged(format!(
            "wrong CRC32 of a gzip member: {want:08x}, got {crc:08x}"
        )));
    }
    if word(4) != len {
        let want = word(4);
        return Err(damaged(format!(
            "wrong length of a gzip member: {want}, got {len}"
        )));
    }
    Ok(())
}

/// The streaming decoder.
#[derive(Debug)]
pub(super) struct Gzip {
    state: State,
    inflate: Decompress,
    crc: Crc,
    trailer: [u8; 8],
}

#[derive(Debug)]
enum State {
    Header(Header),
    Body,
    /// Bytes of the trailer read so far.
    Trailer(usize),
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            state: State::Header(Header::default()),
            inflate: Decompress::new(false),
            crc: Crc::new(),
            trailer: [0; 8],
        }
    }
}

impl Gzip {
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        let mut done = Progress::default();
        loop {
            match &mut self.state {
                State::Header(header) => {
                    let Some(&b) = input.get(done.read) else {
                        return Ok(done);
                    };
                    done.read += 1;
                    if header.byte(b)? {
                        self.state = State::Body;
                    }
                }
                State::Body => {
                    if self.body(input, output, &mut done)? {
                        return Ok(done);
                    }
                }
                State::Trailer(have) => {
                    let Some(&b) = input.get(done.read) else {
                        return Ok(done);
                    };
                    done.read += 1;
                    self.trailer[*have] = b;
                    *have += 1;
                    if *have == 8 {
                        check_trailer(self.trailer, self.crc.sum(), self.crc.amount())?;
                        self.inflate.reset(false);
                        self.crc.reset();
                        self.state = State::Header(Header::default());
                    }
                }
            }
        }
    }

    /// Inflates; true when input or output is used up.
    fn body(&mut self, input: &[u8], output: &mut [u8], done: &mut Progress) -> Result<bool> {
        let (from, to) = (&input[done.read..], &mut output[done.written..]);
        if to.is_empty() {
            return Ok(true);
        }
        let (total_in, total_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(from, to, FlushDecompress::None);
        let moved = |before: u64, now: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        let read = moved(total_in, self.inflate.total_in());
        let written = moved(total_out, self.inflate.total_out());
        self.crc.update(&to[..written]);
        done.read += read;
        done.written += written;
        match status {
            Ok(Status::StreamEnd) => {
                self.state = State::Trailer(0);
                Ok(false)
            }
            Ok(Status::Ok | Status::BufError) => Ok(true),
            Err(e) => Err(damaged(format!("deflate: {e}"))),
        }
    }

    /// Between members, and not before the first.
    pub(super) fn at_end(&self) -> bool {
        matches!(&self.state, State::Header(h) if h.seen == 0)
    }
}

/// Decodes a whole blob with libdeflate. `None` if the output would be over `most` bytes, or
/// may be: then nothing is known about the blob yet.
///
/// # Errors
/// As for the streaming decoder.
pub(crate) fn one_shot(blob: &[u8], most: usize) -> Result<Option<Vec<u8>>> {
    let Some(last) = blob.last_chunk::<4>() else {
        return Ok(None);
    };
    // Right for one member; with several the buffer grows below.
    let hint = u32::from_le_bytes(*last) as usize;
    if hint > most {
        return Ok(None);
    }
    let mut out = vec![0; hint.max(1)];
    let (mut at, mut len) = (0, 0);
    let mut inflate = Inflate::new()?;
    let place = |e: Error, at: usize| e.at_offset(Stream::Compressed, at as u64);
    while at < blob.len() {
        let mut header = Header::default();
        while !header
            .byte(*blob.get(at).ok_or_else(|| place(cut(), at))?)
            .map_err(|e| place(e, at))?
        {
            at += 1;
        }
        at += 1;
        let (read, written) = loop {
            match inflate.run(&blob[at..], &mut out[len..]) {
                Ok(done) => break done,
                Err(InflateError::BadData) => {
                    return Err(place(damaged("deflate: invalid data"), at));
                }
                Err(InflateError::Full) if out.len() >= most => return Ok(None),
                Err(InflateError::Full) => out.resize((out.len() * 2).max(64 << 10).min(most), 0),
            }
        };
        at += read;
        let trailer = blob[at..]
            .first_chunk::<8>()
            .ok_or_else(|| place(cut(), at))?;
        let member = &out[len..len + written];
        let low = u32::try_from(written & 0xffff_ffff).unwrap_or_default();
        check_trailer(*trailer, Inflate::crc32(member), low).map_err(|e| place(e, at))?;
        at += 8;
        len += written;
    }
    out.truncate(len);
    Ok(Some(out))
}

fn cut() -> Error {
    Error::bad("the compressed stream is cut short")
        .with_hint("the layer is truncated: fetch or build it again")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gz(data: &[u8], level: u32) -> Vec<u8> {
        let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        w.write_all(data).unwrap();
        w.finish().unwrap()
    }

    fn stream(blob: &[u8], piece: usize) -> Result<Vec<u8>> {
        let mut gzip = Gzip::default();
        let mut out = Vec::new();
        let mut buf = vec![0; 1000];
        for mut input in blob.chunks(piece) {
            loop {
                let done = gzip.decode(input, &mut buf)?;
                out.extend_from_slice(&buf[..done.written]);
                input = &input[done.read..];
                if input.is_empty() && done.written < buf.len() {
                    break;
                }
            }
        }
        if gzip.at_end() { Ok(out) } else { Err(cut()) }
    }

    fn both(blob: &[u8]) -> Result<Vec<u8>> {
        // A damaged length may make the one-shot decoder decline: the other one decides then.
        let one = match one_shot(blob, 1 << 20) {
            Ok(None) => stream(blob, 3),
            done => done.map(Option::unwrap),
        };
        for piece in [1, 7, 4096] {
            match (&one, stream(blob, piece)) {
                (Ok(a), Ok(b)) => assert_eq!(*a, b),
                (Err(_), Err(_)) => {}
                (a, b) => panic!("one-shot {a:?}, streaming {b:?} for {blob:x?}"),
            }
        }
        one
    }

    #[test]
    fn every_member_is_read() {
        let data: Vec<u8> = (0..50_000_u32).map(|i| (i / 7).to_le_bytes()[0]).collect();
        let blob = [
            gz(&data[..100], 6),
            gz(b"", 6),
            gz(&data[100..], 1),
            gz(b"", 0),
        ]
        .concat();
        assert_eq!(both(&blob).unwrap(), data);
    }

    #[test]
    fn header_fields_are_read_and_checked() {
        let plain = gz(b"hello", 6);
        let mut h = vec![
            0x1f,
            0x8b,
            8,
            HEAD_CRC | EXTRA | NAME | COMMENT,
            0,
            0,
            0,
            0,
            0,
            3,
        ];
        h.extend_from_slice(&[3, 0, 1, 2, 3]);
        h.extend_from_slice(b"name\0comment\0");
        let mut crc = Crc::new();
        crc.update(&h);
        h.extend_from_slice(&crc.sum().to_le_bytes()[..2]);
        let blob = [&h, &plain[10..]].concat();
        assert_eq!(both(&blob).unwrap(), b"hello");
        let mut bad = blob.clone();
        bad[h.len() - 1] ^= 1;
        assert!(both(&bad).is_err());
    }

    #[test]
    fn damage_is_always_an_error() {
        let good = gz(b"some text, some text, some more text", 6);
        for n in 1..good.len() {
            assert!(both(&good[..n]).is_err(), "cut at {n}");
        }
        for tail in [b"\0".as_slice(), b"garbage", &good[..5]] {
            assert!(both(&[&good, tail].concat()).is_err());
        }
        let mut crc = good.clone();
        crc[good.len() - 8] ^= 1;
        let mut len = good.clone();
        len[good.len() - 4] ^= 1;
        assert!(both(&crc).is_err() && both(&len).is_err());
    }

    #[test]
    fn one_shot_declines_what_is_too_large() {
        assert!(one_shot(&gz(&[0; 5000], 6), 4999).unwrap().is_none());
        let two = [gz(&[0; 3000], 6), gz(&[0; 3000], 6)].concat();
        assert!(one_shot(&two, 5000).unwrap().is_none());
        assert_eq!(one_shot(&two, 6000).unwrap().unwrap().len(), 6000);
    }
}
