//! `unlade run` and `unlade create`.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
};

use clap::Args;
use unlade_unpack::Cancel;

use super::{
    ENGINE,
    attach::{self, Join, Parted},
    flags::{Flags, Words},
    parse::bad,
    request::request,
    signals::{Goes, Signals},
    terminal::{self, Keys},
};
use crate::{
    cli::{globals::Globals, out, pull, say},
    container::{Begin, Begun, Containers, Made, Record},
    engine::Engine,
    error::{Error, Kind, Result},
    shim::{Connection, Streams},
    spec::request::Request,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// Print its id and leave it running.
    #[arg(short, long)]
    detach: bool,

    /// Keys that let go of the container [default: ctrl-p,ctrl-q].
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,

    /// Pass signals on to it.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set, value_name = "BOOL", require_equals = true,
          hide_possible_values = true)]
    sig_proxy: bool,

    #[command(flatten)]
    flags: Flags,

    #[command(flatten)]
    words: Words,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateArgs {
    /// Print each field of its OCI spec with where it comes from, and make nothing.
    #[arg(long)]
    explain: bool,

    #[command(flatten)]
    flags: Flags,

    #[command(flatten)]
    words: Words,
}

pub(super) fn create(globals: &Globals, args: &CreateArgs, cancel: &Cancel) -> Result<u8> {
    let (flags, words) = (&args.flags, &args.words);
    let request = match asked(flags, words) {
        Ok(request) => request,
        Err(e) => return Ok(super::failed(&e, None, ENGINE)),
    };
    let engine = globals.engine(cancel)?;
    let file = Cidfile::claim(flags.cidfile.as_deref())?;
    let containers = engine.containers()?;
    if args.explain {
        let image = image(&engine, flags, words.image(), cancel)?;
        let fields = engine.explain(&image, request)?;
        out::text(&super::inspect::explained(&fields)?)?;
        return Ok(0);
    }
    let made = make(
        &engine,
        &containers,
        flags,
        request,
        words.image(),
        cancel,
        false,
    )?;
    containers.keep(&made.record)?;
    file.write(&made.record.id)?;
    out::line(&made.record.id)?;
    Ok(0)
}

/// What the flags ask for.
fn asked(flags: &Flags, words: &Words) -> Result<Request> {
    let request = request(flags, words.image(), words.command(), &environment)?;
    check_pull(flags)?;
    flags.trust.check()?;
    Ok(request)
}

pub(super) fn run(
    globals: &Globals,
    args: &RunArgs,
    cancel: &Cancel,
    signals: &Signals,
) -> Result<u8> {
    let (flags, words) = (&args.flags, &args.words);
    let mut request = asked(flags, words)?;
    let keys = Keys::parse(args.detach_keys.as_deref())?;
    if args.detach {
        if !flags.attach.is_empty() {
            let m = "conflicting options: cannot specify both --attach and --detach";
            return Err(bad(m, "leave out one of them"));
        }
        let config = &mut request.config;
        (
            config.attach_stdin,
            config.attach_stdout,
            config.attach_stderr,
        ) = (false, false, false);
        config.stdin_once = false;
    } else if request.config.attach_stdin && request.config.tty && !terminal::stdin_is() {
        // Docker's code for this is not the one for what else fails before anything runs.
        return Ok(super::failed(&terminal::none("leave out -t"), None, 1));
    }
    if request.config.tty {
        let size = terminal::size();
        request.host_config.console_size = [size.rows, size.columns];
    }
    let engine = globals.engine(cancel)?;
    let file = Cidfile::claim(flags.cidfile.as_deref())?;
    let containers = engine.containers()?;
    let foreground = !args.detach;
    let transient = flags.rm && foreground;
    let made = make(
        &engine,
        &containers,
        flags,
        request,
        words.image(),
        cancel,
        transient,
    )?;
    let record = made.record;
    file.write(&record.id)?;
    let config = record.request.config.clone();
    let streams = Streams {
        stdin: config.attach_stdin,
        stdout: config.attach_stdout,
        stderr: config.attach_stderr,
    };
    let begin = Begin {
        foreground: foreground.then_some(streams),
        size: terminal::size(),
        cleans: transient,
        cleanup: super::cleanup_line(&engine),
    };
    if !transient {
        containers.keep(&record)?;
    }
    let record = Record {
        stage: if transient {
            record.stage
        } else {
            crate::store::Stage::Created
        },
        ..record
    };
    let begun = containers.start(&record, &begin);
    let connection = match begun {
        Ok(Begun::Running(connection)) => connection,
        Ok(Begun::Already) => return Err(Error::new(Kind::Bug, "a new container ran already")),
        Ok(Begun::Refused(refusal)) => {
            let e = refusal.error().context(format!("start {}", record.name));
            super::failed(&e, None, ENGINE);
            gone_if_rm(&containers, &record);
            return Ok(refusal.exit_code);
        }
        Err(e) => {
            gone_if_rm(&containers, &record);
            return Err(e);
        }
    };
    if args.detach {
        drop(connection);
        out::line(&record.id)?;
        return Ok(0);
    }
    signals.go(if args.sig_proxy {
        Goes::To(containers.run_dir(&record.id)?)
    } else {
        Goes::Ends
    });
    let join = Join {
        tty: config.tty,
        stdin: config.attach_stdin,
        keys,
        signals,
    };
    foreground_end(&containers, &record, connection, join, transient)
}

