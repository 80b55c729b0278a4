//! The records of a pax header, read in the plainest way: what the reader is held against.

/// Keywords and values, or `None` if the framing is broken.
pub fn records(mut body: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !body.is_empty() {
        let space = body.iter().position(|&b| b == b' ')?;
        let len: usize = std::str::from_utf8(&body[..space]).ok()?.parse().ok()?;
        let (record, rest) = body.split_at_checked(len)?;
        let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let eq = pair.iter().position(|&b| b == b'=')?;
        found.push((&pair[..eq], &pair[eq + 1..]));
        body = rest;
    }
    Some(found)
}

/// The value that counts: POSIX says the last.
pub fn last<'a>(records: &[(&[u8], &'a [u8])], key: &[u8]) -> Option<&'a [u8]> {
    let mut of_key = records.iter().rev().filter(|r| r.0 == key);
    of_key.next().map(|r| r.1)
}

pub fn decimal(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
