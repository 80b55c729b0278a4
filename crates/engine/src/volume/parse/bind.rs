//! Docker's `-v`.

use std::path::Path;

use super::{PROPAGATIONS, bad, host_path, target};
use crate::{error::Result, volume::is_volume_name};

/// What one `-v` comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flag {
    /// For `HostConfig.Binds`: a source and a target.
    Bind(String),
    /// For `Config.Volumes`: a path that gets a volume without a name.
    Anonymous(String),
}

/// What one `-v` says, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::volume) struct Bind {
    /// Path or volume; empty for a volume without a name.
    pub(in crate::volume) source: String,
    pub(in crate::volume) target: String,
    pub(in crate::volume) read_only: bool,
    pub(in crate::volume) no_copy: bool,
    pub(in crate::volume) propagation: String,
    /// `z` or `Z`.
    pub(in crate::volume) relabel: bool,
    /// The options as they were given.
    pub(in crate::volume) mode: String,
}

/// Takes `[source:]target[:options]` apart; a source is a whole path or a name.
pub(in crate::volume) fn bind(text: &str) -> Result<Bind> {
    let wrong =
        |why: &str| {
            bad(format!("invalid volume specification: '{}'{why}", text.escape_debug())).with_hint(
            "write [source:]target[:options]; both are whole paths, or the source a volume's name",
        )
        };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, inside, mode) = match parts[..] {
        [inside] => ("", inside, ""),
        // The second is options if it is no path.
        [inside, mode] if !mode.starts_with('/') && inside.starts_with('/') => ("", inside, mode),
        [source, inside] => (source, inside, ""),
        [source, inside, mode] => (source, inside, mode),
        _ => return Err(wrong(": too many colons")),
    };
    if parts.iter().any(|p| p.is_empty()) {
        return Err(wrong(": empty section between colons"));
    }
    if parts.len() == 2 && source.is_empty() {
        // `/a:ro` is a target with options only where they are options.
        options(mode, false).map_err(|e| e.context(format!("invalid mode: {mode}")))?;
    }
    let is_path = source.starts_with('/');
    if !source.is_empty() && !is_path && !is_volume_name(source) {
        let m = format!(
            "\"{}\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed",
            source.escape_debug()
        );
        return Err(bad(m).with_hint(
            "if a directory of the host was meant, give the whole path; names have two \
             characters at least",
        ));
    }
    let mut bind = options(mode, is_path).map_err(|e| e.context(format!("`{text}`")))?;
    source.clone_into(&mut bind.source);
    bind.target = target(inside)?;
    mode.clone_into(&mut bind.mode);
    Ok(bind)
}

fn options(text: &str, is_path: bool) -> Result<Bind> {
    let mut bind = Bind::default();
    let mut access = false;
    for word in text.split(',').filter(|_| !text.is_empty()) {
        let twice = |is: bool| {
            let m = format!("conflicting mount options: {}", text.escape_debug());
            if is { Err(bad(m)) } else { Ok(()) }
        };
        match word {
            "ro" | "rw" | "readonly" => {
                twice(access)?;
                access = true;
                bind.read_only = word != "rw";
            }
            "z" | "Z" => {
                twice(bind.relabel)?;
                bind.relabel = true;
            }
            "nocopy" if !is_path => bind.no_copy = true,
            // For Docker Desktop only; it is taken there as here.
            "consistent" | "cached" | "delegated" => {}
            word if PROPAGATIONS.contains(&word) && is_path => {
                twice(!bind.propagation.is_empty())?;
                word.clone_into(&mut bind.propagation);
            }
            word => {
                return Err(
                    bad(format!("invalid mount option `{}`", word.escape_debug())).with_hint(
                        if is_path {
                            "there are ro, rw, z, Z and [r]private, [r]shared, [r]slave"
                        } else {
                            "there are ro, rw, z, Z and nocopy"
                        },
                    ),
                );
            }
        }
    }
    Ok(bind)
}

/// One `-v`. A source such as `./data` is below `cwd`.
///
/// # Errors
/// [`Kind::BadInput`](crate::error::Kind::BadInput) with what is wrong.
pub fn volume(text: &str, cwd: &Path) -> Result<Flag> {
    let whole = match text.split_once(':') {
        Some((source, rest)) => match host_path(source, cwd)? {
            Some(path) => format!("{path}:{rest}"),
            None => text.to_owned(),
        },
        None => text.to_owned(),
    };
    let parsed = bind(&whole)?;
    if parsed.source.is_empty() && parsed.mode.is_empty() {
        return Ok(Flag::Anonymous(parsed.target));
    }
    Ok(Flag::Bind(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cwd() -> &'static Path {
        Path::new("/home/me/dir")
    }

    #[test]
    fn dockers_v() {
        let bound = |text: &str| match volume(text, cwd()).unwrap() {
            Flag::Bind(text) => text,
            Flag::Anonymous(path) => format!("anonymous {path}"),
        };
        for (text, want) in [
            ("/data", "anonymous /data"),
            ("/data/../x/", "anonymous /x"),
            ("/src:/dst", "/src:/dst"),
            ("./a:/dst:ro", "/home/me/dir/a:/dst:ro"),
            (".:/dst", "/home/me/dir:/dst"),
            ("../a:/dst", "/home/me/dir/../a:/dst"),
            ("vol:/dst:nocopy", "vol:/dst:nocopy"),
            ("/dst:ro", "/dst:ro"),
        ] {
            assert_eq!(bound(text), want, "{text}");
        }
        let b = bind("/src:/dst:ro,z,rslave").unwrap();
        assert!(b.read_only && b.relabel && b.propagation == "rslave" && b.target == "/dst");
        for text in [
            "",
            ":",
            "/src:",
            ":/dst",
            "x:/dst",
            "vol:dst",
            "data",
            "/a:/b:/c:ro",
            "/a:/b:foo",
            "/a:/b:ro,rw",
            "/a:/b:nocopy",
            "vol:/b:rshared",
            "/a:/",
            "/a:/b/..",
            "a/b:/c",
            "/a:/b:z,Z",
            "/a:/b:rshared,rslave",
            "/a:foo",
            "v ol:/x",
            "/a:/b:,",
        ] {
            assert!(volume(text, cwd()).is_err(), "{text}");
        }
    }
}
