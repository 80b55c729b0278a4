//! `--change`: Dockerfile instructions that alter how an image's containers run, by docker's
//! rules.

mod words;

use std::collections::BTreeMap;

use self::words::{cut, expand};
use super::{
    full::{ContainerConfig, Healthcheck, Nothing},
    json::show,
    time,
};
use crate::error::{Error, Kind, Result};

/// The instructions that there are.
const KNOWN: &str = "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, \
                     VOLUME and WORKDIR";

/// Applies `changes` to `config`, in order. Each may hold several lines.
///
/// # Errors
/// [`Kind::BadInput`] for anything that is no instruction, naming it.
pub fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<()> {
    let mut cmd_set = false;
    for line in changes.iter().flat_map(|c| lines(c)) {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let one = Instruction {
            name: name.to_ascii_uppercase(),
            rest: rest.trim(),
        };
        one.apply(config, &mut cmd_set)
            .map_err(|e| e.context(format!("change `{}`", show(&line))))?;
    }
    Ok(())
}

/// Lines without comments; those that end in a backslash go on.
fn lines(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with('#') || line.trim().is_empty() {
            continue;
        }
        let trimmed = line.trim_end();
        match trimmed.strip_suffix('\\') {
            Some(start) => open.push_str(start),
            None => {
                open.push_str(line);
                all.push(std::mem::take(&mut open).trim().to_owned());
            }
        }
    }
    if !open.trim().is_empty() {
        all.push(open.trim().to_owned());
    }
    all
}

fn bad(message: impl Into<String>, hint: &str) -> Error {
    Error::new(Kind::BadInput, message).with_hint(hint)
}

struct Instruction<'a> {
    name: String,
    rest: &'a str,
}

