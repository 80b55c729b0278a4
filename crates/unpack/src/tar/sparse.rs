//! Sparse file maps: GNU's old format and pax formats 0.0, 0.1 and 1.0.
//!
//! Format: GNU tar manual, "Storing Sparse Files".

use super::{
    field::decimal,
    header::{BLOCK, Block, size},
};
use crate::{
    entry::Segment,
    error::{Error, Result},
    limits::Limits,
};

pub(super) fn map_too_large(limits: &Limits) -> Error {
    let most = limits.sparse_map_bytes;
    Error::limit(
        format!("sparse map of more than {most} bytes"),
        "sparse-map-bytes",
    )
}

/// Checks that segments are ordered, disjoint and inside the file, and that the archive holds
/// just their bytes. Drops empty segments.
pub(super) fn check(map: Vec<Segment>, real_size: u64, stored: u64) -> Result<Box<[Segment]>> {
    let (mut end, mut sum) = (0, 0_u64);
    for s in &map {
        if s.offset < end {
            return Err(Error::bad("sparse map is not in order"));
        }
        end = s
            .offset
            .checked_add(s.len)
            .filter(|&e| e <= real_size)
            .ok_or_else(|| Error::bad("sparse map goes beyond the file's size"))?;
        sum += s.len;
    }
    if sum != stored {
        return Err(Error::bad(format!(
            "sparse map has {sum} bytes, the archive {stored}"
        )));
    }
    Ok(map.into_iter().filter(|s| s.len > 0).collect())
}

/// Collects an old GNU sparse map: four segments in the header, 21 in each extension block.
#[derive(Debug)]
pub(super) struct OldGnu {
    map: Vec<Segment>,
    real_size: u64,
}

impl OldGnu {
    /// Starts with the header; true if an extension block follows.
    pub(super) fn start(header: &Block) -> Result<(Self, bool)> {
        let real_size = size(&header[483..495])?;
        let mut this = Self {
            map: Vec::new(),
            real_size,
        };
        this.segments(&header[386..482])?;
        Ok((this, header[482] != 0))
    }

    /// Adds an extension block; true if another follows.
    pub(super) fn extend(&mut self, block: &Block, limits: &Limits) -> Result<bool> {
        self.segments(&block[..504])?;
        if (self.map.len() * size_of::<Segment>()) as u64 > limits.sparse_map_bytes {
            return Err(map_too_large(limits));
        }
        Ok(block[504] != 0)
    }

    fn segments(&mut self, fields: &[u8]) -> Result<()> {
        for pair in fields.chunks_exact(24) {
            if pair.iter().all(|&b| b == 0) {
                break;
            }
            self.map.push(Segment {
                offset: size(&pair[..12])?,
                len: size(&pair[12..])?,
            });
        }
        Ok(())
    }

    /// The file's size and map; `stored` is the payload's size in the archive.
    pub(super) fn finish(self, stored: u64) -> Result<(u64, Box<[Segment]>)> {
        Ok((self.real_size, check(self.map, self.real_size, stored)?))
    }
}

/// Reads the map that format 1.0 puts before the payload: decimal lines, padded to a block.
#[derive(Debug, Default)]
pub(super) struct Pax10 {
    numbers: Vec<u64>,
    want: Option<usize>,
    line: Vec<u8>,
    /// Bytes of map read so far, whole blocks.
    pub bytes: u64,
}

impl Pax10 {
    /// Adds a block of payload; true once the map is complete.
    pub(super) fn block(&mut self, block: &Block, limits: &Limits) -> Result<bool> {
        self.bytes += BLOCK as u64;
        if self.bytes > limits.sparse_map_bytes {
            return Err(map_too_large(limits));
        }
        for &b in block {
            if b != b'\n' {
                self.line.push(b);
                if self.line.len() > 20 {
                    return Err(Error::bad("sparse map line is not a number"));
                }
                continue;
            }
            let n = decimal(&self.line, "sparse map")?;
            self.line.clear();
            match self.want {
                None => {
                    let most = limits.sparse_map_bytes / 4;
                    let count = usize::try_from(n).ok().filter(|_| n <= most);
                    self.want = Some(count.ok_or_else(|| map_too_large(limits))? * 2);
                }
                Some(_) => self.numbers.push(n),
            }
            if self.want == Some(self.numbers.len()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The map; `stored` counts the payload's bytes after it.
    pub(super) fn finish(self, real_size: u64, stored: u64) -> Result<Box<[Segment]>> {
        let pairs = self.numbers.chunks_exact(2);
        let map = pairs
            .map(|p| Segment {
                offset: p[0],
                len: p[1],
            })
            .collect();
        check(map, real_size, stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seg(offset: u64, len: u64) -> Segment {
        Segment { offset, len }
    }

    #[test]
    fn maps_are_checked() {
        assert_eq!(
            *check(vec![seg(0, 4), seg(8, 0)], 8, 4).unwrap(),
            [seg(0, 4)]
        );
        assert!(check(vec![seg(4, 4), seg(0, 4)], 8, 8).is_err());
        assert!(check(vec![seg(0, 4), seg(3, 1)], 8, 5).is_err());
        assert!(check(vec![seg(0, 9)], 8, 9).is_err());
        assert!(check(vec![seg(u64::MAX, 2)], 8, 2).is_err());
        assert!(check(vec![seg(0, 4)], 8, 5).is_err());
    }

    #[test]
    fn pax10_map() {
        let mut block = [0; BLOCK];
        block[..12].copy_from_slice(b"2\n0\n4\n100\n0\n");
        let mut map = Pax10::default();
        assert!(map.block(&block, &Limits::default()).unwrap());
        assert_eq!(*map.finish(100, 4).unwrap(), [seg(0, 4)]);
        let mut endless = Pax10::default();
        assert!(endless.block(&[0; BLOCK], &Limits::default()).is_err());
    }
}
