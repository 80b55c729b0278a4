//! Sizes, times and filters as docker writes and reads them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, tz::TimeZone};

use super::template;
use crate::{
    error::{Error, Kind, Result},
    image::{json::show, time},
};

/// The filters of what removes all that is not in use.
pub(crate) const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// A size with decimal units and `digits` significant digits: `5.53MB`.
pub(crate) fn size(bytes: u64, digits: usize) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{}{}", template::general(size, Some(digits)), UNITS[unit])
}

/// How long something took or is past, in one rough unit: `2 weeks`.
pub(crate) fn duration(seconds: i64) -> String {
    let hours = (seconds + 1800) / 3600;
    match seconds {
        ..=0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{} minutes", seconds / 60),
        _ => match hours {
            ..=1 => "About an hour".into(),
            2..48 => format!("{hours} hours"),
            48..336 => format!("{} days", hours / 24),
            336..1440 => format!("{} weeks", hours / 24 / 7),
            1440..17520 => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", seconds / 3600 / 24 / 365),
        },
    }
}

/// `2 weeks ago`.
pub(crate) fn ago(then: i64, now: Timestamp) -> String {
    format!("{} ago", duration(now.as_second().saturating_sub(then)))
}

/// A time as `docker images` writes it: `2023-11-14 22:13:20 +0000 UTC`.
pub(crate) fn date(seconds: i64, zone: &TimeZone) -> String {
    let time = Timestamp::from_second(seconds).unwrap_or_default();
    time.to_zoned_datetime(zone.clone())
        .strftime("%Y-%m-%d %H:%M:%S %z %Z")
        .to_string()
}

/// A time as `docker history` writes it: `2023-11-14T22:13:20Z`.
pub(crate) fn rfc3339(seconds: i64, zone: &TimeZone) -> String {
    let time = Timestamp::from_second(seconds)
        .unwrap_or_default()
        .to_zoned_datetime(zone.clone());
    let form = if time.offset().is_zero() {
        "%Y-%m-%dT%H:%M:%SZ"
    } else {
        "%Y-%m-%dT%H:%M:%S%:z"
    };
    time.strftime(form).to_string()
}

/// The start of an id that people are shown.
pub(crate) fn short_id(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// Text of at most `width` characters; a longer one ends in `…`.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Labels in one field of a table.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    let each = labels.iter().map(|(k, v)| format!("{k}={v}"));
    each.collect::<Vec<_>>().join(",")
}

/// What `--filter` asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Parses `name=value` texts and checks the names against `known`.
    ///
    /// # Errors
    /// [`Kind::BadInput`] with docker's words.
    pub(crate) fn parse(texts: &[String], known: &[&str]) -> Result<Self> {
        let mut filters = Self::default();
        for text in texts.iter().filter(|t| !t.is_empty()) {
            let Some((name, value)) = text.split_once('=') else {
                let m = format!(
                    "invalid argument {:?} for \"-f, --filter\" flag: bad format of filter \
                     (expected name=value)",
                    show(text)
                );
                return Err(Error::new(Kind::BadInput, m).with_hint(names(known)));
            };
            // `label!=x` is the filter `label!`.
            let name = name.trim().to_lowercase();
            if !known.contains(&&*name) {
                let m = format!("invalid filter '{}'", show(&name));
                return Err(Error::new(Kind::BadInput, m).with_hint(names(known)));
            }
            filters
                .0
                .entry(name)
                .or_default()
                .insert(value.trim().to_owned());
        }
        Ok(filters)
    }

    /// The values given for a name.
    pub(crate) fn get(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(|v| &**v)
    }

    /// Whether `fits` likes any value given for a name, or none was given.
    pub(crate) fn any(&self, name: &str, fits: impl Fn(&str) -> bool) -> bool {
        let mut values = self.get(name).peekable();
        values.peek().is_none() || values.any(fits)
    }

    /// A filter that is true or false; `None` if it was not given.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for other values, and for both at once.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>> {
        let values: Vec<&str> = self.get(name).collect();
        match values[..] {
            [] => Ok(None),
            ["1" | "true"] | ["1", "true"] => Ok(Some(true)),
            ["0" | "false"] | ["0", "false"] => Ok(Some(false)),
            _ => {
                let m = format!("invalid filter '{name}={}'", show(&values.join(" ")));
                Err(Error::new(Kind::BadInput, m)
                    .with_hint(format!("write {name}=true or {name}=false")))
            }
        }
    }

    /// The time that `until` gives.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for what is no time, and for more than one.
    pub(crate) fn until(&self, now: Timestamp, zone: &TimeZone) -> Result<Option<Timestamp>> {
        let mut values = self.get("until");
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(text), None) => time::point(text, now, zone).map(Some),
            _ => Err(
                Error::new(Kind::BadInput, "more than one until filter specified")
                    .with_hint("give --filter until=… once"),
            ),
        }
    }

    /// Whether `labels` have all that `label` asks for, and nothing that `label!` forbids.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &str| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
            None => labels.contains_key(wanted),
        };
        let mut forbidden = self.get("label!").peekable();
        self.get("label").all(has) && (forbidden.peek().is_none() || !forbidden.all(has))
    }

    /// Whether a name passes `reference`: any of its patterns fits `name:tag` or `name`.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for a pattern that is none.
    pub(crate) fn reference(&self, name: &str, tag: &str) -> Result<bool> {
        let mut none = true;
        let full = format!("{name}:{tag}");
        for pattern in self.get("reference") {
            none = false;
            if glob(pattern, &full)? || glob(pattern, name)? {
                return Ok(true);
            }
        }
        Ok(none)
    }
}

