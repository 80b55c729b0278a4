//! What is said of a command line that is wrong, and how the process ends then: as docker's client
//! does it, with 125 for a flag and 1 for a command or for the number of arguments.

use clap::{
    Arg, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{FAILED, INTERNAL, say, say_hint, say_plainly};
use crate::image::json::show;

/// Exit code for a flag that does not exist or has a value that cannot be read.
pub(super) const FLAG: u8 = INTERNAL;
/// Exit code for any wrong use of the commands that work without a store and are not docker's.
const OWN: u8 = 2;

/// Says what is wrong, or prints the help that was asked for; the exit code.
pub(super) fn told(e: &clap::Error, grammar: Command) -> u8 {
    let (mut command, path) = meant(grammar);
    match e.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Without a place to print there is nothing to do.
            let _ = e.print();
            return 0;
        }
        ErrorKind::MissingSubcommand => {
            say_plainly(&command.render_help().to_string());
            return 0;
        }
        _ => {}
    }
    let own = matches!(path.first().map(String::as_str), Some("unpack" | "gunzip"));
    let wrong = Wrong::of(e, &command, own, makes(&path));
    say(&wrong.message);
    if let Some(hint) = wrong.hint {
        say_hint(&hint);
    }
    let name = command.get_bin_name().unwrap_or("unlade").to_owned();
    say_plainly(&format!(
        "\n{}\n\nRun '{name} --help' for more information",
        command.render_usage()
    ));
    if own { OWN } else { wrong.code }
}

/// The command that the words of the process name, wrong as they may be, and its path.
fn meant(grammar: Command) -> (Command, Vec<String>) {
    let mut path = Vec::new();
    if let Ok(matches) = grammar.clone().ignore_errors(true).try_get_matches() {
        let mut below = matches.subcommand();
        while let Some((name, matches)) = below {
            path.push(name.to_owned());
            below = matches.subcommand();
        }
    }
    let mut command = grammar;
    command.build();
    for name in &path {
        let Some(below) = command.find_subcommand(name).cloned() else {
            break;
        };
        command = below;
    }
    (command, path)
}

/// Whether it is `run` or `create`, whose flags docker checks against each other as it reads them.
fn makes(path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(
        path[..],
        ["run" | "create"] | ["container", "run" | "create"]
    )
}

struct Wrong {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Wrong {
    fn of(e: &clap::Error, command: &Command, own: bool, makes: bool) -> Self {
        let of = |code, message| Self {
            code,
            message,
            hint: None,
        };
        let name = command.get_bin_name().unwrap_or("unlade");
        let arg = one(e, ContextKind::InvalidArg);
        let is_flag = arg.is_some_and(|a| a.len() > 1 && a.starts_with('-'));
        match (e.kind(), arg) {
            (ErrorKind::InvalidSubcommand, _) => {
                let typed = one(e, ContextKind::InvalidSubcommand).unwrap_or_default();
                Self {
                    hint: likely(e, ContextKind::SuggestedSubcommand, typed),
                    ..of(FAILED, format!("unknown command: {name} {}", show(typed)))
                }
            }
            (ErrorKind::UnknownArgument, Some(flag)) if is_flag => {
                let kind = match flag.starts_with("--") {
                    true => "flag",
                    false => "shorthand flag",
                };
                let message = format!("unknown {kind}: {}", show(flag));
                Self {
                    hint: likely(e, ContextKind::SuggestedArg, flag),
                    ..of(FLAG, message)
                }
            }
            (ErrorKind::MissingRequiredArgument, _) if own => {
                let lacks = match e.get(ContextKind::InvalidArg) {
                    Some(ContextValue::Strings(all)) => all.join(" "),
                    _ => "an argument".to_owned(),
                };
                of(FAILED, format!("'{name}' requires {lacks}"))
            }
            (
                ErrorKind::UnknownArgument
                | ErrorKind::MissingRequiredArgument
                | ErrorKind::TooFewValues
                | ErrorKind::TooManyValues
                | ErrorKind::WrongNumberOfValues,
                _,
            ) if !is_flag => of(FAILED, format!("'{name}' {}", takes(command))),
            (ErrorKind::InvalidValue | ErrorKind::ValueValidation, Some(arg)) => {
                let value = one(e, ContextKind::InvalidValue).unwrap_or_default();
                invalid(e, command, arg, value)
            }
            (ErrorKind::ArgumentConflict, Some(arg)) => {
                let prior = match e.get(ContextKind::PriorArg) {
                    Some(ContextValue::String(prior)) => bare(prior).to_owned(),
                    Some(ContextValue::Strings(all)) => {
                        let all: Vec<&str> = all.iter().map(|a| bare(a)).collect();
                        all.join(", ")
                    }
                    _ => "what else was given".to_owned(),
                };
                let m = format!(
                    "conflicting options: {} cannot be used with {prior}",
                    bare(arg)
                );
                Self {
                    hint: Some("leave out one of them".to_owned()),
                    ..of(if makes { FLAG } else { FAILED }, m)
                }
            }
            _ => {
                let text = e.to_string();
                let line = text.lines().next().unwrap_or_default();
                let message = line.strip_prefix("error: ").unwrap_or(line);
                of(if is_flag { FLAG } else { FAILED }, show(message))
            }
        }
    }
}

/// A value that is wrong, or is missing.
fn invalid(e: &clap::Error, command: &Command, arg: &str, value: &str) -> Wrong {
    let found = command.get_arguments().find(|a| a.to_string() == arg);
    let known = match e.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(all)) if !all.is_empty() => Some(all.join(", ")),
        _ => None,
    };
    let is_flag = arg.starts_with('-');
    let value = show(value);
    let (code, message) = match is_flag {
        true if value.is_empty() => (FLAG, format!("flag needs an argument: {}", bare(arg))),
        true => {
            let names = found.map_or_else(|| bare(arg).to_owned(), names);
            let m = format!("invalid argument \"{value}\" for \"{names}\" flag");
            (FLAG, m)
        }
        false => (FAILED, format!("invalid argument \"{value}\" for {arg}")),
    };
    let source = std::error::Error::source(e);
    let why = match (&known, source) {
        (Some(all), _) => format!(": must be one of {all}"),
        (None, Some(why)) if !value.is_empty() => format!(": {why}"),
        _ => String::new(),
    };
    Wrong {
        code,
        message: message + &why,
        hint: source
            .and_then(|s| s.downcast_ref::<crate::error::Error>())
            .and_then(|e| e.hint())
            .map(str::to_owned),
    }
}

