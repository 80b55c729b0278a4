//! `unlade completion`: scripts for shells. At each key they ask this program for what fits, so
//! that names of containers, images, networks and volumes are completed too.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
};

use clap::{Arg, ArgAction, Args, Command, CommandFactory, FromArgMatches, ValueEnum, ValueHint};
use clap_complete::{
    ArgValueCandidates, ArgValueCompleter, CompleteEnv, CompletionCandidate, PathCompleter,
    engine::ValueCompleter,
    env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Zsh},
};
use unlade_unpack::Cancel;

use super::{args::Cli, globals::Globals, out};
use crate::{
    container::{LOG_DRIVERS, LOG_OPTIONS},
    engine::Engine,
    error::{Error, Result},
    image::name::Reference,
};

/// Set by the scripts, to the shell's name.
const VARIABLE: &str = "UNLADE_COMPLETE";
const PROGRAM: &str = "unlade";
/// What bash calls, around what clap writes.
const COLONS: &str = include_str!("colons.bash");

#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// The shell that the script is for.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

/// Prints the script of a shell.
pub(super) fn script(args: &CompletionArgs) -> Result<()> {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Elvish => &Elvish,
        Shell::Fish => &Fish,
        Shell::Powershell => &Powershell,
        Shell::Zsh => &Zsh,
    };
    let mut text = Vec::new();
    shell
        .write_registration(VARIABLE, PROGRAM, PROGRAM, PROGRAM, &mut text)
        .map_err(|e| Error::host("write a completion script", e))?;
    if matches!(args.shell, Shell::Bash) {
        let around = |text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            let called = text.replace("-F _clap_complete_unlade ", "-F _unlade ");
            format!("{COLONS}{called}")
        };
        text = around(&text).into_bytes();
    }
    out::bytes(&text)
}

/// Answers a script, if one has started this process; whether it could.
pub(super) fn answer() -> Option<io::Result<()>> {
    env::var_os(VARIABLE).filter(|v| !v.is_empty())?;
    let here = env::current_dir().ok();
    let asked = CompleteEnv::with_factory(|| completed(Cli::command()))
        .var(VARIABLE)
        .bin(PROGRAM)
        .completer(PROGRAM);
    Some(
        asked
            .try_complete(env::args_os(), here.as_deref())
            .map(|_| ())
            .map_err(io::Error::other),
    )
}

/// What a value can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Containers(State),
    Images,
    Networks,
    Volumes,
    /// What `inspect` shows.
    Anything,
    /// An end of a copy.
    CopyEnd,
}

/// Which containers a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Any,
    Active,
    Ended,
}

/// The command with what completes its values, by their names.
fn completed(command: Command) -> Command {
    let name = command.get_name().to_owned();
    command
        .mut_args(|arg| with_completer(&name, arg))
        .mut_subcommands(completed)
}

fn with_completer(command: &str, arg: Arg) -> Arg {
    let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let value = arg.get_value_names().and_then(|names| names.first());
    let Some(value) = value.filter(|_| takes).map(ToString::to_string) else {
        return arg;
    };
    let of = match (value.split(' ').next().unwrap_or_default(), command) {
        // What is made has no name yet.
        ("VOLUME" | "NETWORK", "create") if arg.is_positional() => return arg,
        ("CONTAINER", _) => Of::Containers(state_for(command)),
        ("IMAGE", _) | ("NAME", "pull" | "push" | "images") => Of::Images,
        ("NETWORK", _) => Of::Networks,
        ("VOLUME", _) => Of::Volumes,
        ("NAME", "inspect") => Of::Anything,
        ("SOURCE" | "DEST", "cp") => Of::CopyEnd,
        ("DRIVER", _) if arg.get_id() == "log_driver" => return words(arg, &LOG_DRIVERS),
        ("KEY=VALUE", _) if arg.get_id() == "log_opt" => return words(arg, &LOG_OPTIONS),
        ("FILE", _) => return arg.value_hint(ValueHint::FilePath),
        ("DIR", _) => return arg.value_hint(ValueHint::DirPath),
        _ => return arg,
    };
    // Words that follow the first are a command's: nothing is known of them.
    let alone = !value.contains(' ') && arg.get_value_names().is_some_and(|names| names.len() == 1);
    let arg = match alone {
        true => arg,
        false => arg
            .num_args(1)
            .value_name("NAME")
            .trailing_var_arg(false)
            .allow_hyphen_values(false),
    };
    arg.add(ArgValueCompleter::new(Names(of)))
}

fn words(arg: Arg, words: &'static [&'static str]) -> Arg {
    let all = move || words.iter().map(CompletionCandidate::new).collect();
    arg.add(ArgValueCandidates::new(all))
}

fn state_for(command: &str) -> State {
    match command {
        "attach" | "exec" | "kill" | "pause" | "port" | "stats" | "stop" | "top" | "unpause"
        | "wait" => State::Active,
        "start" => State::Ended,
        _ => State::Any,
    }
}

/// Completes names of what is in the store.
struct Names(Of);

impl ValueCompleter for Names {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let mut all = Vec::new();
        if let Some(engine) = engine() {
            // What cannot be read has no names.
            let _ = names(&engine, self.0, &mut all);
        }
        let start = current.to_string_lossy();
        all.retain(|name| name.starts_with(&*start));
        let mut found: Vec<_> = all.into_iter().map(CompletionCandidate::new).collect();
        if self.0 == Of::CopyEnd {
            found.extend(PathCompleter::any().complete(current));
        }
        found
    }
}

/// The store that the command line is about, if there is one.
fn engine() -> Option<Engine> {
    let line = env::args_os().skip_while(|word| word != "--").skip(1);
    let line: Vec<OsString> = line.collect();
    let matches = Cli::command().ignore_errors(true);
    let matches = matches.try_get_matches_from(line).ok()?;
    let globals = Globals::from_arg_matches(&matches).ok()?;
    // A look at what there is makes no store.
    if !globals.config().ok()?.root.exists() {
        return None;
    }
    globals.engine(&Cancel::new()).ok()
}

fn names(engine: &Engine, of: Of, to: &mut Vec<String>) -> Result<()> {
    match of {
        Of::Containers(state) => {
            for listed in engine.containers()?.list()? {
                let active = listed.view.is_active();
                let fits = match state {
                    State::Any => true,
                    State::Active => active,
                    State::Ended => !active,
                };
                to.extend(fits.then_some(listed.record.name));
            }
        }
        Of::Images => {
            for name in engine.store().images()?.iter().flat_map(|i| &i.names) {
                let reference = Reference::parse(name)?;
                let tag = reference.tag().unwrap_or("latest");
                to.push(format!("{}:{tag}", reference.familiar_repository()));
            }
        }
        Of::Networks => to.extend(engine.networks().list()?.into_iter().map(|n| n.name)),
        Of::Volumes => to.extend(engine.volumes().list()?.into_iter().map(|v| v.name)),
        Of::Anything => {
            for of in [
                Of::Containers(State::Any),
                Of::Images,
                Of::Networks,
                Of::Volumes,
            ] {
                names(engine, of, to)?;
            }
        }
        Of::CopyEnd => {
            let all = engine.containers()?.list()?.into_iter();
            to.extend(all.map(|listed| format!("{}:", listed.record.name)));
        }
    }
    Ok(())
}
