//! Why a runtime has not started a process: what it said, in words that say what to do.

use crate::error::{Error, Kind};

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 125, 126 or 127.
    pub exit_code: u8,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub hint: &'static str,
}

/// What was to be started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The first word of its command line.
    pub(super) program: &'a str,
    /// Its working directory.
    pub(super) dir: &'a str,
}

impl Refusal {
    /// What a runtime `said`, which ended with `exit_code` for it.
    pub(super) fn new(exit_code: u8, said: &str, wanted: Wanted<'_>) -> Self {
        let Wanted { program, dir } = wanted;
        let lower = said.to_lowercase();
        let has = |part: &str| lower.contains(part);
        let of_dir = dir != "/"
            && !dir.is_empty()
            && said.contains(dir)
            && ["chdir", "mkdir", "cwd"].into_iter().any(has);
        let by_path = program.contains('/');
        let of_program = has("exec: ") || has("executable") || has("exec format");
        let exec = |why: &str| format!("exec: \"{program}\": {why}");
        let (message, hint) = if of_dir && has("not a directory") {
            (
                format!("the working directory `{dir}` is not a directory in the container"),
                "-w, or the image's WORKDIR, has to name one",
            )
        } else if of_dir && has("no such file") {
            (
                format!("the working directory `{dir}` is not there in the container"),
                "make it first, or give another with -w",
            )
        } else if of_dir && has("permission denied") {
            (
                format!("the working directory `{dir}` is closed to the container's user"),
                "give another with -w, or another user with -u",
            )
        } else if of_program && has("not found in $path") && !by_path {
            (
                exec("executable file not found in $PATH"),
                "is it in the image, and in its PATH?",
            )
        } else if has("exec format error") {
            (
                exec("exec format error"),
                "it is made for another architecture, or is a script without a line of `#!`",
            )
        } else if of_program && (has("no such file or directory") || has("not found in $path")) {
            (
                exec("no such file or directory"),
                "is it in the image, and what it is run by too, such as its shell?",
            )
        } else if of_program && (has("permission denied") || has("is a directory")) {
            (
                exec("permission denied"),
                "it is there, but is a directory, or its user may not execute it",
            )
        } else {
            (plain(said).to_owned(), "UNLADE_LOG=debug tells more")
        };
        Self {
            exit_code,
            message,
            hint,
        }
    }

    /// As an error.
    pub fn error(&self) -> Error {
        Error::new(Kind::Host, &*self.message).with_hint(self.hint)
    }
}

/// Without what says no more than that a runtime failed.
fn plain(mut said: &str) -> &str {
    for start in [
        "runc run failed: ",
        "runc create failed: ",
        "exec failed: ",
        "unable to start container process: ",
        "error during container init: ",
    ] {
        said = said.strip_prefix(start).unwrap_or(said);
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_runtimes() {
        for (program, dir, said, message, hint) in [
            (
                "x",
                "/w",
                "runc run failed: unable to start container process: exec: \"x\": executable file not found in $PATH",
                "exec: \"x\": executable file not found in $PATH",
                "in its PATH",
            ),
            (
                "x",
                "/",
                "executable file `x` not found in $PATH: No such file or directory",
                "exec: \"x\": executable file not found in $PATH",
                "in its PATH",
            ),
            (
                "/x",
                "/w",
                "runc run failed: unable to start container process: exec: \"/x\": stat /x: no such file or directory",
                "exec: \"/x\": no such file or directory",
                "in the image",
            ),
            (
                "/x",
                "/",
                "executable file `/x` not found in $PATH: No such file or directory",
                "exec: \"/x\": no such file or directory",
                "in the image",
            ),
            (
                "/x",
                "/",
                "open executable: Permission denied",
                "exec: \"/x\": permission denied",
                "execute it",
            ),
            (
                "/x",
                "/",
                "runc run failed: unable to start container process: exec: \"/x\": exec format error",
                "exec: \"/x\": exec format error",
                "architecture",
            ),
            (
                "x",
                "/file",
                "runc run failed: unable to start container process: error during container init: mkdir /file: not a directory",
                "the working directory `/file` is not a directory in the container",
                "-w",
            ),
            (
                "x",
                "/file",
                "chdir `/file`: Not a directory",
                "the working directory `/file` is not a directory in the container",
                "-w",
            ),
            (
                "x",
                "/no",
                "exec failed: unable to start container process: chdir to cwd (\"/no\") set in config.json failed: no such file or directory",
                "the working directory `/no` is not there in the container",
                "make it",
            ),
            // What is not about the program does not blame it.
            (
                "x",
                "/",
                "runc run failed: unable to start container process: error during container init: open /proc/sys/a: no such file or directory",
                "open /proc/sys/a: no such file or directory",
                "UNLADE_LOG",
            ),
        ] {
            let refusal = Refusal::new(125, said, Wanted { program, dir });
            assert_eq!(refusal.message, message, "{said}");
            assert!(refusal.hint.contains(hint), "{}", refusal.hint);
        }
    }
}
