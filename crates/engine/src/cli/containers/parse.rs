//! Values of docker's flags for containers, with docker's words for what is wrong.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use crate::{
    error::{Error, Kind, Result},
    image::json::show,
    spec::request::{DeviceMapping, RestartPolicy, Ulimit},
};

/// Longest file of variables or labels that is read, in bytes.
const MAX_FILE: u64 = 8 << 20;

pub(super) fn bad(message: impl Into<String>, hint: &str) -> Error {
    Error::new(Kind::BadInput, message).with_hint(hint)
}

/// `NAME=VALUE`s of `--env-file`s and then of `-e`. A bare `NAME` is taken from `environment`;
/// in a file it is dropped where that has none, on the command line it removes the variable.
pub(super) fn env(
    files: &[impl AsRef<Path>],
    flags: &[String],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for file in files {
        let file = file.as_ref();
        for (line, text) in lines(file, "env")? {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text.as_str(), None),
            };
            if name.trim_end().contains(char::is_whitespace) || name.ends_with(char::is_whitespace)
            {
                let m = format!(
                    "poorly formatted environment: variable '{}' contains whitespaces",
                    show(name)
                );
                return Err(bad(m, "write NAME=VALUE, without blanks before the `=`"));
            }
            if name.is_empty() {
                let m = format!(
                    "poorly formatted environment: no variable name on line '{}'",
                    show(&text)
                );
                return Err(bad(m, &format!("line {line} of `{}`", file.display())));
            }
            let bare = !text.contains('=');
            let value = value.or_else(|| bare.then(|| environment(name)).flatten());
            if let Some(value) = value {
                all.push(format!("{name}={value}"));
            }
        }
    }
    for flag in flags {
        let name = flag.split('=').next().unwrap_or_default();
        if name.is_empty() {
            let m = format!("invalid environment variable: {}", show(flag));
            return Err(bad(m, "write NAME=VALUE, or NAME for the caller's value"));
        }
        match (flag.contains('='), environment(name)) {
            (false, Some(value)) => all.push(format!("{name}={value}")),
            _ => all.push(flag.clone()),
        }
    }
    Ok(all)
}

/// Labels of files and then of flags; the last of a name wins.
pub(super) fn labels(
    files: &[impl AsRef<Path>],
    flags: &[String],
) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for file in files {
        for (_, text) in lines(file.as_ref(), "label")? {
            let name = text.split('=').next().unwrap_or_default();
            if name.contains(char::is_whitespace) {
                let m = format!(
                    "poorly formatted environment: variable '{}' contains whitespaces",
                    show(name)
                );
                return Err(bad(m, "write KEY=VALUE, without blanks before the `=`"));
            }
            put(&mut all, &text, "label")?;
        }
    }
    pairs_into(&mut all, flags, "label")?;
    Ok(all)
}

/// `KEY[=VALUE]`s.
pub(super) fn pairs(flags: &[String], what: &str) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    pairs_into(&mut all, flags, what)?;
    Ok(all)
}

fn pairs_into(all: &mut BTreeMap<String, String>, flags: &[String], what: &str) -> Result<()> {
    flags.iter().try_for_each(|flag| put(all, flag, what))
}

fn put(all: &mut BTreeMap<String, String>, text: &str, what: &str) -> Result<()> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        let m = format!("invalid {what} '{}': empty name", show(text));
        return Err(bad(m, "write KEY=VALUE"));
    }
    all.insert(key.to_owned(), value.to_owned());
    Ok(())
}

/// `KEY=VALUE`s where the value is needed.
pub(super) fn full_pairs(flags: &[String], what: &str) -> Result<BTreeMap<String, String>> {
    for flag in flags {
        if !flag.contains('=') {
            return Err(bad(
                format!("invalid {what} {}", show(flag)),
                "write KEY=VALUE",
            ));
        }
    }
    pairs(flags, what)
}

