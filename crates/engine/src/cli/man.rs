//! `unlade man`: manual pages, one for each command.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Command};
use clap_mangen::Man;

use crate::error::{Error, Result};

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Directory for the pages; it is made if it is not there.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Writes the pages of all commands of `grammar`.
pub(super) fn write(args: &ManArgs, grammar: Command) -> Result<()> {
    let dir = &args.dir;
    let mut grammar = grammar.disable_help_subcommand(true);
    grammar.build();
    fs::create_dir_all(dir)
        .and_then(|()| pages(grammar, dir))
        .map_err(|e| Error::host(format!("write manual pages to `{}`", dir.display()), e))
}

fn pages(command: Command, dir: &Path) -> io::Result<()> {
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set());
    shown.cloned().try_for_each(|below| pages(below, dir))?;
    let page = Man::new(command)
        .source(concat!("unlade ", env!("CARGO_PKG_VERSION")))
        .manual("unlade");
    page.generate_to(dir).map(|_| ())
}
