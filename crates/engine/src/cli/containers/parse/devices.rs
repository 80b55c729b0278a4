//! Devices of the host, and rules for them.

use super::bad;
use crate::{error::Result, image::json::show, spec::request::DeviceMapping};

/// `PATH[:PATH][:PERMISSIONS]`.
pub(in crate::cli::containers) fn device(text: &str) -> Result<DeviceMapping> {
    let is_mode = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b"rwm".contains(&b))
            && text
                .bytes()
                .enumerate()
                .all(|(at, b)| !text.as_bytes()[..at].contains(&b))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, mode] if is_mode(mode) => (source, source, mode),
        [source, target] => (source, target, "rwm"),
        [source, target, mode] if is_mode(mode) => (source, target, mode),
        [_, _, mode] => {
            let m = format!("bad mode specified: {}", show(mode));
            return Err(bad(m, "permissions are of r, w and m"));
        }
        _ => {
            let m = format!("invalid device specification: {}", show(text));
            return Err(bad(m, "write PATH[:PATH][:PERMISSIONS]"));
        }
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        let m = format!(
            "{} is not an absolute path",
            show(if source.starts_with('/') {
                target
            } else {
                source
            })
        );
        return Err(bad(m, "write PATH[:PATH][:PERMISSIONS]"));
    }
    Ok(DeviceMapping {
        path_on_host: source.to_owned(),
        path_in_container: target.to_owned(),
        cgroup_permissions: mode.to_owned(),
    })
}

/// `TYPE MAJOR:MINOR PERMISSIONS`.
pub(in crate::cli::containers) fn device_rule(text: &str) -> Result<String> {
    let number = |t: &str| t == "*" || (!t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
    let good = match text.split(' ').collect::<Vec<_>>()[..] {
        [kind, numbers, mode] => {
            matches!(kind, "a" | "b" | "c")
                && numbers
                    .split_once(':')
                    .is_some_and(|(a, b)| number(a) && number(b))
                && (1..=3).contains(&mode.len())
                && mode.bytes().all(|b| b"rwm".contains(&b))
        }
        _ => false,
    };
    if good {
        return Ok(text.to_owned());
    }
    Err(bad(
        format!("invalid device cgroup format '{}'", show(text)),
        "write TYPE MAJOR:MINOR PERMISSIONS, such as c 13:* rmw",
    ))
}

#[cfg(test)]
mod tests {
    use super::{super::said, *};

    #[test]
    fn devices() {
        let d = |text: &str| {
            device(text)
                .map(|d| [d.path_on_host, d.path_in_container, d.cgroup_permissions].join(" "))
        };
        for (text, want) in [
            ("/dev/a", "/dev/a /dev/a rwm"),
            ("/dev/a:r", "/dev/a /dev/a r"),
            ("/dev/a:/dev/b", "/dev/a /dev/b rwm"),
            ("/dev/a:/dev/b:mw", "/dev/a /dev/b mw"),
        ] {
            assert_eq!(d(text).unwrap(), want);
        }
        assert_eq!(said(d("/a:/b:x")), "bad mode specified: x");
        assert_eq!(said(d("/a:/b:rr")), "bad mode specified: rr");
        assert_eq!(
            said(d("/a:/b:r:w")),
            "invalid device specification: /a:/b:r:w"
        );
        assert_eq!(said(d("a")), "a is not an absolute path");
        for good in ["c 1:3 rwm", "a *:* m", "b 8:* r"] {
            assert_eq!(device_rule(good).unwrap(), good);
        }
        for wrong in ["", "c 1:3", "d 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 rwmr"] {
            assert_eq!(
                said(device_rule(wrong)),
                format!("invalid device cgroup format '{wrong}'")
            );
        }
    }
}
