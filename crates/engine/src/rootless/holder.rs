//! The process that holds a user's namespaces, a part of the program `unlade-shim`.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FlockOperation, Mode, OFlags, flock},
    mount::{MountPropagationFlags, mount_change},
};

use super::USERS;
use crate::{sys, user};

/// Which mounts there were at first that are not the host's, so that another holder knows them too.
/// Numbers of others are given out again when the host unmounts them.
const MOUNTS: &str = "mounts";

/// The program: `new DIR` makes namespaces, `here DIR` stays in those that it is in.
pub(crate) fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(how), Some(dir)) = (args.next(), args.next().map(PathBuf::from)) else {
        return ExitCode::from(2);
    };
    match begin(how == "new", &dir).and_then(|()| hold(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = write!(io::stdout(), "e{e}");
            ExitCode::FAILURE
        }
    }
}

fn begin(new: bool, dir: &Path) -> io::Result<()> {
    sys::close_inherited();
    let say = |word: &[u8]| {
        let mut out = io::stdout().lock();
        out.write_all(word).and_then(|()| out.flush())
    };
    if new {
        sys::unshare_user().map_err(|e| match e.kind() {
            // The kernel's word for it is the one for full disks.
            io::ErrorKind::StorageFull => io::Error::other("no more user namespaces may be made"),
            _ => e,
        })?;
        say(b"u")?;
        let mut word = [0];
        io::stdin().read_exact(&mut word)?;
        sys::unshare_mounts()?;
        let how = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", how)?;
        let all: Vec<String> = mounts(&fs::read_to_string("/proc/self/mountinfo")?)
            .filter(|(_, ours)| *ours)
            .map(|(id, _)| id.to_owned())
            .collect();
        fs::write(dir.join(MOUNTS), all.join("\n"))?;
    }
    // Its signals are those of whoever started us.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    say(b"r")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

/// Stays while somebody uses the namespaces, or something is mounted in them.
fn hold(dir: &Path) -> io::Result<()> {
    let text = fs::read_to_string(dir.join(MOUNTS))?;
    let first: BTreeSet<&str> = text.lines().collect();
    let lock = File::open(dir.join(USERS))?;
    let mut table = File::open("/proc/self/mountinfo")?;
    loop {
        rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))?;
        let mut now = String::new();
        table.rewind()?;
        table.read_to_string(&mut now)?;
        if !mounts(&now).any(|(id, ours)| ours && !first.contains(id)) {
            // Nobody joins us from now on; those who wait for the lock make namespaces anew. Whoever
            // is here still finds out by the number whose it is.
            let ours = user::inode(Path::new("/proc/self/ns/user")).unwrap_or(0);
            return super::write_holder(dir, 0, ours);
        }
        flock(&lock, FlockOperation::Unlock)?;
        // Until the table changes after it was read.
        let mut fds = [PollFd::from_borrowed_fd(table.as_fd(), PollFlags::PRI)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
    }
}

/// The numbers of mounts, and whether each was made here: what came from the host follows that.
fn mounts(table: &str) -> impl Iterator<Item = (&str, bool)> {
    table.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let id = words.next()?;
        let mut tags = words.skip(5).take_while(|word| *word != "-");
        Some((id, !tags.any(|tag| tag.starts_with("master:"))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_host_are_not_ours() {
        let table =
            "1 0 0:1 / / rw master:1 - ext4 /dev/x rw\n2 1 0:2 / /a rw - tmpfs master:2 rw\n";
        let all: Vec<_> = mounts(table).collect();
        assert_eq!(all, [("1", false), ("2", true)]);
    }
}
