//! Starting a container: its root is mounted, its network made, its spec assembled, and its shim
//! takes over.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{AtFlags, FileType, statat},
    io::Errno,
};
use unlade_graph::driver::{LayerId, MountOf};

use super::{
    Containers, Status,
    create::OTHER,
    list::path_and_args,
    now,
    place::{Locked, Place, failed, make_dir},
    record::{Record, Run, text},
    refusal::{Refusal, Wanted},
    root::clone_mount,
};
use crate::{
    error::{Error, Kind, Result},
    network::{self, Member},
    rootless,
    runtime::{Flavor, Runtime},
    shim::{Connection, Fds, Outcome, Shim, Size, Streams},
    spec::{self, Assembled, Files, Ns, Placement, RuntimeFacts, Shm, request::Request},
    volume::Resolved,
};

/// Inits that can be the first process of a container, in the order in which they are looked for.
const INITS: [&str; 6] = [
    "/usr/libexec/podman/catatonit",
    "/usr/bin/catatonit",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
    "/usr/bin/tini",
    "/usr/bin/tini-static",
];

/// How a container is to be started.
#[derive(Debug, Clone, Default)]
pub struct Begin {
    /// Streams that this process takes part in; `None` to leave it alone.
    pub foreground: Option<Streams>,
    /// Size of the terminal, where it gets one.
    pub size: Size,
    /// This process waits for its end and cleans up.
    pub cleans: bool,
    /// The command line that cleans up otherwise, without the id at its end.
    pub cleanup: Vec<String>,
}

/// What became of a start.
#[derive(Debug)]
pub enum Begun {
    /// It runs.
    Running(Connection),
    /// It ran already.
    Already,
    /// It could not be started.
    Refused(Refusal),
}

/// What was set up for a start.
pub(super) struct Ready {
    rootfs: OwnedFd,
    /// Keep published ports from other programs: the shim holds them as long as it runs.
    held: Vec<OwnedFd>,
    pub(super) resolved: Resolved,
    pub(super) runtime: Runtime,
    pub(super) cgroup: Option<String>,
}

