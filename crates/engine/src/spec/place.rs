//! What the engine has decided and made for one container before its spec is assembled.

use std::{collections::BTreeMap, path::PathBuf};

use oci_spec::runtime::Mount;
use serde::{Deserialize, Serialize};

use super::cdi::Edits;

/// What the engine has decided and made for one container. Nothing here comes from the image
/// unchecked: paths are the engine's own, and ids are resolved.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Placement {
    /// The container's id.
    pub id: String,
    /// The container's name, without a slash.
    pub name: String,
    /// Its host name; empty for the request's, and if that is empty too, for what
    /// [`super::hostname`] says.
    pub hostname: String,
    /// Where the runtime finds the root: absolute, or below the bundle (`rootfs`).
    pub rootfs: PathBuf,
    /// What its user is in its root; see [`super::user::resolve`].
    pub user: ResolvedUser,
    /// Its network namespace.
    pub network: Ns,
    /// Its namespace of processes.
    pub pid: Ns,
    /// Its namespace of System V IPC and message queues.
    pub ipc: Ns,
    /// Its namespace of host names.
    pub uts: Ns,
    /// Its namespace of control groups.
    pub cgroup: CgroupNs,
    /// What is at its `/dev/shm`.
    pub shm: Shm,
    /// Files that stand for those of its root unless the user has mounted something there.
    pub files: Files,
    /// Variables about the containers that it is linked to.
    pub linked_env: Vec<String>,
    /// Volumes, binds and tmpfs, as the volume module resolved them. Sorted and checked here.
    pub mounts: Vec<Mount>,
    /// Device nodes of the host that it gets; see [`super::devices::find`].
    pub devices: Vec<DeviceNode>,
    /// What its devices of CDI change; see [`super::cdi::find`].
    pub cdi: Edits,
    /// Major and minor numbers of the disks whose use is limited; see [`super::blkio::find`].
    pub disks: BTreeMap<String, (u32, u32)>,
    /// Path of its control group: `/unlade/ID`, or `slice:prefix:name` for systemd.
    pub cgroup_path: String,
    /// The init that becomes its first process, on the host.
    pub init: Option<PathBuf>,
    /// Identity mappings of its own user namespace; empty for none.
    pub uid_mappings: Vec<IdMapping>,
    /// See `uid_mappings`.
    pub gid_mappings: Vec<IdMapping>,
    /// What rules of the image may do where the request does not say.
    pub image_security: ImageSecurity,
    /// Two categories of SELinux that no other container has.
    pub selinux_categories: Option<(u16, u16)>,
    /// What the runtime can do.
    pub runtime: RuntimeFacts,
}

/// A namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ns {
    /// One of its own, made by the runtime.
    #[default]
    New,
    /// The host's.
    Host,
    /// An existing one: `/proc/PID/ns/…` or a bind of it.
    Path(PathBuf),
}

/// The namespace of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupNs {
    /// What the request says: by default one of its own with cgroup v2, the host's with v1.
    #[default]
    Auto,
    /// One of its own.
    New,
    /// The host's.
    Host,
}

/// What is at `/dev/shm`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shm {
    /// A tmpfs of its own.
    #[default]
    Own,
    /// A directory of the host: the host's `/dev/shm`, or another container's.
    Path(PathBuf),
    /// Nothing (`--ipc none`).
    Absent,
}

/// Files that the engine writes for a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Files {
    /// For `/etc/hostname`.
    pub hostname: Option<PathBuf>,
    /// For `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// For `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
}

/// Who a process is, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ResolvedUser {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups, with `gid` among them, sorted.
    pub additional_gids: Vec<u32>,
    /// Home directory; `/` if the root's `passwd` does not say.
    pub home: String,
}

/// A device node of the host and what a container may do with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DeviceNode {
    /// Where it is in the container.
    pub path: String,
    /// Whether it is a block device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Of `rwm`.
    pub access: String,
}

/// A range of ids of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdMapping {
    /// First id inside.
    pub container: u32,
    /// First id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// What the runtime can do beyond what every version that is accepted can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RuntimeFacts {
    /// Time namespaces: runc from 1.2.
    pub time_namespace: bool,
    /// Binds that are read-only all the way down (`rro`): runc from 1.1, crun from 1.4.
    pub recursive_read_only: bool,
    /// Compiled seccomp filters in an annotation: crun.
    pub seccomp_program: bool,
}

/// What rules that an image carries may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageSecurity {
    /// Take away from what the engine would give.
    #[default]
    Narrow,
    /// Stand in the place of the engine's own.
    Replace,
    /// Nothing.
    Ignore,
}
