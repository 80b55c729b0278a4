//! Docker's `--mount`.

use std::path::{Component, Path};

use super::{PROPAGATIONS, bad, host_path, target};
use crate::{
    error::{Error, Kind, Result},
    spec::{
        request::{BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeOptions},
        size,
    },
    volume::is_volume_name,
};

/// Fields of comma-separated values; a field in quotes may hold commas.
///
/// # Errors
/// [`Kind::BadInput`] if a quote is not closed.
pub fn fields(text: &str) -> Result<Vec<String>> {
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
    let mut image = ImageOptions::default();
    let mut writable = false;
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
            "image-subpath" => need()?.clone_into(&mut image.subpath),
            // Podman's words.
            "subpath" => {
                of.push(("image".to_owned(), key.clone()));
                need()?.clone_into(&mut image.subpath);
            }
            "rw" | "readwrite" => {
                of.push(("image".to_owned(), key.clone()));
                writable = flag(&key, value)?;
            }
            "tmpfs-size" => {
                let bytes = size::bytes(need()?).ok();
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
                return Err(Error::new(Kind::Unsupported, m).with_hint(
                    "type, source, target, readonly, and bind-…, volume-…, tmpfs-…, image-…",
                ));
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
        "image" if writable => {
            let m = "images are mounted read-only";
            return Err(Error::new(Kind::Unsupported, m)
                .with_hint("leave out rw, or copy what is to be changed: `unlade cp`"));
        }
        "image" => mount.image_options = (image != ImageOptions::default()).then_some(image),
        _ => {}
    }
    check(&mount)?;
    Ok(mount)
}

/// Checks one mount of a request.
pub(in crate::volume) fn check(mount: &Mount) -> Result<()> {
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
                if mount.source.is_empty() {
                    return Err(wrong("a subpath needs a volume with a name".to_owned()));
                }
                if !stays_inside(subpath) {
                    return Err(wrong("the subpath must stay in the volume".to_owned()));
                }
            }
        }
        "image" => {
            if mount.source.is_empty() {
                return Err(wrong("it needs an image as its source".to_owned()));
            }
            let subpath = mount.image_options.as_ref().map_or("", |i| &i.subpath);
            if !stays_inside(subpath) {
                return Err(wrong("the subpath must stay in the image".to_owned()));
            }
        }
        "tmpfs" if !mount.source.is_empty() => {
            return Err(wrong("it has no source".to_owned()));
        }
        "tmpfs" => {}
        kind => {
            let m = format!("mount type `{}` is not supported", kind.escape_debug());
            return Err(Error::new(Kind::Unsupported, m)
                .with_hint("there are bind, volume, tmpfs and image"));
        }
    }
    Ok(())
}

fn stays_inside(subpath: &str) -> bool {
    let inside = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    Path::new(subpath).components().all(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cwd() -> &'static Path {
        Path::new("/home/me/dir")
    }

    #[test]
    fn dockers_mount() {
        let m = mount(
            "type=bind,src=./x,dst=/d,readonly,bind-propagation=rslave",
            cwd(),
        )
        .unwrap();
        assert!(m.source == "/home/me/dir/x" && m.read_only && m.target == "/d");
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
        let m = mount("type=image,src=app:1,dst=/d,subpath=a/b,rw=false", cwd()).unwrap();
        let same = mount("type=image,source=app:1,target=/d,image-subpath=a/b", cwd());
        assert!(m == same.unwrap() && m.image_options.unwrap().subpath == "a/b");
        for text in [
            "type=image,dst=/d",
            "type=image,src=x,dst=/d,rw",
            "type=image,src=x,dst=/d,image-subpath=../x",
            "src=x,dst=/d,subpath=a",
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
}
