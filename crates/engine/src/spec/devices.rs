//! Device nodes of the host in a container, and what its control group lets it do with them.

use std::{
    fs, io::ErrorKind as Gone, os::unix::fs::FileTypeExt, os::unix::fs::MetadataExt, path::Path,
};

use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
};
use rustix::fs::{major, minor};

use super::{
    check::{bad, no_controls},
    explain::{Notes, Origin},
    place::DeviceNode,
    request::{DeviceMapping, HostConfig, Request},
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Most nodes of one container.
const MOST: usize = 10_000;
/// Deepest directory below one that is asked for.
const DEPTH: u32 = 8;
/// What the runtime makes in every container, and what is no device of the host's: terminals of
/// others, shared memory, message queues.
const NOT_OF_THE_HOST: [&str; 8] = [
    "pts",
    "shm",
    "fd",
    "mqueue",
    "console",
    ".lxc",
    ".lxd-mounts",
    ".udev",
];

/// Finds the device nodes that a request asks for on this host: `--device`, of which each may be
/// a directory, and with `--privileged` all of `/dev`.
///
/// # Errors
/// [`Kind::NotFound`] for what is not there, [`Kind::BadInput`] for what is no device.
pub fn find(request: &Request) -> Result<Vec<DeviceNode>> {
    let mut out = Vec::new();
    let h = &request.host_config;
    if h.privileged {
        walk(Path::new("/dev"), "/dev", "rwm", DEPTH, &mut out)?;
    }
    for asked in &h.devices {
        one(asked, &mut out)?;
    }
    // A node that is asked for by name comes after, and counts.
    let mut seen = std::collections::HashSet::new();
    out.reverse();
    out.retain(|d| seen.insert(d.path.clone()));
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

fn one(asked: &DeviceMapping, out: &mut Vec<DeviceNode>) -> Result<()> {
    let from = asked.path_on_host.as_str();
    let to = match asked.path_in_container.as_str() {
        "" => from,
        to => to,
    };
    let access = match asked.cgroup_permissions.as_str() {
        "" => "rwm",
        some => some,
    };
    if !is_access(access) {
        let m = format!("`{}` is no access to a device", show(access));
        return bad(m, "letters of rwm");
    }
    for path in [from, to] {
        no_controls("the path of a device", path)?;
        if !path.starts_with('/') {
            let e = Error::new(Kind::BadInput, format!("`{}` is no device", show(path)));
            return Err(e.with_hint("give an absolute path, or vendor.com/class=name for CDI"));
        }
    }
    let before = out.len();
    let meta = fs::metadata(from).map_err(|e| missing(from, e))?;
    if meta.is_dir() {
        // What a link leads to keeps the name that was asked for.
        let real = fs::canonicalize(from).map_err(|e| missing(from, e))?;
        walk(&real, to, access, DEPTH, out)?;
        if out.len() == before {
            return bad(
                format!("no device is in `{from}`"),
                "name a device or a directory of them",
            );
        }
        return Ok(());
    }
    out.push(look(from, to, access)?);
    Ok(())
}

/// The node at `from`, as it is to be at `to`.
pub(super) fn look(from: &str, to: &str, access: &str) -> Result<DeviceNode> {
    let meta = fs::metadata(from).map_err(|e| missing(from, e))?;
    match node(&meta, to, access) {
        Some(node) => Ok(node),
        None => bad(format!("`{from}` is no device"), "use -v for files"),
    }
}

fn missing(path: &str, e: std::io::Error) -> Error {
    if e.kind() == std::io::ErrorKind::NotFound {
        let e = Error::new(
            Kind::NotFound,
            format!("there is no device `{}`", show(path)),
        );
        return e.with_hint("`ls /dev` shows what there is");
    }
    Error::host(format!("look at {path}"), e)
}

fn node(meta: &fs::Metadata, path: &str, access: &str) -> Option<DeviceNode> {
    let kind = meta.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return None;
    }
    Some(DeviceNode {
        path: path.to_owned(),
        block: kind.is_block_device(),
        major: major(meta.rdev()),
        minor: minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    })
}

fn walk(dir: &Path, to: &str, access: &str, depth: u32, out: &mut Vec<DeviceNode>) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        // Devices come and go, and what cannot be looked at cannot be given either.
        Err(e) if [Gone::NotFound, Gone::PermissionDenied].contains(&e.kind()) => return Ok(()),
        Err(e) => return Err(Error::host(format!("list {}", dir.display()), e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::host(format!("list {}", dir.display()), e))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if NOT_OF_THE_HOST.contains(&name) || name.chars().any(char::is_control) {
            continue;
        }
        // Of the entry itself: a link to a device elsewhere is not followed.
        let Ok(meta) = entry.metadata() else { continue };
        let path = format!("{}/{name}", to.trim_end_matches('/'));
        if meta.is_dir() && depth > 0 {
            walk(&entry.path(), &path, access, depth - 1, out)?;
        } else if let Some(node) = node(&meta, &path, access) {
            out.push(node);
        }
        if out.len() > MOST {
            let m = format!("more than {MOST} devices in {}", dir.display());
            return Err(Error::new(Kind::Limit, m).with_hint("name those that are needed"));
        }
    }
    Ok(())
}

