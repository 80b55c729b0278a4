//! The commands on containers.

mod attach;
mod events;
mod exec;
mod flags;
mod inspect;
mod lifecycle;
mod logs;
mod parse;
mod port;
pub(super) mod prune;
mod ps;
mod request;
pub(super) mod row;
mod run;
mod signals;
mod stats;
mod status;
mod terminal;
mod update;

use clap::{ArgAction, Subcommand};
use unlade_unpack::Cancel;

pub(super) use self::inspect::{document, explain};
use self::signals::Signals;
use super::globals::Globals;
use crate::{
    engine::Engine,
    error::{Error, Kind, Result},
};

/// Docker's code for what failed before anything ran.
const ENGINE: u8 = 125;

/// What is done with containers; also without the word `container`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a container and start it.
    #[command(disable_help_flag = true)]
    Run(Box<run::RunArgs>),
    /// Make a container.
    #[command(disable_help_flag = true)]
    Create(Box<run::CreateArgs>),
    /// Start containers.
    Start(lifecycle::StartArgs),
    /// Stop containers.
    Stop(lifecycle::StopArgs),
    /// Stop containers and start them again.
    Restart(lifecycle::StopArgs),
    /// Send containers a signal.
    Kill(lifecycle::KillArgs),
    /// Remove containers.
    Rm(lifecycle::RmArgs),
    /// Wait until containers end, and print their exit codes.
    Wait(lifecycle::NamesArgs),
    /// Freeze containers.
    Pause(lifecycle::NamesArgs),
    /// Let frozen containers go on.
    Unpause(lifecycle::NamesArgs),
    /// Give a container another name.
    Rename(lifecycle::RenameArgs),
    /// Change limits and restart policies of containers.
    Update(Box<update::UpdateArgs>),
    /// Join this terminal with a container that runs.
    Attach(exec::AttachArgs),
    /// Run a command in a container that runs.
    Exec(exec::ExecArgs),
    /// List containers.
    #[command(visible_alias = "ls", alias = "list")]
    Ps(ps::PsArgs),
    /// Show what containers have written.
    Logs(logs::LogsArgs),
    /// Show the published ports of a container.
    Port(port::PortArgs),
    /// Show the processes of a container.
    Top(stats::TopArgs),
    /// Show what containers use of the machine.
    Stats(stats::StatsArgs),
    /// What shims run when a container has ended.
    #[command(hide = true)]
    Cleanup(lifecycle::CleanupArgs),
}

/// `unlade container …`.
#[derive(Debug, Subcommand)]
pub(super) enum Container {
    #[command(flatten)]
    Verb(Verb),
    #[command(flatten)]
    Files(super::exchange::Verb),
    /// Show all of a container's details.
    Inspect(inspect::InspectArgs),
    /// Remove all containers that do not run.
    Prune(prune::PruneArgs),
}

/// Lets flags of a command that are true or false be given as `--flag=BOOL` too.
pub(super) fn booleans(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| {
        let is_bool = arg.get_value_parser().type_id() == std::any::TypeId::of::<bool>();
        let switch = matches!(arg.get_action(), ArgAction::SetTrue);
        if !is_bool || arg.get_id() == "help" {
            return arg;
        }
        let arg = arg
            .action(ArgAction::Set)
            .value_parser(boolean)
            .num_args(0..=1)
            .require_equals(true)
            .value_name("BOOL")
            .hide_possible_values(true)
            .default_missing_value("true");
        if switch {
            arg.default_value("false").hide_default_value(true)
        } else {
            arg
        }
    })
}

/// `true` or `false`, in any way that Go reads.
fn boolean(text: &str) -> std::result::Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// Runs a command on containers; its exit code.
pub(super) fn main(globals: &Globals, verb: &Verb) -> u8 {
    super::raise_open_files();
    let cancel = Cancel::new();
    let signals = match Signals::start(cancel.clone()) {
        Ok(signals) => signals,
        Err(e) => return failed(&e, None, ENGINE),
    };
    let (done, otherwise) = match verb {
        Verb::Run(a) => (run::run(globals, a, &cancel, &signals), ENGINE),
        Verb::Create(a) => (run::create(globals, a, &cancel), 1),
        Verb::Update(a) => (update::update(globals, a, &cancel), 1),
        Verb::Exec(a) => (exec::exec(globals, a, &cancel, &signals), 1),
        Verb::Attach(a) => (exec::attach(globals, a, &cancel, &signals), 1),
        Verb::Start(a) => (lifecycle::start(globals, a, &cancel, &signals), 1),
        verb => (quiet(globals, verb, &cancel, &signals).map(|()| 0), 1),
    };
    done.unwrap_or_else(|e| failed(&e, signals.received(), otherwise))
}

