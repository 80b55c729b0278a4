//! Which capabilities a container gets.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::{
    explain::{Notes, Origin},
    host::HostFacts,
    image::ImageConfig,
    place::ImageSecurity,
    request::HostConfig,
    security,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// A set of capabilities by name, as `CAP_…`.
pub(super) type Names = BTreeSet<String>;

/// What a container gets unless it is told otherwise: Docker's set.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// All that there are, by number.
pub(super) const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// `CAP_NAME` for `name`, `NAME`, `cap_name`; `None` if there is no such capability.
fn canonical(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    ALL.contains(&short).then(|| format!("CAP_{short}"))
}

/// What a user has listed: names, and whether `ALL` was among them.
pub(super) fn named(list: &[String]) -> Result<(Names, bool)> {
    let (mut names, mut all) = (Names::new(), false);
    for name in list {
        if name.eq_ignore_ascii_case("ALL") {
            all = true;
        } else if let Some(name) = canonical(name) {
            names.insert(name);
        } else {
            let e = Error::new(Kind::BadInput, format!("`{}` is no capability", show(name)));
            return Err(
                e.with_hint("they are listed in capabilities(7), such as NET_ADMIN, or ALL")
            );
        }
    }
    Ok((names, all))
}

/// What the user's flags make of the default, with the notes where each came from.
fn asked(h: &HostConfig, host: &HostFacts, notes: &mut Notes) -> Result<Names> {
    let note = |notes: &mut Notes, cap: &str, origin, detail: &str| {
        notes.set(format!("process.capabilities[{cap}]"), origin, detail);
    };
    if h.privileged {
        notes.set("process.capabilities", Origin::User, "--privileged");
        return Ok(host.bounding.clone());
    }
    let ((add, add_all), (drop, drop_all)) = (named(&h.cap_add)?, named(&h.cap_drop)?);
    let mut caps: Names = match (add_all, drop_all) {
        (true, _) => host.bounding.clone(),
        (false, true) => Names::new(),
        (false, false) => DEFAULT.iter().map(|c| format!("CAP_{c}")).collect(),
    };
    notes.set("process.capabilities", Origin::Default, "");
    if add_all {
        notes.set("process.capabilities", Origin::User, "--cap-add ALL");
    } else if drop_all {
        notes.set("process.capabilities", Origin::User, "--cap-drop ALL");
    }
    for cap in &drop {
        caps.remove(cap);
    }
    for cap in add {
        note(notes, &cap, Origin::User, "--cap-add");
        caps.insert(cap);
    }
    Ok(caps)
}

/// What the image's label lists; `None` if it has none.
fn label(image: &ImageConfig) -> Option<Vec<&str>> {
    let text = image.labels.get(security::CAPABILITIES_LABEL)?;
    let words = text.split([',', ' ']).map(str::trim);
    Some(words.filter(|w| !w.is_empty()).collect())
}

/// The capabilities of a container.
pub(super) fn assemble(
    image: &ImageConfig,
    h: &HostConfig,
    host: &HostFacts,
    mode: ImageSecurity,
    notes: &mut Notes,
    warnings: &mut Vec<String>,
) -> Result<Names> {
    let mut caps = asked(h, host, notes)?;
    if let Some(listed) = label(image).filter(|_| mode != ImageSecurity::Ignore && !h.privileged) {
        caps = by_label(caps, &listed, h, mode, notes, warnings)?;
    }
    // What the engine does not have itself it cannot give.
    let missing: Vec<&String> = caps.difference(&host.bounding).collect();
    if !missing.is_empty() {
        let (asked, _) = named(&h.cap_add)?;
        if let Some(cap) = missing.iter().find(|c| asked.contains(**c)) {
            let e = Error::new(Kind::Denied, format!("{cap} is not unlade's own to give"));
            return Err(e.with_hint("this host runs unlade with fewer capabilities: leave it out"));
        }
        caps = caps.intersection(&host.bounding).cloned().collect();
    }
    Ok(caps)
}

/// Applies the image's list: what the user has added by name stays, whatever the image says.
fn by_label(
    caps: Names,
    listed: &[&str],
    h: &HostConfig,
    mode: ImageSecurity,
    notes: &mut Notes,
    warnings: &mut Vec<String>,
) -> Result<Names> {
    let (mut wanted, mut unknown) = (Names::new(), None);
    for name in listed {
        match canonical(name) {
            Some(name) => drop(wanted.insert(name)),
            None => unknown = Some(show(name)),
        }
    }
    if let Some(name) = unknown {
        let m = format!("the image's list of capabilities names `{name}`, which is none");
        if mode == ImageSecurity::Replace {
            let e = Error::new(Kind::BadInput, m);
            return Err(e.with_hint("run it with --image-security narrow or ignore"));
        }
        warnings.push(m);
    }
    let ((added, _), (dropped, _)) = (named(&h.cap_add)?, named(&h.cap_drop)?);
    let detail = security::CAPABILITIES_LABEL;
    notes.set("process.capabilities", Origin::Label, detail);
    let kept = if mode == ImageSecurity::Replace {
        wanted.difference(&dropped).cloned().collect()
    } else {
        let more: Vec<&str> = wanted.difference(&caps).map(String::as_str).collect();
        if !more.is_empty() {
            warnings.push(format!(
                "the image asks for more capabilities than it is given: {}",
                more.join(" ")
            ));
        }
        caps.intersection(&wanted).cloned().collect::<Names>()
    };
    Ok(kept.union(&added).cloned().collect())
}

