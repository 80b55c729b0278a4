//! An ordinary user's namespaces: one user namespace in which he is root and has his subordinate
//! ids, and one mount namespace, for all of his commands and containers.
//!
//! A process of its own holds them (`holder`) as long as somebody uses them: each command and
//! each shim has a shared lock on a file, and when the holder gets it exclusively, and nothing is
//! mounted, it ends. So nothing runs where nothing is used.

pub(crate) mod holder;
mod ids;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
    sync::OnceLock,
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxFlags, flock, statx},
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    config::Config,
    error::{Error, Kind, Result},
    runtime::shim_binary,
    user::{self, HOLDER},
};

/// The word that tells the shim's program to hold namespaces.
pub(crate) const HOLD: &str = "hold-namespaces";
/// Those who use the namespaces have it locked.
const USERS: &str = "users.lock";
/// Locked while namespaces are made.
const MAKING: &str = "making.lock";

/// Our lock, until this process ends.
static USING: OnceLock<File> = OnceLock::new();

/// In which namespaces a command works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// Whether they were made for it.
    pub new: bool,
    /// Whether the user's own id is the only one in them.
    pub alone: bool,
}

/// Brings this process, which must have one thread, into the namespaces of its user, which are made
/// if need be. `None` for root.
///
/// # Errors
/// If the kernel refuses, or a helper is missing.
pub fn enter(config: &Config) -> Result<Option<Entered>> {
    let Some(user) = user::ordinary() else {
        return Ok(None);
    };
    let dir = user::run_dir(user.uid, |name| std::env::var_os(name))?;
    let using = lock(&dir.join(USERS), FlockOperation::LockShared)?;
    let mut new = false;
    if !user.inside && !join(&dir)? {
        let _making = lock(&dir.join(MAKING), FlockOperation::LockExclusive)?;
        if !join(&dir)? {
            new = !rejoin(&dir, config)?;
            if new {
                make(&dir, config, user.uid)?;
            }
        }
    }
    // Once a process.
    let _ = USING.set(using);
    Ok(Some(Entered {
        new,
        alone: unlade_unpack::only_own_id(),
    }))
}

/// What an ordinary user has here, one line each; nothing for root.
pub fn notes() -> Vec<String> {
    if user::ordinary().is_none() {
        return Vec::new();
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let sizes = map.lines().filter_map(|l| l.split_whitespace().nth(2));
    let ids: u64 = sizes.filter_map(|n| n.parse::<u64>().ok()).sum();
    let ids = match USING.get() {
        None => "no namespaces: user namespaces are not allowed here".to_owned(),
        Some(_) if ids == 1 => {
            "ids: only your own; for more install uidmap and fill /etc/subuid and /etc/subgid"
                .to_owned()
        }
        Some(_) => format!("ids: {ids}, by newuidmap and newgidmap"),
    };
    vec![
        ids,
        "control groups: none, so no limits, stats or pause".to_owned(),
    ]
}

/// What keeps the namespaces for as long as it is open, in whatever process; `None` for root.
pub(crate) fn keep() -> Option<BorrowedFd<'static>> {
    USING.get().map(AsFd::as_fd)
}

/// As `keep`, for the program that this process becomes.
///
/// # Errors
/// Those of the host.
pub fn keep_on_exec() -> Result<()> {
    let Some(using) = USING.get() else {
        return Ok(());
    };
    rustix::io::fcntl_setfd(using, rustix::io::FdFlags::empty())
        .map_err(|e| Error::host("hand a lock on", e))
}

fn lock(path: &Path, how: FlockOperation) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(0o600).open(path);
    let locked = file.and_then(|file| {
        rustix::io::retry_on_intr(|| flock(&file, how))?;
        Ok(file)
    });
    locked.map_err(|e| Error::host(format!("lock `{}`", path.display()), e))
}

/// Joins the namespaces that are held; whether there are any.
fn join(dir: &Path) -> Result<bool> {
    let Some((pid, namespace)) = user::holder(dir) else {
        return Ok(false);
    };
    let Some(holder) = Other::find(pid) else {
        return Ok(false);
    };
    let Some(users) = open(&holder.namespace("user"))? else {
        return Ok(false);
    };
    // Another process may have its number now.
    let found = users.metadata();
    if found
        .map_err(|e| Error::host("look at a namespace", e))?
        .ino()
        != namespace
    {
        return Ok(false);
    }
    let mounts = open(&holder.namespace("mnt"))?;
    mounts.map_or(Ok(false), |mounts| join_both(&users, &mounts))
}

/// A process of which all that is looked up is its own, whoever has its number later.
struct Other {
    at: PathBuf,
    _dir: OwnedFd,
}

impl Other {
    fn find(pid: i32) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
        Some(Self {
            at: PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())),
            _dir: dir,
        })
    }

    fn uid(&self) -> Option<u32> {
        fs::metadata(&self.at).ok().map(|m| m.uid())
    }

    fn namespace(&self, kind: &str) -> PathBuf {
        self.at.join("ns").join(kind)
    }

    /// What it has open, and where that is found.
    fn files(&self) -> Option<Vec<(PathBuf, PathBuf)>> {
        let fds = fs::read_dir(self.at.join("fd")).ok()?.flatten();
        let to = |path: PathBuf| Some((fs::read_link(&path).ok()?, path));
        Some(fds.filter_map(|fd| to(fd.path())).collect())
    }
}

