//! `Content-Range` and the `Range` of an upload.

/// What a 206 says it holds: `first..=last` of `total` bytes, if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) total: Option<u64>,
}

/// `bytes FIRST-LAST/TOTAL`
pub(super) fn content_range(text: &str) -> Option<ContentRange> {
    let rest = text.trim();
    let unit = rest.get(..5).filter(|u| u.eq_ignore_ascii_case("bytes"))?;
    let (range, total) = rest[unit.len()..].trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let range = ContentRange {
        first: number(first)?,
        last: number(last)?,
        total: match total.trim() {
            "*" => None,
            total => Some(number(total)?),
        },
    };
    let whole = range.total.is_none_or(|total| range.last < total);
    (range.first <= range.last && whole).then_some(range)
}

/// How many bytes an upload has, by `0-LAST` (with `bytes=` before it, as some write).
pub(super) fn upload_range(text: &str) -> Option<u64> {
    let text = text.trim();
    let text = text.strip_prefix("bytes=").unwrap_or(text);
    let (first, last) = text.split_once('-')?;
    let last = number(last)?;
    // Nothing yet is `0-0` with some, as is one byte: taken for nothing.
    (number(first)? == 0).then(|| {
        if last == 0 {
            Some(0)
        } else {
            last.checked_add(1)
        }
    })?
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        let some = |first, last, total| Some(ContentRange { first, last, total });
        for (text, want) in [
            ("bytes 0-9/10", some(0, 9, Some(10))),
            ("Bytes  5-9/*", some(5, 9, None)),
            ("bytes 5-10/10", None),
            ("bytes 6-5/10", None),
            ("bytes */10", None),
            ("bytes 0-+9/10", None),
            ("bytes 0-99999999999999999999/*", None),
            ("items 0-9/10", None),
            ("bytes", None),
            ("", None),
            ("ä0-1/2", None),
        ] {
            assert_eq!(content_range(text), want, "{text}");
        }
    }

    #[test]
    fn upload_ranges() {
        assert_eq!(upload_range("0-0"), Some(0));
        assert_eq!(upload_range("0-9"), Some(10));
        assert_eq!(upload_range("bytes=0-9"), Some(10));
        for bad in ["1-9", "0-", "9", "", "0-18446744073709551615", "0--1"] {
            assert_eq!(upload_range(bad), None, "{bad}");
        }
    }
}
