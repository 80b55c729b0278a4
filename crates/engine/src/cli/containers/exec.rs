//! `unlade exec` and `unlade attach`.

use std::path::PathBuf;

use clap::Args;
use unlade_unpack::Cancel;

use super::{
    attach::{self, Join, Parted},
    parse::{self, bad},
    run::{code, foreground_end},
    signals::{Goes, Signals},
    terminal::{self, Keys},
};
use crate::{
    cli::{globals::Globals, say_hint},
    container::{ExecEnd, ExecRequest, ExecWays, Status},
    error::{Error, Kind, Result},
    shim::{self, Streams},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct ExecArgs {
    /// Leave it running.
    #[arg(short, long)]
    detach: bool,

    /// Keys that let go of it [default: ctrl-p,ctrl-q].
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,

    /// Set an environment variable: NAME=VALUE, or NAME for the caller's.
    #[arg(short, long, value_name = "NAME[=VALUE]", allow_hyphen_values = true)]
    env: Vec<String>,

    /// Read environment variables from a file, one a line.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Pass standard input on.
    #[arg(short, long)]
    interactive: bool,

    /// Give it all capabilities.
    #[arg(long)]
    privileged: bool,

    /// Give it a terminal.
    #[arg(short, long)]
    tty: bool,

    /// User: name|uid[:group|gid].
    #[arg(
        short,
        long,
        value_name = "USER",
        default_value = "",
        hide_default_value = true
    )]
    user: String,

    /// Working directory.
    #[arg(
        short,
        long,
        value_name = "DIR",
        default_value = "",
        hide_default_value = true
    )]
    workdir: String,

    /// The container, and what is run in it.
    #[arg(required = true, num_args = 2.., trailing_var_arg = true,
          value_names = ["CONTAINER", "COMMAND [ARG...]"])]
    words: Vec<String>,
}

pub(super) fn exec(
    globals: &Globals,
    args: &ExecArgs,
    cancel: &Cancel,
    signals: &Signals,
) -> Result<u8> {
    let Some((name, cmd)) = args.words.split_first().filter(|(_, cmd)| !cmd.is_empty()) else {
        return Err(bad(
            "exec needs a container and a command",
            "unlade exec CONTAINER COMMAND",
        ));
    };
    if args.tty && args.interactive && !args.detach && !terminal::stdin_is() {
        return Err(terminal::none("leave out -t"));
    }
    let keys = Keys::parse(args.detach_keys.as_deref())?;
    let env = parse::env(&args.env_file, &args.env, &|name| std::env::var(name).ok())?;
    let size = if args.tty {
        terminal::size()
    } else {
        shim::Size::default()
    };
    let request = ExecRequest {
        cmd: cmd.to_vec(),
        env,
        tty: args.tty,
        user: args.user.clone(),
        privileged: args.privileged,
        working_dir: args.workdir.clone(),
        console_size: [size.rows, size.columns],
    };
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    let record = containers.find(name)?;
    // From here on signals are the process's: the terminal gives it those that are typed.
    signals.go(Goes::Nowhere);
    let ways = ExecWays {
        detach: args.detach,
        interactive: args.interactive,
        size,
    };
    match containers.exec(&record, &request, ways)? {
        ExecEnd::Exited(code) => Ok(code),
        ExecEnd::Detached => Ok(0),
        ExecEnd::Refused(refusal) => {
            let e = refusal.error().context(format!("exec in {}", record.name));
            Ok(super::failed(&e, None, refusal.exit_code))
        }
        ExecEnd::Told(refusal) => {
            say_hint(refusal.hint);
            Ok(refusal.exit_code)
        }
        ExecEnd::Terminal(mut connection) => {
            signals.go(Goes::Ends);
            let join = Join {
                tty: args.tty,
                stdin: args.interactive,
                keys,
                signals,
            };
            match attach::join(&mut connection, join)? {
                Parted::Exited(exit) => Ok(code(exit.code)),
                Parted::Detached => Ok(0),
                Parted::Lost => {
                    let m = format!(
                        "the shim of a process in container {} was killed",
                        record.name
                    );
                    Err(Error::new(Kind::Host, m).with_hint("`unlade top` shows what runs"))
                }
            }
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AttachArgs {
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    container: String,

    /// Keys that let go of the container [default: ctrl-p,ctrl-q].
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,

    /// Do not attach to standard input.
    #[arg(long)]
    no_stdin: bool,

    /// Pass signals on to it.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true",
          action = clap::ArgAction::Set, value_name = "BOOL", require_equals = true,
          hide_possible_values = true)]
    sig_proxy: bool,
}

pub(super) fn attach(
    globals: &Globals,
    args: &AttachArgs,
    cancel: &Cancel,
    signals: &Signals,
) -> Result<u8> {
    let keys = Keys::parse(args.detach_keys.as_deref())?;
    let engine = globals.engine(cancel)?;
    let containers = engine.containers()?;
    let record = containers.find(&args.container)?;
    let refused =
        |m: &str, hint: &str| Err(Error::new(Kind::Conflict, m).with_hint(hint.to_owned()));
    match containers.view(&record)?.status {
        Status::Running => {}
        Status::Paused => {
            let m = "cannot attach to a paused container, unpause it first";
            return refused(m, "`unlade unpause`");
        }
        Status::Restarting => {
            let m = "cannot attach to a restarting container, wait until it is running";
            return refused(m, "`unlade ps` shows its state");
        }
        _ => {
            let m = "cannot attach to a stopped container, start it first";
            return refused(m, "`unlade start -a` does both");
        }
    }
    let config = &record.request.config;
    let stdin = !args.no_stdin && config.open_stdin;
    if stdin && config.tty && !terminal::stdin_is() {
        return Err(terminal::none("give --no-stdin"));
    }
    let run = containers.run_dir(&record.id)?;
    let streams = Streams {
        stdin,
        stdout: true,
        stderr: true,
    };
    let connection = shim::attach(&run, streams)?;
    containers.note("attach", &record);
    signals.go(if args.sig_proxy && !config.tty {
        Goes::To(run)
    } else {
        Goes::Ends
    });
    let join = Join {
        tty: config.tty,
        stdin,
        keys,
        signals,
    };
    foreground_end(&containers, &record, connection, join, false)
}