/// The lines of a file that say something, with their numbers.
fn lines(path: &Path, what: &str) -> Result<Vec<(usize, String)>> {
    let shown = path.display();
    let failed = |e| Error::host(format!("read the {what} file `{shown}`"), e);
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(failed)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        let m = format!("the {what} file `{shown}` is longer than {MAX_FILE} bytes");
        return Err(Error::new(Kind::Limit, m).with_hint("is this the right file?"));
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut all = Vec::new();
    for (at, line) in (1..).zip(text.split(|b| *b == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = str::from_utf8(line).map_err(|_| {
            let m = format!("env file {shown} contains invalid utf8 bytes at line {at}");
            bad(m, "write it in UTF-8")
        })?;
        let line = line.trim_start();
        if !line.is_empty() && !line.starts_with('#') {
            all.push((at, line.to_owned()));
        }
    }
    Ok(all)
}

/// Bytes as docker reads them: `512`, `64k`, `1.5g`, `1GiB`; all units are powers of 1024.
pub(super) fn bytes(text: &str) -> Result<i64> {
    let wrong = || {
        bad(
            format!("invalid size: '{}'", show(text)),
            "write a size such as 512m or 1g",
        )
    };
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit.len() <= 1 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let size = number * 1024_f64.powi(power);
    if !size.is_finite() || size >= i64::MAX as f64 {
        return Err(wrong());
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "checked, and docker cuts fractions off"
    )]
    Ok(size as i64)
}

/// As [`bytes`], or -1.
pub(super) fn bytes_or_unlimited(text: &str) -> Result<i64> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// Billionths of a CPU: `1.5` is 1,500,000,000.
pub(super) fn cpus(text: &str) -> Result<i64> {
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

/// `no`, `always`, `unless-stopped`, `on-failure[:N]`.
pub(super) fn restart_policy(text: &str) -> Result<RestartPolicy> {
    let hint = "policies are no, always, unless-stopped and on-failure[:RETRIES]";
    if text.is_empty() {
        return Ok(RestartPolicy::default());
    }
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    if count.is_some() && name.is_empty() {
        let m = "invalid restart policy format: no policy provided before colon";
        return Err(bad(m, hint));
    }
    let retries = match count {
        None => 0,
        Some(count) => count.parse().map_err(|_| {
            bad(
                "invalid restart policy format: maximum retry count must be an integer",
                hint,
            )
        })?,
    };
    let policy = RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: retries,
    };
    match name {
        "on-failure" if retries < 0 => Err(bad(
            "invalid restart policy: maximum retry count cannot be negative",
            hint,
        )),
        "no" | "always" | "unless-stopped" if retries != 0 => {
            let m =
                "invalid restart policy: maximum retry count can only be used with 'on-failure'";
            Err(bad(m, hint))
        }
        "no" | "always" | "unless-stopped" | "on-failure" => Ok(policy),
        _ => {
            let m = format!(
                "invalid restart policy: unknown policy '{}'; use one of 'no', 'always', \
                 'on-failure', or 'unless-stopped'",
                show(name)
            );
            Err(bad(m, hint))
        }
    }
}

const LIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `NAME=SOFT[:HARD]`.
pub(super) fn ulimit(text: &str) -> Result<Ulimit> {
    let hint = "write NAME=SOFT[:HARD], such as nofile=1024:4096; -1 is no limit";
    let shown = show(text);
    let Some((name, limits)) = text.split_once('=') else {
        return Err(bad(format!("invalid ulimit argument: {shown}"), hint));
    };
    if !LIMITS.contains(&name) {
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

/// `PATH[:PATH][:PERMISSIONS]`.
pub(super) fn device(text: &str) -> Result<DeviceMapping> {
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
pub(super) fn device_rule(text: &str) -> Result<String> {
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

/// `aa:bb:cc:dd:ee:ff`, or with hyphens.
pub(super) fn mac_address(text: &str) -> Result<String> {
    let octets: Vec<&str> = text.split([':', '-']).collect();
    let good = octets.len() == 6
        && octets
            .iter()
            .all(|o| o.len() == 2 && o.bytes().all(|b| b.is_ascii_hexdigit()));
    if good {
        return Ok(octets.join(":").to_ascii_lowercase());
    }
    Err(bad(
        format!("{} is not a valid mac address", show(text)),
        "write six pairs of digits: 02:42:ac:11:00:02",
    ))
}

/// An address, in its usual form.
pub(super) fn address(text: &str) -> Result<String> {
    text.trim()
        .parse::<std::net::IpAddr>()
        .map(|a| a.to_string())
        .map_err(|_| {
            bad(
                format!("IP address is not correctly formatted: {}", show(text)),
                "write an IPv4 or IPv6 address",
            )
        })
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`.
pub(super) fn extra_host(text: &str) -> Result<String> {
    let hint = "write NAME:ADDRESS, or NAME:host-gateway";
    let (name, address) = match text.split_once('=') {
        Some(pair) => pair,
        None => text.split_once(':').unwrap_or((text, "")),
    };
    if name.is_empty() || address.is_empty() {
        return Err(bad(
            format!("bad format for add-host: \"{}\"", show(text)),
            hint,
        ));
    }
    let plain = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    if plain != "host-gateway" && plain.parse::<std::net::IpAddr>().is_err() {
        let m = format!("invalid IP address in add-host: \"{}\"", show(address));
        return Err(bad(m, hint));
    }
    Ok(format!("{name}:{plain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<T: std::fmt::Debug>(result: Result<T>) -> String {
        let e = result.unwrap_err();
        assert!(e.hint().is_some(), "{e}");
        e.message().to_owned()
    }

    #[test]
    fn variables() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, b"\xef\xbb\xbf# c\n\n  A=1\r\nB\nHOME\nC= x y \n").unwrap();
        let from = |name: &str| (name == "HOME").then(|| "/h".to_owned());
        let flags = ["D=4".to_owned(), "HOME".into(), "E".into(), "A=".into()];
        assert_eq!(
            env(&[&file], &flags, &from).unwrap(),
            ["A=1", "HOME=/h", "C= x y ", "D=4", "HOME=/h", "E", "A="]
        );
        let none: [&Path; 0] = [];
        assert_eq!(
            said(env(&none, &["=1".into()], &from)),
            "invalid environment variable: =1"
        );
        for (text, want) in [
            (
                "A B=1",
                "poorly formatted environment: variable 'A B' contains whitespaces",
            ),
            (
                "A =1",
                "poorly formatted environment: variable 'A ' contains whitespaces",
            ),
            (
                "=1",
                "poorly formatted environment: no variable name on line '=1'",
            ),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(said(env(&[&file], &[], &from)), want);
        }
        std::fs::write(&file, b"A=1\nB=\xff").unwrap();
        assert!(said(env(&[&file], &[], &from)).ends_with("invalid utf8 bytes at line 2"));
    }

    #[test]
    fn labels_and_pairs() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("l");
        std::fs::write(&file, "a=1\nb\n").unwrap();
        let all = labels(&[&file], &["a=2".into(), "c=x=y".into()]).unwrap();
        let want = [("a", "2"), ("b", ""), ("c", "x=y")];
        assert_eq!(all, want.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(
            said(pairs(&["=x".into()], "label")),
            "invalid label '=x': empty name"
        );
        assert_eq!(
            said(full_pairs(&["x".into()], "logging opt")),
            "invalid logging opt x"
        );
    }

    #[test]
    fn sizes_and_cpus() {
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
        for text in ["", "x", "-1", "1x", "1ib2", "9999999999t", "1..2", "bb"] {
            assert_eq!(said(bytes(text)), format!("invalid size: '{text}'"));
        }
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
    fn policies() {
        let p = restart_policy("on-failure:3").unwrap();
        assert_eq!((&*p.name, p.maximum_retry_count), ("on-failure", 3));
        assert_eq!(restart_policy("no").unwrap().name, "no");
        for (text, part) in [
            (":3", "no policy provided before colon"),
            ("on-failure:x", "must be an integer"),
            ("on-failure:-1", "cannot be negative"),
            ("always:2", "can only be used with 'on-failure'"),
            ("never", "unknown policy 'never'"),
        ] {
            assert!(said(restart_policy(text)).contains(part), "{text}");
        }
    }

    #[test]
    fn limits() {
        let u = ulimit("nofile=1024:2048").unwrap();
        assert_eq!((&*u.name, u.soft, u.hard), ("nofile", 1024, 2048));
        assert_eq!(ulimit("core=-1").unwrap().hard, -1);
        assert_eq!(ulimit("stack=5").unwrap().hard, 5);
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

    #[test]
    fn addresses_and_hosts() {
        assert_eq!(
            mac_address("02-42-AC-11-00-02").unwrap(),
            "02:42:ac:11:00:02"
        );
        assert_eq!(
            said(mac_address("02:42")),
            "02:42 is not a valid mac address"
        );
        assert_eq!(address("::0001").unwrap(), "::1");
        assert!(said(address("1.2.3")).contains("not correctly formatted"));
        for (text, want) in [
            ("a:1.2.3.4", "a:1.2.3.4"),
            ("a:::1", "a:::1"),
            ("a=[::1]", "a:::1"),
            ("a:host-gateway", "a:host-gateway"),
        ] {
            assert_eq!(extra_host(text).unwrap(), want);
        }
        assert_eq!(said(extra_host("a")), "bad format for add-host: \"a\"");
        assert_eq!(
            said(extra_host("a:b")),
            "invalid IP address in add-host: \"b\""
        );
    }
}
