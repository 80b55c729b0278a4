//! Numbers and quoted texts as Go writes them.

use super::tree::TermKind;

/// What a number stands for.
///
/// # Errors
/// Go's words, for what is no number.
pub(super) fn number(text: &str) -> Result<TermKind, String> {
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] if lower.bytes().all(|b| b.is_ascii_digit()) => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    let bad = || format!("bad number syntax: {text:?}");
    let is_int = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
    if is_int {
        let wide = i128::from_str_radix(digits, base).ok();
        return match wide.and_then(|n| i64::try_from(sign * n).ok()) {
            Some(n) => Ok(TermKind::Int(n, text.to_owned())),
            None => Err(format!("integer overflow: {text:?}")),
        };
    }
    if base != 10 || !digits.bytes().any(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    match plain.parse::<f64>() {
        Ok(n) if n.is_finite() => Ok(TermKind::Float(n, text.to_owned())),
        _ => Err(bad()),
    }
}

/// What a quoted text without its quotes stands for.
pub(super) fn unquote(text: &str, quote: char) -> Option<String> {
    let mut out: Vec<u8> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        let mut put = |c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        if c != '\\' {
            put(c);
            continue;
        }
        let escape = rest.chars().next()?;
        // How many digits follow, of which base, and whether they make a byte or a character.
        let (skip, count, radix, is_byte) = match escape {
            'x' => (1, 2, 16, true),
            'u' => (1, 4, 16, false),
            'U' => (1, 8, 16, false),
            '0'..='7' => (0, 3, 8, true),
            _ => {
                put(match escape {
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    '\\' => '\\',
                    c if c == quote => c,
                    _ => return None,
                });
                rest = &rest[escape.len_utf8()..];
                continue;
            }
        };
        let digits = rest.get(skip..skip + count)?;
        if !digits.chars().all(|c| c.is_digit(radix)) {
            return None;
        }
        let n = u32::from_str_radix(digits, radix).ok()?;
        if is_byte {
            out.push(u8::try_from(n).ok()?);
        } else {
            put(char::from_u32(n)?);
        }
        rest = &rest[skip + count..];
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}
