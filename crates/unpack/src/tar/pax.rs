//! Extended headers: the records of a pax `x` header, and what `g` headers may hold.
//!
//! Format: POSIX.1-2017 pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files".
//! Policy on ambiguity: a keyword that could change how the archive is framed or named, and that
//! we do not know, is refused; vendor keywords that cannot are ignored.

use super::field::{decimal, time};
use crate::{
    entry::{Segment, Time, Xattrs},
    error::{Error, Result, show},
    limits::Limits,
};

/// What the records of one `x` header say of the next entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    pub xattrs: Xattrs,
    pub sparse: SparseKeys,
}

/// The `GNU.sparse.` records.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct SparseKeys {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    /// `size` of formats 0.x, `realsize` of 1.0.
    pub real_size: Option<u64>,
    /// The map of formats 0.0 (pairs of records) and 0.1 (one record).
    pub map: Option<Vec<Segment>>,
    /// An `offset` record of format 0.0 that waits for its `numbytes`.
    pending: Option<u64>,
    pub any: bool,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

/// Calls `each(keyword, value)` for every record of an extended header.
fn records<'a>(
    mut data: &'a [u8],
    mut each: impl FnMut(&'a [u8], &'a [u8]) -> Result<()>,
) -> Result<()> {
    while !data.is_empty() {
        let space = data
            .iter()
            .take(20)
            .position(|&b| b == b' ')
            .ok_or_else(|| Error::bad("pax record without a length"))?;
        let len = usize::try_from(decimal(&data[..space], "record length")?)
            .ok()
            .filter(|&n| n > space + 1 && n <= data.len())
            .ok_or_else(|| Error::bad("pax record length does not fit the header"))?;
        let (record, rest) = data.split_at(len);
        let body = record[space + 1..]
            .strip_suffix(b"\n")
            .ok_or_else(|| Error::bad("pax record does not end with a newline"))?;
        let eq = body
            .iter()
            .position(|&b| b == b'=')
            .filter(|&i| i > 0)
            .ok_or_else(|| Error::bad("pax record without a keyword and `=`"))?;
        each(&body[..eq], &body[eq + 1..])?;
        data = rest;
    }
    Ok(())
}

/// Reads the records of an `x` header. Of a repeated keyword the last value counts.
pub(super) fn parse(data: &[u8], limits: &Limits) -> Result<Pax> {
    let mut pax = Pax::default();
    records(data, |key, value| pax.record(key, value, limits))?;
    if pax.sparse.pending.is_some() {
        return Err(Error::bad("GNU.sparse.offset without its numbytes"));
    }
    pax.xattrs.sort_by(|a, b| a.0.cmp(&b.0));
    // Stable sort: the last of equal names is the latest record.
    let mut unique: Xattrs = Vec::with_capacity(pax.xattrs.len());
    for x in pax.xattrs {
        match unique.last_mut() {
            Some(last) if last.0 == x.0 => *last = x,
            _ => unique.push(x),
        }
    }
    pax.xattrs = unique;
    if pax.xattrs.len() > limits.xattrs {
        let n = pax.xattrs.len();
        let message = format!("{n} extended attributes, the limit is {}", limits.xattrs);
        return Err(Error::limit(message, "xattrs"));
    }
    Ok(pax)
}

/// Accepts a global header only if it holds nothing but comments, as `git archive` writes it:
/// readers differ in whether anything else applies.
pub(super) fn check_global(data: &[u8]) -> Result<()> {
    records(data, |key, _| match key {
        b"comment" => Ok(()),
        _ => Err(
            Error::bad(format!("global pax header with `{}`", show(key)))
                .with_hint("readers disagree on global headers: rebuild the layer without them"),
        ),
    })
}

