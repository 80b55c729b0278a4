//! One contestant that is ready: its store holds the image, its daemon runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::child::{self, How, Outcome, Spec};
use crate::oci::Blob;
use crate::pull::daemon::Daemon;
use crate::start::bundle::Bundles;
use crate::start::contestants::{Contestant, Kind};
use crate::start::lines::Lines;
use crate::start::place::SCRATCH;

/// Seconds that command lines may take. Fifty at once are among them.
const LIMIT: u64 = 120;

/// A contestant at work.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Its command lines.
    pub(crate) lines: Lines,
    env: Vec<(String, String)>,
    daemons: Vec<Daemon>,
    log: PathBuf,
}

impl Seat {
    /// Sets a contestant up with its store on `fresh` and everything else in memory, and brings
    /// the image into the store. Contestants that differ in their runtime alone share a store
    /// where that is one program's own.
    pub(crate) fn take(
        contestant: &Contestant,
        fresh: &Path,
        reference: &str,
        blobs: &[Blob],
    ) -> Result<Self> {
        let name = match &contestant.kind {
            Kind::Unlade { driver, .. } => format!("unlade-{driver}"),
            Kind::Floor { .. } | Kind::Netavark => "floor".to_owned(),
            _ => contestant.name.clone(),
        };
        let store = fresh.join(&name);
        let run = Path::new(SCRATCH).join(&name);
        let known = store.exists();
        fs::create_dir_all(&store)?;
        fs::create_dir_all(&run)?;
        let mut seat = Self {
            lines: Lines {
                kind: contestant.kind.clone(),
                base: Vec::new(),
                image: reference.to_owned(),
                running: format!("perf-{}", contestant.name),
                bundles: Bundles::at(&store),
            },
            env: Vec::new(),
            daemons: Vec::new(),
            log: run.join("log"),
        };
        seat.prepare(&store, &run, known, blobs)?;
        if let Some(line) = seat.lines.pull().filter(|_| !known) {
            seat.run(vec![line], How::InTurn)?;
        }
        Ok(seat)
    }

    fn prepare(&mut self, store: &Path, run: &Path, known: bool, blobs: &[Blob]) -> Result<()> {
        let text = |path: PathBuf| path.display().to_string();
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        self.lines.base = match self.lines.kind.clone() {
            Kind::Netavark => {
                self.lines.bundles.make_network()?;
                Vec::new()
            }
            Kind::Floor { runtime } => {
                if !self.lines.bundles.none.exists() {
                    self.lines.bundles.make(blobs)?;
                }
                words(&[runtime, "--root", &text(run.join(runtime))])
            }
            Kind::Unlade { binary, driver, .. } => {
                let config = run.join("unlade.toml");
                // As with the machine's own run root.
                fs::write(&config, "[network]\nkeep-bridge = true\n")?;
                self.env.push(("UNLADE_CONFIG".to_owned(), text(config)));
                let (root, run) = (text(store.join("root")), text(run.join("run")));
                let binary = text(binary);
                let head = [
                    &binary,
                    "--root",
                    &root,
                    "--run-root",
                    &run,
                    "--graph-driver",
                    driver,
                ];
                words(&head)
            }
            Kind::Podman { runtime } => {
                let tmp = store.join("tmp");
                if !known {
                    fs::create_dir(&tmp)?;
                }
                self.env.push(("TMPDIR".to_owned(), text(tmp)));
                let at = |name: &str| text(run.join(name));
                words(&[
                    "podman",
                    "--root",
                    &text(store.join("root")),
                    "--runroot",
                    &at("run"),
                    "--tmpdir",
                    &at("tmp"),
                    "--network-config-dir",
                    &at("networks"),
                    "--storage-driver",
                    "overlay",
                    "--cgroup-manager",
                    "cgroupfs",
                    "--events-backend",
                    "none",
                    "--runtime",
                    runtime,
                ])
            }
            Kind::Ctr => {
                let socket = self.containerd(store, run)?;
                words(&["ctr", "--address", &socket])
            }
            Kind::Docker => {
                let containerd = self.containerd(store, run)?;
                let socket = self.dockerd(store, run, &containerd)?;
                words(&["docker", "--host", &socket])
            }
        };
        Ok(())
    }

    fn containerd(&mut self, store: &Path, run: &Path) -> Result<String> {
        let config = run.join("containerd.toml");
        let optional = serde_json::Value::from(run.join("opt").display().to_string());
        let text = format!(
            "version = 2\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {optional}\n"
        );
        fs::write(&config, text)?;
        let socket = run.join("containerd.sock");
        let mut command = Command::new("containerd");
        command.args(["--log-level", "error"]);
        for (flag, path) in [
            ("--config", config),
            ("--root", store.join("containerd")),
            ("--state", run.join("containerd")),
            ("--address", socket.clone()),
        ] {
            command.arg(flag).arg(path);
        }
        let socket = socket.display().to_string();
        self.daemon(
            command,
            "containerd",
            &["ctr", "--address", &socket, "version"],
        )?;
        Ok(socket)
    }

    fn dockerd(&mut self, store: &Path, run: &Path, containerd: &str) -> Result<String> {
        let config = run.join("daemon.json");
        fs::write(&config, "{}")?;
        let socket = format!("unix://{}", run.join("docker.sock").display());
        let mut command = Command::new("dockerd");
        command.args(["--storage-driver", "overlay2", "--log-level", "error"]);
        command.args(["--host", &socket, "--containerd", containerd]);
        // Not the subnet that others which do as docker does choose too.
        command.args(["--bip", "10.98.0.1/16"]);
        for (flag, path) in [
            ("--config-file", config),
            ("--data-root", store.join("docker")),
            ("--exec-root", run.join("docker")),
            ("--pidfile", run.join("docker.pid")),
        ] {
            command.arg(flag).arg(path);
        }
        self.daemon(
            command,
            "dockerd",
            &["docker", "--host", &socket, "version"],
        )?;
        Ok(socket)
    }

    fn daemon(&mut self, mut command: Command, name: &str, probe: &[&str]) -> Result<()> {
        let daemon = Daemon::start(
            name,
            &mut command,
            &self.log.with_file_name(name.to_owned() + ".log"),
        )?;
        daemon.wait_ready(|| {
            let asked = Command::new(probe[0]).args(&probe[1..]).output();
            asked.is_ok_and(|output| output.status.success())
        })?;
        daemon.forget_peak();
        // The one that uses another ends first.
        self.daemons.insert(0, daemon);
        Ok(())
    }

    /// Runs command lines; fails if one does.
    pub(crate) fn run(&self, steps: Vec<Vec<String>>, how: How) -> Result<Outcome> {
        let outcome = child::spawn(&Spec {
            steps,
            log: self.log.clone(),
            env: self.env.clone(),
            how,
            limit: Some(LIMIT),
        })?;
        if let Some(failure) = outcome.failure {
            bail!(failure);
        }
        Ok(outcome)
    }

    /// Peak RSS in KiB of the largest of its daemons; nothing for who has none.
    pub(crate) fn daemon_rss_kib(&self) -> Option<u64> {
        self.daemons
            .iter()
            .map(|daemon| daemon.usage().peak_rss_kib)
            .max()
    }
}
