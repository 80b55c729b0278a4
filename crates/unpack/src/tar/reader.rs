//! The state machine over header blocks, extended headers, sparse maps and payload.

use std::{mem, ops::Range};

use super::{
    header::{self, BLOCK, Block, Fields},
    pax::{self, Pax},
    sparse::{OldGnu, Pax10},
};
use crate::{
    entry::{Entry, EntryKind, Meta, Segment, Time, normalize},
    error::{Error, Result, Stream, show},
    limits::Limits,
};

/// What the reader found in the input it consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// All input is consumed; call again with more, or [`Reader::finish`] at its end.
    NeedMore,
    /// An entry. A file's payload follows, then [`Step::EntryEnd`].
    Entry(Entry),
    /// Payload of the last entry.
    Data {
        /// Where it lies in the input given to this call.
        range: Range<usize>,
        /// Its offset in the file, in bytes.
        at: u64,
    },
    /// The last entry, a file, is complete.
    EntryEnd,
    /// The end-of-archive marker. What follows in the stream means nothing and is consumed.
    End,
}

/// Reads a tar stream given in pieces. See the [module](super).
///
/// ```
/// # use unlade_unpack::{Limits, tar::{Reader, Step}};
/// # fn names(stream: &[u8]) -> unlade_unpack::Result<Vec<Vec<u8>>> {
/// let mut names = Vec::new();
/// let mut reader = Reader::new(Limits::default());
/// for mut piece in stream.chunks(1000) {
///     loop {
///         let (used, step) = reader.step(piece)?;
///         piece = &piece[used..];
///         match step {
///             Step::NeedMore => break,
///             Step::Entry(entry) => names.push(entry.path.into_vec()),
///             _ => {}
///         }
///     }
/// }
/// reader.finish()?;
/// # Ok(names) }
/// # assert!(names(&[0; 1024]).unwrap().is_empty());
/// ```
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    state: State,
    /// Bytes of a block that arrived in pieces.
    partial: Vec<u8>,
    /// Bytes of the stream consumed.
    position: u64,
    /// Where the block or payload being read begins, which may be before `position`.
    start: u64,
    /// Entries given out.
    entries: u64,
    /// Sizes of the files given out, added up.
    file_bytes: u64,
    /// What extended headers say of the next entry.
    pending: Pending,
}

#[derive(Debug, Default)]
struct Pending {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// Offset of the first of these headers.
    offset: u64,
}