/// The sets of the spec: bounding, permitted and effective alike. The inheritable and the ambient
/// set are empty: else a program of the image could keep what a user other than root must not have
/// (CVE-2022-24769).
pub(super) fn sets(names: &Names) -> Result<LinuxCapabilities> {
    let mut set = Capabilities::new();
    for name in names {
        let parsed: Result<Capability, _> = serde_json::from_value(name.as_str().into());
        set.insert(parsed.map_err(|e| Error::new(Kind::Bug, format!("{name}: {e}")))?);
    }
    let mut caps = LinuxCapabilities::default();
    caps.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(Some(Capabilities::new()))
        .set_ambient(Some(Capabilities::new()));
    Ok(caps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            bounding: ALL[..40].iter().map(|c| format!("CAP_{c}")).collect(),
            ..HostFacts::default()
        }
    }

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn given(
        add: &str,
        drop: &str,
        label: Option<&str>,
        mode: ImageSecurity,
    ) -> (Result<Names>, Vec<String>) {
        let mut image = ImageConfig::default();
        if let Some(label) = label {
            let key = security::CAPABILITIES_LABEL.to_owned();
            image.labels.insert(key, label.to_owned());
        }
        let h = HostConfig {
            cap_add: list(add),
            cap_drop: list(drop),
            ..HostConfig::default()
        };
        let mut warnings = Vec::new();
        let mut notes = Notes::default();
        let caps = assemble(&image, &h, &host(), mode, &mut notes, &mut warnings);
        (caps, warnings)
    }

    fn names(caps: Result<Names>) -> String {
        let caps = caps.unwrap();
        let short: Vec<&str> = caps.iter().map(|c| &c[4..]).collect();
        short.join(" ")
    }

    #[test]
    fn flags() {
        let default = DEFAULT.join(" ");
        let n = ImageSecurity::Narrow;
        assert_eq!(names(given("", "", None, n).0), default);
        for (add, drop, want) in [
            ("", "all", ""),
            ("chown", "ALL", "CHOWN"),
            ("CAP_NET_ADMIN KILL", "ALL", "KILL NET_ADMIN"),
            ("KILL", "KILL ALL", "KILL"),
        ] {
            assert_eq!(names(given(add, drop, None, n).0), want, "{add}, {drop}");
        }
        let caps = given("ALL", "SYS_ADMIN", None, n).0.unwrap();
        assert!(caps.len() == 39 && !caps.contains("CAP_SYS_ADMIN"));
        let e = given("CHECKPOINT_RESTORE", "", None, n).0.unwrap_err();
        assert_eq!(e.kind(), Kind::Denied);
        assert!(given("NO_SUCH", "", None, n).0.is_err());
    }

    #[test]
    fn the_label_of_an_image() {
        use ImageSecurity::{Ignore, Narrow, Replace};
        for (add, drop, label, mode, want, warned) in [
            ("", "", "CHOWN,KILL", Narrow, "CHOWN KILL", 0),
            ("", "", "", Narrow, "", 0),
            ("", "", "CHOWN,SYS_ADMIN", Narrow, "CHOWN", 1),
            ("", "CHOWN", "CHOWN,KILL", Narrow, "KILL", 1),
            ("NET_ADMIN", "", "CHOWN", Narrow, "CHOWN NET_ADMIN", 0),
            ("", "", "nonsense,KILL", Narrow, "KILL", 1),
            ("", "", "SYS_ADMIN,kill", Replace, "KILL SYS_ADMIN", 0),
            (
                "CHOWN",
                "KILL",
                "SYS_ADMIN,kill",
                Replace,
                "CHOWN SYS_ADMIN",
                0,
            ),
            ("", "ALL", "CHOWN", Ignore, "", 0),
        ] {
            let (caps, warnings) = given(add, drop, Some(label), mode);
            assert_eq!(names(caps), want, "{label} {mode:?}");
            assert_eq!(warnings.len(), warned, "{warnings:?}");
        }
        let (caps, _) = given("", "", Some("nonsense"), Replace);
        assert_eq!(caps.unwrap_err().kind(), Kind::BadInput);
    }

    #[test]
    fn inheritable_and_ambient_are_empty() {
        let all: Names = ALL.iter().map(|c| format!("CAP_{c}")).collect();
        let sets = sets(&all).unwrap();
        assert!(sets.inheritable().as_ref().unwrap().is_empty());
        assert!(sets.ambient().as_ref().unwrap().is_empty());
        for set in [sets.bounding(), sets.permitted(), sets.effective()] {
            assert_eq!(set.as_ref().unwrap().len(), ALL.len());
        }
    }
}