fn quiet(globals: &Globals, verb: &Verb, cancel: &Cancel, signals: &Signals) -> Result<()> {
    match verb {
        Verb::Stop(a) => lifecycle::stop(globals, a, cancel),
        Verb::Restart(a) => lifecycle::restart(globals, a, cancel),
        Verb::Kill(a) => lifecycle::kill(globals, a, cancel),
        Verb::Rm(a) => lifecycle::rm(globals, a, cancel),
        Verb::Wait(a) => lifecycle::wait(globals, a, cancel, signals),
        Verb::Pause(a) => lifecycle::pause(globals, a, cancel),
        Verb::Unpause(a) => lifecycle::unpause(globals, a, cancel),
        Verb::Rename(a) => lifecycle::rename(globals, a, cancel),
        Verb::Ps(a) => ps::ps(globals, a, cancel),
        Verb::Port(a) => port::port(globals, a, cancel),
        Verb::Logs(a) => logs::logs(globals, a, cancel, signals),
        Verb::Top(a) => stats::top(globals, a, cancel),
        Verb::Stats(a) => stats::stats(globals, a, cancel, signals),
        Verb::Cleanup(a) => lifecycle::cleanup(globals, a, cancel),
        Verb::Run(_)
        | Verb::Create(_)
        | Verb::Update(_)
        | Verb::Exec(_)
        | Verb::Attach(_)
        | Verb::Start(_) => Err(Error::new(
            Kind::Bug,
            "a command was given to the wrong hands",
        )),
    }
}

/// Says what failed, but not to whom it was that stopped it; the exit code, `otherwise` where the
/// failure has none of its own.
fn failed(e: &Error, signal: Option<i32>, otherwise: u8) -> u8 {
    if let (Kind::Cancelled, Some(signal)) = (e.kind(), signal) {
        return super::signals::exit_code(signal);
    }
    super::say(&e.to_string());
    if let Some(hint) = e.hint() {
        super::say_hint(hint);
    }
    if e.kind() == Kind::Bug {
        super::INTERNAL
    } else {
        otherwise
    }
}

/// Runs the other commands of `unlade container`.
pub(super) fn more(globals: &Globals, what: &Container, cancel: &Cancel) -> Result<()> {
    match what {
        Container::Inspect(a) => inspect::inspect(globals, a, cancel),
        Container::Prune(a) => prune::prune(globals, a, cancel),
        Container::Verb(_) | Container::Files(_) => Err(Error::new(
            Kind::Bug,
            "a command was given to the wrong hands",
        )),
    }
}

pub(super) use self::events::{EventsArgs, events};

/// Does `one` for each name and prints the names for which it went well.
///
/// # Errors
/// As [`super::each::each`].
fn each(names: &[String], mut one: impl FnMut(&str) -> Result<Option<String>>) -> Result<()> {
    let print = |name: &String| match one(name)? {
        Some(line) => super::out::line(&line),
        None => Ok(()),
    };
    super::each::each(names, print).1
}

/// The command line that cleans up after a container of this engine, without the id.
pub(super) fn cleanup_line(engine: &Engine) -> Vec<String> {
    let program =
        std::env::current_exe().map_or_else(|_| "unlade".into(), |p| p.display().to_string());
    let config = engine.config();
    vec![
        program,
        "--root".to_owned(),
        config.root.display().to_string(),
        "--run-root".to_owned(),
        config.run_root.display().to_string(),
        "--graph-driver".to_owned(),
        engine.driver().kind().name().to_owned(),
        "cleanup".to_owned(),
    ]
}
