//! `unlade start`, `stop`, `restart`, `kill`, `rm`, `wait`, `pause`, `unpause`, `rename`.

use clap::Args;
use unlade_unpack::Cancel;

use super::{
    attach::Join,
    each,
    parse::bad,
    run::foreground_end,
    signals::{Goes, Signals},
    terminal::{self, Keys},
};
use crate::{
    cli::{each::at_once, globals::Globals, out, say},
    container::{Begin, Begun, Removal, Stopping},
    error::{Kind, Result},
    shim::Streams,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct StartArgs {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,

    /// Attach to its output, and pass signals on.
    #[arg(short, long)]
    attach: bool,

    /// Attach to its standard input.
    #[arg(short, long)]
    interactive: bool,

    /// Keys that let go of the container [default: ctrl-p,ctrl-q].
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
}

pub(super) fn start(
    globals: &Globals,
    args: &StartArgs,
    cancel: &Cancel,
    signals: &Signals,
) -> Result<u8> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    let mut begin = Begin {
        cleanup: super::cleanup_line(&engine),
        ..Begin::default()
    };
    if !args.attach && !args.interactive {
        each(&args.names, |name| {
            let record = containers.find(name)?;
            match containers.start(&record, &begin)? {
                Begun::Refused(refusal) => {
                    Err(refusal.error().context(format!("start {}", record.name)))
                }
                Begun::Running(_) | Begun::Already => Ok(Some(name.to_owned())),
            }
        })?;
        return Ok(0);
    }
    let [name] = &args.names[..] else {
        return Err(bad(
            "you cannot start and attach multiple containers at once",
            "give one",
        ));
    };
    let record = containers.find(name)?;
    let keys = Keys::parse(args.detach_keys.as_deref())?;
    let config = &record.request.config;
    let stdin = args.interactive && config.open_stdin;
    begin.foreground = Some(Streams {
        stdin,
        stdout: true,
        stderr: true,
    });
    begin.size = terminal::size();
    let connection = match containers.start(&record, &begin)? {
        Begun::Running(connection) => connection,
        Begun::Already => {
            let streams = Streams {
                stdin,
                stdout: true,
                stderr: true,
            };
            crate::shim::attach(&containers.run_dir(&record.id)?, streams)?
        }
        Begun::Refused(refusal) => {
            super::failed(
                &refusal.error().context(format!("start {}", record.name)),
                None,
                1,
            );
            return Ok(1);
        }
    };
    signals.go(if config.tty {
        Goes::Ends
    } else {
        Goes::To(containers.run_dir(&record.id)?)
    });
    let join = Join {
        tty: config.tty,
        stdin,
        keys,
        signals,
    };
    foreground_end(&containers, &record, connection, join, false)
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,

    /// Signal that asks it to stop.
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,

    /// Seconds until it is killed; -1 for never.
    #[arg(
        short = 't',
        long,
        alias = "time",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    timeout: Option<i64>,
}

impl StopArgs {
    fn how(&self) -> Stopping {
        Stopping {
            signal: self.signal.clone(),
            timeout: self.timeout,
        }
    }
}

/// Stops all of them at once.
pub(super) fn stop(globals: &Globals, args: &StopArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    let how = args.how();
    let stop = |name: &String| containers.stop(&containers.find(name)?, &how);
    print_all(&args.names, stop)
}

/// Restarts all of them at once.
pub(super) fn restart(globals: &Globals, args: &StopArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    let begin = Begin {
        cleanup: super::cleanup_line(&engine),
        ..Begin::default()
    };
    let how = args.how();
    let restart = |name: &String| containers.restart(&containers.find(name)?, &how, &begin);
    print_all(&args.names, restart)
}

/// Does `one` for all names at once, and prints those for which it went well.
fn print_all(names: &[String], one: impl Fn(&String) -> Result<()> + Sync) -> Result<()> {
    let (done, end) = at_once(names, |name| one(name).map(|()| name.clone()));
    for name in &done {
        out::line(name)?;
    }
    end
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KillArgs {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,

    /// The signal.
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
}

pub(super) fn kill(globals: &Globals, args: &KillArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    each(&args.names, |name| {
        containers.kill(&containers.find(name)?, &args.signal)?;
        Ok(Some(name.to_owned()))
    })
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RmArgs {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,

    /// Also while it runs: it is killed.
    #[arg(short, long)]
    force: bool,

    /// Its volumes without a name too.
    #[arg(short, long)]
    volumes: bool,

    /// Remove links: the names are CONTAINER/ALIAS.
    #[arg(short, long)]
    link: bool,
}

pub(super) fn rm(globals: &Globals, args: &RmArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    if args.link {
        return each(&args.names, |name| {
            containers.unlink(name)?;
            Ok(Some(name.to_owned()))
        });
    }
    let removal = Removal {
        force: args.force,
        volumes: args.volumes,
    };
    each(&args.names, |name| {
        let record = match containers.find(name) {
            // As docker: what is not there is no failure with --force.
            Err(e) if args.force && e.kind() == Kind::NotFound => {
                say(&e.to_string());
                return Ok(None);
            }
            found => found?,
        };
        containers.remove(&record, removal)?;
        Ok(Some(name.to_owned()))
    })
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NamesArgs {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

pub(super) fn wait(
    globals: &Globals,
    args: &NamesArgs,
    cancel: &Cancel,
    signals: &Signals,
) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    signals.go(Goes::Ends);
    each(&args.names, |name| {
        let ended = containers.wait(&containers.find(name)?)?;
        Ok(Some(ended.code.to_string()))
    })
}

pub(super) fn pause(globals: &Globals, args: &NamesArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    each(&args.names, |name| {
        containers.pause(&containers.find(name)?)?;
        Ok(Some(name.to_owned()))
    })
}

pub(super) fn unpause(globals: &Globals, args: &NamesArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    each(&args.names, |name| {
        containers.unpause(&containers.find(name)?)?;
        Ok(Some(name.to_owned()))
    })
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RenameArgs {
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    container: String,

    /// The new name.
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) fn rename(globals: &Globals, args: &RenameArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    containers.rename(&containers.find(&args.container)?, &args.name)
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CleanupArgs {
    /// The whole id.
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn cleanup(globals: &Globals, args: &CleanupArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    engine.containers()?.clean_up(&args.id)
}
