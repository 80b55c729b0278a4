//! Docker's `-v`, `--mount` and `--tmpfs`.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

use super::is_volume_name;
use crate::{
    error::{Error, Kind, Result},
    spec::request::{BindOptions, Mount, TmpfsOptions, VolumeOptions},
};

/// Longest path in a container, in bytes.
const MOST_PATH: usize = 4095;
/// What `propagation` can be.
const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// What one `-v` comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flag {
    /// For `HostConfig.Binds`: a source and a target.
    Bind(String),
    /// For `Config.Volumes`: a path that gets a volume without a name.
    Anonymous(String),
}

fn bad(what: impl fmt::Display) -> Error {
    Error::new(Kind::BadInput, what.to_string())
}

/// A path in a container: absolute, without `.` and `..`, not the root.
pub(super) fn target(text: &str) -> Result<String> {
    let wrong = |why: &str| {
        let shown: String = text.chars().take(200).collect();
        bad(format!(
            "invalid mount path: '{}' {why}",
            shown.escape_debug()
        ))
    };
    if !text.starts_with('/') {
        return Err(wrong("mount path must be absolute"));
    }
    if text.len() > MOST_PATH || text.contains('\0') {
        return Err(wrong("is no path"));
    }
    let mut clean = PathBuf::from("/");
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    let clean = clean.to_string_lossy().into_owned();
    if clean == "/" {
        return Err(wrong("cannot be the root"));
    }
    Ok(clean)
}

/// A source on the host as a whole path, if it is one and no volume's name.
fn host_path(text: &str, cwd: &Path) -> Result<Option<String>> {
    let path = if text.starts_with('/') {
        PathBuf::from(text)
    } else if text == "." || text == ".." || text.starts_with("./") || text.starts_with("../") {
        cwd.join(text)
    } else {
        return Ok(None);
    };
    // `..` stays: through a symlink it leads elsewhere.
    let whole: PathBuf = path
        .components()
        .filter(|c| !matches!(c, Component::CurDir))
        .collect();
    let text = whole.to_str().map(str::to_owned);
    text.map(Some)
        .ok_or_else(|| bad(format!("`{}` is not a name in UTF-8", whole.display())))
}

/// What one `-v` says, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bind {
    /// Path or volume; empty for a volume without a name.
    pub(super) source: String,
    pub(super) target: String,
    pub(super) read_only: bool,
    pub(super) no_copy: bool,
    pub(super) propagation: String,
    /// `z` or `Z`.
    pub(super) relabel: bool,
    /// The options as they were given.
    pub(super) mode: String,
}

/// Takes `[source:]target[:options]` apart; a source is a whole path or a name.
pub(super) fn bind(text: &str) -> Result<Bind> {
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
/// [`Kind::BadInput`] with what is wrong.
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

/// Fields of comma-separated values; a field in quotes may hold commas.
fn fields(text: &str) -> Result<Vec<String>> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if !quoted && field.is_empty() => quoted = true,
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            ',' if !quoted => all.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err(bad("a quote is not closed"));
    }
    all.push(field);
    Ok(all)
}

fn flag(key: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(value) => Err(bad(format!(
            "invalid value for {key}: {}",
            value.escape_debug()
        ))),
    }
}

/// Bytes, as `64m`.
fn size(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1_i64 << 40,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(factor)
}

/// One `--mount`. A source such as `./data` of a bind is below `cwd`.
///
/// # Errors
/// [`Kind::BadInput`] with what is wrong.
pub fn mount(text: &str, cwd: &Path) -> Result<Mount> {
    let of = |e: Error| e.context("--mount");
    parse_mount(text, cwd).map_err(of)
}

