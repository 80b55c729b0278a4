//! The first process of a container, and further ones that are started in it.

use oci_spec::runtime::{
    Box as Size, BoxBuilder, Process, ProcessBuilder, Spec, User, UserBuilder,
};
use serde::{Deserialize, Serialize};

use super::{
    caps,
    check::{self, bad, no_nul, working_dir},
    explain::{Notes, Origin},
    host::HostFacts,
    image::ImageConfig,
    mounts,
    place::{Placement, ResolvedUser},
    request::Request,
    rlimits,
    security::Options,
};
use crate::error::{Error, Kind, Result};

/// Where programs are looked for if nobody says otherwise.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is asked of a further process, in Docker's names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ExecRequest {
    /// What runs.
    pub cmd: Vec<String>,
    /// `NAME=value`, on top of the container's; a bare `NAME` takes a variable away.
    pub env: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// As whom; empty for the container's own. Resolved by the caller.
    pub user: String,
    /// Whether it gets all capabilities.
    pub privileged: bool,
    /// Working directory; empty for the container's.
    pub working_dir: String,
    /// Rows and columns of its terminal.
    pub console_size: [u16; 2],
}

fn bug(e: impl std::fmt::Display) -> Error {
    Error::new(Kind::Bug, e.to_string())
}

fn name(entry: &str) -> &str {
    entry.split('=').next().unwrap_or_default()
}

/// Puts `more` over `env`: the same name is replaced where it stands, a bare one taken away.
pub(super) fn overlay(env: &mut Vec<String>, more: &[String]) {
    for entry in more {
        let at = env.iter().position(|e| name(e) == name(entry));
        match (entry.contains('='), at) {
            (true, Some(at)) => env[at].clone_from(entry),
            (true, None) => env.push(entry.clone()),
            (false, Some(at)) => drop(env.remove(at)),
            (false, None) => {}
        }
    }
}

fn env(
    image: &ImageConfig,
    request: &Request,
    hostname: &str,
    home: &str,
    linked: &[String],
    notes: &mut Notes,
) -> Vec<String> {
    let c = &request.config;
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    notes.set("process.env", Origin::Default, "");
    notes.set("process.env[HOSTNAME]", Origin::Engine, "");
    if c.tty {
        notes.set("process.env[TERM]", Origin::Default, "terminal");
        env.push("TERM=xterm".to_owned());
    }
    overlay(&mut env, linked);
    for entry in linked {
        notes.set(
            format!("process.env[{}]", name(entry)),
            Origin::User,
            "--link",
        );
    }
    overlay(&mut env, &c.env);
    for entry in &c.env {
        let (origin, detail) = if image.env.contains(entry) {
            (Origin::Image, "Env")
        } else {
            (Origin::User, "--env")
        };
        notes.set(format!("process.env[{}]", name(entry)), origin, detail);
    }
    let said = |e: &String| name(e) == "HOME";
    if !env.iter().any(said) && !c.env.iter().any(said) {
        notes.set("process.env[HOME]", Origin::Image, "/etc/passwd");
        env.push(format!("HOME={home}"));
    }
    env
}

fn args(
    image: &ImageConfig,
    request: &Request,
    place: &Placement,
    notes: &mut Notes,
) -> Result<Vec<String>> {
    let c = &request.config;
    let words = c.entrypoint.iter().chain(&c.cmd).flatten().cloned();
    let mut args: Vec<String> = words.collect();
    if args.is_empty() {
        return bad(
            "no command specified",
            "add the command to run after the image's name",
        );
    }
    let all_of_image = [(&c.entrypoint, &image.entrypoint), (&c.cmd, &image.cmd)]
        .iter()
        .all(|(ours, theirs)| ours.as_ref().is_none_or(Vec::is_empty) || ours == theirs);
    if all_of_image {
        notes.set("process.args", Origin::Image, "Entrypoint, Cmd");
    } else if c.entrypoint.is_some() && c.entrypoint == image.entrypoint {
        notes.set(
            "process.args",
            Origin::User,
            "the command, after the image's Entrypoint",
        );
    } else {
        notes.set("process.args", Origin::User, "--entrypoint, the command");
    }
    if mounts::uses_init(request, place) {
        notes.set("process.args", Origin::User, "--init, and the command");
        args.splice(0..0, [mounts::INIT.to_owned(), "--".to_owned()]);
    }
    Ok(args)
}

fn numbers(user: &ResolvedUser) -> Result<User> {
    check::user(user)?;
    let mut gids = user.additional_gids.clone();
    // Else a process of the group could be taken for one that is not in it (CVE-2022-2995).
    if !gids.contains(&user.gid) {
        gids.push(user.gid);
    }
    gids.sort_unstable();
    gids.dedup();
    let built = UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(gids);
    built.build().map_err(bug)
}

