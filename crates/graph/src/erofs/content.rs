//! Where a file's bytes lie: in its layer's tar as they are, or in the layer's *spill*.
//!
//! An index points at whole 512-byte blocks of the tar. A tar pads files to such blocks, so only
//! sparse files can be out of step: segments that begin or end within a block, in the file or in
//! the tar. What an index cannot point at is copied to a second file, the spill. Where it goes
//! there depends on nothing but the entries before it, so a layer always spills the same way.

use unlade_unpack::entry::{Entry, EntryKind, Segment};

/// Bytes of a block.
pub const BLOCK: u64 = 512;
/// A chunk without data.
pub const HOLE: u64 = u64::MAX;
/// Bit of a chunk's block that says it lies in the spill.
pub const SPILLED: u64 = 1 << 63;
/// Most bits of a chunk: what EROFS can say with blocks of 512 bytes.
const BITS_MOST: u32 = 40;

/// The bytes of a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// None, or nothing but a hole.
    Hole,
    /// One after the other from this byte of the tar on, a multiple of [`BLOCK`].
    Whole(u64),
    /// In chunks.
    Chunks(Chunks),
}

/// A sparse file cut into chunks of one size, each of them a hole or in one piece somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    /// Log2 of a chunk's bytes.
    pub bits: u32,
    /// For each chunk [`HOLE`], or its first block in the tar, or with [`SPILLED`] in the spill.
    pub blocks: Box<[u64]>,
}

/// Bytes to be copied from the tar to the spill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Where in the tar.
    pub from: u64,
    /// Where in the spill.
    pub to: u64,
    /// How many.
    pub len: u64,
}

/// Places the files of one layer, entry by entry.
#[derive(Debug, Default)]
pub struct Placer {
    end: u64,
    /// What the spill is made of, in order.
    pub copies: Vec<Copy>,
}

impl Placer {
    /// A placer at the start of a layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of the spill so far, a multiple of [`BLOCK`].
    pub fn spill_bytes(&self) -> u64 {
        self.end
    }

    /// Where the entry's bytes are. Every file entry of a layer must come by, in order.
    pub fn place(&mut self, entry: &Entry) -> Content {
        match &entry.kind {
            EntryKind::File { size: 0, .. } => Content::Hole,
            EntryKind::File { sparse: None, .. } if entry.payload.is_multiple_of(BLOCK) => {
                Content::Whole(entry.payload)
            }
            EntryKind::File { size, sparse: None } => {
                let all = [Segment {
                    offset: 0,
                    len: *size,
                }];
                self.chunks(*size, &all, entry.payload)
            }
            EntryKind::File {
                size,
                sparse: Some(map),
            } => self.chunks(*size, map, entry.payload),
            _ => Content::Hole,
        }
    }

    fn chunks(&mut self, size: u64, map: &[Segment], payload: u64) -> Content {
        let runs = runs(map, payload);
        let Some(&(offset, len, at)) = runs.first() else {
            return Content::Hole;
        };
        if (offset, len) == (0, size) && at.is_multiple_of(BLOCK) {
            return Content::Whole(at);
        }
        let bits = chunk_bits(size, &runs);
        let chunk = 1_u64 << bits;
        let count = size.div_ceil(chunk);
        let mut blocks = vec![HOLE; usize::try_from(count).unwrap_or(0)];
        for &(offset, len, at) in &runs {
            let end = offset + len;
            let mut pos = offset;
            while pos < end {
                let number = pos / chunk;
                let (start, stop) = (number * chunk, size.min((number + 1) * chunk));
                let Some(block) = usize::try_from(number).ok().and_then(|n| blocks.get_mut(n))
                else {
                    return Content::Hole;
                };
                let next = end.min(stop);
                let from = at + (pos - offset);
                if pos == start && next == stop && from.is_multiple_of(BLOCK) {
                    *block = from / BLOCK;
                } else {
                    if *block == HOLE {
                        *block = SPILLED | (self.end / BLOCK);
                        self.end += (stop - start).next_multiple_of(BLOCK);
                    }
                    let to = (*block & !SPILLED) * BLOCK + (pos - start);
                    let len = next - pos;
                    self.copies.push(Copy { from, to, len });
                }
                pos = next;
            }
        }
        Content::Chunks(Chunks {
            bits,
            blocks: blocks.into(),
        })
    }
}

/// Segments that follow each other joined: (offset in the file, length, offset in the tar).
fn runs(map: &[Segment], payload: u64) -> Vec<(u64, u64, u64)> {
    let mut out: Vec<(u64, u64, u64)> = Vec::with_capacity(map.len());
    let mut at = payload;
    for segment in map {
        match out.last_mut() {
            Some((offset, len, _)) if *offset + *len == segment.offset => *len += segment.len,
            _ => out.push((segment.offset, segment.len, at)),
        }
        at += segment.len;
    }
    out
}

