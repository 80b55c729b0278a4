//! Points in time as text.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, as Go writes it: RFC 3339 in UTC, with as many digits as say something.
pub(super) fn now() -> String {
    text(SystemTime::now(), false)
}

/// A time in RFC 3339, with nine digits of a second, or with as many as say something.
pub(super) fn text(time: SystemTime, fixed: bool) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let (year, month, day) = civil(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    let mut out = format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}");
    let nanos = since.subsec_nanos();
    if fixed || nanos != 0 {
        out.push_str(&format!(".{nanos:09}"));
        while !fixed && out.ends_with('0') {
            out.pop();
        }
    }
    out.push('Z');
    out
}

/// Year, month and day of a day since 1970, by counting eras of 400 years from a first of March.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, (mp + 2) % 12 + 1);
    (yoe + era * 400 + u64::from(month < 3), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn as_go_writes_it() {
        let at = |s, n| UNIX_EPOCH + Duration::new(s, n);
        assert_eq!(text(at(0, 0), false), "1970-01-01T00:00:00Z");
        let leap = at(951_826_455, 120_000_000);
        assert_eq!(text(leap, false), "2000-02-29T12:14:15.12Z");
        assert_eq!(text(leap, true), "2000-02-29T12:14:15.120000000Z");
    }

    #[test]
    fn as_jiff_counts() {
        for days in (0..60_000).step_by(13) {
            let time = UNIX_EPOCH + Duration::from_secs(days * 86400 + 4711);
            let nanos = i128::from(days * 86400 + 4711) * 1_000_000_000;
            let want = jiff::Timestamp::from_nanosecond(nanos).unwrap().to_string();
            assert_eq!(text(time, false), want);
        }
    }
}