fn size([rows, columns]: [u16; 2]) -> Option<Size> {
    let size = BoxBuilder::default()
        .height(rows)
        .width(columns)
        .build()
        .ok();
    size.filter(|_| rows != 0 && columns != 0)
}

/// What is common to all of [`super::assemble`]'s parts.
pub(super) struct Given<'a> {
    pub(super) image: &'a ImageConfig,
    pub(super) request: &'a Request,
    pub(super) host: &'a HostFacts,
    pub(super) place: &'a Placement,
    pub(super) options: &'a Options,
    pub(super) hostname: &'a str,
    pub(super) caps: &'a caps::Names,
}

/// The container's first process, without what security modules add.
pub(super) fn assemble(given: &Given<'_>, notes: &mut Notes) -> Result<Process> {
    let Given {
        image,
        request,
        host,
        place,
        options,
        hostname,
        caps,
    } = *given;
    let (c, h) = (&request.config, &request.host_config);
    let mut from = |path: &str, ours: &str, theirs: &str, field: &str, flag: &str| match ours {
        "" => notes.set(path, Origin::Default, ""),
        ours if ours == theirs => notes.set(path, Origin::Image, field),
        _ => notes.set(path, Origin::User, flag),
    };
    from("process.user", &c.user, &image.user, "User", "--user");
    let (dir, of_image) = (&c.working_dir, &image.working_dir);
    from("process.cwd", dir, of_image, "WorkingDir", "--workdir");
    if !h.group_add.is_empty() {
        notes.set("process.user.additionalGids", Origin::User, "--group-add");
    }
    notes.given("process.terminal", c.tty, "--tty");
    notes.set("process.consoleSize", Origin::Host, "the terminal");
    let flag = "--security-opt no-new-privileges";
    notes.given("process.noNewPrivileges", options.no_new_privileges, flag);
    let mut process = ProcessBuilder::default()
        .terminal(c.tty)
        .user(numbers(&place.user)?)
        .args(args(image, request, place, notes)?)
        .env(env(
            image,
            request,
            hostname,
            &home(&place.user),
            &place.linked_env,
            notes,
        ))
        .cwd(working_dir(&c.working_dir)?)
        .capabilities(caps::sets(caps)?)
        .no_new_privileges(options.no_new_privileges)
        .build()
        .map_err(bug)?;
    process
        .set_console_size(size(h.console_size).filter(|_| c.tty))
        .set_rlimits(rlimits::assemble(&h.ulimits, host, notes)?)
        .set_oom_score_adj(oom_score(h.oom_score_adj, host, notes)?)
        .set_apparmor_profile(None)
        .set_selinux_label(None);
    Ok(process)
}

fn home(user: &ResolvedUser) -> String {
    match user.home.as_str() {
        "" => "/".to_owned(),
        home => home.to_owned(),
    }
}

/// The adjustment that is written. Without CAP_SYS_RESOURCE it cannot be lowered.
fn oom_score(asked: i32, host: &HostFacts, notes: &mut Notes) -> Result<Option<i32>> {
    notes.given("process.oomScoreAdj", asked != 0, "--oom-score-adj");
    if asked >= host.oom_score_adj || host.may_raise_limits {
        return Ok(Some(asked));
    }
    if asked == 0 {
        return Ok(None);
    }
    let m = format!("the OOM score adjustment cannot be lowered to {asked}");
    let e = Error::new(Kind::Denied, m);
    let own = host.oom_score_adj;
    Err(e.with_hint(format!(
        "unlade lacks CAP_SYS_RESOURCE here: the least is {own}"
    )))
}

