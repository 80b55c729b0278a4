//! One engine at work: a store of its own on the fresh file system, a daemon of its own where it
//! has one, and the command lines that pull and mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::pull::daemon::Daemon;
use crate::pull::engines::Kind;

/// An engine that is ready to pull.
#[derive(Debug)]
pub(crate) struct Session {
    kind: Kind,
    store: PathBuf,
    scratch: PathBuf,
    /// Variables for its commands.
    pub(crate) env: Vec<(String, String)>,
    /// What runs beside them.
    pub(crate) daemon: Option<Daemon>,
}

impl Session {
    /// Starts what an engine needs: its store in `store`, everything else in `scratch`, both empty.
    pub(crate) fn start(kind: Kind, store: &Path, scratch: &Path) -> Result<Self> {
        let mut session = Self {
            kind,
            store: store.to_owned(),
            scratch: scratch.to_owned(),
            env: Vec::new(),
            daemon: None,
        };
        session.prepare()?;
        Ok(session)
    }

    fn prepare(&mut self) -> Result<()> {
        let set = |name: &str, value: &Path| (name.to_owned(), value.display().to_string());
        match &self.kind {
            Kind::Unlade { blobs, .. } => {
                let config = self.scratch.join("unlade.toml");
                let text = if *blobs {
                    ""
                } else {
                    "keep-blobs = \"never\"\n"
                };
                fs::write(&config, text)?;
                self.env.push(set("UNLADE_CONFIG", &config));
            }
            Kind::Podman | Kind::SkopeoUmoci => {
                let tmp = self.store.join("tmp");
                fs::create_dir(&tmp)?;
                self.env.push(set("TMPDIR", &tmp));
            }
            Kind::Containerd { tuned } => {
                let mut command = self.containerd()?;
                if *tuned {
                    command.env("PATH", self.path_with_unpigz()?);
                } else {
                    command.env("CONTAINERD_DISABLE_PIGZ", "1");
                }
                self.run_daemon("containerd", command)?;
            }
            Kind::Dockerd => {
                let config = self.scratch.join("daemon.json");
                fs::write(&config, "{}")?;
                let mut command = Command::new("dockerd");
                command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
                command.args(["--storage-driver", "overlay2", "--log-level", "error"]);
                for (flag, path) in [
                    ("--config-file", config),
                    ("--data-root", self.store.join("docker")),
                    ("--exec-root", self.scratch.join("exec")),
                    ("--pidfile", self.scratch.join("pid")),
                ] {
                    command.arg(flag).arg(path);
                }
                command.args(["--host", &self.socket_url()]);
                self.run_daemon("dockerd", command)?;
            }
        }
        Ok(())
    }

    fn containerd(&self) -> Result<Command> {
        let config = self.scratch.join("containerd.toml");
        let optional = self.scratch.join("opt");
        let text = format!(
            "version = 2\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {}\n",
            serde_json::Value::from(optional.display().to_string())
        );
        fs::write(&config, text)?;
        let mut command = Command::new("containerd");
        command.args(["--log-level", "error"]);
        for (flag, path) in [
            ("--config", config),
            ("--root", self.store.join("containerd")),
            ("--state", self.scratch.join("state")),
            ("--address", self.socket()),
        ] {
            command.arg(flag).arg(path);
        }
        Ok(command)
    }