/// Opens a namespace; `None` if who was in it has gone.
fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
        Err(e) => Err(Error::host("open a namespace of yours", e)),
    }
}

fn join_both(users: &File, mounts: &File) -> Result<bool> {
    let here = std::env::current_dir();
    let entered = move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User))
        .and_then(|()| move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount)));
    entered.map_err(|e| Error::host("enter your namespaces", e))?;
    // A new mount namespace begins at its root.
    if let Ok(here) = here {
        let _ = std::env::set_current_dir(here);
    }
    Ok(true)
}

/// After the holder was killed: joins those who are still there, and starts another holder.
fn rejoin(dir: &Path, config: &Config) -> Result<bool> {
    let Some((other, mounts)) = member(&dir.join(USERS)) else {
        return Ok(false);
    };
    let (users, mounts) = (open(&other.namespace("user"))?, open(&mounts)?);
    let Some((users, mounts)) = users.zip(mounts) else {
        return Ok(false);
    };
    join_both(&users, &mounts)?;
    let (pid, mut child) = start(dir, config, "here")?;
    child.expect(b'r')?;
    record(dir, pid)?;
    Ok(true)
}

/// A process that has the lock open and is in a user namespace other than ours, and where the
/// mount namespace of all is found.
fn member(lock: &Path) -> Option<(Other, PathBuf)> {
    let lock = &lock.canonicalize().ok()?;
    let number = file_number(lock)?;
    let uid = rustix::process::geteuid().as_raw();
    let ours = user::inode(Path::new("/proc/self/ns/user"));
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let other = Other::find(pid).filter(|other| other.uid() == Some(uid))?;
        let theirs = user::inode(&other.namespace("user"))?;
        let files = other.files().filter(|_| Some(theirs) != ours)?;
        // In a container a file of its own can have the same path.
        let is_lock = |fd: &Path| file_number(fd) == Some(number);
        if !files.iter().any(|(to, fd)| to == lock && is_lock(fd)) {
            return None;
        }
        // A shim has mounts of its own, and a way back to those of all.
        let mut files = files.into_iter();
        let back = files.find(|(to, _)| to.to_string_lossy().starts_with("mnt:["));
        let mounts = back.map_or_else(|| other.namespace("mnt"), |(_, fd)| fd);
        Some((other, mounts))
    })
}

/// The device and the number of a file, without asking the server of a file system.
fn file_number(path: &Path) -> Option<(u32, u32, u64)> {
    let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
    Some((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino))
}

/// What the holder says while it begins.
struct Words {
    from: ChildStdout,
    to: Option<std::process::ChildStdin>,
}

impl Words {
    fn expect(&mut self, word: u8) -> Result<()> {
        let mut got = [0];
        match self.from.read_exact(&mut got) {
            Ok(()) if got[0] == word => Ok(()),
            _ => {
                let mut why = String::new();
                let _ = self.from.read_to_string(&mut why);
                let m = format!("your namespaces could not be made: {}", why.trim());
                Err(Error::new(Kind::Denied, m).with_hint(
                    "are user namespaces allowed here? See /proc/sys/user/max_user_namespaces, \
                     kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns",
                ))
            }
        }
    }

    fn say(&mut self, word: u8) -> Result<()> {
        let to = self.to.as_mut();
        to.map_or(Ok(()), |to| to.write_all(&[word]))
            .map_err(|e| Error::host("speak to the holder of your namespaces", e))
    }
}

fn start(dir: &Path, config: &Config, how: &str) -> Result<(u32, Words)> {
    let program = shim_binary(config)?;
    let mut child = Command::new(&program)
        .args([HOLD, how])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Error::host(format!("run `{}`", program.display()), e))?;
    let from = child.stdout.take();
    let from = from.ok_or_else(|| Error::new(Kind::Bug, "a pipe was not made"))?;
    let to = child.stdin.take();
    Ok((child.id(), Words { from, to }))
}

/// Makes new namespaces and joins them.
fn make(dir: &Path, config: &Config, uid: u32) -> Result<()> {
    let (pid, mut child) = start(dir, config, "new")?;
    child.expect(b'u')?;
    ids::map(pid, uid)?;
    child.say(b'm')?;
    child.expect(b'r')?;
    record(dir, pid)?;
    if join(dir)? {
        return Ok(());
    }
    Err(
        Error::new(Kind::Host, "the holder of your namespaces has ended")
            .with_hint("it may have been killed: try again"),
    )
}

/// Says who holds them.
fn record(dir: &Path, pid: u32) -> Result<()> {
    let failed = |e: io::Error| Error::host(format!("write `{}`", dir.join(HOLDER).display()), e);
    let namespace = fs::metadata(format!("/proc/{pid}/ns/user")).map_err(failed)?;
    write_holder(dir, pid, namespace.ino()).map_err(failed)
}

/// Writes the number of the process that holds the namespaces, 0 for none, and that of the user
/// namespace.
fn write_holder(dir: &Path, pid: u32, namespace: u64) -> io::Result<()> {
    let new = dir.join(format!("{HOLDER}.new"));
    fs::write(&new, format!("{pid} {namespace}\n"))?;
    fs::rename(&new, dir.join(HOLDER))
}
