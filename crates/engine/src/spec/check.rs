//! What no container can have, whatever the host.

use super::{
    host::HostFacts, place::ResolvedUser, request::Request, resources, rlimits, security, signal,
    sysctls,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// The largest id of a user or group.
pub(super) const MAX_ID: u32 = i32::MAX as u32;
/// Longest host name that the kernel takes.
const MAX_HOSTNAME: usize = 64;
/// A limit of the kernel on arguments and environment together is at least this.
const MAX_ARG_BYTES: usize = 2 << 20;

/// Refuses a merged request that no container can be made of; says what this host will pass over.
///
/// [`super::assemble`] does the same: this is for telling the user when the container is created.
///
/// # Errors
/// [`Kind::BadInput`] for values that are wrong, [`Kind::Unsupported`] for those that this host
/// cannot give.
pub fn check(request: &Request, host: &HostFacts) -> Result<Vec<String>> {
    let (c, h) = (&request.config, &request.host_config);
    for (what, text) in [
        ("the user", &c.user),
        ("the working directory", &c.working_dir),
        ("the host name", &c.hostname),
        ("the domain name", &c.domainname),
        ("the parent control group", &h.cgroup_parent),
    ] {
        no_controls(what, text)?;
    }
    for text in c
        .env
        .iter()
        .chain(c.entrypoint.iter().flatten())
        .chain(c.cmd.iter().flatten())
    {
        no_nul("a variable or argument", text)?;
    }
    for entry in &c.env {
        let name = entry.split('=').next().unwrap_or_default();
        if name.is_empty() {
            return bad(
                format!("the variable `{}` has no name", show(entry)),
                "write NAME=VALUE",
            );
        }
        no_controls("the name of a variable", name)?;
    }
    for path in c.volumes.keys() {
        no_controls("a volume", path)?;
    }
    for path in h.masked_paths.iter().chain(&h.readonly_paths).flatten() {
        no_controls("a masked or read-only path", path)?;
        if !path.starts_with('/') {
            let m = format!(
                "the masked or read-only path `{}` is not absolute",
                show(path)
            );
            return bad(m, "begin it with a slash");
        }
    }
    let size = |w: &[String]| w.iter().map(|w| w.len() + 9).sum::<usize>();
    let all = size(&c.env)
        + size(c.cmd.as_deref().unwrap_or_default())
        + size(c.entrypoint.as_deref().unwrap_or_default());
    if all > MAX_ARG_BYTES {
        let m = format!("arguments and environment are {all} bytes");
        let e = Error::new(Kind::Limit, m);
        return Err(e.with_hint(format!(
            "the kernel takes {MAX_ARG_BYTES} at most: use a file"
        )));
    }
    working_dir(&c.working_dir)?;
    host_name("host name", &c.hostname)?;
    host_name("domain name", &c.domainname)?;
    if let Some(s) = c.stop_signal.as_deref().filter(|s| !s.is_empty()) {
        signal::parse(s)?;
    }
    health(request)?;
    if !(-1000..=1000).contains(&h.oom_score_adj) {
        let m = format!("an OOM score adjustment of {}", h.oom_score_adj);
        return bad(m, "it is between -1000 and 1000");
    }
    if h.shm_size < 0 {
        return bad(
            "the size of /dev/shm is negative",
            "give a size such as 64m",
        );
    }
    for (name, value) in &h.annotations {
        if name.is_empty() {
            return bad("an annotation has no name", "write NAME=VALUE");
        }
        no_nul("an annotation", name)?;
        no_nul("an annotation", value)?;
    }
    let options = security::Options::parse(&h.security_opt)?;
    security::apparmor(h, &options, host)?;
    super::caps::named(&h.cap_add)?;
    super::caps::named(&h.cap_drop)?;
    rlimits::parse(&h.ulimits, host)?;
    sysctls::check(request)?;
    let mut warnings = resources::check(h, host)?;
    warnings.extend(security::unconfined(h, &options, host));
    Ok(warnings)
}

/// An absolute path without `.`, `..` and doubled slashes.
pub(super) fn working_dir(path: &str) -> Result<String> {
    if path.is_empty() {
        return Ok("/".to_owned());
    }
    if !path.starts_with('/') {
        let m = format!(
            "the working directory `{}` is not an absolute path",
            show(path)
        );
        return bad(m, "begin it with a slash");
    }
    if path.len() > 4095 {
        return bad(
            "the working directory is longer than 4095 bytes",
            "use a shorter path",
        );
    }
    Ok(clean(path))
}

/// `path` without `.`, `..` and doubled slashes, as names: no link is looked at.
pub(super) fn clean(path: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(out.pop()),
            part => out.push(part),
        }
    }
    format!("/{}", out.join("/"))
}