impl Containers<'_> {
    /// Starts a container.
    ///
    /// # Errors
    /// If something that it needs cannot be had. What was set up is undone then.
    pub fn start(&self, record: &Record, begin: &Begin) -> Result<Begun> {
        let place = self.place(&record.id)?;
        let (locked, record) = self.hold(&record.id)?;
        let record = &record;
        let seen = self.seen(&record.id)?;
        match self.view(record)?.status {
            Status::Running | Status::Restarting => return Ok(Begun::Already),
            Status::Paused => {
                let m = "cannot start a paused container, try unpause instead";
                return Err(Error::new(Kind::Conflict, m)
                    .with_hint(format!("`unlade unpause {}`", record.name)));
            }
            Status::Removing => {
                let m = format!(
                    "container {} is marked for removal and cannot be started",
                    record.id
                );
                return Err(Error::new(Kind::Conflict, m).with_hint("make another one"));
            }
            Status::Dead => {
                let m = format!("container {} runs, but its shim was killed", record.id);
                return Err(Error::new(Kind::Conflict, m).with_hint(format!(
                    "`unlade rm -f {}`, or `unlade kill` it",
                    record.name
                )));
            }
            Status::Created | Status::Exited => {}
        }
        if seen.is_some() {
            // A run that nobody has cleaned up.
            self.end_run(record, &place)?;
            // The directory has gone, and the lock with it.
            drop(locked);
            return self.start(record, begin);
        }
        let done = self.begin(record, begin, &place, &locked);
        if !matches!(done, Ok(Begun::Running(_))) {
            self.undo(record, &place, &done);
        }
        drop::<Locked>(locked);
        done
    }

    fn begin(
        &self,
        record: &Record,
        begin: &Begin,
        place: &Place,
        locked: &Locked,
    ) -> Result<Begun> {
        let host = &record.request.host_config;
        let runtime = self.runtime(&host.runtime)?;
        // Joining another's /dev/shm needs a mount that the shim's namespace must have.
        let shm = self.shm(record, place)?;
        let shim = Shim::spawn(self.config)?;
        let (ready, spec) = self.ready(record, place, runtime, shm)?;
        write(&place.spec(), &spec.to_json()?)?;
        make_dir(&place.run.join("rootfs"))?;
        let launch = self.launch(record, begin, place, &ready)?;
        if !begin.cleans {
            let run = Run {
                boot: self.boot().to_owned(),
                started: Some(now()),
                ..Run::default()
            };
            self.store.set_container_run(&record.id, &text(&run)?)?;
        }
        let fds = Fds {
            rootfs: Some(ready.rootfs.as_fd()),
            lock: Some(locked.as_fd()),
            users: rootless::keep(),
            stdio: None,
            held: &ready.held,
        };
        if begin.foreground.is_some() {
            self.tell("attach", record, &[]);
        }
        let outcome = shim.start(&launch, &fds)?;
        match outcome {
            Outcome::Started(started) => {
                // Until the end of its run, restarts included.
                ready.resolved.staged.keep();
                Ok(Begun::Running(started.connection))
            }
            Outcome::Refused(refused) => {
                let config = &record.request.config;
                let (program, _) = path_and_args(config);
                let wanted = Wanted {
                    program: &program,
                    dir: &config.working_dir,
                };
                let refusal = Refusal::new(refused.exit_code, &refused.message, wanted);
                Ok(Begun::Refused(refusal))
            }
        }
    }

    /// Mounts and network, side by side; then what depends on both.
    fn ready(
        &self,
        record: &Record,
        place: &Place,
        runtime: Runtime,
        shm: Shm,
    ) -> Result<(Ready, Assembled)> {
        let request = &record.request;
        let other = match request.host_config.network_mode.strip_prefix(OTHER) {
            Some(name) => Some(self.other(record, name, "network")?),
            None => None,
        };
        let links = self.links(record)?;
        let who = Member {
            links: &links.hosts,
            ..record.member(other.as_ref().map(|(other, pid)| (&*other.id, *pid)))
        };
        let quick =
            matches!(&*request.host_config.network_mode, "none" | "host") || other.is_some();
        let facts = runtime_facts(&runtime);
        let root = || {
            let snapshot = Self::snapshot(&record.id)?;
            let rootfs = self.driver.mount(MountOf::Snapshot(&snapshot))?;
            plain_directories(rootfs.as_fd())?;
            let user = &request.config.user;
            let user = spec::user::resolve(rootfs.as_fd(), user, &request.host_config.group_add)?;
            let mounts = &record.facts.mounts;
            let resolved =
                self.volumes
                    .resolve(&record.id, mounts, rootfs.as_fd(), &facts, &self.layers())?;
            Ok::<_, Error>((rootfs, user, resolved))
        };
        let ((rootfs, user, resolved), attached) = if quick {
            (root()?, self.networks.attach(&who, request)?)
        } else {
            thread::scope(|scope| {
                let attach = scope.spawn(|| self.networks.attach(&who, request));
                let root = root();
                let attached = attach
                    .join()
                    .map_err(|_| Error::new(Kind::Bug, "the thread of the network panicked"))?;
                Ok::<_, Error>((root?, attached?))
            })?
        };
        let files = match &other {
            Some((other, _)) => their_files(&self.place(&other.id)?.run),
            None => network::files::write(&place.run, &who, request, &attached)?,
        };
        let requests = &request.host_config.device_requests;
        let cdi = spec::cdi::find(&self.config.cdi_spec_dirs, requests, &user)?;
        let host = self.host();
        let cgroup = cgroup(request, &record.id);
        let placement = Placement {
            id: record.id.clone(),
            name: record.name.clone(),
            hostname: request.config.hostname.clone(),
            rootfs: PathBuf::from("rootfs"),
            user,
            network: attached.ns.clone(),
            pid: self.joined(record, &request.host_config.pid_mode, "pid")?,
            ipc: self.joined(record, &request.host_config.ipc_mode, "ipc")?,
            uts: match &*request.host_config.uts_mode {
                "host" => Ns::Host,
                _ => Ns::New,
            },
            shm,
            files,
            linked_env: links.env,
            mounts: resolved.mounts.clone(),
            devices: spec::devices::find(request)?,
            cdi,
            disks: spec::blkio::find(&request.host_config)?,
            cgroup_path: cgroup.clone().unwrap_or_default(),
            init: init(request)?,
            runtime: facts,
            ..Placement::default()
        };
        self.volumes.tell_mounted(&record.id, &record.facts.mounts);
        let spec = spec::assemble(&record.facts.image, request, host, &placement)?;
        for warning in &spec.warnings {
            tracing::warn!("{warning}");
        }
        Ok((
            Ready {
                rootfs,
                held: attached.held,
                resolved,
                runtime,
                cgroup,
            },
            spec,
        ))
    }

    /// Mounts the merged tree of an image's layers.
    pub(super) fn layers(&self) -> impl Fn(&[String]) -> Result<OwnedFd> {
        |layers| {
            let id = |name: &String| {
                let m = || Error::new(Kind::Bug, format!("`{name}` is no name of a layer"));
                LayerId::parse(name).ok_or_else(m)
            };
            let layers: Vec<LayerId> = layers.iter().map(id).collect::<Result<_>>()?;
            Ok(self.driver.mount(MountOf::Layers(&layers))?)
        }
    }

    /// A namespace that is the host's, another container's, or a new one.
    fn joined(&self, record: &Record, mode: &str, kind: &str) -> Result<Ns> {
        match mode.strip_prefix(OTHER) {
            _ if mode == "host" => Ok(Ns::Host),
            Some(name) => {
                let what = kind.to_ascii_uppercase();
                let (other, pid) = self.other(record, name, &what)?;
                if kind == "ipc"
                    && !matches!(&*other.request.host_config.ipc_mode, "shareable" | "host")
                {
                    let m = format!(
                        "cannot join IPC of container {}: non-shareable IPC",
                        other.id
                    );
                    return Err(Error::new(Kind::Conflict, m)
                        .with_hint("make that one with --ipc shareable"));
                }
                Ok(Ns::Path(PathBuf::from(format!("/proc/{pid}/ns/{kind}"))))
            }
            None => Ok(Ns::New),
        }
    }

    /// What is at its `/dev/shm`. Another container's is looked up in that one's root, whose
    /// links lead nowhere else, and bound in our own directory: no path of it is used twice.
    fn shm(&self, record: &Record, place: &Place) -> Result<Shm> {
        let mode = &record.request.host_config.ipc_mode;
        match mode.strip_prefix(OTHER) {
            _ if mode == "host" => Ok(Shm::Path(PathBuf::from("/dev/shm"))),
            _ if mode == "none" => Ok(Shm::Absent),
            Some(name) => {
                let (_, pid) = self.other(record, name, "IPC")?;
                let at = place.run.join("shm");
                make_dir(&at)?;
                bind_shm(pid, &at)?;
                Ok(Shm::Path(at))
            }
            None => Ok(Shm::Own),
        }
    }

    /// Takes back what a start has set up that came to nothing.
    fn undo(&self, record: &Record, place: &Place, done: &Result<Begun>) {
        let (exit_code, error) = match done {
            Ok(Begun::Refused(refusal)) => (i32::from(refusal.exit_code), refusal.message.clone()),
            Ok(_) => return,
            Err(e) => (125, e.to_string()),
        };
        let run = Run {
            boot: self.boot().to_owned(),
            exit_code: Some(exit_code),
            error,
            ..record.run.clone().unwrap_or_default()
        };
        let undone = (|| {
            self.stop_remains(record, place)?;
            self.networks.detach(&record.id)?;
            place.remove_run()?;
            // One that is made and started in one go is removed by its maker.
            if record.stage == crate::store::Stage::Created {
                self.store.set_container_run(&record.id, &text(&run)?)?;
            }
            Ok::<_, Error>(())
        })();
        if let Err(e) = undone {
            tracing::warn!(error = %e, "what a failed start has left stays for the next command");
        }
    }
}

