//! Whom aardvark-dns answers for. netavark tells it when containers come and go; that one is called
//! something else now, netavark has no word for.
//!
//! It has a file for each network: the addresses that it listens on, then a line for each container
//! with its id, its addresses of either family, its names, and who is asked for others. It reads
//! them when it gets SIGHUP.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Error, Result};

/// Which field of a line has the names.
const NAMES: usize = 3;

fn failed(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let doing = format!("{doing} `{}`", path.display());
    move |e| Error::host(doing, e)
}

fn files(dir: &Path) -> PathBuf {
    dir.join("aardvark-dns")
}

fn pid_file(dir: &Path) -> PathBuf {
    files(dir).join("aardvark.pid")
}

/// The text of a file; `None` if it is not there.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

fn is_aardvark(pid: Pid) -> bool {
    let comm = format!("/proc/{}/comm", pid.as_raw_nonzero());
    // The configuration may name one with a version in its name.
    fs::read_to_string(comm).is_ok_and(|name| name.starts_with("aardvark-dns"))
}

fn pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.trim().parse().ok().filter(|pid| *pid > 0)?)
}

/// netavark signals the process whose number it finds in a file: if that number has become another
/// program's, the file goes.
pub(super) fn forget_reused(dir: &Path) -> Result<()> {
    let path = pid_file(dir);
    let Ok(text) = fs::read_to_string(&path) else {
        return Ok(());
    };
    if pid(&text).is_some_and(is_aardvark) {
        return Ok(());
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// Gives a container the names that go with the keys of its networks. The caller sees to it that
/// netavark does not run meanwhile.
pub(super) fn rename(dir: &Path, id: &str, networks: &[(&str, Vec<String>)]) -> Result<()> {
    for (key, names) in networks {
        // Later versions mark those of internal networks.
        for file in [(*key).to_owned(), format!("{key}%int")] {
            let path = files(dir).join(file);
            let Some(text) = read(&path)? else { continue };
            let Some(changed) = renamed(&text, id, names) else {
                continue;
            };
            // Not beside it, where it would be another network's.
            let new = dir.join("renamed.new");
            fs::write(&new, changed)
                .and_then(|()| fs::rename(&new, &path))
                .map_err(failed("write", &path))?;
        }
    }
    // Whatever was changed: who was killed in the middle may not have come to this.
    reload(dir)
}

/// The text with other names in the lines of a container; `None` if it has them already.
fn renamed(text: &str, id: &str, names: &[String]) -> Option<String> {
    let mut changed = false;
    let names = names.join(",");
    let lines = text.lines().map(|line| {
        let mut fields: Vec<&str> = line.split(' ').collect();
        if fields[0] == id && fields.len() > NAMES && fields[NAMES] != names {
            changed = true;
            fields[NAMES] = &names;
        }
        fields.join(" ") + "\n"
    });
    let all: String = lines.collect();
    changed.then_some(all)
}

/// Has it read its files again, if it runs.
fn reload(dir: &Path) -> Result<()> {
    let path = pid_file(dir);
    let Some(pid) = read(&path)?.as_deref().and_then(pid) else {
        return Ok(());
    };
    // Held before its name is looked at, the number cannot become another's.
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    if !is_aardvark(pid) {
        return Ok(());
    }
    match pidfd_send_signal(&fd, Signal::HUP) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(Error::host("signal aardvark-dns", e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_container() {
        let text =
            "10.89.0.1,fd00::1 1.1.1.1\naa 10.89.0.2 fd00::2 web,aa\nab 10.89.0.3  db 9.9.9.9\n";
        let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            renamed(text, "aa", &names(&["site", "aa"])).unwrap(),
            "10.89.0.1,fd00::1 1.1.1.1\naa 10.89.0.2 fd00::2 site,aa\nab 10.89.0.3  db 9.9.9.9\n"
        );
        assert_eq!(
            renamed(text, "ab", &names(&["x"])).unwrap(),
            "10.89.0.1,fd00::1 1.1.1.1\naa 10.89.0.2 fd00::2 web,aa\nab 10.89.0.3  x 9.9.9.9\n"
        );
        assert_eq!(renamed(text, "aa", &names(&["web", "aa"])), None);
        assert_eq!(renamed(text, "a", &names(&["x"])), None);
    }

    #[test]
    fn nobody_else_is_signalled() {
        let dir = tempfile::tempdir().unwrap();
        reload(dir.path()).unwrap();
        fs::create_dir(files(dir.path())).unwrap();
        for text in [
            std::process::id().to_string(),
            "-1".into(),
            "0".into(),
            "x".into(),
        ] {
            fs::write(pid_file(dir.path()), text).unwrap();
            reload(dir.path()).unwrap();
            forget_reused(dir.path()).unwrap();
            assert!(!pid_file(dir.path()).exists());
        }
    }
}
