//! Numbers and texts in archive headers, read strictly: what two readers could take for two
//! values is refused.

use crate::{
    entry::Time,
    error::{Error, Result},
};

/// A numeric header field: octal text, or GNU base-256 when the first bit is set.
///
/// Leading spaces and trailing spaces or NULs are accepted, an empty field is 0.
/// Format: POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Extensions".
pub(super) fn number(field: &[u8], what: &str) -> Result<i128> {
    if field[0] & 0x80 != 0 {
        return base256(field, what);
    }
    let digits = field.trim_ascii_start();
    let end = digits
        .iter()
        .position(|&b| b == b' ' || b == 0)
        .unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if rest.iter().any(|&b| b != b' ' && b != 0) {
        return Err(not_a_number(field, what));
    }
    digits.iter().try_fold(0_i128, |n, &b| match b {
        b'0'..=b'7' => Ok(n * 8 + i128::from(b - b'0')),
        _ => Err(not_a_number(field, what)),
    })
}

fn base256(field: &[u8], what: &str) -> Result<i128> {
    // 0x80 marks a positive number, 0xff a negative one in two's complement.
    let (mut n, rest) = match field[0] {
        0x80 => (0_i128, &field[1..]),
        0xff => (-1_i128, &field[1..]),
        _ => return Err(not_a_number(field, what)),
    };
    for &b in rest {
        n = n
            .checked_mul(256)
            .map(|n| n | i128::from(b))
            .filter(|n| (-(1_i128 << 95)..1 << 95).contains(n))
            .ok_or_else(|| not_a_number(field, what))?;
    }
    Ok(n)
}

fn not_a_number(field: &[u8], what: &str) -> Error {
    Error::bad(format!(
        "{what} field `{}` is not a number",
        crate::error::show(field)
    ))
}

/// A NUL-terminated text field; bytes after the first NUL do not count.
pub(super) fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&b| b == 0).unwrap_or(field.len())]
}

/// An unsigned decimal of a pax record: digits alone, no sign, no space, no leading zero.
pub(super) fn decimal(text: &[u8], what: &str) -> Result<u64> {
    let canonical = !text.is_empty() && (text[0] != b'0' || text.len() == 1);
    text.iter()
        .try_fold(0_u64, |n, &b| {
            let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
            n.checked_mul(10)?.checked_add(digit)
        })
        .filter(|_| canonical)
        .ok_or_else(|| {
            let shown = crate::error::show(text);
            Error::bad(format!(
                "pax `{what}` value `{shown}` is not a plain decimal number"
            ))
        })
}

/// A pax time: `[-]seconds[.fraction]`; digits past the ninth are cut.
pub(super) fn time(text: &[u8]) -> Result<Time> {
    parse_time(text).ok_or_else(|| {
        Error::bad(format!(
            "pax `mtime` value `{}` is not a time",
            crate::error::show(text)
        ))
    })
}

fn parse_time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&b| b == b'.');
    let whole = parts.next()?;
    let fraction = parts.next().unwrap_or_default();
    let digits = |s: &[u8]| s.iter().all(u8::is_ascii_digit);
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let secs = whole.iter().try_fold(0_i128, |n, &b| {
        (n < 1 << 64).then(|| n * 10 + i128::from(b - b'0'))
    })?;
    let mut nanos = (0..9).fold(0_i128, |n, i| {
        n * 10 + fraction.get(i).map_or(0, |b| i128::from(b - b'0'))
    });
    let mut secs = secs;
    if negative {
        (secs, nanos) = if nanos > 0 {
            (-secs - 1, 1_000_000_000 - nanos)
        } else {
            (-secs, 0)
        };
    }
    Some(Time {
        secs: i64::try_from(secs).ok()?,
        nanos: u32::try_from(nanos).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_and_base256() {
        for (field, want) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"     644", Some(0o644)),
            (b"644     ", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o7777_7777)),
            (b"-0000001", None),
            (b"12x45670", None),
            (b"64 4\0\0\0\0", None),
            (b"64\x004\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xc0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field, "x").ok(), want, "{field:?}");
        }
        let mut huge = [0xff; 12];
        huge[0] = 0x80;
        assert_eq!(number(&huge, "x").ok(), Some((1 << 88) - 1));
    }

    #[test]
    fn decimals_are_canonical() {
        for (text, want) in [
            ("0", Some(0)),
            ("10", Some(10)),
            ("18446744073709551615", Some(u64::MAX)),
        ] {
            assert_eq!(decimal(text.as_bytes(), "x").ok(), want);
        }
        for bad in [
            "",
            "+4",
            " 4",
            "4 ",
            "04",
            "-1",
            "1.0",
            "0x10",
            "18446744073709551616",
        ] {
            assert!(decimal(bad.as_bytes(), "x").is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        let t = |s: &str| time(s.as_bytes()).ok().map(|t| (t.secs, t.nanos));
        assert_eq!(t("1600000000"), Some((1_600_000_000, 0)));
        assert_eq!(t("1.5"), Some((1, 500_000_000)));
        assert_eq!(t("1.123456789999"), Some((1, 123_456_789)));
        assert_eq!(t("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(t("-3"), Some((-3, 0)));
        assert_eq!(t("9223372036854775807"), Some((i64::MAX, 0)));
        for bad in [
            "",
            ".5",
            "1e9",
            "0x10",
            "yesterday",
            "99999999999999999999",
            "--1",
            "1.-5",
        ] {
            assert_eq!(t(bad), None, "{bad}");
        }
    }
}
