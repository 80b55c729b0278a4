//! `--log-driver` and `--log-opt`: what there is, and what a shim is told of it.

use std::{collections::BTreeMap, path::PathBuf};

use super::{place::Place, record::text};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
    shim::{Log, LogFile},
    spec::{request::Request, size},
};

/// The driver if none is asked for.
pub(crate) const DEFAULT: &str = "json-file";
/// Those that there are.
pub(crate) const DRIVERS: [&str; 4] = [DEFAULT, LOCAL, "k8s-file", NONE];
const LOCAL: &str = "local";
const NONE: &str = "none";
/// Options of those that write files; the last ones only where lines carry attributes.
pub(crate) const OPTIONS: [&str; 7] = [
    "max-size",
    "max-file",
    "compress",
    "mode",
    "max-buffer-size",
    "labels",
    "env",
];
const ATTRIBUTES: [&str; 2] = ["labels", "env"];
/// What docker's drivers have too.
const UNSUPPORTED: [&str; 3] = ["labels-regex", "env-regex", "tag"];
/// Bytes that wait for the disk if nothing else is said.
const BUFFER: u64 = 1 << 20;

fn driver(request: &Request) -> &str {
    match &*request.host_config.log_config.r#type {
        "" => DEFAULT,
        driver => driver,
    }
}

/// Checks driver and options, as docker does before anything is made.
///
/// # Errors
/// [`Kind::BadInput`] for what there is not, [`Kind::Unsupported`] for what only docker has.
pub(super) fn check(request: &Request) -> Result<()> {
    let driver = driver(request);
    if !DRIVERS.contains(&driver) {
        let m = format!(
            "logger: no log driver named '{}' is registered",
            show(driver)
        );
        return Err(Error::new(Kind::BadInput, m)
            .with_hint("drivers are json-file, local, k8s-file and none"));
    }
    if driver == NONE {
        return match request.host_config.log_config.config.keys().next() {
            None => Ok(()),
            Some(key) => Err(unknown(driver, key)),
        };
    }
    for key in request.host_config.log_config.config.keys() {
        let attributes = driver != "k8s-file";
        if attributes && UNSUPPORTED.contains(&&**key) {
            let m = format!("log opt {key} is not supported");
            return Err(Error::new(Kind::Unsupported, m)
                .with_hint("labels and env name labels and variables one by one"));
        }
        if !OPTIONS.contains(&&**key) || !attributes && ATTRIBUTES.contains(&&**key) {
            return Err(unknown(driver, key));
        }
    }
    file(request, PathBuf::new()).map(drop)
}

fn unknown(driver: &str, key: &str) -> Error {
    let m = match driver {
        LOCAL => format!("unknown log opt '{}' for log driver local", show(key)),
        _ => format!("unknown log opt '{}' for {driver} log driver", show(key)),
    };
    Error::new(Kind::BadInput, m).with_hint(match driver {
        NONE => "there are none: nothing is logged",
        "k8s-file" => "options are max-size, max-file, compress, mode and max-buffer-size",
        _ => "options are max-size, max-file, compress, mode, max-buffer-size, labels and env",
    })
}

/// Where a container's output is kept.
pub(super) fn log(request: &Request, place: &Place) -> Result<Log> {
    let file = |path| file(request, path);
    Ok(match driver(request) {
        NONE => Log::None,
        LOCAL => Log::Local(file(place.local_log())?),
        "k8s-file" => Log::K8sFile(file(place.log_file())?),
        _ => Log::JsonFile(file(place.log_file())?),
    })
}

fn file(request: &Request, path: PathBuf) -> Result<LogFile> {
    let options = Options(&request.host_config.log_config.config);
    let local = driver(request) == LOCAL;
    let default = if local {
        LogFile {
            max_size: 20 << 20,
            compress: true,
            ..LogFile::at(path)
        }
    } else {
        LogFile::at(path)
    };
    let file = LogFile {
        max_size: options.max_size(default.max_size)?,
        max_files: options.max_files(default.max_files)?,
        compress: options.compress(default.compress)?,
        buffer: options.buffer()?,
        attrs: attrs(request)?,
        ..default
    };
    if file.compress && (file.max_files < 2 || file.max_size == 0) {
        let m = match local {
            true => "compression cannot be enabled when max file count is 1",
            false => "compress cannot be true when max-file is less than 2 or max-size is not set",
        };
        return Err(Error::new(Kind::BadInput, m)
            .with_hint("only full files are compressed: write max-size=10m, max-file=3"));
    }
    Ok(file)
}

struct Options<'a>(&'a BTreeMap<String, String>);

