//! `docker-credential-*`: programs that keep credentials, spoken to over their standard input.

use std::{
    ffi::OsStr,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    credentials::{Credentials, password_of},
    secret::redact_text,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Most that a helper may answer, in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// A helper that was found.
#[derive(Debug)]
pub(super) struct Helper {
    program: PathBuf,
    timeout: Duration,
}

struct Answer {
    ok: bool,
    out: String,
}

impl Helper {
    pub(super) fn find(name: &str, path: Option<&OsStr>, timeout: Duration) -> Result<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
        let full = format!("docker-credential-{}", show(name));
        if name.is_empty() || !name.chars().all(plain) {
            let m = format!("`{full}` is no name of a credential helper");
            return Err(Error::new(Kind::BadInput, m)
                .with_hint("correct `credsStore` or `credHelpers` in the credential file"));
        }
        let dirs = path.map(|p| std::env::split_paths(p).collect::<Vec<_>>());
        let program = (dirs.unwrap_or_default().into_iter())
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(&full))
            .find(|p| is_program(p));
        let program = program.ok_or_else(|| {
            Error::new(Kind::Host, format!("`{full}` is not installed"))
                .with_hint("install it, or remove it from the credential file and log in again")
        })?;
        Ok(Self { program, timeout })
    }

    pub(super) fn get(&self, server: &str) -> Result<Option<Credentials>> {
        let answer = self.run("get", server)?;
        if !answer.ok {
            let out = answer.out.to_ascii_lowercase();
            if out.contains("not found") || out.contains("no credentials") {
                return Ok(None);
            }
            return Err(self.failed("get", &answer.out));
        }
        let value: Value =
            serde_json::from_str(&answer.out).map_err(|_| self.failed("get", "no JSON"))?;
        let text = |name| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (user, secret) = (text("Username"), text("Secret"));
        Ok((!secret.is_empty()).then(|| password_of(user, secret)))
    }

    pub(super) fn store(&self, server: &str, credentials: &Credentials) -> Result<()> {
        let (user, secret) = match credentials {
            Credentials::Password { user, password } => (&**user, password),
            Credentials::IdentityToken(token) | Credentials::RegistryToken(token) => {
                ("<token>", token)
            }
        };
        let input = json!({"ServerURL": server, "Username": user, "Secret": secret.expose()});
        self.expect("store", &input.to_string())
    }

    pub(super) fn erase(&self, server: &str) -> Result<()> {
        self.expect("erase", server)
    }

    fn expect(&self, verb: &str, input: &str) -> Result<()> {
        let answer = self.run(verb, input)?;
        if answer.ok {
            Ok(())
        } else {
            Err(self.failed(verb, &answer.out))
        }
    }

    fn name(&self) -> String {
        let name = self.program.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn failed(&self, verb: &str, said: &str) -> Error {
        let said = redact_text(said.trim());
        Error::new(
            Kind::Host,
            format!("`{} {verb}` failed: {said}", self.name()),
        )
        .with_hint("run it by hand to see what it lacks, or log in again without it")
    }

    fn run(&self, verb: &str, input: &str) -> Result<Answer> {
        let doing = || format!("run {} {verb}", self.name());
        let mut child = Command::new(&self.program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::host(doing(), e))?;
        // Threads of their own: it may answer before it has read, or do neither.
        let (send, answer) = mpsc::channel();
        if let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) {
            let input = input.to_owned();
            thread::spawn(move || {
                // A helper that does not read it says so by its exit code.
                let _ = stdin.write_all(input.as_bytes());
            });
            thread::spawn(move || {
                let mut out = Vec::new();
                let read = stdout.take(MAX_ANSWER).read_to_end(&mut out);
                let _ = send.send(read.map(|_| String::from_utf8_lossy(&out).into_owned()));
            });
        }
        let deadline = Instant::now() + self.timeout;
        let out = match answer.recv_timeout(self.timeout) {
            Ok(out) => out.map_err(|e| Error::host(doing(), e)),
            Err(_) => Err(self.late(verb)),
        };
        let status = wait(&mut child, deadline);
        let status = match status {
            Some(status) => status,
            None => {
                let _ = child.kill();
                let _ = child.wait();
                out?;
                return Err(self.late(verb));
            }
        };
        Ok(Answer {
            ok: status,
            out: out?,
        })
    }

    fn late(&self, verb: &str) -> Error {
        let seconds = self.timeout.as_secs_f32();
        let m = format!("`{} {verb}` did not end within {seconds} s", self.name());
        Error::new(Kind::Host, m).with_hint("it may be waiting for somebody to unlock a key ring")
    }
}

fn wait(child: &mut Child, deadline: Instant) -> Option<bool> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            _ => return None,
        }
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
