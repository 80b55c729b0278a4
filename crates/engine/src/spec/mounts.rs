//! What is mounted in a container, and in which order.

use std::path::PathBuf;

use oci_spec::runtime::{Mount, MountBuilder};

use super::{
    check::{bad, clean, no_controls},
    explain::{Notes, Origin},
    host::HostFacts,
    image::ImageConfig,
    place::{Ns, Placement, Shm},
    request::{HostConfig, Request},
    security::Options,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Where the init is bound in a container.
pub(super) const INIT: &str = "/sbin/docker-init";
/// Bytes of `/dev/shm` unless the request says otherwise.
const SHM_BYTES: i64 = 64 << 20;
/// What stays writable in a root that is read-only.
const WRITABLE: [&str; 5] = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"];

pub(super) fn mount(
    to: &str,
    typ: &str,
    from: impl Into<PathBuf>,
    options: &[&str],
) -> Result<Mount> {
    let options: Vec<String> = options.iter().map(|o| o.to_string()).collect();
    let built = MountBuilder::default()
        .destination(to)
        .typ(typ)
        .source(from)
        .options(options)
        .build();
    built.map_err(|e| Error::new(Kind::Bug, e.to_string()))
}

/// The mounts of a container: its own file systems, the engine's files, then what was asked for,
/// outer ones first.
pub(super) fn assemble(
    image: &ImageConfig,
    request: &Request,
    options: &Options,
    host: &HostFacts,
    place: &Placement,
    notes: &mut Notes,
) -> Result<Vec<Mount>> {
    let h = &request.host_config;
    let asked = asked(&place.mounts)?;
    let taken = |path: &str| {
        let is = |(to, _): &(String, Mount)| to == path;
        let whole_dev = path.starts_with("/dev/") && asked.iter().any(|(to, _)| to == "/dev");
        whole_dev || asked.iter().any(is)
    };
    let mut out = Vec::new();
    for mount in own(request, options, host, place, notes)? {
        let to = mount.destination().to_string_lossy().into_owned();
        if !taken(&to) {
            out.push(mount);
        }
    }
    let mode = if h.readonly_rootfs { "ro" } else { "rw" };
    for (to, from) in [
        ("/etc/resolv.conf", &place.files.resolv_conf),
        ("/etc/hostname", &place.files.hostname),
        ("/etc/hosts", &place.files.hosts),
    ] {
        if let Some(from) = from
            && !taken(to)
        {
            notes.set(format!("mounts[{to}]"), Origin::Engine, "");
            out.push(mount(to, "bind", from, &["rbind", "rprivate", mode])?);
        }
    }
    if let Some(init) = &place.init
        && uses_init(request, place)
    {
        notes.set(format!("mounts[{INIT}]"), Origin::User, "--init");
        out.push(mount(INIT, "bind", init, &["bind", "ro"])?);
    }
    for (to, mount) in asked {
        let (origin, detail) = asked_by(image, request, &to);
        notes.set(format!("mounts[{to}]"), origin, detail);
        out.push(mount);
    }
    Ok(out)
}

/// Who asked for a mount, and how.
fn asked_by(image: &ImageConfig, request: &Request, to: &str) -> (Origin, &'static str) {
    let h = &request.host_config;
    let is = |target: &str| clean(target) == to;
    let mut bound = h.binds.iter().filter_map(|text| text.split(':').nth(1));
    if bound.any(is) {
        (Origin::User, "-v")
    } else if h.mounts.iter().any(|m| is(&m.target)) {
        (Origin::User, "--mount")
    } else if h.tmpfs.keys().any(|path| is(path)) {
        (Origin::User, "--tmpfs")
    } else if image.volumes.keys().any(|path| is(path)) {
        (Origin::Image, "Volumes")
    } else if request.config.volumes.keys().any(|path| is(path)) {
        (Origin::User, "-v")
    } else {
        (Origin::User, "--volumes-from")
    }
}

/// Whether an init runs: only where the container's first process is its own.
pub(super) fn uses_init(request: &Request, place: &Placement) -> bool {
    request.host_config.init == Some(true) && place.pid == Ns::New && place.init.is_some()
}

/// What was asked for, checked, outer ones first.
fn asked(mounts: &[Mount]) -> Result<Vec<(String, Mount)>> {
    let mut out: Vec<(String, Mount)> = Vec::new();
    for mount in mounts {
        let Some(text) = mount.destination().to_str() else {
            return bad("a mount's target is no text", "use names in UTF-8");
        };
        no_controls("a mount's target", text)?;
        if !text.starts_with('/') {
            let m = format!("the mount's target `{}` is not absolute", show(text));
            return bad(m, "begin it with a slash");
        }
        let to = clean(text);
        if to == "/" {
            return bad("a mount's target is the root", "mount below it");
        }
        if out.iter().any(|(other, _)| *other == to) {
            return bad(
                format!("two mounts on `{}`", show(&to)),
                "leave one of them out",
            );
        }
        let mut mount = mount.clone();
        mount.set_destination(PathBuf::from(&to));
        out.push((to, mount));
    }
    out.sort_by_key(|(to, _)| to.matches('/').count());
    Ok(out)
}

/// Bytes of `/dev/shm`.
pub(super) fn shm_bytes(h: &HostConfig) -> i64 {
    match h.shm_size {
        0 => SHM_BYTES,
        asked => asked,
    }
}

/// The file systems that every container has.
fn own(
    request: &Request,
    options: &Options,
    host: &HostFacts,
    place: &Placement,
    notes: &mut Notes,
) -> Result<Vec<Mount>> {
    let h = &request.host_config;
    notes.set("mounts", Origin::Default, "");
    // Group 5 is that of terminals; where it does not exist the mount would fail.
    let mapped = place.gid_mappings.is_empty()
        || place
            .gid_mappings
            .iter()
            .any(|m| (m.container..m.container.saturating_add(m.size)).contains(&5));
    let mut pts = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    if mapped && !host.in_user_namespace {
        pts.push("gid=5");
    }
    let size = format!("size={}", shm_bytes(h));
    let sys_writable = h.privileged;
    let cgroup_writable = h.privileged || options.writable_cgroups;
    let sys_flags = ["nosuid", "noexec", "nodev", "ro"];
    let flags = |writable: bool| {
        if writable {
            &sys_flags[..3]
        } else {
            &sys_flags[..]
        }
    };
    let in_user = host.in_user_namespace || !place.uid_mappings.is_empty();
    let mut out = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount("/dev/pts", "devpts", "devpts", &pts)?,
    ];
    // A new sysfs shows the network it is mounted in, and takes power over that.
    if in_user && place.network == Ns::Host {
        notes.set("mounts[/sys]", Origin::Host, "user namespace");
        let all: Vec<&str> = ["rbind", "rslave"]
            .into_iter()
            .chain(flags(sys_writable).iter().copied())
            .collect();
        out.push(mount("/sys", "bind", "/sys", &all)?);
    } else {
        out.push(mount("/sys", "sysfs", "sysfs", flags(sys_writable))?);
    }
    out.push(mount(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        flags(cgroup_writable),
    )?);
    out.push(mount(
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        &["nosuid", "noexec", "nodev"],
    )?);
    match &place.shm {
        Shm::Own => {
            let all = ["nosuid", "noexec", "nodev", "mode=1777", &size];
            out.push(mount("/dev/shm", "tmpfs", "shm", &all)?);
        }
        Shm::Path(path) => out.push(mount("/dev/shm", "bind", path, &["rbind", "rprivate"])?),
        Shm::Absent => {}
    }
    if h.shm_size != 0 {
        notes.set("mounts[/dev/shm].options", Origin::User, "--shm-size");
    }
    if !h.ipc_mode.is_empty() {
        notes.set("mounts[/dev/shm]", Origin::User, "--ipc");
    }
    if h.privileged {
        notes.set("mounts[/sys].options", Origin::User, "--privileged");
    }
    if cgroup_writable {
        let detail = if h.privileged {
            "--privileged"
        } else {
            "--security-opt writable-cgroups"
        };
        notes.set("mounts[/sys/fs/cgroup].options", Origin::User, detail);
    }
    if h.readonly_rootfs {
        for mount in &mut out {
            let to = mount.destination().to_string_lossy().into_owned();
            let mut list = mount.options().clone().unwrap_or_default();
            if !WRITABLE.contains(&to.as_str()) && !list.iter().any(|o| o == "ro") {
                list.push("ro".to_owned());
                mount.set_options(Some(list));
                notes.set(format!("mounts[{to}].options"), Origin::User, "--read-only");
            }
        }
    }
    Ok(out)
}