/// A further process in the container that `spec` was made for from `request`; `user` where
/// another than the container's is asked for.
///
/// # Errors
/// [`Kind::BadInput`] for values that no process can have.
pub fn exec(
    spec: &Spec,
    request: &Request,
    asked: &ExecRequest,
    user: Option<&ResolvedUser>,
    host: &HostFacts,
) -> Result<Process> {
    let Some(first) = spec.process() else {
        return Err(bug("a spec without a process"));
    };
    if asked.cmd.is_empty() {
        return bad(
            "no command specified",
            "add the command to run after the container's name",
        );
    }
    for text in asked.cmd.iter().chain(&asked.env) {
        no_nul("a variable or argument", text)?;
    }
    let mut env = first.env().clone().unwrap_or_default();
    // What unlade has set for the first process and nobody has asked for.
    let asked_for = |n: &str| request.config.env.iter().any(|e| name(e) == n);
    if !asked_for("TERM") {
        env.retain(|e| name(e) != "TERM");
        if asked.tty {
            env.push("TERM=xterm".to_owned());
        }
    }
    if let Some(user) = user
        && !asked_for("HOME")
    {
        overlay(&mut env, &[format!("HOME={}", home(user))]);
    }
    overlay(&mut env, &asked.env);
    let mut process = first.clone();
    process
        .set_terminal(Some(asked.tty))
        .set_console_size(size(asked.console_size).filter(|_| asked.tty))
        .set_args(Some(asked.cmd.clone()))
        .set_env(Some(env));
    if let Some(user) = user {
        process.set_user(numbers(user)?);
    }
    if !asked.working_dir.is_empty() {
        process.set_cwd(working_dir(&asked.working_dir)?.into());
    }
    if asked.privileged {
        process.set_capabilities(Some(caps::sets(&host.bounding)?));
        process.set_apparmor_profile(None);
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{assemble as whole, request::ContainerConfig};

    fn config(cmd: &str, env: &[&str]) -> Request {
        Request {
            config: ContainerConfig {
                cmd: Some(cmd.split(' ').map(str::to_owned).collect()),
                env: env.iter().map(|e| e.to_string()).collect(),
                ..ContainerConfig::default()
            },
            ..Request::default()
        }
    }

    fn spec(request: &Request, place: &Placement) -> Spec {
        whole(
            &ImageConfig::default(),
            request,
            &HostFacts::default(),
            place,
        )
        .unwrap()
        .spec
    }

    fn env_of(process: &Process) -> Vec<String> {
        process.env().clone().unwrap()
    }

    #[test]
    fn environment() {
        let place = Placement {
            id: "0123456789abcdef".into(),
            ..Placement::default()
        };
        let mut request = config("sh", &["A=1", "PATH=/x", "HOSTNAME"]);
        request.config.tty = true;
        let s = spec(&request, &place);
        let env = env_of(s.process().as_ref().unwrap());
        assert_eq!(env, ["PATH=/x", "TERM=xterm", "A=1", "HOME=/"]);
        let s = spec(&config("sh", &["HOME=/mine"]), &place);
        let env = env_of(s.process().as_ref().unwrap());
        assert_eq!(env, [PATH, "HOSTNAME=0123456789ab", "HOME=/mine"]);
        // A bare name takes HOME away for good.
        let s = spec(&config("sh", &["HOME"]), &place);
        let env = env_of(s.process().as_ref().unwrap());
        assert!(!env.iter().any(|e| e.starts_with("HOME")));
    }

    #[test]
    fn further_processes() {
        let place = Placement::default();
        let mut request = config("sh", &["A=1"]);
        request.config.tty = true;
        let s = spec(&request, &place);
        let asked = ExecRequest {
            cmd: vec!["ls".into()],
            env: vec!["A=2".into()],
            working_dir: "/tmp/..".into(),
            ..ExecRequest::default()
        };
        let user = ResolvedUser {
            uid: 5,
            gid: 6,
            additional_gids: vec![7],
            home: "/h".into(),
        };
        let host = HostFacts {
            bounding: ["CAP_KILL".to_owned()].into(),
            ..HostFacts::default()
        };
        let p = exec(&s, &request, &asked, Some(&user), &host).unwrap();
        assert_eq!(env_of(&p)[1..], ["HOSTNAME=", "A=2", "HOME=/h"]);
        assert_eq!(p.cwd().to_str(), Some("/"));
        assert_eq!(p.user().additional_gids(), &Some(vec![6, 7]));
        assert_eq!(p.terminal(), Some(false));
        let caps = |p: &Process| {
            let caps = p.capabilities().clone().unwrap();
            assert!(caps.inheritable().as_ref().unwrap().is_empty());
            assert!(caps.ambient().as_ref().unwrap().is_empty());
            caps.bounding().as_ref().unwrap().len()
        };
        assert_eq!(caps(&p), 0);
        let all = ExecRequest {
            privileged: true,
            tty: true,
            console_size: [24, 80],
            ..asked.clone()
        };
        let p = exec(&s, &request, &all, None, &host).unwrap();
        assert_eq!((caps(&p), p.user().uid()), (1, 0));
        assert!(env_of(&p).contains(&"TERM=xterm".to_owned()));
        assert_eq!(p.console_size().unwrap().width(), 80);
        let none = ExecRequest::default();
        assert!(exec(&s, &request, &none, None, &host).is_err());
        let far = ResolvedUser {
            uid: u32::MAX,
            ..user
        };
        assert!(exec(&s, &request, &asked, Some(&far), &host).is_err());
    }

    #[test]
    fn the_oom_score_is_lowered_only_by_who_may() {
        let mut notes = Notes::default();
        let mut host = HostFacts {
            oom_score_adj: 200,
            ..HostFacts::default()
        };
        assert_eq!(oom_score(0, &host, &mut notes).unwrap(), None);
        assert_eq!(oom_score(300, &host, &mut notes).unwrap(), Some(300));
        assert_eq!(
            oom_score(-5, &host, &mut notes).unwrap_err().kind(),
            Kind::Denied
        );
        host.may_raise_limits = true;
        assert_eq!(oom_score(0, &host, &mut notes).unwrap(), Some(0));
    }
}