fn names(known: &[&str]) -> String {
    format!("filters are {}", known.join(", "))
}

/// What a prune is to take, by `label`, `label!` and `until`.
#[derive(Debug)]
pub(crate) struct Chosen {
    filters: Filters,
    until: Option<Timestamp>,
}

impl Chosen {
    /// Parses `--filter` texts.
    ///
    /// # Errors
    /// As those of [`Filters::parse`] and [`Filters::until`].
    pub(crate) fn parse(texts: &[String]) -> Result<Self> {
        let filters = Filters::parse(texts, PRUNE_FILTERS)?;
        let until = filters.until(Timestamp::now(), &TimeZone::system())?;
        Ok(Self { filters, until })
    }

    /// Whether it takes what was made then and has these labels.
    pub(crate) fn fits(&self, made: Timestamp, labels: &BTreeMap<String, String>) -> bool {
        self.until.is_none_or(|until| made < until) && self.filters.labels(labels)
    }

    /// Whether there is an `until`.
    pub(crate) fn has_until(&self) -> bool {
        self.until.is_some()
    }
}

/// Matches as Go's `path.Match`: `*` and `?` stop at slashes, `[a-z]`, `[^a]`, `\` escapes.
///
/// # Errors
/// [`Kind::BadInput`] for a pattern that is none.
pub(crate) fn glob(pattern: &str, text: &str) -> Result<bool> {
    let bad = || {
        let m = format!("invalid pattern {:?}", show(pattern));
        Error::new(Kind::BadInput, m).with_hint("close its brackets, or escape them with \\")
    };
    let pieces = pieces(pattern).ok_or_else(bad)?;
    let text: Vec<char> = text.chars().collect();
    // Positions in the text that the pieces so far can reach.
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    for piece in &pieces {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            if !reach[at] {
                continue;
            }
            if let Piece::Star = piece {
                let end = text[at..].iter().position(|c| *c == '/');
                next[at..=end.map_or(text.len(), |n| at + n)].fill(true);
            } else if text.get(at).is_some_and(|c| piece.fits(*c)) {
                next[at + 1] = true;
            }
        }
        reach = next;
    }
    Ok(reach[text.len()])
}

enum Piece {
    Star,
    Any,
    One(char),
    Class(bool, Vec<(char, char)>),
}

