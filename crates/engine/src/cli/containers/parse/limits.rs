//! Sizes, CPUs and resource limits.

use super::bad;
use crate::{
    error::Result,
    image::json::show,
    spec::{request::Ulimit, rlimits, size::bytes},
};

/// As [`bytes`], or -1.
pub(in crate::cli::containers) fn bytes_or_unlimited(text: &str) -> Result<i64> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// Billionths of a CPU: `1.5` is 1,500,000,000.
pub(in crate::cli::containers) fn cpus(text: &str) -> Result<i64> {
    let wrong = || {
        bad(
            format!(
                "invalid argument \"{}\" for \"--cpus\" flag: failed to parse {} as a rational number",
                show(text),
                show(text)
            ),
            "write a number such as 1.5",
        )
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    if fraction.trim_end_matches('0').len() > 9 {
        return Err(bad(
            format!(
                "invalid argument \"{}\" for \"--cpus\" flag: value is too precise",
                show(text)
            ),
            "nine digits after the point are the most",
        ));
    }
    let whole: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| wrong())?
    };
    let nano: i64 = format!("{fraction:0<9}")
        .get(..9)
        .unwrap_or("0")
        .parse()
        .map_err(|_| wrong())?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|n| n.checked_add(nano))
        .ok_or_else(wrong)
}

/// `NAME=SOFT[:HARD]`.
pub(in crate::cli::containers) fn ulimit(text: &str) -> Result<Ulimit> {
    let hint = "write NAME=SOFT[:HARD], such as nofile=1024:4096; -1 is no limit";
    let shown = show(text);
    let Some((name, limits)) = text.split_once('=') else {
        return Err(bad(format!("invalid ulimit argument: {shown}"), hint));
    };
    if !rlimits::is_name(name) {
        return Err(bad(format!("invalid ulimit type: {}", show(name)), hint));
    }
    let number = |text: &str| -> Result<i64> {
        text.parse()
            .map_err(|_| bad(format!("invalid ulimit argument: {shown}"), hint))
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((_, hard)) if hard.contains(':') => {
            return Err(bad(
                format!(
                    "too many limit value arguments - {}, can only have up to two, `soft[:hard]`",
                    show(limits)
                ),
                hint,
            ));
        }
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft > hard || soft == -1) {
        let m =
            format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}");
        return Err(bad(m, hint));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::said, *};

    #[test]
    fn cpus_and_no_limit() {
        assert_eq!(bytes_or_unlimited("-1").unwrap(), -1);
        for (text, want) in [
            ("1.5", 1_500_000_000),
            ("2", 2_000_000_000),
            (".000000001", 1),
        ] {
            assert_eq!(cpus(text).unwrap(), want);
        }
        assert!(said(cpus("1.0000000001")).contains("too precise"));
        assert!(
            said(cpus("x")).contains("rational") && said(cpus("99999999999")).contains("rational")
        );
    }

    #[test]
    fn limits() {
        let u = ulimit("nofile=1024:2048").unwrap();
        assert_eq!((&*u.name, u.soft, u.hard), ("nofile", 1024, 2048));
        assert_eq!(ulimit("core=-1").unwrap().hard, -1);
        assert_eq!(ulimit("stack=5").unwrap().hard, 5);
        assert_eq!(ulimit("rttime=5").unwrap().name, "rttime");
        for (text, want) in [
            ("nofile", "invalid ulimit argument: nofile"),
            ("x=1", "invalid ulimit type: x"),
            ("nofile=a", "invalid ulimit argument: nofile=a"),
            (
                "nofile=2:1",
                "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
            ),
            (
                "nofile=-1:1",
                "ulimit soft limit must be less than or equal to hard limit: -1 > 1",
            ),
            (
                "nofile=1:2:3",
                "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
            ),
        ] {
            assert_eq!(said(ulimit(text)), want);
        }
    }
}