/// Stays with a container in the foreground; its exit code.
pub(super) fn foreground_end(
    containers: &Containers<'_>,
    record: &Record,
    mut connection: Connection,
    join: Join<'_>,
    cleans: bool,
) -> Result<u8> {
    match attach::join(&mut connection, join)? {
        Parted::Detached => Ok(0),
        Parted::Lost => {
            let m = format!("the shim of container {} was killed", record.name);
            Err(Error::new(Kind::Host, m)
                .with_hint(format!("it may still run: `unlade rm -f {}`", record.name)))
        }
        Parted::Exited(exit) => {
            if cleans {
                containers.clean_up(&record.id)?;
                // If it does not hear of it, it cleans up what is clean.
                let _ = connection.sender().and_then(crate::shim::Sender::cleaned);
            } else if !exit.error.is_empty() {
                say(&exit.error);
            }
            Ok(code(exit.code))
        }
    }
}

/// An exit code as this process can have it.
pub(super) fn code(code: i32) -> u8 {
    u8::try_from(code & 0xff).unwrap_or(ENGINE)
}

fn gone_if_rm(containers: &Containers<'_>, record: &Record) {
    if record.request.host_config.auto_remove
        && let Err(e) = containers.clean_up(&record.id)
    {
        tracing::warn!(error = %e, "a container that could not be started stays");
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Makes the container, with its image pulled if need be.
fn make(
    engine: &Engine,
    containers: &Containers<'_>,
    flags: &Flags,
    request: Request,
    name: &str,
    cancel: &Cancel,
    transient: bool,
) -> Result<Made> {
    if flags.resources.kernel_memory.is_some() {
        say("warning: --kernel-memory is deprecated and passed over: kernels no longer limit it");
    }
    let image = image(engine, flags, name, cancel)?;
    let made = engine.create(containers, &image, request, flags.name.clone(), transient)?;
    for warning in &made.warnings {
        say(&format!("warning: {warning}"));
    }
    Ok(made)
}

fn check_pull(flags: &Flags) -> Result<()> {
    if matches!(&*flags.pull, "always" | "missing" | "never" | "") {
        return Ok(());
    }
    let m = format!(
        "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
        crate::image::json::show(&flags.pull)
    );
    Err(bad(m, "missing is the default"))
}

/// The image that is meant, pulled as `--pull` says.
fn image(
    engine: &Engine,
    flags: &Flags,
    name: &str,
    cancel: &Cancel,
) -> Result<crate::store::Image> {
    let fetch = || pull::for_run(engine, name, flags.platform.as_ref(), flags.quiet, cancel);
    if flags.pull == "always" {
        fetch()?;
    }
    let fits = |image: &crate::store::Image| {
        flags
            .platform
            .as_ref()
            .is_none_or(|p| image.platform.as_ref().is_none_or(|have| have == p))
    };
    match engine.store().resolve(name) {
        Ok(image) if fits(&image) => Ok(image),
        Ok(image) if flags.pull == "never" => {
            let shown = image.platform.map_or_else(String::new, |p| p.to_string());
            let m = format!(
                "image with reference {name} was found but does not match the specified platform: \
                 wanted {}, actual: {shown}",
                flags
                    .platform
                    .as_ref()
                    .map_or_else(String::new, ToString::to_string)
            );
            Err(Error::new(Kind::NotFound, m).with_hint("leave out --platform, or --pull never"))
        }
        Err(e) if e.kind() == Kind::NotFound && flags.pull != "never" => {
            if !flags.quiet {
                say(&format!(
                    "Unable to find image '{}' locally",
                    pull::shown(name)
                ));
            }
            fetch()?;
            engine.store().resolve(name)
        }
        Ok(_) => {
            fetch()?;
            engine.store().resolve(name)
        }
        Err(e) => Err(e),
    }
}

/// The file for a container's id: its name is taken before anything is made.
struct Cidfile<'a>(Option<(&'a Path, fs::File)>);

impl<'a> Cidfile<'a> {
    fn claim(path: Option<&'a Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        let shown = path.display();
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => Ok(Self(Some((path, file)))),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let m = format!(
                    "container ID file found, make sure the other container isn't running or \
                     delete {shown}"
                );
                Err(bad(m, "give another file"))
            }
            Err(e) => Err(Error::host(
                format!("create the container ID file {shown}"),
                e,
            )),
        }
    }

    fn write(mut self, id: &str) -> Result<()> {
        if let Some((path, mut file)) = self.0.take() {
            file.write_all(id.as_bytes())
                .map_err(|e| Error::host(format!("write `{}`", path.display()), e))?;
        }
        Ok(())
    }
}

impl Drop for Cidfile<'_> {
    /// Nothing was made: the file goes.
    fn drop(&mut self) {
        if let Some((path, _)) = self.0.take() {
            let _ = fs::remove_file(path);
        }
    }
}
