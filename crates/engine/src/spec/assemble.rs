//! The parts, put together.

use std::collections::HashMap;

use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, RootBuilder, Spec, SpecBuilder,
};

use super::{
    caps,
    check::check,
    devices,
    explain::{Field, Notes, Origin},
    host::HostFacts,
    image::ImageConfig,
    mounts,
    place::{CgroupNs, IdMapping, ImageSecurity, Ns, Placement},
    process::{self, Given},
    request::{HostConfig, Request},
    resources, seccomp,
    security::{self, Options},
    sysctls,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// The version of the runtime spec that runtimes are told: what runc 1.1 and crun 1.8 know.
const OCI_VERSION: &str = "1.0.2";
/// What processes in a container must not see.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// What they must not change.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// A spec, with what is to be said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Assembled {
    /// The spec.
    pub spec: Spec,
    /// What the user should know: what this host passes over, what an image asked for in vain.
    pub warnings: Vec<String>,
    notes: Notes,
}

impl Assembled {
    /// The document for the runtime. The same spec gives the same bytes.
    ///
    /// # Errors
    /// [`Kind::Bug`] if the spec cannot be written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.value()?).map_err(bug)
    }

    /// Every field with where it comes from.
    ///
    /// # Errors
    /// As [`Assembled::to_json`].
    pub fn explain(&self) -> Result<Vec<Field>> {
        Ok(self.notes.fields(&self.value()?))
    }

    fn value(&self) -> Result<serde_json::Value> {
        let mut value = serde_json::to_value(&self.spec).map_err(bug)?;
        // Sets come out in any order.
        if let Some(sets) = value.pointer_mut("/process/capabilities") {
            for set in sets
                .as_object_mut()
                .into_iter()
                .flat_map(|m| m.values_mut())
            {
                if let Some(list) = set.as_array_mut() {
                    list.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
                }
            }
        }
        Ok(value)
    }
}

fn bug(e: impl std::fmt::Display) -> Error {
    Error::new(Kind::Bug, e.to_string())
}

/// What a container's host name is if nobody says otherwise: the host's where it shares its names
/// or its network, else the first twelve digits of its id.
pub fn hostname(request: &Request, host: &HostFacts, id: &str) -> String {
    let h = &request.host_config;
    if !request.config.hostname.is_empty() {
        return request.config.hostname.clone();
    }
    let shares = h.uts_mode == "host" || h.network_mode == "host";
    if shares && !host.hostname.is_empty() {
        return host.hostname.clone();
    }
    id.chars().take(12).collect()
}

/// Makes the spec of one container. `request` has been merged with the image's defaults.
///
/// # Errors
/// [`Kind::BadInput`] for values that no container can have, [`Kind::Unsupported`] and
/// [`Kind::Denied`] for what this host cannot or may not give.
pub fn assemble(
    image: &ImageConfig,
    request: &Request,
    host: &HostFacts,
    place: &Placement,
) -> Result<Assembled> {
    let mut warnings = check(request, host)?;
    let mut notes = Notes::default();
    let place = &place.cdi.place(place);
    let h = &request.host_config;
    let options = Options::parse(&h.security_opt)?;
    let mode = image_security(&h.image_security, place.image_security)?;
    let caps = caps::assemble(image, h, host, mode, &mut notes, &mut warnings)?;
    let hostname = match place.hostname.as_str() {
        "" => hostname(request, host, &place.id),
        name => name.to_owned(),
    };
    let given = Given {
        image,
        request,
        host,
        place,
        options: &options,
        hostname: &hostname,
        caps: &caps,
    };
    let mut process = process::assemble(&given, &mut notes)?;
    place.cdi.environment(&mut process);
    process.set_apparmor_profile(security::apparmor(h, &options, host)?);
    let apparmor = if options.apparmor.is_some() {
        Origin::User
    } else {
        Origin::Host
    };
    notes.set(
        "process.apparmorProfile",
        apparmor,
        "--security-opt apparmor",
    );
    let labels = security::selinux(h, &options, host, place)?;
    let (process_label, mount_label) = labels.unzip();
    process.set_selinux_label(process_label);
    let selinux = if options.label.is_empty() {
        Origin::Engine
    } else {
        Origin::User
    };
    for path in ["process.selinuxLabel", "linux.mountLabel"] {
        notes.set(path, selinux, "--security-opt label");
    }
    let mounts = mounts::assemble(image, request, &options, host, place, &mut notes)?;
    let mut linux = linux(&given, &mut notes)?;
    linux.set_rootfs_propagation(mounts::propagation(&mounts).map(str::to_owned));
    notes.set("linux.rootfsPropagation", Origin::User, "-v, --mount");
    linux.set_mount_label(mount_label);
    let filter = seccomp::assemble(&given, mode, &mut notes, &mut warnings)?;
    let program = filter.as_ref().filter(|_| place.runtime.seccomp_program);
    let program = program.and_then(|f| seccomp::program(f, host));
    linux.set_seccomp(filter);
    notes.set("ociVersion", Origin::Default, "");
    notes.set("root", Origin::Engine, "");
    notes.given("root.readonly", h.readonly_rootfs, "--read-only");
    // A stored request has the name that `hostname` gave.
    let asked = request.config.hostname.as_str();
    let own = asked == host.hostname || place.id.starts_with(asked);
    match own {
        true => notes.set("hostname", Origin::Engine, ""),
        false => notes.set("hostname", Origin::User, "--hostname"),
    }
    notes.set("annotations", Origin::User, "--annotation");
    let root = RootBuilder::default()
        .path(&place.rootfs)
        .readonly(h.readonly_rootfs)
        .build()
        .map_err(bug)?;
    let mut spec = SpecBuilder::default()
        .version(OCI_VERSION)
        .root(root)
        .mounts(mounts)
        .process(process)
        .linux(linux)
        .build()
        .map_err(bug)?;
    spec.set_hostname(Some(hostname).filter(|_| place.uts == Ns::New));
    // Labels are not annotations: a runtime acts on those.
    let mut annotations: HashMap<String, String> = h.annotations.clone().into_iter().collect();
    if let Some(program) = program
        && !annotations.contains_key(seccomp::PROGRAM)
    {
        let path = format!("annotations[{}]", seccomp::PROGRAM);
        notes.set(
            path,
            Origin::Host,
            "the runtime takes a compiled linux.seccomp",
        );
        annotations.insert(seccomp::PROGRAM.to_owned(), program);
    }
    spec.set_annotations(Some(annotations).filter(|a| !a.is_empty()));
    place.cdi.finish(&mut spec, &mut notes)?;
    Ok(Assembled {
        spec,
        warnings,
        notes,
    })
}