fn is_access(text: &str) -> bool {
    let mut seen = [false; 3];
    !text.is_empty()
        && text.chars().all(|c| {
            "rwm"
                .find(c)
                .is_some_and(|at| !std::mem::replace(&mut seen[at], true))
        })
}

fn rule(
    allow: bool,
    typ: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Result<LinuxDeviceCgroup> {
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .access(access)
        .build()
        .map_err(|e| Error::new(Kind::Bug, e.to_string()))?;
    rule.set_typ(typ).set_major(major).set_minor(minor);
    Ok(rule)
}

/// Parses `--device-cgroup-rule`s: `c 13:* rmw`, `a *:* rwm`.
pub(super) fn rules(texts: &[String]) -> Result<Vec<LinuxDeviceCgroup>> {
    let parse = |text: &str| {
        let words: Vec<&str> = text.split(' ').collect();
        let [typ, numbers, access] = words[..] else {
            return None;
        };
        let typ = match typ {
            "a" => LinuxDeviceType::A,
            "b" => LinuxDeviceType::B,
            "c" => LinuxDeviceType::C,
            _ => return None,
        };
        let number = |t: &str, most: i64| match t {
            "*" => Some(None),
            t if t.bytes().all(|b| b.is_ascii_digit()) => {
                t.parse().ok().filter(|n| *n < most).map(Some)
            }
            _ => None,
        };
        let (major, minor) = numbers.split_once(':')?;
        let (major, minor) = (number(major, 1 << 12)?, number(minor, 1 << 20)?);
        is_access(access).then(|| rule(true, Some(typ), major, minor, access))
    };
    let rules = texts.iter().map(|text| {
        parse(text).unwrap_or_else(|| {
            let m = format!("`{}` is no rule for devices", show(text));
            bad(m, "write it as `c 13:* rwm`")
        })
    });
    rules.collect()
}

/// The rules of the control group: nothing, but what every container may use and what was asked
/// for.
pub(super) fn allowed(
    h: &HostConfig,
    nodes: &[DeviceNode],
    notes: &mut Notes,
) -> Result<Vec<LinuxDeviceCgroup>> {
    let path = |n: usize| format!("linux.resources.devices[{n}]");
    notes.set("linux.resources.devices", Origin::Default, "");
    if h.privileged {
        notes.set(path(0), Origin::User, "--privileged");
        return Ok(vec![rule(true, None, None, None, "rwm")?]);
    }
    let c = Some(LinuxDeviceType::C);
    let mut out = vec![rule(false, None, None, None, "rwm")?];
    // null, zero, full, random, urandom, tty, console.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1)] {
        out.push(rule(true, c, Some(major), Some(minor), "rwm")?);
    }
    // fuse: a runtime may allow it by itself.
    out.push(rule(false, c, Some(10), Some(229), "rwm")?);
    for node in nodes {
        notes.set(path(out.len()), Origin::User, "--device");
        let typ = if node.block {
            LinuxDeviceType::B
        } else {
            LinuxDeviceType::C
        };
        let numbers = (Some(node.major.into()), Some(node.minor.into()));
        out.push(rule(true, Some(typ), numbers.0, numbers.1, &node.access)?);
    }
    for rule in rules(&h.device_cgroup_rules)? {
        notes.set(path(out.len()), Origin::User, "--device-cgroup-rule");
        out.push(rule);
    }
    Ok(out)
}

