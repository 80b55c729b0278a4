//! Times as Docker takes them: Go's durations, and points in time of several forms.

use jiff::{Timestamp, civil, tz::TimeZone};

use super::json::show;
use crate::error::{Error, Kind, Result};

/// Nanoseconds of a duration such as `1h30m`, `1.5s` or `-250ms`.
///
/// # Errors
/// [`Kind::BadInput`] with Go's words.
pub fn go_duration(text: &str) -> Result<i64> {
    let wrong = |what: &str| {
        let m = format!("time: {what}duration {:?}", show(text));
        Err(Error::new(Kind::BadInput, m)
            .with_hint("write a number and a unit: ns, us, ms, s, m or h, such as 1h30m"))
    };
    let (sign, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) if text.starts_with('-') => (-1, rest),
        Some(rest) => (1, rest),
        None => (1, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return wrong("invalid ");
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.len() + fraction.len() == 0 || whole.len() > 19 || fraction.contains('.') {
            return wrong("invalid ");
        }
        let is_unit = |c: char| !c.is_ascii_digit() && c != '.';
        let unit_len = after.find(|c| !is_unit(c)).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return wrong("missing unit in "),
            unit => return wrong(&format!("unknown unit {:?} in ", show(unit))),
        };
        total += whole.parse::<i128>().unwrap_or(0) * scale;
        // More digits than these are below a nanosecond.
        let fraction = &fraction[..fraction.len().min(18)];
        let power = 10_i128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        total += fraction.parse::<i128>().unwrap_or(0) * scale / power;
        if total > i64::MAX.into() {
            return wrong("invalid ");
        }
        rest = after;
    }
    i64::try_from(sign * total).or_else(|_| wrong("invalid "))
}

/// A point in time, for filters such as `until`: a duration before `now`, seconds since 1970, or
/// RFC 3339 with parts left out; without an offset it is of the time zone `zone`.
///
/// # Errors
/// [`Kind::BadInput`] for anything else.
pub fn point(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp> {
    let wrong = || {
        let m = format!(
            "failed to parse value as time or duration: {:?}",
            show(text)
        );
        Error::new(Kind::BadInput, m).with_hint(
            "write a duration (24h), seconds since 1970, or a time such as 2024-01-31 or \
             2024-01-31T10:00:00Z",
        )
    };
    if text != "0"
        && let Ok(ago) = go_duration(text)
    {
        return now
            .checked_sub(jiff::SignedDuration::from_nanos(ago))
            .map_err(|_| wrong());
    }
    if let Some(time) = unix(text) {
        return Ok(time);
    }
    let (date, rest) = match text.find('T') {
        Some(at) => (&text[..at], &text[at + 1..]),
        // An offset may follow the date at once.
        None => (text.get(..10).unwrap_or(text), text.get(10..).unwrap_or("")),
    };
    let offset_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (clock, offset) = rest.split_at(offset_at);
    let date: civil::Date = match date.len() {
        10 => date.parse().map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    let full = match (clock.len(), text.contains('T')) {
        (0, false) => "00:00:00".to_owned(),
        (2, true) => format!("{clock}:00:00"),
        (5, true) => format!("{clock}:00"),
        (8.., true) => clock.to_owned(),
        _ => return Err(wrong()),
    };
    let time: civil::Time = full.parse().map_err(|_| wrong())?;
    let zone = match offset {
        "" => zone.clone(),
        "Z" | "z" => TimeZone::UTC,
        offset => {
            let hours_minutes = offset[1..].split_once(':').ok_or_else(wrong)?;
            let number = |t: &str| {
                (t.len() == 2)
                    .then(|| t.parse::<i32>().ok())
                    .flatten()
                    .ok_or_else(wrong)
            };
            let (hours, minutes) = (number(hours_minutes.0)?, number(hours_minutes.1)?);
            let sign = if offset.starts_with('-') { -1 } else { 1 };
            let seconds = sign * (hours * 3600 + minutes * 60);
            let offset = jiff::tz::Offset::from_seconds(seconds).map_err(|_| wrong())?;
            TimeZone::fixed(offset)
        }
    };
    let zoned = date
        .to_datetime(time)
        .to_zoned_datetime(zone)
        .map_err(|_| wrong())?;
    Ok(zoned.timestamp())
}

/// Seconds since 1970, with or without a fraction.
fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || fraction.len() > 9 || !digits(fraction) {
        return None;
    }
    let seconds: i64 = digits(seconds.strip_prefix('-').unwrap_or(seconds))
        .then(|| seconds.parse().ok())
        .flatten()?;
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(seconds, nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("0", 0),
            ("1ns", 1),
            ("1.5s", 1_500_000_000),
            ("-1m", -60_000_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            (".5h", 1_800_000_000_000),
            ("+3µs", 3000),
            ("2562047h", 9_223_369_200_000_000_000),
        ] {
            assert_eq!(go_duration(text).unwrap(), want, "{text}");
        }
        for (text, part) in [
            ("", "invalid duration \"\""),
            ("5", "missing unit in duration \"5\""),
            ("5d", "unknown unit \"d\" in duration \"5d\""),
            ("s", "invalid"),
            (".s", "invalid"),
            ("1..5s", "invalid"),
            ("2562048h", "invalid"),
            ("99999999999999999999h", "invalid"),
            ("1s x", "unknown unit"),
        ] {
            let e = go_duration(text).unwrap_err();
            assert!(e.message().contains(part), "{text}: {e}");
        }
    }

    #[test]
    fn points() {
        let now: Timestamp = "2024-05-06T07:08:09Z".parse().unwrap();
        let east = TimeZone::fixed(jiff::tz::offset(2));
        for (text, want) in [
            ("1h", "2024-05-06T06:08:09Z"),
            ("-1m30s", "2024-05-06T07:09:39Z"),
            ("0", "1970-01-01T00:00:00Z"),
            ("1700000000", "2023-11-14T22:13:20Z"),
            ("1700000000.5", "2023-11-14T22:13:20.5Z"),
            ("2024-01-02", "2024-01-01T22:00:00Z"),
            ("2024-01-02Z", "2024-01-02T00:00:00Z"),
            ("2024-01-02-07:00", "2024-01-02T07:00:00Z"),
            ("2024-01-02T03", "2024-01-02T01:00:00Z"),
            ("2024-01-02T03:04", "2024-01-02T01:04:00Z"),
            ("2024-01-02T03:04:05", "2024-01-02T01:04:05Z"),
            ("2024-01-02T03:04:05.25", "2024-01-02T01:04:05.25Z"),
            ("2024-01-02T03:04:05.25Z", "2024-01-02T03:04:05.25Z"),
            ("2024-01-02T03:04:05+01:30", "2024-01-02T01:34:05Z"),
            ("2024-01-02T03:04Z", "2024-01-02T03:04:00Z"),
            ("2024-01-02T03-01:00", "2024-01-02T04:00:00Z"),
        ] {
            assert_eq!(point(text, now, &east).unwrap().to_string(), want, "{text}");
        }
        for text in [
            "",
            "x",
            "2024",
            "2024-1-2",
            "2024-13-01",
            "2024-01-02T",
            "2024-01-02T25",
            "1.2.3",
            "2024-01-02T03:04:05+0100",
            "2024-01-02é",
            "2024-01-02T03:04:05+é1:00",
        ] {
            match point(text, now, &east) {
                // A year alone is seconds since 1970, as for docker.
                Ok(time) => assert_eq!((text, time.as_second()), ("2024", 2024)),
                Err(e) => assert!(e.message().contains("time or duration"), "{e}"),
            }
        }
    }
}
