//! Lists of variables, labels and other pairs, of flags and of files.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use super::bad;
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Longest file of variables or labels that is read, in bytes.
const MAX_FILE: u64 = 8 << 20;

/// `NAME=VALUE`s of `--env-file`s and then of `-e`. A bare `NAME` is taken from `environment`;
/// in a file it is dropped where that has none, on the command line it removes the variable.
pub(in crate::cli::containers) fn env(
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
pub(in crate::cli::containers) fn labels(
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
pub(in crate::cli::containers) fn pairs(
    flags: &[String],
    what: &str,
) -> Result<BTreeMap<String, String>> {
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
pub(in crate::cli::containers) fn full_pairs(
    flags: &[String],
    what: &str,
) -> Result<BTreeMap<String, String>> {
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

#[cfg(test)]
mod tests {
    use super::{super::said, *};

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
}
