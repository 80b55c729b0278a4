//! Hops over an uncompressed tar in memory, entry by entry: just enough for trusted layers.
//!
//! Knows ustar, pax (path, linkpath, size, uid, gid, xattrs) and GNU long names. It is no validator.

use std::borrow::Cow;

use anyhow::{Context, Result, bail};
use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// One entry: its meaning and where it lies, extension headers included.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// Offset of the first byte that belongs to the entry (an extension header, if it has one).
    pub(crate) start: usize,
    /// Offset behind the padded payload.
    pub(crate) end: usize,
    /// The ustar header.
    pub(crate) header: &'a Header,
    /// Path, without leading `./` or trailing `/`; empty for the root itself.
    pub(crate) path: Cow<'a, [u8]>,
    /// Link target, as stored.
    pub(crate) link: Cow<'a, [u8]>,
    /// Payload.
    pub(crate) data: &'a [u8],
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Extended attributes of `SCHILY.xattr` records.
    pub(crate) xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// What extension headers say about the entry that follows them.
#[derive(Debug, Default)]
struct Pending<'a> {
    start: Option<usize>,
    path: Option<&'a [u8]>,
    link: Option<&'a [u8]>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// Iterates over the entries of a tar.
#[derive(Debug)]
pub(crate) struct Hop<'a> {
    tar: &'a [u8],
    at: usize,
}

impl<'a> Hop<'a> {
    /// Starts at the first header of `tar`.
    pub(crate) fn new(tar: &'a [u8]) -> Self {
        Self { tar, at: 0 }
    }

    /// The next entry, or nothing at the end marker.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry<'a>>> {
        let mut pending = Pending::default();
        loop {
            let at = self.at;
            let Some(block) = self.tar.get(at..at + BLOCK) else {
                return Ok(None);
            };
            if block.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            let header = Header::from_byte_slice(block);
            let kind = header.entry_type();
            let extension = matches!(
                kind,
                EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
            );
            let has_payload = extension || kind.is_file() || kind == EntryType::Continuous;
            let stated = header
                .entry_size()
                .with_context(|| format!("size at offset {at}"))?;
            let size = match (has_payload, extension) {
                (false, _) => 0,
                (true, true) => stated,
                (true, false) => pending.size.unwrap_or(stated),
            };
            let from = at + BLOCK;
            let data = usize::try_from(size)
                .ok()
                .and_then(|size| self.tar.get(from..from.checked_add(size)?))
                .with_context(|| format!("payload of {size} bytes at offset {from} is cut off"))?;
            self.at = from + data.len().next_multiple_of(BLOCK);
            if !extension {
                return pending.finish(at, self.at, header, data).map(Some);
            }
            pending.start.get_or_insert(at);
            pending
                .learn(kind, data)
                .with_context(|| format!("extension at offset {at}"))?;
        }
    }
}

impl<'a> Pending<'a> {
    fn learn(&mut self, kind: EntryType, data: &'a [u8]) -> Result<()> {
        match kind {
            EntryType::GNULongName => self.path = Some(until_nul(data)),
            EntryType::GNULongLink => self.link = Some(until_nul(data)),
            EntryType::XHeader => {
                let mut rest = data;
                while !rest.is_empty() {
                    let (key, value, tail) = pax_record(rest)?;
                    self.learn_pax(key, value)?;
                    rest = tail;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn learn_pax(&mut self, key: &'a [u8], value: &'a [u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push((name, value));
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(value),
            b"linkpath" => self.link = Some(value),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?.try_into()?),
            b"gid" => self.gid = Some(number(value)?.try_into()?),
            _ => {}
        }
        Ok(())
    }

    fn finish(
        self,
        at: usize,
        end: usize,
        header: &'a Header,
        data: &'a [u8],
    ) -> Result<Entry<'a>> {
        let path = self.path.map_or_else(|| header.path_bytes(), Cow::Borrowed);
        let link = self
            .link
            .map(Cow::Borrowed)
            .or_else(|| header.link_name_bytes())
            .unwrap_or(Cow::Borrowed(b""));
        let uid = self
            .uid
            .map_or_else(|| header.uid()?.try_into().context("uid"), Ok)?;
        let gid = self
            .gid
            .map_or_else(|| header.gid()?.try_into().context("gid"), Ok)?;
        Ok(Entry {
            start: self.start.unwrap_or(at),
            end,
            header,
            path: trim_path(path),
            link,
            data,
            uid,
            gid,
            xattrs: self.xattrs,
        })
    }
}

/// `./a/b/` and `a/b` are the same place.
pub(crate) fn trim(path: &[u8]) -> &[u8] {
    let mut path = path;
    while let Some(rest) = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/")) {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    if path == b"." { b"" } else { path }
}

fn trim_path(path: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match path {
        Cow::Borrowed(path) => Cow::Borrowed(trim(path)),
        Cow::Owned(path) => Cow::Owned(trim(&path).to_vec()),
    }
}

fn until_nul(data: &[u8]) -> &[u8] {
    data.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn number(digits: &[u8]) -> Result<u64> {
    Ok(std::str::from_utf8(digits)?.parse()?)
}

/// Splits `LENGTH KEY=VALUE\n` off the front: key, value, rest.
fn pax_record(data: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let space = data
        .iter()
        .position(|&byte| byte == b' ')
        .context("pax record has no length")?;
    let length: usize = std::str::from_utf8(&data[..space])?.parse()?;
    let Some(record) = data.get(space + 1..length) else {
        bail!("pax record is cut off")
    };
    let record = record
        .strip_suffix(b"\n")
        .context("pax record has no end")?;
    let equals = record
        .iter()
        .position(|&byte| byte == b'=')
        .context("pax record has no =")?;
    Ok((&record[..equals], &record[equals + 1..], &data[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("dir/{}", "n".repeat(150));
        for (path, data) in [("./a", &b"hello"[..]), (long.as_str(), &b""[..])] {
            let mut header = Header::new_ustar();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            header.set_uid(3);
            header.set_gid(4);
            if path == "./a" {
                builder
                    .append_pax_extensions([
                        ("SCHILY.xattr.user.k", &b"v=1\n2"[..]),
                        ("uid", b"70"),
                    ])
                    .unwrap();
            }
            builder.append_data(&mut header, path, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn entries_tile_the_tar() {
        let tar = sample();
        let mut hop = Hop::new(&tar);
        let first = hop.next_entry().unwrap().unwrap();
        assert_eq!(
            (first.start, &*first.path, first.data),
            (0, &b"a"[..], &b"hello"[..])
        );
        assert_eq!(first.xattrs, [(&b"user.k"[..], &b"v=1\n2"[..])]);
        assert_eq!((first.uid, first.gid), (70, 4));
        let second = hop.next_entry().unwrap().unwrap();
        assert_eq!(second.start, first.end);
        assert_eq!(second.path.len(), 154);
        assert!(hop.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_cut_payload_is_an_error() {
        let tar = sample();
        let mut hop = Hop::new(&tar[..2048]);
        let result = loop {
            match hop.next_entry() {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert!(result.is_ok() || result.is_err_and(|e| e.to_string().contains("cut off")));
    }

    #[test]
    fn paths_are_trimmed() {
        assert_eq!(trim(b"./"), b"");
        assert_eq!(trim(b"."), b"");
        assert_eq!(trim(b"./a/b/"), b"a/b");
        assert_eq!(trim(b".hidden"), b".hidden");
    }
}
