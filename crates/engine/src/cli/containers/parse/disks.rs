//! What may be done with single disks.

use super::{bad, bytes};
use crate::{
    error::Result,
    image::json::show,
    spec::request::{ThrottleDevice, WeightDevice},
};

/// `PATH:VALUE` of a device.
fn pair<'a>(text: &'a str, hint: &str) -> Result<(&'a str, &'a str)> {
    match text.rsplit_once(':') {
        Some((path, value)) if path.starts_with("/dev/") => Ok((path, value)),
        Some((path, _)) if !path.is_empty() => {
            let m = format!("bad format for device path: {}", show(text));
            Err(bad(m, hint))
        }
        _ => Err(bad(format!("bad format: {}", show(text)), hint)),
    }
}

/// `PATH:WEIGHT`.
pub(in crate::cli::containers) fn weight(text: &str) -> Result<WeightDevice> {
    let hint = "write /dev/DISK:WEIGHT; weights are 10 to 1000, and 0 for the default";
    let (path, value) = pair(text, hint)?;
    let weight = value.parse().ok();
    let weight = weight.filter(|n| *n == 0 || (10..=1000).contains(n));
    Ok(WeightDevice {
        path: path.to_owned(),
        weight: weight
            .ok_or_else(|| bad(format!("invalid weight for device: {}", show(text)), hint))?,
    })
}

/// `PATH:RATE`, in bytes with units, or a number.
pub(in crate::cli::containers) fn rate(text: &str, in_bytes: bool) -> Result<ThrottleDevice> {
    let hint = match in_bytes {
        true => "write /dev/DISK:RATE, such as /dev/sda:1mb",
        false => "write /dev/DISK:NUMBER, such as /dev/sda:1000",
    };
    let (path, value) = pair(text, hint)?;
    let rate = match in_bytes {
        true => bytes(value).ok().and_then(|n| u64::try_from(n).ok()),
        false => value.parse().ok(),
    };
    Ok(ThrottleDevice {
        path: path.to_owned(),
        rate: rate.ok_or_else(|| bad(format!("invalid rate for device: {}", show(text)), hint))?,
    })
}

#[cfg(test)]
mod tests {
    use super::{super::said, *};

    #[test]
    fn disks() {
        let w = |text| weight(text).map(|w| (w.path, w.weight));
        assert_eq!(w("/dev/a:b:10").unwrap(), ("/dev/a:b".to_owned(), 10));
        let r = |text, in_bytes| rate(text, in_bytes).map(|r| r.rate);
        assert_eq!(r("/dev/a:1mb", true).unwrap(), 1 << 20);
        assert_eq!(r("/dev/a:1000", false).unwrap(), 1000);
        for (said, part) in [
            (said(w("/dev/a")), "bad format"),
            (said(w("a:10")), "device path"),
            (said(w("/dev/a:9")), "invalid weight"),
            (said(w("/dev/a:1001")), "invalid weight"),
            (said(r("/dev/a:x", true)), "invalid rate"),
            (said(r("/dev/a:-1", true)), "invalid rate"),
            (said(r("/dev/a:1mb", false)), "invalid rate"),
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}