/// The nodes that the runtime makes.
pub(super) fn nodes(
    nodes: &[DeviceNode],
    privileged: bool,
    notes: &mut Notes,
) -> Result<Vec<LinuxDevice>> {
    let build = |node: &DeviceNode| {
        LinuxDeviceBuilder::default()
            .path(&node.path)
            .typ(if node.block {
                LinuxDeviceType::B
            } else {
                LinuxDeviceType::C
            })
            .major(i64::from(node.major))
            .minor(i64::from(node.minor))
            .file_mode(node.mode)
            .uid(node.uid)
            .gid(node.gid)
            .build()
            .map_err(|e| Error::new(Kind::Bug, e.to_string()))
    };
    let detail = if privileged {
        "--privileged"
    } else {
        "--device"
    };
    notes.set("linux.devices", Origin::User, detail);
    nodes.iter().map(build).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(from: &str, to: &str, access: &str) -> Result<Vec<DeviceNode>> {
        let mut request = Request::default();
        request.host_config.devices.push(DeviceMapping {
            path_on_host: from.into(),
            path_in_container: to.into(),
            cgroup_permissions: access.into(),
        });
        find(&request)
    }

    #[test]
    fn nodes_of_this_host() {
        let null = ask("/dev/null", "/dev/x", "r").unwrap();
        assert_eq!(
            (
                null[0].path.as_str(),
                null[0].major,
                null[0].minor,
                null[0].block
            ),
            ("/dev/x", 1, 3, false)
        );
        assert_eq!((null[0].access.as_str(), null.len()), ("r", 1));
        assert_eq!(ask("/dev/null", "", "").unwrap()[0].access, "rwm");
        // A directory stands for the nodes in it, here through a link.
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev", dir.path().join("d")).unwrap();
        let link = dir.path().join("d");
        let all = ask(link.to_str().unwrap(), "/d", "rw").unwrap();
        assert!(all.iter().any(|d| d.path == "/d/null"));
        assert!(!all.iter().any(|d| d.path.starts_with("/d/pts")));
        let request = Request {
            host_config: HostConfig {
                privileged: true,
                ..HostConfig::default()
            },
            ..Request::default()
        };
        let all = find(&request).unwrap();
        assert!(all.iter().any(|d| d.path == "/dev/zero"));
        assert!(all.is_sorted_by(|a, b| a.path < b.path));
    }

    #[test]
    fn what_is_no_device() {
        for (from, access, kind) in [
            ("/dev/none-such", "", Kind::NotFound),
            ("/etc/hostname", "", Kind::BadInput),
            ("/proc/self/fdinfo", "", Kind::BadInput),
            ("vendor.com/gpu=0", "", Kind::BadInput),
            ("/dev/null", "rx", Kind::BadInput),
            ("/dev/null", "rr", Kind::BadInput),
            ("/dev/n\null", "", Kind::BadInput),
        ] {
            assert_eq!(ask(from, "", access).unwrap_err().kind(), kind, "{from}");
        }
    }

    #[test]
    fn rules_of_the_user() {
        let texts = ["c 13:* rmw", "a *:* r", "b 8:0 w"].map(str::to_owned);
        let out = serde_json::to_string(&rules(&texts).unwrap()).unwrap();
        assert_eq!(
            out,
            r#"[{"allow":true,"type":"c","major":13,"access":"rmw"},{"allow":true,"type":"a","access":"r"},{"allow":true,"type":"b","major":8,"minor":0,"access":"w"}]"#
        );
        for text in [
            "",
            "c",
            "c 1:2",
            "d 1:1 r",
            "c 1 r",
            "c 1:1 x",
            "c -1:1 r",
            "c 4096:1 r",
            "c 1:1048576 r",
            "c 1:1  r",
            "c 1: r\n",
        ] {
            assert!(rules(&[text.to_owned()]).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_but_what_is_listed() {
        let h = HostConfig::default();
        let mut notes = Notes::default();
        let out = allowed(&h, &[], &mut notes).unwrap();
        assert!(!out[0].allow() && out[0].major().is_none());
        assert_eq!(out.len(), 9);
        let h = HostConfig {
            privileged: true,
            ..h
        };
        let out = allowed(&h, &[], &mut notes).unwrap();
        assert!(out.len() == 1 && out[0].allow());
    }
}