impl Options<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn max_size(&self, default: u64) -> Result<u64> {
        match self.get("max-size") {
            None => Ok(default),
            Some("-1") => Ok(0),
            // Decimal, other than all other sizes, as docker has it.
            Some(text) => u64::try_from(size::decimal(text)?)
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| bad("max-size", text, "write max-size=10m or max-size=-1")),
        }
    }

    fn max_files(&self, default: u32) -> Result<u32> {
        let Some(text) = self.get("max-file") else {
            return Ok(default);
        };
        let files = text.parse().ok().filter(|n| (1..=1000).contains(n));
        files.ok_or_else(|| bad("max-file", text, "write max-file=3; 1000 are the most"))
    }

    fn compress(&self, default: bool) -> Result<bool> {
        // What Go takes for one.
        match self.get("compress") {
            None => Ok(default),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(text) => Err(bad("compress", text, "write compress=true")),
        }
    }

    /// Bytes that wait for the disk; `None` if the container does.
    fn buffer(&self) -> Result<Option<u64>> {
        let says = |m: String| Error::new(Kind::BadInput, m);
        let mode = self.get("mode").unwrap_or_default();
        if !matches!(mode, "" | "blocking" | "non-blocking") {
            let m = format!("logger: logging mode not supported: {}", show(mode));
            return Err(says(m).with_hint("modes are blocking and non-blocking"));
        }
        match (mode, self.get("max-buffer-size")) {
            ("non-blocking", None) => Ok(Some(BUFFER)),
            ("non-blocking", Some(text)) => {
                let size = size::bytes(text);
                let size = size.map_err(|e| e.context("error parsing option max-buffer-size"))?;
                Ok(u64::try_from(size).ok())
            }
            (_, None) => Ok(None),
            (_, Some(_)) => {
                let m = "logger: max-buffer-size option is only supported with 'mode=non-blocking'";
                Err(says(m.into()).with_hint("give both, or neither"))
            }
        }
    }
}

fn bad(key: &str, value: &str, hint: &str) -> Error {
    let m = format!("invalid value for {key}: {}", show(value));
    Error::new(Kind::BadInput, m).with_hint(hint)
}

/// Labels and variables that each line of the log carries, as docker's `labels` and `env` have it.
fn attrs(request: &Request) -> Result<String> {
    let options = &request.host_config.log_config.config;
    let mut attrs: BTreeMap<&str, &str> = BTreeMap::new();
    let keys = |option: &str| {
        let list = options.get(option).map_or("", String::as_str);
        list.split(',')
            .map(str::trim)
            .filter(|k| !k.is_empty())
            .collect::<Vec<_>>()
    };
    for key in keys("labels") {
        if let Some((key, value)) = request.config.labels.get_key_value(key) {
            attrs.insert(key, value);
        }
    }
    for key in keys("env") {
        let of = |v: &'_ String| {
            v.strip_prefix(key)
                .is_some_and(|rest| rest.starts_with('='))
        };
        if let Some((name, value)) = request
            .config
            .env
            .iter()
            .find(|v| of(v))
            .and_then(|v| v.split_once('='))
        {
            attrs.insert(name, value);
        }
    }
    if attrs.is_empty() {
        Ok(String::new())
    } else {
        text(&attrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(driver: &str, options: &str) -> Request {
        let mut request = Request::default();
        let log = &mut request.host_config.log_config;
        driver.clone_into(&mut log.r#type);
        let pairs = options.split_whitespace().filter_map(|o| o.split_once('='));
        log.config = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        request
    }

    #[test]
    fn defaults_and_options() {
        for (driver, options, want) in [
            ("", "", (20_000_000, 5, false, None)),
            ("local", "", (20 << 20, 5, true, None)),
            ("local", "compress=0 max-file=1", (20 << 20, 1, false, None)),
            ("", "max-size=10k compress=T", (10_000, 5, true, None)),
            ("k8s-file", "max-size=-1 mode=blocking", (0, 5, false, None)),
            (
                "",
                "mode=non-blocking",
                (20_000_000, 5, false, Some(1 << 20)),
            ),
            (
                "local",
                "mode=non-blocking max-buffer-size=1.5k",
                (20 << 20, 5, true, Some(1536)),
            ),
        ] {
            let request = request(driver, options);
            check(&request).unwrap();
            let file = file(&request, PathBuf::new()).unwrap();
            let got = (file.max_size, file.max_files, file.compress, file.buffer);
            assert_eq!(got, want, "{driver} {options}");
        }
        check(&request("none", "")).unwrap();
    }

    #[test]
    fn dockers_words() {
        for (driver, options, want) in [
            (
                "syslog",
                "",
                "logger: no log driver named 'syslog' is registered",
            ),
            ("", "x=1", "unknown log opt 'x' for json-file log driver"),
            ("local", "x=1", "unknown log opt 'x' for log driver local"),
            (
                "k8s-file",
                "env=A",
                "unknown log opt 'env' for k8s-file log driver",
            ),
            ("", "tag=a", "log opt tag is not supported"),
            ("", "mode=fast", "logger: logging mode not supported: fast"),
            (
                "",
                "max-buffer-size=1m",
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            (
                "",
                "mode=non-blocking max-buffer-size=-1",
                "error parsing option max-buffer-size: invalid size: '-1'",
            ),
            (
                "",
                "compress=true max-file=1",
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            (
                "",
                "compress=true max-size=-1",
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            (
                "local",
                "max-file=1",
                "compression cannot be enabled when max file count is 1",
            ),
            ("", "max-size=0", "invalid value for max-size: 0"),
            ("", "max-file=0", "invalid value for max-file: 0"),
            ("", "compress=yes", "invalid value for compress: yes"),
        ] {
            let e = check(&request(driver, options)).unwrap_err();
            assert_eq!(e.message(), want, "{driver} {options}");
            assert!(e.hint().is_some());
        }
    }
}
