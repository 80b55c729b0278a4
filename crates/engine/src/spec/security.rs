//! `--security-opt`: what it says, and the labels of an image that may say something.

use std::{fs::File, io::Read, path::Path};

use super::{
    check::{bad, no_controls},
    host::HostFacts,
    place::Placement,
    request::HostConfig,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Label of an image with a seccomp profile, as Podman has it.
pub(super) const SECCOMP_LABEL: &str = "io.containers.seccomp.profile";
/// Label of an image with the capabilities that it needs, as Podman has it.
pub(super) const CAPABILITIES_LABEL: &str = "io.containers.capabilities";
/// Largest seccomp profile.
pub(super) const MAX_PROFILE: usize = 1 << 20;

/// What the user wants of seccomp.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Seccomp {
    /// Nothing was said.
    #[default]
    Unsaid,
    /// unlade's own profile, whatever the image says.
    Builtin,
    /// No filter.
    Unconfined,
    /// This document.
    Profile(String),
}

/// What all `--security-opt`s say together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) seccomp: Seccomp,
    /// Name of a profile, or `unconfined`.
    pub(super) apparmor: Option<String>,
    /// Parts of the SELinux label by name.
    pub(super) label: Vec<(String, String)>,
    pub(super) label_disable: bool,
    pub(super) no_new_privileges: bool,
    pub(super) system_paths: bool,
    pub(super) writable_cgroups: bool,
}

impl Options {
    /// Parses the options of a request.
    pub(super) fn parse(list: &[String]) -> Result<Self> {
        let mut out = Self::default();
        for text in list {
            out.one(text)?;
        }
        Ok(out)
    }

    fn one(&mut self, text: &str) -> Result<()> {
        // Docker once wrote a colon.
        let (key, value) = match text.find(['=', ':']) {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let truth = |value: Option<&str>| match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => bad(
                format!(
                    "`{}` of --security-opt {key} is neither true nor false",
                    show(other)
                ),
                "write true or false",
            ),
        };
        match (key, value) {
            ("seccomp", Some("unconfined")) => self.seccomp = Seccomp::Unconfined,
            ("seccomp", Some("builtin" | "default")) => self.seccomp = Seccomp::Builtin,
            ("seccomp", Some(json)) if json.trim_start().starts_with('{') => {
                self.seccomp = Seccomp::Profile(json.to_owned());
            }
            ("seccomp", Some(path)) if !path.is_empty() => {
                let m = format!("the seccomp profile `{}` was not read", show(path));
                return bad(m, "a client sends the profile's text, not its name");
            }
            ("apparmor", Some(name)) if !name.is_empty() => {
                no_controls("the AppArmor profile", name)?;
                self.apparmor = Some(name.to_owned());
            }
            ("label", Some("disable")) => self.label_disable = true,
            ("label", Some(part)) => self.part(part)?,
            ("no-new-privileges", value) => self.no_new_privileges = truth(value)?,
            ("systempaths", Some("unconfined")) => self.system_paths = true,
            ("writable-cgroups", value) => self.writable_cgroups = truth(value)?,
            _ => {
                let m = format!("`{}` is no security option", show(text));
                return bad(
                    m,
                    "seccomp=FILE|unconfined, apparmor=PROFILE, label=…, no-new-privileges, systempaths=unconfined, writable-cgroups",
                );
            }
        }
        Ok(())
    }