impl Pending {
    fn any(&self) -> bool {
        self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetaKind {
    Pax,
    Global,
    Name,
    Link,
}

#[derive(Debug)]
enum State {
    Header,
    /// One zero block was read.
    HalfEnd,
    /// The content of an extended header: `left` bytes, then padding.
    Meta {
        kind: MetaKind,
        left: u64,
        data: Vec<u8>,
    },
    /// Extension blocks of an old GNU sparse header.
    OldSparse {
        entry: Box<Entry>,
        map: OldGnu,
        stored: u64,
    },
    /// The map before the payload of a sparse file in format 1.0.
    PaxMap {
        entry: Box<Entry>,
        map: Pax10,
        real_size: u64,
        stored: u64,
    },
    /// An entry complete but for handing it out.
    Ready {
        entry: Box<Entry>,
        stored: u64,
    },
    /// `left` bytes of payload in the current segment, then the rest of the map.
    Payload {
        at: u64,
        left: u64,
        rest: std::vec::IntoIter<Segment>,
        pad: u64,
    },
    Padding {
        left: u64,
    },
    End,
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

impl Reader {
    /// A reader at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Header,
            partial: Vec::new(),
            position: 0,
            start: 0,
            entries: 0,
            file_bytes: 0,
            pending: Pending::default(),
        }
    }

    /// Bytes of the stream consumed so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the end-of-archive marker was read.
    pub fn ended(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// Consumes some of `input`: returns how many bytes, and what they gave. With input left
    /// over, call again with the rest.
    ///
    /// # Errors
    /// Anything that is not one well-formed, unambiguous archive within the limits. The reader
    /// must not be used after an error.
    pub fn step(&mut self, input: &[u8]) -> Result<(usize, Step)> {
        let mut used = 0;
        loop {
            self.start = self.position - self.partial.len() as u64;
            let (n, step) = self
                .advance(&input[used..])
                .map_err(|e| e.at_offset(Stream::Tar, self.start))?;
            self.position += n as u64;
            match step {
                None => used += n,
                Some(Step::Data { range, at }) => {
                    let range = range.start + used..range.end + used;
                    return Ok((used + n, Step::Data { range, at }));
                }
                Some(step) => return Ok((used + n, step)),
            }
            if used == input.len() && !self.silent() {
                return Ok((used, Step::NeedMore));
            }
        }
    }

    /// Whether the next step needs no input.
    fn silent(&self) -> bool {
        match &self.state {
            State::Ready { .. } => true,
            State::Payload { left, .. } | State::Padding { left } => *left == 0,
            State::Meta { left, .. } => *left == 0,
            _ => false,
        }
    }

    /// What is left of the current entry's payload and padding, in bytes: a caller may seek over
    /// it instead of feeding it.
    pub fn skippable(&self) -> u64 {
        match &self.state {
            State::Payload {
                left, rest, pad, ..
            } => left + rest.as_slice().iter().map(|s| s.len).sum::<u64>() + pad,
            State::Padding { left } => *left,
            _ => 0,
        }
    }

    /// Tells the reader that [`Reader::skippable`] bytes were passed over. No further step is
    /// given for the entry.
    pub fn skip(&mut self) {
        self.position += self.skippable();
        if matches!(self.state, State::Payload { .. } | State::Padding { .. }) {
            self.state = State::Header;
        }
    }

    /// Checks that the stream may end here.
    ///
    /// # Errors
    /// A stream cut inside a header, payload or padding, or after an extended header that
    /// describes no entry.
    pub fn finish(&self) -> Result<()> {
        let at = |e: Error| Err(e.at_offset(Stream::Tar, self.position));
        match self.state {
            State::End => Ok(()),
            State::Header | State::HalfEnd if self.partial.is_empty() => {
                if self.pending.any() {
                    return at(Error::bad("extended header at the end describes no entry"));
                }
                Ok(())
            }
            _ => at(Error::bad("the tar stream ends in the middle of an entry")
                .with_hint("the layer is truncated: fetch or build it again")),
        }
    }

    /// One move of the machine: `None` if it gave nothing to the caller.
    fn advance(&mut self, input: &[u8]) -> Result<(usize, Option<Step>)> {
        match &mut self.state {
            State::End => Ok((input.len(), None)),
            State::Padding { left } => {
                let n = take(*left, input);
                *left -= n as u64;
                if *left == 0 {
                    self.state = State::Header;
                }
                Ok((n, None))
            }
            State::Payload {
                at,
                left,
                rest,
                pad,
            } => {
                if *left == 0 {
                    if let Some(next) = rest.next() {
                        (*at, *left) = (next.offset, next.len);
                    } else {
                        let left = *pad;
                        self.state = State::Padding { left };
                        return Ok((0, Some(Step::EntryEnd)));
                    }
                }
                let n = take(*left, input);
                let step = Step::Data {
                    range: 0..n,
                    at: *at,
                };
                *at += n as u64;
                *left -= n as u64;
                Ok((n, (n > 0).then_some(step)))
            }
            State::Ready { .. } => Ok((0, Some(self.hand_out()?))),
            State::Meta { left, data, .. } if *left > 0 => {
                let n = take(*left, input);
                data.extend_from_slice(&input[..n]);
                *left -= n as u64;
                Ok((n, None))
            }
            State::Meta { .. } => {
                let State::Meta { kind, data, .. } = mem::replace(&mut self.state, State::Header)
                else {
                    unreachable!("matched above");
                };
                let left = padding(data.len() as u64);
                self.meta(kind, data)?;
                self.state = State::Padding { left };
                Ok((0, None))
            }
            State::Header | State::HalfEnd | State::OldSparse { .. } | State::PaxMap { .. } => {
                let missing = BLOCK - self.partial.len();
                if self.partial.is_empty()
                    && let Some(block) = input.first_chunk::<BLOCK>()
                {
                    return Ok((BLOCK, self.block(block)?));
                }
                let n = missing.min(input.len());
                self.partial.extend_from_slice(&input[..n]);
                if n < missing {
                    return Ok((n, None));
                }
                let block: Block = mem::take(&mut self.partial)
                    .try_into()
                    .unwrap_or([0; BLOCK]);
                Ok((n, self.block(&block)?))
            }
        }
    }

    /// A whole block in a state that reads blocks.
    fn block(&mut self, block: &Block) -> Result<Option<Step>> {
        match mem::replace(&mut self.state, State::Header) {
            State::HalfEnd if header::is_zero(block) => {
                self.state = State::End;
                Ok(Some(Step::End))
            }
            State::HalfEnd => Err(Error::bad("an entry follows a single zero block")
                .with_hint("readers disagree on where this archive ends: rebuild the layer")),
            State::OldSparse {
                mut entry,
                mut map,
                stored,
            } => {
                if map.extend(block, &self.limits)? {
                    self.state = State::OldSparse { entry, map, stored };
                } else {
                    entry.kind = sparse_file(map.finish(stored)?);
                    self.state = State::Ready { entry, stored };
                }
                Ok(None)
            }
            State::PaxMap {
                mut entry,
                mut map,
                real_size,
                stored,
            } => {
                if stored < map.bytes + BLOCK as u64 {
                    return Err(Error::bad("sparse map is longer than the payload"));
                }
                if map.block(block, &self.limits)? {
                    let stored = stored - map.bytes;
                    entry.kind = sparse_file((real_size, map.finish(real_size, stored)?));
                    self.state = State::Ready { entry, stored };
                } else {
                    self.state = State::PaxMap {
                        entry,
                        map,
                        real_size,
                        stored,
                    };
                }
                Ok(None)
            }
            _ => {
                if header::is_zero(block) {
                    if self.pending.any() {
                        return Err(Error::bad("extended header at the end describes no entry")
                            .at_offset(Stream::Tar, self.pending.offset));
                    }
                    self.state = State::HalfEnd;
                    return Ok(None);
                }
                self.header(block)
            }
        }
    }

    fn header(&mut self, block: &Block) -> Result<Option<Step>> {
        let at_name = |e: Error, name: &[u8], n| e.at_entry(n, name);
        let fields = header::parse(block).map_err(|e| {
            // The name is only worth showing if the block looks like a header at all.
            if self.entries == 0 {
                e
            } else {
                at_name(e, &[], self.entries)
            }
        })?;
        let kind = match fields.typeflag {
            b'x' => MetaKind::Pax,
            b'g' => MetaKind::Global,
            b'L' => MetaKind::Name,
            b'K' => MetaKind::Link,
            _ => {
                let n = self.entries;
                let spelled = self.spelled(&fields);
                return self
                    .entry(fields, block)
                    .map_err(|e| at_name(e, &spelled, n));
            }
        };
        self.meta_header(kind, fields.size)?;
        Ok(None)
    }

    /// The path as the archive spells it, for messages.
    fn spelled(&self, fields: &Fields) -> Vec<u8> {
        let pax = self.pending.pax.as_ref();
        let name = pax.and_then(|p| p.sparse.name.as_ref().or(p.path.as_ref()));
        name.or(self.pending.long_name.as_ref())
            .unwrap_or(&fields.name)
            .clone()
    }

    fn meta_header(&mut self, kind: MetaKind, size: u64) -> Result<()> {
        if size > self.limits.meta_bytes {
            let most = self.limits.meta_bytes;
            let message = format!("extended header of {size} bytes, the limit is {most}");
            return Err(Error::limit(message, "meta-bytes"));
        }
        let twice = match kind {
            MetaKind::Pax => self.pending.pax.is_some(),
            MetaKind::Name => self.pending.long_name.is_some(),
            MetaKind::Link => self.pending.long_link.is_some(),
            MetaKind::Global => self.pending.any(),
        };
        if twice {
            return Err(
                Error::bad("an extended header does not stand before its entry")
                    .with_hint("readers disagree on which header counts: rebuild the layer"),
            );
        }
        if !self.pending.any() {
            self.pending.offset = self.start;
        }
        self.state = State::Meta {
            kind,
            left: size,
            data: Vec::new(),
        };
        Ok(())
    }

    fn meta(&mut self, kind: MetaKind, data: Vec<u8>) -> Result<()> {
        match kind {
            MetaKind::Pax => self.pending.pax = Some(pax::parse(&data, &self.limits)?),
            MetaKind::Global => pax::check_global(&data)?,
            MetaKind::Name => self.pending.long_name = Some(gnu_long(data)?),
            MetaKind::Link => self.pending.long_link = Some(gnu_long(data)?),
        }
        Ok(())
    }

    /// A header that is an entry of its own.
    fn entry(&mut self, fields: Fields, block: &Block) -> Result<Option<Step>> {
        if self.entries >= self.limits.entries {
            let message = format!("more than {} entries", self.limits.entries);
            return Err(Error::limit(message, "entries"));
        }
        let pending = mem::take(&mut self.pending);
        let pax = pending.pax.unwrap_or_default();
        let name = one_of(pax.path, pending.long_name, fields.name, "path")?;
        let link = one_of(pax.link, pending.long_link, fields.link, "link target")?;
        let name = pax.sparse.name.clone().unwrap_or(name);
        let stored = pax.size.unwrap_or(fields.size);
        let is_dir = name.ends_with(b"/");
        let path = normalize(&name, &self.limits)?;
        let meta = Meta {
            mode: fields.mode,
            uid: id(pax.uid.map_or(fields.uid, i128::from), "uid")?,
            gid: id(pax.gid.map_or(fields.gid, i128::from), "gid")?,
            mtime: pax.mtime.unwrap_or(Time {
                secs: fields.mtime,
                nanos: 0,
            }),
            xattrs: pax.xattrs,
        };
        let device = |limit: (i128, i128)| -> Result<(u32, u32)> {
            let (major, minor) = fields.device;
            let fits = (0..limit.0).contains(&major) && (0..limit.1).contains(&minor);
            let pair = u32::try_from(major).ok().zip(u32::try_from(minor).ok());
            pair.filter(|_| fits)
                .ok_or_else(|| Error::bad(format!("device number {major}:{minor} is out of range")))
        };
        let kind = match fields.typeflag {
            0 | b'0' if is_dir => EntryKind::Dir,
            0 | b'0' | b'7' | b'S' => EntryKind::File {
                size: stored,
                sparse: None,
            },
            b'1' => EntryKind::HardLink {
                target: self.hard_link(&link)?,
            },
            b'2' => EntryKind::Symlink {
                target: self.symlink(link)?,
            },
            b'3' => {
                let (major, minor) = device((1 << 12, 1 << 20))?;
                EntryKind::Char { major, minor }
            }
            b'4' => {
                let (major, minor) = device((1 << 12, 1 << 20))?;
                EntryKind::Block { major, minor }
            }
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(
                    Error::bad(format!("unknown entry type `{}`", show(&[other])))
                        .with_hint("readers disagree on such entries: rebuild the layer"),
                );
            }
        };
        let is_file = matches!(kind, EntryKind::File { .. });
        // Some writers leave a hard link's size in place; its data never follows.
        if stored != 0 && !is_file && !matches!(kind, EntryKind::HardLink { .. }) {
            return Err(Error::bad(format!(
                "an entry of its type has no data, yet size {stored}"
            ))
            .with_hint("readers disagree on what follows: rebuild the layer"));
        }
        if pax.sparse.any && (!is_file || fields.typeflag == b'S') {
            return Err(Error::bad(
                "pax sparse records on an entry that is not a plain file",
            ));
        }
        if fields.typeflag == b'S' && !fields.gnu {
            return Err(Error::bad("GNU sparse entry in a header that is not GNU's")
                .with_hint("readers disagree on such entries: rebuild the layer"));
        }
        let entry = Box::new(Entry {
            index: self.entries,
            offset: self.start,
            payload: 0,
            path,
            kind,
            meta,
        });
        self.entries += 1;
        self.state = if fields.typeflag == b'S' {
            let (map, more) = OldGnu::start(block)?;
            if more {
                State::OldSparse { entry, map, stored }
            } else {
                let mut entry = entry;
                entry.kind = sparse_file(map.finish(stored)?);
                State::Ready { entry, stored }
            }
        } else if pax.sparse.any {
            self.pax_sparse(entry, pax.sparse, stored)?
        } else {
            let stored = if is_file { stored } else { 0 };
            State::Ready { entry, stored }
        };
        Ok(None)
    }

    fn pax_sparse(
        &self,
        mut entry: Box<Entry>,
        keys: pax::SparseKeys,
        stored: u64,
    ) -> Result<State> {
        let Some(real_size) = keys.real_size else {
            return Err(Error::bad("pax sparse records without the file's size"));
        };
        match (keys.major, keys.minor, keys.map) {
            (Some(1), Some(0), None) => Ok(State::PaxMap {
                entry,
                map: Pax10::default(),
                real_size,
                stored,
            }),
            (None | Some(0), None | Some(0 | 1), Some(map)) => {
                let map = super::sparse::check(map, real_size, stored)?;
                entry.kind = sparse_file((real_size, map));
                Ok(State::Ready { entry, stored })
            }
            _ => Err(Error::bad(
                "pax sparse records of an unknown or mixed format",
            )),
        }
    }

    fn hard_link(&self, link: &[u8]) -> Result<Box<[u8]>> {
        if link.is_empty() {
            return Err(Error::bad("hard link without a target"));
        }
        let target = normalize(link, &self.limits)?;
        if crate::entry::has_marker(&target) {
            return Err(Error::bad("hard link to a whiteout marker"));
        }
        Ok(target)
    }

    fn symlink(&self, link: Vec<u8>) -> Result<Box<[u8]>> {
        let most = self.limits.symlink_bytes;
        match link.len() {
            0 => Err(Error::bad("symlink without a target")),
            n if n > most => {
                let message = format!("symlink target of {n} bytes, the limit is {most}");
                Err(Error::limit(message, "symlink-bytes"))
            }
            _ => Ok(link.into()),
        }
    }

    fn hand_out(&mut self) -> Result<Step> {
        let State::Ready { mut entry, stored } = mem::replace(&mut self.state, State::Header)
        else {
            unreachable!("called in state Ready");
        };
        // All headers and maps are consumed.
        entry.payload = self.position;
        if let EntryKind::File { size, sparse } = &mut entry.kind {
            let most = self.limits.layer_bytes;
            self.file_bytes = self.file_bytes.saturating_add(*size);
            if self.file_bytes > most {
                let message = format!("files of more than {most} bytes");
                return Err(Error::limit(message, "layer-bytes").at_entry(entry.index, &entry.path));
            }
            let segments = match sparse {
                Some(map) => map.to_vec(),
                None => vec![Segment {
                    offset: 0,
                    len: *size,
                }],
            };
            let rest = segments.into_iter();
            self.state = State::Payload {
                at: 0,
                left: 0,
                rest,
                pad: padding(stored),
            };
        }
        Ok(Step::Entry(*entry))
    }
}

fn take(left: u64, input: &[u8]) -> usize {
    usize::try_from(left).map_or(input.len(), |left| left.min(input.len()))
}

fn sparse_file((size, map): (u64, Box<[Segment]>)) -> EntryKind {
    EntryKind::File {
        size,
        sparse: Some(map),
    }
}

/// The value that counts: an extended one if there is one, never two.
fn one_of(
    pax: Option<Vec<u8>>,
    gnu: Option<Vec<u8>>,
    header: Vec<u8>,
    what: &str,
) -> Result<Vec<u8>> {
    match (pax, gnu) {
        (Some(_), Some(_)) => Err(Error::bad(format!("both a pax and a GNU {what}"))
            .with_hint("readers disagree on which counts: rebuild the layer")),
        (Some(name), None) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(header),
    }
}

/// The content of an `L` or `K` header: a name, usually with one NUL after it.
fn gnu_long(mut data: Vec<u8>) -> Result<Vec<u8>> {
    if data.last() == Some(&0) {
        data.pop();
    }
    if data.is_empty() || data.contains(&0) {
        return Err(Error::bad(
            "GNU long name that is empty or contains a NUL byte",
        ));
    }
    Ok(data)
}

/// An owner: 2^32 - 1 means "no change" to the kernel, so it can be nobody's.
fn id(n: i128, what: &str) -> Result<u32> {
    u32::try_from(n)
        .ok()
        .filter(|&n| n != u32::MAX)
        .ok_or_else(|| Error::bad(format!("{what} {n} is out of range (0 to 4294967294)")))
}
