//! Signals by name and number.

use crate::error::{Error, Kind, Result};

/// Names without `SIG`, by number from 1, as on every architecture that containers run on but
/// MIPS.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first real-time signal that programs may use, and the last: C libraries keep two.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal: `SIGTERM`, `term`, `15`, `RTMIN+3`, `RTMAX-1`.
///
/// # Errors
/// [`Kind::BadInput`] for what is none.
pub fn parse(name: &str) -> Result<i32> {
    find(name).ok_or_else(|| {
        let shown = crate::image::json::show(name);
        let e = Error::new(Kind::BadInput, format!("`{shown}` is no signal"));
        e.with_hint("name one such as SIGTERM, or its number")
    })
}

fn find(name: &str) -> Option<i32> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
        return name.parse().ok().filter(|n| (1..=RTMAX).contains(n));
    }
    let upper = name.to_ascii_uppercase();
    let upper = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| match text {
        "" => None,
        _ if text.len() > 2 || !text.bytes().all(|b| b.is_ascii_digit()) => None,
        _ => text.parse::<u8>().ok().map(i32::from),
    };
    if let Some(rest) = upper.strip_prefix("RTMIN") {
        let n = match rest.strip_prefix('+') {
            Some(digits) => offset(digits)?,
            None if rest.is_empty() => 0,
            None => return None,
        };
        return Some(RTMIN + n).filter(|n| *n <= RTMAX);
    }
    if let Some(rest) = upper.strip_prefix("RTMAX") {
        let n = match rest.strip_prefix('-') {
            Some(digits) => offset(digits)?,
            None if rest.is_empty() => 0,
            None => return None,
        };
        return Some(RTMAX - n).filter(|n| *n >= RTMIN);
    }
    let upper = match upper {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        other => other,
    };
    let at = NAMES.iter().position(|n| *n == upper)?;
    i32::try_from(at + 1).ok()
}

/// The name of a signal with `SIG`, or its number where it has none.
pub fn name(number: i32) -> String {
    let at = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
    match at.and_then(|at| NAMES.get(at)) {
        Some(name) => format!("SIG{name}"),
        None if number == RTMIN => "SIGRTMIN".to_owned(),
        None if (RTMIN..=RTMAX).contains(&number) => format!("SIGRTMIN+{}", number - RTMIN),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("15", 15),
            ("SigKill", 9),
            ("SYS", 31),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax-1", 63),
            ("64", 64),
            ("CLD", 17),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
            assert_eq!(parse(&name(number)).unwrap(), number);
        }
        assert_eq!(
            (name(9), name(34), name(37), name(99)),
            (
                "SIGKILL".into(),
                "SIGRTMIN".into(),
                "SIGRTMIN+3".into(),
                "99".into()
            )
        );
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "0",
            "65",
            "-1",
            "SIG",
            "TERM ",
            "RTMIN-1",
            "RTMIN+",
            "RTMIN+31",
            "RTMAX+1",
            "RTMAX-31",
            "99999999999",
            "+9",
            "RTMIN++1",
        ] {
            assert_eq!(parse(text).unwrap_err().kind(), Kind::BadInput, "{text}");
        }
    }
}
