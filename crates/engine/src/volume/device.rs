//! Volumes whose content is elsewhere: options of docker's driver `local`.

use std::{
    collections::BTreeMap,
    ffi::CString,
    net::{IpAddr, ToSocketAddrs},
    path::Path,
};

use rustix::{
    io::Errno,
    mount::{MountFlags, mount as mount_at},
};

use super::manage::Volume;
use crate::error::{Error, Kind, Result};

/// Words of mount(8) that are flags, and whether they switch them on.
const FLAGS: [(&str, MountFlags, bool); 18] = [
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
];

/// Where what is in a volume is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// In its own directory.
    Own,
    /// In a directory of the host.
    Bind { path: &'a str, read_only: bool },
    /// On what has to be mounted first.
    Device {
        kind: &'a str,
        device: &'a str,
        options: &'a str,
    },
}

fn bad(message: String) -> Error {
    Error::new(Kind::BadInput, message)
        .with_hint("-o type=tmpfs|nfs|ext4|… -o device=… -o o=…, or for a directory -o o=bind")
}

/// What options of the driver ask for.
pub(super) fn source(options: &BTreeMap<String, String>) -> Result<Source<'_>> {
    let get = |key: &str| options.get(key).map_or("", |v| &**v);
    if let Some(key) = options
        .keys()
        .find(|k| !matches!(&***k, "type" | "o" | "device"))
    {
        let m = format!(
            "option `{}` of a local volume is not supported",
            key.escape_debug()
        );
        return Err(Error::new(Kind::Unsupported, m).with_hint("there are type, device and o"));
    }
    if options.is_empty() {
        return Ok(Source::Own);
    }
    let (kind, device) = (get("type"), get("device"));
    let words: Vec<&str> = get("o").split(',').collect();
    if options.values().any(|v| v.contains('\0')) {
        return Err(bad("an option of a volume has a NUL".to_owned()));
    }
    if words.iter().any(|w| matches!(*w, "bind" | "rbind")) {
        let known = |w: &&str| matches!(*w, "bind" | "rbind" | "rw" | "ro");
        if let Some(word) = words.iter().find(|w| !known(w)) {
            return Err(bad(format!(
                "`{}` does not go with bind",
                word.escape_debug()
            )));
        }
        if !matches!(kind, "" | "none" | "bind") || !device.starts_with('/') {
            let m = "a bind needs type=none and a whole path as its device";
            return Err(bad(m.to_owned()));
        }
        return Ok(Source::Bind {
            path: device,
            read_only: words.contains(&"ro"),
        });
    }
    if device.is_empty() {
        return Err(bad("missing required option: \"device\"".to_owned()));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if matches!(kind, "none" | "bind") {
        return Err(bad(format!("type={kind} needs o=bind")));
    }
    if kind.is_empty() {
        return Err(bad("missing required option: \"type\"".to_owned()));
    }
    if !kind.chars().all(plain) {
        let m = format!("`{}` is no type of a file system", kind.escape_debug());
        return Err(bad(m));
    }
    if words.contains(&"remount") {
        return Err(bad("a volume cannot be mounted with `remount`".to_owned()));
    }
    Ok(Source::Device {
        kind,
        device,
        options: get("o"),
    })
}

/// The kernel's flags and the file system's words; the name of a server in `addr` becomes its
/// address, since the kernel does not look names up.
fn parse(options: &str) -> Result<(MountFlags, String)> {
    let mut flags = MountFlags::empty();
    let mut rest: Vec<String> = Vec::new();
    for word in options.split(',').filter(|w| !w.is_empty()) {
        if let Some((_, flag, on)) = FLAGS.iter().find(|(name, ..)| *name == word) {
            flags.set(*flag, *on);
        } else if let Some(host) = word.strip_prefix("addr=")
            && host.parse::<IpAddr>().is_err()
        {
            let found = (host, 0).to_socket_addrs();
            let mut found =
                found.map_err(|e| Error::host(format!("find the server `{host}`"), e))?;
            let address = found.next().map(|a| a.ip().to_string());
            rest.push(format!("addr={}", address.unwrap_or_default()));
        } else {
            rest.push(word.to_owned());
        }
    }
    Ok((flags, rest.join(",")))
}

/// Mounts a volume that is on a device.
pub(super) fn mount(volume: &Volume, at: &Path) -> Result<()> {
    let Source::Device {
        kind,
        device,
        options,
    } = source(&volume.options)?
    else {
        return Ok(());
    };
    let name = &volume.name;
    let (flags, data) = parse(options).map_err(|e| e.context(format!("volume {name}")))?;
    let data = CString::new(data).map_err(|e| Error::new(Kind::Bug, e.to_string()))?;
    mount_at(device, at, kind, flags, &*data).map_err(|e| {
        let shown = device.escape_debug();
        // Without the options, among which may be a password.
        let doing = format!("mount volume {name}: `{shown}` as {kind}");
        Error::host(doing, e).with_hint(match e {
            Errno::NODEV if !known(kind) => "the kernel does not know this file system",
            Errno::PERM => "only root can mount it; a directory can be bound: o=bind",
            _ => "`dmesg` may say why; `unlade volume inspect` shows the volume's options",
        })
    })
}

fn known(kind: &str) -> bool {
    let all = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    all.lines()
        .any(|l| l.split_whitespace().last() == Some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        all.iter().map(own).collect()
    }

    #[test]
    fn where_volumes_are() {
        assert_eq!(source(&options(&[])).unwrap(), Source::Own);
        let bind = options(&[("type", "none"), ("o", "bind,ro"), ("device", "/srv")]);
        let want = Source::Bind {
            path: "/srv",
            read_only: true,
        };
        assert_eq!(source(&bind).unwrap(), want);
        let nfs = options(&[
            ("type", "nfs"),
            ("o", "addr=10.0.0.1,rw"),
            ("device", ":/x"),
        ]);
        let want = Source::Device {
            kind: "nfs",
            device: ":/x",
            options: "addr=10.0.0.1,rw",
        };
        assert_eq!(source(&nfs).unwrap(), want);
        for wrong in [
            &[("size", "1g")][..],
            &[("type", "tmpfs")],
            &[("device", "/dev/x")],
            &[("o", "bind"), ("device", "srv")],
            &[("o", "bind,noexec"), ("device", "/srv")],
            &[("type", "ext4"), ("o", "bind"), ("device", "/srv")],
            &[("type", "a/b"), ("device", "x")],
            &[("type", "ext4"), ("device", "x"), ("o", "remount")],
        ] {
            assert!(source(&options(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn flags_and_words() {
        let (flags, data) = parse("ro,rw,noexec,size=10m,nosuid,addr=::1,uid=5").unwrap();
        assert_eq!(flags, MountFlags::NOEXEC | MountFlags::NOSUID);
        assert_eq!(data, "size=10m,addr=::1,uid=5");
        assert_eq!(parse("addr=127.0.0.1").unwrap().1, "addr=127.0.0.1");
        assert_eq!(parse("").unwrap().1, "");
    }
}