/// `-t, --timeout`, as docker names a flag in its messages.
fn names(arg: &Arg) -> String {
    let short = arg.get_short().map(|s| format!("-{s}"));
    let long = arg.get_long().map(|l| format!("--{l}"));
    let both: Vec<String> = short.into_iter().chain(long).collect();
    both.join(", ")
}

/// A flag without its value's name.
fn bare(arg: &str) -> &str {
    arg.split([' ', '[', '=']).next().unwrap_or(arg)
}

/// How many arguments a command takes, in docker's words.
fn takes(command: &Command) -> String {
    let (mut least, mut most) = (0_usize, 0_usize);
    for arg in command.get_positionals() {
        let range = arg.get_num_args().unwrap_or_default();
        if arg.is_required_set() {
            least += range.min_values().max(1);
        }
        most = most.saturating_add(range.max_values());
    }
    let s = |n| if n == 1 { "" } else { "s" };
    match (least, most) {
        (0, 0) => "accepts no arguments".to_owned(),
        _ if least == most => format!("requires {least} argument{}", s(least)),
        (0, _) => format!("requires at most {most} argument{}", s(most)),
        (_, usize::MAX) => format!("requires at least {least} argument{}", s(least)),
        _ => format!("requires at least {least} and at most {most} arguments"),
    }
}

fn one(e: &clap::Error, kind: ContextKind) -> Option<&str> {
    match e.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}

/// A hint at what was likely meant, where what was typed is that but for a slip of the fingers.
fn likely(e: &clap::Error, kind: ContextKind, typed: &str) -> Option<String> {
    let candidates: Vec<&str> = match e.get(kind)? {
        ContextValue::String(one) => vec![one],
        ContextValue::Strings(all) => all.iter().map(String::as_str).collect(),
        _ => return None,
    };
    let slips = if typed.trim_start_matches('-').len() < 4 {
        1
    } else {
        2
    };
    let best = candidates
        .into_iter()
        .map(|c| (slips_between(typed, c), c))
        .filter(|(n, _)| *n <= slips)
        .min()?;
    Some(format!("did you mean {}?", best.1))
}

/// How many letters were added, left out, swapped with their neighbour or mistaken.
fn slips_between(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips() {
        for (a, b, n) in [
            ("imagess", "images", 1),
            ("--tial", "--tail", 1),
            ("search", "start", 3),
            ("", "ab", 2),
            ("ps", "ps", 0),
        ] {
            assert_eq!(slips_between(a, b), n, "{a} {b}");
        }
    }

    #[test]
    fn counts_of_arguments() {
        for (path, want) in [
            (&["ps"][..], "accepts no arguments"),
            (&["stop"], "requires at least 1 argument"),
            (&["exec"], "requires at least 2 arguments"),
            (&["rename"], "requires 2 arguments"),
            (&["cp"], "requires 2 arguments"),
            (&["pull"], "requires 1 argument"),
            (&["run"], "requires at least 1 argument"),
            (&["volume", "create"], "requires at most 1 argument"),
            (&["port"], "requires at least 1 and at most 2 arguments"),
        ] {
            let mut command = super::super::grammar();
            command.build();
            for name in path {
                command = command.find_subcommand(name).unwrap().clone();
            }
            assert_eq!(takes(&command), want, "{path:?}");
        }
    }
}
