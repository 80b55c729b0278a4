//! Devices of the host, and rules for them.

use super::bad;
use crate::{
    error::Result,
    image::json::show,
    spec::request::{DeviceMapping, DeviceRequest},
    volume,
};

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

/// `--gpus`: `all`, a number, or `KEY=VALUE`s, of which `device`, `capabilities` and `options` are
/// lists if they are quoted.
pub(in crate::cli::containers) fn gpus(text: &str) -> Result<DeviceRequest> {
    let hint = "write all, a number, or device=…; a list in quotes: '\"device=0,1\"'";
    let mut asked = DeviceRequest::default();
    let mut capabilities = vec!["gpu".to_owned()];
    let mut seen = Vec::new();
    for field in volume::parse::fields(text)? {
        let (key, value) = field.split_once('=').unwrap_or(("count", &field));
        if seen.iter().any(|k| k == key) {
            let m = format!("gpu request key '{}' can be specified only once", show(key));
            return Err(bad(m, hint));
        }
        seen.push(key.to_owned());
        let list = || value.split(',').map(str::to_owned);
        match key {
            "count" if value == "all" => asked.count = -1,
            "count" => {
                let count = value.parse().ok().filter(|n| *n >= -1);
                asked.count = count.ok_or_else(|| {
                    bad(
                        format!(
                            "invalid count ({}): value must be either \"all\" or an integer",
                            show(value)
                        ),
                        hint,
                    )
                })?;
            }
            "device" => asked.device_ids = list().collect(),
            "driver" => value.clone_into(&mut asked.driver),
            "capabilities" => capabilities.extend(list()),
            "options" => {
                let pairs = list().map(|o| match o.split_once('=') {
                    Some((key, value)) => (key.to_owned(), value.to_owned()),
                    None => (o, String::new()),
                });
                asked.options = pairs.collect();
            }
            key => {
                let m = format!("unexpected key '{}' in '{}'", show(key), show(&field));
                return Err(bad(m, hint));
            }
        }
    }
    if !seen.iter().any(|k| matches!(&**k, "count" | "device")) {
        asked.count = 1;
    }
    asked.capabilities = vec![capabilities];
    Ok(asked)
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
        let g = |text: &str| gpus(text).map(|g| (g.count, g.device_ids.join(" "), g.driver));
        let is = |count, ids: &str| (count, ids.to_owned(), String::new());
        assert_eq!(g("all").unwrap(), is(-1, ""));
        assert_eq!(g("2").unwrap(), is(2, ""));
        assert_eq!(g("device=0").unwrap(), is(0, "0"));
        assert_eq!(g("\"device=0,GPU-1\"").unwrap(), is(0, "0 GPU-1"));
        assert_eq!(g("driver=x").unwrap(), (1, String::new(), "x".to_owned()));
        assert!(said(g("x")).starts_with("invalid count (x)"));
        assert!(said(g("1,2")).contains("only once") && said(g("a=1")).contains("unexpected key"));
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