fn parse_mount(text: &str, cwd: &Path) -> Result<Mount> {
    let mut mount = Mount {
        r#type: "volume".to_owned(),
        ..Mount::default()
    };
    let mut of = Vec::new();
    let mut bind = BindOptions::default();
    let mut volume = VolumeOptions::default();
    let mut tmpfs = TmpfsOptions::default();
    for field in fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let need = || {
            value.ok_or_else(|| {
                bad(format!(
                    "invalid field '{}' must be a key=value pair",
                    field
                ))
            })
        };
        if let Some((kind, _)) = key.split_once('-') {
            of.push((kind.to_owned(), key.clone()));
        }
        match &*key {
            "type" => mount.r#type = need()?.to_ascii_lowercase(),
            "source" | "src" => need()?.clone_into(&mut mount.source),
            "target" | "dst" | "destination" => mount.target = target(need()?)?,
            "readonly" | "ro" => mount.read_only = flag(&key, value)?,
            // For Docker Desktop only; it is taken there as here.
            "consistency" => drop(need()?),
            "bind-propagation" => {
                let word = need()?;
                if !PROPAGATIONS.contains(&word) {
                    return Err(bad(format!("invalid propagation {}", word.escape_debug())));
                }
                word.clone_into(&mut bind.propagation);
            }
            "bind-nonrecursive" => bind.non_recursive = flag(&key, value)?,
            "bind-recursive" => match need()? {
                "enabled" => {}
                "disabled" => bind.non_recursive = true,
                "writable" => bind.read_only_non_recursive = true,
                "readonly" => bind.read_only_force_recursive = true,
                word => {
                    let m = format!("invalid value for {key}: {}", word.escape_debug());
                    return Err(
                        bad(m).with_hint("there are enabled, disabled, writable and readonly")
                    );
                }
            },
            "bind-create-src" => bind.create_mountpoint = flag(&key, value)?,
            "volume-nocopy" => volume.no_copy = flag(&key, value)?,
            "volume-subpath" => need()?.clone_into(&mut volume.subpath),
            "volume-label" => {
                let (name, value) = need()?.split_once('=').unwrap_or((need()?, ""));
                volume.labels.insert(name.to_owned(), value.to_owned());
            }
            "volume-driver" if need()? == "local" => {}
            "tmpfs-size" => {
                let bytes = size(need()?).filter(|n| *n >= 0);
                tmpfs.size_bytes =
                    bytes.ok_or_else(|| bad(format!("invalid value for {key}: {field}")))?;
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(need()?, 8)
                    .ok()
                    .filter(|m| *m <= 0o7777);
                tmpfs.mode =
                    mode.ok_or_else(|| bad(format!("invalid value for {key}: {field}")))?;
            }
            key => {
                let m = format!("unexpected key '{}'", key.escape_debug());
                return Err(Error::new(Kind::Unsupported, m)
                    .with_hint("type, source, target, readonly, and bind-…, volume-…, tmpfs-…"));
            }
        }
    }
    if mount.target.is_empty() {
        return Err(bad("target is required"));
    }
    if let Some((_, key)) = of.iter().find(|(kind, _)| *kind != mount.r#type) {
        return Err(bad(format!(
            "cannot mix '{key}' with mount type '{}'",
            mount.r#type
        )));
    }
    match &*mount.r#type {
        "bind" => {
            if let Some(path) = host_path(&mount.source, cwd)? {
                mount.source = path;
            }
            mount.bind_options = (bind != BindOptions::default()).then_some(bind);
        }
        "volume" => {
            mount.volume_options = (volume != VolumeOptions::default()).then_some(volume);
        }
        "tmpfs" => mount.tmpfs_options = (tmpfs != TmpfsOptions::default()).then_some(tmpfs),
        _ => {}
    }
    check(&mount)?;
    Ok(mount)
}

/// Checks one mount of a request.
pub(super) fn check(mount: &Mount) -> Result<()> {
    let kind = &*mount.r#type;
    let wrong = |why: String| bad(format!("invalid mount config for type \"{kind}\": {why}"));
    target(&mount.target)?;
    match kind {
        "bind" => {
            if !mount.source.starts_with('/') {
                return Err(wrong("the source must be a whole path".to_owned()));
            }
            let bind = mount.bind_options.clone().unwrap_or_default();
            let propagation = &*bind.propagation;
            if !propagation.is_empty() && !PROPAGATIONS.contains(&propagation) {
                return Err(wrong(format!(
                    "no propagation {}",
                    propagation.escape_debug()
                )));
            }
            let forced = bind.read_only_force_recursive;
            if forced && (!mount.read_only || bind.non_recursive) {
                let m = "bind-recursive=readonly needs readonly, and mounts below";
                return Err(wrong(m.to_owned()));
            }
            if forced && !matches!(propagation, "" | "rprivate") {
                let m = "bind-recursive=readonly needs bind-propagation=rprivate";
                return Err(wrong(m.to_owned()));
            }
        }
        "volume" => {
            let subpath = mount.volume_options.as_ref().map_or("", |v| &v.subpath);
            if !mount.source.is_empty() && !is_volume_name(&mount.source) {
                return Err(wrong(format!(
                    "`{}` is no name of a volume",
                    mount.source.escape_debug()
                )));
            }
            if !subpath.is_empty() {
                let inside =
                    |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
                if mount.source.is_empty() {
                    return Err(wrong("a subpath needs a volume with a name".to_owned()));
                }
                if !Path::new(subpath).components().all(inside) {
                    return Err(wrong("the subpath must stay in the volume".to_owned()));
                }
            }
        }
        "tmpfs" if !mount.source.is_empty() => {
            return Err(wrong("it has no source".to_owned()));
        }
        "tmpfs" => {}
        kind => {
            let m = format!("mount type `{}` is not supported", kind.escape_debug());
            return Err(
                Error::new(Kind::Unsupported, m).with_hint("there are bind, volume and tmpfs")
            );
        }
    }
    Ok(())
}