fn image_security(text: &str, configured: ImageSecurity) -> Result<ImageSecurity> {
    match text {
        "" => Ok(configured),
        "narrow" => Ok(ImageSecurity::Narrow),
        "replace" => Ok(ImageSecurity::Replace),
        "ignore" => Ok(ImageSecurity::Ignore),
        other => {
            let m = format!("`{}` is no way to treat rules of an image", show(other));
            let e = Error::new(Kind::BadInput, m);
            Err(e.with_hint("--image-security is narrow, replace or ignore"))
        }
    }
}

fn linux(given: &Given<'_>, notes: &mut Notes) -> Result<Linux> {
    let Given {
        request,
        host,
        place,
        options,
        ..
    } = *given;
    let h = &request.host_config;
    let in_user = host.in_user_namespace || !place.uid_mappings.is_empty();
    let sysctls = sysctls::assemble(request, place, in_user, notes)?;
    let bare = is_bare(h, options);
    let masked = masked_paths(h, options, host);
    let read_only = readonly_paths(h, options);
    let flag = if h.privileged {
        "--privileged"
    } else {
        "--security-opt systempaths"
    };
    for (path, asked) in [
        ("linux.maskedPaths", &h.masked_paths),
        ("linux.readonlyPaths", &h.readonly_paths),
    ] {
        match asked {
            Some(_) => notes.set(path, Origin::User, ""),
            None => notes.given(path, bare, flag),
        }
    }
    for path in &host.thermal_throttle {
        notes.set(format!("linux.maskedPaths[{path}]"), Origin::Host, "");
    }
    notes.set("linux.cgroupsPath", Origin::Engine, "");
    let mut linux: Linux = LinuxBuilder::default()
        .namespaces(namespaces(given, notes)?)
        .resources(resources::assemble(h, host, place, notes)?)
        .masked_paths(masked)
        .readonly_paths(read_only)
        .build()
        .map_err(bug)?;
    let sysctls: HashMap<String, String> = sysctls.into_iter().collect();
    let nodes = devices::nodes(&place.devices, h.privileged, notes)?;
    linux
        .set_sysctl(Some(sysctls).filter(|s| !s.is_empty()))
        .set_devices(Some(nodes).filter(|d| !d.is_empty()))
        .set_cgroups_path(
            Some(place.cgroup_path.clone().into()).filter(|_| !place.cgroup_path.is_empty()),
        )
        .set_uid_mappings(mappings(&place.uid_mappings)?)
        .set_gid_mappings(mappings(&place.gid_mappings)?);
    notes.set("linux.uidMappings", Origin::User, "--userns");
    notes.set("linux.gidMappings", Origin::User, "--userns");
    Ok(linux)
}