    /// PATH with a directory before it in which `unpigz` is igzip, if that is there.
    fn path_with_unpigz(&self) -> Result<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let igzip = path
            .split(':')
            .map(|dir| Path::new(dir).join("igzip"))
            .find(|file| file.is_file());
        let Some(igzip) = igzip else { return Ok(path) };
        let dir = self.scratch.join("bin");
        fs::create_dir(&dir)?;
        std::os::unix::fs::symlink(igzip, dir.join("unpigz"))?;
        Ok(format!("{}:{path}", dir.display()))
    }

    fn run_daemon(&mut self, name: &str, mut command: Command) -> Result<()> {
        let log = self.scratch.join("daemon.log");
        let daemon = Daemon::start(name, &mut command, &log)?;
        let probe = match &self.kind {
            Kind::Containerd { .. } => self.ctr(&["version"]),
            _ => self.docker(&["version"]),
        };
        daemon.wait_ready(|| succeeds(&probe))?;
        daemon.forget_peak();
        self.daemon = Some(daemon);
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.scratch.join("sock")
    }

    fn socket_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn ctr(&self, args: &[&str]) -> Vec<String> {
        let socket = self.socket().display().to_string();
        words(&["ctr", "--address", &socket], args)
    }

    fn docker(&self, args: &[&str]) -> Vec<String> {
        words(&["docker", "--host", &self.socket_url()], args)
    }

    fn podman(&self, args: &[&str]) -> Vec<String> {
        let at = |name: &str| self.scratch.join(name).display().to_string();
        let (root, runroot, tmp) = (self.store.join("podman"), at("run"), at("tmp"));
        let root = root.display().to_string();
        let head = [
            "podman",
            "--root",
            &root,
            "--runroot",
            &runroot,
            "--tmpdir",
            &tmp,
            "--storage-driver",
            "overlay",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
        ];
        words(&head, args)
    }

    fn unlade(&self, binary: &Path, driver: &str, args: &[&str]) -> Vec<String> {
        let root = self.store.join("unlade").display().to_string();
        let run = self.scratch.join("run").display().to_string();
        let binary = binary.display().to_string();
        let head = [
            binary.as_str(),
            "--root",
            &root,
            "--run-root",
            &run,
            "--graph-driver",
            driver,
        ];
        words(&head, args)
    }

    /// The command lines of a pull.
    pub(crate) fn pull(&self, reference: &str) -> Vec<Vec<String>> {
        match &self.kind {
            Kind::Unlade { binary, driver, .. } => {
                vec![self.unlade(binary, driver, &["pull", "-q", reference])]
            }
            Kind::Containerd { tuned } => {
                let args = ["images", "pull", "--plain-http", reference];
                let more: &[&str] = if *tuned {
                    &["--max-concurrent-downloads", "6"]
                } else {
                    &[]
                };
                vec![self.ctr(&[&args[..3], more, &args[3..]].concat())]
            }
            Kind::Podman => {
                vec![self.podman(&["pull", "-q", "--tls-verify=false", reference])]
            }
            Kind::SkopeoUmoci => {
                let image = format!("{}:latest", self.store.join("layout").display());
                let bundle = self.store.join("bundle").display().to_string();
                let copy = [
                    "skopeo",
                    "copy",
                    "-q",
                    "--insecure-policy",
                    "--src-tls-verify=false",
                ];
                let (from, to) = (format!("docker://{reference}"), format!("oci:{image}"));
                vec![
                    words(&copy, &[&from, &to]),
                    words(&["umoci", "unpack", "--image", &image], &[&bundle]),
                ]
            }
            Kind::Dockerd => vec![self.docker(&["pull", "-q", reference])],
        }
    }

    /// The same with unlade's own report; nothing for others.
    pub(crate) fn reporting(&self, reference: &str, to: &Path) -> Option<Vec<String>> {
        let Kind::Unlade { binary, driver, .. } = &self.kind else {
            return None;
        };
        let to = to.display().to_string();
        Some(self.unlade(binary, driver, &["pull", "-q", "--report", &to, reference]))
    }

    /// Mounts what was pulled, read-only, where the engine has a way to; then `use_it` is given
    /// the directory. Nothing is returned if there is no way.
    pub(crate) fn with_tree<T>(
        &self,
        reference: &str,
        use_it: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<Option<T>> {
        let at = self.scratch.join("tree");
        let target = at.display().to_string();
        let (mount, unmount) = match &self.kind {
            Kind::Unlade { binary, driver, .. } => (
                self.unlade(binary, driver, &["image", "mount", reference, &target]),
                self.unlade(binary, driver, &["image", "unmount", &target]),
            ),
            Kind::Containerd { .. } => (
                self.ctr(&["images", "mount", reference, &target]),
                self.ctr(&["images", "unmount", "--rm", &target]),
            ),
            Kind::Podman => (
                self.podman(&["image", "mount", reference]),
                self.podman(&["image", "unmount", reference]),
            ),
            Kind::SkopeoUmoci => return use_it(&self.store.join("bundle/rootfs")).map(Some),
            Kind::Dockerd => return Ok(None),
        };
        fs::create_dir_all(&at)?;
        let said = output(&mount, &self.env)?;
        let path = match self.kind {
            Kind::Podman => PathBuf::from(said.trim()),
            _ => at,
        };
        let used = use_it(&path);
        let undone = output(&unmount, &self.env);
        let used = used?;
        undone?;
        Ok(Some(used))
    }
}

fn succeeds(line: &[String]) -> bool {
    output(line, &[]).is_ok()
}

/// What a command that has to succeed prints.
pub(crate) fn output(line: &[String], env: &[(String, String)]) -> Result<String> {
    let (program, args) = line.split_first().context("an empty command")?;
    let envs = env.iter().map(|(name, value)| (name, value));
    let output = Command::new(program)
        .args(args)
        .envs(envs)
        .output()
        .with_context(|| format!("start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}: {}", line.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn words(head: &[&str], args: &[&str]) -> Vec<String> {
    [head, args]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_flags_stand_before_the_verb() {
        let temp = tempfile::tempdir().unwrap();
        let kind = Kind::Unlade {
            binary: "/u".into(),
            driver: "overlay",
            blobs: false,
        };
        let session = Session::start(kind, Path::new("/s"), temp.path()).unwrap();
        let line = session.pull("localhost:5/x:latest").remove(0);
        let verb = line.iter().position(|word| word == "pull").unwrap();
        assert_eq!(line[1..3], ["--root", "/s/unlade"]);
        assert_eq!(line[verb - 2..verb], ["--graph-driver", "overlay"]);
        assert_eq!(line[verb..], ["pull", "-q", "localhost:5/x:latest"]);
        let config = &session.env[0];
        assert_eq!(config.0, "UNLADE_CONFIG");
        let text = fs::read_to_string(&config.1).unwrap();
        assert_eq!(text, "keep-blobs = \"never\"\n");
    }
}