/// How mounts of the host reach the container's root: further than by default only as far as one
/// that was asked for needs it.
pub(super) fn propagation(mounts: &[Mount]) -> Option<&'static str> {
    let has = |names: [&str; 2]| {
        let options = mounts.iter().filter_map(|m| m.options().as_ref()).flatten();
        options.into_iter().any(|o| names.contains(&o.as_str()))
    };
    if has(["shared", "rshared"]) {
        Some("shared")
    } else if has(["slave", "rslave"]) {
        Some("rslave")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{place::IdMapping, request::HostConfig};

    fn all(h: HostConfig, place: &Placement) -> Result<Vec<Mount>> {
        let request = Request {
            host_config: h,
            ..Request::default()
        };
        let options = Options::default();
        assemble(
            &ImageConfig::default(),
            &request,
            &options,
            &HostFacts::default(),
            place,
            &mut Notes::default(),
        )
    }

    fn find<'a>(mounts: &'a [Mount], to: &str) -> Option<&'a Mount> {
        mounts.iter().find(|m| m.destination().to_str() == Some(to))
    }

    fn options(mounts: &[Mount], to: &str) -> String {
        find(mounts, to)
            .unwrap()
            .options()
            .clone()
            .unwrap_or_default()
            .join(",")
    }

    fn bind(to: &str) -> Mount {
        mount(to, "bind", "/src", &["rbind"]).unwrap()
    }

    #[test]
    fn defaults() {
        let m = all(HostConfig::default(), &Placement::default()).unwrap();
        let text: Vec<String> = m
            .iter()
            .map(|m| {
                format!(
                    "{} {}",
                    m.destination().display(),
                    m.options().clone().unwrap_or_default().join(",")
                )
            })
            .collect();
        assert_eq!(
            text,
            [
                "/proc nosuid,noexec,nodev",
                "/dev nosuid,strictatime,mode=755,size=65536k",
                "/dev/pts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
                "/sys nosuid,noexec,nodev,ro",
                "/sys/fs/cgroup nosuid,noexec,nodev,ro",
                "/dev/mqueue nosuid,noexec,nodev",
                "/dev/shm nosuid,noexec,nodev,mode=1777,size=67108864",
            ]
        );
    }

    #[test]
    fn privileged_and_read_only() {
        let h = HostConfig {
            privileged: true,
            ..HostConfig::default()
        };
        let m = all(h, &Placement::default()).unwrap();
        assert!(!options(&m, "/sys").contains("ro"));
        assert!(!options(&m, "/sys/fs/cgroup").contains("ro"));
        let h = HostConfig {
            readonly_rootfs: true,
            privileged: true,
            ..HostConfig::default()
        };
        let place = Placement {
            files: crate::spec::Files {
                hosts: Some("/h".into()),
                ..Default::default()
            },
            ..Placement::default()
        };
        let m = all(h, &place).unwrap();
        assert!(options(&m, "/sys").ends_with("ro") && options(&m, "/etc/hosts").ends_with("ro"));
        assert!(!options(&m, "/dev/shm").contains("ro,") && !options(&m, "/proc").contains("ro"));
    }

    #[test]
    fn what_is_asked_for_comes_first() {
        let place = Placement {
            mounts: vec![
                bind("/a/b/c"),
                bind("/dev/shm"),
                bind("/a/"),
                bind("/etc/./hosts"),
            ],
            files: crate::spec::Files {
                hosts: Some("/h".into()),
                ..Default::default()
            },
            ..Placement::default()
        };
        let m = all(HostConfig::default(), &place).unwrap();
        let last: Vec<&str> = m[m.len() - 4..]
            .iter()
            .filter_map(|m| m.destination().to_str())
            .collect();
        assert_eq!(last, ["/a", "/dev/shm", "/etc/hosts", "/a/b/c"]);
        assert_eq!(
            m.iter()
                .filter(|m| m.destination().to_str() == Some("/dev/shm"))
                .count(),
            1
        );
        let place = Placement {
            mounts: vec![bind("/dev")],
            ..Placement::default()
        };
        let m = all(HostConfig::default(), &place).unwrap();
        assert!(find(&m, "/dev/pts").is_none() && find(&m, "/dev").is_some());
    }

    #[test]
    fn targets_are_checked() {
        for targets in [
            &["a"][..],
            &["/"],
            &["/x/.."],
            &["/a\nb"],
            &["/a", "/b/../a"],
        ] {
            let place = Placement {
                mounts: targets.iter().map(|t| bind(t)).collect(),
                ..Placement::default()
            };
            assert_eq!(
                all(HostConfig::default(), &place).unwrap_err().kind(),
                Kind::BadInput
            );
        }
    }

    #[test]
    fn shared_memory_init_and_user_namespaces() {
        let h = HostConfig {
            shm_size: 4096,
            init: Some(true),
            ..HostConfig::default()
        };
        let place = Placement {
            init: Some("/init".into()),
            ..Placement::default()
        };
        let m = all(h.clone(), &place).unwrap();
        assert!(options(&m, "/dev/shm").ends_with("size=4096"));
        assert_eq!(options(&m, INIT), "bind,ro");
        let place = Placement {
            pid: Ns::Host,
            shm: Shm::Absent,
            ..place
        };
        let m = all(h, &place).unwrap();
        assert!(find(&m, INIT).is_none() && find(&m, "/dev/shm").is_none());
        let place = Placement {
            shm: Shm::Path("/x".into()),
            network: Ns::Host,
            uid_mappings: vec![IdMapping {
                container: 0,
                host: 1000,
                size: 1,
            }],
            gid_mappings: vec![IdMapping {
                container: 0,
                host: 1000,
                size: 1,
            }],
            ..Placement::default()
        };
        let m = all(HostConfig::default(), &place).unwrap();
        assert_eq!(find(&m, "/dev/shm").unwrap().typ().as_deref(), Some("bind"));
        assert_eq!(find(&m, "/sys").unwrap().typ().as_deref(), Some("bind"));
        assert!(!options(&m, "/dev/pts").contains("gid=5"));
    }

    #[test]
    fn propagation_is_raised_as_needed() {
        let with = |o: &str| propagation(&[mount("/a", "bind", "/b", &["rbind", o]).unwrap()]);
        assert_eq!(
            (with("rprivate"), with("rslave"), with("rshared")),
            (None, Some("rslave"), Some("shared"))
        );
    }
}
