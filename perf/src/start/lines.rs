//! The command lines of every contestant for every scene.

use std::path::Path;

use crate::start::Scene;
use crate::start::bundle::Bundles;
use crate::start::contestants::Kind;
use crate::start::netavark;

/// What a container does that goes on.
const SLEEP: [&str; 2] = ["sleep", "100000"];
/// podman asks for as many open files and processes as the kernel allows, which needs
/// CAP_SYS_RESOURCE.
const ULIMITS: [&str; 4] = [
    "--ulimit",
    "nofile=1024:1024",
    "--ulimit",
    "nproc=1024:1024",
];

/// Command lines, run in order.
pub(crate) type Steps = Vec<Vec<String>>;

/// How an engine that is ready is called.
#[derive(Debug)]
pub(crate) struct Lines {
    /// What it is.
    pub(crate) kind: Kind,
    /// The program and its global flags.
    pub(crate) base: Vec<String>,
    /// The image's name in its store; nothing for the floor.
    pub(crate) image: String,
    /// The name of the container that goes on. Contestants may share a store.
    pub(crate) running: String,
    /// The floor's bundles, and netavark's file.
    pub(crate) bundles: Bundles,
}

impl Lines {
    /// What is timed, with a new name for whatever needs one, and the container that goes on to
    /// execute in; or why there is nothing to time.
    pub(crate) fn steps(&self, scene: Scene, id: &str) -> Result<Steps, String> {
        match &self.kind {
            Kind::Netavark => self.netavark(scene),
            _ if scene == Scene::Version => {
                Ok(vec![vec![self.base[0].clone(), "--version".to_owned()]])
            }
            Kind::Floor { .. } => Ok(self.floor(scene, id)),
            Kind::Ctr => self.ctr(scene, id),
            _ => Ok(self.docker(scene, id)),
        }
    }

    fn netavark(&self, scene: Scene) -> Result<Steps, String> {
        if scene != Scene::RunBridge {
            return Err("has a part in run-bridge alone".to_owned());
        }
        let step = |verb| {
            let file = self.bundles.netavark.display().to_string();
            let args = ["--file", &file, verb, &self.bundles.netns];
            words(&[&[netavark()], &args[..]].concat())
        };
        Ok(vec![step("setup"), step("teardown")])
    }

    /// With a bridge the floor is the same as without a network: netavark is a contestant itself.
    fn floor(&self, scene: Scene, id: &str) -> Steps {
        let on =
            |verb, bundle: &Path| self.line(&[verb, "--bundle", &bundle.display().to_string(), id]);
        match scene {
            Scene::Exec => vec![self.line(&["exec", &self.running, "true"])],
            Scene::Lifecycle => vec![
                on("create", &self.bundles.sleep),
                self.line(&["start", id]),
                self.line(&["delete", "--force", id]),
            ],
            Scene::RunHost => vec![on("run", &self.bundles.host)],
            _ => vec![on("run", &self.bundles.none)],
        }
    }

    fn ctr(&self, scene: Scene, id: &str) -> Result<Steps, String> {
        let image = self.image.as_str();
        Ok(match scene {
            Scene::RunBridge => {
                return Err("has no bridge of its own, only CNI plugins in /opt/cni/bin".to_owned());
            }
            Scene::RunHost => vec![self.line(&["run", "--rm", "--net-host", image, id, "true"])],
            Scene::Exec => {
                vec![self.line(&["task", "exec", "--exec-id", id, &self.running, "true"])]
            }
            Scene::Lifecycle => {
                let create = [&["container", "create", image, id][..], &SLEEP].concat();
                vec![
                    self.line(&create),
                    self.line(&["task", "start", "--detach", id]),
                    self.line(&["task", "rm", "--force", id]),
                    self.line(&["container", "rm", id]),
                ]
            }
            _ => vec![self.line(&["run", "--rm", image, id, "true"])],
        })
    }

    /// docker, and all that are called like it. What stops ignores SIGTERM, being process 1
    /// without a handler, and one that has a handler may be stopped before it has set it: so
    /// nobody waits.
    fn docker(&self, scene: Scene, id: &str) -> Steps {
        let network = match scene {
            Scene::RunHost => "host",
            Scene::RunBridge => "bridge",
            _ => "none",
        };
        match scene {
            Scene::Exec => vec![self.line(&["exec", &self.running, "true"])],
            Scene::Lifecycle => vec![
                self.container(&["create", "--name", id], network, &SLEEP),
                self.line(&["start", id]),
                self.line(&["stop", "-t", "0", id]),
                self.line(&["rm", id]),
            ],
            _ => vec![self.container(&["run", "--rm"], network, &["true"])],
        }
    }