/// Writes a file that is nobody else's.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(failed("write", path))
}

/// The files of the container whose network is joined, as far as it has them.
fn their_files(run: &Path) -> Files {
    let there = |name: &str| Some(run.join(name)).filter(|p| p.exists());
    Files {
        hostname: there("hostname"),
        hosts: there("hosts"),
        resolv_conf: there("resolv.conf"),
    }
}

fn bind_shm(pid: i32, at: &Path) -> Result<()> {
    use rustix::{
        fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
        mount::{MoveMountFlags, move_mount},
    };
    let refused = |e: rustix::io::Errno| {
        Error::host(
            format!("join the /dev/shm of process {pid}"),
            std::io::Error::from(e),
        )
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()).map_err(refused)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let shm = openat2(&root, "dev/shm", flags, Mode::empty(), resolve).map_err(refused)?;
    let namespace = format!("/proc/{pid}/ns/mnt");
    let namespace = rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let tree = clone_mount(&shm, &namespace.map_err(refused)?)?;
    move_mount(&tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(refused)
}

/// Its control group as the spec has it; `None` for an ordinary user's, who may make none.
pub(super) fn cgroup(request: &Request, id: &str) -> Option<String> {
    cgroup_parent(request).map(|parent| format!("{parent}/{id}"))
}

/// The control group that its own is made in; ordinary users have none.
pub(super) fn cgroup_parent(request: &Request) -> Option<String> {
    if crate::user::ordinary().is_some() {
        return None;
    }
    Some(match &*request.host_config.cgroup_parent {
        "" => "/unlade".to_owned(),
        parent => format!("/{}", parent.trim_matches('/')),
    })
}

/// What the runtime can do, by its version.
pub(super) fn runtime_facts(runtime: &Runtime) -> RuntimeFacts {
    let mut numbers = runtime
        .version
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().ok());
    let mut next = || numbers.next().flatten().unwrap_or(0_u32);
    let version = (next(), next());
    match runtime.flavor {
        Flavor::Runc => RuntimeFacts {
            time_namespace: version >= (1, 2),
            recursive_read_only: version >= (1, 1),
            seccomp_program: false,
        },
        Flavor::Crun => RuntimeFacts {
            time_namespace: false,
            recursive_read_only: version >= (1, 4),
            seccomp_program: true,
        },
    }
}

pub(super) fn init(request: &Request) -> Result<Option<PathBuf>> {
    if request.host_config.init != Some(true) {
        return Ok(None);
    }
    let found = INITS.iter().map(PathBuf::from).find(|p| p.is_file());
    found.map(Some).ok_or_else(|| {
        Error::new(
            Kind::NotFound,
            "there is no init on this machine for --init",
        )
        .with_hint("install catatonit or tini")
    })
}

/// Where a runtime mounts and makes things for every container. Where one is a symbolic link,
/// a runtime may follow it on the host: runc 1.1.5 makes the links of `/dev` there
/// (CVE-2026-41579).
fn plain_directories(root: BorrowedFd<'_>) -> Result<()> {
    for name in ["dev", "proc", "sys"] {
        match statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            Err(Errno::NOENT) => {}
            Ok(_) => {
                let m = format!("/{name} of the container's root is not a directory");
                return Err(Error::new(Kind::BadInput, m).with_hint(
                    "no container of such an image is started: it would be set up on the host",
                ));
            }
            Err(e) => {
                return Err(Error::host(format!("look at /{name} of the root"), e));
            }
        }
    }
    Ok(())
}