/// One `--tmpfs`: the path, and options of the mount.
///
/// # Errors
/// [`Kind::BadInput`] if it is no path of a container.
pub fn tmpfs(text: &str) -> Result<(String, String)> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    tmpfs_options(options)?;
    Ok((target(path)?, options.to_owned()))
}

/// Options of a tmpfs, over Docker's defaults.
pub(super) fn tmpfs_options(text: &str) -> Result<Vec<String>> {
    /// Words, with what they undo.
    const WORDS: [(&str, &str); 14] = [
        ("exec", "noexec"),
        ("noexec", "exec"),
        ("suid", "nosuid"),
        ("nosuid", "suid"),
        ("dev", "nodev"),
        ("nodev", "dev"),
        ("ro", "rw"),
        ("rw", "ro"),
        ("atime", "noatime"),
        ("noatime", "atime"),
        ("diratime", "nodiratime"),
        ("nodiratime", "diratime"),
        ("relatime", "norelatime"),
        ("strictatime", "nostrictatime"),
    ];
    const KEYS: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];
    let mut all: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    for word in text.split(',').filter(|w| !w.is_empty()) {
        let undone = WORDS.iter().find(|(w, _)| *w == word).map(|(_, u)| *u);
        let key = word.split_once('=').map(|(key, _)| key);
        match (undone, key) {
            (Some(undone), _) => all.retain(|o| o != undone && o != word),
            (None, Some(key)) if KEYS.contains(&key) => {
                all.retain(|o| o.split_once('=').map(|(k, _)| k) != Some(key));
            }
            _ => {
                return Err(
                    bad(format!("invalid tmpfs option \"{}\"", word.escape_debug()))
                        .with_hint("there are size=, mode=, uid=, gid=, nr_inodes=, exec, ro, …"),
                );
            }
        }
        all.push(word.to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cwd() -> &'static Path {
        Path::new("/work/dir")
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
            ("./a:/dst:ro", "/work/dir/a:/dst:ro"),
            (".:/dst", "/work/dir:/dst"),
            ("../a:/dst", "/work/dir/../a:/dst"),
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

    #[test]
    fn dockers_mount() {
        let m = mount(
            "type=bind,src=./x,dst=/d,readonly,bind-propagation=rslave",
            cwd(),
        )
        .unwrap();
        assert!(m.source == "/work/dir/x" && m.read_only && m.target == "/d");
        assert_eq!(m.bind_options.unwrap().propagation, "rslave");
        let m = mount(
            "source=vol,target=/d,volume-subpath=a/b,volume-label=x=y=z",
            cwd(),
        )
        .unwrap();
        let v = m.volume_options.unwrap();
        assert!(m.r#type == "volume" && v.subpath == "a/b" && v.labels["x"] == "y=z");
        let m = mount("type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=0700", cwd()).unwrap();
        let t = m.tmpfs_options.unwrap();
        assert_eq!((t.size_bytes, t.mode), (64 << 20, 0o700));
        let m = mount("type=bind,\"src=/a,b\"\"c\",dst=/d", cwd()).unwrap();
        assert_eq!(m.source, "/a,b\"c");
        for text in [
            "",
            "type=bind,src=/a",
            "type=bind,dst=/d",
            "type=nope,dst=/d",
            "dst=d",
            "dst=/",
            "type=bind,src=a,dst=/d",
            "type=tmpfs,src=x,dst=/d",
            "dst=/d,bind-propagation=rslave",
            "type=bind,src=/a,dst=/d,bind-propagation=x",
            "src=v,dst=/d,volume-subpath=../x",
            "src=vv,dst=/d,volume-subpath=/x",
            "dst=/d,volume-subpath=x",
            "dst=/d,readonly=maybe",
            "type=tmpfs,dst=/d,tmpfs-mode=99999",
            "type=tmpfs,dst=/d,tmpfs-size=-1",
            "foo=1,dst=/d",
            "type=bind,src=/a,dst=/d,bind-recursive=readonly",
            "dst=\"/d",
            "src=../../x,dst=/d",
            "dst=/d,volume-driver=nfs",
        ] {
            assert!(mount(text, cwd()).is_err(), "{text}");
        }
    }

    #[test]
    fn temporary_ones() {
        assert_eq!(tmpfs("/run").unwrap(), ("/run".to_owned(), String::new()));
        let all = |text: &str| tmpfs_options(text).map(|o| o.join(","));
        assert_eq!(all("").unwrap(), "noexec,nosuid,nodev");
        assert_eq!(
            all("exec,size=1m,size=2m,ro,rw").unwrap(),
            "nosuid,nodev,exec,size=2m,rw"
        );
        for bad in ["x", "size", "context=system_u", "bind", "/a"] {
            assert!(all(bad).is_err(), "{bad}");
        }
        assert!(tmpfs("run").is_err() && tmpfs("/a/..:rw").is_err());
    }
}