    fn container(&self, head: &[&str], network: &str, run: &[&str]) -> Vec<String> {
        let mut args = [head, &["--network", network]].concat();
        match &self.kind {
            Kind::Unlade { runtime, .. } => args.extend(["--runtime", runtime]),
            Kind::Podman { .. } => args.extend(ULIMITS),
            _ => {}
        }
        args.push(&self.image);
        args.extend(run);
        self.line(&args)
    }

    /// Starts the container that goes on; nothing for who has no containers.
    pub(crate) fn start(&self) -> Option<Vec<String>> {
        let id = self.running.as_str();
        match &self.kind {
            Kind::Netavark => None,
            Kind::Floor { .. } => {
                let bundle = self.bundles.sleep.display().to_string();
                Some(self.line(&["run", "--detach", "--bundle", &bundle, id]))
            }
            Kind::Ctr => {
                let args = [&["run", "--detach", &self.image, id][..], &SLEEP].concat();
                Some(self.line(&args))
            }
            _ => Some(self.container(&["run", "-d", "--name", id], "none", &SLEEP)),
        }
    }

    /// Ends and removes it.
    pub(crate) fn remove(&self) -> Steps {
        let id = self.running.as_str();
        match &self.kind {
            Kind::Netavark => Vec::new(),
            Kind::Floor { .. } => vec![self.line(&["delete", "--force", id])],
            Kind::Ctr => vec![
                self.line(&["task", "rm", "--force", id]),
                self.line(&["container", "rm", id]),
            ],
            Kind::Podman { .. } => vec![self.line(&["rm", "-f", "-t", "0", id])],
            _ => vec![self.line(&["rm", "-f", id])],
        }
    }

    /// Brings the image into the store.
    pub(crate) fn pull(&self) -> Option<Vec<String>> {
        let image = self.image.as_str();
        match &self.kind {
            Kind::Floor { .. } | Kind::Netavark => None,
            Kind::Ctr => Some(self.line(&["images", "pull", "--plain-http", image])),
            Kind::Podman { .. } => Some(self.line(&["pull", "-q", "--tls-verify=false", image])),
            _ => Some(self.line(&["pull", "-q", image])),
        }
    }

    fn line(&self, args: &[&str]) -> Vec<String> {
        let mut line = self.base.clone();
        line.extend(words(args));
        line
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(kind: Kind, base: &[&str]) -> Lines {
        Lines {
            kind,
            base: words(base),
            image: "image".to_owned(),
            running: "on".to_owned(),
            bundles: Bundles::at(Path::new("/b")),
        }
    }

    fn joined(steps: &Steps) -> Vec<String> {
        steps.iter().map(|step| step.join(" ")).collect()
    }

    #[test]
    fn unlade_is_called_as_docker_is() {
        let kind = Kind::Unlade {
            binary: "u".into(),
            driver: "erofs",
            runtime: "crun",
        };
        let ours = lines(kind, &["u", "--root", "r"]);
        let run = ours.steps(Scene::RunHost, "x").unwrap();
        let wanted = "u --root r run --rm --network host --runtime crun image true";
        assert_eq!(joined(&run), [wanted]);
        let docker = lines(Kind::Docker, &["docker"]);
        let life = docker.steps(Scene::Lifecycle, "x").unwrap();
        let wanted = [
            "docker create --name x --network none image sleep 100000",
            "docker start x",
            "docker stop -t 0 x",
            "docker rm x",
        ];
        assert_eq!(joined(&life), wanted);
    }

    #[test]
    fn the_floor_runs_bundles() {
        let floor = lines(Kind::Floor { runtime: "runc" }, &["runc", "--root", "r"]);
        let run = floor.steps(Scene::RunBridge, "x").unwrap();
        assert_eq!(joined(&run), ["runc --root r run --bundle /b/none x"]);
        let version = floor.steps(Scene::Version, "x").unwrap();
        assert_eq!(joined(&version), ["runc --version"]);
        assert!(floor.pull().is_none() && floor.start().is_some());
    }

    #[test]
    fn who_has_no_part_says_why() {
        let ctr = lines(Kind::Ctr, &["ctr"]);
        assert!(ctr.steps(Scene::RunBridge, "x").is_err());
        assert!(ctr.steps(Scene::RunNone, "x").is_ok());
        let netavark = lines(Kind::Netavark, &["netavark"]);
        assert!(netavark.steps(Scene::Version, "x").is_err());
        let bridge = netavark.steps(Scene::RunBridge, "x").unwrap();
        assert_eq!(bridge.len(), 2);
        assert!(netavark.start().is_none() && netavark.remove().is_empty());
    }
}