fn host_name(what: &str, name: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let fine = name.len() <= MAX_HOSTNAME
        && name.bytes().all(fits)
        && !name.starts_with(['-', '.'])
        && !name.ends_with('-');
    if fine {
        return Ok(());
    }
    let m = format!("`{}` is no {what}", show(name));
    bad(m, "letters, digits, hyphens and dots, at most 64 of them")
}

fn health(request: &Request) -> Result<()> {
    let Some(h) = &request.config.healthcheck else {
        return Ok(());
    };
    const LEAST: i64 = 1_000_000;
    for (what, nanoseconds) in [
        ("interval", h.interval),
        ("timeout", h.timeout),
        ("start period", h.start_period),
        ("start interval", h.start_interval),
    ] {
        if nanoseconds != 0 && nanoseconds < LEAST {
            let m = format!("the {what} of the health check is shorter than a millisecond");
            return bad(m, "give a duration such as 30s");
        }
    }
    if h.retries < 0 {
        return bad(
            "the retries of the health check are negative",
            "give a number from 1",
        );
    }
    match h.test.first().map(String::as_str) {
        None | Some("NONE" | "CMD") => Ok(()),
        Some("CMD-SHELL") if h.test.len() > 1 => Ok(()),
        Some("CMD-SHELL") => bad("the health check has no command", "give a command"),
        Some(other) => {
            let m = format!("the health check is of the kind `{}`", show(other));
            bad(m, "it is NONE, CMD or CMD-SHELL")
        }
    }
}

/// Refuses ids that the kernel or a tool could take for another: nothing above 2^31-1.
pub(super) fn user(user: &ResolvedUser) -> Result<()> {
    let ids = [user.uid, user.gid];
    let worst = ids.iter().chain(&user.additional_gids).max();
    match worst {
        Some(id) if *id > MAX_ID => bad(
            format!("{id} is no id of a user or group"),
            format!("they are numbers up to {MAX_ID}"),
        ),
        _ => no_controls("the home directory", &user.home),
    }
}

pub(super) fn no_controls(what: &str, text: &str) -> Result<()> {
    if text.chars().any(char::is_control) {
        let m = format!("{what} has a control character in it: `{}`", show(text));
        return bad(m, "it would end up in files that others read line by line");
    }
    Ok(())
}

pub(super) fn no_nul(what: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        let m = format!("{what} has a NUL in it: `{}`", show(text));
        return bad(m, "no program can be given one");
    }
    Ok(())
}

