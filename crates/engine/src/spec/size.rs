//! Sizes in flags and options.

use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Bytes as docker reads them: `512`, `64k`, `1.5g`, `1GiB`; all units are powers of 1024.
///
/// # Errors
/// [`Kind::BadInput`] in docker's words.
pub fn bytes(text: &str) -> Result<i64> {
    parse(text, 1024.0)
}

/// As [`bytes()`], with powers of 1000: what docker has for logs.
///
/// # Errors
/// As for [`bytes()`].
pub fn decimal(text: &str) -> Result<i64> {
    parse(text, 1000.0)
}

fn parse(text: &str, base: f64) -> Result<i64> {
    let wrong = || {
        Error::new(Kind::BadInput, format!("invalid size: '{}'", show(text)))
            .with_hint("write a size such as 512m or 1g")
    };
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = ["ib", "b"]
        .iter()
        .find_map(|end| unit.strip_suffix(end))
        .unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let size = number * base.powi(power);
    if !size.is_finite() || size >= i64::MAX as f64 {
        return Err(wrong());
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "checked, and docker cuts fractions off"
    )]
    Ok(size as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_reads_them() {
        for (text, want) in [
            ("0", 0),
            ("10b", 10),
            ("4k", 4096),
            ("1.5K", 1536),
            ("512m", 512 << 20),
            ("2GB", 2 << 30),
            ("1GiB", 1 << 30),
            ("1 t", 1 << 40),
        ] {
            assert_eq!(bytes(text).unwrap(), want, "{text}");
        }
        assert_eq!(decimal("1.5K").unwrap(), 1500);
        assert_eq!(decimal("2GiB").unwrap(), 2_000_000_000);
        for text in [
            "",
            "x",
            "-1",
            "1x",
            "1ib2",
            "9999999999t",
            "1..2",
            "bb",
            "1ki",
            "1kbb",
            "1i",
        ] {
            assert_eq!(
                bytes(text).unwrap_err().message(),
                format!("invalid size: '{text}'")
            );
        }
    }
}
