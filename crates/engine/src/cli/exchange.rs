//! `unlade cp`, `diff`, `export` and `commit`.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use clap::{ArgAction, Args, Subcommand};
use unlade_graph::driver::ChangeKind;
use unlade_unpack::Cancel;

use super::{files::whole_file, flush, globals::Globals, human, input::Input, out};
use crate::{
    engine::{CommitRequest, CopyWays},
    error::{Error, Kind, Result},
    exchange::End,
    image::name::Reference,
};

/// What is done with the files of containers; also after the word `container`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Copy files between a container and this machine.
    Cp(CpArgs),
    /// List what changed in a container since it was made.
    Diff(DiffArgs),
    /// Write a container's files to a tar.
    Export(ExportArgs),
    /// Make an image of a container.
    Commit(CommitArgs),
}

pub(super) fn run(globals: &Globals, verb: &Verb, cancel: &Cancel) -> Result<()> {
    match verb {
        Verb::Cp(a) => cp(globals, a, cancel),
        Verb::Diff(a) => diff(globals, a, cancel),
        Verb::Export(a) => export(globals, a, cancel),
        Verb::Commit(a) => commit(globals, a, cancel),
    }
}

const AFTER_CP: &str = "\
One of the two is CONTAINER:PATH, the other a path of this machine or -, a tar on standard input or
output. A path with a colon in it is written ./PATH. The container may run or not; volumes are seen.

A directory goes into one that is there, and else becomes DEST; DIR/. stands for what is in DIR.
A directory never takes the place of a file, nor a file that of a directory. Files in a container
keep the numbers of their owners (with -a they become those of the container's user); on this
machine they are yours (with -a they keep the numbers).";

#[derive(Debug, Args)]
#[command(after_help = AFTER_CP)]
pub(super) struct CpArgs {
    /// What to copy.
    #[arg(value_name = "SOURCE")]
    source: OsString,

    /// Where to.
    #[arg(value_name = "DEST")]
    dest: OsString,

    /// Into a container, give the files to its user; out of one, keep their owners.
    #[arg(short, long)]
    archive: bool,

    /// Follow a link that SOURCE is.
    #[arg(short = 'L', long)]
    follow_link: bool,

    /// Do not say what was copied.
    #[arg(short, long)]
    quiet: bool,
}

fn cp(globals: &Globals, args: &CpArgs, cancel: &Cancel) -> Result<()> {
    let bad = |m: &str, hint: &str| Err(Error::new(Kind::BadInput, m).with_hint(hint.to_owned()));
    for (what, text) in [("source", &args.source), ("destination", &args.dest)] {
        if text.is_empty() {
            return bad(
                &format!("{what} can not be empty"),
                "give CONTAINER:PATH, a path, or -",
            );
        }
    }
    let ways = CopyWays {
        follow: args.follow_link,
        archive: args.archive,
    };
    let ends = (
        End::parse(args.source.as_bytes()),
        End::parse(args.dest.as_bytes()),
    );
    let bytes = match &ends {
        (End::Container(..), End::Container(..)) => {
            return bad(
                "copying between containers is not supported",
                "copy to this machine first, or through a pipe: unlade cp A:PATH - | unlade cp - B:PATH",
            );
        }
        (End::Stream, End::Container(name, path)) => {
            let engine = globals.engine(cancel)?;
            return engine.put_tar(Input::new(cancel), (name, path), ways);
        }
        (End::Container(name, path), End::Stream) => {
            if io::stdout().is_terminal() {
                return bad(
                    "refusing to write a tar to a terminal",
                    "redirect it, or name a directory",
                );
            }
            let engine = globals.engine(cancel)?;
            return engine.take_tar((name, path), &mut io::stdout().lock(), ways, cancel);
        }
        (End::Host(from), End::Container(name, path)) => {
            globals
                .engine(cancel)?
                .copy_in(from, (name, path), ways, cancel)?
        }
        (End::Container(name, path), End::Host(to)) => {
            globals
                .engine(cancel)?
                .copy_out((name, path), to, ways, cancel)?
        }
        _ => {
            return bad(
                "must specify at least one container source",
                "write CONTAINER:PATH for what is in a container",
            );
        }
    };
    if !args.quiet {
        let to = args.dest.to_string_lossy();
        let size = human::size(bytes, 3);
        super::say_plainly(&format!("Successfully copied {size} to {to}"));
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// Name or id of the container.
    container: String,
}

fn diff(globals: &Globals, args: &DiffArgs, cancel: &Cancel) -> Result<()> {
    let mut text = Vec::new();
    for change in globals.engine(cancel)?.container_changes(&args.container)? {
        text.extend_from_slice(match change.kind {
            ChangeKind::Added => b"A /",
            ChangeKind::Modified => b"C /",
            ChangeKind::Deleted => b"D /",
        });
        text.extend_from_slice(&change.path);
        text.push(b'\n');
    }
    out::bytes(&text)
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Name or id of the container.
    container: String,

    /// Where to write. Default: standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn export(globals: &Globals, args: &ExportArgs, cancel: &Cancel) -> Result<()> {
    let name = &args.container;
    match &args.output {
        None if io::stdout().is_terminal() => {
            let m = "cowardly refusing to save to a terminal. Use the -o flag or redirect";
            Err(Error::new(Kind::BadInput, m).with_hint("unlade export -o FILE CONTAINER"))
        }
        None => {
            let engine = globals.engine(cancel)?;
            engine.export_container(name, &mut io::stdout().lock(), cancel)
        }
        Some(path) => {
            let engine = globals.engine(cancel)?;
            whole_file(path, |file| engine.export_container(name, file, cancel))
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct CommitArgs {
    /// Name or id of the container.
    container: String,

    /// The image's name: NAME[:TAG].
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Who made it, such as 'Ada <ada@example.org>'.
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    author: String,

    /// A directive of a Dockerfile, such as 'CMD ["sh"]'.
    #[arg(short, long, value_name = "DIRECTIVE")]
    change: Vec<String>,

    /// A comment.
    #[arg(
        short,
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    message: String,

    /// Freeze the container meanwhile, so that nothing is half written [default: true].
    #[arg(
        short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        action = ArgAction::Set, default_value = "true", default_missing_value = "true",
        hide_default_value = true, hide_possible_values = true
    )]
    pause: bool,

    /// Do not freeze it.
    #[arg(long)]
    no_pause: bool,
}

fn commit(globals: &Globals, args: &CommitArgs, cancel: &Cancel) -> Result<()> {
    let name = args.name.as_deref().map(Reference::parse).transpose()?;
    let engine = globals.engine(cancel)?;
    let id = engine.commit(&CommitRequest {
        container: args.container.clone(),
        name: name.map(Reference::with_default_tag),
        author: args.author.clone(),
        message: args.message.clone(),
        changes: args.change.clone(),
        pause: args.pause && !args.no_pause,
        cancel: cancel.clone(),
    })?;
    flush::soon(&engine);
    out::line(&id.to_string())
}