pub(super) fn bad<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(Error::new(Kind::BadInput, message).with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::request::{ContainerConfig, Healthcheck, HostConfig};

    fn refused(config: ContainerConfig, host_config: HostConfig) -> String {
        let request = Request {
            config,
            host_config,
            ..Request::default()
        };
        let e = check(&request, &HostFacts::default()).unwrap_err();
        assert!(e.hint().is_some());
        e.message().to_owned()
    }

    #[test]
    fn values_that_no_container_can_have() {
        let c = ContainerConfig::default;
        let h = HostConfig::default;
        let s = |t: &str| t.to_owned();
        let health = |test: &[&str], interval| ContainerConfig {
            healthcheck: Some(Healthcheck {
                test: test.iter().map(|t| t.to_string()).collect(),
                interval,
                ..Healthcheck::default()
            }),
            ..c()
        };
        for (config, host, part) in [
            (
                ContainerConfig {
                    user: s("a\nb"),
                    ..c()
                },
                h(),
                "control character",
            ),
            (
                ContainerConfig {
                    working_dir: s("/a\x7f"),
                    ..c()
                },
                h(),
                "control character",
            ),
            (
                ContainerConfig {
                    working_dir: s("a/b"),
                    ..c()
                },
                h(),
                "not an absolute",
            ),
            (
                ContainerConfig {
                    working_dir: "/a".repeat(3000),
                    ..c()
                },
                h(),
                "4095",
            ),
            (
                ContainerConfig {
                    hostname: s("a b"),
                    ..c()
                },
                h(),
                "no host name",
            ),
            (
                ContainerConfig {
                    hostname: s("-a"),
                    ..c()
                },
                h(),
                "no host name",
            ),
            (
                ContainerConfig {
                    hostname: "a".repeat(65),
                    ..c()
                },
                h(),
                "no host name",
            ),
            (
                ContainerConfig {
                    domainname: s("a/b"),
                    ..c()
                },
                h(),
                "no domain name",
            ),
            (
                ContainerConfig {
                    env: vec![s("=x")],
                    ..c()
                },
                h(),
                "no name",
            ),
            (
                ContainerConfig {
                    env: vec![s("A=\0")],
                    ..c()
                },
                h(),
                "NUL",
            ),
            (
                ContainerConfig {
                    env: vec![s("A\n=")],
                    ..c()
                },
                h(),
                "control character",
            ),
            (
                ContainerConfig {
                    env: vec![format!("A={}", "x".repeat(3 << 20))],
                    ..c()
                },
                h(),
                "arguments and environment",
            ),
            (
                ContainerConfig {
                    cmd: Some(vec![s("\0")]),
                    ..c()
                },
                h(),
                "NUL",
            ),
            (
                ContainerConfig {
                    stop_signal: Some(s("SIGNO")),
                    ..c()
                },
                h(),
                "no signal",
            ),
            (
                ContainerConfig {
                    volumes: [(s("/a\nb"), super::super::request::Nothing {})].into(),
                    ..c()
                },
                h(),
                "control character",
            ),
            (health(&["CMD"], 5), h(), "shorter than a millisecond"),
            (health(&["SHELL"], 0), h(), "kind `SHELL`"),
            (health(&["CMD-SHELL"], 0), h(), "no command"),
            (
                c(),
                HostConfig {
                    oom_score_adj: 1001,
                    ..h()
                },
                "OOM score",
            ),
            (
                c(),
                HostConfig {
                    masked_paths: Some(vec![s("proc")]),
                    ..h()
                },
                "not absolute",
            ),
            (
                c(),
                HostConfig {
                    shm_size: -1,
                    ..h()
                },
                "negative",
            ),
            (
                c(),
                HostConfig {
                    cgroup_parent: s("/a\n"),
                    ..h()
                },
                "control character",
            ),
            (
                c(),
                HostConfig {
                    annotations: [(s(""), s("x"))].into(),
                    ..h()
                },
                "no name",
            ),
            (
                c(),
                HostConfig {
                    cap_add: vec![s("NONE_SUCH")],
                    ..h()
                },
                "NONE_SUCH",
            ),
            (
                c(),
                HostConfig {
                    security_opt: vec![s("nonsense")],
                    ..h()
                },
                "nonsense",
            ),
        ] {
            let message = refused(config, host);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, want) in [
            ("/", "/"),
            ("/a//b/./c/..", "/a/b"),
            ("/../..", "/"),
            ("", "/"),
        ] {
            assert_eq!(working_dir(path).unwrap(), want);
        }
    }

    #[test]
    fn ids_have_a_bound() {
        let of = |uid, gid, more: &[u32]| ResolvedUser {
            uid,
            gid,
            additional_gids: more.to_vec(),
            home: "/".into(),
        };
        user(&of(MAX_ID, MAX_ID, &[])).unwrap();
        for over in [
            of(MAX_ID + 1, 0, &[]),
            of(0, u32::MAX, &[]),
            of(0, 0, &[1 << 31]),
        ] {
            assert!(user(&over).unwrap_err().message().contains("no id"));
        }
        let home = ResolvedUser {
            home: "/\n".into(),
            ..ResolvedUser::default()
        };
        user(&home).unwrap_err();
    }
}