    fn part(&mut self, part: &str) -> Result<()> {
        let (name, value) = part.split_once(':').unwrap_or((part, ""));
        let known = ["user", "role", "type", "level", "filetype"].contains(&name);
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"_.,:-".contains(&b);
        let colons = name == "level" || !value.contains(':');
        if !known || value.is_empty() || !value.bytes().all(fine) || !colons {
            let m = format!("`{}` is no part of an SELinux label", show(part));
            return bad(
                m,
                "label=user:…, role:…, type:…, level:…, filetype:… or disable",
            );
        }
        self.label.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    fn label_part(&self, name: &str) -> Option<&str> {
        let found = self.label.iter().rev().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Reads a seccomp profile for `--security-opt seccomp=FILE`.
///
/// # Errors
/// [`Kind::Host`] or [`Kind::NotFound`] if it cannot be read, [`Kind::Limit`] if it is longer than
/// 1 MiB, [`Kind::BadInput`] if it is no text.
pub fn read_profile(path: &Path) -> Result<String> {
    let doing = || format!("read the seccomp profile {}", path.display());
    let mut text = Vec::new();
    let file = File::open(path).map_err(|e| Error::host(doing(), e))?;
    let mut file = file.take(MAX_PROFILE as u64 + 1);
    file.read_to_end(&mut text)
        .map_err(|e| Error::host(doing(), e))?;
    if text.len() > MAX_PROFILE {
        let m = format!(
            "the seccomp profile {} is longer than 1 MiB",
            path.display()
        );
        return Err(Error::new(Kind::Limit, m).with_hint("no profile is: name another file"));
    }
    String::from_utf8(text).or_else(|_| {
        bad(
            format!("the seccomp profile {} is no text", path.display()),
            "it is a JSON document",
        )
    })
}

/// The AppArmor profile of a container's processes.
pub(super) fn apparmor(
    h: &HostConfig,
    options: &Options,
    host: &HostFacts,
) -> Result<Option<String>> {
    match options.apparmor.as_deref() {
        Some("unconfined") => Ok(None),
        Some(name) if host.apparmor => match &host.apparmor_loaded {
            Some(loaded) if !loaded.contains(name) => {
                let m = format!("the AppArmor profile `{}` is not loaded", show(name));
                let e = Error::new(Kind::NotFound, m);
                Err(e.with_hint("`apparmor_parser -r FILE` loads one, `aa-status` lists them"))
            }
            _ => Ok(Some(name.to_owned())),
        },
        Some(name) => {
            let m = format!(
                "AppArmor is off, and the profile `{}` is asked for",
                show(name)
            );
            let e = Error::new(Kind::Unsupported, m);
            Err(e.with_hint("leave the option out, or boot with apparmor=1"))
        }
        None if h.privileged || !host.apparmor => Ok(None),
        None => Ok(host.apparmor_profile.clone()),
    }
}

/// What is to be said of a container that AppArmor could confine and does not.
pub(super) fn unconfined(h: &HostConfig, options: &Options, host: &HostFacts) -> Option<String> {
    let asked = h.privileged || options.apparmor.is_some();
    let lacks = host.apparmor && host.apparmor_loaded.is_some() && host.apparmor_profile.is_none();
    (lacks && !asked).then(|| {
        "AppArmor does not confine the container: unlade brings no profile, and neither one of the \
         name unlade-default nor docker's docker-default is loaded (load one with apparmor_parser \
         -r FILE, or name another with --security-opt apparmor=NAME)"
            .to_owned()
    })
}

/// The SELinux labels of a container: of its processes and of its files.
pub(super) fn selinux(
    h: &HostConfig,
    options: &Options,
    host: &HostFacts,
    place: &Placement,
) -> Result<Option<(String, String)>> {
    if !host.selinux {
        if options.label.is_empty() {
            return Ok(None);
        }
        let e = Error::new(
            Kind::Unsupported,
            "SELinux is off, and a label is asked for",
        );
        return Err(e.with_hint("leave --security-opt label out"));
    }
    if options.label_disable || (h.privileged && options.label.is_empty()) {
        return Ok(None);
    }
    let part = |name, default: &str| options.label_part(name).unwrap_or(default).to_owned();
    let own = match place.selinux_categories {
        Some((a, b)) if a != b => format!("s0:c{},c{}", a.min(b), a.max(b)),
        _ => "s0".to_owned(),
    };
    let level = part("level", &own);
    let user = part("user", "system_u");
    let process = format!(
        "{user}:{}:{}:{level}",
        part("role", "system_r"),
        part("type", "container_t")
    );
    let file = format!(
        "{user}:object_r:{}:{level}",
        part("filetype", "container_file_t")
    );
    Ok(Some((process, file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(list: &[&str]) -> Result<Options> {
        let list: Vec<String> = list.iter().map(|t| t.to_string()).collect();
        Options::parse(&list)
    }

    #[test]
    fn options() {
        let o = parse(&[
            "seccomp=unconfined",
            "apparmor=mine",
            "label=type:a_t",
            "label=level:s0:c1,c2",
            "no-new-privileges",
            "systempaths=unconfined",
            "writable-cgroups=true",
        ])
        .unwrap();
        assert_eq!(o.seccomp, Seccomp::Unconfined);
        assert_eq!(o.apparmor.as_deref(), Some("mine"));
        assert!(o.no_new_privileges && o.system_paths && o.writable_cgroups && !o.label_disable);
        assert_eq!(o.label_part("level"), Some("s0:c1,c2"));
        assert!(
            !parse(&["no-new-privileges", "no-new-privileges:false"])
                .unwrap()
                .no_new_privileges
        );
        assert_eq!(
            parse(&["seccomp={}"]).unwrap().seccomp,
            Seccomp::Profile("{}".into())
        );
        assert!(parse(&["label:disable"]).unwrap().label_disable);
        for wrong in [
            "",
            "seccomp",
            "seccomp=",
            "seccomp=/etc/passwd",
            "apparmor=",
            "apparmor=a\nb",
            "label=x:y",
            "label=type:",
            "label=type:a:b",
            "label=user:a b",
            "no-new-privileges=maybe",
            "systempaths=x",
            "privileged",
        ] {
            assert_eq!(
                parse(&[wrong]).unwrap_err().kind(),
                Kind::BadInput,
                "{wrong}"
            );
        }
    }

    #[test]
    fn profiles_are_read_with_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(read_profile(&path).unwrap(), "{}");
        std::fs::write(&path, vec![b' '; MAX_PROFILE + 1]).unwrap();
        assert_eq!(read_profile(&path).unwrap_err().kind(), Kind::Limit);
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_profile(&path).unwrap_err().kind(), Kind::BadInput);
        read_profile(&dir.path().join("none")).unwrap_err();
    }

    #[test]
    fn mandatory_access_control() {
        let h = HostConfig::default();
        let loaded = HostFacts {
            apparmor: true,
            apparmor_profile: Some("unlade-default".into()),
            selinux: true,
            ..HostFacts::default()
        };
        let off = HostFacts::default();
        let bare = HostFacts {
            apparmor_profile: None,
            apparmor_loaded: Some(["y".to_owned()].into()),
            ..loaded.clone()
        };
        let none = Options::default();
        let named = parse(&["apparmor=x"]).unwrap();
        assert_eq!(
            apparmor(&h, &none, &loaded).unwrap().as_deref(),
            Some("unlade-default")
        );
        assert_eq!(apparmor(&h, &named, &loaded).unwrap().as_deref(), Some("x"));
        assert_eq!(apparmor(&h, &none, &off).unwrap(), None);
        let e = apparmor(&h, &named, &bare).unwrap_err();
        assert!(e.kind() == Kind::NotFound && e.message().contains("`x` is not loaded"));
        let other = parse(&["apparmor=y"]).unwrap();
        assert_eq!(apparmor(&h, &other, &bare).unwrap().as_deref(), Some("y"));
        assert!(unconfined(&h, &none, &bare).is_some());
        for (options, host) in [(&other, &bare), (&none, &loaded), (&none, &off)] {
            assert_eq!(unconfined(&h, options, host), None);
        }
        assert_eq!(
            apparmor(&h, &named, &off).unwrap_err().kind(),
            Kind::Unsupported
        );
        let privileged = HostConfig {
            privileged: true,
            ..h.clone()
        };
        assert_eq!(apparmor(&privileged, &none, &loaded).unwrap(), None);
        let place = Placement {
            selinux_categories: Some((9, 4)),
            ..Placement::default()
        };
        let (process, file) = selinux(&h, &none, &loaded, &place).unwrap().unwrap();
        assert_eq!(process, "system_u:system_r:container_t:s0:c4,c9");
        assert_eq!(file, "system_u:object_r:container_file_t:s0:c4,c9");
        let typed = parse(&["label=type:spc_t"]).unwrap();
        let (process, _) = selinux(&privileged, &typed, &loaded, &place)
            .unwrap()
            .unwrap();
        assert!(process.contains(":spc_t:"));
        assert_eq!(selinux(&privileged, &none, &loaded, &place).unwrap(), None);
        selinux(&h, &typed, &off, &place).unwrap_err();
    }
}
