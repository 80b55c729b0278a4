//! Who starts containers, and what each needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::start::{Scene, netavark};

/// A program and the way it is called.
#[derive(Debug, Clone)]
pub(crate) struct Contestant {
    /// Name in reports.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What it is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// The runtime alone, on a prepared bundle: the floor.
    Floor {
        /// `runc` or `crun`.
        runtime: &'static str,
    },
    /// netavark alone, setting a bridge up and taking it down.
    Netavark,
    /// A build of ours.
    Unlade {
        /// The program.
        binary: PathBuf,
        /// `--graph-driver`.
        driver: &'static str,
        /// `--runtime`.
        runtime: &'static str,
    },
    /// podman.
    Podman {
        /// `--runtime`.
        runtime: &'static str,
    },
    /// ctr and a containerd of its own.
    Ctr,
    /// docker and a dockerd of its own.
    Docker,
}

/// Everyone by name, in the order of reports.
pub(crate) const ALL: [&str; 11] = [
    "runc",
    "crun",
    "netavark",
    "unlade-runc",
    "unlade-crun",
    "unlade-erofs-runc",
    "unlade-erofs-crun",
    "podman-runc",
    "podman-crun",
    "ctr",
    "docker",
];

impl Contestant {
    /// Looks one up by name.
    pub(crate) fn named(name: &str, unlade: &Path) -> Result<Self> {
        let ours = |driver, runtime| Kind::Unlade {
            binary: unlade.to_owned(),
            driver,
            runtime,
        };
        let kind = match name {
            "runc" => Kind::Floor { runtime: "runc" },
            "crun" => Kind::Floor { runtime: "crun" },
            "netavark" => Kind::Netavark,
            "unlade-runc" => ours("overlay", "runc"),
            "unlade-crun" => ours("overlay", "crun"),
            "unlade-erofs-runc" => ours("erofs", "runc"),
            "unlade-erofs-crun" => ours("erofs", "crun"),
            "podman-runc" => Kind::Podman { runtime: "runc" },
            "podman-crun" => Kind::Podman { runtime: "crun" },
            "ctr" => Kind::Ctr,
            "docker" => Kind::Docker,
            other => bail!(
                "no contestant called {other:?}; there are: {}",
                ALL.join(" ")
            ),
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
        })
    }

    /// The runtime it uses; none for netavark.
    pub(crate) fn runtime(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Floor { runtime } | Kind::Unlade { runtime, .. } | Kind::Podman { runtime } => {
                Some(runtime)
            }
            Kind::Ctr | Kind::Docker => Some("runc"),
            Kind::Netavark => None,
        }
    }

    /// Whether it uses crun.
    pub(crate) fn is_crun(&self) -> bool {
        self.runtime() == Some("crun")
    }

    /// How it is called, and what it does that others do not.
    pub(crate) fn note(&self) -> String {
        match &self.kind {
            Kind::Floor { runtime } => format!(
                "the floor: `{runtime} run` of a prepared bundle, `runc spec`'s own configuration \
                 without a terminal, the image unpacked by tar, no seccomp"
            ),
            Kind::Netavark => "`netavark setup` and `teardown` of one bridge and address in a \
                               network namespace that is there"
                .to_owned(),
            Kind::Unlade {
                driver, runtime, ..
            } => format!("no daemon, graph driver {driver}, {runtime}, else as by default"),
            Kind::Podman { runtime } => format!(
                "no daemon, overlay, {runtime}, cgroupfs, no events, limits of open files and \
                 processes given (it asks for more than this machine's root may have)"
            ),
            Kind::Ctr => "overlayfs snapshotter, runc; no loopback, hosts or resolv.conf; its \
                          containerd is started before"
                .to_owned(),
            Kind::Docker => "overlay2, runc, its own bridge; its dockerd and containerd are \
                             started before"
                .to_owned(),
        }
    }

    /// Why it cannot take part, if it cannot.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let programs: Vec<&str> = match &self.kind {
            Kind::Unlade {
                binary, runtime, ..
            } => {
                if !binary.is_file() {
                    return Some(format!("{} is not there", binary.display()));
                }
                vec![runtime]
            }
            Kind::Floor { runtime } => vec![runtime],
            Kind::Netavark => vec![netavark(), "ip"],
            Kind::Podman { runtime } => vec!["podman", "conmon", runtime],
            Kind::Ctr => vec!["containerd", "ctr", "runc"],
            Kind::Docker => vec!["dockerd", "docker", "containerd", "runc"],
        };
        let missing = |program: &&&str| {
            let mut command = Command::new(program);
            command.arg("--version").stdin(Stdio::null());
            command.output().is_err()
        };
        let missing = programs.iter().find(missing)?;
        Some(format!("{missing} is not there"))
    }

    /// The command that a scene needs and a build of ours does not have.
    pub(crate) fn lacks(&self, scene: Scene) -> Option<String> {
        let Kind::Unlade { binary, .. } = &self.kind else {
            return None;
        };
        let needed: &[&str] = match scene {
            Scene::Version => &[],
            Scene::Exec => &["run", "exec", "rm"],
            Scene::Lifecycle => &["create", "start", "stop", "rm"],
            Scene::Helpers => &["run", "rm"],
            _ => &["run"],
        };
        let lacks = |verb: &&&str| !runs(Command::new(binary).args([*verb, "--help"]));
        let verb = needed.iter().find(lacks)?;
        Some(format!("this build of unlade has no `{verb}`"))
    }
}

fn runs(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known() {
        for name in ALL {
            let found = Contestant::named(name, Path::new("/u")).unwrap();
            assert_eq!(found.name, name);
            assert!(!found.note().is_empty());
            assert_eq!(found.is_crun(), name.ends_with("crun"));
        }
        assert!(Contestant::named("rkt", Path::new("/u")).is_err());
    }

    #[test]
    fn what_cannot_run_is_told() {
        let missing = Contestant::named("unlade-runc", Path::new("/no/such")).unwrap();
        assert_eq!(missing.obstacle().unwrap(), "/no/such is not there");
        let old = Contestant::named("unlade-runc", Path::new("/bin/false")).unwrap();
        assert!(old.lacks(Scene::Exec).unwrap().contains("no `run`"));
        assert!(old.lacks(Scene::Version).is_none());
        let docker = Contestant::named("docker", Path::new("/bin/false")).unwrap();
        assert!(docker.lacks(Scene::Exec).is_none());
    }
}
