//! Options that all commands on the store have.

use std::path::PathBuf;

use clap::Args;
use unlade_unpack::Cancel;

use crate::{config::Config, engine::Engine, error::Result, store::Rebuilt};

/// Which store, and how it is used.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Globals {
    /// Where images, layers and blobs are kept [default: /var/lib/unlade, for
    /// ordinary users ~/.local/share/unlade].
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// Where what need not survive a reboot is kept [default: /run/unlade, for
    /// ordinary users $XDG_RUNTIME_DIR/unlade].
    #[arg(long, value_name = "DIR")]
    run_root: Option<PathBuf>,

    /// overlay, erofs, btrfs, reflink or copy [default: the best that works under the root].
    #[arg(long, value_name = "DRIVER")]
    graph_driver: Option<String>,
}

impl Globals {
    /// The configuration, with what the command line says over it.
    pub(super) fn config(&self) -> Result<Config> {
        let mut config = Config::load()?;
        if let Some(root) = &self.root {
            config.root = absolute(root)?;
        }
        if let Some(root) = &self.run_root {
            config.run_root = absolute(root)?;
        }
        if let Some(driver) = &self.graph_driver {
            config.graph_driver = Some(driver.clone());
        }
        Ok(config)
    }

    /// What was given of them, for another command on the same store.
    pub(super) fn given(&self) -> Result<Vec<String>> {
        let mut args = Vec::new();
        for (flag, dir) in [("--root", &self.root), ("--run-root", &self.run_root)] {
            if let Some(dir) = dir {
                args.extend([flag.to_owned(), absolute(dir)?.display().to_string()]);
            }
        }
        if let Some(driver) = &self.graph_driver {
            args.extend(["--graph-driver".to_owned(), driver.clone()]);
        }
        Ok(args)
    }

    /// Opens the engine; a lost database is built anew.
    pub(super) fn engine_rebuilt(&self, cancel: &Cancel) -> Result<(Engine, Option<Rebuilt>)> {
        Engine::open_or_rebuild(self.config()?, cancel)
    }

    /// Opens the engine.
    pub(super) fn engine(&self, cancel: &Cancel) -> Result<Engine> {
        Engine::open(self.config()?, cancel)
    }
}

fn absolute(path: &PathBuf) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| {
        crate::error::Error::host(format!("find the directory `{}`", path.display()), e)
    })
}
