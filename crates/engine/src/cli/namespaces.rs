//! An ordinary user's namespaces, which his commands work in; `unlade unshare` for anything else.

use std::{ffi::OsString, os::unix::process::CommandExt, process};

use clap::Args;

use super::{
    args::{self, Command},
    containers::{Container, Verb},
    globals::Globals,
};
use crate::{
    error::{Error, Kind, Result},
    rootless::{self, Entered},
};

#[derive(Debug, Args)]
pub(super) struct UnshareArgs {
    /// The command and its arguments [default: $SHELL].
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

/// Becomes a command in the user's namespaces.
pub(super) fn unshare(args: &UnshareArgs) -> Result<()> {
    if crate::user::ordinary().is_none() {
        let m = "root's containers are in no namespaces of their own user";
        return Err(Error::new(Kind::Unsupported, m).with_hint("run the command as it is"));
    }
    let shell = || std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let mut words = args.command.iter().cloned();
    let program = words.next().unwrap_or_else(shell);
    rootless::keep_on_exec()?;
    let e = process::Command::new(&program).args(words).exec();
    Err(Error::host(format!("run `{}`", program.display()), e))
}

/// What a command does without namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// All that it is for.
    None,
    /// Most: files of images all belong to the user then, and are copied.
    Some,
    /// Nothing.
    All,
}

fn need(command: &Command) -> Need {
    use args::Image;
    match command {
        Command::Unpack(_)
        | Command::Gunzip(_)
        | Command::Completion(_)
        | Command::Man(_)
        | Command::Version(_)
        | Command::Login(_)
        | Command::Logout(_) => Need::None,
        Command::Verb(verb) | Command::Container(Container::Verb(verb)) => match verb {
            Verb::Ps(_) | Verb::Logs(_) | Verb::Port(_) => Need::Some,
            _ => Need::All,
        },
        Command::Unshare(_)
        | Command::Files(_)
        | Command::Container(Container::Files(_))
        | Command::Image(Image::Mount(_) | Image::Unmount(_)) => Need::All,
        _ => Need::Some,
    }
}

/// Enters the namespaces of an ordinary user, where the command needs them. To be done while
/// there is one thread.
pub(super) fn enter(globals: &Globals, command: &Command) -> Result<()> {
    let need = need(command);
    if need == Need::None || crate::user::ordinary().is_none() {
        return Ok(());
    }
    match rootless::enter(&globals.config()?) {
        Ok(Some(Entered {
            new: true,
            alone: true,
        })) if need == Need::All => {
            super::say(
                "only your own id is mapped: all files of images belong to you, and containers have no other users",
            );
            super::say_hint(
                "for more ids install uidmap, and have root add you to /etc/subuid and /etc/subgid \
                 (usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME); \
                 images that are there stay as they are",
            );
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(e) if need == Need::Some => {
            tracing::debug!(error = %e, "without namespaces");
            Ok(())
        }
        Err(e) => Err(e),
    }
}