impl Instruction<'_> {
    fn apply(&self, config: &mut ContainerConfig, cmd_set: &mut bool) -> Result<()> {
        let env = config.env.clone().unwrap_or_default();
        if self.rest.is_empty() && KNOWN.split([',', ' ']).any(|k| k == self.name) {
            return Err(bad(
                format!("{} requires at least one argument", self.name),
                "write what is to be set after the instruction",
            ));
        }
        match &*self.name {
            "CMD" => {
                config.cmd = Some(self.command(config)?);
                *cmd_set = true;
            }
            "ENTRYPOINT" => {
                config.entrypoint = Some(self.command(config)?);
                // A command that was there belongs to the old entrypoint.
                if !*cmd_set {
                    config.cmd = None;
                }
            }
            "ENV" => {
                for (name, value) in self.pairs(&env)? {
                    set_env(config.env.get_or_insert_default(), &name, &value);
                }
            }
            "LABEL" => {
                let labels = config.labels.get_or_insert_default();
                labels.extend(self.pairs(&env)?);
            }
            "EXPOSE" => {
                let ports = config.exposed_ports.get_or_insert_default();
                for word in cut(self.rest) {
                    expose(&expand(&word, &env)?, ports)?;
                }
            }
            "VOLUME" => {
                let volumes = config.volumes.get_or_insert_default();
                let paths = list(self.rest).unwrap_or_else(|| cut(self.rest));
                for path in paths {
                    let path = expand(&path, &env)?;
                    let path = path.trim();
                    if path.is_empty() {
                        return Err(bad(
                            "VOLUME specified can not be an empty string",
                            "name a path",
                        ));
                    }
                    volumes.insert(path.to_owned(), Nothing);
                }
            }
            "USER" => config.user = self.single(&env)?,
            "WORKDIR" => config.working_dir = join(&config.working_dir, &self.single(&env)?),
            "STOPSIGNAL" => {
                let signal = self.single(&env)?;
                if !is_signal(&signal) {
                    let m = format!("invalid signal: {}", show(&signal));
                    return Err(bad(
                        m,
                        "signals are numbers from 1 to 64, or names such as SIGTERM",
                    ));
                }
                config.stop_signal = signal;
            }
            "ONBUILD" => {
                let trigger = self.rest.split_whitespace().next().unwrap_or_default();
                match &*trigger.to_ascii_uppercase() {
                    "ONBUILD" => {
                        return Err(bad(
                            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
                            "leave out one of them",
                        ));
                    }
                    name @ ("FROM" | "MAINTAINER") => {
                        return Err(bad(
                            format!("{name} isn't allowed as an ONBUILD trigger"),
                            "leave it out",
                        ));
                    }
                    _ => config
                        .on_build
                        .get_or_insert_default()
                        .push(self.rest.to_owned()),
                }
            }
            "HEALTHCHECK" => config.healthcheck = Some(self.healthcheck()?),
            name => {
                let m = format!("{} is not a valid change command", show(name));
                return Err(bad(m, &format!("changes are {KNOWN}")));
            }
        }
        Ok(())
    }

    /// A command: a JSON list as it is, all else for the shell.
    fn command(&self, config: &ContainerConfig) -> Result<Vec<String>> {
        if let Some(list) = list(self.rest) {
            return Ok(list);
        }
        let mut words = match &config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        };
        words.push(self.rest.to_owned());
        Ok(words)
    }

    /// The one argument of an instruction.
    fn single(&self, env: &[String]) -> Result<String> {
        let value = expand(self.rest, env)?;
        if self.name != "WORKDIR" && cut(self.rest).len() != 1 {
            let m = format!("{} requires exactly one argument", self.name);
            return Err(bad(m, "quote what has blanks"));
        }
        Ok(value)
    }

    /// `NAME=VALUE …`, or the old form `NAME VALUE`.
    fn pairs(&self, env: &[String]) -> Result<Vec<(String, String)>> {
        let words = cut(self.rest);
        let first = words.first().map_or("", |w| w);
        if !first.contains('=') {
            let name = self.rest.split_whitespace().next().unwrap_or_default();
            let value = self.rest[name.len()..].trim();
            if value.is_empty() {
                let m = format!("{} must have two arguments", self.name);
                return Err(bad(m, "write NAME=VALUE"));
            }
            return Ok(vec![(expand(name, env)?, expand(value, env)?)]);
        }
        let pair = |word: &String| {
            let Some((name, value)) = word.split_once('=') else {
                let m = format!(
                    "Syntax error - can't find = in {:?}. Must be of the form: name=value",
                    show(word)
                );
                return Err(bad(m, "quote values that have blanks"));
            };
            let name = expand(name, env)?;
            if name.is_empty() {
                return Err(bad(
                    format!("{} names can not be blank", self.name),
                    "write NAME=VALUE",
                ));
            }
            Ok((name, expand(value, env)?))
        };
        words.iter().map(pair).collect()
    }

    fn healthcheck(&self) -> Result<Healthcheck> {
        let mut check = Healthcheck::default();
        let mut rest = self.rest;
        let next = |rest: &mut &str| {
            let word = rest
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned();
            *rest = rest[word.len()..].trim_start();
            word
        };
        let known = "flags are --interval, --timeout, --start-period, --start-interval, --retries";
        while rest.starts_with("--") {
            let word = next(&mut rest);
            let (flag, value) = word.split_once('=').unwrap_or((&word, ""));
            let field = match flag {
                "--interval" => &mut check.interval,
                "--timeout" => &mut check.timeout,
                "--start-period" => &mut check.start_period,
                "--start-interval" => &mut check.start_interval,
                "--retries" => {
                    let count = value.parse::<i64>().ok().filter(|n| *n >= 0);
                    check.retries = count.ok_or_else(|| {
                        bad(
                            format!("--retries cannot be `{}`", show(value)),
                            "give a number",
                        )
                    })?;
                    continue;
                }
                flag => return Err(bad(format!("unknown flag: {}", show(flag)), known)),
            };
            let time = time::go_duration(value)
                .ok()
                .filter(|n| *n == 0 || *n >= 1_000_000);
            *field = time.ok_or_else(|| {
                let m = format!("`{}` is not a time for {flag}", show(value));
                bad(m, "write it as 30s or 1m30s; no shorter than 1ms")
            })?;
        }
        let kind = next(&mut rest).to_ascii_uppercase();
        check.test = Some(match &*kind {
            "NONE" if rest.is_empty() => vec!["NONE".to_owned()],
            "NONE" => return Err(bad("HEALTHCHECK NONE takes no arguments", "leave them out")),
            "CMD" if rest.is_empty() => {
                return Err(bad(
                    "Missing command after HEALTHCHECK CMD",
                    "write the command",
                ));
            }
            "CMD" => match list(rest) {
                Some(list) => [vec!["CMD".to_owned()], list].concat(),
                None => vec!["CMD-SHELL".to_owned(), rest.to_owned()],
            },
            other => {
                let m = format!("Unknown type {:?} in HEALTHCHECK (try CMD)", show(other));
                return Err(bad(m, "write HEALTHCHECK CMD … or HEALTHCHECK NONE"));
            }
        });
        Ok(check)
    }
}

