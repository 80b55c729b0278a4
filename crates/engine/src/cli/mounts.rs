//! `unlade image mount` and `image unmount`.

use std::path::PathBuf;

use clap::Args;
use unlade_unpack::Cancel;

use super::{each::each, globals::Globals, out};
use crate::{engine::MountRequest, error::Result};

#[derive(Debug, Args)]
pub(super) struct MountArgs {
    /// Name or id of the image.
    #[arg(value_name = "IMAGE")]
    image: String,

    /// A directory that exists.
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Allow changes; they are lost when it is unmounted.
    #[arg(long)]
    rw: bool,
}

pub(super) fn mount(globals: &Globals, args: &MountArgs, cancel: &Cancel) -> Result<()> {
    globals.engine(cancel)?.mount(&MountRequest {
        image: args.image.clone(),
        at: args.dir.clone(),
        read_write: args.rw,
    })?;
    if crate::user::ordinary().is_some_and(|user| !user.inside) {
        super::say_hint("it is in your namespaces: look at it with `unlade unshare`");
    }
    out::line(&args.dir.display().to_string())
}

#[derive(Debug, Args)]
pub(super) struct UnmountArgs {
    /// Directories at which images are mounted.
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
}

pub(super) fn unmount(globals: &Globals, args: &UnmountArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let unmount = |dir: &PathBuf| {
        engine.unmount(dir)?;
        out::line(&dir.display().to_string())
    };
    each(&args.dirs, unmount).1
}
