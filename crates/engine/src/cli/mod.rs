//! The command `unlade`: arguments in, text and exit codes out.
//!
//! All that is printed is printed here; the use cases below are silent.

mod args;
mod completion;
mod containers;
mod each;
mod echo;
mod exchange;
mod files;
mod flush;
mod globals;
mod gunzip;
mod human;
mod images;
mod input;
mod inspect;
mod lists;
mod man;
mod mounts;
mod namespaces;
mod networks;
mod out;
mod progress;
mod pull;
mod registries;
mod report;
mod signals;
mod system;
mod table;
mod template;
mod tree;
mod trust;
mod unit;
mod usage;
mod values;
mod version;
mod volumes;

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    num::NonZeroUsize,
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches};
use unlade_unpack::{Cancel, Error, Kind, Owners};

use self::{
    args::{Cli, Command, UnpackArgs, When},
    globals::Globals,
    signals::Signals,
};
use crate::{
    dest::Dest,
    unpack::{UnpackReport, UnpackRequest, unpack},
};

/// Exit code for bad input and for errors of the host.
const FAILED: u8 = 1;
/// Exit code for a defect of unlade.
const INTERNAL: u8 = 125;

/// What `--format TEMPLATE` prints of a document.
///
/// # Errors
/// Of kind [`Kind::BadInput`](crate::error::Kind::BadInput), for text that is no template or asks
/// for what is not there.
pub fn by_template(template: &str, document: serde_json::Value) -> crate::error::Result<String> {
    template::Template::parse(template)?.render_value(&document.into())
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        say(&format!("internal error: {info}"));
        say_hint("this is a defect of unlade: please report it with the command and this message");
    }));
    let run = || {
        if let Some(answered) = completion::answer() {
            return answered.map_or(FAILED, |()| 0);
        }
        let cli = match parse() {
            Ok(cli) => cli,
            Err(code) => return code,
        };
        start_log();
        if let Command::System(args::System::Flush(a)) = &cli.command {
            a.detach();
        }
        if let Err(e) = namespaces::enter(&cli.globals, &cli.command) {
            let code = told(Err(e));
            return if is_run(&cli.command) { INTERNAL } else { code };
        }
        match cli.command {
            Command::Unshare(args) => told(namespaces::unshare(&args)),
            Command::Unpack(args) => run_unpack(&args),
            Command::Gunzip(args) => gunzip::run(&args),
            Command::Completion(args) => told(completion::script(&args)),
            Command::Man(args) => told(man::write(&args, grammar())),
            Command::Verb(verb) | Command::Container(containers::Container::Verb(verb)) => {
                containers::main(&cli.globals, &verb)
            }
            command => on_store(&cli.globals, &command),
        }
    };
    ExitCode::from(guarded(run))
}

/// All that can be typed. As docker, of a flag that is given twice the last counts, and one that is
/// true or false may be given as `--flag=BOOL`.
fn grammar() -> clap::Command {
    fn all(command: clap::Command) -> clap::Command {
        match command.get_name() {
            "unpack" | "gunzip" => command,
            _ => containers::booleans(command).mut_subcommands(all),
        }
    }
    all(Cli::command()).args_override_self(true)
}

/// The command line; an exit code where it is wrong or was answered.
fn parse() -> Result<Cli, u8> {
    let parsed = grammar()
        .try_get_matches()
        .and_then(|m| Cli::from_arg_matches(&m));
    parsed.map_err(|e| usage::told(&e, grammar()))
}

/// Whether it is `run`: as docker, it lets our failures be told from the container's.
fn is_run(command: &Command) -> bool {
    use containers::{Container, Verb};
    matches!(
        command,
        Command::Verb(Verb::Run(_)) | Command::Container(Container::Verb(Verb::Run(_)))
    )
}