/// A JSON list of texts; anything else is not meant as one.
fn list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

/// Sets a variable where it stands, or at the end.
fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let is_it = |e: &&mut String| e.split_once('=').map_or(&***e, |(n, _)| n) == name;
    match env.iter_mut().find(is_it) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

fn expose(word: &str, ports: &mut BTreeMap<String, Nothing>) -> Result<()> {
    let wrong = || {
        let m = format!("invalid port: {}", show(word));
        bad(m, "ports are 80, 80/udp or 8000-8010/tcp")
    };
    let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    // What is before a colon is for the host, and is not of the image.
    let range = range.rsplit(':').next().unwrap_or(range);
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse::<u16>().ok())
            .flatten()
    };
    let (Some(from), Some(to)) = (number(from), number(to)) else {
        return Err(wrong());
    };
    if !["tcp", "udp", "sctp"].contains(&&*protocol) || from > to {
        return Err(wrong());
    }
    for port in from..=to {
        ports.insert(format!("{port}/{protocol}"), Nothing);
    }
    Ok(())
}

/// A path seen from the directory `base`, without `.` and `..`.
fn join(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{base}/{path}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn is_signal(text: &str) -> bool {
    const NAMES: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF \
                         PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 \
                         VTALRM WINCH XCPU XFSZ RTMIN RTMAX";
    if let Ok(n) = text.parse::<u32>() {
        return (1..=64).contains(&n);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let base = name.split(['+', '-']).next().unwrap_or(name);
    let offset = name[base.len()..].trim_start_matches(['+', '-']);
    let known = NAMES.split_whitespace().any(|n| n == base);
    match (base, offset) {
        _ if !known => false,
        (_, "") => name.len() == base.len(),
        ("RTMIN" | "RTMAX", n) => n.parse::<u32>().is_ok_and(|n| n <= 15),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(changes: &[&str]) -> Result<ContainerConfig> {
        let mut config = ContainerConfig::default();
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        apply(&mut config, &changes).map(|()| config)
    }

    fn json(changes: &[&str]) -> String {
        serde_json::to_string(&after(changes).unwrap()).unwrap()
    }

    #[test]
    fn every_instruction() {
        for (changes, want) in [
            (
                &["CMD echo  hi"][..],
                r#"{"Cmd":["/bin/sh","-c","echo  hi"]}"#,
            ),
            (&[r#"cmd ["a", "b c"]"#], r#"{"Cmd":["a","b c"]}"#),
            (
                &[r#"CMD ["a", 1]"#],
                r#"{"Cmd":["/bin/sh","-c","[\"a\", 1]"]}"#,
            ),
            (
                &[r#"ENTRYPOINT ["/e"]"#, "CMD x"],
                r#"{"Entrypoint":["/e"],"Cmd":["/bin/sh","-c","x"]}"#,
            ),
            (
                &["CMD x", r#"ENTRYPOINT ["/e"]"#],
                r#"{"Entrypoint":["/e"],"Cmd":["/bin/sh","-c","x"]}"#,
            ),
            (
                &["ENV A=1 B=\"x y\" C='z'", "ENV A=2 D=$B-$A"],
                r#"{"Env":["A=2","B=x y","C=z","D=x y-1"]}"#,
            ),
            (
                &["ENV OLD the value  is long"],
                r#"{"Env":["OLD=the value  is long"]}"#,
            ),
            (
                &["EXPOSE 80 53/UDP 9000-9002"],
                r#"{"ExposedPorts":{"53/udp":{},"80/tcp":{},"9000/tcp":{},"9001/tcp":{},"9002/tcp":{}}}"#,
            ),
            (
                &["LABEL a=b \"c d\"=e", "label x y"],
                r#"{"Labels":{"a":"b","c d":"e","x":"y"}}"#,
            ),
            (&["ONBUILD RUN make"], r#"{"OnBuild":["RUN make"]}"#),
            (&["STOPSIGNAL SIGRTMIN+3"], r#"{"StopSignal":"SIGRTMIN+3"}"#),
            (
                &["ENV U=me", "USER $U:grp"],
                r#"{"User":"me:grp","Env":["U=me"]}"#,
            ),
            (&["VOLUME /a /b"], r#"{"Volumes":{"/a":{},"/b":{}}}"#),
            (&[r#"VOLUME ["/a b"]"#], r#"{"Volumes":{"/a b":{}}}"#),
            (
                &["WORKDIR /a", "WORKDIR b/../c", "WORKDIR ."],
                r#"{"WorkingDir":"/a/c"}"#,
            ),
            (
                &["HEALTHCHECK NONE"],
                r#"{"Healthcheck":{"Test":["NONE"]}}"#,
            ),
            (
                &["HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f x"],
                r#"{"Healthcheck":{"Test":["CMD-SHELL","curl -f x"],"Interval":90000000000,"Retries":3}}"#,
            ),
            (
                &[r#"HEALTHCHECK CMD ["t"]"#],
                r#"{"Healthcheck":{"Test":["CMD","t"]}}"#,
            ),
            (
                &["# note\nENV A=1 \\\n  B=2\nUSER x"],
                r#"{"User":"x","Env":["A=1","B=2"]}"#,
            ),
            (&[""], "{}"),
        ] {
            assert_eq!(json(changes), want, "{changes:?}");
        }
    }

    #[test]
    fn entrypoint_drops_an_older_cmd() {
        let mut config = ContainerConfig {
            cmd: Some(vec!["old".into()]),
            ..Default::default()
        };
        config.shell = Some(vec!["/bin/bash".into(), "-ec".into()]);
        apply(&mut config, &["ENTRYPOINT run".to_owned()]).unwrap();
        assert_eq!(config.cmd, None);
        assert_eq!(config.entrypoint.unwrap().join(" "), "/bin/bash -ec run");
    }

    #[test]
    fn refuses() {
        for (change, part) in [
            ("RUN x", "RUN is not a valid change command"),
            ("nonsense", "NONSENSE is not a valid"),
            ("CMD", "requires at least one argument"),
            ("ENV", "requires at least one argument"),
            ("ENV A", "must have two arguments"),
            ("ENV A=1 B", "can't find = in \"B\""),
            ("ENV =1", "can not be blank"),
            ("ENV A='x", "looking for matching '"),
            ("EXPOSE http", "invalid port: http"),
            ("EXPOSE 80/icmp", "invalid port"),
            ("EXPOSE 9-8", "invalid port"),
            ("EXPOSE 70000", "invalid port"),
            ("USER a b", "exactly one argument"),
            ("STOPSIGNAL NOPE", "invalid signal: NOPE"),
            ("STOPSIGNAL 65", "invalid signal"),
            ("STOPSIGNAL SIGTERM+1", "invalid signal"),
            ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
            ("ONBUILD from x", "FROM isn't allowed"),
            ("HEALTHCHECK CMD", "Missing command"),
            ("HEALTHCHECK NONE x", "takes no arguments"),
            ("HEALTHCHECK x", "Unknown type \"X\""),
            ("HEALTHCHECK --interval=5 CMD x", "not a time"),
            ("HEALTHCHECK --every=5s CMD x", "unknown flag: --every"),
            ("VOLUME \"\"", "empty string"),
        ] {
            let e = after(&[change]).unwrap_err();
            assert!(e.message().contains(part), "{change}: {e}");
            assert!(
                e.hint().is_some() && e.message().contains("change `"),
                "{change}: {e}"
            );
        }
    }
}