/// The largest chunks that nothing need be spilled for, or larger ones if those were too many:
/// the index of a file is bounded by what the tar has of it, whatever its size.
fn chunk_bits(size: u64, runs: &[(u64, u64, u64)]) -> u32 {
    let mut bits = BITS_MOST;
    let mut stored = 0;
    for &(offset, len, _) in runs {
        stored += len;
        for edge in [offset, offset + len] {
            if edge != size && edge != 0 {
                bits = bits.min(edge.trailing_zeros());
            }
        }
    }
    let least = BLOCK.trailing_zeros();
    bits = bits.clamp(least, BITS_MOST);
    let most = 16 + stored / BLOCK + 4 * runs.len() as u64;
    while bits < BITS_MOST && size.div_ceil(1 << bits) > most {
        bits += 1;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use unlade_unpack::entry::Meta;

    fn file(size: u64, map: &[(u64, u64)], payload: u64) -> Entry {
        let map = map.iter().map(|&(offset, len)| Segment { offset, len });
        Entry {
            index: 0,
            offset: 0,
            payload,
            path: b"f".as_slice().into(),
            kind: EntryKind::File {
                size,
                sparse: Some(map.collect()),
            },
            meta: Meta::default(),
        }
    }

    #[test]
    fn aligned_files_stay_in_the_tar() {
        let mut placer = Placer::new();
        let one = placer.place(&file(8192, &[(4096, 4096)], 1024));
        let want = Chunks {
            bits: 12,
            blocks: [HOLE, 2].into(),
        };
        assert_eq!(one, Content::Chunks(want));
        assert_eq!(
            placer.place(&file(10, &[(0, 10)], 512)),
            Content::Whole(512)
        );
        assert_eq!(placer.place(&file(10, &[], 512)), Content::Hole);
        // Ends within a block, but there the file ends too.
        let tail = placer.place(&file(4196, &[(4096, 100)], 1024));
        assert!(matches!(tail, Content::Chunks(c) if *c.blocks == [HOLE, 2]));
        assert_eq!(placer.spill_bytes(), 0);
    }

    #[test]
    fn what_is_out_of_step_is_spilled() {
        let mut placer = Placer::new();
        let got = placer.place(&file(2048, &[(100, 10), (1024, 512)], 1024));
        let Content::Chunks(chunks) = got else {
            panic!("no chunks");
        };
        assert_eq!(chunks.bits, 9);
        assert_eq!(*chunks.blocks, [SPILLED, HOLE, SPILLED | 1, HOLE]);
        let copy = |from, to, len| Copy { from, to, len };
        assert_eq!(placer.copies, [copy(1024, 100, 10), copy(1034, 512, 512)]);
        assert_eq!(placer.spill_bytes(), 1024);
    }

    #[test]
    fn a_huge_hole_costs_little() {
        let mut placer = Placer::new();
        let size = 100 << 30;
        let got = placer.place(&file(size, &[(512, 512), (size - 1, 1)], 512));
        assert!(matches!(got, Content::Chunks(c) if c.blocks.len() <= 32));
        assert!(placer.copies.len() == 2);
    }

    fn maps() -> impl Strategy<Value = (u64, Vec<(u64, u64)>)> {
        let unit = prop::sample::select(vec![1_u64, 100, 512, 4096]);
        (
            prop::collection::vec((0_u64..5, 1_u64..5, unit), 0..8),
            0_u64..5000,
        )
            .prop_map(|(list, end)| {
                let mut at = 0;
                let mut map = Vec::new();
                for (gap, len, unit) in list {
                    at += gap * unit;
                    map.push((at, len * unit));
                    at += len * unit;
                }
                (at + end, map)
            })
    }

    proptest! {
        #[test]
        fn chunks_give_the_file((size, map) in maps(), start in 0_u64..3) {
            let payload = start * 512;
            let stored: u64 = map.iter().map(|s| s.1).sum();
            let tar: Vec<u8> = (0..payload + stored.next_multiple_of(512))
                .map(|i| u8::try_from(i % 251).unwrap() + 1).collect();
            let mut want = vec![0_u8; usize::try_from(size).unwrap()];
            let mut at = usize::try_from(payload).unwrap();
            for &(offset, len) in &map {
                let (offset, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
                want[offset..offset + len].copy_from_slice(&tar[at..at + len]);
                at += len;
            }
            let mut placer = Placer::new();
            let content = placer.place(&file(size, &map, payload));
            let mut spill = vec![0_u8; usize::try_from(placer.spill_bytes()).unwrap()];
            for c in &placer.copies {
                let [from, to, len] = [c.from, c.to, c.len].map(|n| usize::try_from(n).unwrap());
                spill[to..to + len].copy_from_slice(&tar[from..from + len]);
            }
            let mut got = vec![0_u8; want.len()];
            match content {
                Content::Hole => {}
                Content::Whole(at) => {
                    let at = usize::try_from(at).unwrap();
                    let n = got.len();
                    got.copy_from_slice(&tar[at..at + n]);
                }
                Content::Chunks(chunks) => {
                    for (i, &block) in chunks.blocks.iter().enumerate() {
                        if block == HOLE { continue }
                        let (source, block) = if block & SPILLED == 0 { (&tar, block) } else { (&spill, block & !SPILLED) };
                        let (from, to) = (usize::try_from(block * 512).unwrap(), i << chunks.bits);
                        let len = (1_usize << chunks.bits).min(got.len() - to);
                        got[to..to + len].copy_from_slice(&source[from..from + len]);
                    }
                }
            }
            prop_assert_eq!(got, want);
        }
    }
}