/// Runs a command on the store.
fn on_store(globals: &Globals, command: &Command) -> u8 {
    use args::{Image, System};
    let signals = Signals::block();
    let cancel = Cancel::new();
    raise_open_files();
    let watched = signals
        .watch(cancel.clone())
        .map_err(crate::error::Error::from);
    let done = watched.and_then(|()| match command {
        Command::Pull(a) | Command::Image(Image::Pull(a)) => pull::run(globals, a, &cancel),
        Command::Push(a) | Command::Image(Image::Push(a)) => registries::push(globals, a, &cancel),
        Command::Images(a) | Command::Image(Image::Ls(a)) => images::list(globals, a, &cancel),
        Command::Inspect(a) => inspect::inspect(globals, a, &cancel),
        Command::Image(Image::Inspect(a)) => images::inspect(globals, a, &cancel),
        Command::Files(a) | Command::Container(containers::Container::Files(a)) => {
            exchange::run(globals, a, &cancel)
        }
        Command::Container(a) => containers::more(globals, a, &cancel),
        Command::Events(a) | Command::System(System::Events(a)) => {
            containers::events(globals, a, &cancel)
        }
        Command::History(a) | Command::Image(Image::History(a)) => {
            images::history(globals, a, &cancel)
        }
        Command::Tag(a) | Command::Image(Image::Tag(a)) => images::tag(globals, a, &cancel),
        Command::Rmi(a) | Command::Image(Image::Rm(a)) => images::rmi(globals, a, &cancel),
        Command::Save(a) | Command::Image(Image::Save(a)) => files::save(globals, a, &cancel),
        Command::Load(a) | Command::Image(Image::Load(a)) => files::load(globals, a, &cancel),
        Command::Import(a) | Command::Image(Image::Import(a)) => files::import(globals, a, &cancel),
        Command::Image(Image::Prune(a)) => images::prune(globals, a, &cancel),
        Command::Image(Image::Mount(a)) => mounts::mount(globals, a, &cancel),
        Command::Image(Image::Unmount(a)) => mounts::unmount(globals, a, &cancel),
        Command::System(System::Boot(a)) => system::boot(globals, a, &cancel),
        Command::System(System::Check(a)) => system::check(globals, a, &cancel),
        Command::System(System::Df(a)) => system::df(globals, a, &cancel),
        Command::System(System::Flush(a)) => flush::run(globals, a, &cancel),
        Command::System(System::Prune(a)) => system::prune(globals, a, &cancel),
        Command::Version(a) => version::version(globals, a),
        Command::Info(a) | Command::System(System::Info(a)) => system::info(globals, a, &cancel),
        Command::Network(c) => networks::run(globals, c, &cancel),
        Command::Volume(c) => volumes::run(globals, c, &cancel),
        Command::Login(a) => registries::log_in(globals, a, &cancel),
        Command::Logout(a) => registries::log_out(a),
        Command::Unpack(_)
        | Command::Gunzip(_)
        | Command::Completion(_)
        | Command::Man(_)
        | Command::Unshare(_)
        | Command::Verb(_) => Err(crate::error::Error::new(
            crate::error::Kind::Bug,
            "a command without a store was given one",
        )),
    });
    match (done, signals.received()) {
        // As docker: whoever stopped it knows, and the code says so.
        (Err(e), Some(signal)) if e.kind() == crate::error::Kind::Cancelled => {
            signals::exit_code(signal)
        }
        (done, signal) => match (told(done), signal) {
            // Whatever failed first when the work was stopped.
            (FAILED, Some(signal)) => signals::exit_code(signal),
            (code, _) => code,
        },
    }
}

/// Says what failed, if anything did; the exit code.
fn told(done: crate::error::Result<()>) -> u8 {
    let Err(e) = done else { return 0 };
    say(&e.to_string());
    if let Some(hint) = e.hint() {
        say_hint(hint);
    }
    match e.kind() {
        crate::error::Kind::Bug => INTERNAL,
        _ => FAILED,
    }
}

