//! Values of options: sizes, counts, owners.

use std::{ffi::OsString, time::Duration};

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use unlade_unpack::{IdMap, IdRange, Owners, Unpacker};

use crate::source::Source;

/// A source; paths need not be UTF-8.
pub(super) fn source() -> ValueParser {
    let parse = |text: OsString| {
        Source::parse(&text).map_err(|e| match e.hint() {
            Some(hint) => format!("{}: {hint}", e.message()),
            None => e.to_string(),
        })
    };
    ValueParser::new(OsStringValueParser::new().try_map(parse))
}

/// A filter, by its form alone: which there are is the command's business.
pub(super) fn filter(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('=') {
        Ok(text.to_owned())
    } else {
        Err("bad format of filter (expected name=value)".to_owned())
    }
}

/// Bytes: `4096`, `64k`, `16MiB`, `1G`. `KB`, `MB`, `GB` and `TB` are powers of 1000, all else
/// powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a size, such as 4096, 64k, 16MiB or 1G");
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = |c: char| "kmgt".find(c).and_then(|p| u32::try_from(p + 1).ok());
    let mut chars = unit.chars();
    let factor = match (chars.next(), chars.as_str()) {
        (None | Some('b'), "") => 1,
        (Some(c), "" | "i" | "ib") => 1024_u64.pow(power(c).ok_or_else(bad)?),
        (Some(c), "b") => 1000_u64.pow(power(c).ok_or_else(bad)?),
        _ => return Err(bad()),
    };
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// As [`size`], for what is held in memory.
pub(super) fn size_usize(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?).map_err(|_| format!("`{text}` is too large"))
}

/// As [`size`], for a budget that the unpacker can work with.
pub(super) fn memory(text: &str) -> Result<u64, String> {
    let least = Unpacker::MEMORY_LEAST_BYTES as u64;
    match size(text)? {
        bytes if bytes < least => Err(format!(
            "`{text}` is less than the {}MiB that unpacking needs",
            least >> 20
        )),
        bytes => Ok(bytes),
    }
}

/// A number above 0.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(format!("`{text}` is not a number above 0")),
    }
}

/// Seconds, with or without a fraction.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(d) if !d.is_zero() => Ok(d),
        _ => Err(format!("`{text}` is not a time in seconds above 0")),
    }
}

/// `archive`, `caller`, `map:INSIDE:OUTSIDE:COUNT[,…]`, `map:uids=…;gids=…`.
pub(super) fn owners(text: &str) -> Result<Owners, String> {
    let Some(map) = text.strip_prefix("map:") else {
        return match text {
            "archive" => Ok(Owners::Archive),
            "caller" => Ok(Owners::Caller),
            _ => Err("write archive, caller or map:INSIDE:OUTSIDE:COUNT[,…]".into()),
        };
    };
    let (uids, gids) = match map.split_once(';') {
        None => (ranges(map)?, ranges(map)?),
        Some((uids, gids)) => match (uids.strip_prefix("uids="), gids.strip_prefix("gids=")) {
            (Some(uids), Some(gids)) => (ranges(uids)?, ranges(gids)?),
            _ => return Err("write map:uids=INSIDE:OUTSIDE:COUNT[,…];gids=…".into()),
        },
    };
    Ok(Owners::Mapped(IdMap::new(uids, gids)))
}

fn ranges(text: &str) -> Result<Vec<IdRange>, String> {
    let mut all: Vec<IdRange> = text.split(',').map(range).collect::<Result<_, _>>()?;
    all.sort_by_key(|r| r.inside);
    let overlaps = |w: &[IdRange]| w[1].inside - w[0].inside < w[0].count;
    if all.windows(2).any(overlaps) {
        return Err(format!("ranges in `{text}` overlap"));
    }
    Ok(all)
}

fn range(text: &str) -> Result<IdRange, String> {
    let bad = || format!("`{text}` is not INSIDE:OUTSIDE:COUNT");
    let numbers: Vec<u32> = text
        .split(':')
        .map(|n| n.parse().map_err(|_| bad()))
        .collect::<Result<_, _>>()?;
    let [inside, outside, count] = numbers[..] else {
        return Err(bad());
    };
    // 2^32 - 1 is no id.
    let fits = |start: u32| start.checked_add(count).is_some();
    if count == 0 || !fits(inside) || !fits(outside) {
        return Err(format!("`{text}` has no valid ids"));
    }
    Ok(IdRange {
        inside,
        outside,
        count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("0", 0),
            ("4096", 4096),
            ("10b", 10),
            ("64k", 64 << 10),
            ("16MiB", 16 << 20),
            ("16 MiB", 16 << 20),
            ("512m", 512 << 20),
            ("1Gi", 1 << 30),
            ("2T", 2 << 40),
            ("16MB", 16_000_000),
        ] {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        for bad in [
            "",
            "k",
            "1.5G",
            "-1",
            "1x",
            "1kk",
            "1kibb",
            "99999999999T",
            "1é",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_has_a_least() {
        assert_eq!(memory("4MiB"), Ok(4 << 20));
        for few in ["0", "4095k"] {
            assert!(memory(few).is_err_and(|e| e.contains("4MiB")), "{few}");
        }
    }

    #[test]
    fn owner_maps() {
        let r = |inside, outside, count| IdRange {
            inside,
            outside,
            count,
        };
        let two = vec![r(0, 1000, 1), r(1, 100_000, 65536)];
        let both = Owners::Mapped(IdMap::new(two.clone(), two.clone()));
        assert_eq!(owners("map:1:100000:65536,0:1000:1"), Ok(both));
        let apart = Owners::Mapped(IdMap::new(two, vec![r(0, 5, 1)]));
        assert_eq!(
            owners("map:uids=0:1000:1,1:100000:65536;gids=0:5:1"),
            Ok(apart)
        );
        assert_eq!(owners("archive"), Ok(Owners::Archive));
        for bad in [
            "",
            "map:",
            "map:0:1",
            "map:0:0:0",
            "map:0:4294967295:1",
            "map:0:0:10,5:0:1",
            "map:uids=0:0:1",
            "map:gids=0:0:1;uids=0:0:1",
        ] {
            assert!(owners(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_and_seconds() {
        assert_eq!(
            (count("3"), seconds("0.5")),
            (Ok(3), Ok(Duration::from_millis(500)))
        );
        assert!(count("0").is_err() && seconds("0").is_err());
        assert!(seconds("NaN").is_err() && seconds("-1").is_err() && seconds("inf").is_err());
    }
}