/// Whether nothing of `/proc` and `/sys` is kept from it, unless it is asked for.
fn is_bare(h: &HostConfig, options: &Options) -> bool {
    h.privileged || options.system_paths
}

/// What a container must not see.
pub(super) fn masked_paths(h: &HostConfig, options: &Options, host: &HostFacts) -> Vec<String> {
    let throttle = host.thermal_throttle.iter().map(String::as_str);
    match &h.masked_paths {
        Some(list) => list.clone(),
        None if is_bare(h, options) => Vec::new(),
        None => MASKED
            .into_iter()
            .chain(throttle)
            .map(str::to_owned)
            .collect(),
    }
}

/// What it must not change.
pub(super) fn readonly_paths(h: &HostConfig, options: &Options) -> Vec<String> {
    match &h.readonly_paths {
        Some(list) => list.clone(),
        None if is_bare(h, options) => Vec::new(),
        None => READ_ONLY.map(str::to_owned).to_vec(),
    }
}

fn mappings(list: &[IdMapping]) -> Result<Option<Vec<LinuxIdMapping>>> {
    let build = |m: &IdMapping| {
        LinuxIdMappingBuilder::default()
            .container_id(m.container)
            .host_id(m.host)
            .size(m.size)
            .build()
            .map_err(bug)
    };
    let list: Vec<LinuxIdMapping> = list.iter().map(build).collect::<Result<_>>()?;
    Ok(Some(list).filter(|l| !l.is_empty()))
}

fn namespaces(given: &Given<'_>, notes: &mut Notes) -> Result<Vec<LinuxNamespace>> {
    let Given {
        request,
        host,
        place,
        ..
    } = *given;
    let h = &request.host_config;
    let mut out = Vec::new();
    let mut add = |typ: LinuxNamespaceType, path: Option<&std::path::Path>| -> Result<()> {
        let mut ns = LinuxNamespaceBuilder::default()
            .typ(typ)
            .build()
            .map_err(bug)?;
        ns.set_path(path.map(Into::into));
        out.push(ns);
        Ok(())
    };
    use LinuxNamespaceType as T;
    notes.set("linux.namespaces", Origin::Default, "");
    add(T::Mount, None)?;
    for (typ, ns, name, flag, asked) in [
        (
            T::Network,
            &place.network,
            "network",
            "--network",
            &h.network_mode,
        ),
        (T::Uts, &place.uts, "uts", "--uts", &h.uts_mode),
        (T::Pid, &place.pid, "pid", "--pid", &h.pid_mode),
        (T::Ipc, &place.ipc, "ipc", "--ipc", &h.ipc_mode),
    ] {
        let origin = if asked.is_empty() {
            Origin::Engine
        } else {
            Origin::User
        };
        notes.set(format!("linux.namespaces[{name}].path"), origin, flag);
        match ns {
            Ns::New => add(typ, None)?,
            Ns::Path(path) => add(typ, Some(path))?,
            Ns::Host => {}
        }
    }
    if cgroup_namespace(&h.cgroupns_mode, host, place.cgroup)? {
        add(T::Cgroup, None)?;
        let asked = !h.cgroupns_mode.is_empty();
        let origin = if asked { Origin::User } else { Origin::Host };
        notes.set(
            "linux.namespaces[cgroup]",
            origin,
            if asked { "--cgroupns" } else { "cgroup v2" },
        );
    }
    if !place.uid_mappings.is_empty() {
        add(T::User, None)?;
        notes.set("linux.namespaces[user]", Origin::User, "--userns");
    }
    if host.time_namespace && place.runtime.time_namespace {
        add(T::Time, None)?;
        notes.set("linux.namespaces[time]", Origin::Host, "");
    }
    Ok(out)
}

/// Whether it gets a namespace of control groups of its own.
pub(super) fn cgroup_namespace(asked: &str, host: &HostFacts, place: CgroupNs) -> Result<bool> {
    match (asked, place) {
        ("private", _) if host.cgroup_namespace => Ok(true),
        ("private", _) => {
            let m = "this kernel has no namespaces of control groups";
            Err(Error::new(Kind::Unsupported, m).with_hint("leave --cgroupns out"))
        }
        ("host", _) | (_, CgroupNs::Host) => Ok(false),
        ("", CgroupNs::New) => Ok(true),
        ("", CgroupNs::Auto) => Ok(host.cgroup_v2 && host.cgroup_namespace),
        (other, _) => {
            let m = format!("`{}` is no mode of the cgroup namespace", show(other));
            Err(Error::new(Kind::BadInput, m).with_hint("--cgroupns is host or private"))
        }
    }
}