/// Asks whether to go on; without an answer it is no.
fn confirm(what: &str, cancel: &Cancel) -> crate::error::Result<bool> {
    ask(&format!(
        "{what}\nAre you sure you want to continue? [y/N] "
    ));
    let line = input::line(cancel)?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Shows a question.
fn ask(what: &str) {
    // Without a place to ask there is no answer either.
    let _ = write!(io::stderr().lock(), "{what}");
}

/// What `run` returns, or the code for a defect if it panics; staging is cleaned up then too.
fn guarded(run: impl FnOnce() -> u8) -> u8 {
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or(INTERNAL)
}

/// The exit code for a failure, after `signal` if one has come.
fn failure(kind: Kind, signal: Option<i32>) -> u8 {
    match (kind, signal) {
        (Kind::Cancelled, Some(signal)) => signals::exit_code(signal),
        (Kind::Bug, _) => INTERNAL,
        _ => FAILED,
    }
}

/// `UNLADE_LOG` asks for a log on stderr, in the syntax of `tracing_subscriber::EnvFilter`.
fn start_log() {
    use tracing_subscriber::EnvFilter;
    let Ok(wanted) = std::env::var("UNLADE_LOG") else {
        return;
    };
    let filter = EnvFilter::new(wanted);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // Fails only if there is a log already.
    let _ = log.with_ansi(io::stderr().is_terminal()).try_init();
}

fn say(text: &str) {
    // Without a place to complain there is nothing left to do.
    let _ = writeln!(io::stderr().lock(), "unlade: {text}");
}

/// Says what was done, on the side.
fn say_plainly(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn say_hint(text: &str) {
    let _ = writeln!(io::stderr().lock(), "hint: {text}");
}

fn say_error(e: &Error) {
    say(&e.to_string());
    if let Some(hint) = e.hint() {
        say_hint(hint);
    }
}

fn run_unpack(args: &UnpackArgs) -> u8 {
    let mut output = match Output::open(args) {
        Ok(output) => output,
        Err(e) => {
            say_error(&e);
            return FAILED;
        }
    };
    // Before any thread is started: all of them inherit the mask and the mount namespace.
    let signals = Signals::block();
    let done = request(args).and_then(|mut request| {
        signals.watch(request.cancel.clone())?;
        let bars = progress::Bars::new(args.progress, args.quiet);
        request.watch = bars.as_ref().map(progress::Bars::watch);
        let done = unpack(request);
        if let Some(bars) = bars {
            bars.clear();
        }
        done
    });
    let mut code = match &done {
        Ok(report) => {
            notes(args, report);
            0
        }
        Err(e) => {
            say_error(e);
            failure(e.kind(), signals.received())
        }
    };
    if let Err(e) = output.write(args, &done) {
        say_error(&e);
        code = FAILED;
    }
    code
}

fn request(args: &UnpackArgs) -> unlade_unpack::Result<UnpackRequest> {
    raise_open_files();
    let dest = match &args.dest {
        Some(path) if !args.verify => {
            let mut dest = Dest::open(path, args.force)?;
            if !args.no_sandbox
                && let Err(e) = dest.confine()
            {
                tracing::debug!(error = %e, "not confined to the destination");
            }
            Some(dest)
        }
        _ => None,
    };
    let privileged = rustix::process::geteuid().is_root();
    let owners = match &args.owners {
        Some(owners) => owners.clone(),
        None if privileged => Owners::Archive,
        None => Owners::Caller,
    };
    Ok(UnpackRequest {
        platform: args.platform.clone(),
        owners,
        whiteouts: args.whiteouts.into(),
        limits: args.limits.limits(),
        max_layers: args.limits.layers,
        memory_bytes: args
            .memory
            .map(|m| usize::try_from(m).unwrap_or(usize::MAX)),
        threads: args.threads.and_then(NonZeroUsize::new),
        decode_threads: args.decode_threads.and_then(NonZeroUsize::new),
        io: args.io.into(),
        sniff: args.sniff,
        cancel: Cancel::new(),
        ..UnpackRequest::new(args.source.clone(), dest)
    })
}

/// Images of many layers keep a descriptor for each: allow as many as the host does.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if now.current < now.maximum || now.maximum.is_none() {
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: now.maximum,
                ..now
            },
        );
    }
}

