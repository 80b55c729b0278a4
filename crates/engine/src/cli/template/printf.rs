//! Go's `fmt.Sprintf` over template values.

use super::value::{Kind, Value};

/// Largest width and precision, as in Go.
const MAX_WIDTH: usize = 1_000_000;

#[derive(Clone, Copy, Default)]
struct Spec {
    plus: bool,
    minus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Formats; `None` if the result would be longer than `most` bytes.
pub(super) fn sprintf(format: &str, args: &[Value], most: usize) -> Option<String> {
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    let mut next = 0;
    let mut reordered = false;
    while let Some(c) = chars.next() {
        if out.len() > most {
            return None;
        }
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| "+-# 0".contains(*c)) {
            match flag {
                '+' => spec.plus = true,
                '-' => {
                    spec.minus = true;
                    spec.zero = false;
                }
                '#' => spec.sharp = true,
                ' ' => spec.space = true,
                _ => spec.zero = !spec.minus,
            }
        }
        let mut bad_index = false;
        index(
            &mut chars,
            &mut next,
            &mut reordered,
            &mut bad_index,
            args.len(),
        );
        let star = |next: &mut usize, what: &str, out: &mut String| {
            let n = match args.get(*next) {
                Some(Value::Int(n)) => Some(*n),
                _ => None,
            };
            *next += 1;
            let n = n.filter(|n| n.unsigned_abs() <= MAX_WIDTH as u64);
            if n.is_none() {
                out.push_str(what);
            }
            n
        };
        if chars.next_if_eq(&'*').is_some() {
            if let Some(n) = star(&mut next, "%!(BADWIDTH)", &mut out) {
                if n < 0 {
                    spec.minus = true;
                    spec.zero = false;
                }
                spec.width = usize::try_from(n.unsigned_abs()).ok();
            }
        } else {
            spec.width = count(&mut chars);
        }
        if chars.next_if_eq(&'.').is_some() {
            index(
                &mut chars,
                &mut next,
                &mut reordered,
                &mut bad_index,
                args.len(),
            );
            if chars.next_if_eq(&'*').is_some() {
                let n = star(&mut next, "%!(BADPREC)", &mut out);
                spec.precision = n.and_then(|n| usize::try_from(n).ok());
            } else {
                spec.precision = Some(count(&mut chars).unwrap_or(0));
            }
        }
        index(
            &mut chars,
            &mut next,
            &mut reordered,
            &mut bad_index,
            args.len(),
        );
        let Some(verb) = chars.next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            out.push('%');
        } else if bad_index {
            out.push_str(&format!("%!{verb}(BADINDEX)"));
        } else if let Some(arg) = args.get(next) {
            next += 1;
            one(&mut out, arg, verb, spec, true);
        } else {
            out.push_str(&format!("%!{verb}(MISSING)"));
        }
    }
    if !reordered && next < args.len() {
        let extra = args[next..].iter().map(|arg| match arg {
            Value::Nil | Value::Missing => "<nil>".to_owned(),
            arg => format!("{}={arg}", arg.type_name()),
        });
        let extra: Vec<String> = extra.collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    (out.len() <= most).then_some(out)
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn count(chars: &mut Chars<'_>) -> Option<usize> {
    let mut n: Option<usize> = None;
    while let Some(c) = chars.next_if(char::is_ascii_digit) {
        let digit = c
            .to_digit(10)
            .and_then(|d| usize::try_from(d).ok())
            .unwrap_or(0);
        n = Some((n.unwrap_or(0) * 10 + digit).min(MAX_WIDTH));
    }
    n
}

/// `[n]` before a verb: the argument to take next.
fn index(
    chars: &mut Chars<'_>,
    next: &mut usize,
    reordered: &mut bool,
    bad: &mut bool,
    len: usize,
) {
    if chars.next_if_eq(&'[').is_none() {
        return;
    }
    *reordered = true;
    let n = count(chars);
    let closed = chars.next_if_eq(&']').is_some();
    match n {
        Some(n) if closed && n >= 1 && n <= len => *next = n - 1,
        _ => *bad = true,
    }
}

fn pad(out: &mut String, text: &str, spec: Spec) {
    let fill = spec.width.unwrap_or(0).saturating_sub(text.chars().count());
    if spec.minus {
        out.push_str(text);
        out.extend(std::iter::repeat_n(' ', fill));
    } else {
        out.extend(std::iter::repeat_n(if spec.zero { '0' } else { ' ' }, fill));
        out.push_str(text);
    }
}

/// A number with its sign before the zeroes that fill it up.
fn pad_number(out: &mut String, negative: bool, digits: &str, spec: Spec, zeroes: bool) {
    let sign = match (negative, spec.plus, spec.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    };
    if spec.zero && zeroes {
        let width = spec.width.unwrap_or(0).saturating_sub(sign.len());
        out.push_str(sign);
        pad(
            out,
            digits,
            Spec {
                width: Some(width),
                ..spec
            },
        );
    } else {
        pad(
            out,
            &format!("{sign}{digits}"),
            Spec {
                zero: false,
                ..spec
            },
        );
    }
}

fn bad_verb(out: &mut String, verb: char, arg: &Value) {
    out.push_str(&format!("%!{verb}("));
    match arg {
        Value::Nil | Value::Missing => out.push_str("<nil>"),
        arg => out.push_str(&format!("{}={arg}", arg.type_name())),
    }
    out.push(')');
}

fn one(out: &mut String, arg: &Value, verb: char, spec: Spec, top: bool) {
    match (arg, verb) {
        (Value::Nil | Value::Missing, 'v') => pad(out, "<nil>", spec),
        (_, 'T') if top => pad(
            out,
            arg.type_name(),
            Spec {
                zero: false,
                ..spec
            },
        ),
        (Value::Bool(b), 't' | 'v') => pad(out, if *b { "true" } else { "false" }, spec),
        (Value::Int(n), _) => int(out, *n, verb, spec, arg),
        (Value::Large(n), 'v' | 'd') => pad(out, &n.to_string(), spec),
        (Value::Float(n), _) => float_verb(out, *n, verb, spec, arg),
        (Value::Str(s), _) => text(out, s, verb, spec, arg),
        (Value::Empty, 'v' | 's') => pad(out, "", spec),
        (Value::List(list), _) => {
            out.push('[');
            for (n, value) in list.iter().enumerate() {
                if n > 0 {
                    out.push(' ');
                }
                one(out, value, verb, spec, false);
            }
            out.push(']');
        }
        (Value::NilList, _) => out.push_str("[]"),
        (Value::NilMap, _) => out.push_str("map[]"),
        (Value::Object(o), _) => {
            let is_struct = o.kind == Kind::Struct;
            out.push_str(if is_struct { "{" } else { "map[" });
            for (n, (key, value)) in o.fields.iter().enumerate() {
                if n > 0 {
                    out.push(' ');
                }
                if is_struct && spec.plus {
                    out.push_str(&format!("{key}:"));
                } else if !is_struct {
                    one(out, &Value::text(key), verb, spec, false);
                    out.push(':');
                }
                one(out, value, verb, spec, false);
            }
            out.push(if is_struct { '}' } else { ']' });
        }
        _ => bad_verb(out, verb, arg),
    }
}

fn int(out: &mut String, n: i64, verb: char, spec: Spec, arg: &Value) {
    let size = n.unsigned_abs();
    let sharp = |prefix: &'static str| if spec.sharp { prefix } else { "" };
    let digits = match verb {
        'd' | 'v' => size.to_string(),
        'x' => format!("{}{size:x}", sharp("0x")),
        'X' => format!("{}{size:X}", sharp("0X")),
        'o' => format!("{}{size:o}", sharp("0")),
        'O' => format!("0o{size:o}"),
        'b' => format!("{}{size:b}", sharp("0b")),
        'c' | 'q' | 'U' => {
            let c = u32::try_from(n).ok().and_then(char::from_u32);
            let shown = c.unwrap_or(char::REPLACEMENT_CHARACTER);
            let text = match verb {
                'c' => shown.to_string(),
                'q' => format!("'{}'", quoted(&shown.to_string(), '\'')),
                _ if spec.sharp => format!("U+{size:04X} '{shown}'"),
                _ => format!("U+{size:04X}"),
            };
            return pad(
                out,
                &text,
                Spec {
                    zero: false,
                    ..spec
                },
            );
        }
        _ => return bad_verb(out, verb, arg),
    };
    let digits = match spec.precision {
        Some(0) if n == 0 => String::new(),
        Some(p) if digits.len() < p => "0".repeat(p - digits.len()) + &digits,
        _ => digits,
    };
    pad_number(out, n < 0, &digits, spec, spec.precision.is_none());
}

fn text(out: &mut String, s: &str, verb: char, spec: Spec, arg: &Value) {
    let cut = match spec.precision {
        Some(p) => s.chars().take(p).collect::<String>(),
        None => s.to_owned(),
    };
    let hex = |upper: bool| {
        let byte = |b: u8| {
            if upper {
                format!("{b:02X}")
            } else {
                format!("{b:02x}")
            }
        };
        let bytes = s.bytes().take(spec.precision.unwrap_or(usize::MAX));
        let prefix = match (spec.sharp, upper) {
            (true, true) => "0X",
            (true, false) => "0x",
            _ => "",
        };
        let between = if spec.space {
            format!(" {prefix}")
        } else {
            String::new()
        };
        let parts: Vec<String> = bytes.map(byte).collect();
        let joined = parts.join(&between);
        if joined.is_empty() {
            joined
        } else {
            format!("{prefix}{joined}")
        }
    };
    let shown = match verb {
        'v' if spec.sharp => format!("\"{}\"", quoted(&cut, '"')),
        'v' | 's' => cut,
        'q' if spec.sharp && !cut.contains(['`', '\n', '\r']) => format!("`{cut}`"),
        'q' => format!("\"{}\"", quoted(&cut, '"')),
        'x' => hex(false),
        'X' => hex(true),
        _ => return bad_verb(out, verb, arg),
    };
    pad(out, &shown, spec);
}

/// Text with the escapes of Go's `%q`, without quotes around it.
fn quoted(text: &str, quote: char) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn float_verb(out: &mut String, n: f64, verb: char, spec: Spec, arg: &Value) {
    let size = n.abs();
    let digits = match verb {
        'f' | 'F' => format!("{size:.*}", spec.precision.unwrap_or(6).min(1000)),
        'e' | 'E' => exponent(size, Some(spec.precision.unwrap_or(6).min(1000))),
        'g' | 'G' | 'v' => general(size, spec.precision.map(|p| p.min(1000))),
        _ => return bad_verb(out, verb, arg),
    };
    let digits = if verb.is_ascii_uppercase() {
        digits.to_uppercase()
    } else {
        digits
    };
    pad_number(out, n.is_sign_negative(), &digits, spec, true);
}

/// A number as Go's `%v` prints it.
pub(super) fn float(n: f64) -> String {
    let sign = if n.is_sign_negative() { "-" } else { "" };
    format!("{sign}{}", general(n.abs(), None))
}

fn exponent(n: f64, precision: Option<usize>) -> String {
    let text = match precision {
        Some(p) => format!("{n:.p$e}"),
        None => format!("{n:e}"),
    };
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(e) => ('-', e),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// A number that is not negative as Go's `%g`, or `%.Ng`.
pub(crate) fn general(n: f64, precision: Option<usize>) -> String {
    if !n.is_finite() {
        return if n.is_nan() {
            "NaN".into()
        } else {
            "+Inf".into()
        };
    }
    let precision = precision.map(|p| p.max(1));
    let scientific = match precision {
        Some(p) => format!("{n:.*e}", p - 1),
        None => format!("{n:e}"),
    };
    let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let trimmed = if digits.contains('.') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        digits
    };
    let threshold = precision.map_or(6, |p| i32::try_from(p).unwrap_or(i32::MAX));
    if n != 0.0 && (power < -4 || power >= threshold) {
        let decimals = trimmed.len().saturating_sub(2);
        return exponent(n, Some(if trimmed.contains('.') { decimals } else { 0 }));
    }
    let Some(p) = precision else {
        return format!("{n}");
    };
    let decimals = usize::try_from((i32::try_from(p).unwrap_or(1000) - 1 - power).max(0));
    let text = format!("{n:.*}", decimals.unwrap_or(0));
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