impl Piece {
    fn fits(&self, c: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => c != '/',
            Self::One(one) => *one == c,
            Self::Class(negated, ranges) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

fn pieces(pattern: &str) -> Option<Vec<Piece>> {
    let mut chars = pattern.chars().peekable();
    let mut pieces = Vec::new();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            '*' => Piece::Star,
            '?' => Piece::Any,
            '\\' => Piece::One(chars.next()?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while ranges.is_empty() || chars.peek() != Some(&']') {
                    let mut one = || match chars.next()? {
                        '\\' => chars.next(),
                        '-' | ']' => None,
                        c => Some(c),
                    };
                    let from = one()?;
                    let to = if chars.next_if_eq(&'-').is_some() {
                        match chars.next()? {
                            '\\' => chars.next()?,
                            '-' | ']' => return None,
                            c => c,
                        }
                    } else {
                        from
                    };
                    ranges.push((from, to));
                }
                chars.next();
                Piece::Class(negated, ranges)
            }
            c => Piece::One(c),
        });
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, three, four) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1kB"),
            (5_530_000, "5.53MB", "5.53MB"),
            (1_234_567_890, "1.23GB", "1.235GB"),
            (77_800_000, "77.8MB", "77.8MB"),
            (999_900, "1e+03kB", "999.9kB"),
            (u64::MAX, "18.4EB", "18.45EB"),
        ] {
            assert_eq!(
                (&*size(bytes, 3), &*size(bytes, 4)),
                (three, four),
                "{bytes}"
            );
        }
    }

    #[test]
    fn durations() {
        let (minute, hour, day) = (60, 3600, 86_400);
        for (seconds, want) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (minute, "About a minute"),
            (119, "About a minute"),
            (2 * minute, "2 minutes"),
            (59 * minute, "59 minutes"),
            (hour, "About an hour"),
            (89 * minute, "About an hour"),
            (90 * minute, "2 hours"),
            (47 * hour, "47 hours"),
            (2 * day, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (59 * day, "8 weeks"),
            (60 * day, "2 months"),
            (729 * day, "24 months"),
            (730 * day, "2 years"),
            (20_770 * day, "56 years"),
        ] {
            assert_eq!(duration(seconds), want);
        }
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(ago(940, now), "About a minute ago");
        assert_eq!(
            date(1_700_000_000, &TimeZone::UTC),
            "2023-11-14 22:13:20 +0000 UTC"
        );
        assert_eq!(
            rfc3339(1_700_000_000, &TimeZone::UTC),
            "2023-11-14T22:13:20Z"
        );
        let east = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(rfc3339(0, &east), "1970-01-01T02:00:00+02:00");
    }

    #[test]
    fn short_texts() {
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("abc"), "abc");
        assert_eq!(ellipsis("äbcd", 4), "äbcd");
        assert_eq!(ellipsis("äbcde", 4), "äbc…");
    }

    fn filters(texts: &[&str]) -> Result<Filters> {
        let texts: Vec<String> = texts.iter().map(|t| (*t).to_owned()).collect();
        Filters::parse(
            &texts,
            &["dangling", "label", "label!", "reference", "until"],
        )
    }

    #[test]
    fn filters_are_parsed() {
        let f = filters(&["label=a", " LABEL = b=c ", "dangling=true", ""]).unwrap();
        assert_eq!(f.get("label").collect::<Vec<_>>(), ["a", "b=c"]);
        assert_eq!(
            (f.flag("dangling").unwrap(), f.flag("x").unwrap()),
            (Some(true), None)
        );
        for (text, part) in [
            ("foo", "bad format of filter (expected name=value)"),
            ("foo=bar", "invalid filter 'foo'"),
        ] {
            let e = filters(&[text]).unwrap_err();
            assert!(e.message().contains(part) && e.hint().is_some(), "{e}");
        }
        for texts in [&["dangling=x"][..], &["dangling=1", "dangling=0"]] {
            assert!(filters(texts).unwrap().flag("dangling").is_err());
        }
        assert!(filters(&[]).unwrap().0.is_empty());
        let now = Timestamp::from_second(7200).unwrap();
        let until = |texts: &[&str]| filters(texts).unwrap().until(now, &TimeZone::UTC);
        assert_eq!(until(&["until=1h"]).unwrap().unwrap().as_second(), 3600);
        assert_eq!(until(&[]).unwrap(), None);
        assert!(until(&["until=1h", "until=2h"]).is_err() && until(&["until=x"]).is_err());
    }

    #[test]
    fn filters_choose() {
        let labels = BTreeMap::from([
            ("a".to_owned(), "1".to_owned()),
            ("b".into(), String::new()),
        ]);
        for (texts, want) in [
            (&[][..], true),
            (&["label=a"], true),
            (&["label=a=1", "label=b"], true),
            (&["label=a=2"], false),
            (&["label=c"], false),
            (&["label!=a"], false),
            (&["label!=c"], true),
            (&["label=a", "label!=b=1"], true),
        ] {
            assert_eq!(filters(texts).unwrap().labels(&labels), want, "{texts:?}");
        }
        let fits = |pattern: &str, name: &str| {
            filters(&[&format!("reference={pattern}")])
                .unwrap()
                .reference(name, "v1")
                .unwrap()
        };
        assert!(fits("alp*", "alpine") && fits("*:v1", "alpine") && fits("x/y", "x/y"));
        assert!(!fits("alp", "alpine") && !fits("*", "x/y") && fits("*/*", "x/y"));
        assert!(filters(&[]).unwrap().reference("x", "y").unwrap());
    }

    #[test]
    fn patterns() {
        for (pattern, text, want) in [
            ("a*c", "abbc", true),
            ("a*c", "ab/c", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            (r"\*", "*", true),
            (r"[\]]", "]", true),
            ("", "", true),
            ("**", "é", true),
        ] {
            assert_eq!(glob(pattern, text).unwrap(), want, "{pattern} {text}");
        }
        for bad in ["[", "[]", "[a-]", "[a", "\\", "[-a]"] {
            assert!(glob(bad, "a").is_err(), "{bad}");
        }
        // Not exponential.
        assert!(!glob(&"*a".repeat(50), &"a".repeat(49)).unwrap());
    }
}