/// What the user should know although all went well.
fn notes(args: &UnpackArgs, report: &UnpackReport) {
    if !args.quiet {
        let mut skipped = report::skipped(report);
        skipped.sort_by_key(|s| std::cmp::Reverse(s.count));
        if !skipped.is_empty() {
            let list: Vec<String> = skipped
                .iter()
                .map(|s| format!("{} {} ({})", s.count, s.what, s.why))
                .collect();
            say(&format!("left out: {}", list.join(", ")));
        }
    }
    if let Some(e) = &report.left_behind {
        say_error(e);
    }
}

/// Whether `report` is at DEST or in it, whether that is there already or not.
fn in_dest(report: &Path, args: &UnpackArgs) -> bool {
    let Some(dest) = args.dest.as_deref().filter(|_| !args.verify) else {
        return false;
    };
    let absolute = |p: &Path| std::path::absolute(p).unwrap_or_else(|_| p.to_owned());
    absolute(report).starts_with(absolute(dest))
        || Dest::open(dest, true).is_ok_and(|d| d.holds(report))
}

/// Where the result goes.
struct Output {
    report: Option<Report>,
}

enum Report {
    Stdout,
    File(File, String),
}

impl Output {
    /// Opens the report's file, so that a wrong path is noticed before the work is done.
    fn open(args: &UnpackArgs) -> unlade_unpack::Result<Self> {
        let report = match &args.report {
            None => None,
            Some(path) if path.as_os_str() == "-" => Some(Report::Stdout),
            Some(path) => {
                let shown = path.display().to_string();
                if in_dest(path, args) {
                    let m = format!("the report `{shown}` would be in the destination");
                    return Err(Error::new(Kind::Host, m)
                        .with_hint("the tree is what the image holds: choose a file outside it"));
                }
                let file = File::create(path).map_err(|e| {
                    Error::host(format!("open the report `{shown}`"), e)
                        .with_hint("choose a file that can be written for --report")
                })?;
                Some(Report::File(file, shown))
            }
        };
        Ok(Self { report })
    }

    /// Writes the report, or else one line.
    fn write(
        &mut self,
        args: &UnpackArgs,
        done: &unlade_unpack::Result<UnpackReport>,
    ) -> unlade_unpack::Result<()> {
        let stdout = |text: &str| {
            let mut out = io::stdout().lock();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                other => other.map_err(|e| Error::host("write to standard output", e)),
            }
        };
        match &mut self.report {
            Some(Report::Stdout) => return stdout(&report::json(args, done)),
            Some(Report::File(file, name)) => {
                file.write_all(report::json(args, done).as_bytes())
                    .map_err(|e| Error::host(format!("write the report `{name}`"), e))?
            }
            None => {}
        }
        match done {
            Ok(done) if !args.quiet => stdout(&report::line(args, done)),
            _ => Ok(()),
        }
    }
}

/// Whether to show bars.
fn wanted(when: When, quiet: bool) -> bool {
    match when {
        When::Always => true,
        When::Never => false,
        When::Auto => !quiet && io::stderr().is_terminal(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_failures() {
        assert_eq!((guarded(|| 0), guarded(|| 7)), (0, 7));
        assert_eq!(guarded(|| panic!("a defect")), INTERNAL);
        assert_eq!(failure(Kind::Bug, None), INTERNAL);
        assert_eq!(failure(Kind::Bug, Some(2)), INTERNAL);
        assert_eq!(
            (
                failure(Kind::Cancelled, Some(2)),
                failure(Kind::Cancelled, Some(15))
            ),
            (130, 143)
        );
        for kind in [
            Kind::BadInput,
            Kind::Limit,
            Kind::Unsupported,
            Kind::Integrity,
            Kind::Host,
        ] {
            assert_eq!(failure(kind, Some(2)), FAILED);
        }
    }
}
