//! A store of a test's own, and the command on it.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use super::{binary, text};

/// A store of its own.
pub struct Store {
    dir: TempDir,
    pub driver: &'static str,
    env: &'static [(&'static str, &'static str)],
}

impl Store {
    /// In a new directory below `above`, with this configuration; commands get these variables.
    pub fn new(
        above: &str,
        driver: &'static str,
        config: &str,
        env: &'static [(&'static str, &'static str)],
    ) -> Self {
        let dir = tempfile::tempdir_in(above).unwrap();
        let store = Self { dir, driver, env };
        fs::write(store.path("config.toml"), config).unwrap();
        store
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path as an argument.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(["--root", &self.arg("store"), "--run-root", &self.arg("run")])
            .args(["--graph-driver", self.driver])
            .args(args)
            .env("UNLADE_CONFIG", self.path("config.toml"))
            .envs(self.env.iter().copied())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command that succeeds prints.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    /// What a command that fails complains of.
    pub fn fails(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("hint: "), "{args:?}: {said}");
        said
    }
}