impl Pax {
    fn record(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<()> {
        if let Some(name) = key.strip_prefix(XATTR) {
            return self.xattr(name, value, limits);
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.record(key, value, limits);
        }
        match key {
            b"path" => self.path = Some(name(value, "path")?),
            b"linkpath" => self.link = Some(name(value, "linkpath")?),
            b"size" => self.size = Some(size(value, "size")?),
            b"uid" => self.uid = Some(decimal(value, "uid")?),
            b"gid" => self.gid = Some(decimal(value, "gid")?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"atime" | b"ctime" | b"uname" | b"gname" | b"comment" | b"charset" | b"hdrcharset" => {
            }
            // Vendor keywords have a dot and cannot change framing; `realtime.` and
            // `security.` are reserved by POSIX for attributes.
            _ if key.contains(&b'.') && !key.starts_with(b"GNU.") => {}
            b"GNU.volume.label" | b"GNU.volume.filename" => {}
            _ => {
                return Err(Error::bad(format!("unknown pax keyword `{}`", show(key)))
                    .with_hint("it could change what the archive means: rebuild the layer"));
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8], limits: &Limits) -> Result<()> {
        if name.is_empty() || name.contains(&0) {
            return Err(Error::bad("extended attribute without a valid name"));
        }
        if value.len() > limits.xattr_value_bytes {
            let message = format!(
                "extended attribute `{}` of {} bytes, the limit is {}",
                show(name),
                value.len(),
                limits.xattr_value_bytes
            );
            return Err(Error::limit(message, "xattr-bytes"));
        }
        self.xattrs.push((name.into(), value.into()));
        Ok(())
    }
}

impl SparseKeys {
    fn record(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<()> {
        self.any = true;
        match key {
            b"major" => self.major = Some(decimal(value, "GNU.sparse.major")?),
            b"minor" => self.minor = Some(decimal(value, "GNU.sparse.minor")?),
            b"name" => self.name = Some(name(value, "GNU.sparse.name")?),
            b"size" | b"realsize" => self.real_size = Some(size(value, "GNU.sparse.size")?),
            b"numblocks" => _ = decimal(value, "GNU.sparse.numblocks")?,
            b"offset" => {
                let offset = size(value, "GNU.sparse.offset")?;
                if self.pending.replace(offset).is_some() {
                    return Err(Error::bad("GNU.sparse.offset twice without numbytes"));
                }
            }
            b"numbytes" => {
                let len = size(value, "GNU.sparse.numbytes")?;
                let Some(offset) = self.pending.take() else {
                    return Err(Error::bad("GNU.sparse.numbytes without its offset"));
                };
                self.push(Segment { offset, len }, limits)?;
            }
            b"map" => {
                self.map = Some(Vec::new());
                let mut numbers = value.split(|&b| b == b',');
                while let Some(offset) = numbers.next().filter(|n| !n.is_empty()) {
                    let len = numbers.next().unwrap_or_default();
                    let offset = size(offset, "GNU.sparse.map")?;
                    let len = size(len, "GNU.sparse.map")?;
                    self.push(Segment { offset, len }, limits)?;
                }
            }
            _ => {
                return Err(Error::bad(format!(
                    "unknown pax keyword `GNU.sparse.{}`",
                    show(key)
                )));
            }
        }
        Ok(())
    }

    fn push(&mut self, segment: Segment, limits: &Limits) -> Result<()> {
        let map = self.map.get_or_insert_default();
        map.push(segment);
        let bytes = (map.len() * size_of::<Segment>()) as u64;
        if bytes > limits.sparse_map_bytes {
            return Err(super::sparse::map_too_large(limits));
        }
        Ok(())
    }
}

fn name(value: &[u8], key: &str) -> Result<Vec<u8>> {
    if value.is_empty() {
        return Err(Error::bad(format!("pax `{key}` without a value")));
    }
    if value.contains(&0) {
        return Err(Error::bad(format!("pax `{key}` contains a NUL byte")));
    }
    Ok(value.to_vec())
}

fn size(value: &[u8], key: &str) -> Result<u64> {
    decimal(value, key)
        .ok()
        .filter(|n| i64::try_from(*n).is_ok())
        .ok_or_else(|| Error::bad(format!("pax `{key}` value `{}` is not a size", show(value))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rec(key: &str, value: &[u8]) -> Vec<u8> {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut len = body.len() + 1;
        while len.to_string().len() + body.len() != len {
            len += 1;
        }
        [len.to_string().as_bytes(), &body].concat()
    }

    fn p(data: &[u8]) -> Result<Pax> {
        parse(data, &Limits::default())
    }

    #[test]
    fn records_override() {
        let data = [
            rec("path", b"a"),
            rec("path", b"long/b"),
            rec("size", b"10"),
            rec("mtime", b"1.25"),
            rec("SCHILY.xattr.user.b", b"1\n=\0"),
            rec("SCHILY.xattr.user.a", b""),
            rec("SCHILY.xattr.user.b", b"2"),
            rec("LIBARCHIVE.xattr.x", b"ignored"),
        ]
        .concat();
        let got = p(&data).unwrap();
        assert_eq!(got.path.as_deref(), Some(b"long/b".as_slice()));
        assert_eq!(
            (got.size, got.mtime),
            (
                Some(10),
                Some(Time {
                    secs: 1,
                    nanos: 250_000_000
                })
            )
        );
        let want: Xattrs = vec![
            (b"user.a".as_slice().into(), b"".as_slice().into()),
            (b"user.b".as_slice().into(), b"2".as_slice().into()),
        ];
        assert_eq!(got.xattrs, want);
    }

    #[test]
    fn framing_is_strict() {
        for bad in [
            b"path=x\n".as_slice(),
            b"-9 path=x\n",
            b"0 path=x\n",
            b"09 path=x\n",
            b"99 path=x\n",
            b"3 path=x\n",
            b"9 path=xy",
            b"8 path=x\n",
            b"7 path\n",
            b"6 =xy\n",
        ] {
            assert!(p(bad).is_err(), "{}", show(bad));
        }
        assert!(p(b"").is_ok());
    }

    #[test]
    fn values_are_strict() {
        for (key, value) in [
            ("path", b"".as_slice()),
            ("path", b"a\0b"),
            ("size", b"9223372036854775808"),
            ("size", b"+4"),
            ("uid", b"-1"),
            ("mtime", b"1e9"),
            ("unknown", b"x"),
            ("GNU.sparse.future", b"x"),
        ] {
            assert!(p(&rec(key, value)).is_err(), "{key}={}", show(value));
        }
    }

    #[test]
    fn global_headers_may_comment() {
        assert!(check_global(&rec("comment", b"abc")).is_ok());
        assert!(check_global(&rec("path", b"abc")).is_err());
    }
}
